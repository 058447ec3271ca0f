"""``chiasm replay``: decide again from a log, in event time."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.planning import plan_replay
from pipeline.cli.playing import play
from pipeline.cli.run import Engine, Inline, Json, Set, settings


def replay(
    log: Annotated[Path, typer.Argument(help="A log that run, record, simulate or import wrote.")],
    speed: Annotated[str, typer.Option("--speed", help="1 for real time, another factor, or max.")] = "max",
    inline: Inline = False,
    record: Annotated[
        Path | None, typer.Option("--record", help="Write streams and decisions to another log, for chiasm compare.")
    ] = None,
    as_it_happened: Annotated[
        bool,
        typer.Option("--as-it-happened", help="Admit what the log's receipts say was admitted, not what its stamps call for."),
    ] = False,
    engine: Engine = None,
    set_: Set = None,
    json_lines: Json = False,
) -> None:
    """Replay a log by its own stamps: the same decisions at any speed, inline or on Ray, over either link.

    A run that dropped or overran decided otherwise than its stamps call for: --as-it-happened makes its very decisions again.
    """
    planned = plan_replay(log, settings(set_, engine), speed, record=record, as_it_happened=as_it_happened)
    play(planned, inline=inline, json_lines=json_lines)
