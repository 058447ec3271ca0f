"""Intermediate fusion by attention bottlenecks: a few learned tokens read all streams and the memory, and decide."""

# mypy: allow-subclassing-any
from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from engines.networks.blocks import TOKEN_CHANNELS
from engines.networks.front import WIDTH, Front, Recall
from engines.networks.layout import FusionLayout
from engines.networks.variant import FusionNetwork, Perceived

ATTENTION_HEADS = 4
BOTTLENECKS = 6


class Attention(nn.Module):
    """Multi-head attention (Vaswani et al., 2017) with pre-normalisation, then a two-layer perceptron, both residual.

    ``query [batch, q, 64]`` reads ``context [batch, k, 64]``; returns ``[batch, q, 64]``. ``hidden``: of the perceptron.
    """

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.norm_query = nn.LayerNorm(WIDTH)
        self.norm_mlp = nn.LayerNorm(WIDTH)
        self.to_query = nn.Linear(WIDTH, WIDTH)
        self.to_key_value = nn.Linear(WIDTH, 2 * WIDTH)
        self.to_out = nn.Linear(WIDTH, WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, hidden), nn.ReLU(), nn.Linear(hidden, WIDTH))

    def forward(self, query: Tensor, context: Tensor) -> Tensor:
        """Attend."""
        split = (ATTENTION_HEADS, WIDTH // ATTENTION_HEADS)
        q = self.to_query(self.norm_query(query)).unflatten(2, split).transpose(1, 2)
        kv = self.to_key_value(context)
        k = kv[:, :, :WIDTH].unflatten(2, split).permute(0, 2, 3, 1)
        v = kv[:, :, WIDTH:].unflatten(2, split).transpose(1, 2)
        weight = torch.softmax(q @ k * split[1] ** -0.5, dim=-1)
        query = query + self.to_out((weight @ v).transpose(1, 2).flatten(2))
        out: Tensor = query + self.mlp(self.norm_mlp(query))
        return out


class BottleneckFusion(FusionNetwork):
    """Bottleneck attention (after Nagrani et al., "Attention Bottlenecks for Multimodal Fusion", 2021), small.

    Six learned tokens gather from the streams; the first of them then is the memory token. They exchange among themselves and
    gather again, now from streams and memory. ``hidden``: of the perceptrons.
    """

    def __init__(self, layout: FusionLayout, hidden: int) -> None:
        super().__init__()
        self.layout = layout
        self.front = Front(layout)
        self.recall = Recall() if layout.memory_entries else None
        self.bottleneck = nn.Parameter(torch.randn(BOTTLENECKS, WIDTH) * 0.5)
        self.gather = Attention(hidden)
        self.remember = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, TOKEN_CHANNELS), nn.Tanh())
        self.exchange = Attention(hidden)
        self.regather = Attention(hidden)
        self.out = nn.LayerNorm(WIDTH)
        self.heads = nn.ModuleList(nn.Linear(BOTTLENECKS * WIDTH, len(labels)) for labels in layout.heads.values())

    def perceive(self, inputs: Sequence[Tensor], age_s: Tensor, mask: Tensor) -> Perceived:
        """Gather from the streams."""
        front = self.front(inputs, age_s, mask)
        context = torch.cat(front.streams, dim=1)
        mind = self.gather(self.bottleneck.expand(len(age_s), -1, -1), context)
        return Perceived((mind, context), self.remember(mind[:, 0]), front)

    def decide(self, state: tuple[Tensor, ...], memory: Tensor, memory_age_s: Tensor, memory_mask: Tensor) -> tuple[Tensor, ...]:
        """Exchange, gather again, decide."""
        mind, context = state
        if self.recall is not None:
            context = torch.cat([context, self.recall(memory, memory_age_s, memory_mask)], dim=1)
        mind = self.regather(self.exchange(mind, mind), context)
        flat = self.out(mind).flatten(1)
        return tuple(head(flat) for head in self.heads)
