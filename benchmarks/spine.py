"""The spine's own measurements: ``python -m benchmarks.spine [NAME ...] [--quick] [--out FOLDER]``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.measurement import RESULTS
from benchmarks.suite import run_suite

MEASUREMENTS = ("startup", "live", "live-loaded", "replay", "memory", "accuracy", "stopping", "precision")


def main(
    names: Annotated[list[str] | None, typer.Argument(help=f"Which: {', '.join(MEASUREMENTS)}. All if none is named.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Short, to see that they work; proves nothing.")] = False,
    out: Annotated[Path, typer.Option("--out", help="The folder for the results.")] = RESULTS,
) -> None:
    """Measure, then report."""
    unknown = [name for name in names or () if name not in MEASUREMENTS]
    if unknown:
        sys.exit(f"no measurement {', '.join(unknown)}; there are {', '.join(MEASUREMENTS)}")
    modules = {name: f"benchmarks.{name.replace('-', '_')}" for name in MEASUREMENTS}
    if failed := run_suite(modules, names or MEASUREMENTS, quick=quick, out=out):
        sys.exit(f"these broke and left no new result: {', '.join(failed)}")


if __name__ == "__main__":
    typer.run(main)
