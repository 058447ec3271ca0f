"""What the runner protocol adds to an engine, and how other CPU engines compare: through it, and called bare, turn about."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from functools import partial

import numpy as np

from actors.plan import load_manifests, replay_plan
from benchmarks.engines import BARE, one_tick, time_engines
from benchmarks.measurement import Check, Outcome, Setting, percentiles, run_as_module
from benchmarks.plots import draw_tails
from engines.registry import REFERENCE, availabilities, engine_choice
from pipeline.config import load_scenario, scenario_folder

TITLE = "One tick's engines through the runner protocol, against ONNX Runtime called bare"
SCENARIOS = ("driving", "patient")
CALLS, QUICK_CALLS = 10_000, 200
SHARE = 1.1
TITLES = {REFERENCE: "Chiasm, ort", BARE: "ONNX Runtime, bare"}
BESIDE = ("ort-int8", "openvino")
"""Other engines that are timed with them, where they can run."""


def measure(setting: Setting) -> Outcome:
    """Both scenarios, every engine, and the sum over one tick."""
    checks, summary, samples, ticks = [], {}, {}, {}
    for name in SCENARIOS:
        scenario, folder = load_scenario(scenario_folder(name)), scenario_folder(name)
        assert scenario.demo_log is not None
        replay = replay_plan(scenario, folder, folder / scenario.demo_log)
        present = availabilities(next(iter(load_manifests(scenario, folder).values()))[0])
        beside = [choice for choice in map(engine_choice, BESIDE) if present[choice.backend].available]
        calls = QUICK_CALLS if setting.quick else CALLS

        def show(what: str, done: int, total: int, name: str = name) -> None:
            setting.say(f"{name} {what} {done}/{total}", done / total)

        timed = time_engines(replay, [engine_choice(REFERENCE), *beside], setting.scratch, calls, show)
        timed["one tick"] = one_tick(timed)
        ticks[f"{name}, one tick"] = {TITLES.get(who, who): np.asarray(ns) / 1e6 for who, ns in timed["one tick"].items()}
        for role, by_choice in timed.items():
            figures = {who: percentiles(ns, 1e6) for who, ns in by_choice.items()}
            to_reference = {f"{c.name} / {REFERENCE}": ratios(by_choice, c.name, REFERENCE) for c in beside}
            summary[f"{name} {role}"] = {**figures, **ratios(by_choice), **to_reference}
        for percentile, ratio in ratios(timed["one tick"]).items():
            what = f"{name}: one tick, protocol / bare, {percentile}"
            checks.append(Check(what=what, measured=round(ratio, 4), comparison="<=", target=SHARE))
        # in steps of 100 ns: finer is noise, and 10,000 calls of ten engines must fit the repository
        samples |= {
            f"{name} {role}": {w: [n // 100 for n in ns] for w, ns in by.items()}
            for role, by in timed.items()
            if role != "one tick"
        }
    draw = partial(draw_tails, panels=ticks, unit="ms, all engines of a tick", title=TITLE)
    return Outcome(checks=checks, summary={"calls": calls, "samples_unit": "100 ns", **summary}, samples=samples, draw=draw)


def ratios(by_choice: Mapping[str, array[int]], one: str = REFERENCE, other: str = BARE) -> dict[str, float]:
    """One choice's p50 and p99 over another's: the reference's over the bare session's."""
    a, b = (np.asarray(by_choice[who]) for who in (one, other))
    return {f"p{p} ratio": float(np.percentile(a, p) / np.percentile(b, p)) for p in (50, 99)}


if __name__ == "__main__":
    run_as_module("engines", TITLE, measure)
