"""What a fusion network reads at given ticks of a `TokenSet`: as its sensors were, or delayed, stuck or without some of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engines.networks.layout import MASK_STATES, FusionLayout
from engines.networks.variant import FusionNetwork
from engines.training.token_set import TokenSet

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
PRESENT, QUIET, ABSENT = range(len(MASK_STATES))
FOREVER = 1 << 30
"""Ticks of a removal that reaches back beyond any memory."""
SPREAD_ROWS = 4000
"""Ticks that the spread of a set's values is taken from."""


class Instants(NamedTuple):
    """Inputs of `FusionNetwork.perceive` for ``m`` ticks."""

    inputs: list[Tensor]
    age_s: Tensor
    mask: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Disturbance:
    """What befalls the streams of ``n`` decisions, ``[n, streams]`` each."""

    delay_ticks: Ints
    """Tokens come this much later, and are so much older."""
    stuck_ticks: Ints
    """Since this long before the decision the sensor repeats itself, while its age says fresh; 0: it does not."""
    lost_ticks: Ints
    """Since this long before the decision the stream is gone; 0: it is there, `FOREVER`: it was gone all along."""
    lost_state: Ints
    """The state of a stream while it is gone: quiet or absent."""

    def __getitem__(self, rows: Any) -> Disturbance:
        """The same of some decisions."""
        return Disturbance(
            delay_ticks=self.delay_ticks[rows],
            stuck_ticks=self.stuck_ticks[rows],
            lost_ticks=self.lost_ticks[rows],
            lost_state=self.lost_state[rows],
        )


class Ticks:
    """The ticks of a set, in the order of a layout's streams. Raises ValueError where set and layout disagree."""

    def __init__(self, tokens: TokenSet, layout: FusionLayout, network: type[FusionNetwork] | FusionNetwork) -> None:
        if tokens.streams != layout.streams:
            raise ValueError(f"the set has the streams {tokens.streams}, the layout {layout.streams}; they must be the same")
        missing = sorted(set(layout.heads) - set(tokens.labels))
        if missing:
            raise ValueError(f"the set has no labels of {missing}; the layout's heads are {sorted(layout.heads)}")
        group: Mapping[str, Any] = tokens.low_level if network.reads == "low_level" else tokens.tokens
        self.arrays = [group[stream] for stream in layout.streams]
        self.run = np.asarray(tokens.run)
        self.state = np.asarray(tokens.state)
        self.age_s = np.asarray(tokens.age_s)
        self.tick_s = tokens.tick_s
        starts = np.flatnonzero(np.diff(self.run, prepend=self.run[0] - 1))
        self.start: Ints = np.repeat(starts, np.diff(starts, append=len(self.run))).astype(np.int64)
        """``[n]``: the first tick of each tick's run."""
        self.step_ticks = max(1, round(layout.memory_step_s / self.tick_s))

    def __len__(self) -> int:
        return len(self.run)

    @cached_property
    def spread(self) -> list[Tensor]:
        """Standard deviation of every input's values over the set, one tensor a stream."""
        some = np.unique(np.linspace(0, len(self) - 1, SPREAD_ROWS).astype(np.int64))
        return [torch.from_numpy(np.asarray(a[some]).astype(np.float32).std(axis=0)) for a in self.arrays]

    def read(self, rows: Ints, disturbance: Disturbance, lag_ticks: Ints | int = 0) -> Instants:
        """What was admitted ``lag_ticks`` (``[m]`` or one) before the ticks ``rows [m]``, under the decisions' disturbance.

        Instants before a run's start are read as its start; the caller masks them.
        """
        lag = np.broadcast_to(np.asarray(lag_ticks, np.int64), rows.shape)[:, None]
        start = self.start[rows][:, None]
        at = np.maximum(rows[:, None] - lag, start) - disturbance.delay_ticks
        before = at < start
        at = np.maximum(at, start)
        source = np.where(disturbance.stuck_ticks > 0, np.minimum(at, rows[:, None] - disturbance.stuck_ticks), at)
        source = np.maximum(source, start)
        streams = np.arange(len(self.arrays))
        state = np.where(before, ABSENT, self.state[at, streams])
        gone = (lag < disturbance.lost_ticks) & (state != ABSENT)
        state = np.where(gone, disturbance.lost_state, state)
        age = self.age_s[at, streams] + disturbance.delay_ticks * self.tick_s
        inputs = [torch.from_numpy(np.asarray(a[source[:, i]])).float() for i, a in enumerate(self.arrays)]
        mask = torch.eye(len(MASK_STATES))[torch.from_numpy(state.astype(np.int64))]
        return Instants(inputs, torch.from_numpy(age.astype(np.float32)), mask)


def joined(first: Disturbance, second: Disturbance) -> Disturbance:
    """The decisions of both, one after the other."""
    return Disturbance(
        delay_ticks=np.concatenate([first.delay_ticks, second.delay_ticks]),
        stuck_ticks=np.concatenate([first.stuck_ticks, second.stuck_ticks]),
        lost_ticks=np.concatenate([first.lost_ticks, second.lost_ticks]),
        lost_state=np.concatenate([first.lost_state, second.lost_state]),
    )


def undisturbed(count: int, streams: int) -> Disturbance:
    """Nothing happens."""
    zeros = np.zeros((count, streams), np.int64)
    return Disturbance(delay_ticks=zeros, stuck_ticks=zeros, lost_ticks=zeros, lost_state=zeros + ABSENT)
