"""Which simulated runs an evaluation looks at. Test seeds are never trained, calibrated or tuned on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engines.training.caching import CacheJob, Corruption, cache_tokens
from engines.training.evaluation.findings import Split
from engines.training.objective import FusingOptions
from engines.training.scenario import TrainingPlan
from engines.training.token_set import TokenSet, load_token_set
from engines.training.worlds import World

TRAIN, VALIDATION, WATCHED, DENSE, EVERYDAY, RATE, LATE = (
    "train",
    "validation",
    "watched",
    "dense",
    "everyday",
    "rate",
    "late",
)
DENSE_SEEDS = (range(1020, 1120), range(1500, 2000), range(6000, 6400))
"""Of dense test runs; a world takes as many as it needs from the front."""
HARDER_RUNS = 30
"""The first so many dense test runs are also simulated with noise, at night and blurred."""
SNRS_DB = (20.0, 10.0, 0.0, -10.0)
BLUR_PX = 2.0
BACKGROUND_SNR_DB = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationPlan:
    """How much is simulated and learnt. Sets by name; ``notes`` says in words what each is for."""

    jobs: Mapping[str, tuple[CacheJob, ...]]
    rival_steps: int = 2000
    """Of models trained for comparison with the shipped one."""
    fusing: FusingOptions = field(default_factory=FusingOptions)
    """As the shipped network was trained; rivals differ from it in what their name says."""
    variant_steps: int = 800
    variant_seeds: tuple[int, ...] = (1, 2, 3, 4, 5)
    particle_runs: int = 2400
    particles_per_run: int = 60
    """Fewer are too few for subsets of many streams: only particles with about the same percepts count."""
    queries: int = 6000
    replicates: int = 1000
    notes: Mapping[str, str] = field(
        default_factory=lambda: {
            TRAIN: "what shipped and compared networks were trained on",
            VALIDATION: "calibration and late fusion's choice",
            WATCHED: "thresholds of alarms",
            DENSE: "test: one encounter after the other; AUROC, calibration, attribution",
            EVERYDAY: "test: continuous time at 5 Hz; false alarms an hour",
            RATE: "test: at the full rate, for lead times",
            LATE: "test: at 10 Hz, for delays",
        }
    )


def evaluation_plan(training: TrainingPlan, world: World, *, quick: bool, background: NDArray[np.int16] | None) -> EvaluationPlan:
    """The whole plan of a scenario, or a little one that only shows that everything works."""
    late = CacheJob(seeds=tuple(range(1200, 1230)), duration_s=60.0, tick_s=0.1)
    dense = [CacheJob(seeds=seeds, duration_s=60.0, tick_s=0.2) for seeds in _first_seeds(world.dense_runs)]
    harder = replace(dense[0], seeds=dense[0].seeds[:HARDER_RUNS])
    jobs: dict[str, tuple[CacheJob, ...]] = {
        TRAIN: tuple(replace(job, low_level=True) for job in training.train),
        VALIDATION: tuple(replace(job, low_level=True) for job in training.validation),
        WATCHED: (CacheJob(seeds=tuple(range(3100, 3136)), duration_s=600.0, tick_s=0.2, condition="everyday"),),
        DENSE: tuple(replace(job, low_level=True) for job in dense),
        EVERYDAY: (CacheJob(seeds=tuple(range(5000, 5120)), duration_s=600.0, tick_s=0.2, condition="everyday"),),
        RATE: (CacheJob(seeds=tuple(range(1300, 1340)), duration_s=world.event_run_s, tick_s=1.0 / world.frame_rate_hz),),
        LATE: (late,),
        "night": (replace(harder, condition="night"),),
        "blur": (replace(harder, corruption=Corruption(blur_px=BLUR_PX)),),
    }
    for snr_db in SNRS_DB:
        jobs[f"SNR {snr_db:g} dB"] = (replace(harder, corruption=Corruption(snr_db=snr_db)),)
    for place, condition in enumerate(world.unfamiliar):
        seeds = tuple(range(5400 + 100 * place, 5430 + 100 * place))
        jobs[condition] = (replace(harder, seeds=seeds, condition=condition),)
    if background is not None:
        corruption = Corruption(snr_db=BACKGROUND_SNR_DB, background=background)
        jobs["real background sound"] = (replace(harder, corruption=corruption),)
    if not quick:
        return EvaluationPlan(jobs=jobs, fusing=training.fusing)
    little = {name: tuple(_little(job) for job in several) for name, several in jobs.items()}
    return EvaluationPlan(
        jobs=little,
        fusing=training.fusing,
        rival_steps=30,
        variant_steps=30,
        variant_seeds=(1, 2),
        particle_runs=60,
        particles_per_run=20,
        queries=200,
        replicates=100,
    )


def _first_seeds(count: int) -> Iterator[tuple[int, ...]]:
    """``count`` of `DENSE_SEEDS`, one stretch after the other."""
    for stretch in DENSE_SEEDS:
        if taken := tuple(stretch[:count]):
            yield taken
        count -= len(taken)


def _little(job: CacheJob) -> CacheJob:
    if job.condition.startswith("everyday"):
        return replace(job, seeds=job.seeds[:3], duration_s=min(job.duration_s, 200.0), tick_s=job.tick_s)
    return replace(job, seeds=job.seeds[:4], duration_s=40.0)


class Sets:
    """The plan's token sets, cached in a folder as they are first asked for."""

    def __init__(
        self,
        make_world: Callable[[], World],
        engines: Path,
        plan: EvaluationPlan,
        folder: Path,
        processes: int,
        began: Callable[[str, float], Callable[[float], None]],
    ) -> None:
        self._make_world, self._engines, self._plan, self._folder = make_world, engines, plan, folder
        self._processes, self._began = processes, began
        self._open: dict[str, TokenSet] = {}

    def __getitem__(self, name: str) -> TokenSet:
        if name not in self._open:
            folder = self._folder / name.replace(" ", "_")
            jobs = self._plan.jobs[name]
            if (folder / "set.json").exists():
                self._open[name] = load_token_set(folder)
            else:
                on_run = self._began(f"tokens, {name}", sum(len(j.seeds) * j.duration_s for j in jobs))
                self._open[name] = cache_tokens(self._make_world, self._engines, jobs, folder, self._processes, on_run)
        return self._open[name]

    def splits(self) -> tuple[Split, ...]:
        """The sets that were opened, for the report."""
        return tuple(
            Split(
                name=name,
                seeds=", ".join(f"{min(j.seeds)}-{max(j.seeds)}" for j in self._plan.jobs[name]),
                runs=len(tokens.seeds),
                ticks=len(tokens),
                hours=len(tokens) * tokens.tick_s / 3600.0,
                note=self._plan.notes.get(name, "test: a harder world"),
            )
            for name, tokens in self._open.items()
        )
