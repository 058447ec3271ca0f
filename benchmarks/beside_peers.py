"""The same job on Chiasm and on seven others, in turn: runtime share, whole latency, CPU time, and whether the outputs agree."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.comparing import in_turn
from benchmarks.contenders import JOBS, MARGIN_NS, ContenderFailed, Ran, run_contender
from benchmarks.job_making import make_job
from benchmarks.measurement import Check, Outcome, Setting, Skipped, percentiles, run_as_module
from benchmarks.peers.job import Job
from benchmarks.plots import draw_tails
from benchmarks.ratios import percentile_of, ratio_check, ratio_of, spread

TITLE = "The same job on other runtimes"
ROUNDS, QUICK_ROUNDS = 3, 1
FULL_S, QUICK_S = 15, 6
SETTLE_NS = 2_500_000_000
"""Until then windows of sound and telemetry are not whole, and processes still warm up."""
SHARE_TARGETS = {"dora": 0.5, "ray": 0.2, "graph": 0.5}
WHOLE_TARGETS = {"holoscan": 1.0, "bare": 1.15}
Figures = dict[str, dict[str, list[NDArray[np.int64]]]]
"""``share`` or ``latency``, then contender, then rounds: ns, a value a decision."""


def measure(setting: Setting) -> Outcome:
    """Every contender in turn, round after round."""
    rounds = QUICK_ROUNDS if setting.quick else ROUNDS
    job = Job(make_job(setting.scratch / "job", QUICK_S if setting.quick else FULL_S))
    figures: Figures = {kind: defaultdict(list) for kind in ("share", "latency")}
    cpu_ms: dict[str, list[float]] = defaultdict(list)
    agreement: dict[str, str] = {}
    absent: dict[str, str] = {}
    expected: Mapping[str, NDArray[Any]] | None = None
    for number in range(rounds):
        for place, name in enumerate(in_turn(list(JOBS), number)):  # the bare loop, which the others must equal, is first
            if name in absent:
                continue
            share = (number + place / len(JOBS)) / rounds
            setting.say(f"round {number + 1} of {rounds}: {JOBS[name].title}", share)
            try:
                ran = run_contender(
                    JOBS[name], job.folder, setting.scratch / f"{number}-{name}", job.end_ns, say=setting.say, settle_ns=SETTLE_NS
                )
            except (Skipped, ContenderFailed) as reason:
                absent[name] = str(reason)
                continue
            made = decisions_of(ran)
            expected = expected or made
            agreement[name] = agreement_of(made, expected, agreement.get(name))
            sort_in(job, ran, made, name, figures, cpu_ms)
    return _outcome(figures, cpu_ms, agreement, absent, len(job.references_ns))


def agreement_of(made: Mapping[str, NDArray[Any]], expected: Mapping[str, NDArray[Any]], so_far: str | None) -> str:
    """How many of its decisions have the outputs of the bare loop, to the bit, and its action."""
    if so_far is not None and not so_far.startswith("all"):
        return so_far
    references, known = expected["reference_ns"], np.isin(made["reference_ns"], expected["reference_ns"])
    place = np.searchsorted(references, made["reference_ns"][known])
    same = (made["outputs"][known] == expected["outputs"][place]).all(axis=1)
    same &= made["action"][known] == expected["action"][place]
    if same.all() and len(same) == len(references):
        return f"all {len(same)} equal"
    return f"{int(same.sum())} of {len(references)} equal, {len(references) - len(same)} not decided"


def decisions_of(ran: Ran) -> Mapping[str, NDArray[Any]]:
    """What a contender decided: a column a field, times in ns from the job's beginning."""
    return dict(np.load(ran.folder / "decisions.npz"))


def sort_in(
    job: Job, ran: Ran, made: Mapping[str, NDArray[Any]], name: str, figures: Figures, cpu_ms: dict[str, list[float]]
) -> None:
    """Add a round to a contender's shares, latencies and CPU time a decision; what it decided while it settled is left out."""
    settled = made["reference_ns"] >= SETTLE_NS
    share = made["publish_ns"] - made["due_ns"] - made["encode_ns"] - made["fuse_ns"]
    figures["share"][name].append(share[settled])
    figures["latency"][name].append((made["publish_ns"] - made["reference_ns"])[settled])
    counted = settled & (made["publish_ns"] < job.end_ns - MARGIN_NS)
    cpu_ms[name].append(1e3 * ran.cpu_s / max(int(counted.sum()), 1))


def _outcome(
    figures: Figures, cpu_ms: Mapping[str, list[float]], agreement: Mapping[str, str], absent: Mapping[str, str], decisions: int
) -> Outcome:
    summary: dict[str, Any] = {
        "decisions a round": decisions,
        "outputs, against the bare loop": {JOBS[n].title: a for n, a in agreement.items()},
    }
    for kind, heading in (("share", "runtime share, ms"), ("latency", "reference to decision, ms")):
        summary[heading] = {JOBS[n].title: percentiles(np.concatenate(r), 1e6, 3) for n, r in figures[kind].items()}
    summary["CPU time a decision, ms"] = {JOBS[n].title: round(float(np.median(values)), 2) for n, values in cpu_ms.items()}
    summary["absent"] = dict(absent) or "none"
    checks: list[Check] = []
    for kind, ours, targets, what in (
        ("share", "chiasm", SHARE_TARGETS, "runtime share"),
        ("latency", "inline", WHOLE_TARGETS, "whole latency"),
    ):
        for name, target in targets.items():
            for percent in (50, 99):
                by = figures[kind]
                found = ratio_of(percentile_of(by.get(ours, []), percent), percentile_of(by.get(name, []), percent))
                label = f"{what}, p{percent}: {JOBS[ours].title} / {JOBS[name].title}"
                summary[label] = spread(found)
                checks.append(ratio_check(label, found, target))
    found = ratio_of(cpu_ms.get("chiasm", []), cpu_ms.get("dora", []))
    summary["CPU time a decision: Chiasm on Ray / dora-rs"] = spread(found)
    checks.append(ratio_check("CPU time a decision: Chiasm on Ray / dora-rs", found, 1.0))
    odd = sum(not text.startswith("all") for text in agreement.values())
    checks.append(Check(what="contenders whose outputs differ from the bare loop's", measured=odd, comparison="=", target=0))
    return Outcome(checks=checks, summary=summary, samples=samples_of(figures), draw=partial(_draw, figures))


def samples_of(figures: Figures) -> dict[str, dict[str, Any]]:
    """All of them, for a result's raw samples."""
    return {
        name: {
            "round": np.repeat(np.arange(len(shares)), [len(s) for s in shares]),
            "share_us": np.concatenate(shares) // 1000,
            "latency_us": np.concatenate(figures["latency"][name]) // 1000,
        }
        for name, shares in figures["share"].items()
    }


def _draw(figures: Figures, path: Any) -> None:
    panels = {
        heading: {JOBS[n].title: np.concatenate(r) / 1e6 for n, r in figures[kind].items()}
        for kind, heading in (("share", "the runtime's own share"), ("latency", "whole latency, reference to decision"))
    }
    draw_tails(path, panels, unit="ms", title=f"{TITLE}: 20 decisions a second")


if __name__ == "__main__":
    run_as_module("peers", TITLE, measure)
