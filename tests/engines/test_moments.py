"""Training sees what the runtime would cut: moments, their labels, and cached ticks."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (extra `train`)")
pytest.importorskip("scipy", reason="scipy is not installed (extra `sim`)")

from engines.networks.design import SAMPLE_RATE_HZ  # noqa: E402
from engines.registry import WEIGHTS, open_engine  # noqa: E402
from engines.training.caching import CacheJob, Corruption, cache_tokens, tokens_of_run  # noqa: E402
from engines.training.driving_world import DrivingWorld  # noqa: E402
from engines.training.moments import STREAMS, Moment, cheap_columns, sound_windows, window_spec  # noqa: E402
from engines.training.worlds import SimulatedRun  # noqa: E402
from pipeline.messages import AudioBlock, Header, TelemetryBlock  # noqa: E402
from pipeline.windows import AudioRing, TelemetryRing, WindowSpec  # noqa: E402

BLOCK_NS = 50_000_000
WORLD = DrivingWorld()


def moment(now: int, **changes: float) -> Moment:
    """A reference time without delays."""
    fields = {
        "now": now,
        "frame": now,
        "camera_age_s": 0.0,
        "microphone_age_s": 0.0,
        "telemetry_age_s": 0.0,
        "frozen_telemetry_s": 0.0,
        "silent": False,
    }
    return Moment(**(fields | changes))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def run() -> SimulatedRun:
    """A short simulated drive."""
    return WORLD.run(8, 12.0, "dense")


def test_sound_windows_are_those_the_runtime_cuts(run: SimulatedRun) -> None:
    design = WORLD.design.microphone
    spec = WindowSpec(
        kind="audio",
        window_ns=design.window_ns,
        hop_ns=design.hop_ns,
        sample_rate_hz=SAMPLE_RATE_HZ,
        slack_ns=1_000_000_000 // SAMPLE_RATE_HZ,
    )
    ring, cut = AudioRing(spec, 0), {}
    per = BLOCK_NS * SAMPLE_RATE_HZ // 1_000_000_000
    for seq in range(len(run.pcm) // per):
        capture_ns = (seq + 1) * BLOCK_NS - 1_000_000_000 // SAMPLE_RATE_HZ
        header = Header(stream="microphone", seq=seq, capture_ns=capture_ns, receive_ns=capture_ns, span_ns=BLOCK_NS - 62_500)
        cut |= dict(ring.push(AudioBlock(header=header, pcm=run.pcm[seq * per : (seq + 1) * per])))
    for end_ns in (2_500_000_000, 6_000_000_000):
        window = next(sound_windows(WORLD, run, [moment(end_ns // BLOCK_NS)]))
        shift = [s for s in (-1, 0, 1) if np.array_equal(np.roll(cut[end_ns], s)[2:-2], window[2:-2])]
        assert shift, "the training window is not the runtime's, give or take one sample"


def test_telemetry_windows_are_those_the_runtime_cuts(run: SimulatedRun) -> None:
    ring, cut = TelemetryRing(window_spec(WORLD), 0), {}
    times_ns = np.round(run.row_times_s * 1e9).astype(np.int64)
    for seq, rows in enumerate(np.array_split(np.arange(len(times_ns)), len(times_ns) // 5)):
        last = int(times_ns[rows[-1]])
        header = Header(stream="telemetry", seq=seq, capture_ns=last, receive_ns=last, span_ns=last - int(times_ns[rows[0]]))
        block = TelemetryBlock(header=header, times_ns=times_ns[rows], values=run.row_values[rows], valid=run.row_valid[rows])
        cut |= {end: (v, ok) for end, v, ok in ring.push(block)}
    for end_ns in (2_500_000_000, 6_000_000_000):
        columns = cheap_columns(WORLD, run, [moment(end_ns // BLOCK_NS)])
        assert np.array_equal(columns["values"][0], cut[end_ns][0])
        assert np.array_equal(columns["valid"][0], cut[end_ns][1])


def test_labels_are_those_of_now_and_what_is_seen_that_of_the_delivered_frame(run: SimulatedRun) -> None:
    action, braking = run.labels["action"], run.clues["speed"]
    now = int(np.flatnonzero(np.diff(action))[0]) + 1
    columns = cheap_columns(WORLD, run, [moment(now, frame=now - 1, camera_age_s=0.05)])
    assert columns["label.action"][0] == action[now] != action[now - 1]
    assert columns["clue.speed"][0] == np.float32(braking[now])
    assert columns["age_s"][0][0] == np.float32(0.05)


@pytest.fixture(scope="module")
def engines() -> dict:
    """The shipped encoders."""
    pytest.importorskip("panda3d.core", reason="panda3d is not installed (extra `sim`)")
    runners = {stream: open_engine(WEIGHTS / "driving" / f"{stream}.json") for stream in STREAMS}
    for runner in runners.values():
        runner.activate()
    return runners


def test_a_cached_tick_holds_the_tokens_of_the_windows_that_end_there(engines: dict) -> None:
    world = DrivingWorld()
    with world.opened():
        found = tokens_of_run(world, engines, CacheJob(seeds=(3,), duration_s=8.0, tick_s=0.1, low_level=True), 3)
        run = world.run(3, 8.0, "dense")
    tick = 60
    end = tick * 1600
    wanted = engines["microphone"].infer({"pcm": run.pcm[end - 32000 : end]})["tokens"]
    assert found.state[tick].tolist()[:3] == [0, 0, 0] and found.age_s[tick, 1] == 0
    assert np.allclose(found.tokens["microphone"][tick], wanted, atol=2e-3 * np.abs(wanted).max())
    assert found.state[5].tolist()[1:3] == [2, 2]  # no full window of sound or rows yet
    assert all(len(found.low_level[s]) == len(found) for s in STREAMS)


def test_a_gap_leaves_older_tokens_until_they_are_too_old(engines: dict) -> None:
    from dataclasses import replace

    class Gapped(DrivingWorld):
        def run(self, seed: int, duration_s: float, condition: str, **_: bool) -> SimulatedRun:
            return replace(
                super().run(seed, duration_s, condition), gaps_s={"camera": ((5.0, 6.0),), "microphone": ((5.0, 5.2),)}
            )

    world = Gapped()
    with world.opened():
        found = tokens_of_run(world, engines, CacheJob(seeds=(3,), duration_s=9.0, tick_s=0.1), 3)
    camera, microphone = found.state[:, 0], found.state[:, 1]
    assert camera[49] == 0 and camera[51] == 2 and camera[60] == 0
    assert np.isclose(found.age_s[50, 0], 0.1)
    assert microphone[54] == 0 and microphone[56] == 2  # at most 0.5 s old
    assert microphone[70] == 2 and microphone[72] == 0  # a window needs its two seconds whole again


def test_noise_at_zero_decibels_changes_the_sound_alone(engines: dict) -> None:
    world = DrivingWorld()
    with world.opened():
        job = CacheJob(seeds=(3,), duration_s=6.0, tick_s=0.2)
        clean = tokens_of_run(world, engines, job, 3)
        noisy = tokens_of_run(world, engines, CacheJob(**{**_fields(job), "corruption": Corruption(snr_db=0.0)}), 3)
    assert np.array_equal(clean.tokens["camera"], noisy.tokens["camera"])
    assert not np.array_equal(clean.tokens["microphone"][20:], noisy.tokens["microphone"][20:])


def test_more_runs_are_cached_than_files_may_be_open(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    opened = len(os.listdir("/proc/self/fd"))
    job = CacheJob(seeds=tuple(range(400, 412)), duration_s=6.0, tick_s=0.5)
    resource.setrlimit(resource.RLIMIT_NOFILE, (opened + 150, hard))  # 12 runs lie in over 250 files
    try:
        cached = cache_tokens(DrivingWorld, WEIGHTS / "driving", [job], tmp_path / "many", 1)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert cached.seeds == job.seeds


def test_caching_is_the_same_for_any_number_of_processes_and_goes_on_where_it_stopped(engines: dict, tmp_path: Path) -> None:
    job = CacheJob(seeds=(3, 4, 5), duration_s=4.0, tick_s=0.2)
    done: list[float] = []
    one = cache_tokens(DrivingWorld, WEIGHTS / "driving", [job], tmp_path / "one", 1, done.append)
    two = cache_tokens(DrivingWorld, WEIGHTS / "driving", [job], tmp_path / "two", 2)
    assert done == [4.0, 4.0, 4.0]
    assert one.run.tolist() == np.repeat([0, 1, 2], 20).tolist() and one.seeds == (3, 4, 5)
    for stream in STREAMS:
        assert np.array_equal(one.tokens[stream], two.tokens[stream])
    assert {e.run for e in one.events} <= {0, 1, 2}


def _fields(job: CacheJob) -> dict:
    return {name: getattr(job, name) for name in job.__slots__}
