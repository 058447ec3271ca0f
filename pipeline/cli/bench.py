"""``chiasm bench``: latency, measured and compared, with raw samples, the environment and pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.errors import UsageError

HERE = Path("chiasm-bench")
WHAT = "transport, peers, end-to-end, engines, scaling"


def bench(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help=f"Which: {WHAT}. All if none is named.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Short, to see that they work; proves nothing.")] = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="The folder for the results: benchmarks/results in a checkout, else chiasm-bench."),
    ] = None,
) -> None:
    """Measure this machine: one hop, the whole way, engines, how many streams it carries, and the same job on other runtimes.

    All of it takes half an hour. Peers are installed the first time, into virtual environments of their own.
    """
    from benchmarks.environment import ROOT
    from benchmarks.measurement import BENCHES, RESULTS
    from benchmarks.suite import run_suite

    unknown = [name for name in names or () if name not in BENCHES]
    if unknown:
        raise UsageError(f"no benchmark {', '.join(unknown)}; there are {WHAT}")
    folder = out or (RESULTS if (ROOT / ".git").exists() else HERE)
    folder.mkdir(parents=True, exist_ok=True)
    if failed := run_suite(BENCHES, names or list(BENCHES), quick=quick, out=folder):
        raise UsageError(f"these broke and left no new result: {', '.join(failed)}")
