"""Which seeds are for training and which for testing only. A world's seed decides everything about a run."""

from __future__ import annotations

from collections.abc import Iterable

SHIPPED_SEEDS = {"driving": 20261123, "patient": 20261122}
"""Scenario to the run that ships as a log."""
TEST_SEEDS = range(1000, 2000)
"""Of every scenario: the accuracy benchmark, and the evaluation's dense runs."""
EVALUATION_SEEDS = range(5000, 10_000)
"""The evaluation's everyday, unfamiliar and ceiling runs."""


def check_trainable(seeds: Iterable[int]) -> None:
    """Raise ValueError when a seed belongs to the test or is that of a run that ships."""
    forbidden = sorted(s for s in set(seeds) if s in TEST_SEEDS or s in EVALUATION_SEEDS or s in SHIPPED_SEEDS.values())
    if forbidden:
        shown = ", ".join(str(s) for s in forbidden[:5])
        raise ValueError(f"seeds {shown}{' …' if len(forbidden) > 5 else ''} are for testing only; train on others")
