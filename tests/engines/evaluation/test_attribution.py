"""Exact Shapley values: their axioms, and agreement with the world."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from engines.training.evaluation import attribution
from engines.training.evaluation.bootstrap import resampling

MASKS = ["".join(bits) for bits in product("01", repeat=4)]


def random_worth(ticks: int = 200, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {mask: rng.normal(0, 3, ticks) for mask in MASKS}


def test_shapley_values_sum_to_the_worth_of_all_less_that_of_none() -> None:
    worth = random_worth()
    assert attribution.shapley_values(worth).sum(axis=1) == pytest.approx(worth["1111"] - worth["0000"])


def test_in_an_additive_game_each_stream_gets_its_own_share_and_an_idle_one_nothing() -> None:
    rng = np.random.default_rng(1)
    share = rng.normal(0, 1, (50, 4))
    share[:, 2] = 0
    worth = {mask: 0.7 + sum(share[:, p] for p in range(4) if mask[p] == "1") + np.zeros(50) for mask in MASKS}
    assert attribution.shapley_values(worth) == pytest.approx(share)


def test_streams_that_only_tell_together_share_what_they_tell() -> None:
    worth = {"00": np.zeros(1), "01": np.zeros(1), "10": np.zeros(1), "11": np.ones(1)}
    assert attribution.shapley_values(worth) == pytest.approx(np.array([[0.5, 0.5]]))


def test_a_missing_subset_is_named() -> None:
    worth = random_worth()
    del worth["0000"]
    with pytest.raises(ValueError, match="0000"):
        attribution.shapley_values(worth)


def test_log_odds_of_several_alarm_classes_are_those_of_their_summed_probability() -> None:
    logits = np.random.default_rng(0).normal(0, 2, (20, 4))
    probability = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    alarm = probability[:, 2:].sum(axis=1)
    assert attribution.alarm_log_odds(logits, (2, 3)) == pytest.approx(np.log(alarm / (1 - alarm)))


def test_agreement_is_one_where_the_decisive_stream_leads_and_chance_where_nothing_is_known() -> None:
    rng = np.random.default_rng(0)
    decisive = np.where(np.arange(4000) % 2 == 0, rng.integers(4, size=4000), -1)
    cluster = np.arange(4000) // 100
    drawn = resampling(cluster, replicates=300)
    leading = rng.normal(0, 0.1, (4000, 4))
    leading[np.arange(4000), np.maximum(decisive, 0)] = -3
    names = ("a", "b", "c", "d")
    perfect = attribution.attribution_figures("h", names, leading, decisive, cluster, drawn)
    assert perfect.ticks == 2000 and perfect.agreement.value == 1 and np.trace(np.array(perfect.table)) == 4
    blind = attribution.attribution_figures("h", names, rng.normal(0, 1, (4000, 4)), decisive, cluster, drawn)
    assert blind.chance == pytest.approx(0.25, abs=0.01)
    assert blind.agreement.low < blind.chance < blind.agreement.high


def test_a_head_that_no_single_stream_ever_decides_is_refused() -> None:
    with pytest.raises(ValueError, match="decisive"):
        attribution.attribution_figures(
            "h", ("a",), np.zeros((3, 1)), np.full(3, -1), np.zeros(3, np.int64), resampling(np.zeros(3, np.int64))
        )
