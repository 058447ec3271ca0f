"""Linear probes find what lies open in one stream, and only that."""

from __future__ import annotations

import numpy as np
import pytest

from engines.training.evaluation import probes
from engines.training.evaluation.metrics import auroc
from engines.training.token_set import TokenSet

STREAMS = ("camera", "text")


def made(seeds: tuple[int, ...], leak: float, ticks: int = 200) -> TokenSet:
    """Camera tokens hold the label times ``leak``; text holds nothing and is absent in every third tick."""
    rng = np.random.default_rng(seeds[0])
    n = ticks * len(seeds)
    label = rng.integers(2, size=n).astype(np.uint8)
    tokens = {s: rng.normal(0, 1, (n, 3, 8)).astype(np.float16) for s in STREAMS}
    tokens["camera"][:, :, 5] += (leak * label[:, None]).astype(np.float16)
    state = np.zeros((n, 2), np.uint8)
    state[::3, 1] = 2
    return TokenSet(
        tick_s=0.2,
        seeds=seeds,
        run=np.repeat(np.arange(len(seeds), dtype=np.int32), ticks),
        time_s=np.tile(np.arange(ticks) * 0.2, len(seeds)).astype(np.float32),
        tokens=tokens,
        low_level={s: np.zeros((n, 1, 1), np.float16) for s in STREAMS},
        state=state,
        age_s=np.zeros((n, 2), np.float32),
        labels={"h": label},
        scored={"h": np.ones(n, np.bool_)},
        percepts={s: rng.normal(0, 1, (n, 2)).astype(np.float32) for s in STREAMS},
        decisive=np.full(n, -1, np.int8),
        events=(),
    )


def test_a_label_in_the_tokens_of_one_stream_is_read_there_and_nowhere_else() -> None:
    train, test = made((1, 2, 3), leak=2.0), made((11, 12), leak=2.0)
    rows = np.arange(0, len(test), 2)
    found = {(p.stream, p.source): p.prediction for p in probes.linear_probes(train, test, "h", 2, rows)}
    area = {key: auroc(p.score, p.positive) for key, p in found.items()}
    assert area["camera", "tokens"] > 0.95
    assert all(abs(value - 0.5) < 0.12 for key, value in area.items() if key != ("camera", "tokens"))
    assert set(np.unique(found["text", "percepts"].cluster)) == {11, 12}


def test_what_an_absent_stream_holds_is_not_read() -> None:
    tokens = made((1,), leak=0.0)
    read = probes.features(tokens, "text", "tokens", np.array([0, 1]))
    assert (read[0, :-3] == 0).all() and read[0, -3:].tolist() == [0, 0, 1]
    assert (read[1, :-3] != 0).any() and read[1, -3:].tolist() == [1, 0, 0]


def test_sets_that_share_a_world_are_refused() -> None:
    with pytest.raises(ValueError, match="share world seeds"):
        probes.linear_probes(made((1, 2), 0.0), made((2, 3), 0.0), "h", 2, np.arange(10))


def test_a_class_that_training_never_saw_gets_no_probability() -> None:
    rng = np.random.default_rng(0)
    found = probes.probed(rng.normal(size=(50, 3)), np.array([0, 2] * 25), rng.normal(size=(5, 3)), 3)
    assert found.sum(axis=1) == pytest.approx(np.ones(5)) and (found[:, 1] == 0).all()
    assert (probes.probed(rng.normal(size=(5, 3)), np.ones(5, np.int64), rng.normal(size=(5, 3)), 2)[:, 1] == 1).all()
