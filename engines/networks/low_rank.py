"""Intermediate fusion by a low-rank tensor: every product of one value of each stream, in few parameters."""

# mypy: allow-subclassing-any
from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from engines.networks.front import WIDTH, Front, StreamVectors
from engines.networks.layout import FusionLayout
from engines.networks.variant import Ending, FusionNetwork, Perceived

RANK = 4


class LowRankFusion(FusionNetwork):
    """Liu et al., "Efficient Low-rank Multimodal Fusion with Modality-Specific Factors", 2018.

    The outer product of all streams' vectors, each with a 1 appended, read by a weight tensor of rank 4 that is never formed:
    each stream's vector is projected by its own factors, the projections are multiplied and summed over the rank. Factors of the
    appended 1 start at 1, so that no stream starts by cancelling the others. ``size``: of a vector.
    """

    def __init__(self, layout: FusionLayout, size: int) -> None:
        super().__init__()
        self.layout = layout
        self.front = Front(layout)
        self.vectors = StreamVectors(layout, WIDTH, size)
        self.factors = nn.ModuleList(nn.Linear(size, RANK * size) for _ in layout.streams)
        for factor in self.factors:
            nn.init.ones_(factor.bias)
        self.rank = nn.Parameter(torch.randn(RANK) * 0.5)
        self.ending = Ending(layout, size, 2 * size)

    def perceive(self, inputs: Sequence[Tensor], age_s: Tensor, mask: Tensor) -> Perceived:
        """Multiply the projected vectors."""
        front = self.front(inputs, age_s, mask)
        factors = [layer(v) for layer, v in zip(self.factors, self.vectors(front.streams), strict=True)]
        product = factors[0]
        for factor in factors[1:]:
            product = product * factor
        return self.ending.perceived((product.unflatten(1, (RANK, -1)) * self.rank[:, None]).sum(dim=1), front)

    def decide(self, state: tuple[Tensor, ...], memory: Tensor, memory_age_s: Tensor, memory_mask: Tensor) -> tuple[Tensor, ...]:
        """Logits by head."""
        return tuple(self.ending(state, memory, memory_age_s, memory_mask))
