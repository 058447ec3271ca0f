"""Clocks, injected wherever time is read.

One monotonic clock per host; all stamps in one run are on that of the host that started it. A stage on another host reads a
`MappedClock`. Tests and replay bring their own.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

SLEW: Final = 2_000
"""A mapping is corrected by 1 ns in so many at most (500 ppm, as the NTP daemon slews): time neither jumps nor runs backwards."""


class Clock(Protocol):
    """Integer nanoseconds that never run backwards."""

    def now_ns(self) -> int:
        """The present, in ns."""
        ...

    def from_host_ns(self, host_ns: int) -> int:
        """A stamp of this host's monotonic clock, as this clock would have shown it."""
        ...

    def sleep_until_ns(self, until_ns: int, stop: threading.Event | None = None) -> bool:
        """Sleep until ``until_ns`` or until ``stop`` is set; True when the time was reached."""
        ...


NAP_NS = 100_000_000
"""Sleeping on an event takes 18 us longer to wake from than plain sleep, which nothing ends."""


class SystemClock:
    """The host's monotonic clock."""

    def now_ns(self) -> int:
        """CLOCK_MONOTONIC, in ns."""
        return time.monotonic_ns()

    def from_host_ns(self, host_ns: int) -> int:
        """The same: this is the host's clock."""
        return host_ns

    def sleep_until_ns(self, until_ns: int, stop: threading.Event | None = None) -> bool:
        """Sleep on the stop event, but for the last `NAP_NS`: stopping waits no longer than that."""
        while (left_ns := until_ns - time.monotonic_ns()) > 0:
            if stop is None or left_ns <= NAP_NS:
                time.sleep(left_ns / 1e9)
            elif stop.wait((left_ns - NAP_NS // 2) / 1e9):
                return False
        return stop is None or not stop.is_set()


class ManualClock:
    """A clock that moves only when told, for tests; sleeping moves it."""

    def __init__(self, now_ns: int = 0) -> None:
        self._now_ns = now_ns

    def now_ns(self) -> int:
        """Where the clock was last set."""
        return self._now_ns

    def from_host_ns(self, host_ns: int) -> int:
        """The same: the test is the host."""
        return host_ns

    def advance_ns(self, by_ns: int) -> None:
        """Move forward. Raises ValueError for a negative step."""
        if by_ns < 0:
            raise ValueError(f"a clock never runs backwards (asked for {by_ns} ns)")
        self._now_ns += by_ns

    def sleep_until_ns(self, until_ns: int, stop: threading.Event | None = None) -> bool:
        """Jump there at once."""
        self._now_ns = max(self._now_ns, until_ns)
        return stop is None or not stop.is_set()


class MappedClock:
    """Another host's monotonic clock, read on this one: this host's clock plus an offset that is measured again and again."""

    def __init__(self, host: Clock | None = None) -> None:
        self._host: Clock = host if host is not None else SystemClock()
        self._course = (0, 0, 0)  # host time when steered, the offset then, the offset aimed at: one tuple, read by other threads

    def steer(self, offset_ns: int, *, at_once: bool = False) -> None:
        """Aim at a newly measured offset; ``at_once`` only before anything has been stamped."""
        now_ns = self._host.now_ns()
        from_ns = offset_ns if at_once else self.from_host_ns(now_ns) - now_ns
        self._course = (now_ns, from_ns, offset_ns)

    def now_ns(self) -> int:
        """The other host's present, in ns."""
        return self.from_host_ns(self._host.now_ns())

    def from_host_ns(self, host_ns: int) -> int:
        """A stamp of this host, on the other's axis."""
        since_ns, from_ns, to_ns = self._course
        if from_ns == to_ns:  # always, where the run has one host
            return host_ns + from_ns
        slewed_ns = max(0, host_ns - since_ns) // SLEW
        return host_ns + from_ns + max(-slewed_ns, min(slewed_ns, to_ns - from_ns))

    def sleep_until_ns(self, until_ns: int, stop: threading.Event | None = None) -> bool:
        """Sleep by this host's clock until the other's shows ``until_ns``."""
        while (left_ns := until_ns - self.now_ns()) > 0:
            if not self._host.sleep_until_ns(self._host.now_ns() + left_ns, stop):
                return False
        return stop is None or not stop.is_set()


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockOffset:
    """What to add to another host's monotonic clock to have this one's, and by how much that may be wrong, in ns."""

    offset_ns: int
    uncertainty_ns: int


def offset_of(rounds: Sequence[tuple[int, int, int]]) -> ClockOffset:
    """From rounds of (sent here, read there, received here), in ns: the quickest one's middle, half of its time uncertain.

    The choice of the quickest is that of NTP's clock filter (RFC 5905, section 10). Raises ValueError without a round.
    """
    if not rounds:
        raise ValueError("no round was measured")
    sent_ns, there_ns, received_ns = min(rounds, key=lambda r: r[2] - r[0])
    return ClockOffset(offset_ns=(sent_ns + received_ns) // 2 - there_ns, uncertainty_ns=(received_ns - sent_ns + 1) // 2)


def clock_domain() -> str:
    """Names the monotonic clock that this process reads: two with the same name need no mapping.

    It counts from the host's boot, and a time namespace (Linux) may shift it.
    """
    boot = Path("/proc/sys/kernel/random/boot_id")
    namespace = Path("/proc/self/ns/time")
    shift = os.readlink(namespace) if namespace.exists() else "time"
    return f"{boot.read_text(encoding='ascii').strip() if boot.exists() else os.uname().nodename} {shift}"


def wall_offset_ns() -> int:
    """Wall-clock time less monotonic time, taken as close together as this host can (kept in the log)."""
    before = time.monotonic_ns()
    wall = time.time_ns()
    after = time.monotonic_ns()
    return wall - (before + after) // 2
