"""What a link is: one sending end an edge, one receiving end for all edges that one thread of a stage sleeps on.

A link never blocks its sender. When the receiver has fallen ``capacity`` messages behind on an edge, the oldest is
overwritten and the receiver counts it. Order is kept within an edge, not between edges.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Protocol

from pipeline.messages import Message

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._>:/-]{0,119}")


class LinkError(Exception):
    """A link cannot be made, or what came over it is not a message: names the edge or field, what was found, and the fix."""


def check_name(what: str, name: str) -> str:
    """Return ``name`` if it can name a stage or an edge on every link; otherwise raise `LinkError`."""
    if not _NAME.fullmatch(name):
        raise LinkError(f"{what} {name!r}: use 1 to 120 letters, digits and . _ > : / -, the first a letter or digit")
    return name


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeSpec:
    """One edge: messages of one sender to one receiving stage.

    ``name`` reads ``camera>encoder``. ``capacity`` is how many messages wait before the oldest is overwritten.
    ``max_bytes`` is the payload size that memory is set aside for; a larger message makes the memory grow, once.
    """

    name: str
    capacity: int
    max_bytes: int

    def __post_init__(self) -> None:
        check_name("edge", self.name)
        if not 1 <= self.capacity <= 4096:
            raise LinkError(f"edge {self.name}: capacity {self.capacity} is not between 1 and 4096")
        if not 0 <= self.max_bytes <= 2**30:
            raise LinkError(f"edge {self.name}: max_bytes {self.max_bytes} is not between 0 and 2**30")


class Outlet(Protocol):
    """One edge's sending end. `send` is called from one thread at a time."""

    edge: str

    def send(self, message: Message, *, wake: bool = True) -> None:
        """Send without ever blocking; with the receiver's queue full, the oldest message is overwritten.

        ``wake`` False lets a receiver that sleeps go on sleeping: it finds the message when something else wakes it.
        """
        ...

    def wake(self) -> None:
        """Wake the receiver, for what was sent without."""
        ...

    def close(self) -> None:
        """Release the sending end. Twice is harmless."""
        ...


class Inbox(Protocol):
    """A stage's receiving end of edges of its own. `receive` is called from one thread; `wake` from any."""

    @property
    def stopped(self) -> bool:
        """Whether the run's stop event has arrived. It stays true, and `receive` no longer blocks."""
        ...

    def receive(self, timeout_ns: int | None) -> list[tuple[str, Message]]:
        """Return ``(edge, message)`` for what is there, in order within an edge.

        Sleeps, with the GIL released, until something is there, ``timeout_ns`` has passed (None: no limit), or `wake` or the stop
        event came; the list is then empty. One call returns a bounded batch. **Arrays in the messages are valid only until
        the next call or `close`**: keeping means copying. Raises `LinkError` when what came is not a message; the sound messages
        around it are not lost.
        """
        ...

    def wake(self) -> None:
        """Make the current, or else the next, `receive` return at once. Called from another thread."""
        ...

    def lost(self) -> dict[str, int]:
        """How many messages were overwritten before they were received, by edge, since this inbox was made."""
        ...

    def close(self) -> None:
        """Release the receiving end and every array it handed out. Twice is harmless."""
        ...
