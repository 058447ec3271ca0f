"""Peers live in virtual environments of their own, so that what they need and what Chiasm needs never meet."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

from benchmarks.environment import ROOT
from benchmarks.measurement import Skipped

REQUIREMENTS = Path(__file__).parent / "requirements"
PATIENCE_S = 900


def cache_folder() -> Path:
    """Where they are kept between measurements."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "chiasm" / "peers"


def python_of(peer: str, say: Callable[[str], None]) -> Path:
    """The interpreter of a peer's environment, made the first time: what ``requirements/PEER.txt`` pins, and what the job needs.

    Raises Skipped when it cannot be made (no network, no wheel for this machine), with pip's last words.
    """
    pins = (REQUIREMENTS / "job.txt").read_bytes() + (REQUIREMENTS / f"{peer}.txt").read_bytes()
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    folder = cache_folder() / f"{peer}-{version}-{hashlib.sha256(pins).hexdigest()[:12]}"
    python, complete = folder / "bin" / "python", folder / "complete"
    if complete.exists():
        return python
    say(f"installing {peer} into {folder} (once)")
    venv.create(folder, clear=True, with_pip=True, symlinks=True)
    command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    for name in ("job", peer):
        command += ["-r", REQUIREMENTS / f"{name}.txt"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    if done.returncode:
        raise Skipped(f"{peer}: pip could not install it here: {' '.join(done.stderr.split())[-200:]}")
    complete.touch()
    return python


def library_folders(python: Path) -> str:
    """Folders of NVIDIA's libraries that came as wheels; Holoscan looks for the CUDA runtime there, GPU or not."""
    return ":".join(str(folder) for folder in sorted(python.parent.parent.glob("lib/python3*/site-packages/nvidia/*/lib")))
