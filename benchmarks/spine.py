"""Everything that issue 2 asks to be measured: ``python -m benchmarks.spine [NAME ...] [--quick] [--out FOLDER]``.

Each measurement runs in a process of its own, one after the other, so that none inherits another's memory or threads.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.environment import ROOT
from benchmarks.measurement import RESULTS

MEASUREMENTS = ("startup", "live", "live-loaded", "replay", "memory", "accuracy", "stopping", "precision", "engine-share")


def main(
    names: Annotated[list[str] | None, typer.Argument(help=f"Which: {', '.join(MEASUREMENTS)}. All if none is named.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Short, to see that they work; proves nothing.")] = False,
    out: Annotated[Path, typer.Option("--out", help="The folder for the results.")] = RESULTS,
) -> None:
    """Measure, then report."""
    unknown = [name for name in names or () if name not in MEASUREMENTS]
    if unknown:
        sys.exit(f"no measurement {', '.join(unknown)}; there are {', '.join(MEASUREMENTS)}")
    chosen = names or list(MEASUREMENTS)
    failed = []
    for position, name in enumerate(chosen, 1):
        print(f"[{position}/{len(chosen)}] {name}", flush=True)
        module = f"benchmarks.{name.replace('-', '_')}"
        command = [sys.executable, "-m", module, "--out", str(out.resolve()), *(["--quick"] if quick else [])]
        if subprocess.run(command, cwd=ROOT, check=False).returncode:
            failed.append(name)
    subprocess.run([sys.executable, "-m", "benchmarks.report", str(out.resolve())], cwd=ROOT, check=True)
    if failed:
        sys.exit(f"these broke and left no new result: {', '.join(failed)}")


if __name__ == "__main__":
    typer.run(main)
