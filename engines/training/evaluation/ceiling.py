"""How well anyone could do: the Bayes posterior given what each stream could perceive, by Monte Carlo.

A world draws latents and a label, and a stream perceives its part of them, ``clean``, with Gaussian noise of a known
``spread``. For percepts ``o`` of a subset of streams and draws ``j`` of other worlds (particles),

    P(y | o) = sum_j y_j prod_s N(o_s; clean_sj, spread_s) / sum_j prod_s N(o_s; clean_sj, spread_s)

tends to the exact posterior as particles grow in number (importance sampling from the prior). It bounds a predictor that
sees as much; percepts must hold what windows and memory tell of the past, or a network may rightly exceed it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.training.calibration import stream_subsets
from engines.training.evaluation.bootstrap import Estimate, Replicated

Array = NDArray[np.floating[Any]]
FEW = 5.0
"""A posterior that rests on fewer effective particles than this is noise."""
MAX_FEW_SHARE = 0.1
MAX_DRIFT = 0.005
"""How far the AUROC of half the particles may lie from that of all: more, and more particles would still change it."""
ROWS = 8
"""Queries a chunk: their weights of 50,000 particles stay in the processor's cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Particles:
    """Draws of the world: ``clean`` and ``spread`` by stream ``[m, dims]``, labels by head ``[m]``, and the seeds they are of.

    A spread that never changes may be ``[dims]``.
    """

    clean: Mapping[str, Array]
    spread: Mapping[str, Array]
    labels: Mapping[str, NDArray[np.integer[Any]]]
    seeds: frozenset[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceiling:
    """The posterior of one subset, by head ``[queries, classes]``: from all particles, and from the first and the second half.

    ``effective`` ``[queries]`` is how many equally weighted particles would be as good (Kong, 1992).
    """

    probability: Mapping[str, NDArray[np.float64]]
    first_half: Mapping[str, NDArray[np.float64]]
    second_half: Mapping[str, NDArray[np.float64]]
    effective: NDArray[np.float64]

    @property
    def median_effective(self) -> float:
        """Median of ``effective``."""
        return float(np.median(self.effective))

    @property
    def few_share(self) -> float:
        """Share of queries whose posterior rests on fewer than `FEW` particles."""
        return float((self.effective < FEW).mean())


def ceilings(
    percepts: Mapping[str, Array],
    query_seeds: frozenset[int],
    particles: Particles,
    classes: Mapping[str, int],
    *,
    on_progress: Callable[[int], None] = lambda _: None,
) -> dict[str, Ceiling]:
    """The posterior of every subset of streams but none, by availability mask (streams in the order of ``percepts``).

    ``percepts``: stream to ``[queries, dims]``; ``classes``: head to its number of classes; ``on_progress`` hears how many
    queries are done. Particles are shuffled by a fixed seed, so that halves are alike. Raises ValueError when queries
    and particles share a world seed, streams or shapes do not match, or a value is not finite.
    """
    shared = query_seeds & particles.seeds
    if shared:
        raise ValueError(f"queries and particles share world seeds {sorted(shared)[:5]}: the ceiling would know the answers")
    streams = tuple(percepts)
    order = np.random.Generator(np.random.PCG64(0)).permutation(len(next(iter(particles.labels.values()))))
    terms = [_Quadratic(s, percepts[s], particles, order) for s in streams]
    truth, columns = _one_hot(particles.labels, classes, order)
    queries, half = len(percepts[streams[0]]), len(order) // 2
    masks = ["".join("1" if p else "0" for p in present) for present in stream_subsets(len(streams))]
    sums = {mask: np.zeros((2, queries, truth.shape[1])) for mask in masks}
    squares = {mask: np.zeros((2, queries)) for mask in masks}
    for start in range(0, queries, ROWS):
        rows = slice(start, min(start + ROWS, queries))
        for mask, weight in _subset_weights([t.log_likelihood(rows) for t in terms]):
            sums[mask][0, rows], sums[mask][1, rows] = weight[:, :half] @ truth[:half], weight[:, half:] @ truth[half:]
            squares[mask][0, rows] = weight.sum(axis=1, dtype=np.float64)
            squares[mask][1, rows] = np.einsum("qm,qm->q", weight, weight)
        on_progress(rows.stop)
    return {mask: _ceiling(sums[mask], squares[mask], columns) for mask in masks}


class _Quadratic:
    """The log likelihood of one stream's percepts under every particle, as matrix products."""

    def __init__(self, stream: str, percepts: Array, particles: Particles, order: NDArray[np.int64]) -> None:
        clean = np.asarray(particles.clean[stream], np.float64)[order]
        spread = np.asarray(particles.spread[stream], np.float64)
        spread = np.broadcast_to(spread[order] if spread.ndim == 2 else spread, clean.shape)
        if percepts.ndim != 2 or percepts.shape[1] != clean.shape[1]:
            raise ValueError(f"{stream}: percepts {percepts.shape} and particles {clean.shape} differ in dims")
        if not (np.isfinite(percepts).all() and np.isfinite(clean).all() and (spread > 0).all()):
            raise ValueError(f"{stream}: percepts and clean values must be finite, spreads above 0")
        centre = clean.mean(axis=0)  # without it, squares of large offsets would cancel
        clean = clean - centre
        observed = np.asarray(percepts, np.float64) - centre
        precision = spread**-2
        self._left = np.concatenate([-0.5 * observed**2, observed], axis=1)
        self._right = np.ascontiguousarray(np.concatenate([precision, clean * precision], axis=1).T)
        self._constant = -0.5 * (clean**2 * precision).sum(axis=1) - np.log(spread).sum(axis=1)

    def log_likelihood(self, rows: slice) -> NDArray[np.float32]:
        """``[rows, particles]``, float32 after the largest of each row is taken off: products are in float64."""
        exact = self._left[rows] @ self._right
        exact += self._constant
        exact -= exact.max(axis=1, keepdims=True)
        result: NDArray[np.float32] = exact.astype(np.float32)
        return result


def _subset_weights(logs: list[NDArray[np.float32]]) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Mask and weights ``[rows, particles]`` of each subset, the largest weight of a row being 1.

    Sums of logs are shared between subsets with the same first streams.
    """

    def walk(place: int, mask: str, total: NDArray[np.float32] | None) -> Iterator[tuple[str, NDArray[np.float32]]]:
        if place == len(logs):
            if total is not None:
                weight = total - total.max(axis=1, keepdims=True)
                yield mask, np.exp(weight, out=weight)
            return
        yield from walk(place + 1, mask + "1", logs[place] if total is None else total + logs[place])
        yield from walk(place + 1, mask + "0", total)

    return walk(0, "", None)


def _one_hot(
    labels: Mapping[str, NDArray[np.integer[Any]]], classes: Mapping[str, int], order: NDArray[np.int64]
) -> tuple[NDArray[np.float32], dict[str, slice]]:
    parts, columns, start = [], {}, 0
    for head, count in classes.items():
        parts.append(np.eye(count, dtype=np.float32)[np.asarray(labels[head], np.int64)[order]])
        columns[head] = slice(start, start + count)
        start += count
    return np.concatenate(parts, axis=1), columns


def _ceiling(sums: NDArray[np.float64], squares: NDArray[np.float64], columns: Mapping[str, slice]) -> Ceiling:
    def shares(counts: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        found = {}
        for head, part in columns.items():
            total = counts[:, part].sum(axis=1, keepdims=True)
            # where a half holds no particle that is near, it knows nothing
            found[head] = np.where(total > 0, counts[:, part] / np.maximum(total, 1e-300), 1 / counts[:, part].shape[1])
        return found

    return Ceiling(
        probability=shares(sums[0] + sums[1]),
        first_half=shares(sums[0]),
        second_half=shares(sums[1]),
        effective=squares[0] ** 2 / squares[1],
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class CeilingFigures:
    """One subset's ceiling for one head. ``half_auroc``: mean of what each half of the particles alone gives."""

    head: str
    mask: str
    auroc: Estimate
    half_auroc: float
    median_effective: float
    few_share: float

    @property
    def is_converged(self) -> bool:
        """Whether more particles would hardly change it, so that a model above it is a reason to look for a leak."""
        return abs(self.auroc.value - self.half_auroc) <= MAX_DRIFT and self.few_share <= MAX_FEW_SHARE


@dataclass(frozen=True, slots=True, kw_only=True)
class LeakCheck:
    """Whether a predictor exceeds the ceiling of the streams it reads. ``difference``: its AUROC minus the ceiling's."""

    head: str
    who: str
    mask: str
    auroc: Estimate
    ceiling: Estimate
    difference: Estimate
    leaks: bool
    note: str


def leak_check(head: str, who: str, figures: CeilingFigures, model: Replicated, ceiling: Replicated) -> LeakCheck:
    """Compare a predictor with the ceiling, both replicated on the same ticks and resamples.

    It leaks where the whole 95% interval of the difference lies above 0. If the ceiling has not converged (too few particles are
    near the queries) it lies too low; that is noted, and does not excuse.
    """
    difference = model.minus(ceiling).estimate()
    leaks = bool(difference.low > 0)
    note = "" if figures.is_converged else f"ceiling not converged (median of {figures.median_effective:.0f} effective particles)"
    return LeakCheck(
        head=head,
        who=who,
        mask=figures.mask,
        auroc=model.estimate(),
        ceiling=ceiling.estimate(),
        difference=difference,
        leaks=leaks,
        note=note,
    )
