"""Intervals: right against scikit-learn, as wide as they say, and paired."""

from __future__ import annotations

import time

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from engines.training.calibration import expected_calibration_error
from engines.training.evaluation import bootstrap, metrics


def made(ticks: int = 6000, clusters: int = 30, seed: int = 0, digits: int = 9) -> metrics.Prediction:
    rng = np.random.default_rng(seed)
    cluster = np.sort(rng.integers(clusters, size=ticks))
    positive = rng.random(ticks) < 0.05 + 0.1 * rng.random(clusters)[cluster]
    score = 1 / (1 + np.exp(-rng.normal(1.5 * positive + rng.normal(0, 0.4, clusters)[cluster] - 2, 1)))
    return metrics.binary_prediction(np.round(score, digits), positive, cluster)


@pytest.mark.parametrize("digits", [9, 2])
def test_each_replicate_is_the_weighted_figure_of_scikit_learn_with_and_without_ties(digits: int) -> None:
    prediction = made(digits=digits)
    drawn = bootstrap.resampling(prediction.cluster, replicates=5)
    found = bootstrap.replicated(prediction, drawn)
    assert found["auroc"].value == roc_auc_score(prediction.positive, prediction.score)
    for place, weights in enumerate(drawn.weights):
        weight = weights[prediction.cluster]
        repeated = np.repeat(np.arange(len(prediction)), weight.astype(int))
        drawn_ticks = prediction.at(repeated)
        exact = {
            "auroc": roc_auc_score(prediction.positive, prediction.score, sample_weight=weight),
            "auprc": average_precision_score(prediction.positive, prediction.score, sample_weight=weight),
            "brier": metrics.brier(drawn_ticks.score, drawn_ticks.positive),
            "ece": expected_calibration_error(drawn_ticks.probability, drawn_ticks.labels),
        }
        for name, value in exact.items():
            assert found[name].replicates[place] == pytest.approx(value, abs=1e-4), name


def test_a_95_percent_interval_of_clustered_ticks_holds_the_truth_about_95_times_in_100() -> None:
    held, narrow = 0, 0
    worlds = 200
    for seed in range(worlds):
        rng = np.random.default_rng(seed)
        cluster = np.repeat(np.arange(40), 25)
        values = rng.normal(0, 1, 40)[cluster] + rng.normal(0, 1, 1000)  # the truth is 0
        estimate = bootstrap.replicated_mean(values, cluster, bootstrap.resampling(cluster, replicates=400, seed=seed)).estimate()
        held += estimate.low <= 0 <= estimate.high
        ticks = np.arange(1000)
        alone = bootstrap.replicated_mean(values, ticks, bootstrap.resampling(ticks, replicates=200, seed=seed)).estimate()
        narrow += alone.low <= 0 <= alone.high
    assert 0.89 <= held / worlds <= 0.985
    assert narrow / worlds < 0.7, (
        "ticks resampled one by one: the interval must be shown to be too narrow, or the test shows nothing"
    )


def test_the_interval_of_an_auroc_holds_the_closed_form_about_95_times_in_100() -> None:
    truth = 0.76025  # Phi(1 / sqrt 2)
    held = 0
    worlds = 80
    for seed in range(worlds):
        rng = np.random.default_rng(seed)
        cluster = np.repeat(np.arange(60), 10)
        positive = rng.random(600) < 0.5
        score = 1 / (1 + np.exp(-rng.normal(positive * 1.0, 1)))
        prediction = metrics.binary_prediction(score, positive, cluster)
        drawn = bootstrap.resampling(cluster, replicates=200, seed=seed)
        estimate = bootstrap.replicated(prediction, drawn, ("auroc",))["auroc"].estimate()
        held += estimate.low <= truth <= estimate.high
    assert 0.88 <= held / worlds <= 0.99


def test_a_paired_difference_is_far_narrower_than_its_parts_and_zero_against_itself() -> None:
    prediction = made(seed=3)
    drawn = bootstrap.resampling(prediction.cluster, replicates=500)
    worse = metrics.binary_prediction(
        np.clip(prediction.score + np.random.default_rng(0).normal(0, 0.01, len(prediction)), 0, 1),
        prediction.positive,
        prediction.cluster,
    )
    left, right, difference = bootstrap.compared(prediction, worse, drawn, ("auroc",))["auroc"]
    assert difference.high - difference.low < 0.25 * (left.high - left.low)
    assert difference.value == pytest.approx(left.value - right.value)
    same = bootstrap.compared(prediction, prediction, drawn, ("auroc",))["auroc"][2]
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_the_same_seed_draws_the_same_and_another_draws_otherwise() -> None:
    cluster = np.arange(20)
    first, second, other = (bootstrap.resampling(cluster, replicates=10, seed=s).weights for s in (1, 1, 2))
    assert np.array_equal(first, second) and not np.array_equal(first, other)
    assert (first.sum(axis=1) == 20).all()


def test_a_cluster_that_was_not_resampled_is_refused() -> None:
    drawn = bootstrap.resampling(np.array([1, 2, 3]), replicates=4)
    with pytest.raises(ValueError, match="cluster 7"):
        drawn.index_of(np.array([1, 7]))


def test_the_interval_over_seeds_holds_the_spread_of_seeds_and_of_scenarios() -> None:
    rng = np.random.default_rng(0)
    scenario = rng.normal(0, 0.003, 4000)
    alike = [bootstrap.Replicated(value=0.9, replicates=0.9 + scenario) for _ in range(5)]
    values = np.array([0.87, 0.89, 0.90, 0.91, 0.93])
    spread = [bootstrap.Replicated(value=v, replicates=v + scenario) for v in values]
    narrow, wide = bootstrap.over_seeds(alike), bootstrap.over_seeds(spread)
    assert narrow.sd == 0 and wide.sd == pytest.approx(values.std(ddof=1))
    assert narrow.mean.high - narrow.mean.low == pytest.approx(2 * 1.96 * 0.003, rel=0.05)
    both = 2 * 1.96 * np.hypot(0.003, values.std(ddof=1) / np.sqrt(5))
    assert wide.mean.high - wide.mean.low == pytest.approx(both, rel=0.07)


def test_the_difference_between_seeds_of_two_variants_cancels_the_scenarios_they_share() -> None:
    scenario = np.random.default_rng(0).normal(0, 0.05, 2000)
    left = [bootstrap.Replicated(value=0.92, replicates=0.92 + scenario) for _ in range(5)]
    right = [bootstrap.Replicated(value=0.90, replicates=0.90 + scenario) for _ in range(5)]
    found = bootstrap.seeds_compared(left, right)
    assert found.value == pytest.approx(0.02) and found.low == pytest.approx(0.02) and found.high == pytest.approx(0.02)


def test_a_quantile_by_cluster_is_that_of_the_repeated_values() -> None:
    values, cluster = np.array([5.0, 1.0, 3.0, 2.0]), np.array([0, 0, 1, 2])
    drawn = bootstrap.resampling(cluster, replicates=20)
    found = bootstrap.replicated_quantile(values, cluster, drawn, 0.5)
    for weights, median in zip(drawn.weights, found.replicates, strict=True):
        repeated = np.repeat(values, weights[cluster].astype(int))
        assert median == np.quantile(repeated, 0.5, method="inverted_cdf")


def test_a_thousand_replicates_of_twenty_hours_take_seconds() -> None:
    prediction = made(ticks=360_000, clusters=120)
    began = time.perf_counter()
    bootstrap.replicated(prediction, bootstrap.resampling(prediction.cluster, replicates=1000))
    assert time.perf_counter() - began < 10
