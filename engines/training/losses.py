"""The terms of the fusion's training loss, each a function of tensors. What they weigh is set in `engines.training.fusing`."""

# mypy: allow-subclassing-any
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

QUANTILES = 32
"""Levels at which distributions are compared."""


def head_loss(logits: Tensor, labels: Tensor, weight: Tensor, log_ratio: Tensor | None = None) -> Tensor:
    """Weighted mean cross-entropy of ``logits [n, classes]`` with ``labels [n]``; ``weight [n]``. 0 where all weights are.

    ``log_ratio [classes]`` is the log of each class's share among the drawn ticks over its share among all: added to the logits
    while training (Menon et al., "Long-tail learning via logit adjustment", 2021), so that the logits themselves remain right
    for the natural shares although rare classes are drawn more often.
    """
    adjusted = logits if log_ratio is None else logits + log_ratio
    each = nn.functional.cross_entropy(adjusted, labels, reduction="none")
    return (each * weight).sum() / torch.clamp(weight.sum(), min=1.0)


def uncertainty_weighted(losses: Sequence[Tensor], log_variances: Tensor) -> Tensor:
    """Sum of ``exp(-s) loss + s / 2`` (Kendall et al., "Multi-Task Learning Using Uncertainty to Weigh Losses", 2018).

    ``log_variances [tasks]`` are the learned s, of classification tasks. The least over s is at s = ln(2 loss).
    """
    return (torch.exp(-log_variances) * torch.stack(list(losses)) + 0.5 * log_variances).sum()


def without_conflicts(gradients: Sequence[Tensor], order: Sequence[Sequence[int]]) -> Tensor:
    """The sum of task gradients ``[parameters]`` after PCGrad (Yu et al., "Gradient Surgery for Multi-Task Learning", 2020).

    Each gradient loses its component along every other one that it opposes; ``order[i]`` lists the others in the order in which
    they are taken, which the paper draws at random.
    """
    total = torch.zeros_like(gradients[0])
    for index, gradient in enumerate(gradients):
        projected = gradient.clone()
        for other in order[index]:
            against = gradients[other]
            dot = projected @ against
            if other != index and dot < 0:
                projected -= dot / torch.clamp(against @ against, min=1e-20) * against
        total += projected
    return total


def aligned(shared: Tensor, present: Tensor, apart: Tensor, temperature: float = 0.1) -> Tensor:
    """InfoNCE between every two streams' shared parts of the same tick (van den Oord et al., 2018; as CLIP, both ways).

    ``shared [n, streams, d]`` of length 1; ``present`` bool ``[n, streams]``; ``apart`` bool ``[n, n]``: rows far enough from
    each other (other run or time) to be negatives. A row counts for a pair where both streams are present. Parts that are all
    the same give ln n.
    """
    total, pairs = shared.new_zeros(()), 0
    candidates = apart | torch.eye(len(shared), dtype=torch.bool, device=shared.device)
    for one in range(shared.shape[1]):
        for other in range(one + 1, shared.shape[1]):
            rows = torch.nonzero(present[:, one] & present[:, other])[:, 0]
            if len(rows) < 2:
                continue
            allowed = candidates[rows][:, rows]
            scores = (shared[rows, one] @ shared[rows, other].T / temperature).masked_fill(~allowed, -1e9)
            target = torch.arange(len(rows), device=shared.device)
            total = total + nn.functional.cross_entropy(scores, target) + nn.functional.cross_entropy(scores.T, target)
            pairs += 2
    return total / max(pairs, 1)


class _Reversed(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, value: Tensor, strength: float) -> Tensor:
        context.strength = strength
        return value.view_as(value)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return -context.strength * gradients[0], None


def reversed_gradient(value: Tensor, strength: float) -> Tensor:
    """``value`` as it is, whose gradient comes back times ``-strength`` (Ganin & Lempitsky, 2015)."""
    reversed_value: Tensor = _Reversed.apply(value, strength)  # type: ignore[no-untyped-call]
    return reversed_value


def reversal_strength(progress: float) -> float:
    """How strongly to reverse at ``progress`` 0 to 1 of training: 0 at first, then to 1 (Ganin & Lempitsky, 2015, sec. 4.1)."""
    return float(2 / (1 + torch.exp(torch.tensor(-10.0 * progress))) - 1)


def stream_loss(scores: Tensor, present: Tensor) -> Tensor:
    """Cross-entropy of a guess which stream an embedding is of: ``scores [n, streams, streams]``, where ``present [n, streams]``.

    Every stream counts the same, however often it is present.
    """
    target = torch.arange(scores.shape[1], device=scores.device).expand(len(scores), -1)
    each = nn.functional.cross_entropy(scores.transpose(1, 2), target, reduction="none")
    weight = present.float() / torch.clamp(present.float().sum(dim=0), min=1.0)
    return (each * weight).sum() / scores.shape[1]


def overlap(shared: Tensor, private: Tensor, present: Tensor) -> Tensor:
    """Mean squared correlation of shared with private values, by stream: 0 when orthogonal (Bousmalis et al., 2016, eq. 5).

    ``shared``, ``private`` ``[n, streams, d]``; ``present [n, streams]``. Values are centred and scaled over the present rows.
    """
    weight = present.float()[:, :, None]
    count = torch.clamp(weight.sum(dim=0, keepdim=True), min=1.0)

    def standard(x: Tensor) -> Tensor:
        centred = (x - (x * weight).sum(dim=0, keepdim=True) / count) * weight
        return centred * torch.rsqrt(centred.square().sum(dim=0, keepdim=True) + 1e-4)

    correlation = torch.einsum("nsi,nsj->sij", standard(shared), standard(private))
    return correlation.square().mean()


def distribution_gap(embedding: Tensor, present: Tensor, directions: Tensor) -> Tensor:
    """Sliced Wasserstein distance, squared, of each stream's distribution from the streams' mean quantiles.

    After Bonneel et al., "Sliced and Radon Wasserstein Barycenters of Measures", 2015: along each of the ``directions [d, r]``,
    quantiles of the rows ``present [n, streams]`` of ``embedding [n, streams, d]`` are compared. What the adversary's reversed
    gradient only follows around, this closes: 0 exactly when no reader along these directions can tell the streams apart. Streams
    present in fewer than two rows are left out.
    """
    levels = torch.linspace(0.0, 1.0, QUANTILES, device=embedding.device)
    quantiles = []
    for stream in range(embedding.shape[1]):
        rows = embedding[present[:, stream], stream]
        if len(rows) < 2:
            continue
        ordered = torch.sort(rows @ directions, dim=0).values
        place = levels * (len(rows) - 1)
        low = torch.clamp(place.floor().long(), max=len(rows) - 2)
        share = (place - low)[:, None]
        quantiles.append(ordered[low] * (1 - share) + ordered[low + 1] * share)
    if len(quantiles) < 2:
        return embedding.new_zeros(())
    stacked = torch.stack(quantiles)
    return (stacked - stacked.mean(dim=0, keepdim=True)).square().mean()


def distilled(complete: Tensor, masked: Tensor) -> Tensor:
    """Mean KL divergence of the prediction without some streams from that with all (Hinton et al., 2015; here of one network).

    ``complete`` teaches and takes no gradient; both are logits ``[n, classes]``.
    """
    target = torch.log_softmax(complete.detach(), dim=1)
    return nn.functional.kl_div(torch.log_softmax(masked, dim=1), target, reduction="batchmean", log_target=True)


def overconfidence(complete: Tensor, masked: Tensor) -> Tensor:
    """Mean rise of the top probability as sensors are removed, where it rises.

    The regulariser of Ma et al., "Calibrating Multimodal Learning" (2023), on the masked side alone: ``complete`` takes no
    gradient, so that complete input loses nothing by it. Both are logits ``[n, classes]``.
    """
    before = torch.softmax(complete.detach(), dim=1).amax(dim=1)
    return torch.relu(torch.softmax(masked, dim=1).amax(dim=1) - before).mean()
