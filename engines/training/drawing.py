"""Which ticks fusion is trained on, and what befalls them: all from one seed, step by step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engines.networks.layout import FusionLayout
from engines.training.instants import ABSENT, FOREVER, QUIET, Disturbance, Ints, Ticks
from engines.training.objective import FusingOptions, Target
from engines.training.token_set import TokenSet

APART_S = 20.0
"""Ticks of one run are negatives of each other from this far."""
QUIET_SHARE = 0.2
"""How often a removed stream counts as quiet rather than absent."""
DIRECTIONS = 32
"""Directions along which the shared parts' distributions are compared in a batch."""
RECENT_SHARE = 0.3
"""How often a stream is removed only lately, so that the memory still knows it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """One training batch: ``b`` ticks, seen complete and again with streams removed."""

    rows: Ints
    complete: Disturbance
    masked: Disturbance | None
    """None where training removes nothing, or has one stream: then there is one view."""
    lags: Ints
    """``[b, K]``: how many ticks before now each memory entry is, newest first."""
    entries: NDArray[np.bool_]
    """``[b, K]``: which entries there are."""
    taught: Ints
    """``[b]``: the entry that a gradient goes through."""
    target: Target


class Drawing:
    """Draws batches from a set. Batch ``step`` depends on the seed and on ``step`` alone, so that training can be resumed."""

    def __init__(self, tokens: TokenSet, layout: FusionLayout, ticks: Ticks, options: FusingOptions, seed: int) -> None:
        self.layout, self.ticks, self.options, self.seed = layout, ticks, options, seed
        self.heads = options.tasks or tuple(layout.heads)
        self.labels = {head: np.asarray(tokens.labels[head]).astype(np.int64) for head in self.heads}
        self.weights = {
            head: np.where(np.asarray(tokens.scored[head]), 1.0, options.unscored).astype(np.float32) for head in self.heads
        }
        chance = np.zeros(len(ticks))
        for head in self.heads:
            share = self._shares(head, np.ones(len(ticks)))
            chance += self.weights[head] * np.maximum(share, 1e-4)[self.labels[head]] ** -options.rare
        self.cumulative = np.cumsum(chance) / chance.sum()
        self.log_ratios = {head: self._log_ratio(head, chance / chance.sum()) for head in self.heads}

    def _shares(self, head: str, chance: NDArray[np.float64]) -> NDArray[np.float64]:
        counted = np.bincount(self.labels[head], self.weights[head] * chance, minlength=len(self.layout.heads[head]))
        shares: NDArray[np.float64] = counted / counted.sum()
        return shares

    def _log_ratio(self, head: str, chance: NDArray[np.float64]) -> Tensor:
        natural, drawn = self._shares(head, np.ones(len(self.ticks))), self._shares(head, chance)
        ratio = np.where(natural > 0, drawn / np.maximum(natural, 1e-12), 1.0)
        return torch.from_numpy(np.log(ratio).astype(np.float32))

    def draw(self, step: int) -> Draw:
        """Batch number ``step``."""
        rng = np.random.default_rng((self.seed, step))
        count = self.options.batch
        rows = np.minimum(np.searchsorted(self.cumulative, rng.random(count)), len(self.ticks) - 1)
        complete = self._disturbance(rng, count)
        present = self.options.present or (True,) * len(self.layout.streams)
        masked = self._removed(rng, complete) if self.options.taken > 0 and sum(present) > 1 else None
        lags, entries = self._memory(rng, rows)
        return Draw(
            rows=rows, complete=complete, masked=masked, lags=lags, entries=entries,
            taught=rng.integers(0, max(1, self.layout.memory_entries), count), target=self._target(rng, rows),
        )  # fmt: skip

    def _disturbance(self, rng: np.random.Generator, count: int) -> Disturbance:
        options, tick_s = self.options, self.ticks.tick_s
        shape = (count, len(self.layout.streams))
        delay = np.where(rng.random(shape) < options.delayed, rng.integers(0, round(options.delay_s / tick_s) + 1, shape), 0)
        low, high = (max(1, round(s / tick_s)) for s in options.frozen_s)
        stuck = np.where(rng.random(shape) < options.frozen, rng.integers(low, high + 1, shape), 0)
        gone = np.zeros(shape, np.int64)
        if options.present is not None:
            gone[:, ~np.array(options.present)] = FOREVER
        return Disturbance(delay_ticks=delay, stuck_ticks=stuck, lost_ticks=gone, lost_state=np.full(shape, ABSENT))

    def _removed(self, rng: np.random.Generator, complete: Disturbance) -> Disturbance:
        """At least one stream less, and at least one left, of those that there are."""
        shape = complete.delay_ticks.shape
        there = complete.lost_ticks == 0
        score = np.where(there, rng.random(shape), 2.0)
        taken = score < self.options.taken
        first, last = score.argmin(axis=1), np.where(there, score, -1.0).argmax(axis=1)
        taken[np.arange(len(taken)), first] = True
        taken[np.arange(len(taken)), last] = False
        longest = max(1, (self.layout.memory_entries + 1) * self.ticks.step_ticks)
        since = np.where(rng.random(shape) < RECENT_SHARE, rng.integers(1, longest + 1, shape), FOREVER)
        return Disturbance(
            delay_ticks=complete.delay_ticks,
            stuck_ticks=complete.stuck_ticks,
            lost_ticks=np.where(taken & there, since, complete.lost_ticks),
            lost_state=np.where(there & (rng.random(shape) < QUIET_SHARE), QUIET, ABSENT),
        )

    def _memory(self, rng: np.random.Generator, rows: Ints) -> tuple[Ints, NDArray[np.bool_]]:
        """Entries lie a step apart; the newest is up to a step old, as it will be between two entries."""
        entries, step = self.layout.memory_entries, self.ticks.step_ticks
        newest = rng.integers(1, step + 1, len(rows))
        lags = newest[:, None] + step * np.arange(entries)
        kept = np.where(rng.random(len(rows)) < self.options.forgotten, rng.integers(0, entries + 1, len(rows)), entries)
        there = (rows[:, None] - lags >= self.ticks.start[rows][:, None]) & (np.arange(entries) < kept[:, None])
        return lags, there

    def _target(self, rng: np.random.Generator, rows: Ints) -> Target:
        run, far = self.ticks.run[rows], round(APART_S / self.ticks.tick_s)
        apart = (run[:, None] != run[None, :]) | (np.abs(rows[:, None] - rows[None, :]) >= far)
        directions = rng.normal(size=(self.layout.shared_width, DIRECTIONS))
        directions /= np.linalg.norm(directions, axis=0)
        weights: Mapping[str, NDArray[np.float32]] = {head: w[rows] for head, w in self.weights.items()}
        return Target(
            labels={head: torch.from_numpy(labels[rows]) for head, labels in self.labels.items()},
            weights={head: torch.from_numpy(w) for head, w in weights.items()},
            log_ratios=self.log_ratios,
            apart=torch.from_numpy(apart),
            directions=torch.from_numpy(directions.astype(np.float32)),
        )
