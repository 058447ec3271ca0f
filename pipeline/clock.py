"""Clocks, injected wherever time is read.

One monotonic clock per host; all stamps in one run are on it. Tests and replay bring their own.
"""

from __future__ import annotations

import threading
import time
from typing import Protocol


class Clock(Protocol):
    """Integer nanoseconds that never run backwards."""

    def now_ns(self) -> int:
        """The present, in ns."""
        ...

    def sleep_until_ns(self, until_ns: int, stop: threading.Event | None = None) -> bool:
        """Sleep until ``until_ns`` or until ``stop`` is set; True when the time was reached."""
        ...


class SystemClock:
    """The host's monotonic clock."""

    def now_ns(self) -> int:
        """CLOCK_MONOTONIC, in ns."""
        return time.monotonic_ns()

    def sleep_until_ns(self, until_ns: int, stop: threading.Event | None = None) -> bool:
        """Sleep on the stop event, so that stopping never waits for the next sample."""
        while (left_ns := until_ns - time.monotonic_ns()) > 0:
            if stop is None:
                time.sleep(left_ns / 1e9)
            elif stop.wait(left_ns / 1e9):
                return False
        return stop is None or not stop.is_set()


class ManualClock:
    """A clock that moves only when told, for tests; sleeping moves it."""

    def __init__(self, now_ns: int = 0) -> None:
        self._now_ns = now_ns

    def now_ns(self) -> int:
        """Where the clock was last set."""
        return self._now_ns

    def advance_ns(self, by_ns: int) -> None:
        """Move forward. Raises ValueError for a negative step."""
        if by_ns < 0:
            raise ValueError(f"a clock never runs backwards (asked for {by_ns} ns)")
        self._now_ns += by_ns

    def sleep_until_ns(self, until_ns: int, stop: threading.Event | None = None) -> bool:
        """Jump there at once."""
        self._now_ns = max(self._now_ns, until_ns)
        return stop is None or not stop.is_set()


def wall_offset_ns() -> int:
    """Wall-clock time less monotonic time, taken as close together as this host can (kept in the log)."""
    before = time.monotonic_ns()
    wall = time.time_ns()
    after = time.monotonic_ns()
    return wall - (before + after) // 2
