"""Windows to calibrate on, from a log: played once, kept by role beside the engines that were made with them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from actors.engines import ServedEngine, reference_engine
from actors.plan import RunPlan
from actors.sampling import Reservoir
from engines.windows import Window, load_windows, save_windows
from pipeline.messages import Decision

CALIBRATION_WINDOWS = 128


def calibration_name(log: Path) -> str:
    """What a manifest says about where its ranges were measured: the log, its hash, how many windows."""
    digest = hashlib.sha256()
    with log.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return f"{CALIBRATION_WINDOWS} windows a stream of {log.name[:60]} (sha256 {digest.hexdigest()[:16]})"


def calibration_windows(replay: RunPlan, role: str, cache: Path) -> list[Window]:
    """The windows of a role in the log that ``replay`` plays, from the cache where they are there already.

    The first role that is asked for plays the log for all of them.
    """
    assert replay.replay_log is not None
    name = hashlib.sha256(calibration_name(replay.replay_log).encode()).hexdigest()[:20]
    folder = cache / f"windows-{name}"
    path = folder / f"{role}.npz"
    if not path.exists():
        for sampled, windows in sampled_windows(replay, CALIBRATION_WINDOWS).items():
            save_windows(folder / f"{sampled}.npz", windows)
    return load_windows(path)


class _Watched:
    """An engine that shows what it is asked. Implements `actors.engines.ServedEngine`."""

    def __init__(self, runner: ServedEngine, reservoir: Reservoir) -> None:
        self._runner, self._reservoir = runner, reservoir
        self.engine, self.notices = runner.engine, runner.notices

    def infer(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """See `pipeline.stages.infer.Infer`."""
        self._reservoir.offer(inputs)
        return self._runner.infer(inputs)


def sampled_windows(
    plan: RunPlan,
    limit: int,
    on_decisions: Callable[[list[Decision]], None] | None = None,
) -> dict[str, list[Window]]:
    """Role to at most ``limit`` windows, drawn evenly from a replay of the plan's log. Nothing is recorded or sent."""
    from actors.inline import InlineRun  # it serves what was calibrated, and calibration plays a log through it

    reservoirs: dict[str, Reservoir] = {}

    @contextmanager
    def watched(plan: RunPlan, role: str) -> Iterator[ServedEngine]:
        with reference_engine(plan, role) as runner:
            # warm-up lies behind: what is offered from here on are the log's own windows
            yield _Watched(runner, reservoirs.setdefault(role, Reservoir(limit)))

    quiet = replace(plan, record=None, sinks=())
    InlineRun(quiet, opening=watched, on_decisions=on_decisions).run()
    return {role: reservoir.windows for role, reservoir in reservoirs.items()}
