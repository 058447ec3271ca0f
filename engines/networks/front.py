"""What every fusion variant does first: tokens of the streams and entries of the memory become context tokens."""

# mypy: allow-subclassing-any
from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from engines.networks.blocks import TOKEN_CHANNELS
from engines.networks.layout import FusionLayout
from engines.networks.shared_private import PRIVATE, SharedPrivate

WIDTH = 64
"""Channels of a context token."""
AGE_FLOOR_S = 0.02
AGE_LIMIT_S = 60.0


class Fronted(NamedTuple):
    """What `Front` gives."""

    streams: list[Tensor]
    """Context tokens of each stream, ``[b, n_s + 1, width]``; the last is built from the stream's shared and private part."""
    shared: Tensor
    """``[b, streams, shared_width]``, of length 1; void where the stream is missing."""
    private: Tensor
    """``[b, streams, 32]``; void where the stream is missing."""


def age_features(age_s: Tensor) -> Tensor:
    """Log-age and its square, ``[...]`` in seconds to ``[..., 2]``; ages count as 0.02 s to 60 s."""
    log_age = torch.log(torch.clamp(age_s, AGE_FLOOR_S, AGE_LIMIT_S) * (1 / AGE_FLOOR_S))
    return torch.stack([log_age, 0.25 * log_age * log_age], dim=-1)


class Front(nn.Module):
    """Tokens ``[b, n_s, 64]`` a stream, ``age_s [b, streams]``, ``mask [b, streams, 3]`` to context tokens.

    Every context token carries its stream and place, its log-age and its availability: a stream that is quiet or absent
    becomes learned missing tokens, one set a state, and whatever its tokens and age hold has no influence. What it gives of
    one stream depends on that stream alone.
    """

    def __init__(self, layout: FusionLayout, width: int = WIDTH) -> None:
        super().__init__()
        counts = layout.token_counts
        self.project = nn.ModuleList(nn.Linear(TOKEN_CHANNELS, width) for _ in counts)
        self.parts = SharedPrivate(counts, width, layout.shared_width)
        self.join = nn.Linear(layout.shared_width + PRIVATE, width)
        self.shared_scale = layout.shared_width**0.5
        self.missing = nn.ParameterList(nn.Parameter(torch.randn(2, (n + 1) * width) * 0.02) for n in counts)
        self.stream = nn.Parameter(torch.randn(len(counts), width) * 0.2)
        self.place = nn.ParameterList(nn.Parameter(torch.randn(n + 1, width) * 0.2) for n in counts)
        self.age = nn.Linear(2, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Sequence[Tensor], age_s: Tensor, mask: Tensor) -> Fronted:
        """Make the context."""
        projected = [project(x) for project, x in zip(self.project, tokens, strict=True)]
        shared, private = self.parts(projected)
        joined = self.join(torch.cat([shared * self.shared_scale, private], dim=2))
        aged = self.age(age_features(age_s))
        streams = []
        for index, known in enumerate(projected):
            here = mask[:, index, 0:1, None] > 0.5
            place = self.place[index]
            learned = (mask[:, index, 1:] @ self.missing[index]).unflatten(1, place.shape)
            known = torch.cat([known, joined[:, index, None]], dim=1) + aged[:, index, None]
            streams.append(self.norm(torch.where(here, known, learned) + place + self.stream[index]))
        return Fronted(streams, shared, private)


class Recall(nn.Module):
    """Memory entries as context tokens: ``[b, K, 64]``, ``age_s [b, K]``, ``mask [b, K]`` (1: there) to ``[b, K, width]``.

    An entry that is not there becomes one learned empty token, whatever it holds.
    """

    def __init__(self, width: int = WIDTH, channels: int = TOKEN_CHANNELS) -> None:
        super().__init__()
        self.project = nn.Linear(channels, width)
        self.age = nn.Linear(2, width)
        self.empty = nn.Parameter(torch.randn(width) * 0.02)
        self.norm = nn.LayerNorm(width)

    def forward(self, memory: Tensor, memory_age_s: Tensor, memory_mask: Tensor) -> Tensor:
        """Make the context."""
        known = self.project(memory) + self.age(age_features(memory_age_s))
        recalled: Tensor = self.norm(torch.where(memory_mask[:, :, None] > 0.5, known, self.empty))
        return recalled


class StreamVectors(nn.Module):
    """One vector a stream from its context tokens: ``[b, n_s + 1, width]`` each to ``[b, size]`` each."""

    def __init__(self, layout: FusionLayout, width: int, size: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear((n + 1) * width, size) for n in layout.token_counts)

    def forward(self, streams: Sequence[Tensor]) -> list[Tensor]:
        """Flatten, project, ReLU."""
        return [torch.relu(layer(x.flatten(1))) for layer, x in zip(self.layers, streams, strict=True)]
