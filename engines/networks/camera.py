"""The camera encoder: one frame to tokens."""

# mypy: allow-subclassing-any
from __future__ import annotations

import torch
from torch import Tensor, nn

from engines.networks.blocks import QueryPool, SeparableConv2d

VIEWS = {
    "scene": ((0.0, 1.0, 0.0, 1.0), (48, 80), 2),
    "road": ((0.296875, 0.630208, 0.25, 0.75), (64, 160), 2),
    "mirror": ((0.0, 0.208334, 0.3, 0.7), (40, 128), 2),
}
"""What the graph cuts from a frame: the box as shares (top, bottom, left, right), the size it is resized to, its tokens.

Of the simulated 320 x 192 frame ``road`` (around the horizon, where what matters is small) and ``mirror`` (the rear-view
mirror) are cut without loss of resolution.
"""


class CameraEncoder(nn.Module):
    """Three uint8 views ``[batch, height, width, 3]`` in the order of `VIEWS` to tokens ``[batch, 6, 64]``.

    Cutting and resizing from the raw frame belong to the exported graph (`engines.export`), not to torch: ONNX Runtime
    resizes uint8 NHWC in a fraction of a float resize's time, and training reads the same graph's output.
    """

    def __init__(self) -> None:
        super().__init__()
        self.scene = nn.Sequential(
            *_stem(), SeparableConv2d(16, 32, 2), SeparableConv2d(32, 64), *(SeparableConv2d(64, 64) for _ in range(2))
        )
        self.road = nn.Sequential(
            *_stem(),
            SeparableConv2d(16, 32, 2),
            SeparableConv2d(32, 32),
            SeparableConv2d(32, 64, 2),
            *(SeparableConv2d(64, 64) for _ in range(3)),
        )
        self.mirror = nn.Sequential(
            *_stem(), SeparableConv2d(16, 32, 2), SeparableConv2d(32, 64, 2), *(SeparableConv2d(64, 64) for _ in range(2))
        )
        self.pools = nn.ModuleList(QueryPool(64, positions, 2) for positions in (240, 160, 80))

    def forward(self, scene: Tensor, road: Tensor, mirror: Tensor) -> Tensor:
        """Encode."""
        features = (self.scene(_planes(scene)), self.road(_planes(road)), self.mirror(_planes(mirror)))
        return torch.cat([pool(f.flatten(2)) for pool, f in zip(self.pools, features, strict=True)], dim=1)


def _stem() -> tuple[nn.Module, ...]:
    return nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()


def _planes(image_bhwc: Tensor) -> Tensor:
    return (image_bhwc.float() - 127.5).mul(1 / 64).permute(0, 3, 1, 2)
