"""``chiasm train driving``."""

from __future__ import annotations

from pathlib import Path

from engines.training.driving_world import DrivingWorld
from engines.training.objective import FusingOptions
from engines.training.scenario import Outcome, TrainingPlan, train_scenario

# at alignment 0.3 the adversary leaves the shared parts too little to find one stream's moment by another's; with more of it, at
# matching 10 a probe told the streams apart oftener than 40 % of the time (trials on validation runs)
PLAN = TrainingPlan(fusing=FusingOptions(alignment=3.0, matching=40.0))
make_world = DrivingWorld


def train(output: Path, *, seed: int = 1, plan: TrainingPlan = PLAN, show_progress: bool = True) -> Outcome:
    """Train the driving engines in simulation; see `engines.training.scenario.train_scenario`."""
    return train_scenario(make_world, output, plan, seed=seed, show_progress=show_progress)
