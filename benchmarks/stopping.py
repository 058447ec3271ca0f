"""Ctrl-C and SIGTERM: how soon decisions end, the log is closed and every process is gone, and what is left behind."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from actors.deploy import RUNS
from benchmarks.live_process import deciding, source_arguments
from benchmarks.measurement import Check, Outcome, Setting, run_as_module
from benchmarks.processes import alive, family
from pipeline.decision_json import decision_from_json
from pipeline.logs.reader import LogError, LogReader

TITLE = "Stopping a recorded run on Ray"
ROUNDS, QUICK_ROUNDS = 3, 1
PLAYED_S = 4.0
"""After the first decision, the signal."""
GONE_WITHIN_S = 10.0
LOOK_EVERY_S = 0.01
SHARED_MEMORY = Path("/dev/shm")


def measure(setting: Setting) -> Outcome:
    """The slowest of all rounds counts."""
    rounds: list[dict[str, Any]] = []
    count = QUICK_ROUNDS if setting.quick else ROUNDS
    for number in range(1, count + 1):
        for which in (signal.SIGINT, signal.SIGTERM):
            setting.say(f"round {number} of {count}: {which.name}")
            rounds.append({"round": number, "signal": which.name, **_stopped(setting, which, number)})

    def worst(column: str) -> float:
        return round(float(max(r[column] for r in rounds)), 3)

    open_logs = sum(not r["log_closed"] for r in rounds)
    checks = (
        Check(what="signal to the last decision", measured=worst("last_decision_s"), comparison="<=", target=1, unit="s"),
        Check(what="signal to the log's last byte", measured=worst("log_s"), comparison="<=", target=1, unit="s"),
        Check(what="logs without their end record", measured=open_logs, comparison="=", target=0),
        Check(what="signal to the last process's end", measured=worst("all_gone_s"), comparison="<=", target=3, unit="s"),
        Check(what="processes left", measured=worst("processes_left"), comparison="=", target=0),
        Check(what="files left in /dev/shm and the root path", measured=worst("files_left"), comparison="=", target=0),
        Check(what="exit codes other than 0", measured=sum(r["exit_code"] != 0 for r in rounds), comparison="=", target=0),
    )
    columns = ("last_decision_s", "log_s", "driver_gone_s", "all_gone_s", "processes_before", "files_before")
    summary = {"rounds": count, "largest": {column: worst(column) for column in columns}}
    return Outcome(checks=checks, summary=summary, samples={"rounds": {c: [r[c] for r in rounds] for c in rounds[0]}})


def _stopped(setting: Setting, which: signal.Signals, number: int) -> dict[str, Any]:
    log = setting.scratch / f"{which.name}-{number}.mcap"
    _, arguments = source_arguments()
    with deciding(["--record", str(log), *arguments], setting.scratch) as live:
        pid = live.process.pid
        time.sleep(PLAYED_S)
        members, files = family(pid), _files_of(pid)
        signalled_ns, signalled_wall_ns = time.monotonic_ns(), time.time_ns()
        if which is signal.SIGINT:
            os.killpg(pid, which)  # a terminal sends Ctrl-C to the whole foreground group
        else:
            live.process.send_signal(which)
        exit_code = live.finish()
        driver_gone_ns = time.monotonic_ns()
        while (left := alive(members)) and time.monotonic_ns() < signalled_ns + GONE_WITHIN_S * 1e9:
            time.sleep(LOOK_EVERY_S)
        all_gone_ns = time.monotonic_ns()
    published_ns = decision_from_json(live.lines[-1]).publish_ns
    return {
        "last_decision_s": max(0.0, (published_ns - signalled_ns) / 1e9),
        "log_s": (log.stat().st_mtime_ns - signalled_wall_ns) / 1e9,
        "log_closed": _is_closed(log),
        "driver_gone_s": (driver_gone_ns - signalled_ns) / 1e9,
        "all_gone_s": (all_gone_ns - signalled_ns) / 1e9,
        "processes_before": len(members),
        "processes_left": len(left),
        "files_before": len(files),
        "files_left": len(_files_of(pid)),
        "exit_code": exit_code,
    }


def _is_closed(log: Path) -> bool:
    try:
        return LogReader(log).end is not None
    except LogError:
        return False


def _files_of(pid: int) -> list[Path]:
    """What the run of this driver has in shared memory and under its root path (run ids begin with the driver's pid)."""
    memory = list(SHARED_MEMORY.glob(f"*c{pid}x*"))
    return memory + [path for root in RUNS.glob(f"c{pid}x*") for path in (root, *root.rglob("*"))]


if __name__ == "__main__":
    run_as_module("stopping", TITLE, measure)
