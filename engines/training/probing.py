"""What the shared and private parts tell: which stream they are of, and which tick."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped, unused-ignore]
from sklearn.neural_network import MLPClassifier  # type: ignore[import-untyped, unused-ignore]
from sklearn.pipeline import make_pipeline  # type: ignore[import-untyped, unused-ignore]
from sklearn.preprocessing import StandardScaler  # type: ignore[import-untyped, unused-ignore]

from engines.networks.variant import FusionNetwork
from engines.training.calibration import balanced_accuracy
from engines.training.instants import PRESENT, Ticks, undisturbed
from engines.training.token_set import TokenSet

CANDIDATES = 100
APART_TICKS = 50
"""Candidates of one retrieval are at least this far apart where they are of one run."""
Floats = NDArray[np.float32]


def modality_probe(
    network: FusionNetwork, tokens_train: TokenSet, tokens_test: TokenSet, *, ticks: int = 3000, seed: int = 0
) -> dict[str, float]:
    """Fresh probes on a trained network's parts: accuracies on ``tokens_test``, balanced over the streams.

    ``{shared,private}_{linear,mlp}``: how well a logistic regression and a perceptron of 64 units, fitted on ``ticks`` ticks of
    ``tokens_train``, tell the stream; ``chance`` is 1 / streams. ``retrieval``: how often the part of another stream that is most
    like a shared part, out of 100 ticks, is that of the same tick (recall at 1, mean over ordered pairs of streams);
    ``retrieval_times_chance`` is that over 1/100. Raises ValueError for early fusion, which has no parts, and for one stream.
    """
    streams = len(network.layout.streams)
    if network.reads != "tokens" or streams < 2:
        raise ValueError(f"{type(network).__name__} on {streams} stream(s) has no parts of several streams to probe")
    rng = np.random.default_rng(seed)
    learned = _parts(network, tokens_train, _drawn(rng, tokens_train, ticks))
    rows = _drawn(rng, tokens_test, ticks)
    held_out = _parts(network, tokens_test, rows)
    found: dict[str, float] = {"chance": 1 / streams}
    probes: dict[str, Callable[[], Any]] = {
        "linear": lambda: LogisticRegression(max_iter=2000, tol=1e-3),
        "mlp": lambda: MLPClassifier((64,), max_iter=60, early_stopping=True, random_state=seed),
    }
    for part in ("shared", "private"):
        for name, probe in probes.items():
            found[f"{part}_{name}"] = _told(make_pipeline(StandardScaler(), probe()), learned, held_out, part)
    found["retrieval"] = _retrieved(rng, held_out, rows, np.asarray(tokens_test.run))
    found["retrieval_times_chance"] = found["retrieval"] * CANDIDATES
    return {name: round(value, 4) for name, value in found.items()}


def _drawn(rng: np.random.Generator, tokens: TokenSet, count: int) -> NDArray[np.int64]:
    return np.sort(rng.permutation(len(tokens))[:count]).astype(np.int64)


def _parts(network: FusionNetwork, tokens: TokenSet, rows: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """``shared`` and ``private`` ``[n, streams, 32]``, ``present`` bool ``[n, streams]``."""
    ticks = Ticks(tokens, network.layout, network)
    with torch.inference_mode():
        read = ticks.read(rows, undisturbed(len(rows), len(network.layout.streams)))
        front = network.perceive(*read).front
    assert front is not None
    return {"shared": front.shared.numpy(), "private": front.private.numpy(), "present": read.mask[:, :, PRESENT].numpy() > 0.5}


def _told(probe: Any, learned: dict[str, NDArray[Any]], held_out: dict[str, NDArray[Any]], part: str) -> float:
    """Balanced accuracy of the probe. Streams are drawn equally often for fitting, so that none is favoured."""
    places = [np.flatnonzero(learned["present"][:, s]) for s in range(learned["present"].shape[1])]
    count = min(len(p) for p in places if len(p))
    features = np.concatenate([learned[part][p[:: max(1, len(p) // count)][:count], s] for s, p in enumerate(places)])
    streams = np.concatenate([np.full(min(count, len(p)), s) for s, p in enumerate(places)])
    probe.fit(features, streams)
    there = held_out["present"]
    truth = np.broadcast_to(np.arange(there.shape[1]), there.shape)[there]
    return balanced_accuracy(probe.predict(held_out[part][there]), truth)


def _retrieved(
    rng: np.random.Generator, parts: dict[str, NDArray[Any]], rows: NDArray[np.int64], run: NDArray[np.int32]
) -> float:
    """Recall at 1 among 100, averaged over ordered pairs of streams that are present together often enough."""
    shared, present = parts["shared"], parts["present"]
    recalls = []
    for one in range(present.shape[1]):
        for other in range(present.shape[1]):
            both = np.flatnonzero(present[:, one] & present[:, other])
            if one == other or len(both) < CANDIDATES:
                continue
            hits = []
            for _ in range(20):
                chosen = _spread(rng.permutation(both), rows, run)
                scores = shared[chosen, one] @ shared[chosen, other].T
                hits.append(np.mean(scores.argmax(axis=1) == np.arange(len(chosen))) * len(chosen) / CANDIDATES)
            recalls.append(float(np.mean(hits)))
    return float(np.mean(recalls)) if recalls else 0.0


def _spread(order: NDArray[np.int64], rows: NDArray[np.int64], run: NDArray[np.int32]) -> NDArray[np.int64]:
    """The first 100 of ``order`` that are far enough from each other."""
    chosen: list[int] = []
    for place in order:
        near = any(run[rows[place]] == run[rows[c]] and abs(rows[place] - rows[c]) < APART_TICKS for c in chosen)
        if not near:
            chosen.append(int(place))
        if len(chosen) == CANDIDATES:
            break
    return np.array(chosen)
