"""A Ray worker's main thread, asleep while nobody calls its actor.

On that thread Ray looks for signals 100 times a second, and we found no setting for it: an eighth of the CPU time of a run. But
what it looks for is handlers to run, there and then; so one that sleeps puts an end to the looking. Ray also begins all calls on
that thread. Hence whoever has a call knocks first, at a door in the run's folder.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import select
import signal
import threading
from pathlib import Path
from types import FrameType

from actors.wiring import RunIdentity

DOZE_S = 1.0
"""A call that came without a knock waits at most so long."""
AWAKE_S = 0.25
"""After a knock, so that the call which follows finds the thread awake."""
LOOK_S = 0.02
"""Between two dozes, for what else Ray may have to do there."""


class Dozing:
    """The main thread of this process; made on it, else it never dozes. `begin` may come from any thread."""

    def __init__(self) -> None:
        self._door = -1
        self._is_main = threading.current_thread() is threading.main_thread()
        if self._is_main:
            signal.signal(signal.SIGALRM, self._doze)

    def begin(self, identity: RunIdentity, stage: str) -> None:
        """Doze from now on, until the process ends. Nothing happens where there can be no door."""
        if not self._is_main:
            return
        with contextlib.suppress(FileExistsError):  # this stage's predecessor died
            os.mkfifo(_door(identity, stage), 0o600)
        # Also for writing: with no writer left, a reading end would be ready for ever.
        self._door = os.open(_door(identity, stage), os.O_RDWR | os.O_NONBLOCK)
        _thread.interrupt_main(signal.SIGALRM)

    def _doze(self, _number: int, _frame: FrameType | None) -> None:
        """Until there is a knock or `DOZE_S` are over; a timer then calls it again. Ray's own handlers interrupt it."""
        knocked, _, _ = select.select([self._door], [], [], DOZE_S)
        if knocked:
            os.read(self._door, 4096)
        signal.setitimer(signal.ITIMER_REAL, AWAKE_S if knocked else LOOK_S)


def knock(identity: RunIdentity, stage: str) -> None:
    """Wake a stage of this host, if it dozes; harmless if it does not, or has died."""
    with contextlib.suppress(OSError):  # no such door, nobody behind it, or it is full of knocks
        door = os.open(_door(identity, stage), os.O_WRONLY | os.O_NONBLOCK)
        try:
            os.write(door, b".")
        finally:
            os.close(door)


def _door(identity: RunIdentity, stage: str) -> Path:
    return identity.root / f"{stage}.door"
