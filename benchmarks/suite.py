"""Runs measurements one after the other, each in a process of its own, so that none inherits another's memory or threads."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.environment import ROOT


def run_suite(modules: Mapping[str, str], chosen: Sequence[str], *, quick: bool, out: Path) -> list[str]:
    """Measure what is chosen (name to module), then report on the whole folder; the names of those that broke."""
    failed, began = [], time.monotonic()
    for position, name in enumerate(chosen, 1):
        print(f"[{position}/{len(chosen)}] {name}, after {(time.monotonic() - began) / 60:.1f} min", flush=True)
        command = [sys.executable, "-m", modules[name], "--out", str(out.resolve()), *(["--quick"] if quick else [])]
        if subprocess.run(command, cwd=ROOT, check=False).returncode:
            failed.append(name)
    subprocess.run([sys.executable, "-m", "benchmarks.report", str(out.resolve())], cwd=ROOT, check=True)
    print(f"{(time.monotonic() - began) / 60:.1f} min")
    return failed
