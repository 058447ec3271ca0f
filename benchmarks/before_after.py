"""What a change gained: the job of `benchmarks.peers` on this checkout and on an earlier one, in turn.

``git worktree add FOLDER COMMIT``, then ``python -m benchmarks.before_after FOLDER``. The earlier code must understand the job as
this one makes it, and run on the libraries that are installed here.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from actors.comparing import in_turn
from benchmarks.beside_peers import SETTLE_NS, Figures, decisions_of, samples_of, sort_in
from benchmarks.contenders import JOBS, run_contender
from benchmarks.environment import commit_of
from benchmarks.job_making import make_job
from benchmarks.measurement import RESULTS, Outcome, Setting, make_result, percentiles
from benchmarks.peers.job import Job
from benchmarks.plots import draw_tails
from benchmarks.ratios import percentile_of, ratio_of, spread

NAME, TITLE = "before-after", "The driving job on earlier code and on this"
ROUNDS, QUICK_ROUNDS, ROUND_S, QUICK_ROUND_S = 5, 1, 15, 6
KINDS = {"inline": "inline", "chiasm": "on Ray"}
FIGURES = {"share": "runtime share", "latency": "whole latency"}


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
            out = setting.scratch / f"{number}-{kind}-{which}"
            ran = run_contender(contender, job.folder, out, job.end_ns, say=setting.say, settle_ns=SETTLE_NS)
            sort_in(job, ran, decisions_of(ran), name, figures, cpu_ms)
    return outcome(figures, cpu_ms, _short_commit(earlier), rounds)


def _short_commit(checkout: Path) -> str:
    return (commit_of(checkout) or "unknown")[:10]


def outcome(figures: Figures, cpu_ms: dict[str, list[float]], commit: str, rounds: int) -> Outcome:
    """Ratios of after to before, round by round."""
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
    panels = {heading: {n: np.concatenate(r) / 1e6 for n, r in figures[figure].items()} for figure, heading in FIGURES.items()}
    draw = partial(draw_tails, panels=panels, unit="ms", title=TITLE)
    return Outcome(checks=(), summary=summary, samples=samples_of(figures), draw=draw)


def main(
    earlier: Annotated[Path, typer.Argument(help="A checkout of the earlier code.", exists=True, file_okay=False)],
    quick: Annotated[bool, typer.Option("--quick", help="Short, to see that it works; proves nothing.")] = False,
    out: Annotated[Path, typer.Option("--out", help="The folder for the result.")] = RESULTS,
) -> None:
    """Measure both, in turn."""
    command = f"python -m benchmarks.before_after FOLDER (a checkout of {_short_commit(earlier)})"
    made = make_result(NAME, TITLE, partial(measure, earlier.resolve()), quick=quick, out=out, command=command)
    for name, value in made["summary"].items():
        print(f"  {name}: {value}")


if __name__ == "__main__":
    typer.run(main)
