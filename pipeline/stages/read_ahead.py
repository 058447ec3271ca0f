"""Reading ahead: a recording's packets, several at a time, shortly before one of them is due.

Read one at a time, each would cost a wake of its own and cold code, nearly twice what it costs among others; and read when the
one before has gone out, it would take time from those who work on that.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from pipeline.clock import Clock
from pipeline.sources.base import Packet, SourceError, SourceLost

READ_AHEAD_NS = 10_000_000
"""How long before a packet is due those after it are read, if none is there."""
MOST_PACKETS, MOST_BYTES = 16, 4 * 2**20
"""How many wait at most, and from how many bytes on none is added."""


class ReadAhead:
    """The packets of one source in their order. A failure of the source is raised once what it gave before has been taken."""

    def __init__(self, packets: Iterator[Packet | None]) -> None:
        self._packets = packets
        self._waiting: deque[Packet] = deque()
        self._bytes = 0
        self._is_over = False
        self._failure: SourceError | SourceLost | None = None

    def first(self) -> Packet | None:
        """The next packet, still to be taken; None at the source's end. Raises SourceError or SourceLost as the source did."""
        if not self._waiting and not self._is_over:
            self._read()
        if self._waiting:
            return self._waiting[0]
        if self._failure is not None:
            raise self._failure
        return None

    @property
    def runs_low(self) -> bool:
        """Whether none follows the first and there may be one."""
        return len(self._waiting) < 2 and not self._is_over

    def fill(self, clock: Clock, until_ns: int) -> None:
        """Read one more at least, and then as many as may wait, but none after ``until_ns``."""
        self._read()
        while not self._is_over and len(self._waiting) < MOST_PACKETS and self._bytes < MOST_BYTES and clock.now_ns() < until_ns:
            self._read()

    def take(self) -> Packet:
        """The first."""
        packet = self._waiting.popleft()
        self._bytes -= sum(map(len, packet.chunks))
        return packet

    def _read(self) -> None:
        try:
            packet = next(self._packets, None)
        except (SourceError, SourceLost) as error:
            packet, self._failure = None, error
        if packet is None:
            self._is_over = True
        else:
            self._waiting.append(packet)
            self._bytes += sum(map(len, packet.chunks))
