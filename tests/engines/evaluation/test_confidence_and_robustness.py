"""Confidence on removal, abstention, losses under conditions, gains over rivals."""

from __future__ import annotations

import numpy as np
import pytest

from engines.training.evaluation import confidence, robustness, subsets
from engines.training.evaluation.bootstrap import Replicated, resampling
from engines.training.evaluation.metrics import Prediction, binary_prediction, measured

CLUSTER = np.arange(400) // 20
LABEL = np.arange(400) % 2


def sure(certainty: float, right: float = 1.0) -> Prediction:
    """Says the truth with this certainty, in a share ``right`` of ticks."""
    told = np.where(np.arange(400) < 400 * right, LABEL, 1 - LABEL)
    return binary_prediction(np.where(told == 1, certainty, 1 - certainty), LABEL, CLUSTER)


def test_rises_are_counted_only_where_the_removed_stream_was_there() -> None:
    present = np.ones((400, 2), np.bool_)
    present[100:, 1] = False
    by_mask = {"11": sure(0.8), "01": sure(0.7), "10": sure(0.805)}
    found = confidence.confidence_figures("h", ("a", "b"), by_mask, present, resampling(CLUSTER, replicates=50))
    assert found.rises.value == pytest.approx(100 / 500)
    assert [e.value for e in found.rises_by_stream] == [0, 1]
    assert found.rises_clearly.value == 0, "0.005 is within the margin"


def test_leaving_out_the_least_confident_helps_only_if_confidence_knows() -> None:
    rng = np.random.default_rng(0)
    score = rng.random(5000)
    cluster = np.zeros(5000, np.int64)
    knowing = binary_prediction(score, rng.random(5000) < score, cluster)
    curve, area, best = confidence.risk_curve(knowing)
    whole = 1 - knowing.hit.mean()
    assert best < area < 0.8 * whole
    assert curve.y[-1] == pytest.approx(whole) and curve.x[-1] == 1
    flat = binary_prediction(np.full(5000, 0.9), rng.random(5000) < 0.9, cluster)
    assert confidence.risk_curve(flat)[1] == pytest.approx(1 - flat.hit.mean()), "equal confidence is one point"


def noisy(noise: float, seed: int, cluster: np.ndarray = CLUSTER) -> Prediction:
    rng = np.random.default_rng(seed)
    logit = rng.normal(2.0 * LABEL, 1) + noise * np.random.default_rng(9).normal(size=400)
    return binary_prediction(1 / (1 + np.exp(-logit)), LABEL, cluster)


def test_a_condition_of_the_same_ticks_is_paired_and_an_unseen_world_is_not() -> None:
    night = robustness.Condition(name="night", group=robustness.CAMERA)
    unseen = robustness.Condition(name="unseen", group=robustness.UNSEEN)
    harder = {night: noisy(0.7, 0), unseen: noisy(0.7, 0, CLUSTER + 500)}
    paired, apart = robustness.condition_figures("h", noisy(0.0, 0), harder, replicates=300)
    assert paired.is_paired and not apart.is_paired
    assert paired.loss.value == pytest.approx(apart.loss.value) and paired.loss.value > 0
    assert paired.loss.high - paired.loss.low < apart.loss.high - apart.loss.low


def test_conditions_hold_all_that_the_issue_names() -> None:
    names = {c.name for c in robustness.STANDARD}
    assert {"SNR 20 dB", "SNR 10 dB", "SNR 0 dB", "SNR -10 dB", "night", "blur", "frozen CAN"} <= names
    assert [c.level for c in robustness.delays("camera")] == [0, 100, 200, 300, 400, 500]


def test_the_share_of_headroom_is_that_between_the_best_single_ceiling_and_the_ceiling() -> None:
    steady = np.zeros(50)
    model, limit, *singles = (Replicated(value=v, replicates=v + steady) for v in (0.95, 0.97, 0.87, 0.80))
    assert subsets.share_of_headroom(model, limit, singles).value == pytest.approx(0.8)
    assert subsets.share_of_headroom(model, limit, singles).low == pytest.approx(0.8)


def test_the_best_rival_is_chosen_in_its_own_favour_and_other_ticks_are_refused() -> None:
    weak, strong = noisy(3.0, 0), noisy(0.1, 0)
    assert subsets.best_of({"weak": weak, "strong": strong})[0] == "strong"
    drawn = resampling(CLUSTER, replicates=20)
    found = subsets.comparison("h", subsets.SINGLE, ("strong", strong), ("weak", weak), drawn)
    assert found.difference["auroc"].value > 0 and set(found.difference) == {"auroc", "auprc", "brier", "ece"}
    with pytest.raises(ValueError, match="same ticks"):
        subsets.comparison("h", subsets.SINGLE, ("a", strong), ("b", noisy(0.1, 0, CLUSTER + 1)), drawn)


def test_calibration_is_measured_on_every_tick_and_on_those_asked() -> None:
    drawn = resampling(CLUSTER, replicates=50)
    asked, everywhere = noisy(1.0, 0), noisy(0.1, 0)
    (figures,) = subsets.subset_figures("h", {"11": asked}, drawn, everywhere={"11": everywhere})
    assert figures.ece_asked.value == pytest.approx(measured(asked, "ece"))
    assert figures.ece.value == pytest.approx(measured(everywhere, "ece"))
    assert figures.ece.value != pytest.approx(figures.ece_asked.value)


def test_a_specialist_that_is_better_leaves_a_gap_above_zero() -> None:
    drawn = resampling(CLUSTER, replicates=50)
    figures = subsets.subset_figures("h", {"11": noisy(1.0, 0), "10": noisy(2.0, 0)}, drawn, {"11": noisy(0.0, 0)})
    gap = figures[0].specialist_gap
    assert gap is not None and gap.value > 0
    assert figures[1].specialist_gap is None
