"""Writes a log from a thread of its own: packing and compressing hold up nobody who decides."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Self

from pipeline.logs.writer import LogWriter
from pipeline.messages import Decision, Recording

MOST_WAITING = 128
"""Calls that may wait to be written: a second and a half of the shipped drive. One more waits for room; nothing is dropped."""
LONGEST_WAIT_S = 0.1
"""How long they wait where no decision comes."""


class ThreadedLogWriter:
    """A `RunLog` over a `LogWriter` that it owns. Any thread may call; each thread's calls are written in its order.

    What waits is written as soon as a decision has fallen: until the next samples there is time. Written as they come, samples
    would contend for the interpreter with the encoders that they are on their way to.

    The first failure to write ends the writing: ``on_failure`` is called, from the writing thread, and `finish` raises it; what
    is appended after it is not written. A crash costs what waits, beside the chunk in progress. A context manager; leaving it
    closes the `LogWriter`.
    """

    def __init__(self, log: LogWriter, on_failure: Callable[[], None] = lambda: None) -> None:
        self._log, self._on_failure = log, on_failure
        self._calls: queue.Queue[Callable[[], None] | None] = queue.Queue(MOST_WAITING)
        self._due = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._write, name="log", daemon=True)
        self._thread.start()

    def announcement(self, recording: Recording) -> None:
        """Append a sample's chunks and then its announcement."""
        self._append(partial(self._log.announcement, recording))

    def decision(self, decision: Decision) -> None:
        """Append a decision with its receipt."""
        self._append(partial(self._log.decision, decision))
        self._due.set()

    def snapshot(self, time_ns: int, state: str, memory: str = "") -> None:
        """Append the state of fusion and policy."""
        self._append(partial(self._log.snapshot, time_ns, state, memory))

    def finish(self, end: dict[str, str]) -> None:
        """Write what waits, append the end record and close the log. Once only; raises what kept it from being written."""
        self._join()
        if self._failure is not None:
            raise self._failure
        self._log.finish(end)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._join()
        self._log.__exit__(kind, error, trace)

    def _append(self, call: Callable[[], None] | None) -> None:
        if call is None or self._calls.full():
            self._due.set()
        self._calls.put(call)

    def _join(self) -> None:
        if self._thread.is_alive():
            self._append(None)
            self._thread.join()

    def _write(self) -> None:
        while True:
            self._due.wait(LONGEST_WAIT_S)
            self._due.clear()
            with contextlib.suppress(queue.Empty):
                while (call := self._calls.get_nowait()) is not None:
                    self._try(call)
                return

    def _try(self, call: Callable[[], None]) -> None:
        if self._failure is not None:
            return
        try:
            call()
        except BaseException as failure:  # whatever it is, whoever waits for the log must hear of it
            self._failure = failure
            self._on_failure()
