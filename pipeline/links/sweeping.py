"""What a run leaves in shared memory and under its root, and its removal: its own at its end, a dead run's at the next start."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Final

from pipeline.links.base import LinkError

MEMORY_FOLDER: Final = Path("/dev/shm")
OWNER_FILE: Final = "owner"
_RUN_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,39}")


def prefix_of(run_id: str) -> str:
    """What the names of a run's files in shared memory begin with."""
    if not _RUN_ID.fullmatch(run_id):
        raise LinkError(f"run id {run_id!r}: use 1 to 40 letters, digits and -, the first a letter or digit")
    return f"chiasm_{run_id}_"


def identity_of(pid: int) -> str:
    """A process, told from a later one with the same id by when it started (field 22 of /proc/PID/stat)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
        return f"{pid} {stat.rpartition(')')[2].split()[19]}"
    except (OSError, IndexError):
        return f"{pid} gone"


def sweep(run_id: str, root: Path) -> int:
    """Remove everything of a run from /dev/shm and ``root``; return how many files that were. No process of the run may live."""
    prefix = prefix_of(run_id)
    removed = 0
    for path in MEMORY_FOLDER.glob(f"{prefix}*"):
        path.unlink(missing_ok=True)
        removed += 1
    if root.is_dir() and not root.is_symlink():
        removed += sum(1 for path in root.rglob("*") if not path.is_dir())
        shutil.rmtree(root, ignore_errors=True)
    return removed


def sweep_dead(root_parent: Path) -> list[str]:
    """Remove what runs left behind whose owner has died; return their ids. Runs lie in folders ``root_parent / run_id``."""
    swept = []
    for root in sorted(root_parent.iterdir()) if root_parent.is_dir() else ():
        owner = root / OWNER_FILE
        if not _RUN_ID.fullmatch(root.name) or root.is_symlink() or not owner.is_file():
            continue
        identity = owner.read_text(encoding="ascii", errors="replace")[:64]
        pid = identity.partition(" ")[0]
        if pid.isdigit() and identity_of(int(pid)) != identity:
            sweep(root.name, root)
            swept.append(root.name)
    return swept
