"""Live on Ray beside two processes that never sleep: no decision may be lost."""

from __future__ import annotations

from benchmarks.live import play
from benchmarks.measurement import Check, Outcome, Setting, run_as_module

TITLE = "Live on Ray beside busy processes"
FULL_S, QUICK_S = 60, 15
BUSY_PROCESSES = 2


def measure(setting: Setting) -> Outcome:
    """As `benchmarks.live`, with load."""
    played = play(setting, QUICK_S if setting.quick else FULL_S, busy_processes=BUSY_PROCESSES)
    summary = {"busy_processes": BUSY_PROCESSES, **played.summary()}
    checks = (
        Check(what="frames without a decision", measured=summary["frames_lost"], comparison="=", target=0),
        Check(what="reference to decision p50", measured=summary["latency_ms"]["p50"], comparison="<=", target=20.0, unit="ms"),
    )
    return Outcome(checks=checks, summary=summary, samples=played.samples())


if __name__ == "__main__":
    run_as_module("live-loaded", TITLE, measure)
