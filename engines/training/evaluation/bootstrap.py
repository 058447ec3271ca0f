"""Intervals by resampling whole scenarios, the same ones for all that is compared.

Ticks of one run resemble one another, so runs (world seeds) are drawn with replacement, not ticks (Efron and Tibshirani,
"An Introduction to the Bootstrap", 1993, chapter 8). Every figure is reduced once to sums by cluster; a replicate is then a
weighted sum of those, so a thousand replicates of 360,000 ticks take about a second.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.training.evaluation.metrics import BINS, Flags, Floats, Prediction, confidence_bins, measured

REPLICATES = 2000
LEVEL = 0.95
RANKS = 2048
"""Score levels that the replicates of areas tell apart, half of them spread over true ticks and half over the others."""
MEASURES = ("auroc", "auprc", "brier", "ece")

Weights = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A figure with its 95% interval. NaN where it could not be measured."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Replicated:
    """A figure on the data, and the same on each resample ``[replicates]``."""

    value: float
    replicates: NDArray[np.float64]

    def minus(self, other: Replicated) -> Replicated:
        """The paired difference. Both must come from the same `Resampling`."""
        return Replicated(value=self.value - other.value, replicates=self.replicates - other.replicates)

    def over(self, other: Replicated) -> Replicated:
        """The paired ratio; NaN where the other is 0."""
        ratio = np.full(len(self.replicates), np.nan)
        np.divide(self.replicates, other.replicates, out=ratio, where=other.replicates != 0)
        return Replicated(value=self.value / other.value if other.value else float("nan"), replicates=ratio)

    def estimate(self, level: float = LEVEL) -> Estimate:
        """The figure with its percentile interval; resamples on which it is not defined are left out."""
        known = self.replicates[np.isfinite(self.replicates)]
        if not len(known):
            return Estimate(value=self.value, low=float("nan"), high=float("nan"))
        low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
        return Estimate(value=self.value, low=float(low), high=float(high))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Resampling:
    """How often each cluster was drawn in each replicate, ``weights`` float32 ``[replicates, clusters]``."""

    clusters: NDArray[np.int64]
    weights: Weights

    def index_of(self, cluster: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
        """The column of each tick's cluster. Raises ValueError for a cluster that was not drawn from."""
        place = np.minimum(np.searchsorted(self.clusters, cluster), len(self.clusters) - 1)
        strangers = self.clusters[place] != cluster
        if strangers.any():
            raise ValueError(f"cluster {int(np.asarray(cluster)[strangers][0])} is not among those resampled")
        return place

    def with_all(self) -> Weights:
        """The weights with one more row before them: every cluster once."""
        return np.concatenate([np.ones((1, len(self.clusters)), np.float32), self.weights])


def resampling(cluster: NDArray[np.integer[Any]], *, replicates: int = REPLICATES, seed: int = 0) -> Resampling:
    """Draw as many clusters as there are, with replacement, ``replicates`` times. The same seed draws the same."""
    clusters = np.unique(np.asarray(cluster, dtype=np.int64))
    if not len(clusters):
        raise ValueError("no tick, so no cluster to draw")
    rng = np.random.Generator(np.random.PCG64(seed))
    weights = rng.multinomial(len(clusters), np.full(len(clusters), 1 / len(clusters)), size=replicates)
    return Resampling(clusters=clusters, weights=weights.astype(np.float32))


def replicated(prediction: Prediction, drawn: Resampling, which: Sequence[str] = MEASURES) -> dict[str, Replicated]:
    """The measures of a prediction (see `MEASURES`), each with its replicates."""
    column = drawn.index_of(prediction.cluster)
    found: dict[str, NDArray[np.float64]] = {}
    if "auroc" in which or "auprc" in which:
        found["auroc"], found["auprc"] = _areas(prediction.score, prediction.positive, column, drawn)
    if "brier" in which:
        found["brier"] = _means((prediction.score - prediction.positive) ** 2, column, drawn)
    if "ece" in which:
        found["ece"] = _calibration_errors(prediction, column, drawn)
    return {name: _recentred(measured(prediction, name), found[name]) for name in which}


def replicated_mean(values: NDArray[Any], cluster: NDArray[np.integer[Any]], drawn: Resampling) -> Replicated:
    """The mean of ``values [n]`` over ticks (a share, for flags)."""
    exact = float(np.mean(values)) if len(values) else float("nan")
    return _recentred(exact, _means(np.asarray(values, np.float64), drawn.index_of(cluster), drawn))


def replicated_ratio(numerator: NDArray[Any], denominator: NDArray[Any], drawn: Resampling) -> Replicated:
    """The ratio of two sums, each given by cluster ``[clusters]`` in the order of ``drawn.clusters`` (events and hours)."""
    weights = drawn.with_all().astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        both: NDArray[np.float64] = (weights @ numerator.astype(np.float64)) / (weights @ denominator.astype(np.float64))
    return Replicated(value=float(both[0]), replicates=both[1:])


def replicated_quantile(values: Floats, cluster: NDArray[np.integer[Any]], drawn: Resampling, quantile: float) -> Replicated:
    """A quantile of ``values [n]``: the smallest that at least this share does not exceed."""
    if not len(values):
        return Replicated(value=float("nan"), replicates=np.full(len(drawn.weights), np.nan))
    order = np.argsort(values, kind="stable")
    weight = drawn.with_all()[:, drawn.index_of(np.asarray(cluster)[order])].astype(np.float64)
    share = np.cumsum(weight, axis=1)
    reached = share >= quantile * share[:, -1:] - 1e-9
    at = np.asarray(values, np.float64)[order][reached.argmax(axis=1)]
    at = np.where(share[:, -1] > 0, at, np.nan).astype(np.float64)
    return Replicated(value=float(at[0]), replicates=at[1:])


def compared(
    left: Prediction, right: Prediction, drawn: Resampling, which: Sequence[str] = MEASURES
) -> dict[str, tuple[Estimate, Estimate, Estimate]]:
    """Measure to left, right and left minus right, on the same resamples."""
    a, b = replicated(left, drawn, which), replicated(right, drawn, which)
    return {name: (a[name].estimate(), b[name].estimate(), a[name].minus(b[name]).estimate()) for name in which}


@dataclass(frozen=True, slots=True, kw_only=True)
class SeededEstimate:
    """A figure over training seeds: each seed's own, their mean and sd, and an interval that holds both seeds and scenarios."""

    seeds: tuple[float, ...]
    sd: float
    mean: Estimate


def over_seeds(found: Sequence[Replicated], *, seed: int = 0) -> SeededEstimate:
    """Join one figure of several training seeds, all from the same `Resampling`.

    Each replicate draws seeds with replacement too. A mean of S draws varies by (S - 1)/S too little; the draws' distance from
    the replicate's mean is widened by the root of S/(S - 1) to make up for it.
    """
    values = np.array([f.value for f in found])
    drawn = _seed_means(found, np.random.Generator(np.random.PCG64(seed)))
    joined = Replicated(value=float(values.mean()), replicates=drawn)
    sd = float(values.std(ddof=1)) if len(values) > 1 else float("nan")
    return SeededEstimate(seeds=tuple(float(v) for v in values), sd=sd, mean=joined.estimate())


def seeds_compared(left: Sequence[Replicated], right: Sequence[Replicated], *, seed: int = 0) -> Estimate:
    """Mean of the left's seeds minus mean of the right's. Seeds are drawn apart (they are not pairs), scenarios together."""
    rng = np.random.Generator(np.random.PCG64(seed))
    difference = _seed_means(left, rng) - _seed_means(right, rng)
    value = float(np.mean([f.value for f in left]) - np.mean([f.value for f in right]))
    return Replicated(value=value, replicates=difference).estimate()


def _seed_means(found: Sequence[Replicated], rng: np.random.Generator) -> NDArray[np.float64]:
    by_seed = np.stack([f.replicates for f in found])
    count, replicates = by_seed.shape
    centre = by_seed.mean(axis=0)
    if count == 1:
        return np.asarray(centre)
    picked = rng.integers(count, size=(count, replicates))
    drawn = np.take_along_axis(by_seed, picked, axis=0).mean(axis=0)
    result: NDArray[np.float64] = centre + (drawn - centre) * np.sqrt(count / (count - 1))
    return result


def _recentred(exact: float, with_all: NDArray[np.float64]) -> Replicated:
    """Replicates after their first, which is the same sum over all clusters: what grouping scores lost is given back."""
    return Replicated(value=exact, replicates=with_all[1:] + (exact - with_all[0]))


def _sums(values: Floats | Flags, column: NDArray[np.int64], clusters: int) -> NDArray[np.float64]:
    return np.bincount(column, weights=values, minlength=clusters).astype(np.float64)


def _means(values: Floats, column: NDArray[np.int64], drawn: Resampling) -> NDArray[np.float64]:
    clusters = len(drawn.clusters)
    return _weighted(drawn, lambda w: (w @ _sums(values, column, clusters)) / (w @ np.bincount(column, minlength=clusters)))


def _calibration_errors(prediction: Prediction, column: NDArray[np.int64], drawn: Resampling) -> NDArray[np.float64]:
    clusters = len(drawn.clusters)
    gap = prediction.confidence - prediction.hit
    place = column * BINS + confidence_bins(prediction.confidence)
    gaps = np.bincount(place, weights=gap, minlength=clusters * BINS).reshape(clusters, BINS)
    count = np.bincount(column, minlength=clusters)
    return _weighted(drawn, lambda w: np.abs(w @ gaps).sum(axis=1) / (w @ count))


def _areas(
    score: Floats, positive: Flags, column: NDArray[np.int64], drawn: Resampling
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """AUROC and average precision with all clusters and in each replicate, scores grouped into at most `RANKS` levels."""
    clusters, edges = len(drawn.clusters), _edges(score, positive)
    levels = len(edges) + 1
    # the highest scores first, so that running sums are of what lies at or above
    place = column * levels + (levels - 1 - np.searchsorted(edges, score, side="right"))
    shape, size = (clusters, levels), clusters * levels
    true = np.bincount(place[positive], minlength=size).reshape(shape).astype(np.float32)
    false = np.bincount(place[~positive], minlength=size).reshape(shape).astype(np.float32)

    def areas(weights: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        p, n = weights @ true, weights @ false
        above_p, above_n = np.cumsum(p, axis=1, dtype=np.float64), np.cumsum(n, axis=1, dtype=np.float64)
        all_p, all_n = above_p[:, -1], above_n[:, -1]
        ranked = (p * (all_n[:, None] - above_n + 0.5 * n)).sum(axis=1) / (all_p * all_n)
        precision = above_p / np.maximum(above_p + above_n, 1e-12)
        both = np.stack([ranked, (p * precision).sum(axis=1) / all_p], axis=1)
        return np.where(((all_p > 0) & (all_n > 0))[:, None], both, np.nan)

    found = _weighted(drawn, areas)
    return found[:, 0], found[:, 1]


def _edges(score: Floats, positive: Flags) -> NDArray[np.float64]:
    """Ascending levels between which scores count as equal: every distinct score where there are few."""
    distinct = np.unique(score)
    if len(distinct) <= RANKS:
        return np.asarray(distinct[1:], np.float64)
    grid = np.linspace(0, 1, RANKS // 2 + 1)[1:-1]
    parts = [np.quantile(part, grid, method="higher") for part in (score[positive], score[~positive]) if len(part)]
    return np.unique(np.concatenate(parts))


def _weighted(
    drawn: Resampling, finish: Callable[[NDArray[np.floating[Any]]], NDArray[np.float64]], rows: int = 256
) -> NDArray[np.float64]:
    """``finish`` of all clusters once and then of each replicate, a few hundred replicates at a time."""
    weights = drawn.with_all()
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.concatenate([finish(weights[start : start + rows]) for start in range(0, len(weights), rows)])
