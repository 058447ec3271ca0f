"""Right or wrong on drives never trained on, and how sure it is with each stream taken away."""

from __future__ import annotations

import importlib.util
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from actors.inline import InlineRun
from benchmarks.measurement import Check, Outcome, Setting, Skipped, run_as_module
from pipeline.cli.planning import plan_replay
from pipeline.config import load_scenario, scenario_folder
from pipeline.logs.reader import LogReader
from pipeline.logs.truth import compare_with_truth
from pipeline.messages import Decision
from pipeline.sources.base import StreamInfo

TITLE = "Accuracy on simulated drives that no training saw"
SEEDS, QUICK_SEEDS = range(1000, 1020), range(1000, 1002)
"""The test split: evaluated, never trained on."""
DRIVE_S, QUICK_DRIVE_S = 60.0, 20.0
SETTLING_NS = 2_000_000_000
"""Until every stream has had a full window."""
ALL = "none"
"""No stream removed."""
EVENT = "yield"
"""The action whose onsets are counted as events."""
NEEDED = ("panda3d", "scipy")


def measure(setting: Setting) -> Outcome:
    """Each drive with all streams, then with each stream left out."""
    missing = [package for package in NEEDED if importlib.util.find_spec(package) is None]
    if missing:
        raise Skipped(f"simulating needs {', '.join(missing)}; run pip install 'chiasm[sim]'")
    from pipeline.scenarios.driving.simulate import simulate

    scenario = load_scenario(scenario_folder("driving"))
    seeds = QUICK_SEEDS if setting.quick else SEEDS
    duration_s = QUICK_DRIVE_S if setting.quick else DRIVE_S
    rows: list[dict[str, Any]] = []
    for number, seed in enumerate(seeds, 1):
        log = setting.scratch / f"{seed}.mcap"
        setting.say(f"drive {number} of {len(seeds)}: simulating seed {seed}")
        simulate(log, scenario, seed=seed, duration_s=duration_s)
        for removed in (ALL, *scenario.streams):
            setting.say(f"drive {number} of {len(seeds)}: without {removed}")
            rows.append({"seed": seed, "removed": removed, **_decided(log, removed)})
        log.unlink()
    return _outcome(rows, tuple(scenario.heads), tuple(scenario.streams), duration_s)


def _decided(log_path: Path, removed: str) -> dict[str, Any]:
    plan = plan_replay(log_path, [], "max").plan
    plan = replace(plan, sources={stream: spec for stream, spec in plan.sources.items() if stream != removed})
    origin: list[int] = []
    top: dict[str, list[float]] = defaultdict(list)

    def began(origin_ns: int, _infos: dict[str, StreamInfo]) -> None:
        origin.append(origin_ns)

    def took(batch: list[Decision]) -> None:
        for decision in batch:
            if decision.reference_ns >= origin[0] + SETTLING_NS:
                for head, probabilities in decision.outputs.items():
                    top[head].append(float(np.max(probabilities)))

    summary = InlineRun(plan, on_decisions=took, on_start=began).run()
    log = LogReader(log_path)
    labels = {name: head.labels for name, head in plan.scenario.heads.items()}
    action_head = plan.scenario.policy.action_head
    found = compare_with_truth(summary.timeline, origin[0], log.truth(), log.origin_ns, labels, action_head)
    if found is None:
        raise RuntimeError(f"seed log {log_path.name} without {removed}: nothing was decided")
    return {
        "decisions": summary.decisions,
        **{f"balanced_accuracy_{head}": found.balanced_accuracy[head] for head in labels},
        "policy_agreement": found.policy_agreement,
        "events": found.events[EVENT].true,
        "caught": found.events[EVENT].caught,
        "invented": found.events[EVENT].invented,
        **{f"top_probability_{head}": float(np.mean(top[head])) if top[head] else None for head in labels},
    }


def _outcome(rows: list[dict[str, Any]], heads: tuple[str, ...], streams: tuple[str, ...], duration_s: float) -> Outcome:
    whole = [row for row in rows if row["removed"] == ALL]
    accuracy = {head: [row[f"balanced_accuracy_{head}"] for row in whole] for head in heads}
    top = {head: {removed: _mean_top(rows, removed, head) for removed in (ALL, *streams)} for head in heads}
    falls = {head: round(top[head][ALL] - max(top[head][s] for s in streams), 4) for head in heads}
    checks = [
        Check(what=f"{head}: balanced accuracy, {name}", measured=round(of(accuracy[head]), 4), comparison=">=", target=0.9)
        for head in heads
        for name, of in (("median", median), ("worst", min))
    ]
    checks += [
        Check(
            what=f"{head}: least fall of the mean top probability when a stream is removed",
            measured=falls[head],
            comparison=">",
            target=0,
        )
        for head in heads
    ]
    totals = {name: sum(row[name] for row in whole) for name in ("events", "caught", "invented", "decisions")}
    without = {
        removed: {
            head: round(median(r[f"balanced_accuracy_{head}"] for r in rows if r["removed"] == removed), 4) for head in heads
        }
        for removed in streams
    }
    summary = {
        "drives": len(whole),
        "drive_s": duration_s,
        "first_seed": whole[0]["seed"],
        "last_seed": whole[-1]["seed"],
        **totals,
        "balanced_accuracy": {h: {"median": round(median(a), 4), "worst": round(min(a), 4)} for h, a in accuracy.items()},
        "mean_top_probability_by_removed_stream": top,
        "median_balanced_accuracy_by_removed_stream": without,
    }
    return Outcome(checks=checks, summary=summary, samples={"drives": {c: [r[c] for r in rows] for c in rows[0]}})


def _mean_top(rows: list[dict[str, Any]], removed: str, head: str) -> float:
    """Over the drives, each weighing the same."""
    values = [row[f"top_probability_{head}"] for row in rows if row["removed"] == removed]
    return round(float(np.mean([value for value in values if value is not None])), 4)


if __name__ == "__main__":
    run_as_module("accuracy", TITLE, measure)
