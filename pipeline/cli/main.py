"""The command line: one verb a file. Errors that a user can mend are one line on stderr and exit code 2."""

from __future__ import annotations

import sys

import typer

from pipeline.cli import compare, doctor, importing, info, record, replay, run, simulate, train
from pipeline.cli.errors import MENDABLE, one_line

app = typer.Typer(
    name="chiasm",
    help="Streaming sensor fusion: camera, microphone and telemetry in, decisions out, on time, each with its receipt.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("run")(run.run)
app.command("replay")(replay.replay)
app.command("record")(record.record)
app.command("simulate")(simulate.simulate)
app.command("train")(train.train)
app.command("import")(importing.import_recording)
app.command("info")(info.info)
app.command("compare")(compare.compare)
app.command("doctor")(doctor.doctor)


def main() -> None:
    """Entry point of the ``chiasm`` command."""
    try:
        app()
    except MENDABLE as error:
        sys.stderr.write(f"chiasm: {one_line(error)}\n")
        sys.exit(2)


if __name__ == "__main__":
    main()
