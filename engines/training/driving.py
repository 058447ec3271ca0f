"""``chiasm train driving``."""

from __future__ import annotations

from pathlib import Path

from engines.training.driving_world import DrivingWorld
from engines.training.scenario import Outcome, TrainingPlan, train_scenario

PLAN = TrainingPlan()
make_world = DrivingWorld


def train(output: Path, *, seed: int = 1, plan: TrainingPlan = PLAN, show_progress: bool = True) -> Outcome:
    """Train the driving engines in simulation; see `engines.training.scenario.train_scenario`."""
    return train_scenario(make_world, output, plan, seed=seed, show_progress=show_progress)
