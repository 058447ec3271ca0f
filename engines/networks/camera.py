"""The camera encoder: one frame to tokens."""

# mypy: allow-subclassing-any
from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from engines.networks.blocks import QueryPool, SeparableConv2d
from engines.networks.design import View

STEM_CHANNELS = 16


class CameraEncoder(nn.Module):
    """Views of a frame, uint8 ``[batch, height, width, 3]`` each in the order of ``views``, to tokens ``[batch, n, 64]``.

    Cutting and resizing from the raw frame belong to the exported graph (`engines.export`), not to torch: ONNX Runtime
    resizes uint8 NHWC in a fraction of a float resize's time, and training reads the same graph's output.
    """

    def __init__(self, views: Mapping[str, View]) -> None:
        super().__init__()
        self.views = nn.ModuleDict({name: _stack(view) for name, view in views.items()})
        self.pools = nn.ModuleList(QueryPool(view.stages[-1][0], view.positions, view.tokens) for view in views.values())

    def forward(self, *views: Tensor) -> Tensor:
        """Encode."""
        features = [stack(_planes(view)) for stack, view in zip(self.views.values(), views, strict=True)]
        return torch.cat([pool(f.flatten(2)) for pool, f in zip(self.pools, features, strict=True)], dim=1)


def _stack(view: View) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(3, STEM_CHANNELS, 3, 2, 1, bias=False), nn.BatchNorm2d(STEM_CHANNELS), nn.ReLU()]
    channels = STEM_CHANNELS
    for wider, stride in view.stages:
        layers.append(SeparableConv2d(channels, wider, stride))
        channels = wider
    return nn.Sequential(*layers)


def _planes(image_bhwc: Tensor) -> Tensor:
    return (image_bhwc.float() - 127.5).mul(1 / 64).permute(0, 3, 1, 2)
