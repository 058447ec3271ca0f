"""From a simulated course at the bedside to a log: every sensor's samples with their delays and dropouts, and the truth.

Not a medical device; simulation.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pipeline.config import Scenario
from pipeline.logs.writer import LogWriter
from pipeline.messages import FOREVER_NS
from pipeline.scenarios.patient.biosignals import telemetry
from pipeline.scenarios.patient.course import GRID_HZ, HEADS, Course
from pipeline.scenarios.patient.feeds import arrivals, text_lines
from pipeline.scenarios.patient.scene import FRAME_RATE_HZ, HEIGHT, WIDTH, Renderer
from pipeline.scenarios.patient.sound import pcm
from pipeline.scenarios.patient.world import sample_course
from pipeline.scenarios.recording import (
    ORIGIN_NS,
    frame_packets,
    recordings,
    sound_packets,
    stream_infos,
    text_packets,
)
from pipeline.sources.telemetry import packets_of_rows

ORIGIN = "simulated course"
_PERIOD_NS = 1_000_000_000 // GRID_HZ


def simulate(
    path: Path, scenario: Scenario, *, seed: int, duration_s: float, on_progress: Callable[[float], None] | None = None
) -> None:
    """Write the simulated course of ``seed`` to ``path``, whole or not at all. ``on_progress`` gets the seconds done.

    Needs the extra ``sim`` (panda3d, scipy, neurokit2). The same seed gives the same log on the same machine.
    """
    course = sample_course(seed, duration_s)
    late = arrivals(course)
    streams = scenario.streams
    infos = stream_infos(
        scenario, f"{ORIGIN}, seed {seed}", width=WIDTH, height=HEIGHT, camera_period_ns=1_000_000_000 // FRAME_RATE_HZ
    )
    metadata = {
        "simulated": "true",
        "seed": str(seed),
        "duration_s": f"{duration_s:g}",
        "config_sha256": scenario.sha256,
        "creator": "chiasm simulate",
        "notices": scenario.notice,
    }
    times_s, values, valid = telemetry(course)
    rows = packets_of_rows(
        np.round(times_s * 1e9).astype(np.int64), values, valid, block_ns=streams["telemetry"].block_ms * 1_000_000
    )
    with (
        Renderer() as renderer,
        LogWriter(path, scenario=scenario.name, origin_ns=ORIGIN_NS, streams=infos, metadata=metadata, atomic=True) as log,
    ):
        frames = frame_packets(
            lambda index: renderer.frame(course, index), course.times_s, late, rate_hz=FRAME_RATE_HZ, on_progress=on_progress
        )
        lanes = [
            recordings("camera", frames, late),
            recordings("microphone", sound_packets(pcm(course), streams["microphone"].block_ms), late),
            recordings("telemetry", rows, late),
            recordings("text", text_packets(text_lines(course)), late, heartbeats_until_ns=int(duration_s * 1e9)),
        ]
        truth_at = 0
        for recording in heapq.merge(*lanes, key=lambda r: r.announcement.header.receive_ns):
            truth_at = _write_truth(log, course, truth_at, recording.announcement.header.receive_ns)
            log.announcement(recording)
        _write_truth(log, course, truth_at, FOREVER_NS)
        log.finish({"clean": "true"})


def _write_truth(log: LogWriter, course: Course, first: int, until_ns: int) -> int:
    """Write the truth of the steps before ``until_ns``; where to go on."""
    index = first
    while index < len(course.times_s) and ORIGIN_NS + index * _PERIOD_NS <= until_ns:
        truth: dict[str, int | str] = {head: int(getattr(course, head)[index]) for head in ("alarm", "apnea", "distress")}
        truth["action"] = HEADS["action"][int(course.action[index])]
        log.truth(ORIGIN_NS + index * _PERIOD_NS, truth)
        index += 1
    return index
