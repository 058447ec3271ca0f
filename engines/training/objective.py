"""What the fusion is trained for: the terms of `engines.training.losses` put together, each with its weight."""

# mypy: allow-subclassing-any
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from engines.networks.layout import FusionLayout
from engines.networks.shared_private import PRIVATE
from engines.networks.variant import FusionNetwork, Perceived
from engines.training import losses
from engines.training.instants import PRESENT


@dataclass(frozen=True, slots=True, kw_only=True)
class FusingOptions:
    """How fusion is trained. Weights of 0 turn a term off, so an ablation is one argument."""

    weighting: Literal["uncertainty", "equal", "pcgrad"] = "uncertainty"
    """How the tasks' losses become one."""
    tasks: tuple[str, ...] | None = None
    """Heads that are trained; None: all. One name makes a single-task model."""
    present: tuple[bool, ...] | None = None
    """Streams that there are in training; None: all. A subset makes the model trained for that subset."""
    unimodal: float = 0.2
    """Each task from each stream alone, by a linear head on its parts (late fusion: by its own logits, at weight 1)."""
    alignment: float = 0.3
    adversary: float = 1.0
    matching: float = 10.0
    """Equal distributions of the streams' shared parts; counts only with the adversary, whose weight multiplies it."""
    orthogonality: float = 1.0
    distillation: float = 0.5
    confidence: float = 1.0
    batch: int = 128
    """Ticks a step; each is seen twice, complete and with streams removed."""
    peak_rate: float = 3e-3
    weight_decay: float = 0.03
    averaging: float = 0.999
    """Decay of the moving average of weights, which is what is returned."""
    taken: float = 0.35
    """How often each stream is removed, in the second view, which always lacks one at least; 0: nothing is ever removed."""
    delayed: float = 0.3
    """Share of streams that come late, by up to ``delay_s``."""
    delay_s: float = 0.3
    frozen: float = 0.05
    """Share of streams that repeat themselves, for ``frozen_s``."""
    frozen_s: tuple[float, float] = (0.5, 3.0)
    jitter: float = 0.2
    """Noise on the tokens, as a share of each channel's own spread: details that tell one run from another drown in it."""
    forgotten: float = 0.15
    """Share of decisions whose memory has fewer entries than it could."""
    unscored: float = 0.3
    """Weight of ticks at which a head's question is not asked."""
    rare: float = 0.5
    """How much oftener rare classes are drawn: by their share to the power of minus this."""


class Companions(nn.Module):
    """What learns beside the fusion and is thrown away: unimodal heads, discriminator, task variances."""

    def __init__(self, layout: FusionLayout) -> None:
        super().__init__()
        streams = len(layout.streams)
        self.classes = [len(labels) for labels in layout.heads.values()]
        self.log_variances = nn.Parameter(torch.zeros(len(self.classes)))
        self.alone = nn.Parameter(torch.randn(streams, layout.shared_width + PRIVATE, sum(self.classes)) * 0.05)
        self.discriminator = nn.Sequential(
            nn.Linear(layout.shared_width, 96), nn.LeakyReLU(0.2), nn.Linear(96, 96), nn.LeakyReLU(0.2), nn.Linear(96, streams)
        )
        self.identity = nn.Linear(PRIVATE, streams)

    def unimodal_logits(self, shared: Tensor, private: Tensor) -> tuple[Tensor, ...]:
        """Each stream's guess of each head from its parts, ``[b, streams, classes]`` a head."""
        parts = torch.cat([shared * shared.shape[2] ** 0.5, private], dim=2)
        logits = torch.einsum("bsp,spc->bsc", parts, self.alone)
        return tuple(logits.split(self.classes, dim=2))


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The truth about a batch of ``b`` ticks."""

    labels: Mapping[str, Tensor]
    """Head to class, int64 ``[b]``."""
    weights: Mapping[str, Tensor]
    """Head to weight, ``[b]``."""
    log_ratios: Mapping[str, Tensor]
    """Head to `losses.head_loss`'s ``log_ratio``, ``[classes]``."""
    apart: Tensor
    """bool ``[b, b]``: ticks that are negatives of each other."""
    directions: Tensor
    """``[shared_width, 32]``, of length 1: along which the shared parts' distributions are compared in this batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """A batch's losses: one a trained task, and the rest, weighted and summed."""

    tasks: list[Tensor]
    rest: Tensor


def objective(
    network: FusionNetwork,
    companions: Companions,
    seen: Perceived,
    memory: tuple[Tensor, Tensor, Tensor],
    mask: Tensor,
    target: Target,
    options: FusingOptions,
    progress: float,
) -> Objective:
    """The losses of ``2 b`` decisions: first ``b`` ticks with all that there was, then the same with streams removed.

    ``seen`` and ``mask [2 b, streams, 3]`` are of the instants decided on; ``progress`` goes from 0 to 1 over the training. With
    ``b`` decisions there is the first view alone, and nothing that compares the two.
    """
    logits = dict(zip(network.layout.heads, network.decide(seen.state, *memory), strict=True))
    trained = options.tasks or tuple(network.layout.heads)
    half = len(target.apart)
    views = len(mask) // half
    labels = {head: target.labels[head].repeat(views) for head in trained}
    weights = {head: target.weights[head].repeat(views) for head in trained}
    tasks = [losses.head_loss(logits[h], labels[h], weights[h], target.log_ratios[h]) for h in trained]
    rest = mask.new_zeros(())
    for head in trained if views > 1 else ():
        complete, masked = logits[head][:half], logits[head][half:]
        if options.distillation:
            rest = rest + options.distillation * losses.distilled(complete, masked)
        if options.confidence:
            rest = rest + options.confidence * losses.overconfidence(complete, masked)
    present = mask[:, :, PRESENT] > 0.5
    own = network.unimodal_logits(seen.state, *memory)
    if own is not None:
        rest = rest + _unimodal(own, present, labels, weights, target, network.layout)
    if seen.front is None:
        return Objective(tasks=tasks, rest=rest)
    shared, private = seen.front.shared, seen.front.private
    if options.unimodal and own is None:
        guesses = companions.unimodal_logits(shared, private)
        rest = rest + options.unimodal * _unimodal(guesses, present, labels, weights, target, network.layout)
    return Objective(
        tasks=tasks, rest=rest + _parts(companions, shared[:half], private[:half], present[:half], target, options, progress)
    )


def _unimodal(
    guesses: Sequence[Tensor],
    present: Tensor,
    labels: Mapping[str, Tensor],
    weights: Mapping[str, Tensor],
    target: Target,
    layout: FusionLayout,
) -> Tensor:
    total = present.new_zeros((), dtype=torch.float32)
    for head, guess in zip(layout.heads, guesses, strict=True):
        if head in labels:
            streams = guess.shape[1]
            weight = (weights[head][:, None] * present).flatten()
            loss = losses.head_loss(guess.flatten(0, 1), labels[head].repeat_interleave(streams), weight, target.log_ratios[head])
            total = total + loss
    return total


def _parts(
    companions: Companions,
    shared: Tensor,
    private: Tensor,
    present: Tensor,
    target: Target,
    options: FusingOptions,
    progress: float,
) -> Tensor:
    """What shapes the shared and the private parts; of complete input alone, where each stream's part is the same anyway."""
    total = shared.new_zeros(())
    if shared.shape[1] < 2:
        return total
    if options.alignment:
        total = total + options.alignment * losses.aligned(shared, present, target.apart)
    if options.orthogonality:
        total = total + options.orthogonality * losses.overlap(shared, private, present)
    if options.adversary:
        strength = options.adversary * losses.reversal_strength(progress)
        scores = companions.discriminator(losses.reversed_gradient(shared * shared.shape[2] ** 0.5, strength))
        total = total + losses.stream_loss(scores, present)
        total = total + options.adversary * options.matching * losses.distribution_gap(
            shared * shared.shape[2] ** 0.5, present, target.directions
        )
        # the private part is where a stream is told: the adversary's counterpart, so that it cannot be won by forgetting
        total = total + 0.05 * losses.stream_loss(companions.identity(private), present)
    return total
