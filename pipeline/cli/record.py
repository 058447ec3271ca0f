"""``chiasm record``: ingest only."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.planning import plan_live
from pipeline.cli.playing import play
from pipeline.cli.run import Set, Source


def record(
    scenario: Annotated[str, typer.Argument(help="A shipped scenario's name, or a folder that holds a scenario.yaml.")],
    log: Annotated[Path, typer.Argument(help="The log (MCAP) to write.")],
    source: Source = None,
    duration: Annotated[str | None, typer.Option("--for", help="Stop after this long, e.g. 30s.")] = None,
    set_: Set = None,
) -> None:
    """Record a scenario's sources in real time, without deciding. Ctrl-C ends it in order."""
    play(plan_live(scenario, source or [], set_ or [], record=log, duration=duration, decides=False), inline=True)
