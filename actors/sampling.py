"""What a run's engines really read: windows of a log, kept by role, for calibration and for parity."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.engines import Opening, reference_engine
from actors.inline import InlineRun
from actors.plan import RunPlan
from pipeline.messages import Decision
from pipeline.stages.infer import Infer

Window = dict[str, NDArray[Any]]
"""One call's inputs by name."""
SEED = 17


class Reservoir:
    """At most ``limit`` of the windows that came by, each equally likely (Vitter, "Random Sampling with a Reservoir", 1985)."""

    def __init__(self, limit: int) -> None:
        self._limit, self._seen, self._random = limit, 0, random.Random(SEED)
        self.windows: list[Window] = []

    def offer(self, inputs: Mapping[str, NDArray[Any]]) -> None:
        """Keep a copy, or not."""
        self._seen += 1
        if len(self.windows) < self._limit:
            self.windows.append({name: np.array(array) for name, array in inputs.items()})
        elif (place := self._random.randrange(self._seen)) < self._limit:
            self.windows[place] = {name: np.array(array) for name, array in inputs.items()}


class _Watched:
    """An engine that shows what it is asked."""

    def __init__(self, runner: Infer, reservoir: Reservoir) -> None:
        self._runner, self._reservoir = runner, reservoir

    def infer(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """See `pipeline.stages.infer.Infer`."""
        self._reservoir.offer(inputs)
        return self._runner.infer(inputs)


def sampled_windows(
    plan: RunPlan,
    limit: int,
    *,
    opening: Opening = reference_engine,
    on_decisions: Callable[[list[Decision]], None] | None = None,
) -> dict[str, list[Window]]:
    """Role to at most ``limit`` windows, drawn evenly from a replay of the plan's log. Nothing is recorded or sent."""
    reservoirs: dict[str, Reservoir] = {}

    @contextmanager
    def watched(plan: RunPlan, role: str) -> Iterator[Infer]:
        with opening(plan, role) as runner:
            # warm-up lies behind: what is offered from here on are the log's own windows
            yield _Watched(runner, reservoirs.setdefault(role, Reservoir(limit)))

    quiet = replace(plan, record=None, sinks=())
    InlineRun(quiet, opening=watched, on_decisions=on_decisions).run()
    return {role: reservoir.windows for role, reservoir in reservoirs.items()}
