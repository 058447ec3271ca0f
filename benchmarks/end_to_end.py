"""The driving job on Chiasm, inline and on Ray: faster and faster until deadlines break, with and without a recorder, with and
without two busy processes beside it.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.comparing import in_turn
from benchmarks.contenders import JOBS, ContenderFailed, run_contender
from benchmarks.job_making import LONGEST_S, make_job
from benchmarks.live import busy
from benchmarks.measurement import Check, Outcome, Setting, percentiles, run_as_module
from benchmarks.peers.job import Job
from benchmarks.plots import draw_tails
from benchmarks.ratios import percentile_of, ratio_check, ratio_of, spread

TITLE = "The driving job on Chiasm: faster, recorded, beside load"
KINDS = ("inline", "chiasm")
SETTLE_NS = 2_500_000_000
RATES, RATE_S, QUICK_RATE_S = (1, 2, 4, 8), 8, 4
ROUNDS, QUICK_ROUNDS, ROUND_S, QUICK_ROUND_S = 3, 1, 10, 8
BUSY_PROCESSES = 2
DEADLINE_NS = 50_000_000
BROKEN = 0.001
"""More of the decisions than this late, and deadlines are broken."""
RECORDING = 1.10
Latencies = dict[tuple[str, str], list[NDArray[np.int64]]]
"""Which Chiasm and in which way, to rounds."""


class _Runs:
    """Plays jobs, each in a folder of its own."""

    def __init__(self, setting: Setting) -> None:
        self._setting, self._count = setting, 0
        self.failed: dict[str, str] = {}

    def latencies(self, kind: str, job: Job, *options: str) -> tuple[NDArray[np.int64], int]:
        """From reference to decision of each decision after settling, in ns, and how many references there were. Nothing where
        the run broke.
        """
        self._count += 1
        out, due = self._setting.scratch / f"run{self._count}", int((job.references_ns >= SETTLE_NS).sum())
        try:
            run_contender(replace(JOBS[kind], after=options), job.folder, out, job.end_ns, say=self._setting.say)
        except ContenderFailed as reason:
            self.failed[f"{kind} {' '.join(options)}"] = str(reason)
            return np.zeros(0, np.int64), due
        made = np.load(out / "decisions.npz")
        settled = made["reference_ns"] >= SETTLE_NS
        return (made["publish_ns"] - made["reference_ns"])[settled], due


def measure(setting: Setting) -> Outcome:
    """The three questions, one after the other."""
    runs = _Runs(setting)
    faster, late, summary = _faster(setting, runs)
    beside, more = _beside(setting, runs)
    summary |= more
    checks = []
    for kind in KINDS:
        title = JOBS[kind].title
        sustained = max((rate for rate in RATES if late[kind].get(rate, 1.0) <= BROKEN), default=0)
        summary[f"{title}: fastest at which no more than {BROKEN:.1%} were late"] = f"{sustained} x real time"
        on, off = (percentile_of(beside[kind, how], 99) for how in ("recorded", "alone"))
        summary[f"recording on / off, p99: {title}"] = spread(ratio_of(on, off))
        checks.append(ratio_check(f"recording on / off, p99: {title}", ratio_of(on, off), RECORDING))
        checks.append(Check(what=f"late at real time: {title}", measured=late[kind].get(1), comparison="<=", target=BROKEN))
    summary["failed"] = runs.failed or "none"
    samples = {
        ", ".join(which): {"round": np.repeat(np.arange(len(r)), [len(x) for x in r]), "latency_us": np.concatenate(r) // 1000}
        for which, r in {**faster, **beside}.items()
        if r and sum(map(len, r))
    }
    return Outcome(checks=checks, summary=summary, samples=samples, draw=partial(_draw, faster, beside))


def _faster(setting: Setting, runs: _Runs) -> tuple[Latencies, dict[str, dict[int, float]], dict[str, Any]]:
    """At 1, 2, 4 … times real time, until deadlines break."""
    seconds = QUICK_RATE_S if setting.quick else RATE_S
    found: Latencies = {}
    late: dict[str, dict[int, float]] = {kind: {} for kind in KINDS}
    summary: dict[str, Any] = {}
    for rate in RATES:
        going = [kind for kind in KINDS if all(share <= BROKEN for share in late[kind].values())]
        length = min(seconds, LONGEST_S / rate)
        job = Job(make_job(setting.scratch / f"x{rate}", length, rate)) if going else None
        for kind in going:
            assert job is not None
            setting.say(f"{JOBS[kind].title} at {rate} x real time", RATES.index(rate) / len(RATES))
            latency, due = runs.latencies(kind, job)
            late[kind][rate] = 1 - float((latency <= DEADLINE_NS).sum()) / due if due else 1.0
            found[kind, f"{rate} x"] = [latency]
            figures = percentiles(latency, 1e6, 3) if len(latency) else {}
            summary[f"{JOBS[kind].title} at {rate} x, ms"] = {**figures, "late or not decided": round(late[kind][rate], 5)}
    return found, late, summary


def _beside(setting: Setting, runs: _Runs) -> tuple[Latencies, dict[str, Any]]:
    """Alone, recorded, and beside busy processes, in turn."""
    rounds = QUICK_ROUNDS if setting.quick else ROUNDS
    job = Job(make_job(setting.scratch / "beside", QUICK_ROUND_S if setting.quick else ROUND_S))
    found: Latencies = defaultdict(list)
    ways = [(kind, how) for kind in KINDS for how in ("alone", "recorded", "beside load")]
    for number in range(rounds):
        for place, (kind, how) in enumerate(in_turn(ways, number)):
            setting.say(f"round {number + 1} of {rounds}: {JOBS[kind].title}, {how}", (number + place / len(ways)) / rounds)
            with busy(BUSY_PROCESSES if how == "beside load" else 0):
                latency, _ = runs.latencies(kind, job, *(["record"] if how == "recorded" else []))
            found[kind, how].append(latency)
    figures = {(kind, how): percentiles(np.concatenate(r), 1e6, 3) for (kind, how), r in sorted(found.items())}
    return found, {f"{JOBS[kind].title}, {how}, ms": f for (kind, how), f in figures.items()}


def _draw(faster: Latencies, beside: Latencies, path: Path) -> None:
    panels = {
        f"{JOBS[kind].title}, {what}": {
            how: np.concatenate(r) / 1e6 for (of, how), r in sorted(found.items()) if of == kind and sum(map(len, r))
        }
        for kind in KINDS
        for what, found in (("faster", faster), ("at real time", beside))
    }
    draw_tails(path, panels, unit="ms, reference to decision", title=TITLE)


if __name__ == "__main__":
    run_as_module("end-to-end", TITLE, measure)
