"""The link inside one process: messages change hands by reference, nothing is copied."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence

import numpy as np

from pipeline.links.base import EdgeSpec, LinkError
from pipeline.messages import Message


def _freeze(message: Message) -> None:
    """Set a message's own arrays read-only, as those that come through shared memory are."""
    for name in message.__struct_fields__:
        value = getattr(message, name)
        if isinstance(value, np.ndarray):
            value.flags.writeable = False
        elif name == "outputs":
            for array in value.values():
                array.flags.writeable = False


class InProcessOutlet:
    """One edge's sending end."""

    def __init__(self, inbox: InProcessInbox, edge: str) -> None:
        self.edge = edge
        self._inbox = inbox

    def send(self, message: Message, *, wake: bool = True) -> None:
        """Hand the message over; its arrays become read-only. Never blocks."""
        _freeze(message)
        self._inbox._put(self.edge, message, wake=wake)

    def wake(self) -> None:
        """See `pipeline.links.base.Outlet.wake`."""
        self._inbox._look()

    def close(self) -> None:
        """Nothing to release."""


class InProcessInbox:
    """One stage's receiving end: a bounded queue an edge, one condition to sleep on. See `pipeline.links.base.Inbox`."""

    def __init__(self, edges: Sequence[EdgeSpec]) -> None:
        self._queues: dict[str, deque[Message]] = {edge.name: deque() for edge in edges}
        if len(self._queues) != len(edges):
            raise LinkError(f"two edges of one stage share a name: {sorted(edge.name for edge in edges)}; rename one")
        self._capacity = {edge.name: edge.capacity for edge in edges}
        self._lost = dict.fromkeys(self._queues, 0)
        self._condition = threading.Condition()
        self._woken = False
        self._stopped = False
        self._closed = False

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._stopped

    def outlet(self, edge: str | EdgeSpec) -> InProcessOutlet:
        """The sending end of one of this inbox's edges."""
        name = edge if isinstance(edge, str) else edge.name
        if name not in self._queues:
            raise LinkError(f"edge {name!r}: this stage receives {sorted(self._queues)}")
        return InProcessOutlet(self, name)

    def _put(self, edge: str, message: Message, *, wake: bool) -> None:
        with self._condition:
            if self._closed:
                return
            queue = self._queues[edge]
            if len(queue) >= self._capacity[edge]:
                queue.popleft()
                self._lost[edge] += 1
            queue.append(message)
            if wake:
                self._condition.notify()

    def _look(self) -> None:
        with self._condition:
            self._condition.notify()

    def receive(self, timeout_ns: int | None) -> list[tuple[str, Message]]:
        """Everything that waits; see `pipeline.links.base.Inbox.receive`."""
        deadline_ns = None if timeout_ns is None else time.monotonic_ns() + timeout_ns
        with self._condition:
            while True:
                batch = [(edge, message) for edge, queue in self._queues.items() for message in queue]
                for queue in self._queues.values():
                    queue.clear()
                if batch or self._woken or self._stopped or self._closed:
                    self._woken = False
                    return batch
                left_ns = None if deadline_ns is None else deadline_ns - time.monotonic_ns()
                if left_ns is not None and left_ns <= 0:
                    return batch
                self._condition.wait(None if left_ns is None else left_ns / 1e9)

    def wake(self) -> None:
        """Make the current, or else the next, `receive` return at once."""
        with self._condition:
            self._woken = True
            self._condition.notify()

    def stop(self) -> None:
        """The run's stop event: `receive` blocks no more."""
        with self._condition:
            self._stopped = True
            self._condition.notify()

    def lost(self) -> dict[str, int]:
        """Messages overwritten before they were received, by edge."""
        with self._condition:
            return dict(self._lost)

    def close(self) -> None:
        """Drop what waits; later sends are ignored."""
        with self._condition:
            self._closed = True
            for queue in self._queues.values():
                queue.clear()
            self._condition.notify()
