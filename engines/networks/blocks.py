"""Small pieces that the networks share."""

# mypy: allow-subclassing-any
from __future__ import annotations

import torch
from torch import Tensor, nn

TOKEN_CHANNELS = 64
"""Width of every token, whatever the stream."""


class SeparableConv2d(nn.Module):
    """Depthwise 3x3, then pointwise, each with batch normalisation (MobileNet: Howard et al., 2017).

    ``[batch, in, h, w]`` to ``[batch, out, h / stride, w / stride]``; residual where shapes allow.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(in_channels, in_channels, 3, stride, 1, groups=in_channels, bias=False)
        self.norm_depthwise = nn.BatchNorm2d(in_channels)
        self.pointwise = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.norm_pointwise = nn.BatchNorm2d(out_channels)
        self.residual = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        y = torch.relu(self.norm_depthwise(self.depthwise(x)))
        y = self.norm_pointwise(self.pointwise(y))
        return torch.relu(x + y if self.residual else y)


class CausalConv1d(nn.Module):
    """A convolution over time that sees no later step: ``[batch, in, steps]`` to ``[batch, out, steps / stride]``."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.past = (kernel - 1) * dilation
        self.conv = nn.Conv1d(in_channels, out_channels, kernel, stride, dilation=dilation, bias=False)
        self.norm = nn.BatchNorm1d(out_channels)
        self.residual = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """Apply convolution, normalisation and ReLU, with a residual where shapes allow."""
        y = self.norm(self.conv(nn.functional.pad(x, (self.past, 0))))
        return torch.relu(x + y if self.residual else y)


class QueryPool(nn.Module):
    """Tokens from positions by learned queries: ``[batch, channels, positions]`` to ``[batch, tokens, 64]``.

    Each token is a softmax-weighted mean of the positions plus where it looked, so that a small thing (a lit bar) is
    not averaged away.
    """

    def __init__(self, channels: int, positions: int, tokens: int) -> None:
        super().__init__()
        self.score = nn.Conv1d(channels, tokens, 1)
        self.prior = nn.Parameter(torch.zeros(tokens, positions))
        self.place = nn.Parameter(torch.randn(positions, channels) * 0.05)
        self.project = nn.Linear(channels, TOKEN_CHANNELS)

    def forward(self, x: Tensor) -> Tensor:
        """Pool."""
        weight = torch.softmax(self.score(x) + self.prior, dim=-1)
        pooled: Tensor = self.project(weight @ (x.transpose(1, 2) + self.place))
        return pooled
