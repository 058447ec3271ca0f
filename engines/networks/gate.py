"""Intermediate fusion by a weighted sum: a gate says how much each stream counts now."""

# mypy: allow-subclassing-any
from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from engines.networks.front import WIDTH, Front, StreamVectors, age_features
from engines.networks.layout import FusionLayout
from engines.networks.variant import Ending, FusionNetwork, Perceived


class GateFusion(FusionNetwork):
    """A gated sum (after Arevalo et al., "Gated Multimodal Units for Information Fusion", 2017).

    A stream's gate is a softmax over the streams of a score from its content, its age and its availability. The sum goes through
    a perceptron, so what one stream means may depend on another. ``size``: of a vector.
    """

    def __init__(self, layout: FusionLayout, size: int) -> None:
        super().__init__()
        self.layout = layout
        self.front = Front(layout)
        self.vectors = StreamVectors(layout, WIDTH, size)
        self.value = nn.ModuleList(nn.Linear(size, 2 * size) for _ in layout.streams)
        self.score = nn.ModuleList(nn.Linear(size + 5, 1) for _ in layout.streams)
        self.ending = Ending(layout, 2 * size, 2 * size)

    def perceive(self, inputs: Sequence[Tensor], age_s: Tensor, mask: Tensor) -> Perceived:
        """Sum the gated vectors."""
        front = self.front(inputs, age_s, mask)
        vectors = self.vectors(front.streams)
        about = torch.cat([age_features(age_s) * mask[:, :, 0:1], mask], dim=2)
        scores = [score(torch.cat([v, about[:, i]], dim=1)) for i, (score, v) in enumerate(zip(self.score, vectors, strict=True))]
        gate = torch.softmax(torch.cat(scores, dim=1), dim=1)
        values = torch.stack([layer(v) for layer, v in zip(self.value, vectors, strict=True)], dim=1)
        return self.ending.perceived((gate[:, :, None] * values).sum(dim=1), front)

    def decide(self, state: tuple[Tensor, ...], memory: Tensor, memory_age_s: Tensor, memory_mask: Tensor) -> tuple[Tensor, ...]:
        """Logits by head."""
        return tuple(self.ending(state, memory, memory_age_s, memory_mask))
