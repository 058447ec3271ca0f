"""The processes of a run, as the kernel shows them."""

from __future__ import annotations

import psutil


def family(pid: int) -> list[psutil.Process]:
    """A process and all below it that live now."""
    try:
        head = psutil.Process(pid)
        return [head, *head.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def pss_bytes(processes: list[psutil.Process]) -> dict[str, int]:
    """Proportional set size by process (shared pages are shared out), named ``name/pid``.

    Those that ended meanwhile are left out.
    """
    found = {}
    for process in processes:
        try:
            found[f"{process.name()}/{process.pid}"] = int(process.memory_full_info().pss)
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return found


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that have not ended (a process that waits only for its parent to take note has)."""
    left = []
    for process in processes:
        try:
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:  # is_running knows a pid that was given anew
                left.append(process)
        except psutil.NoSuchProcess:
            continue
    return left
