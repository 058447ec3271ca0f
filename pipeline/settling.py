"""Settling: up to which reference time a stream has said all that can matter, from the stamps of its own words alone."""

from __future__ import annotations

from pipeline.contract import StreamContract
from pipeline.messages import Header
from pipeline.windows import WindowGrid

NEVER_NS = -(2**62)


class Settling:
    """One stream's words, in their order."""

    def __init__(self, contract: StreamContract, origin_ns: int) -> None:
        self.grid = WindowGrid(contract.window, origin_ns)
        self._liveness_ns = contract.liveness_ns
        self.to_ns = NEVER_NS
        """Nothing that this stream says from now on serves reference times up to here.

        It has spoken at or past them; or no window ends between its last sample and them, and that sample is recent enough to
        count as a sign of life, so that what comes next would change neither the tokens nor the verdict.
        """

    def heard(self, header: Header) -> None:
        """A heartbeat, or any word that completes no window."""
        self.to_ns = max(self.to_ns, header.capture_ns)

    def sampled(self, header: Header) -> list[int]:
        """A sample: the ends (ns) of the windows that it completes, oldest first."""
        ends = self.grid.push(header)
        self.heard(header)
        next_end_ns = self.grid.next_end_ns
        if next_end_ns is not None:
            self.to_ns = max(self.to_ns, min(next_end_ns - 1, header.capture_ns + self._liveness_ns))
        return ends
