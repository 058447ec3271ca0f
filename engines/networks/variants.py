"""Every fusion variant by name, at equal budgets."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from engines.networks.bottleneck import BottleneckFusion
from engines.networks.co_attention import CoAttentionFusion
from engines.networks.concat import ConcatFusion
from engines.networks.early import EarlyFusion, Shapes
from engines.networks.gate import GateFusion
from engines.networks.late import Combination, LateFusion
from engines.networks.layout import FusionLayout
from engines.networks.low_rank import LowRankFusion
from engines.networks.variant import FusionNetwork, fitted

SIZES = range(4, 513, 2)
"""Sizes tried for the budget."""

Variant = Callable[[FusionLayout, Shapes | None], FusionNetwork]
"""Makes a network for a layout; low-level shapes (stream to steps and channels) are read by early fusion alone."""


def _early(layout: FusionLayout, low_level_shapes: Shapes | None = None) -> FusionNetwork:
    if low_level_shapes is None:
        raise ValueError("low_level_shapes is None; early fusion needs the shape of each stream's low-level features")
    return fitted(lambda size: EarlyFusion(layout, low_level_shapes, size), SIZES)


def _tokens(structure: Callable[[FusionLayout, int], FusionNetwork]) -> Variant:
    def build(layout: FusionLayout, low_level_shapes: Shapes | None = None) -> FusionNetwork:
        return fitted(lambda size: structure(layout, size), SIZES)

    return build


def _late(combination: Combination) -> Variant:
    return _tokens(lambda layout, size: LateFusion(layout, combination, size))


VARIANTS: Mapping[str, Variant] = {
    "early": _early,
    "concat": _tokens(ConcatFusion),
    "gate": _tokens(GateFusion),
    "low_rank": _tokens(LowRankFusion),
    "bottleneck": _tokens(BottleneckFusion),
    "co_attention": _tokens(CoAttentionFusion),
    "late_mean": _late("mean"),
    "late_stacking": _late("stacking"),
}
"""Name to maker, from early to late."""

INTERMEDIATE = ("concat", "gate", "low_rank", "bottleneck", "co_attention")
LATE = ("late_mean", "late_stacking")
