"""Linear probes: what logistic regression reads from one stream alone, the first look for a label that leaks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from engines.training.evaluation.metrics import Prediction
from engines.training.token_set import TokenSet

Source = Literal["tokens", "percepts"]
SOURCES: tuple[Source, ...] = ("tokens", "percepts")
MAX_TICKS = 20_000
STATES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What was read from one stream of the test set, at the ticks that were asked for."""

    head: str
    stream: str
    source: Source
    prediction: Prediction


def linear_probes(
    train: TokenSet,
    test: TokenSet,
    head: str,
    classes: int,
    rows: NDArray[np.int64],
    *,
    max_ticks: int = MAX_TICKS,
    seed: int = 0,
) -> tuple[Probe, ...]:
    """Fit on scored ticks of ``train``, predict the ``rows`` of ``test``, for each stream from its tokens and from its percepts.

    Features are means and maxima over a window's tokens (or the percepts as they are), 0 where the stream is not present,
    and the stream's state. Raises ValueError when the two sets share a world seed, or ``train`` has no scored tick.
    """
    shared = set(train.seeds) & set(test.seeds)
    if shared:
        raise ValueError(f"train and test share world seeds {sorted(shared)[:5]}: a probe would know the answers")
    learned = np.flatnonzero(train.scored[head])
    if not len(learned):
        raise ValueError(f"head {head!r}: no scored tick to train a probe on")
    if len(learned) > max_ticks:
        rng = np.random.Generator(np.random.PCG64(seed))
        learned = np.sort(rng.choice(learned, max_ticks, replace=False))
    cluster = np.asarray(test.seeds, np.int64)[np.asarray(test.run)[rows]]
    found = []
    for stream in train.streams:
        for source in SOURCES:
            probability = probed(
                features(train, stream, source, learned),
                np.asarray(train.labels[head])[learned],
                features(test, stream, source, rows),
                classes,
            )
            prediction = Prediction(
                probability=probability, labels=np.asarray(test.labels[head])[rows].astype(np.int64), cluster=cluster
            )
            found.append(Probe(head=head, stream=stream, source=source, prediction=prediction))
    return tuple(found)


def features(tokens: TokenSet, stream: str, source: Source, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """What a probe reads of one stream, float32 ``[rows, features]``."""
    state = np.asarray(tokens.state)[rows, tokens.streams.index(stream)]
    if source == "tokens":
        held = np.asarray(tokens.tokens[stream][rows], np.float32)
        values = np.concatenate([held.mean(axis=1), held.max(axis=1)], axis=1)
    else:
        values = np.asarray(tokens.percepts[stream][rows], np.float32)
    there = (state == 0)[:, None]
    return np.concatenate([np.where(there, values, 0), np.eye(STATES, dtype=np.float32)[state]], axis=1)


def probed(
    train_features: NDArray[Any], train_labels: NDArray[Any], test_features: NDArray[Any], classes: int
) -> NDArray[np.float64]:
    """Probabilities ``[n, classes]`` of a logistic regression on standardised features; a class never seen gets 0."""
    probability = np.zeros((len(test_features), classes))
    seen = np.unique(train_labels)
    if len(seen) == 1:
        probability[:, int(seen[0])] = 1.0
        return probability
    model = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=2000, tol=1e-3))
    model.fit(train_features, train_labels)
    probability[:, model.classes_.astype(np.int64)] = model.predict_proba(test_features)
    return probability
