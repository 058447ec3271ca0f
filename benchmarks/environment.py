"""What a measurement was made on: kept in every result, so that figures of different machines are never compared unawares."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

PACKAGES = (
    "chiasm", "numpy", "ray", "iceoryx2", "onnxruntime", "av", "opencv-python-headless", "pyarrow", "mcap", "hdrhistogram",
    "panda3d",
)  # fmt: skip
ROOT = Path(__file__).resolve().parents[1]


def environment() -> dict[str, Any]:
    """The machine, the code and the load on it now (so call this before the measurement)."""
    return {
        "date": datetime.now(tz=UTC).isoformat(timespec="seconds"),
        "commit": commit_of(ROOT),
        "changed_files": len((_git(ROOT, "status", "--porcelain", "--untracked-files=no") or "").splitlines()),
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": psutil.virtual_memory().total,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "packages": _versions(),
        "load_average_before": [round(load, 2) for load in os.getloadavg()],
        "niceness": os.nice(0),
    }


def commit_of(checkout: Path) -> str | None:
    """The commit that a checkout is at; None where it is none."""
    return _git(checkout, "rev-parse", "HEAD")


def _git(checkout: Path, *arguments: str) -> str | None:
    """One git command's output, None outside a checkout."""
    try:
        done = subprocess.run(["git", *arguments], cwd=checkout, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _versions() -> dict[str, str]:
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions
