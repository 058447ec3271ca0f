"""What every measurement gives: a summary, the targets it is held against, the raw samples, and the environment.

A result is two files: ``NAME.json`` (small, what the report reads) and ``NAME.samples.json.gz`` (every raw sample, in columns).
"""

from __future__ import annotations

import gzip
import json
import operator
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import typer

from benchmarks.environment import ROOT, environment

RESULTS = ROOT / "benchmarks" / "results"
SHARED = ROOT.parent / "shared"
GOPRO = SHARED / "data" / "driving" / "gopro_gpmf" / "max-heromode.mp4"
MAX_SAMPLES_BYTES = 1_000_000
BAR_CELLS = 24
BENCHES = {
    "transport": "benchmarks.transport",
    "peers": "benchmarks.beside_peers",
    "end-to-end": "benchmarks.end_to_end",
    "engines": "benchmarks.engine_share",
    "scaling": "benchmarks.scaling",
}
"""What ``chiasm bench`` measures, by name, and the module that does."""

_COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le, ">=": operator.ge, "=": operator.eq, ">": operator.gt,
}  # fmt: skip


class Skipped(Exception):
    """The measurement cannot be made here; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One figure held against its target: ``measured COMPARISON target``. None when there was nothing to measure."""

    what: str
    measured: float | None
    comparison: str
    target: float
    unit: str = ""

    @property
    def met(self) -> bool:
        """Whether the target is reached; what was not measured is not."""
        return self.measured is not None and _COMPARISONS[self.comparison](self.measured, self.target)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a measurement found. ``samples`` maps a table's name to its columns (all raw samples, no choice made)."""

    checks: Sequence[Check]
    summary: Mapping[str, Any]
    samples: Mapping[str, Mapping[str, Sequence[Any]]]
    draw: Callable[[Path], None] | None = None
    """Draws a picture of it into a PNG file, with matplotlib."""


class Say(Protocol):
    """Shows how far a measurement has come, in one line; ``share`` of it, where that is known, as a bar."""

    def __call__(self, text: str, share: float | None = None) -> None:
        """Show this now, or let it pass if something was shown just before."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """How a measurement is to be made. ``quick`` shortens it to see that it works; its figures prove nothing."""

    quick: bool
    scratch: Path
    """A folder for logs, removed afterwards."""
    say: Say = field(repr=False)


Measure = Callable[[Setting], Outcome]


def run_as_module(name: str, title: str, measure: Measure) -> None:
    """The ``python -m benchmarks.NAME [--quick] [--out FOLDER]`` of one measurement."""

    def main(
        quick: bool = typer.Option(False, "--quick", help="Short, to see that it works; proves nothing."),
        out: Path = typer.Option(RESULTS, "--out", help="The folder for the result."),  # noqa: B008
    ) -> None:
        made = make_result(name, title, measure, quick=quick, out=out)
        for check in made["checks"]:
            print(f"  {'met   ' if check['met'] else 'MISSED'} {check['what']}: {check['measured']} {check['unit']}")
        if made["skipped"]:
            print(f"  skipped: {made['skipped']}")

    app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
    app.command(help=title)(main)
    app()


def make_result(name: str, title: str, measure: Measure, *, quick: bool, out: Path, command: str | None = None) -> dict[str, Any]:
    """Measure and write the two files; what went into ``NAME.json``. ``command``: how it is made again, if not as others are."""
    out.mkdir(parents=True, exist_ok=True)
    before = environment()
    skipped, outcome = None, Outcome(checks=(), summary={}, samples={})
    with tempfile.TemporaryDirectory(prefix="chiasm-bench-") as scratch, progress_line(name) as say:
        try:
            outcome = measure(Setting(quick=quick, scratch=Path(scratch), say=say))
        except Skipped as reason:
            skipped = str(reason)
    result = {
        "name": name,
        "title": title,
        "command": f"{command or command_of(name)}{' --quick' if quick else ''}",
        "quick": quick,
        "skipped": skipped,
        "checks": [{**asdict(check), "met": check.met} for check in outcome.checks],
        "summary": dict(outcome.summary),
        "samples": None,
        "picture": None,
        "environment": before,
    }
    if outcome.samples:
        result["samples"] = write_samples(out / f"{name}.samples.json.gz", outcome.samples)
    if outcome.draw is not None and find_spec("matplotlib") is not None:
        picture = f"{name}.png"
        outcome.draw(out / picture)
        result["picture"] = picture
    (out / f"{name}.json").write_text(json.dumps(result, indent=1, allow_nan=False, default=_plain) + "\n", encoding="utf-8")
    return result


def command_of(name: str) -> str:
    """How this measurement is made again."""
    return f"chiasm bench {name}" if name in BENCHES else f"python -m benchmarks.spine {name}"


def write_samples(path: Path, samples: Mapping[str, Mapping[str, Sequence[Any]]]) -> str:
    """Write raw samples; the file's name. Raises ValueError when they are too many to be kept in the repository."""
    text = json.dumps(samples, separators=(",", ":"), allow_nan=False, default=_plain)
    packed = gzip.compress(text.encode(), compresslevel=9, mtime=0)
    if len(packed) > MAX_SAMPLES_BYTES:
        raise ValueError(f"{path}: {len(packed)} bytes of samples, at most {MAX_SAMPLES_BYTES}; measure for a shorter time")
    path.write_bytes(packed)
    return path.name


def percentiles(values: Sequence[float] | np.ndarray[Any, Any], scale: float = 1.0, digits: int = 4) -> dict[str, float | None]:
    """p50, p90, p99, p99.9 and the largest, divided by ``scale``; exact, over the raw samples. None for a percentile that fewer
    than one sample lies beyond.
    """
    array = np.asarray(values, dtype=np.float64) / scale
    named = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p99.9": 99.9}
    found: dict[str, float | None] = {
        name: round(float(np.percentile(array, p)), digits) if len(array) * (100 - p) >= 100 else None
        for name, p in named.items()
    }
    return {**found, "max": round(float(array.max()), digits) if len(array) else None}


@contextmanager
def progress_line(name: str) -> Iterator[Say]:
    """One line on stderr that tells how far it has come: rewritten on a terminal, else a line now and then."""
    is_terminal = sys.stderr.isatty()
    every_s = 0.2 if is_terminal else 10.0
    said_at = -every_s

    def say(text: str, share: float | None = None) -> None:
        nonlocal said_at
        if time.monotonic() >= said_at + every_s:
            said_at = time.monotonic()
            line = f"{name}{bar(share) if share is not None else ':'} {text}"
            sys.stderr.write(f"\r\033[K{line}" if is_terminal else f"{line}\n")
            sys.stderr.flush()

    try:
        yield say
    finally:
        if is_terminal:
            sys.stderr.write("\r\033[K")


def bar(share: float) -> str:
    """A share of 1 as a bar and in percent."""
    filled = round(BAR_CELLS * min(max(share, 0.0), 1.0))
    return f" {'━' * filled}{'╌' * (BAR_CELLS - filled)} {share:4.0%}"


def gopro_file() -> Path:
    """The GoPro recording that the figures are made on. Raises Skipped where it is absent."""
    if not GOPRO.is_file():
        raise Skipped(
            f"{GOPRO.name} is absent (it is not part of the repository; put it under ../shared/data/driving/gopro_gpmf)"
        )
    return GOPRO


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    raise TypeError(f"a result cannot hold a {type(value).__name__}")
