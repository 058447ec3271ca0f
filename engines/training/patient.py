"""``chiasm train patient``. Not a medical device; simulation."""

from __future__ import annotations

from pathlib import Path

from engines.training.caching import CacheJob
from engines.training.objective import FusingOptions
from engines.training.patient_world import MANY_ROOMS, PatientWorld
from engines.training.scenario import Outcome, TrainingPlan, train_scenario

PLAN = TrainingPlan(
    train=(
        CacheJob(seeds=tuple(range(2000, 2300)), duration_s=120.0, tick_s=0.3, condition="dense" + MANY_ROOMS),
        CacheJob(seeds=tuple(range(2500, 2550)), duration_s=300.0, tick_s=0.3, condition="everyday" + MANY_ROOMS),
    ),
    validation=(CacheJob(seeds=tuple(range(3000, 3080)), duration_s=120.0, tick_s=0.2, condition="dense"),),
    # at 0.3 the adversary leaves the shared parts too little to find one stream's moment by another's
    fusing=FusingOptions(alignment=2.0),
)
make_world = PatientWorld


def train(output: Path, *, seed: int = 1, plan: TrainingPlan = PLAN, show_progress: bool = True) -> Outcome:
    """Train the patient engines in simulation; see `engines.training.scenario.train_scenario`."""
    return train_scenario(make_world, output, plan, seed=seed, show_progress=show_progress)
