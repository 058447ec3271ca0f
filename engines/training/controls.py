"""Every fusion variant on the control worlds: does fusion find what only fusion can find, and nothing where there is nothing?"""

# mypy: allow-subclassing-any
from __future__ import annotations

import multiprocessing
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from engines.networks.blocks import TOKEN_CHANNELS
from engines.networks.layout import FusionLayout
from engines.networks.variants import INTERMEDIATE, LATE, VARIANTS
from engines.training.calibration import stream_subsets
from engines.training.evaluation.bootstrap import Estimate, Replicated, over_seeds, replicated, resampling
from engines.training.evaluation.findings import ControlFigures
from engines.training.evaluation.metrics import auroc, binary_prediction
from engines.training.fusing import predict, train_fusion
from engines.training.objective import FusingOptions
from engines.training.token_set import TokenSet
from pipeline.scenarios.controls import redundant, xor
from pipeline.scenarios.controls.sensing import HEAD, LABELS, STREAMS, ControlTicks

TOKENS = 2
TICK_S = 0.1
RUN_TICKS = 10
LAYOUT = FusionLayout(
    streams=STREAMS, token_counts=(TOKENS, TOKENS), heads={HEAD: LABELS}, memory_entries=1, memory_step_s=TICK_S
)
OPTIONS = FusingOptions(delayed=0.0, frozen=0.0, batch=128)
"""Ticks are independent: delayed or repeated tokens would be tokens of another tick, and the label of this one their noise."""
ENCODER_SEED, TRAIN_SEED, TEST_SEED = 11, 1000, 2000


class ControlWorld(Protocol):
    """A module that draws ticks and knows how well anyone can do."""

    def draw(self, seed: int, count: int) -> ControlTicks:
        """Draw ``count`` ticks."""
        ...

    def ceiling(self, present: tuple[bool, ...]) -> float:
        """AUROC of the Bayes posterior."""
        ...


WORLDS: Mapping[str, ControlWorld] = {"xor": xor, "redundant": redundant}


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlScore:
    """One variant on one world, from one seed, on ticks of seeds that training did not see."""

    world: str
    variant: str
    seed: int
    auroc: Mapping[tuple[bool, ...], float]
    """By the streams that were there, all first."""
    scores: Mapping[tuple[bool, ...], NDArray[np.float64]]
    """Log odds of yes, ``[n]``: for paired intervals."""
    labels: NDArray[np.uint8]
    ceiling: Mapping[tuple[bool, ...], float]

    @property
    def fused(self) -> float:
        """AUROC with all streams."""
        return next(iter(self.auroc.values()))

    @property
    def best_single(self) -> float:
        """The best AUROC with one stream."""
        return max(value for present, value in self.auroc.items() if sum(present) == 1)

    @property
    def gain(self) -> float:
        """Fused less best single."""
        return self.fused - self.best_single


def control_scores(
    world: str,
    *,
    variants: Sequence[str] = tuple(VARIANTS),
    seeds: Sequence[int] = (0,),
    train_ticks: int = 8000,
    test_ticks: int = 10_000,
    steps: int = 200,
    options: FusingOptions = OPTIONS,
) -> list[ControlScore]:
    """Train and score ``variants`` on ``world`` (``xor`` or ``redundant``) from each seed; the test ticks are the same for all.

    Encoders are trained once and know only what their own sensor shows. A seed draws its own training ticks. Raises
    KeyError for an unknown world.
    """
    drawn = WORLDS[world]
    encoders = trained_encoders(drawn.draw(ENCODER_SEED, 4000))
    test = token_set(drawn.draw(TEST_SEED, test_ticks), encoders, TEST_SEED)
    positive = test.labels[HEAD] == 1
    found = []
    for seed in seeds:
        train = token_set(drawn.draw(TRAIN_SEED + seed, train_ticks), encoders, TRAIN_SEED + seed)
        for variant in variants:
            network = train_fusion(train, LAYOUT, variant, seed=seed, steps=steps, options=options)
            scores = {}
            for present in stream_subsets(len(STREAMS)):
                logits = predict(network, test, present=present)[HEAD].astype(np.float64)
                scores[present] = logits[:, 1] - logits[:, 0]
            found.append(
                ControlScore(
                    world=world,
                    variant=variant,
                    seed=seed,
                    auroc={present: auroc(score, positive) for present, score in scores.items()},
                    scores=scores,
                    labels=test.labels[HEAD],
                    ceiling={present: drawn.ceiling(present) for present in scores},
                )
            )
    return found


def control_figures(*, seeds: Sequence[int], worlds: Sequence[str] = tuple(WORLDS), processes: int = 1) -> list[ControlFigures]:
    """The evaluation's figures of the control worlds: of the worst intermediate variant and of the best additive late one.

    Worst: least AUROC in the XOR world, gain farthest from 0 in the redundant one. A variant's figure is the mean over ``seeds``;
    intervals hold seeds and test runs. About 10 s a variant, seed and world on one core; a world takes one process.
    """
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        return list(pool.map(partial(_control_figures, seeds=tuple(seeds)), worlds))


def _control_figures(world: str, seeds: Sequence[int]) -> ControlFigures:
    torch.set_num_threads(1)
    return _figures(world, control_scores(world, variants=(*INTERMEDIATE, *LATE), seeds=seeds))


def _figures(world: str, scores: Sequence[ControlScore]) -> ControlFigures:
    run = np.arange(len(scores[0].labels)) // RUN_TICKS
    drawn, positive = resampling(run), scores[0].labels == 1
    found: dict[str, tuple[Estimate, Estimate, Estimate]] = {}
    for variant in dict.fromkeys(score.variant for score in scores):
        by_mask: dict[tuple[bool, ...], list[Replicated]] = {}
        for score in scores:
            for present, odds in score.scores.items() if score.variant == variant else ():
                prediction = binary_prediction(1 / (1 + np.exp(-odds)), positive, run)
                by_mask.setdefault(present, []).append(replicated(prediction, drawn, ("auroc",))["auroc"])
        alone = max((p for p in by_mask if sum(p) == 1), key=lambda p: float(np.mean([r.value for r in by_mask[p]])))
        fused, best = by_mask[(True,) * len(STREAMS)], by_mask[alone]
        gains = [f.minus(b) for f, b in zip(fused, best, strict=True)]
        found[variant] = (over_seeds(fused).mean, over_seeds(best).mean, over_seeds(gains).mean)
    worst = min(INTERMEDIATE, key=lambda v: found[v][0].value if world == "xor" else -abs(found[v][2].value))
    late = max(LATE, key=lambda v: found[v][0].value)
    ceiling = scores[0].ceiling[(True,) * len(STREAMS)]
    return ControlFigures(
        world=world,
        intermediate=found[worst][0],
        late=found[late][0],
        best_single=found[worst][1],
        gain=found[worst][2],
        ceiling=Estimate(value=ceiling, low=ceiling, high=ceiling),
        note=f"intermediate: {worst}, the worst of {', '.join(INTERMEDIATE)}; late: {late}, the best of {', '.join(LATE)}",
    )


class ControlEncoder(nn.Module):
    """Features ``[n, steps, channels]`` of one sensor to tokens ``[n, 2, 64]``; from them, ``clue`` tells what it shows."""

    def __init__(self, values: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(1), nn.Linear(values, 64), nn.ReLU(), nn.Linear(64, TOKENS * TOKEN_CHANNELS))
        self.clue = nn.Linear(TOKENS * TOKEN_CHANNELS, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Encode."""
        tokens: Tensor = self.body(features)
        return tokens.unflatten(1, (TOKENS, TOKEN_CHANNELS))


def trained_encoders(ticks: ControlTicks, steps: int = 400) -> dict[str, ControlEncoder]:
    """An encoder a sensor, taught by what the sensor renders (``percepts``), never by the label."""
    torch.use_deterministic_algorithms(True)
    encoders = {}
    for index, (stream, features) in enumerate(features_from_ticks(ticks).items()):
        torch.manual_seed(ENCODER_SEED + index)
        rng = np.random.default_rng((ENCODER_SEED, index))
        encoder = ControlEncoder(features.shape[1] * features.shape[2])
        clue = torch.from_numpy(ticks.percepts[stream])
        optimizer = torch.optim.AdamW(encoder.parameters(), lr=2e-3)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for _ in range(steps):
            rows = rng.integers(0, len(clue), 128)
            guess = encoder.clue(encoder(torch.from_numpy(features[rows])).flatten(1))
            loss = nn.functional.mse_loss(guess, clue[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        encoders[stream] = encoder.train(False)
    return encoders


def features_from_ticks(ticks: ControlTicks) -> dict[str, NDArray[np.float32]]:
    """Stream to ``[n, steps, channels]`` near unit scale: an image as its grey 16 rows of 16, a sound as its 4 frames of 24."""
    grey = ticks.images.astype(np.float32).mean(axis=3)
    return {"camera": (grey - 60) / 50, "microphone": ticks.sounds}


def token_set(ticks: ControlTicks, encoders: Mapping[str, ControlEncoder], seed: int) -> TokenSet:
    """The ticks as a set of runs of ten, every stream present and fresh. A remainder is dropped."""
    count = len(ticks.labels) // RUN_TICKS * RUN_TICKS
    features = {stream: array[:count] for stream, array in features_from_ticks(ticks).items()}
    with torch.inference_mode():
        tokens = {s: encoders[s](torch.from_numpy(array)).numpy().astype(np.float16) for s, array in features.items()}
    place = np.arange(count)
    return TokenSet(
        tick_s=TICK_S,
        seeds=(seed,) * (count // RUN_TICKS),
        run=(place // RUN_TICKS).astype(np.int32),
        time_s=(place % RUN_TICKS * TICK_S).astype(np.float32),
        tokens=tokens,
        low_level={stream: array.astype(np.float16) for stream, array in features.items()},
        state=np.zeros((count, len(STREAMS)), np.uint8),
        age_s=np.zeros((count, len(STREAMS)), np.float32),
        labels={HEAD: ticks.labels[:count]},
        scored={HEAD: np.ones(count, np.bool_)},
        percepts={stream: array[:count] for stream, array in ticks.percepts.items()},
        decisive=np.full(count, -1, np.int8),
        events=(),
    )
