"""Intermediate fusion by concatenation: one vector a stream, side by side into a perceptron."""

# mypy: allow-subclassing-any
from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from engines.networks.front import WIDTH, Front, StreamVectors
from engines.networks.layout import FusionLayout
from engines.networks.variant import Ending, FusionNetwork, Perceived


class ConcatFusion(FusionNetwork):
    """Concatenation (the joint representation of Ngiam et al., "Multimodal Deep Learning", 2011). ``size``: of a vector."""

    def __init__(self, layout: FusionLayout, size: int) -> None:
        super().__init__()
        self.layout = layout
        self.front = Front(layout)
        self.vectors = StreamVectors(layout, WIDTH, size)
        self.join = nn.Linear(size * len(layout.streams), 2 * size)
        self.ending = Ending(layout, 2 * size, 2 * size)

    def perceive(self, inputs: Sequence[Tensor], age_s: Tensor, mask: Tensor) -> Perceived:
        """Join the streams' vectors."""
        front = self.front(inputs, age_s, mask)
        return self.ending.perceived(torch.relu(self.join(torch.cat(self.vectors(front.streams), dim=1))), front)

    def decide(self, state: tuple[Tensor, ...], memory: Tensor, memory_age_s: Tensor, memory_mask: Tensor) -> tuple[Tensor, ...]:
        """Logits by head."""
        return tuple(self.ending(state, memory, memory_age_s, memory_mask))
