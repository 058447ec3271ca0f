"""From the start of the process to the first decision, against Ray with eight empty actors; the two take turns."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from statistics import median

from actors.deploy import OBJECT_STORE_BYTES
from benchmarks.environment import ROOT
from benchmarks.measurement import Check, Outcome, Setting, run_as_module

TITLE = "Start to the first decision"
ROUNDS, QUICK_ROUNDS = 3, 1
EMPTY_ACTORS = 8
RUN = [sys.executable, "-m", "pipeline.cli.main", "run", "driving", "--json"]
PATIENCE_S = 60.0


def measure(setting: Setting) -> Outcome:
    """The middle round counts."""
    cpus = max(2, os.cpu_count() or 2)  # as actors.deploy.start_ray asks for
    empty = [sys.executable, "-m", "benchmarks.empty_actors", str(EMPTY_ACTORS), str(cpus), str(OBJECT_STORE_BYTES)]
    rounds = QUICK_ROUNDS if setting.quick else ROUNDS
    ours_s, empty_s = [], []
    for number in range(1, rounds + 1):
        setting.say(f"round {number} of {rounds}")
        ours_s.append(_first_line_s(RUN))
        empty_s.append(_first_line_s(empty))
    beyond_s = [ours - theirs for ours, theirs in zip(ours_s, empty_s, strict=True)]
    check = Check(
        what="first decision after empty actors", measured=round(median(beyond_s), 3), comparison="<=", target=5, unit="s"
    )
    summary = {
        "rounds": rounds,
        "first_decision_s": round(median(ours_s), 3),
        "empty_actors_s": round(median(empty_s), 3),
        "difference_s": round(median(beyond_s), 3),
        "worst_difference_s": round(max(beyond_s), 3),
    }
    return Outcome(checks=(check,), summary=summary, samples={"rounds": {"first_decision_s": ours_s, "empty_actors_s": empty_s}})


def _first_line_s(command: list[str]) -> float:
    """From the start of the process to its first line on stdout; then it is stopped."""
    started = time.monotonic()
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        line = process.stdout.readline()
        took_s = time.monotonic() - started
        process.send_signal(signal.SIGTERM)
        try:
            _, complaint = process.communicate(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    if not line:
        raise RuntimeError(f"{' '.join(command)} printed nothing: {complaint.decode(errors='replace')[-500:]}")
    return took_s


if __name__ == "__main__":
    run_as_module("startup", TITLE, measure)
