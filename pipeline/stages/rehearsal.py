"""When fusion rehearses: goes through a decision that is not due yet, and throws it away.

A stage that sleeps between two samples finds its code and its network cold: on the processor's caches others have worked since.
What was gone through a moment ago takes half as long (docs/performance.md has figures). A rehearsal changes nothing that a
decision rests on, so it only ever changes how soon that comes.
"""

from __future__ import annotations

import enum

AHEAD_NS = 4_000_000
"""How long before a reference time is expected it is rehearsed: late enough to be of use, early enough to be over by then."""
LONGEST_NETWORK_NS = AHEAD_NS // 2
"""A network that takes longer is not rehearsed: what it finds cold is a small part of that, and the rehearsal might be late."""


class Rehearsing(enum.Enum):
    """Which moment is free for it."""

    ANNOUNCED = 1
    """Once a reference time is announced and its tokens are still being made elsewhere. Without the network, which other
    processes need the processor for.
    """
    EXPECTED = 2
    """Just before a reference time is expected, with the network: for a process that will then make the tokens itself."""


class Rehearsal:
    """Says when it is time. ``period_ns`` is the nominal period of reference times."""

    def __init__(self, moment: Rehearsing, period_ns: int) -> None:
        self._moment, self._period_ns = moment, period_ns
        self._rehearsed_ns: int | None = None
        self._wake_ns: int | None = None

    @property
    def wake_ns(self) -> int | None:
        """When to ask although nothing came."""
        return self._wake_ns

    def decided(self, announced_ns: int) -> None:
        """A decision fell whose reference time was announced then."""
        if self._moment is Rehearsing.EXPECTED:
            self._wake_ns = announced_ns + self._period_ns - AHEAD_NS

    def is_time(self, pending_ns: int | None, now_ns: int) -> bool:
        """Whether to rehearse now; once for each reference time. ``pending_ns`` is the first one that waits to be decided."""
        if self._moment is Rehearsing.ANNOUNCED:
            is_new, self._rehearsed_ns = pending_ns is not None and pending_ns != self._rehearsed_ns, pending_ns
            return is_new
        if self._wake_ns is None or now_ns < self._wake_ns:
            return False
        is_early, self._wake_ns = now_ns < self._wake_ns + AHEAD_NS // 2, None
        return is_early and pending_ns is None

    def takes_network(self, fuse_ns: int) -> bool:
        """Whether the network is rehearsed too, if it took so long the last time."""
        return self._moment is Rehearsing.EXPECTED and fuse_ns <= LONGEST_NETWORK_NS
