"""The telemetry encoder: a few seconds of vehicle motion or biosignals to tokens."""

# mypy: allow-subclassing-any
from __future__ import annotations

import torch
from torch import Tensor, nn

from engines.networks.blocks import TOKEN_CHANNELS, CausalConv1d
from engines.networks.design import TelemetryDesign

LIMIT = 8.0
"""Normalised values are cut here, so that no finite input can overflow the network."""
WIDTH, STATE = 32, 48


class TelemetryEncoder(nn.Module):
    """``values`` and ``valid`` float32 ``[batch, points, channels]`` to tokens ``[batch, 2, 64]``.

    Raw units are normalised and masked in the graph; strided causal convolutions shorten the points, a GRU reads what is left
    from rest (no state is carried between windows). Tokens: the GRU's last state, and the latest point beside the window's
    mean and spread.
    """

    centre: Tensor
    spread: Tensor

    def __init__(self, design: TelemetryDesign) -> None:
        super().__init__()
        channels = len(design.channels)
        self.register_buffer("centre", torch.tensor([c.centre for c in design.channels]), persistent=False)
        self.register_buffer("spread", torch.tensor([1 / c.spread for c in design.channels]), persistent=False)
        widths = [2 * channels] + [WIDTH] * len(design.strides)
        self.convs = nn.Sequential(
            *(CausalConv1d(a, b, 2 * s, stride=s) for a, b, s in zip(widths, widths[1:], design.strides, strict=False))
        )
        self.gru = nn.GRU(WIDTH, STATE, batch_first=True)
        self.from_state = nn.Linear(STATE, TOKEN_CHANNELS)
        self.from_points = nn.Linear(5 * channels, TOKEN_CHANNELS)

    def forward(self, values: Tensor, valid: Tensor) -> Tensor:
        """Encode."""
        x = torch.clamp((values - self.centre) * self.spread, -LIMIT, LIMIT) * valid
        points = torch.cat([x, valid], dim=2)
        steps = self.convs(points.transpose(1, 2)).transpose(1, 2)
        states, _ = self.gru(steps)
        state = self.from_state(states[:, -1])
        mean = points.mean(1)
        spread = (x - x.mean(1, keepdim=True)).abs().mean(1)
        summary = self.from_points(torch.cat([points[:, -1], mean, spread], dim=1))
        return torch.stack([state, summary], dim=1)
