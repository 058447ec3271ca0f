"""From nothing to a scenario's engines: simulate, learn encoders, cache tokens, learn fusion, calibrate, export."""

from __future__ import annotations

import datetime
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from engines.export import export_engine
from engines.manifest import Training
from engines.networks.variant import Flat
from engines.training.caching import CacheJob, cache_tokens
from engines.training.calibrating import Figures, calibrate
from engines.training.card import write_card
from engines.training.encoding import BATCH, learn_encoders
from engines.training.fusing import train_fusion
from engines.training.moments import STREAMS, MomentSet, build_moments, open_moments
from engines.training.objective import FusingOptions
from engines.training.shipped import VARIANT, save_parameters
from engines.training.splits import check_trainable
from engines.training.token_set import TokenSet, load_token_set
from engines.training.worlds import World


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingPlan:
    """How much is simulated and how long is learnt. The defaults are the shipped weights'."""

    runs: int = 900
    """Runs that moments are drawn from, seeds 0 to ``runs - 1``."""
    moments_per_run: int = 40
    epochs: int = 5
    # many runs at few ticks: neighbouring ticks tell little, and fusion would learn few runs by heart
    train: tuple[CacheJob, ...] = (
        CacheJob(seeds=tuple(range(2000, 2400)), duration_s=60.0, tick_s=0.3, condition="dense"),
        CacheJob(seeds=tuple(range(2500, 2550)), duration_s=300.0, tick_s=0.3, condition="everyday"),
    )
    validation: tuple[CacheJob, ...] = (CacheJob(seeds=tuple(range(3000, 3100)), duration_s=60.0, tick_s=0.2, condition="dense"),)
    fusion_steps: int = 4000
    fusing: FusingOptions = field(default_factory=FusingOptions)

    def __post_init__(self) -> None:
        """Refuse what belongs to the test."""
        check_trainable([*range(self.runs), *(s for job in (*self.train, *self.validation) for s in job.seeds)])


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What training made. ``figures``: head, then mask (``"1011"``), then measure, on the validation runs."""

    folder: Path
    figures: Figures


def train_scenario(
    make_world: Callable[[], World],
    output: Path,
    plan: TrainingPlan,
    *,
    seed: int,
    processes: int = 2,
    show_progress: bool = True,
) -> Outcome:
    """Train a scenario's engines in simulation and write them to ``output``, whole or not at all.

    What is done so far is kept beside ``output`` in ``.NAME-training`` until the end: the same call, after an interruption, goes
    on from there. Needs the extra ``train``. Raises ValueError for seeds of the test split, RuntimeError without panda3d or for a
    state of another plan.
    """
    world = make_world()
    work = output.parent / f".{output.name}-training"
    _claim(work, f"{world.design.name} seed {seed} {plan}")
    training = _provenance(world.design.name, seed, plan)
    with _progress(show_progress) as bars:
        _encoders(make_world, plan, work, seed, processes, bars, training)
        train = _tokens(make_world, plan.train, work, "train", processes, bars)
        validation = _tokens(make_world, plan.validation, work, "validation", processes, bars)
        fusing = bars.add_task("learning fusion", total=plan.fusion_steps)
        network = train_fusion(
            train,
            world.design.layout,
            VARIANT,
            seed=seed,
            steps=plan.fusion_steps,
            options=plan.fusing,
            on_step=lambda step, _: bars.update(fusing, completed=step),
            state_path=work / "fusion.state",
        )
        calibrating = bars.add_task("calibrating", total=1)
        heads, figures = calibrate(network, world.design.layout, validation)
        engines = work / "engines"
        export_engine("fusion", Flat(network), world.design, engines, training, heads)
        save_parameters(network, engines)
        write_card(engines, world.design, figures)
        bars.update(calibrating, completed=1)
    _publish(engines, output)
    shutil.rmtree(work)
    return Outcome(folder=output, figures=figures)


def _claim(work: Path, about: str) -> None:
    """Begin, or go on with, the training that ``work`` holds."""
    work.mkdir(parents=True, exist_ok=True)
    mark = work / "plan.txt"
    if mark.exists() and mark.read_text(encoding="utf-8") != about:
        raise RuntimeError(
            f"{work}: holds an unfinished training of other settings; remove that folder, or finish it as it began"
        )
    mark.write_text(about, encoding="utf-8")


def _provenance(name: str, seed: int, plan: TrainingPlan) -> Training:
    jobs = [f"{min(j.seeds)}-{max(j.seeds)}" for j in plan.train]
    return Training(
        trained=True,
        command=f"chiasm train {name}",
        seed=seed,
        train_seeds=", ".join([f"0-{plan.runs - 1}", *jobs]),
        validation_seeds=", ".join(f"{min(j.seeds)}-{max(j.seeds)}" for j in plan.validation),
        torch_version=str(torch.__version__),
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
    )


@contextmanager
def _progress(shown: bool) -> Iterator[Progress]:
    times = (TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(TextColumn("{task.description:<17}"), BarColumn(), MofNCompleteColumn(), *times, disable=not shown) as bars:
        yield bars


def _encoders(
    make_world: Callable[[], World], plan: TrainingPlan, work: Path, seed: int, processes: int, bars: Progress, training: Training
) -> None:
    """Stage 1: four engines in ``work/engines``."""
    world = make_world()
    if all((work / "engines" / f"{stream}.json").exists() for stream in STREAMS):
        return
    simulating = bars.add_task("simulating", total=plan.runs)
    moments = _moments(make_world, plan, work, processes, lambda: bars.advance(simulating))
    bars.update(simulating, completed=plan.runs)  # an earlier call may have simulated them
    learning = bars.add_task("learning encoders", total=plan.epochs * (len(moments) // BATCH))
    encoders = learn_encoders(
        world,
        moments,
        seed=seed,
        epochs=plan.epochs,
        threads=processes,
        on_step=lambda step: bars.update(learning, completed=step),
        state_path=work / "encoders.state",
    )
    for stream in STREAMS:
        export_engine(stream, getattr(encoders, stream), world.design, work / "engines", training)
    shutil.rmtree(work / "moments")


def _moments(
    make_world: Callable[[], World], plan: TrainingPlan, work: Path, processes: int, on_run: Callable[[], None]
) -> MomentSet:
    folder, done = work / "moments", work / "moments.done"
    if done.exists():
        return open_moments(make_world(), folder)
    moments = build_moments(make_world, folder, range(plan.runs), plan.moments_per_run, processes, on_run)
    done.touch()
    return moments


def _tokens(
    make_world: Callable[[], World], jobs: tuple[CacheJob, ...], work: Path, name: str, processes: int, bars: Progress
) -> TokenSet:
    folder = work / name
    if (folder / "set.json").exists():
        return load_token_set(folder)
    total = sum(len(job.seeds) * job.duration_s for job in jobs)
    task = bars.add_task(f"tokens, {name}", total=round(total))
    return cache_tokens(make_world, work / "engines", jobs, folder, processes, lambda seconds: bars.advance(task, seconds))


def _publish(engines: Path, output: Path) -> None:
    output.mkdir(parents=True, exist_ok=True)
    # ONNX files first: a manifest never names a model that is not there yet
    for path in sorted(engines.iterdir(), key=lambda p: (p.suffix != ".onnx", p.name)):
        target = output / path.name
        copy = target.with_suffix(target.suffix + ".part")
        shutil.copyfile(path, copy)
        os.replace(copy, target)


def quick(plan: TrainingPlan) -> TrainingPlan:
    """The same in little: for tests of the way, not of the result."""
    return replace(
        plan,
        runs=6,
        moments_per_run=40,
        epochs=1,
        train=tuple(replace(j, seeds=j.seeds[:2], duration_s=30.0) for j in plan.train),
        validation=tuple(replace(j, seeds=j.seeds[:2], duration_s=30.0) for j in plan.validation),
        fusion_steps=20,
    )
