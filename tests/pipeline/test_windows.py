"""Windows are a pure function of stamps and samples, however the samples are cut into blocks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.messages import AudioBlock, Header, TelemetryBlock
from pipeline.windows import AudioRing, TelemetryRing, WindowGrid, WindowSpec, sample_and_hold

MS = 1_000_000
RATE = 16_000
TICK = 1_000_000_000 // RATE  # 62 500 ns
SOUND = WindowSpec(kind="audio", window_ns=100 * MS, hop_ns=50 * MS, sample_rate_hz=RATE, slack_ns=TICK)
ROWS = WindowSpec(
    kind="telemetry", window_ns=100 * MS, hop_ns=50 * MS, gap_ns=40 * MS, slack_ns=12 * MS, step_ns=20 * MS, hold_ns=30 * MS
)


def header(seq: int, capture_ns: int, span_ns: int = 0, stream: str = "microphone", epoch: int = 0) -> Header:
    return Header(stream=stream, epoch=epoch, seq=seq, capture_ns=capture_ns, receive_ns=capture_ns, span_ns=span_ns)


def sound(count: int) -> np.ndarray:
    return (np.arange(count) % 30_011).astype(np.int16)


def windows_of(pcm: np.ndarray, cuts: list[int], start_ns: int, origin_ns: int = 0) -> dict[int, np.ndarray]:
    """Push sample ``i``, taken at ``start + i * tick``, in blocks that end before each of ``cuts``."""
    ring, found, begin = AudioRing(SOUND, origin_ns), {}, 0
    for seq, end in enumerate([*cuts, len(pcm)]):
        block = pcm[begin:end]
        head = header(seq, start_ns + (end - 1) * TICK, (len(block) - 1) * TICK)
        for window_end_ns, window in ring.push(AudioBlock(header=head, pcm=block)):
            assert window_end_ns not in found
            found[window_end_ns] = window
        begin = end
    return found


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(1, 7999), unique=True, max_size=12).map(sorted),
    st.integers(0, 3 * TICK),
    st.integers(0, 10**9),
)
@example(cuts=[4000], offset_ns=0, origin_ns=0)  # a sample lies on the window's very end, the first of the next block
def test_sound_windows_are_the_same_however_the_sound_is_cut_into_blocks(cuts: list[int], offset_ns: int, origin_ns: int):
    pcm = sound(8000)  # half a second
    start_ns = origin_ns + offset_ns
    whole = windows_of(pcm, [], start_ns, origin_ns)
    cut = windows_of(pcm, cuts, start_ns, origin_ns)
    assert list(cut) == list(whole)
    assert len(whole) >= 8
    for end_ns, window in whole.items():
        assert (end_ns - origin_ns) % SOUND.hop_ns == 0
        np.testing.assert_array_equal(cut[end_ns], window)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 3 * TICK), st.integers(0, 10**9))
def test_sound_window_holds_the_samples_up_to_its_end(offset_ns: int, origin_ns: int):
    pcm = sound(8000)
    for end_ns, window in windows_of(pcm, [1000, 2500], origin_ns + offset_ns, origin_ns).items():
        assert window.shape == (1600,) and window.dtype == np.int16
        last = (end_ns - origin_ns - offset_ns - 1) // TICK  # the newest sample before the end
        assert window[-1] == pcm[min(last, 7999)]
        np.testing.assert_array_equal(np.diff(window), 1)


def test_sound_after_a_hole_needs_a_whole_window_again_and_mixes_nothing_in():
    ring = AudioRing(SOUND, 0)
    block = 800
    for seq in range(3):
        ring.push(AudioBlock(header=header(seq, (seq + 1) * 50 * MS - TICK, 50 * MS - TICK), pcm=np.full(block, 1, np.int16)))
    first = AudioBlock(header=header(4, 250 * MS - TICK, 50 * MS - TICK), pcm=np.full(block, 2, np.int16))
    assert ring.push(first) == []  # seq 3 is missing
    second = AudioBlock(header=header(5, 300 * MS - TICK, 50 * MS - TICK), pcm=np.full(block, 2, np.int16))
    ((end_ns, window),) = ring.push(second)
    assert end_ns == 300 * MS
    assert set(window.tolist()) == {2}


@pytest.mark.parametrize(
    ("capture_ms", "seq", "epoch", "breaks"),
    [(60, 1, 0, False), (80.1, 1, 0, True), (60, 2, 0, True), (60, 1, 1, True), (60, 0, 0, True)],
)
def test_windows_break_on_a_hole_in_time_a_missing_seq_and_a_new_epoch(capture_ms, seq, epoch, breaks):
    spec = WindowSpec(kind="telemetry", window_ns=20 * MS, hop_ns=10 * MS, gap_ns=20 * MS)
    grid = WindowGrid(spec, 0)
    grid.push(header(0, 50 * MS, 10 * MS))
    capture_ns = round(capture_ms * MS)
    ends = grid.push(header(seq, capture_ns, 10 * MS, epoch=epoch))
    assert grid.covered_from_ns == (capture_ns - 10 * MS if breaks else 40 * MS)
    assert ends == ([] if breaks else [60 * MS])


@settings(max_examples=50, deadline=None)
@given(st.integers(-(10**12), 10**12), st.integers(0, 10**10), st.lists(st.integers(1, 40), min_size=1, max_size=30))
def test_grid_ends_are_hops_from_the_origin_each_once_and_rising(origin_ns: int, start_ns: int, steps_ms: list[int]):
    spec = WindowSpec(kind="telemetry", window_ns=60 * MS, hop_ns=20 * MS, gap_ns=25 * MS, slack_ns=3 * MS)
    grid, ends, capture_ns = WindowGrid(spec, origin_ns), [], start_ns
    for seq, step_ms in enumerate(steps_ms):
        capture_ns += step_ms * MS
        new = grid.push(header(seq, capture_ns))
        assert all(capture_ns - spec.hop_ns < end + 40 * MS and end <= capture_ns + spec.slack_ns for end in new)
        assert all(end - spec.window_ns >= grid.covered_from_ns for end in new)
        ends += new
    assert ends == sorted(set(ends))
    assert all((end - origin_ns) % spec.hop_ns == 0 for end in ends)


def test_every_sample_is_a_window_of_its_own_without_a_hop():
    grid = WindowGrid(WindowSpec(kind="sample"), 0)
    assert [grid.push(header(seq, at)) for seq, at in ((0, 5), (3, 7), (4, 10**12))] == [[5], [7], [10**12]]


def test_grid_without_a_hop_is_refused_for_sound():
    with pytest.raises(ValueError, match="audio window needs window_ns > 0 and hop_ns > 0"):
        WindowSpec(kind="audio", window_ns=5)


def telemetry(times_ns: list[int], seq: int, values: np.ndarray, valid: np.ndarray) -> TelemetryBlock:
    times = np.array(times_ns, dtype=np.int64)
    head = header(seq, times_ns[-1], times_ns[-1] - times_ns[0], "telemetry")
    return TelemetryBlock(header=head, times_ns=times, values=values, valid=valid)


@st.composite
def row_tables(draw: st.DrawFn) -> tuple[list[int], np.ndarray, np.ndarray]:
    gaps_ms = draw(st.lists(st.integers(1, 35), min_size=1, max_size=25))
    times = [int(t) * MS for t in np.cumsum(gaps_ms)]
    valid = np.array(draw(st.lists(st.booleans(), min_size=2 * len(times), max_size=2 * len(times)))).reshape(-1, 2)
    values = np.where(valid, np.arange(valid.size).reshape(-1, 2) + 1, 0).astype(np.float32)
    return times, values, valid


@settings(max_examples=60, deadline=None)
@given(row_tables(), st.integers(0, 900))
def test_sample_and_hold_is_what_a_slow_loop_gives(table, end_ms: int):
    times, values, valid = table
    got, held = sample_and_hold(np.array(times, dtype=np.int64), values, valid, end_ns=end_ms * MS, spec=ROWS)
    assert got.shape == held.shape == (5, 2) and got.dtype == held.dtype == np.float32
    for point in range(5):
        at_ns = end_ms * MS - (4 - point) * ROWS.step_ns
        for channel in range(2):
            rows = [r for r, t in enumerate(times) if t <= at_ns and valid[r, channel]]
            fresh = bool(rows) and at_ns - times[rows[-1]] <= ROWS.hold_ns
            assert held[point, channel] == fresh
            assert got[point, channel] == (values[rows[-1], channel] if fresh else 0)


@settings(max_examples=200, deadline=None)
@given(row_tables(), st.sets(st.integers(1, 24)))
def test_telemetry_windows_are_the_same_however_rows_are_cut_into_blocks(table, cuts: set[int]):
    times, values, valid = table

    def windows(ends: list[int]) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        ring, found, begin = TelemetryRing(ROWS, 0), {}, 0
        for seq, end in enumerate(ends):
            block = telemetry(times[begin:end], seq, values[begin:end], valid[begin:end])
            found |= {end_ns: (v, ok) for end_ns, v, ok in ring.push(block)}
            begin = end
        return found

    blocks = windows([*sorted(c for c in cuts if c < len(times)), len(times)])
    for end_ns, (value, held) in windows(list(range(1, len(times) + 1))).items():
        # A row less than the slack before the end completes its window at once; a second one there would come too late for it.
        if end_ns <= times[-1] and sum(end_ns - ROWS.slack_ns <= t <= end_ns for t in times) <= 1:
            assert end_ns in blocks
            np.testing.assert_array_equal(blocks[end_ns][0], value)
            np.testing.assert_array_equal(blocks[end_ns][1], held)


def test_a_long_block_completes_its_first_windows_with_rows_of_older_blocks():
    ring = TelemetryRing(ROWS, 0)
    first, rest = [t * 10 * MS for t in range(5)], [t * 10 * MS for t in range(5, 40)]
    ring.push(telemetry(first, 0, np.full((5, 1), 7, np.float32), np.ones((5, 1), np.bool_)))
    windows = ring.push(telemetry(rest, 1, np.full((35, 1), 9, np.float32), np.ones((35, 1), np.bool_)))
    end_ns, values, held = windows[0]
    assert (end_ns, values[:, 0].tolist(), held.all()) == (100 * MS, [7, 7, 9, 9, 9], True)


def test_telemetry_ring_keeps_no_view_of_what_a_link_lent():
    ring = TelemetryRing(ROWS, 0)
    values, valid = np.ones((6, 1), dtype=np.float32), np.ones((6, 1), dtype=np.bool_)
    ring.push(telemetry([t * 20 * MS for t in range(3)], 0, values[:3], valid[:3]))
    values[:3] = 99
    ((_end_ns, got, _held),) = ring.push(telemetry([t * 20 * MS for t in range(3, 6)], 1, values[3:], valid[3:]))
    assert got.max() == 1
