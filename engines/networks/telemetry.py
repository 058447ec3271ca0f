"""The telemetry encoder: two seconds of vehicle motion to tokens."""

# mypy: allow-subclassing-any
from __future__ import annotations

import torch
from torch import Tensor, nn

from engines.networks.blocks import TOKEN_CHANNELS, CausalConv1d

WINDOW_NS = 2_000_000_000
HOP_NS = 100_000_000
STEP_NS = 50_000_000
HOLD_NS = 500_000_000
POINTS = WINDOW_NS // STEP_NS
TOKENS = 2

CHANNELS = (
    ("speed_mps", "m/s", True, 10.0, 10.0),
    ("accel_forward_mps2", "m/s2", False, 0.0, 2.0),
    ("accel_left_mps2", "m/s2", False, 0.0, 2.0),
    ("accel_up_mps2", "m/s2", False, 9.81, 2.0),
    ("yaw_rate_radps", "rad/s", False, 0.0, 0.2),
    ("steering_rad", "rad", False, 0.0, 0.2),
    ("brake", "1", False, 0.0, 0.5),
    ("throttle", "1", False, 0.0, 0.5),
)
"""Name, unit, required, centre, spread. Centre and spread only bring values near 1; they are not learned."""
LIMIT = 8.0
"""Normalised values are cut here, so that no finite input can overflow the network."""


class TelemetryEncoder(nn.Module):
    """``values`` and ``valid`` float32 ``[batch, 40, 8]`` to tokens ``[batch, 2, 64]``.

    Raw units are normalised and masked in the graph; a strided causal convolution shortens 40 points to 20, a GRU reads
    those from rest (no state is carried between windows). Tokens: the GRU's last state, and the latest point beside the
    window's mean.
    """

    centre: Tensor
    spread: Tensor

    def __init__(self) -> None:
        super().__init__()
        channels = len(CHANNELS)
        self.register_buffer("centre", torch.tensor([c[3] for c in CHANNELS]), persistent=False)
        self.register_buffer("spread", torch.tensor([1 / c[4] for c in CHANNELS]), persistent=False)
        self.conv = CausalConv1d(2 * channels, 32, 4, stride=2)
        self.gru = nn.GRU(32, 48, batch_first=True)
        self.from_state = nn.Linear(48, TOKEN_CHANNELS)
        self.from_points = nn.Linear(4 * channels, TOKEN_CHANNELS)

    def forward(self, values: Tensor, valid: Tensor) -> Tensor:
        """Encode."""
        x = torch.clamp((values - self.centre) * self.spread, -LIMIT, LIMIT) * valid
        points = torch.cat([x, valid], dim=2)
        steps = self.conv(points.transpose(1, 2)).transpose(1, 2)
        states, _ = self.gru(steps)
        state = self.from_state(states[:, -1])
        summary = self.from_points(torch.cat([points[:, -1], points.mean(1)], dim=1))
        return torch.stack([state, summary], dim=1)
