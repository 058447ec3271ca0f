"""Memory: all processes of a live run on Ray together, and how a replay of a simulated hour grows."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.environment import ROOT
from benchmarks.live_process import deciding, source_arguments
from benchmarks.made_logs import DEMO_LOG, write_repeated_log
from benchmarks.measurement import Check, Outcome, Setting, run_as_module
from benchmarks.processes import family, pss_bytes

TITLE = "Memory"
SAMPLES, QUICK_SAMPLES = 20, 5
PASSES, QUICK_PASSES = 60, 5
"""Of the shipped drive, which is a minute long."""
SETTLED_S = 120.0
"""Growth is measured after so much of the log."""


def measure(setting: Setting) -> Outcome:
    """Both."""
    source, live = _live_run(setting, QUICK_SAMPLES if setting.quick else SAMPLES)
    sums = [sum(sample.values()) for sample in live]
    lines, length_s = _long_replay(setting, QUICK_PASSES if setting.quick else PASSES)
    event, wall = growth(lines, "event_s"), growth(lines, "wall_s")
    checks = (
        Check(
            what="PSS of all processes, live on Ray, largest",
            measured=round(max(sums) / 1e9, 3),
            comparison="<=",
            target=1.3,
            unit="GB",
        ),
        Check(what="growth a minute of the log, replayed inline", measured=event, comparison="<=", target=1, unit="MB/min"),
        Check(what="growth a minute of wall time, replayed inline", measured=wall, comparison="<=", target=1, unit="MB/min"),
    )
    summary = {
        "live_source": source,
        "live_processes": max(len(sample) for sample in live),
        "live_pss_gb": {"median": round(median(sums) / 1e9, 3), "max": round(max(sums) / 1e9, 3)},
        "live_pss_mb_by_process": {
            name: round(pss / 1e6, 1) for name, pss in sorted(live[-1].items(), key=lambda item: -item[1])
        },
        "replayed_log_s": length_s,
        "replayed_to_s": lines[-1]["event_s"],
        "replay_rss_mb": {"first": round(lines[0]["rss_bytes"] / 1e6, 1), "last": round(lines[-1]["rss_bytes"] / 1e6, 1)},
        "growth_mb_per_minute_of_log": event,
        "growth_mb_per_minute_of_wall_time": wall,
    }
    replay = {column: [line[column] for line in lines] for column in lines[0]}
    return Outcome(checks=checks, summary=summary, samples={"live": {"pss_bytes_by_process": live}, "replay": replay})


def growth(lines: list[dict[str, float]], against: str) -> float | None:
    """The slope of a straight line through resident memory after ``SETTLED_S`` of the log, MB a minute of ``against``; None for
    fewer than three samples. (Resident, not PSS: a lone process's PSS moves when others begin or end to share its libraries.)
    """
    settled = [line for line in lines if line["event_s"] >= SETTLED_S]
    if len(settled) < 3:
        return None
    minutes = np.array([line[against] for line in settled]) / 60
    slope, _ = np.polyfit(minutes, np.array([line["rss_bytes"] for line in settled]) / 1e6, 1)
    return round(float(slope), 4)


def _live_run(setting: Setting, samples: int) -> tuple[str, list[dict[str, int]]]:
    """Which source, and the PSS of each process of a live run, once a second after its first decision."""
    source, arguments = source_arguments()
    taken: list[dict[str, int]] = []
    with deciding(arguments, setting.scratch) as live:
        began = time.monotonic()
        for number in range(1, samples + 1):
            time.sleep(max(0.0, began + number - time.monotonic()))
            taken.append(pss_bytes(family(live.process.pid)))
            setting.say(f"live: sample {number} of {samples}, {sum(taken[-1].values()) / 1e9:.2f} GB")
    return source, taken


def _long_replay(setting: Setting, passes: int) -> tuple[list[dict[str, Any]], float]:
    """What the replaying process told of itself, and how long the log is."""
    path = Path(setting.scratch) / "long.mcap"
    pass_s = write_repeated_log(path, DEMO_LOG, passes, lambda k: setting.say(f"making the long log: minute {k} of {passes}"))
    lines = []
    command = [sys.executable, "-m", "benchmarks.replaying", str(path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for text in process.stdout:
            lines.append(json.loads(text))
            setting.say(f"replay: {lines[-1]['event_s']:.0f} of {passes * pass_s:.0f} s, {lines[-1]['rss_bytes'] / 1e6:.0f} MB")
    if process.returncode or not lines:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
    return lines, passes * pass_s


if __name__ == "__main__":
    run_as_module("memory", TITLE, measure)
