"""What the runner protocol adds to an engine: the shipped engines through it, and the same sessions called bare, turn about."""

from __future__ import annotations

from array import array
from collections.abc import Mapping

import numpy as np

from actors.plan import replay_plan
from benchmarks.engines import BARE, one_tick, time_engines
from benchmarks.measurement import Check, Outcome, Setting, percentiles, run_as_module
from engines.registry import REFERENCE, engine_choice
from pipeline.config import load_scenario, scenario_folder

TITLE = "The engines' share of a tick, through the runner protocol against ONNX Runtime called bare"
SCENARIOS = ("driving", "patient")
CALLS, QUICK_CALLS = 10_000, 200
SHARE = 1.1


def measure(setting: Setting) -> Outcome:
    """Both scenarios, every engine, and the sum over one tick."""
    checks, summary, samples = [], {}, {}
    for name in SCENARIOS:
        scenario, folder = load_scenario(scenario_folder(name)), scenario_folder(name)
        assert scenario.demo_log is not None
        replay = replay_plan(scenario, folder, folder / scenario.demo_log)
        calls = QUICK_CALLS if setting.quick else CALLS

        def show(what: str, done: int, total: int, name: str = name) -> None:
            setting.say(f"{name} {what} {done}/{total}")

        timed = time_engines(replay, [engine_choice(REFERENCE)], setting.scratch, calls, show)
        timed["one tick"] = one_tick(timed)
        for role, by_choice in timed.items():
            summary[f"{name} {role}"] = {**{who: percentiles(ns, 1e6) for who, ns in by_choice.items()}, **ratios(by_choice)}
        for percentile, ratio in ratios(timed["one tick"]).items():
            what = f"{name}: one tick, protocol / bare, {percentile}"
            checks.append(Check(what=what, measured=round(ratio, 4), comparison="<=", target=SHARE))
        # in steps of 100 ns: finer is noise, and 10,000 calls of ten engines must fit the repository
        samples |= {
            f"{name} {role}": {w: [n // 100 for n in ns] for w, ns in by.items()}
            for role, by in timed.items()
            if role != "one tick"
        }
    return Outcome(checks=checks, summary={"calls": calls, "samples_unit": "100 ns", **summary}, samples=samples)


def ratios(by_choice: Mapping[str, array[int]]) -> dict[str, float]:
    """The protocol's p50 and p99 over the bare session's."""
    ours, bare = (np.asarray(by_choice[who]) for who in (REFERENCE, BARE))
    return {f"p{p} ratio": float(np.percentile(ours, p) / np.percentile(bare, p)) for p in (50, 99)}


if __name__ == "__main__":
    run_as_module("engine-share", TITLE, measure)
