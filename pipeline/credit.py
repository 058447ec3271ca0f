"""Credit: how far ahead a replay's source may run, so that nothing is ever dropped and nothing piles up.

Fusion and recorder report how far in event time they are, an encoder how many samples it has read. A source may send what
lies within ``horizon`` of the slowest of them, and at most ``in_flight`` samples that its encoder has not read.
"""

from __future__ import annotations

import threading

from pipeline.messages import Progress


class CreditGate:
    """One source's credit. Thread-safe: one thread waits, others report."""

    def __init__(self, *, origin_ns: int, horizon_ns: int, in_flight: int, stages: tuple[str, ...], encoder: str) -> None:
        self._horizon_ns, self._in_flight, self._encoder = horizon_ns, in_flight, encoder
        self._reached_ns = dict.fromkeys(stages, origin_ns)
        self._decisions = dict.fromkeys(stages, 0)
        self._encoded = 0
        self._changed = threading.Condition()

    def report(self, progress: Progress) -> None:
        """A consumer has come further."""
        with self._changed:
            if progress.stage == self._encoder:
                self._encoded = max(self._encoded, progress.count)
            elif progress.stage in self._reached_ns:
                self._reached_ns[progress.stage] = max(self._reached_ns[progress.stage], progress.event_ns)
                self._decisions[progress.stage] = max(self._decisions[progress.stage], progress.count)
            else:
                return
            self._changed.notify_all()

    def may_send(self, capture_ns: int, sent: int) -> bool:
        """Whether a sample of this capture time is within the credit, when ``sent`` went to the encoder before it."""
        made = max(self._decisions.values(), default=0)
        # A recorder that has taken every decision there is holds nobody up, however long fusion has had none to make.
        behind = [ns for stage, ns in self._reached_ns.items() if stage == "fusion" or self._decisions[stage] < made]
        slowest_ns = min(behind, default=capture_ns)
        return capture_ns <= slowest_ns + self._horizon_ns and sent < self._encoded + self._in_flight

    def wait(self, capture_ns: int, sent: int, stop: threading.Event) -> bool:
        """Block until the sample may be sent; False when ``stop`` was set meanwhile."""
        with self._changed:
            while not self.may_send(capture_ns, sent):
                if stop.is_set():
                    return False
                self._changed.wait()  # report() or wake() end it
        return not stop.is_set()

    def wake(self) -> None:
        """Let a waiter look at its stop event."""
        with self._changed:
            self._changed.notify_all()
