"""``chiasm import``: a foreign recording to a log."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from pipeline.cli.planning import check_output, started_together
from pipeline.cli.view import console, progress_bar
from pipeline.config import SCENARIOS, load_scenario, scenario_folder
from pipeline.logs.importing import import_specs
from pipeline.sources.assign import assign_sources
from pipeline.sources.base import SourceError, SourceSpec
from pipeline.sources.opening import duration_of

ALSO = "STREAM=URI beside or instead of the recording's; microphone=none leaves one out. Repeatable."

KINDS = "What kind it is."
WHOSE = "Whose streams and channels to fill: driving, or patient for wfdb, unless told."


class Format(StrEnum):
    """Recordings that feed several streams."""

    GOPRO = "gopro"
    COMMA2K19 = "comma2k19"
    DONKEYCAR = "donkeycar"
    WFDB = "wfdb"


def import_recording(
    form: Annotated[Format, typer.Argument(metavar="gopro|comma2k19|donkeycar|wfdb", help=KINDS, show_default=False)],
    source: Annotated[str, typer.Argument(help="The recording: a file (gopro), a folder, or a record (wfdb).")],
    log: Annotated[Path, typer.Argument(help="The log (MCAP) to write.")],
    scenario: Annotated[str | None, typer.Option("--scenario", help=WHOSE, show_default=False)] = None,
    also: Annotated[list[str] | None, typer.Option("--source", help=ALSO)] = None,
) -> None:
    """Import a recording as a log, as fast as it reads. Then: chiasm replay LOG."""
    folder = scenario_folder(scenario or ("patient" if form is Format.WFDB else "driving"))
    config = load_scenario(folder)
    check_output(log)
    assigned = assign_sources(config.needs(recording=True), [f"{form.value}={source}", *(also or [])], {})
    notices = config.with_notice(assigned.notices)
    metadata = {} if folder.is_relative_to(SCENARIOS) else {"scenario_folder": str(folder.resolve())}
    specs = started_together(assigned.specs)
    total_s = _duration_s(specs)
    with progress_bar(f"importing {form.value}", total_s, "s") as advance:
        imported = import_specs(log, config, specs, notices=notices, metadata=metadata, on_progress=advance)
    for notice in notices:
        console.print(f"[yellow]note:[/yellow] {escape(notice)}")
    for (stream, reason), count in imported.dropped.items():
        console.print(f"[yellow]note:[/yellow] {stream}: {count} samples left out ({reason.replace('_', ' ')})")
    streams = ", ".join(f"{count} {stream}" for stream, count in imported.samples.items())
    size_mb = log.stat().st_size / 1e6
    console.print(f"{log}: {imported.duration_ns / 1e9:.1f} s of {form.value}, {streams}; {size_mb:.1f} MB")


def _duration_s(specs: dict[str, SourceSpec]) -> float | None:
    """How long the recording is, where that is known without reading all of it."""
    for spec in specs.values():
        if spec.scheme in ("video", "audio"):
            try:
                return duration_of(spec) / 1e9
            except SourceError:  # what is wrong with it is said when it is opened
                return None
    return None
