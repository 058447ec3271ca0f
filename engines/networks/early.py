"""Early fusion: what the sensors give, brought to one time grid and laid side by side before anything is learned of it."""

# mypy: allow-subclassing-any
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from engines.networks.front import age_features
from engines.networks.layout import FusionLayout
from engines.networks.variant import Ending, FusionNetwork, Perceived

GRID = 8
"""Steps of the common grid."""
KERNEL = 3
Shapes = Mapping[str, tuple[int, int]]
"""Stream to (steps, channels) of its low-level features."""


class EarlyFusion(FusionNetwork):
    """Early fusion of low-level features ``[b, steps_s, channels_s]`` (its name and limits: Baltrušaitis et al., 2019).

    Each stream is standardised, resampled to 8 steps by linear interpolation and concatenated with the others and with ages and
    availability; two causal convolutions over the grid and a perceptron read it. A stream that is quiet or absent becomes
    learned values, one set a state. ``size``: channels of the convolutions.
    """

    reads: ClassVar[Literal["tokens", "low_level"]] = "low_level"

    def __init__(self, layout: FusionLayout, shapes: Shapes, size: int) -> None:
        super().__init__()
        self.layout = layout
        channels = [shapes[stream][1] for stream in layout.streams]
        for index, stream in enumerate(layout.streams):
            self.register_buffer(f"grid_{index}", grid_from_steps(shapes[stream][0]))
            self.register_buffer(f"offset_{index}", torch.zeros(channels[index]))
            self.register_buffer(f"scale_{index}", torch.ones(channels[index]))
        self.missing = nn.ParameterList(nn.Parameter(torch.randn(2, c) * 0.02) for c in channels)
        self.enter = nn.Linear(sum(channels) + 5 * len(channels), size)
        self.convolutions = nn.ModuleList(nn.Conv1d(size, size, KERNEL, dilation=d) for d in (1, 2))
        self.flatten = nn.Linear(4 * size, size)
        self.ending = Ending(layout, size, size)

    def standardise(self, low_level: Sequence[Tensor]) -> None:
        """Set each channel's offset and scale from training features ``[n, steps_s, channels_s]``."""
        for index, x in enumerate(low_level):
            flat = x.float().flatten(0, 1)
            self.get_buffer(f"offset_{index}").copy_(flat.mean(dim=0))
            self.get_buffer(f"scale_{index}").copy_(1 / torch.clamp(flat.std(dim=0), min=1e-3))

    def perceive(self, inputs: Sequence[Tensor], age_s: Tensor, mask: Tensor) -> Perceived:
        """Resample, concatenate, convolve."""
        parts = []
        for index, low_level in enumerate(inputs):
            here = mask[:, index, 0:1, None] > 0.5
            known = (low_level - self.get_buffer(f"offset_{index}")) * self.get_buffer(f"scale_{index}")
            known = self.get_buffer(f"grid_{index}") @ torch.clamp(known, -8.0, 8.0)
            parts.append(torch.where(here, known, (mask[:, index, 1:] @ self.missing[index])[:, None]))
        about = torch.cat([age_features(age_s) * mask[:, :, 0:1], mask], dim=2).flatten(1)
        x = torch.relu(self.enter(torch.cat([*parts, about[:, None].expand(-1, GRID, -1)], dim=2))).transpose(1, 2)
        for convolution in self.convolutions:
            past = (KERNEL - 1) * convolution.dilation[0]
            x = x + torch.relu(convolution(nn.functional.pad(x, (past, 0))))
        # the newest steps as they are, the rest as a mean: what is now matters most
        vector = torch.cat([x[:, :, -1], x[:, :, -2], x[:, :, -5], x.mean(dim=2)], dim=1)
        return self.ending.perceived(torch.relu(self.flatten(vector)), None)

    def decide(self, state: tuple[Tensor, ...], memory: Tensor, memory_age_s: Tensor, memory_mask: Tensor) -> tuple[Tensor, ...]:
        """Logits by head."""
        return tuple(self.ending(state, memory, memory_age_s, memory_mask))


def grid_from_steps(steps: int) -> Tensor:
    """The matrix ``[8, steps]`` that interpolates linearly from ``steps`` equal steps to the grid; ends meet ends."""
    with torch.device("cpu"):
        place = torch.linspace(0, steps - 1, GRID)
        low = torch.clamp(place.floor(), max=max(steps - 2, 0))
        columns = torch.arange(steps)[None, :]
        share = (place - low)[:, None]
        return (columns == low[:, None]) * (1 - share) + (columns == low[:, None] + 1) * share
