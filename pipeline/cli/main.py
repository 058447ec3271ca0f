"""The command line: one verb a file. Errors that a user can mend are one line on stderr and exit code 2."""

from __future__ import annotations

import os
import sys
from typing import Any, NoReturn, cast

import typer

from pipeline.cli import bench, compare, doctor, engines, evaluate, importing, info, latency, record, replay, run, simulate, train
from pipeline.cli.errors import MENDABLE, one_line, one_line_of

USAGE_ERROR = cast(type[Exception], typer.BadParameter.__mro__[1])
"""What typer raises for arguments that it does not take; its class lies elsewhere in each of typer's versions."""

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
app.command("evaluate")(evaluate.evaluate)
app.command("import")(importing.import_recording)
app.command("info")(info.info)
app.command("compare")(compare.compare)
app.command("latency")(latency.latency)
app.command("bench")(bench.bench)
app.command("doctor")(doctor.doctor)
app.add_typer(engines.app, name="engines")


def main() -> None:
    """Entry point of the ``chiasm`` command."""
    try:
        code = app(args=sys.argv[1:] or ["--help"], prog_name="chiasm", standalone_mode=False)
    except MENDABLE as error:
        _refuse(one_line(error))
    except USAGE_ERROR as raised:
        refused: Any = raised  # its type is typer's own
        verb = refused.ctx.command_path if refused.ctx else "chiasm"
        _refuse(f"{one_line_of(refused.format_message()).rstrip('.')}; see {verb} --help")
    except (typer.Abort, KeyboardInterrupt):
        sys.exit(130)
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - or the exit would flush to who is gone
        sys.exit(1)
    sys.exit(code if isinstance(code, int) else 0)


def _refuse(line: str) -> NoReturn:
    sys.stderr.write(f"chiasm: {line}\n")
    sys.exit(2)


if __name__ == "__main__":
    main()
