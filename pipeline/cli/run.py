"""``chiasm run``: play a scenario's sources in real time and decide."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from engines.registry import engine_choice
from pipeline.cli.planning import plan_live
from pipeline.cli.playing import play

Source = Annotated[
    list[str] | None,
    typer.Option("--source", help="STREAM=URI or BUNDLE=PATH (gopro=, comma2k19=, donkeycar=); STREAM=none leaves one out."),
]
Set = Annotated[list[str] | None, typer.Option("--set", help="key=value over scenario.yaml, e.g. runtime.link=ray. Repeatable.")]
Engine = Annotated[
    str | None,
    typer.Option("--engine", help="BACKEND[-PRECISION] that serves, as ort-int8: see chiasm engines list."),
]
Inline = Annotated[bool, typer.Option("--inline", help="One process, without Ray.")]
Json = Annotated[bool, typer.Option("--json", help="One decision with its receipt a line on stdout; all else on stderr.")]


def settings(set_: list[str] | None, engine: str | None) -> list[str]:
    """What ``--set`` says, with ``--engine`` as one of them."""
    return [*(set_ or []), *([f"runtime.engine={engine_choice(engine).name}"] if engine is not None else [])]


def run(
    scenario: Annotated[str, typer.Argument(help="A shipped scenario's name, or a folder that holds a scenario.yaml.")],
    source: Source = None,
    record: Annotated[Path | None, typer.Option("--record", help="Write a log (MCAP) that replays bit for bit.")] = None,
    inline: Inline = False,
    duration: Annotated[str | None, typer.Option("--for", help="Stop after this long, e.g. 30s.")] = None,
    engine: Engine = None,
    set_: Set = None,
    sink: Annotated[
        list[str] | None,
        typer.Option("--sink", help="Send decisions as JSON, e.g. udp:127.0.0.1:9000 or mqtt:127.0.0.1:1883/TOPIC."),
    ] = None,
    json_lines: Json = False,
) -> None:
    """Play a scenario in real time. Without --source, its own shipped log (for driving: a simulated drive)."""
    planned = plan_live(scenario, source or [], settings(set_, engine), record=record, duration=duration, sinks=sink)
    play(planned, inline=inline, json_lines=json_lines)
