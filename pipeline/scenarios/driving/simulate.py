"""From a simulated drive to a log: every sensor's samples with their delays and dropouts, and the ground truth.

The log is as a recorder would have written it: frames as H.264, sound as PCM blocks, telemetry rows in blocks, lines of
text. The runtime cannot tell it from a recording but for the word *simulated* in its description.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from pipeline.config import Scenario
from pipeline.logs.writer import LogWriter
from pipeline.messages import FOREVER_NS
from pipeline.scenarios.driving.drive import ACTIONS, Drive
from pipeline.scenarios.driving.feeds import arrivals, telemetry, text_lines
from pipeline.scenarios.driving.scene import HEIGHT, WIDTH, Renderer
from pipeline.scenarios.driving.sound import pcm
from pipeline.scenarios.driving.world import sample_drive
from pipeline.scenarios.recording import (
    ORIGIN_NS,
    frame_packets,
    recordings,
    sound_packets,
    stream_infos,
    text_packets,
)
from pipeline.sources.base import Packet
from pipeline.sources.telemetry import packets_of_rows

CAMERA_HZ = 20
CAMERA_PERIOD_NS = 1_000_000_000 // CAMERA_HZ
ORIGIN = "simulated drive"


def simulate(
    path: Path, scenario: Scenario, *, seed: int, duration_s: float, on_progress: Callable[[float], None] | None = None
) -> None:
    """Write the simulated drive of ``seed`` to ``path``, whole or not at all. ``on_progress`` gets the seconds done.

    Needs the extra ``sim`` (panda3d, scipy). The same seed gives the same log on the same machine.
    """
    drive = sample_drive(seed, duration_s)
    late = arrivals(drive)
    infos = stream_infos(scenario, f"{ORIGIN}, seed {seed}", width=WIDTH, height=HEIGHT, camera_period_ns=CAMERA_PERIOD_NS)
    metadata = {
        "simulated": "true",
        "seed": str(seed),
        "duration_s": f"{duration_s:g}",
        "config_sha256": scenario.sha256,
        "creator": "chiasm simulate",
    }
    with (
        Renderer() as renderer,
        LogWriter(path, scenario=scenario.name, origin_ns=ORIGIN_NS, streams=infos, metadata=metadata, atomic=True) as log,
    ):
        frames = frame_packets(
            lambda index: renderer.frame(drive, index), drive.frame_times_s, late, rate_hz=CAMERA_HZ, on_progress=on_progress
        )
        streams = scenario.streams
        lanes = [
            recordings("camera", frames, late),
            recordings("microphone", sound_packets(pcm(drive), streams["microphone"].block_ms), late),
            recordings("telemetry", _rows(drive, streams["telemetry"].block_ms), late),
            recordings("text", text_packets(text_lines(drive)), late, heartbeats_until_ns=int(duration_s * 1e9)),
        ]
        truth_at = 0
        for recording in heapq.merge(*lanes, key=lambda r: r.announcement.header.receive_ns):
            receive_ns = recording.announcement.header.receive_ns
            truth_at = _write_truth(log, drive, truth_at, receive_ns)
            log.announcement(recording)
        _write_truth(log, drive, truth_at, FOREVER_NS)
        log.finish({"clean": "true"})


def _rows(drive: Drive, block_ms: int) -> Iterator[Packet]:
    times_s, values, valid = telemetry(drive)
    times_ns = np.round(np.asarray(times_s) * 1e9).astype(np.int64)
    yield from packets_of_rows(times_ns, values, valid, block_ns=block_ms * 1_000_000)


def _write_truth(log: LogWriter, drive: Drive, first: int, until_ns: int) -> int:
    """Write the truth of the frames captured before ``until_ns``; where to go on."""
    index = first
    while index < len(drive.frame_times_s) and ORIGIN_NS + index * CAMERA_PERIOD_NS <= until_ns:
        truth = {
            "emergency": int(drive.emergency[index]),
            "collision": int(drive.collision[index]),
            "action": ACTIONS[int(drive.action[index])],
        }
        log.truth(ORIGIN_NS + index * CAMERA_PERIOD_NS, truth)
        index += 1
    return index
