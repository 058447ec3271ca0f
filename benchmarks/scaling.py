"""How many cameras, and how many patients, one machine carries: twice as many each time until more than 0.1% of deadlines are
missed.

Each is a run of its own in a process of its own, inline, and begins at a time of its own. Cost is CPU time; what one costs among
many is held against one alone.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.environment import ROOT
from benchmarks.made_logs import DEMO_LOG
from benchmarks.measurement import Check, Outcome, Setting, percentiles, run_as_module
from benchmarks.peers.rendezvous import all_ready, set_origin
from benchmarks.plots import draw_growth
from benchmarks.scaling_run import SETTLE_S

TITLE = "Many cameras, many patients on one machine"
COUNTS, QUICK_COUNTS = (1, 2, 4, 8, 16), (1, 2)
SECONDS, QUICK_SECONDS = 10.0, 6.0
WORLDS = {
    "cameras": ("driving", (f"camera=log:{DEMO_LOG}",)),
    "patients": ("patient", ()),
}
"""The scenario and the sources of each; none: all streams of the scenario's own log."""
BROKEN = 0.001
LINEAR_TO = 8
LINEAR = 1.0
SLACK_S = 60.0


def measure(setting: Setting) -> Outcome:
    """Cameras, then patients."""
    counts, seconds = (QUICK_COUNTS, QUICK_SECONDS) if setting.quick else (COUNTS, SECONDS)
    checks: list[Check] = []
    summary: dict[str, Any] = {}
    samples: dict[str, dict[str, Any]] = {}
    growth: dict[str, tuple[list[int], list[float]]] = {}
    for world, (scenario, sources) in WORLDS.items():
        costs: dict[int, float] = {}
        carried = 0
        for count in counts:
            setting.say(f"{count} {world}", counts.index(count) / len(counts))
            found = play_together(setting.scratch / f"{world}{count}", scenario, sources, count, seconds)
            latency = np.array([ns for one in found for ns in one["latency_ns"]])
            missed = sum(one["missed"] for one in found) / max(len(latency), 1)
            costs[count] = sum(one["cpu_s"] for one in found) / (seconds - SETTLE_S)
            samples[f"{count} {world}"] = {"latency_us": latency // 1000}
            summary[f"{count} {world}"] = {
                **percentiles(latency, 1e6, 2), "missed": round(missed, 5), "cores": round(costs[count], 3),
                "cores each": round(costs[count] / count, 4),
            }  # fmt: skip
            if missed > BROKEN:
                break
            carried = count
        last = max(n for n in costs if n <= LINEAR_TO)
        grows = costs[last] / last / costs[1]
        summary[f"{world}: most without more than {BROKEN:.1%} missed"] = carried
        summary[f"{world}: cost of each among {last} / of one alone"] = round(grows, 3)
        checks.append(
            Check(what=f"{world}: cost of each among {last} / alone", measured=round(grows, 3), comparison="<=", target=LINEAR)
        )
        growth[world] = (list(costs), list(costs.values()))
    draw = partial(draw_growth, lines=growth, x="runs at once", y="cores' worth of CPU time", title=TITLE)
    return Outcome(checks=checks, summary=summary, samples=samples, draw=draw)


def play_together(folder: Path, scenario: str, sources: tuple[str, ...], count: int, seconds: float) -> list[dict[str, Any]]:
    """So many runs that begin at once; what each found. Raises RuntimeError with the words of one that broke."""
    folder.mkdir()
    names = tuple(f"run{k}" for k in range(count))
    command = [sys.executable, "-m", "benchmarks.scaling_run", scenario, ",".join(sources), str(seconds), str(folder)]
    runs = {}
    try:
        for name in names:
            with open(folder / f"{name}.txt", "wb") as said:
                runs[name] = subprocess.Popen([*command, name], cwd=ROOT, stdout=said, stderr=said)
        until = time.monotonic() + SLACK_S
        while not all_ready(folder, names) and time.monotonic() < until:
            time.sleep(0.05)
        if not all_ready(folder, names):
            raise RuntimeError(f"of {count} runs some were not ready within {SLACK_S:g} s; what they said is in {folder}")
        set_origin(folder, time.monotonic_ns())
        for name, run in runs.items():
            if run.wait(seconds + SLACK_S):
                raise RuntimeError(f"{name} of {count}: {(folder / f'{name}.txt').read_text(errors='replace')[-400:]}")
    finally:
        for run in runs.values():
            run.kill()
            run.wait()
    return [json.loads((folder / f"{name}.json").read_text()) for name in names]


if __name__ == "__main__":
    run_as_module("scaling", TITLE, measure)
