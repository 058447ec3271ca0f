"""How decisions come from the sink to the process that started the run, and how that learns of ended stages meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Collection
from typing import Any, Protocol

import ray

from pipeline.links.base import EdgeSpec, Inbox
from pipeline.messages import Decision

CONSOLE, CONSOLE_S = "console", 0.2
CONSOLE_EDGE = EdgeSpec(name="sink>console", capacity=512, max_bytes=4096)
"""Decisions that wait when the starting process is held up: at 20 a second those of 25 s."""


class Console(Protocol):
    """Where decisions are shown."""

    def wait(self, running: Collection[Any]) -> tuple[list[Decision], list[Any]]:
        """The next decisions, and those of the ``running`` calls that have ended; after `CONSOLE_S` at the latest."""
        ...

    def rest(self) -> list[Decision]:
        """What is on its way here."""
        ...

    def lost(self) -> int:
        """Decisions that were overwritten before they were shown."""
        ...


class CallingConsole:
    """Asks the sink again and again: where there is no shared memory, and in replays, which must lose nothing at any speed."""

    def __init__(self, sink: Any) -> None:
        self._sink = sink
        self._taking = sink.take.remote(CONSOLE_S)

    def wait(self, running: Collection[Any]) -> tuple[list[Decision], list[Any]]:
        """See `Console.wait`."""
        done, _ = ray.wait([self._taking, *running], num_returns=1, timeout=CONSOLE_S)
        if self._taking not in done:
            return [], done
        decisions = ray.get(self._taking)
        self._taking = self._sink.take.remote(CONSOLE_S)
        return decisions, []

    def rest(self) -> list[Decision]:
        """See `Console.rest`."""
        decisions: list[Decision] = ray.get(self._taking)
        return decisions

    def lost(self) -> int:
        """None: the sink keeps them."""
        return 0


class LinkedConsole:
    """Gets them over a link, some at a time; a call for each would cost more than the decision."""

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox
        self._ended = threading.Event()
        self._watched: set[Any] = set()

    def wait(self, running: Collection[Any]) -> tuple[list[Decision], list[Any]]:
        """See `Console.wait`."""
        for one in set(running) - self._watched:
            one.future().add_done_callback(self._note_end)
        self._watched = set(running)
        batch = self._inbox.receive(round(CONSOLE_S * 1e9))
        decisions = [message for _, message in batch if isinstance(message, Decision)]
        if not self._ended.is_set():
            return decisions, []
        self._ended.clear()
        ended, _ = ray.wait(list(running), num_returns=len(running), timeout=0) if running else ([], [])
        if not ended:
            self._ended.set()  # Ray has told the one and not yet the other: look again next time
        return decisions, ended

    def rest(self) -> list[Decision]:
        """See `Console.rest`."""
        decisions: list[Decision] = []
        while batch := self._inbox.receive(0):
            decisions += [message for _, message in batch if isinstance(message, Decision)]
        return decisions

    def lost(self) -> int:
        """See `Console.lost`."""
        return sum(self._inbox.lost().values())

    def _note_end(self, _future: Any) -> None:
        self._ended.set()
        self._inbox.wake()
