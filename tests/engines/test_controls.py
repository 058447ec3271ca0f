from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from engines.training.controls import WORLDS, control_scores, features_from_ticks, token_set, trained_encoders  # noqa: E402
from engines.training.evaluation.metrics import auroc  # noqa: E402
from pipeline.scenarios.controls import redundant, xor  # noqa: E402
from pipeline.scenarios.controls.sensing import STREAMS, ControlTicks  # noqa: E402


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _bayes_auroc(ticks: ControlTicks) -> float:
    side, pitch = (np.tanh(ticks.percepts[s][:, 0].astype(np.float64) / xor.SPREAD**2) for s in STREAMS)
    return auroc(-side * pitch, ticks.labels == 1)


def test_the_xor_ceiling_is_what_bayes_reaches_on_drawn_percepts_and_one_half_for_one_sensor() -> None:
    ticks = xor.draw(5, 20_000)
    assert xor.ceiling((True, True)) == pytest.approx(_bayes_auroc(ticks), abs=1e-3)
    assert xor.ceiling((True, False)) == 0.5
    for stream in STREAMS:
        assert auroc(ticks.percepts[stream][:, 0], ticks.labels == 1) == pytest.approx(0.5, abs=0.02)


def test_the_redundant_ceiling_is_what_percepts_reach_and_a_second_sensor_hardly_raises_it() -> None:
    ticks = redundant.draw(5, 20_000)
    truth = ticks.labels == 1
    one, both = redundant.ceiling((True, False)), redundant.ceiling((True, True))
    assert one == pytest.approx(auroc(ticks.percepts["camera"][:, 0], truth), abs=0.006)
    assert 0 < both - one < 5e-4 and redundant.ceiling((False, False)) == 0.5


@pytest.mark.parametrize("world", WORLDS)
def test_a_seed_draws_the_same_ticks_and_another_seed_others(world: str) -> None:
    first, again, other = (WORLDS[world].draw(seed, 50) for seed in (1, 1, 2))
    assert np.array_equal(first.images, again.images) and np.array_equal(first.sounds, again.sounds)
    assert not np.array_equal(first.images, other.images) and first.images.shape == (50, 16, 16, 3)


@pytest.mark.parametrize("world", WORLDS)
def test_encoders_find_what_their_sensor_shows(world: str) -> None:
    encoders = trained_encoders(WORLDS[world].draw(1, 2000), steps=300)
    ticks = WORLDS[world].draw(2, 1000)
    for stream, features in features_from_ticks(ticks).items():
        with torch.inference_mode():
            clue = encoders[stream].clue(encoders[stream](torch.from_numpy(features)).flatten(1)).numpy()[:, 0]
        assert np.corrcoef(clue, ticks.percepts[stream][:, 0])[0, 1] > 0.97
    tokens = token_set(ticks, encoders, 2)
    assert tokens.tokens["camera"].shape == (1000, 2, 64) and len(np.unique(tokens.run)) == 100


def test_in_the_xor_world_intermediate_fusion_finds_what_additive_late_fusion_cannot() -> None:
    scores = control_scores("xor", variants=("low_rank", "late_stacking"), train_ticks=4000, test_ticks=4000, steps=120)
    found = {score.variant: score for score in scores}
    assert found["low_rank"].fused >= 0.97 and found["late_stacking"].fused <= 0.55
    assert found["low_rank"].best_single < 0.55 and found["low_rank"].fused <= found["low_rank"].ceiling[True, True] + 0.002


def test_in_the_redundant_world_fusion_gains_nothing() -> None:
    (score,) = control_scores("redundant", variants=("concat",), train_ticks=4000, test_ticks=4000, steps=120)
    assert abs(score.gain) <= 0.01 and score.fused > 0.86
