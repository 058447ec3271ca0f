"""Contenders held against each other: a ratio in each round, in which both ran beside one another in time, and its median."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.measurement import Check

Rounds = Sequence[NDArray[np.int64]]
"""What one contender's rounds gave, in ns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """The median over rounds, the least and the greatest."""

    median: float
    least: float
    greatest: float
    rounds: int


def ratio_of(one: Sequence[float | None], other: Sequence[float | None]) -> Ratio | None:
    """``one`` over ``other``, round by round; None where there is no round with both."""
    found = [a / b for a, b in zip(one, other, strict=False) if a is not None and b]
    return Ratio(median=median(found), least=min(found), greatest=max(found), rounds=len(found)) if found else None


def percentile_of(rounds: Rounds, percent: float) -> list[float | None]:
    """One figure a round; None for a round that holds too few values to carry it."""
    return [float(np.percentile(values, percent)) if len(values) * (100 - percent) >= 100 else None for values in rounds]


def ratio_check(what: str, found: Ratio | None, target: float) -> Check:
    """As a check; what was not measured is not met."""
    return Check(what=what, measured=round(found.median, 3) if found else None, comparison="<=", target=target)


def spread(found: Ratio | None) -> dict[str, Any] | None:
    """For a summary."""
    if found is None:
        return None
    return {name: round(value, 4) for name, value in asdict(found).items()}
