"""The Monte-Carlo ceiling against closed forms, and what exceeds it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from engines.training.evaluation import ceiling
from engines.training.evaluation.bootstrap import Estimate, replicated, resampling
from engines.training.evaluation.metrics import Prediction, auroc, binary_prediction

QUERY, OTHER = frozenset({1}), frozenset({2})
HEADS = {"h": 2}


def gaussians(count: int, seed: int, shift: float = 1.5) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Clean percepts of two streams, ``b`` half as telling as ``a``, and the label."""
    label = np.random.default_rng(seed).integers(2, size=count)
    return {"a": shift * label[:, None].astype(float), "b": 0.5 * shift * label[:, None].astype(float)}, label


def noisy(clean: dict[str, np.ndarray], seed: int, spread: float = 1.0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {stream: values + rng.normal(0, spread, values.shape) for stream, values in clean.items()}


def particles(clean: dict[str, np.ndarray], label: np.ndarray, spread: float = 1.0) -> ceiling.Particles:
    spreads = {stream: np.full(values.shape[1], spread) for stream, values in clean.items()}
    return ceiling.Particles(clean=clean, spread=spreads, labels={"h": label}, seeds=OTHER)


def test_two_gaussians_have_the_closed_form_posterior_and_auroc_in_every_subset() -> None:
    clean, label = gaussians(6000, 0)
    queries = noisy(clean, 1)
    found = ceiling.ceilings(queries, QUERY, particles(*gaussians(3000, 2)), HEADS)
    logit = 1.5 * queries["a"][:, 0] - 1.5**2 / 2
    prior = np.log(np.mean(gaussians(3000, 2)[1]) / (1 - np.mean(gaussians(3000, 2)[1])))
    assert found["10"].probability["h"][:, 1] == pytest.approx(1 / (1 + np.exp(-logit - prior)), abs=1e-4)
    for mask, distance in (("10", 1.5), ("01", 0.75), ("11", np.hypot(1.5, 0.75))):
        assert auroc(found[mask].probability["h"][:, 1], label == 1) == pytest.approx(norm.cdf(distance / 2**0.5), abs=0.015)


def xor(count: int, seed: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    bits = np.random.default_rng(seed).integers(2, size=(2, count))
    return {"a": 2.0 * bits[0][:, None] - 1, "b": 2.0 * bits[1][:, None] - 1}, bits[0] ^ bits[1]


def test_in_an_xor_world_each_stream_alone_is_worth_nothing_and_both_nearly_everything() -> None:
    clean, label = xor(4000, 0)
    found = ceiling.ceilings(noisy(clean, 1, 0.4), QUERY, particles(*xor(4000, 2), 0.4), HEADS)
    area = {mask: auroc(c.probability["h"][:, 1], label == 1) for mask, c in found.items()}
    assert area["11"] > 0.97
    assert abs(area["10"] - 0.5) < 0.03 and abs(area["01"] - 0.5) < 0.03


def test_a_spread_of_each_particle_is_used_and_far_offsets_do_not_cancel() -> None:
    rng = np.random.default_rng(0)
    label = rng.integers(2, size=4000)
    clean = {"a": np.full((4000, 1), 1e8)}  # the mean tells nothing; label 1 is noisier
    made = ceiling.Particles(clean=clean, spread={"a": np.where(label == 1, 3.0, 1.0)[:, None]}, labels={"h": label}, seeds=OTHER)
    found = ceiling.ceilings({"a": np.array([[1e8], [1e8 + 8]])}, QUERY, made, HEADS)["1"].probability["h"][:, 1]
    odds = label.mean() / (1 - label.mean())
    exact = [odds * norm.pdf(d, 0, 3) / (norm.pdf(d) + odds * norm.pdf(d, 0, 3)) for d in (0, 8)]
    assert found == pytest.approx(exact, rel=1e-4)


def test_queries_far_from_every_particle_have_a_posterior_and_say_that_it_rests_on_few() -> None:
    clean, label = gaussians(500, 2)
    found = ceiling.ceilings({"a": np.array([[400.0]]), "b": np.array([[-300.0]])}, QUERY, particles(clean, label, 0.1), HEADS)
    assert np.isfinite(found["11"].probability["h"]).all()
    sparse = ceiling.ceilings(
        {"a": np.zeros((3, 1))}, QUERY, particles({"a": np.arange(300.0)[:, None]}, label[:300], 0.01), HEADS
    )
    assert sparse["1"].few_share == 1.0 and sparse["1"].median_effective == pytest.approx(1.0)


def test_particles_of_the_queries_own_worlds_are_refused() -> None:
    clean, label = gaussians(50, 0)
    with pytest.raises(ValueError, match="share world seeds"):
        ceiling.ceilings(noisy(clean, 1), OTHER, particles(clean, label), HEADS)


def test_percepts_of_other_dims_and_not_finite_ones_are_refused() -> None:
    clean, label = gaussians(50, 0)
    with pytest.raises(ValueError, match="differ in dims"):
        ceiling.ceilings({"a": np.zeros((4, 2)), "b": np.zeros((4, 1))}, QUERY, particles(clean, label), HEADS)
    with pytest.raises(ValueError, match="finite"):
        ceiling.ceilings({"a": np.full((4, 1), np.nan), "b": np.zeros((4, 1))}, QUERY, particles(clean, label), HEADS)


def check(model: Prediction, limit: ceiling.Ceiling, converged: bool = True) -> ceiling.LeakCheck:
    drawn = resampling(model.cluster, replicates=300)
    bound = Prediction(probability=limit.probability["h"], labels=model.labels, cluster=model.cluster)
    ours, best = (replicated(p, drawn, ("auroc",))["auroc"] for p in (model, bound))
    figures = ceiling.CeilingFigures(
        head="h",
        mask="10",
        auroc=best.estimate(),
        half_auroc=best.value - (0 if converged else 0.02),
        median_effective=limit.median_effective,
        few_share=limit.few_share,
    )
    return ceiling.leak_check("h", "model", figures, ours, best)


def test_a_leaked_label_is_flagged_and_an_honest_model_at_its_ceiling_is_not() -> None:
    clean, label = gaussians(4000, 0)
    queries = noisy(clean, 1)
    limit = ceiling.ceilings(queries, QUERY, particles(*gaussians(3000, 2)), HEADS)["10"]
    cluster = np.arange(4000) // 100
    honest = 1 / (1 + np.exp(-1.5 * queries["a"][:, 0] + 1.1))
    leaked = 1 / (1 + np.exp(-1.5 * queries["a"][:, 0] + 1.1 - 0.4 * label))
    assert not check(binary_prediction(honest, label, cluster), limit).leaks
    found = check(binary_prediction(leaked, label, cluster), limit)
    assert found.leaks and found.difference.low > 0 and found.note == ""
    assert "not converged" in check(binary_prediction(leaked, label, cluster), limit, converged=False).note


def test_convergence_needs_halves_that_agree_and_enough_particles_near() -> None:
    def figures(half: float, few: float) -> ceiling.CeilingFigures:
        value = Estimate(value=0.95, low=0.94, high=0.96)
        return ceiling.CeilingFigures(head="h", mask="1", auroc=value, half_auroc=half, median_effective=50, few_share=few)

    assert figures(0.948, 0.01).is_converged
    assert not figures(0.93, 0.01).is_converged
    assert not figures(0.948, 0.3).is_converged
