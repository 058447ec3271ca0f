"""Intermediate fusion: tokens of all streams, their ages and their availability, to one logit vector a head."""

# mypy: allow-subclassing-any
from __future__ import annotations

import torch
from torch import Tensor, nn

from engines.networks.blocks import TOKEN_CHANNELS

STREAMS = ("camera", "microphone", "telemetry", "text")
TOKEN_COUNTS = (6, 4, 2, 2)
MASK_STATES = ("present", "quiet", "absent")
HEADS = {"emergency": ("none", "approaching"), "action": ("keep", "slow", "yield", "stop")}
WIDTH = 64
ATTENTION_HEADS = 4
BOTTLENECKS = 6
AGE_FLOOR_S = 0.02
AGE_LIMIT_S = 60.0


class Attention(nn.Module):
    """Multi-head attention (Vaswani et al., 2017) with pre-normalisation, then a two-layer perceptron, both residual.

    ``query [batch, q, width]`` reads ``context [batch, k, width]``; returns ``[batch, q, width]``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.norm_query = nn.LayerNorm(WIDTH)
        self.norm_mlp = nn.LayerNorm(WIDTH)
        self.to_query = nn.Linear(WIDTH, WIDTH)
        self.to_key_value = nn.Linear(WIDTH, 2 * WIDTH)
        self.to_out = nn.Linear(WIDTH, WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.ReLU(), nn.Linear(2 * WIDTH, WIDTH))

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


class Fusion(nn.Module):
    """Bottleneck attention (after Nagrani et al., "Attention Bottlenecks for Multimodal Fusion", 2021), small.

    Inputs: tokens of each stream ``[batch, n, 64]`` in the order of `STREAMS`; ``age_s`` float32 ``[batch, 4]``;
    ``mask`` float32 ``[batch, 4, 3]``, one-hot over `MASK_STATES`. A stream that is quiet or absent counts as learned
    missing tokens, one set a state: whatever its tokens and age hold has no influence. Outputs: one logit tensor a
    head, in the order of `HEADS`.
    """

    def __init__(self) -> None:
        super().__init__()
        streams, total = len(STREAMS), sum(TOKEN_COUNTS)
        self.project = nn.ModuleList(nn.Linear(TOKEN_CHANNELS, WIDTH) for _ in STREAMS)
        self.missing = nn.ParameterList(nn.Parameter(torch.randn(2, n * WIDTH) * 0.02) for n in TOKEN_COUNTS)
        self.place = nn.Parameter(torch.randn(total, WIDTH) * 0.2)
        self.age = nn.Linear(2, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.bottleneck = nn.Parameter(torch.randn(BOTTLENECKS, WIDTH) * 0.5)
        self.gather = Attention()
        self.exchange = Attention()
        self.regather = Attention()
        self.out = nn.LayerNorm(WIDTH)
        self.heads = nn.ModuleList(nn.Linear(BOTTLENECKS * WIDTH, len(labels)) for labels in HEADS.values())
        self._streams = streams

    def forward(
        self, camera: Tensor, microphone: Tensor, telemetry: Tensor, text: Tensor, age_s: Tensor, mask: Tensor
    ) -> tuple[Tensor, ...]:
        """Fuse."""
        present = mask[:, :, 0:1]
        log_age = torch.log(torch.clamp(age_s, AGE_FLOOR_S, AGE_LIMIT_S) * (1 / AGE_FLOOR_S))[:, :, None]
        aged = self.age(torch.cat([log_age, 0.25 * log_age * log_age], dim=2)) * present
        parts = []
        for index, tokens in enumerate((camera, microphone, telemetry, text)):
            here = present[:, index, :, None] > 0.5
            learned = (mask[:, index, 1:] @ self.missing[index]).unflatten(1, (TOKEN_COUNTS[index], WIDTH))
            known = self.project[index](tokens) + aged[:, index, None, :]
            parts.append(torch.where(here, known, learned))
        context = self.norm(torch.cat(parts, dim=1) + self.place)
        mind = self.gather(self.bottleneck.expand(len(age_s), -1, -1), context)
        mind = self.exchange(mind, mind)
        mind = self.regather(mind, context)
        flat = self.out(mind).flatten(1)
        return tuple(head(flat) for head in self.heads)
