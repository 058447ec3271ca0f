"""The link between hosts: a message is a call of the receiving actor's ``deliver``, in order, behind the same protocol."""

from __future__ import annotations

import time
from collections import deque
from typing import Any

import ray

from pipeline.links.base import EdgeSpec
from pipeline.links.packing import to_bytes
from pipeline.messages import Message


class RayOutlet:
    """One edge's sending end. At most ``capacity`` calls are under way; beyond that the message is dropped here and counted.

    A call that was made cannot be taken back, so it is the newest that goes, not the oldest; receivers see the gap in ``seq``.
    """

    def __init__(self, receiver: Any, edge: EdgeSpec) -> None:
        self.edge = edge.name
        self.dropped = 0
        self._deliver = receiver.deliver
        self._capacity = edge.capacity
        self._under_way: deque[Any] = deque()

    def send(self, message: Message, *, wake: bool = True) -> None:
        """Send without blocking. A call always wakes."""
        if len(self._under_way) >= self._capacity:
            self._forget_delivered()
        if len(self._under_way) >= self._capacity:
            self.dropped += 1
            return
        self._under_way.append(self._deliver.remote(self.edge, to_bytes(message)))
        if len(self._under_way) >= 32:
            self._forget_delivered()

    def wake(self) -> None:
        """Each message has."""

    def _forget_delivered(self) -> None:
        done, waiting = ray.wait(list(self._under_way), num_returns=len(self._under_way), timeout=0)
        if done:
            self._under_way = deque(waiting)

    def settle(self, timeout_s: float) -> None:
        """Wait until what was sent is delivered, for an orderly end."""
        deadline = time.monotonic() + timeout_s
        while self._under_way and time.monotonic() < deadline:
            ray.wait(list(self._under_way), num_returns=len(self._under_way), timeout=timeout_s)
            self._forget_delivered()

    def close(self) -> None:
        """Forget what is under way."""
        self._under_way.clear()
