"""What a change gained: the job of `benchmarks.peers` on this checkout and on an earlier one, in turn.

``git worktree add FOLDER COMMIT``, then ``python -m benchmarks.before_after FOLDER``. The earlier code must understand the job as
this one makes it, and run on the libraries that are installed here.
"""

from __future__ import annotations

import subprocess
from collections import defaultdict
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from actors.comparing import in_turn
from benchmarks.contenders import JOBS, MARGIN_NS, Contender, run_contender
from benchmarks.job_making import make_job
from benchmarks.measurement import RESULTS, Outcome, Setting, make_result, percentiles
from benchmarks.peers.job import Job
from benchmarks.plots import draw_tails
from benchmarks.ratios import percentile_of, ratio_of, spread

NAME, TITLE = "before-after", "The driving job on earlier code and on this"
ROUNDS, QUICK_ROUNDS, ROUND_S, QUICK_ROUND_S = 5, 1, 15, 6
SETTLE_NS = 2_500_000_000
KINDS = {"inline": "inline", "chiasm": "on Ray"}
FIGURES = {"share": "runtime share", "latency": "whole latency"}
Figures = dict[str, dict[str, list[NDArray[np.int64]]]]
"""Which figure, of what, to rounds in ns."""


def measure(earlier: Path, setting: Setting) -> Outcome:
    """Both checkouts in turn, round after round, inline and on Ray."""
    rounds = QUICK_ROUNDS if setting.quick else ROUNDS
    job = Job(make_job(setting.scratch / "job", QUICK_ROUND_S if setting.quick else ROUND_S))
    contenders = {f"{kind}, {which}": (kind, which) for kind in KINDS for which in ("before", "after")}
    figures: Figures = {name: defaultdict(list) for name in FIGURES}
    cpu_ms: dict[str, list[float]] = defaultdict(list)
    for number in range(rounds):
        for place, name in enumerate(in_turn(list(contenders), number)):
            kind, which = contenders[name]
            setting.say(f"round {number + 1} of {rounds}: {name}", (number + place / len(contenders)) / rounds)
            contender = replace(JOBS[kind], root=earlier) if which == "before" else JOBS[kind]
            share, latency, cpu = _played(contender, job, setting, setting.scratch / f"{number}-{kind}-{which}")
            figures["share"][name].append(share)
            figures["latency"][name].append(latency)
            cpu_ms[name].append(cpu)
    return _outcome(figures, cpu_ms, _commit_of(earlier), rounds)


def _played(contender: Contender, job: Job, setting: Setting, out: Path) -> tuple[NDArray[np.int64], NDArray[np.int64], float]:
    ran = run_contender(contender, job.folder, out, job.end_ns, say=setting.say, settle_ns=SETTLE_NS)
    made = dict(np.load(ran.folder / "decisions.npz"))
    settled = made["reference_ns"] >= SETTLE_NS
    share = (made["publish_ns"] - made["due_ns"] - made["encode_ns"] - made["fuse_ns"])[settled]
    counted = settled & (made["publish_ns"] < job.end_ns - MARGIN_NS)
    return share, (made["publish_ns"] - made["reference_ns"])[settled], 1e3 * ran.cpu_s / max(int(counted.sum()), 1)


def _commit_of(checkout: Path) -> str:
    said = subprocess.run(["git", "rev-parse", "HEAD"], cwd=checkout, capture_output=True, text=True, check=False)
    return said.stdout.strip()[:10] or "unknown"


def _outcome(
    figures: dict[str, dict[str, list[NDArray[np.int64]]]], cpu_ms: dict[str, list[float]], commit: str, rounds: int
) -> Outcome:
    summary: dict[str, Any] = {"earlier commit": commit, "rounds": rounds}
    for figure, heading in FIGURES.items():
        summary[f"{heading}, ms"] = {name: percentiles(np.concatenate(r), 1e6, 3) for name, r in figures[figure].items()}
    summary["CPU time a decision, ms"] = {name: round(float(np.median(values)), 2) for name, values in cpu_ms.items()}
    for kind, where in KINDS.items():
        before, after = f"{kind}, before", f"{kind}, after"
        for figure, heading in FIGURES.items():
            for percent in (50, 99):
                found = ratio_of(percentile_of(figures[figure][after], percent), percentile_of(figures[figure][before], percent))
                summary[f"{heading} {where}, p{percent}: after / before"] = spread(found)
        summary[f"CPU time {where}: after / before"] = spread(ratio_of(cpu_ms[after], cpu_ms[before]))
    samples = {
        name: {
            "round": np.repeat(np.arange(len(shares)), [len(s) for s in shares]),
            "share_us": np.concatenate(shares) // 1000,
            "latency_us": np.concatenate(figures["latency"][name]) // 1000,
        }
        for name, shares in figures["share"].items()
    }
    panels = {heading: {n: np.concatenate(r) / 1e6 for n, r in figures[figure].items()} for figure, heading in FIGURES.items()}
    return Outcome(checks=(), summary=summary, samples=samples, draw=partial(draw_tails, panels=panels, unit="ms", title=TITLE))


def main(
    earlier: Annotated[Path, typer.Argument(help="A checkout of the earlier code.", exists=True, file_okay=False)],
    quick: Annotated[bool, typer.Option("--quick", help="Short, to see that it works; proves nothing.")] = False,
    out: Annotated[Path, typer.Option("--out", help="The folder for the result.")] = RESULTS,
) -> None:
    """Measure both, in turn."""
    command = f"python -m benchmarks.before_after FOLDER (a checkout of {_commit_of(earlier)})"
    made = make_result(NAME, TITLE, partial(measure, earlier.resolve()), quick=quick, out=out, command=command)
    for name, value in made["summary"].items():
        print(f"  {name}: {value}")


if __name__ == "__main__":
    typer.run(main)
