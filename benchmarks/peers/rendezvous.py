"""How the processes of a contender begin together, whatever started them: files in the folder of its run."""

from __future__ import annotations

import time
from pathlib import Path

ORIGIN, READY = "origin", "ready."
POLL_S = 0.005
PATIENCE_S = 120.0


def meet(out: Path, name: str) -> int:
    """Say that this process is ready; the origin (ns of CLOCK_MONOTONIC) once all are. Raises TimeoutError."""
    (out / f"{READY}{name}").touch()
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        if (origin_ns := origin_of(out)) is not None:
            return origin_ns
        time.sleep(POLL_S)
    raise TimeoutError(f"{out}: the others were not ready within {PATIENCE_S:g} s")


def origin_of(out: Path) -> int | None:
    """The origin, if it has been set."""
    try:
        return int((out / ORIGIN).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def set_origin(out: Path, origin_ns: int) -> None:
    """Let all begin; seen whole or not at all."""
    hidden = out / f".{ORIGIN}"
    hidden.write_text(str(origin_ns), encoding="ascii")
    hidden.rename(out / ORIGIN)


def all_ready(out: Path, names: tuple[str, ...]) -> bool:
    """Whether each of these has said so."""
    return all((out / f"{READY}{name}").exists() for name in names)
