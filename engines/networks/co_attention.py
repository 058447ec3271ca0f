"""Intermediate fusion by parallel co-attention: each stream and all the others choose together what of it to look at."""

# mypy: allow-subclassing-any
from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from engines.networks.front import WIDTH, Front
from engines.networks.layout import FusionLayout
from engines.networks.variant import Ending, FusionNetwork, Perceived

FUSED = 96
"""Size of the fused vector."""


class CoAttention(nn.Module):
    """One stream's tokens ``V [b, n, 64]`` against those of the rest ``Q [b, m, 64]``; the attended sum of V, ``[b, 64]``.

    As in the paper: affinity C = tanh(V W_b Qᵀ), H = tanh(V W_v + C (Q W_q)), attention = softmax(H w).
    """

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.affinity = nn.Linear(WIDTH, WIDTH, bias=False)
        self.own = nn.Linear(WIDTH, hidden)
        self.rest = nn.Linear(WIDTH, hidden, bias=False)
        self.score = nn.Linear(hidden, 1, bias=False)

    def forward(self, own: Tensor, rest: Tensor) -> Tensor:
        """Attend."""
        affinity = torch.tanh(self.affinity(own) @ rest.transpose(1, 2) * WIDTH**-0.5)
        seen = torch.tanh(self.own(own) + affinity @ self.rest(rest))
        attended: Tensor = (torch.softmax(self.score(seen), dim=1) * own).sum(dim=1)
        return attended


class CoAttentionFusion(FusionNetwork):
    """Parallel co-attention (Lu et al., "Hierarchical Question-Image Co-Attention", 2016) of each stream with the rest.

    The affinity is scaled by 1/sqrt(64), as its inputs are of unit variance here. ``hidden``: width of the attention.
    """

    def __init__(self, layout: FusionLayout, hidden: int) -> None:
        super().__init__()
        self.layout = layout
        self.front = Front(layout)
        self.attention = nn.ModuleList(CoAttention(hidden) for _ in layout.streams)
        self.join = nn.Linear(WIDTH * len(layout.streams), FUSED)
        self.ending = Ending(layout, FUSED, FUSED)

    def perceive(self, inputs: Sequence[Tensor], age_s: Tensor, mask: Tensor) -> Perceived:
        """Attend to each stream, join."""
        front = self.front(inputs, age_s, mask)
        attended = []
        for index, (attention, own) in enumerate(zip(self.attention, front.streams, strict=True)):
            others = [x for other, x in enumerate(front.streams) if other != index]
            attended.append(attention(own, torch.cat(others or [own], dim=1)))
        return self.ending.perceived(torch.relu(self.join(torch.cat(attended, dim=1))), front)

    def decide(self, state: tuple[Tensor, ...], memory: Tensor, memory_age_s: Tensor, memory_mask: Tensor) -> tuple[Tensor, ...]:
        """Logits by head."""
        return tuple(self.ending(state, memory, memory_age_s, memory_mask))
