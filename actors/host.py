"""What a process asks of its host before a run: memory that stays mapped, and no collection of what start-up left behind."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import time
from collections.abc import Sequence

import psutil

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_PR_SET_TIMERSLACK = 29
_KEPT_BYTES = 32 * 2**20


def settle_process() -> None:
    """Prepare this process for a hot loop; call it when everything is open.

    glibc gives each array of a frame's size fresh pages and takes them back: their faults cost over 1 ms a 1.2 MB frame. Up
    to 32 MB are kept instead. A full garbage collection takes 30 to 45 ms before ``gc.freeze()``, 0.03 ms after.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES)
        mallopt(_M_TRIM_THRESHOLD, 8 * _KEPT_BYTES)
    except (AttributeError, OSError):
        pass  # another libc, which does as it likes
    gc.collect()
    gc.freeze()


def sharpen_timers() -> None:
    """Let this thread's sleeps end when they should: Linux gives each 50 us of slack to save power. Where it cannot, it stays."""
    with contextlib.suppress(AttributeError, OSError):  # not Linux
        ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)


def wait_until_gone(pids: Sequence[int], timeout_s: float) -> bool:
    """Wait for processes of this host to end, at most so long; whether they did."""
    until = time.monotonic() + timeout_s
    while any(_is_running(pid) for pid in pids):
        if time.monotonic() > until:
            return False
        time.sleep(0.01)
    return True


def _is_running(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
