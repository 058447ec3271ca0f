"""The evaluation of a scenario, from cached tokens to the report."""

from __future__ import annotations

import datetime
import importlib
import os
import platform
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from engines.registry import WEIGHTS
from engines.training.card import put_evaluation
from engines.training.controls import control_figures
from engines.training.evaluating import measuring, watching
from engines.training.evaluating.bench import Bench, everything_asked
from engines.training.evaluating.bounds import Bounds, bounds, particles_of
from engines.training.evaluating.predicting import Predictor, flags, masks
from engines.training.evaluating.rivals import Rivals, rivals_of
from engines.training.evaluating.sets import DENSE, EVERYDAY, TRAIN, WATCHED, EvaluationPlan, Sets, evaluation_plan
from engines.training.evaluating.timing import tick_latency
from engines.training.evaluation.bootstrap import Estimate, resampling
from engines.training.evaluation.ceiling import LeakCheck
from engines.training.evaluation.confidence import ConfidenceFigures
from engines.training.evaluation.findings import ALL_STREAMS, AlarmFigures, Findings, Setting, VariantFigures
from engines.training.evaluation.metrics import Prediction
from engines.training.evaluation.page import Report, verdict_cells, write_report
from engines.training.evaluation.robustness import ConditionFigures
from engines.training.evaluation.subsets import Comparison, HeadCurves, SubsetFigures
from engines.training.shipped import load_shipped
from engines.training.worlds import World

Began = Callable[[str, float], Callable[[float], None]]
"""What is beginning and how much of it there is, to what is told how much more is done."""
LATENCY_TICKS, QUICK_LATENCY_TICKS = 3000, 200
MAX_BACKGROUND_S = 600.0


def evaluate(
    name: str,
    report: Path,
    *,
    quick: bool = False,
    seed: int = 0,
    weights: Path | None = None,
    background: Path | None = None,
    write_to_card: bool = False,
    processes: int = 2,
    show_progress: bool = True,
) -> Report:
    """Evaluate a scenario's shipped networks and write the report; everything that was cached or trained on the way is removed.

    ``background``: a folder of sound files, mixed over the test's sound at 5 dB. ``write_to_card``: also put the verdicts into
    the model card beside the engines. An interrupted evaluation goes on where it stopped. Raises EngineError when the parameters
    beside the engines are not theirs.
    """
    scenario = importlib.import_module(f"engines.training.{name}")
    world: World = scenario.make_world()
    engines = weights or WEIGHTS / name
    plan = evaluation_plan(scenario.PLAN, world, quick=quick, background=_sound(background))
    work = report.parent / f".{report.name}-evaluation"
    with _progress(show_progress) as began:
        sets = Sets(scenario.make_world, engines, plan, work / "sets", processes, began)
        bench = _bench(world, engines, sets, plan, work, processes, began, seed)
        bench.predict_ahead(everything_asked(bench), processes, began)
        findings = _findings(scenario.make_world, bench, engines, plan, processes, began, quick, seed, background is not None)
        ending = began("writing the report", 1)
        written = write_report(findings, report)
        ending(1)
    if write_to_card:
        put_evaluation(engines / "README.md", _card_text(written))
    shutil.rmtree(work)
    return written


def _bench(
    world: World, engines: Path, sets: Sets, plan: EvaluationPlan, work: Path, processes: int, began: Began, seed: int
) -> Bench:
    network, manifest = load_shipped(engines, world.design.layout)
    rivals = Rivals(work / "rivals", world.design.layout, sets[TRAIN])
    rivals.train(rivals_of(plan, world.design.layout), work / "sets" / TRAIN, processes, began)
    drawn = resampling(np.asarray(sets[DENSE].seeds), replicates=plan.replicates, seed=seed)
    return Bench(
        layout=world.design.layout, sets=sets, plan=plan, shipped=Predictor(network, manifest), rivals=rivals, drawn=drawn
    )


def _findings(
    make_world: Callable[[], World],
    bench: Bench,
    engines: Path,
    plan: EvaluationPlan,
    processes: int,
    began: Began,
    quick: bool,
    seed: int,
    with_background: bool,
) -> Findings:
    world = make_world()
    heads = tuple(world.design.heads)
    limits = {h: _bounds(make_world, bench, h, plan, processes, began) for h in world.percept_dims}
    measuring_bar = began("measuring", len(heads) + 4)
    subsets: list[SubsetFigures] = []
    comparisons: list[Comparison] = []
    curves: list[HeadCurves] = []
    variants: list[VariantFigures] = []
    confidences: list[ConfidenceFigures] = []
    conditions: list[ConditionFigures] = []
    for head in heads:
        subsets += measuring.subsets(bench, head)
        comparisons += measuring.comparisons(bench, head)
        curves += measuring.curves(bench, head)
        variants += measuring.variants(bench, head)
        confidences.append(measuring.confidence(bench, head))
        conditions += measuring.conditions(bench, head, tuple(world.unfamiliar), with_background)
        measuring_bar(1)
    watched = watching.watched_heads(heads, bench.sets[WATCHED].events, bench.sets[EVERYDAY].events)
    alarms = [a for h in watched for a in watching.alarms(bench, h, only_when_asked=h in world.asked_heads)]
    measuring_bar(1)
    examples = [watching.example(bench, h, _point(alarms, h).point.threshold) for h in watched]
    attributions = (measuring.attribution(bench, heads[0]),)
    measuring_bar(1)
    probe = measuring.modality_figures(bench, heads[0])
    measuring_bar(1)
    latency = tick_latency(engines, world.design, QUICK_LATENCY_TICKS if quick else LATENCY_TICKS)
    controls = control_figures(seeds=plan.variant_seeds[:1] if quick else plan.variant_seeds[:3], processes=processes)
    measuring_bar(1)
    return Findings(
        setting=_setting(world, bench, quick, seed),
        streams=bench.layout.streams,
        heads=world.design.heads,
        roles={role: role for role in ("emergency", "collision", "alarm", "apnea") if role in heads},
        subsets=tuple(subsets),
        ceilings=tuple(f for limit in limits.values() for f in limit.figures),
        leaks=tuple(check for limit in limits.values() for check in limit.leaks),
        comparisons=tuple(comparisons),
        headroom={head: limit.headroom for head, limit in limits.items()},
        curves=tuple(curves),
        variants=tuple(variants),
        controls=tuple(controls),
        alarms=tuple(alarms),
        examples=tuple(e for e in examples if e is not None),
        conditions=tuple(conditions),
        attributions=attributions,
        confidences=tuple(confidences),
        latency=(latency,),
        tasks=measuring.tasks(bench),
        modality_probe=probe,
        ablations=measuring.ablations(bench),
        measured=_leads(world, bench, alarms, watched),
    )


def _bounds(
    make_world: Callable[[], World], bench: Bench, head: str, plan: EvaluationPlan, processes: int, began: Began
) -> Bounds:
    world = make_world()
    particles = particles_of(make_world, head, plan, processes, began(f"particles, {head}", plan.particle_runs))
    progress = began(f"ceiling, {head}", plan.queries)
    done = [0]

    def reached(queries: int) -> None:
        progress(queries - done[0])
        done[0] = queries

    predictors: dict[str, list[tuple[str, Prediction]]] = {}
    for mask in masks(bench.layout):
        named = " + ".join(s for s, there in zip(bench.layout.streams, flags(mask), strict=True) if there)
        own = ALL_STREAMS if "0" not in mask else named
        predictors[mask] = [
            (own, bench.masked(mask)[head]),
            (f"{named}, trained alone", bench.rival(f"only {mask}", mask)[head]),
        ]
    return bounds(world, head, bench.sets[DENSE], bench.sets[TRAIN], particles, plan, bench.drawn, predictors, reached)


def _point(alarms: list[AlarmFigures], head: str) -> AlarmFigures:
    return next(a for a in alarms if a.head == head and a.who == ALL_STREAMS)


def _leads(world: World, bench: Bench, alarms: list[AlarmFigures], watched: list[str]) -> Mapping[str, Estimate]:
    """Lead times at the full rate, at the threshold that keeps to one false alarm an hour on the watched set."""
    found = {}
    for head in ("collision", "apnea"):
        capped = _point(alarms, head).capped if head in watched else None
        if capped is not None and np.isfinite(capped.threshold):
            found[f"{head}.lead"] = watching.lead_at_full_rate(bench, head, capped.threshold)
    return found


def _setting(world: World, bench: Bench, quick: bool, seed: int) -> Setting:
    notices = ["Simulation only: no recording of a real sensor was used, and nothing here says how the networks do on one."]
    if world.design.name == "patient":
        notices.append("Not a medical device, nor part of one. Every clinical figure is of a simulated bedside.")
    return Setting(
        scenario=world.design.name,
        command=f"chiasm evaluate {world.design.name} --report FOLDER{' --quick' if quick else ''} --seed {seed}",
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        machine=f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        is_quick=quick,
        seed=seed,
        splits=bench.sets.splits(),
        notices=tuple(notices),
        notes=(
            "Single streams and pairs: the better of the shipped network without the others and one trained for them alone.",
            "ECE, reliability and what removals do are over every tick, all else of a head where its question is asked.",
            "A rival's temperature and bias are fitted on the validation runs, as the shipped network's were.",
        ),
    )


def _card_text(report: Report) -> str:
    lines = [
        f"{datetime.datetime.now(datetime.UTC).date().isoformat()}; simulated test runs, 95% intervals by run.",
        "",
        "| it had to reach | target | measured | verdict |",
        "|---|---|---|---|",
    ]
    for verdict in report.verdicts:
        text, target, measured, outcome, detail = verdict_cells(verdict)
        lines.append(f"| {text}{f' ({detail})' if detail else ''} | {target} | {measured} | {outcome} |")
    lines += ["", _leaks_said(report.leaks)]
    return "\n".join(lines)


def _leaks_said(leaks: Sequence[LeakCheck]) -> str:
    """The card's word on predictors above their ceilings, the worst of each head."""
    if not leaks:
        return "No predictor lies above the Monte-Carlo ceiling of its streams beyond the interval."
    worst = {leak.head: leak for leak in sorted(leaks, key=lambda leak: leak.difference.low)}
    named = "; ".join(
        f"`{head}` from {leak.who}: {leak.auroc.value:.3f} against {leak.ceiling.value:.3f}" for head, leak in worst.items()
    )
    return (
        f"**The evaluation fails its leak check**: {len(leaks)} predictors lie above the Monte-Carlo ceiling of their streams, "
        f"beyond the interval (the worst: {named}). Either a label leaks, or the ceiling leaves out what the sensor perceives."
    )


def _sound(folder: Path | None) -> NDArray[np.int16] | None:
    """The sound files of a folder and its folders, one after the other, int16 at 16 kHz. Raises ValueError without any."""
    if folder is None:
        return None
    from engines.training.background import pcm_from_folder

    return pcm_from_folder(folder, MAX_BACKGROUND_S)


@contextmanager
def _progress(shown: bool) -> Iterator[Began]:
    times = (TimeElapsedColumn(), TimeRemainingColumn())
    columns = (TextColumn("{task.description:<28}"), BarColumn(), MofNCompleteColumn(), *times)
    with Progress(*columns, disable=not shown) as bars:

        def began(what: str, total: float) -> Callable[[float], None]:
            task = bars.add_task(what, total=max(round(total), 1))
            return lambda amount: bars.advance(task, amount)

        yield began
