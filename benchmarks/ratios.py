"""Contenders held against each other: a ratio in each round, in which both ran beside one another in time, and its median."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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


def ratio_of(one: Sequence[float], other: Sequence[float]) -> Ratio | None:
    """``one`` over ``other``, round by round; None where there is no round with both."""
    found = [a / b for a, b in zip(one, other, strict=False) if b > 0]
    return Ratio(median=median(found), least=min(found), greatest=max(found), rounds=len(found)) if found else None


def percentile_of(rounds: Rounds, percent: float) -> list[float]:
    """One figure a round; nothing for a round that holds too few values to carry it."""
    return [float(np.percentile(values, percent)) for values in rounds if len(values) * (100 - percent) >= 100]


def ratio_check(what: str, found: Ratio | None, target: float) -> Check:
    """As a check; what was not measured is not met."""
    return Check(what=what, measured=round(found.median, 3) if found else None, comparison="<=", target=target)


def spread(found: Ratio | None) -> dict[str, Any] | None:
    """For a summary."""
    if found is None:
        return None
    return {
        "median": round(found.median, 4),
        "least": round(found.least, 4),
        "greatest": round(found.greatest, 4),
        "rounds": found.rounds,
    }


def turns(names: Sequence[str], round_number: int) -> list[str]:
    """In which order contenders run: rotated each round, and every other round backwards, so that none always follows the
    same.
    """
    place = round_number % max(len(names), 1)
    order = [*names[place:], *names[:place]]
    return order[::-1] if round_number % 2 else order


def by_name(samples: Mapping[str, Rounds]) -> dict[str, NDArray[np.int64]]:
    """All rounds of each contender in one."""
    return {name: np.concatenate(rounds) for name, rounds in samples.items() if rounds}
