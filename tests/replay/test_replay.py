"""Event-time replay gives the same hash every time, however it is paced, and another one when one input sample changes."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import numpy as np
import pytest

from actors.inline import InlineRun
from actors.plan import RunPlan
from pipeline.config import load_scenario, scenario_folder
from pipeline.logs.reader import LogReader
from pipeline.logs.writer import LogWriter
from pipeline.messages import Announcement, AnnouncementKind, Header, Recording
from pipeline.sources.base import Encoding, StreamInfo
from pipeline.stages.sink import RunSummary

MS = 1_000_000
ORIGIN = 10_000 * MS
RUN_MS = 4000
CHANNELS = 8


def infos() -> list[StreamInfo]:
    folder = scenario_folder("driving")
    needs = load_scenario(folder).needs()
    channels = needs["telemetry"].channels
    return [
        StreamInfo(
            stream="camera", kind="camera", encoding=Encoding(codec="rgb8", width=16, height=16),
            period_ns=50 * MS, min_gap_ns=0,
        ),
        StreamInfo(
            stream="microphone", kind="microphone", encoding=Encoding(codec="pcm-s16", sample_rate_hz=16_000),
            period_ns=50 * MS, min_gap_ns=0,
        ),
        StreamInfo(
            stream="telemetry", kind="telemetry", period_ns=50 * MS, min_gap_ns=0,
            encoding=Encoding(
                codec="telemetry-json", channels=tuple(c.name for c in channels), units=tuple(c.unit for c in channels)
            ),
        ),
        StreamInfo(stream="text", kind="text", encoding=Encoding(codec="text"), period_ns=0, min_gap_ns=0),
    ]  # fmt: skip


def content() -> dict[str, list[tuple[int, int, list[bytes]]]]:
    """Stream to (capture ms, span ns, chunks)."""
    rng = np.random.default_rng(7)
    made: dict[str, list[tuple[int, int, list[bytes]]]] = {"camera": [], "microphone": [], "telemetry": [], "text": []}
    for at in range(50, RUN_MS + 1, 50):
        made["camera"].append((at, 0, [rng.integers(0, 256, (16, 16, 3), dtype=np.uint8).tobytes()]))
        made["microphone"].append((at, 50 * MS - 62_500, [rng.integers(-9000, 9000, 800).astype("<i2").tobytes()]))
        rows = rng.normal(size=(5, CHANNELS)).round(3).tolist()
        block = {"offsets_ns": [o * 10 * MS for o in (4, 3, 2, 1, 0)], "values": rows}
        made["telemetry"].append((at, 40 * MS, [json.dumps(block).encode()]))
    made["text"] = [(420, 0, [b"emergency vehicle behind"]), (1900, 0, [b"road clear"])]
    return made


def write_log(path: Path, streams: dict[str, list[tuple[int, int, list[bytes]]]], end: bool = True) -> Path:
    recordings = []
    for stream, samples in streams.items():
        for seq, (at, span_ns, chunks) in enumerate(samples):
            capture_ns = ORIGIN + at * MS
            late_ms = 1 + (seq * 7) % 15 if stream == "telemetry" else 1
            header = Header(stream=stream, seq=seq, capture_ns=capture_ns, receive_ns=capture_ns + late_ms * MS, span_ns=span_ns)
            recordings.append(Recording(announcement=Announcement(header=header), chunks=tuple(chunks)))
        over = Header(stream=stream, seq=len(samples), capture_ns=ORIGIN + 4500 * MS, receive_ns=ORIGIN + 4500 * MS)
        recordings.append(Recording(announcement=Announcement(header=over, kind=AnnouncementKind.END)))
    recordings.sort(key=lambda r: r.announcement.header.receive_ns)
    with LogWriter(path, scenario="driving", origin_ns=ORIGIN, streams=infos(), metadata={}) as writer:
        for recording in recordings:
            writer.announcement(recording)
        if end:
            writer.finish({"last_reference_ns": str(ORIGIN + RUN_MS * MS)})
    return path


def replay(path: Path, *overrides: str) -> RunSummary:
    """Inline, as fast as can be; a run that hangs is stopped and fails."""
    folder = scenario_folder("driving")
    log = LogReader(path)
    plan = RunPlan(
        scenario=load_scenario(folder, list(overrides)),
        folder=folder,
        sources={stream: None for stream in log.streams},  # type: ignore[misc]
        replay_log=path,
        stop_after_ns=int(log.end["last_reference_ns"]) if log.end else None,
    )
    run = InlineRun(plan)
    hung = threading.Event()
    timer = threading.Timer(40, lambda: (hung.set(), run.stop()))
    timer.daemon = True
    timer.start()
    try:
        summary = run.run()
    finally:
        timer.cancel()
    assert not hung.is_set(), "the replay hung"
    return summary


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunSummary]:
    path = write_log(tmp_path_factory.mktemp("replay") / "golden.mcap", content())
    return path, replay(path)


def test_replay_decides_at_every_reference_sample(golden):
    _, summary = golden
    assert summary.decisions == RUN_MS // 50
    assert (summary.missed, summary.dropped, summary.synthetic, summary.overruns) == (0, 0, 0, 0)
    assert summary.availability["microphone"]["present"] > 20 and summary.availability["text"]["present"] > 20


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("runtime.frames_in_flight=1",),
        ("runtime.horizon_ms=200",),
        ("runtime.frames_in_flight=3", "runtime.horizon_ms=500"),
    ],
)
def test_replay_gives_the_same_hash_however_it_is_paced(golden, overrides: tuple[str, ...]):
    path, summary = golden
    assert replay(path, *overrides).sha256 == summary.sha256


def change_pixel(streams):
    raw = bytearray(streams["camera"][20][2][0])
    raw[100] ^= 0x80
    streams["camera"][20][2][0] = bytes(raw)


def change_sound(streams):
    pcm = np.frombuffer(streams["microphone"][30][2][0], dtype="<i2").copy()
    pcm[123] += 2000
    streams["microphone"][30][2][0] = pcm.tobytes()


def change_telemetry(streams):
    block = json.loads(streams["telemetry"][25][2][0])
    block["values"][-1][0] += 1.0
    streams["telemetry"][25][2][0] = json.dumps(block).encode()


def change_text(streams):
    streams["text"][0][2][0] = b"emergency vehicle ahead!"


@pytest.mark.parametrize("change", [change_pixel, change_sound, change_telemetry, change_text])
def test_one_changed_input_sample_changes_the_hash(golden, tmp_path: Path, change):
    _, summary = golden
    streams = content()
    change(streams)
    changed = replay(write_log(tmp_path / "changed.mcap", streams))
    assert changed.decisions == summary.decisions
    assert changed.sha256 != summary.sha256


def test_log_that_was_never_finished_replays_to_its_end(golden, tmp_path: Path):
    _, summary = golden
    cut = replay(write_log(tmp_path / "cut.mcap", content(), end=False))
    assert cut.decisions >= summary.decisions
    assert cut.sha256 == replay(tmp_path / "cut.mcap", "runtime.frames_in_flight=2").sha256


def break_sound(streams):
    streams["microphone"][30][2][0] = b"odd"


def break_telemetry(streams):
    streams["telemetry"][30][2][0] = b"{not json"


def break_the_last_frame(streams):
    streams["camera"][-1][2][0] = b"short"


def break_text(streams):
    streams["text"][0][2][0] = b"\xff\xfe"


@pytest.mark.parametrize("change", [break_sound, break_telemetry, break_the_last_frame, break_text])
def test_an_undecodable_sample_is_counted_and_holds_nothing_up(golden, tmp_path: Path, change):
    _, summary = golden
    streams = content()
    change(streams)
    path = write_log(tmp_path / "broken.mcap", streams)
    broken = replay(path)
    assert broken.decisions == summary.decisions
    assert sum(n for (_, reason), n in broken.drops.items() if reason == "undecodable") == 1
    assert not broken.clean
    assert replay(path, "runtime.frames_in_flight=2").sha256 == broken.sha256


def test_a_camera_that_starts_after_the_horizon_holds_nothing_up(tmp_path: Path):
    streams = content()
    streams["camera"] = [sample for sample in streams["camera"] if sample[0] > 2500]
    late = replay(write_log(tmp_path / "late.mcap", streams))
    assert late.decisions == len(streams["camera"])


def test_a_horizon_below_the_reference_period_is_raised_to_what_admission_needs(golden):
    path, summary = golden
    assert replay(path, "runtime.horizon_ms=20").sha256 == summary.sha256
