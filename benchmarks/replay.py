"""How fast logs replay: the shipped drive inline and on Ray, a GoPro log inline and beside it its video decoded alone.

The four take turns, round after round, so that a machine that slows down slows them all.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from actors.deploy import RayRun
from actors.inline import InlineRun
from benchmarks.made_logs import DEMO_LOG, write_gopro_log
from benchmarks.measurement import Check, Outcome, Setting, Skipped, gopro_file, run_as_module
from pipeline.cli.planning import plan_replay
from pipeline.formats.decode import decoder_for
from pipeline.logs.reader import LogReader
from pipeline.messages import AnnouncementKind, Decision
from pipeline.sources.base import StreamInfo

TITLE = "Replay at full speed"
ROUNDS, QUICK_ROUNDS = 3, 1
GOPRO_S, QUICK_GOPRO_S = 60, 15
SETTLING_NS = 2_000_000_000


def measure(setting: Setting) -> Outcome:
    """Speeds as multiples of real time; the middle round counts."""
    turns: dict[str, Callable[[], dict[str, Any]]] = {
        "drive_inline": lambda: _replayed(DEMO_LOG, inline=True),
        "drive_on_ray": lambda: _replayed(DEMO_LOG, inline=False),
    }
    reason = None
    try:
        gopro_log = _gopro_log(setting)
        turns["gopro_inline"] = lambda: _replayed(gopro_log, inline=True)
        turns["gopro_decoding_alone"] = lambda: _decoded(gopro_log)
    except Skipped as skipped:
        reason = str(skipped)
    rounds: list[dict[str, Any]] = []
    count = QUICK_ROUNDS if setting.quick else ROUNDS
    for number in range(1, count + 1):
        for name, turn in turns.items():
            setting.say(f"round {number} of {count}: {name}")
            rounds.append({"round": number, "what": name, **turn()})
    return _outcome(rounds, reason)


def _outcome(rounds: list[dict[str, Any]], gopro_skipped: str | None) -> Outcome:
    def middle(what: str, column: str) -> float | None:
        values = [r[column] for r in rounds if r["what"] == what and r[column] is not None]
        return round(median(values), 3) if values else None

    gopro, decoding = middle("gopro_inline", "speed"), middle("gopro_decoding_alone", "speed")
    ratio = round(gopro / decoding, 3) if gopro and decoding else None
    running = middle("drive_on_ray", "running_speed")
    hashes = {r["sha256"] for r in rounds if r["what"].startswith("drive")}
    checks = (
        Check(what="shipped drive inline, whole", measured=middle("drive_inline", "speed"), comparison=">=", target=10, unit="x"),
        Check(what="shipped drive on Ray, start to last decision", measured=running, comparison=">=", target=6, unit="x"),
        Check(what="GoPro log inline over decoding alone", measured=ratio, comparison=">=", target=0.6),
        Check(what="different hashes of the shipped drive, inline and on Ray", measured=len(hashes), comparison="=", target=1),
        Check(what="shipped log", measured=round(DEMO_LOG.stat().st_size / 1e6, 3), comparison="<=", target=10, unit="MB"),
    )
    names = dict.fromkeys(r["what"] for r in rounds)
    speeds = {n: {c: middle(n, c) for c in ("speed", "running_speed", "steady_speed")} for n in names}
    summary = {"rounds": max(r["round"] for r in rounds), "speeds": speeds, "gopro_skipped": gopro_skipped}
    return Outcome(checks=checks, summary=summary, samples={"rounds": {c: [r[c] for r in rounds] for c in rounds[0]}})


def _gopro_log(setting: Setting) -> Path:
    setting.say("making the GoPro log")
    path = setting.scratch / "gopro.mcap"
    write_gopro_log(path, gopro_file(), QUICK_GOPRO_S if setting.quick else GOPRO_S)
    return path


def _replayed(log: Path, *, inline: bool) -> dict[str, Any]:
    """One replay. ``speed`` is over all of `run`; ``running_speed`` from its start signal to the last decision; ``steady_speed``
    leaves out the first two seconds of the log.
    """
    plan = plan_replay(log, [], "max").plan
    seen: list[tuple[int, int]] = []
    started: list[int] = []

    def took(batch: list[Decision]) -> None:
        seen.append((time.monotonic_ns(), batch[-1].reference_ns))

    def began(_origin_ns: int, _infos: dict[str, StreamInfo]) -> None:
        started.append(time.monotonic_ns())

    called_ns = time.monotonic_ns()
    summary = (InlineRun if inline else RayRun)(plan, on_decisions=took, on_start=began).run()
    ended_ns = time.monotonic_ns()
    span_ns = summary.last_reference_ns - summary.first_reference_ns
    steady = next((s for s in seen if s[1] >= summary.first_reference_ns + SETTLING_NS), None)
    last = seen[-1]
    return {
        "decisions": summary.decisions,
        "span_ns": span_ns,
        "whole_ns": ended_ns - called_ns,
        "running_ns": last[0] - started[0],
        "speed": span_ns / (ended_ns - called_ns),
        "running_speed": span_ns / (last[0] - started[0]),
        "steady_speed": (last[1] - steady[1]) / (last[0] - steady[0]) if steady and last[0] > steady[0] else None,
        "sha256": summary.sha256,
    }


def _decoded(log_path: Path) -> dict[str, Any]:
    """The camera's samples through the decoder that replay uses, and nothing else."""
    called_ns = time.monotonic_ns()
    log = LogReader(log_path)
    decoder = decoder_for(log.streams["camera"])
    first_ns = last_ns = frames = 0
    for recording in log.recordings("camera"):
        if recording.announcement.kind is AnnouncementKind.SAMPLE:
            decoder.decode(recording.chunks)
            last_ns = recording.announcement.header.capture_ns
            first_ns = first_ns or last_ns
            frames += 1
    took_ns = time.monotonic_ns() - called_ns
    return {
        "decisions": frames,
        "span_ns": last_ns - first_ns,
        "whole_ns": took_ns,
        "running_ns": took_ns,
        "speed": (last_ns - first_ns) / took_ns,
        "running_speed": (last_ns - first_ns) / took_ns,
        "steady_speed": None,
        "sha256": "",
    }


if __name__ == "__main__":
    run_as_module("replay", TITLE, measure)
