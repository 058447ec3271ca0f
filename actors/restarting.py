"""Starts a dead stage again: a few times, later each time, in a thread of its own so that the run goes on meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue

BACKOFF_S = (0.0, 1.0, 4.0)
"""How long to wait before each start; a stage that dies once more within `FORGIVEN_S` is given up."""
FORGIVEN_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reopened:
    """A stage has a new actor, which serves already."""

    recorded: int = 0
    """How many recordings of its predecessor the sink has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Restarted:
    """How a restart ended: with a new actor, or with the reason why there is none."""

    stage: str
    away_s: float
    """Since the stage died, over all attempts."""
    reopened: Reopened | None = None
    failure: str = ""


@dataclass(slots=True)
class RestartBudget:
    """Which restarts are still allowed, and after which wait. Knows no clock."""

    _begun_s: dict[str, list[float]] = field(default_factory=dict)

    def wait_s(self, stage: str, now_s: float) -> float | None:
        """How long to wait before starting ``stage`` again; None when it has died too often."""
        recent = [begun_s for begun_s in self._begun_s.get(stage, []) if now_s - begun_s < FORGIVEN_S]
        if len(recent) == len(BACKOFF_S):
            return None
        self._begun_s[stage] = [*recent, now_s]
        return BACKOFF_S[len(recent)]


class Restarter:
    """One run's restarts. ``reopen`` makes and starts a stage's new actor, and blocks for that long."""

    def __init__(self, reopen: Callable[[str], Reopened], stopping: threading.Event) -> None:
        self._reopen, self._stopping = reopen, stopping
        self._budget = RestartBudget()
        self._died_s: dict[str, float] = {}
        self._done: SimpleQueue[Restarted] = SimpleQueue()

    def begin(self, stage: str) -> bool:
        """Start it again in the background; False when it has died too often."""
        now_s = time.monotonic()
        wait_s = self._budget.wait_s(stage, now_s)
        if wait_s is None:
            return False
        self._died_s.setdefault(stage, now_s)
        threading.Thread(target=self._run, args=(stage, wait_s), name=f"restart {stage}", daemon=True).start()
        return True

    def done(self) -> list[Restarted]:
        """The restarts that ended since the last call."""
        ended = []
        while True:
            try:
                ended.append(self._done.get_nowait())
            except Empty:
                return ended

    def _run(self, stage: str, wait_s: float) -> None:
        if self._stopping.wait(wait_s):
            return
        reopened, failure = None, ""
        try:
            reopened = self._reopen(stage)
        except Exception as error:  # a thread's edge: the supervisor says it
            failure = " ".join(str(error).split())
        away_s = time.monotonic() - self._died_s[stage]
        if reopened is not None:
            del self._died_s[stage]
        self._done.put(Restarted(stage=stage, away_s=away_s, reopened=reopened, failure=failure))
