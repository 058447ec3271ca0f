"""What another precision costs in decisions: simulated runs that no training, calibration or evaluation saw, decided twice.

The tokens of every tick come through the encoders as trained and through those of the other precision; the shipped fusion, with
its memory, its calibration and its thresholds, decides on both. Each engine is also exchanged alone, so that the report tells
whose rounding it is that flips a decision.
"""

from __future__ import annotations

import importlib
import importlib.util
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from actors.building import prepared_engine
from actors.engines import CalibratedFusion, SteadyEngine, warm_up
from actors.plan import RunPlan, calibration_plan, load_manifests, replay_plan
from benchmarks.measurement import Check, Outcome, Setting, Skipped, run_as_module
from engines.manifest import Manifest, load_manifest
from engines.parity import INT8_FLIPS
from engines.registry import EngineChoice, open_engine
from pipeline.config import load_scenario, scenario_folder
from pipeline.stages.decide import called
from pipeline.stages.memory import FusionMemory

if TYPE_CHECKING:
    from engines.training.token_set import TokenSet

TITLE = "Decisions in int8 against fp32, on simulated runs that nothing was trained or calibrated on"
SCENARIOS = ("driving", "patient")
PRECISION = EngineChoice(backend="ort", precision="int8")
SEEDS, QUICK_SEEDS = tuple(range(6500, 6570)), (1800, 1801)
"""No plan of training, calibration or evaluation holds the first. Those from 1800 to 1871 chose the recipe."""
RUN_S, TICK_S = 60.0, 0.2
PROCESSES = 2
JUDGED_FROM = 200
"""Decisions of a class below which one flip is more than the budget."""
ALL, NONE = "all", "none"
POINT = 0.005
"""Half a point of AUROC or balanced accuracy: what another precision may cost to become a default."""
NEEDED = {"torch": "torch", "onnx": "onnx", "panda3d": "panda3d", "sklearn": "scikit-learn"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """What the fusion said of every tick: head to calibrated probabilities ``[n, classes]`` and to the class called ``[n]``."""

    probabilities: Mapping[str, NDArray[np.float32]]
    classes: Mapping[str, NDArray[np.uint8]]


def measure(setting: Setting) -> Outcome:
    """Both scenarios, all engines exchanged and each alone."""
    missing = [name for module, name in NEEDED.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise Skipped(f"simulating and encoding needs {', '.join(missing)}; run pip install 'chiasm[train,precision]'")
    checks: list[Check] = []
    summary: dict[str, Any] = {"seeds": [SEEDS[0], SEEDS[-1]], "precision": PRECISION.name}
    samples: dict[str, dict[str, Any]] = {}
    for scenario in SCENARIOS:
        found, tables, truth = _scenario(scenario, setting)
        summary[scenario] = found
        checks += _checks(scenario, found)
        samples |= {f"{scenario} {name}": {h: c.tolist() for h, c in columns.items()} for name, columns in tables.items()}
        samples[f"{scenario} truth"] = truth
    return Outcome(checks=checks, summary=summary, samples=samples)


def _scenario(name: str, setting: Setting) -> tuple[dict[str, Any], dict[str, Mapping[str, Any]], dict[str, Any]]:
    folder = scenario_folder(name)
    scenario = load_scenario(folder)
    if scenario.demo_log is None:
        raise Skipped(f"scenario {name} ships no log to calibrate on")
    replay = replay_plan(scenario, folder, folder / scenario.demo_log)
    trained = load_manifests(scenario, folder)
    setting.say(f"{name}: deriving {PRECISION.precision}")
    narrow = {
        role: prepared_engine(path, PRECISION, setting.scratch, calibration_plan(replay)) for role, (path, _) in trained.items()
    }
    plain = {role: path for role, (path, _) in trained.items()}
    sets = {kind: _tokens(name, kind, paths, setting) for kind, paths in (("fp32", plain), (PRECISION.precision, narrow))}
    threads = scenario.runtime.threads
    decided = {}
    for exchanged in (NONE, ALL, *plain):
        setting.say(f"{name}: deciding, {exchanged} in {PRECISION.precision}")
        exchanged_roles = {NONE: (), ALL: tuple(plain)}.get(exchanged, (exchanged,))
        mixed = _mixed(sets["fp32"], sets[PRECISION.precision], exchanged_roles)
        fusion = narrow["fusion"] if "fusion" in exchanged_roles else plain["fusion"]
        decided[exchanged] = decide(mixed, fusion, load_manifest(plain["fusion"]), threads)
    truth = sets["fp32"]
    figures = {
        "decisions": len(truth),
        "classes": _classes(replay),
        "exchanged": {who: _figures(decided[NONE], found, truth) for who, found in decided.items() if who != NONE},
    }
    tables = {who: found.classes for who, found in decided.items() if who in (NONE, ALL)}
    return figures, tables, {head: np.asarray(labels).tolist() for head, labels in truth.labels.items()}


def _tokens(name: str, kind: str, paths: Mapping[str, Path], setting: Setting) -> TokenSet:
    """The runs' tokens through these engines. Encoders of a folder are found by their role's name."""
    from engines.training.caching import CacheJob, cache_tokens

    make_world = importlib.import_module(f"engines.training.{name}").make_world
    engines = setting.scratch / f"{name}-{kind}"
    engines.mkdir()
    for role, path in paths.items():
        shutil.copy(path, engines / f"{role}.json")
        shutil.copy(path.parent / load_manifest(path).onnx, engines)
    seeds = QUICK_SEEDS if setting.quick else SEEDS
    job = CacheJob(seeds=seeds, duration_s=RUN_S, tick_s=TICK_S)
    done = 0.0

    def on_run(simulated_s: float) -> None:
        nonlocal done
        done += simulated_s
        setting.say(f"{name}: simulating through {kind}, {done:.0f} of {len(seeds) * RUN_S:.0f} s")

    return cache_tokens(make_world, engines, (job,), setting.scratch / f"{name}-{kind}-tokens", PROCESSES, on_run)


def _mixed(plain: TokenSet, narrow: TokenSet, exchanged: Sequence[str]) -> TokenSet:
    return replace(plain, tokens={s: (narrow if s in exchanged else plain).tokens[s] for s in plain.streams})


def decide(tokens: TokenSet, path: Path, calibrated: Manifest, threads: int) -> Decided:
    """Every tick through the fusion at ``path``, as a run does it: calibrated, with memory, a fresh one each run."""
    with _fusion(path, calibrated, threads) as fusion:
        assert fusion.memory is not None
        labels = {head.name: head.labels for head in calibrated.heads}
        probabilities: dict[str, list[NDArray[np.float32]]] = {head: [] for head in labels}
        classes: dict[str, list[int]] = {head: [] for head in labels}
        of_run, memory = -1, FusionMemory(fusion.memory)
        columns = {f"{s}_tokens": tokens.tokens[s] for s in fusion.streams}
        for tick in range(len(tokens)):
            if int(tokens.run[tick]) != of_run:
                of_run, memory = int(tokens.run[tick]), FusionMemory(fusion.memory)
            reference_ns = round(float(tokens.time_s[tick]) * 1e9)
            state = np.asarray(tokens.state[tick])
            inputs = {name: np.asarray(column[tick], np.float32) for name, column in columns.items()}
            inputs |= {"age_s": np.asarray(tokens.age_s[tick], np.float32), "mask": np.eye(3, dtype=np.float32)[state]}
            fused = fusion.fuse(inputs | memory.inputs(reference_ns), tuple(bool(s == 0) for s in state))
            assert fused.token is not None
            memory.keep(reference_ns, fused.token)
            for head, found in fused.probabilities.items():
                probabilities[head].append(found)
                label = called(found, labels[head], fused.thresholds.get(head, {}))
                classes[head].append(labels[head].index(label))
    return Decided(
        probabilities={head: np.stack(found) for head, found in probabilities.items()},
        classes={head: np.array(found, np.uint8) for head, found in classes.items()},
    )


@contextmanager
def _fusion(path: Path, calibrated: Manifest, threads: int) -> Iterator[CalibratedFusion]:
    with open_engine(path, threads=threads) as runner:
        warm_up(runner, runner.manifest)
        yield CalibratedFusion(SteadyEngine(runner), calibrated)


def _figures(wanted: Decided, got: Decided, tokens: TokenSet) -> dict[str, Any]:
    """By head: flips of each class, AUROC where the question is asked and balanced accuracy, before and after."""
    from sklearn.metrics import balanced_accuracy_score

    from engines.training.evaluation.metrics import auroc

    found: dict[str, Any] = {}
    for head, was in wanted.classes.items():
        now, labels = got.classes[head], np.asarray(tokens.labels[head])
        asked = np.flatnonzero(np.asarray(tokens.scored[head]))
        flips = {
            int(c): {"decisions": int((was == c).sum()), "flips": int(((was == c) & (now != c)).sum())} for c in np.unique(was)
        }
        areas = [auroc(1.0 - d.probabilities[head][asked, 0], labels[asked] > 0) for d in (wanted, got)]
        found[head] = {
            "flips": flips,
            "auroc": [round(area, 5) if np.isfinite(area) else None for area in areas],
            "balanced_accuracy": [round(float(balanced_accuracy_score(labels, c)), 5) for c in (was, now)],
            "largest_change_of_probability": round(float(np.abs(wanted.probabilities[head] - got.probabilities[head]).max()), 4),
        }
    return found


def _classes(replay: RunPlan) -> dict[str, list[str]]:
    return {head.name: list(head.labels) for head in load_manifests(replay.scenario, replay.folder)["fusion"][1].heads}


def _checks(scenario: str, figures: Mapping[str, Any]) -> Iterator[Check]:
    yield Check(what=f"{scenario}: decisions", measured=figures["decisions"], comparison=">=", target=20_000)
    for head, found in figures["exchanged"][ALL].items():
        shares = [f["flips"] / f["decisions"] for f in found["flips"].values() if f["decisions"] >= JUDGED_FROM]
        yield Check(
            what=f"{scenario} {head}: flips of the class that flips most, all engines in {PRECISION.precision}",
            measured=round(max(shares), 5) if shares else None,
            comparison="<=",
            target=INT8_FLIPS,
        )
        for measured in ("auroc", "balanced_accuracy"):
            before, after = found[measured]
            what = f"{scenario} {head}: {measured.replace('_', ' ')} lost"
            lost = None if before is None or after is None else round(before - after, 5)
            yield Check(what=what, measured=lost, comparison="<=", target=POINT)


if __name__ == "__main__":
    run_as_module("precision", TITLE, measure)
