"""Telemetry as CSV: a header row, one time column, and one column a channel.

The time column is ``time_s`` or ``t_s`` (seconds since the recording began) or ``time_ns``. A channel's column is
named as in the scenario, with or without the unit: ``speed_mps`` or ``speed_mps [m/s]``. Other columns are
ignored. An empty cell is a value that was not measured. UTF-8, comma-separated, at most 64 MiB and a million rows.
"""

from __future__ import annotations

import csv
import math
import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.formats.rows import Rows
from pipeline.sources.base import Channel, SourceError

MAX_BYTES = 64 * 2**20
MAX_ROWS = 1_000_000
MAX_COLUMNS = 1024
MAX_TIME_NS = 86_400_000_000_000

_TIME_SCALES_NS = {"time_s": 1_000_000_000, "t_s": 1_000_000_000, "time_ns": 1}
_FLOAT32_MAX = float(np.finfo(np.float32).max)
_HEADER_CELL = re.compile(r"\s*([^\[\]]*?)\s*(?:\[([^\[\]]*)\])?\s*")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Columns:
    """Where in a row the time and the scenario's channels are."""

    width: int
    time: int
    time_name: str
    of_channel: tuple[int | None, ...]


def rows_from_csv(path: Path, channels: Sequence[Channel]) -> Rows:
    """Read and check the whole file.

    Raises SourceError, naming file, row (the header is row 1) and column, for: no file, too large, no time or
    required channel, another unit, a cell that is no finite number, time running backwards or beyond a day.
    """
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise SourceError(f"{path}: {size} bytes, more than {MAX_BYTES}; cut the file into parts")
        with path.open(encoding="utf-8-sig", errors="strict", newline="") as file:
            return _rows_of_lines(file, channels, str(path))
    except UnicodeDecodeError as error:
        raise SourceError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from error
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error.strerror or error}); check the path") from error


def _rows_of_lines(lines: Iterable[str], channels: Sequence[Channel], origin: str) -> Rows:
    records = _records(lines, origin)
    header = next(records, None)
    if header is None:
        raise SourceError(f"{origin}: is empty; the first row names the columns, like time_s,speed_mps")
    columns = _columns_of_header(header[1], channels, origin)
    times_ns, values, valid = array("q"), array("f"), bytearray()
    for row, cells in records:
        if len(times_ns) >= MAX_ROWS:
            raise SourceError(f"{origin}: more than {MAX_ROWS} rows; cut the file into parts")
        if len(cells) != columns.width:
            raise SourceError(f"{origin}: row {row} has {len(cells)} cells, the header {columns.width}; fill or remove that row")
        time_ns = _time_of_cell(cells[columns.time], columns.time_name, origin, row)
        if times_ns and time_ns < times_ns[-1]:
            raise SourceError(
                f"{origin}: row {row}, column {columns.time_name}: time runs backwards "
                f"({time_ns / 1e9:.6f} s after {times_ns[-1] / 1e9:.6f} s); sort the rows by time"
            )
        times_ns.append(time_ns)
        for channel, at in zip(channels, columns.of_channel, strict=True):
            text = cells[at].strip() if at is not None else ""
            values.append(_number_of_cell(text, channel.name, origin, row) if text else 0.0)
            valid.append(bool(text))
    shape = (len(times_ns), len(channels))
    return Rows(
        times_ns=np.array(times_ns, dtype=np.int64),
        values=np.array(values, dtype=np.float32).reshape(shape),
        valid=np.frombuffer(bytes(valid), dtype=np.bool_).reshape(shape),
    )


def _records(lines: Iterable[str], origin: str) -> Iterator[tuple[int, list[str]]]:
    """The rows that are not blank, with their line numbers."""
    reader = csv.reader(lines, strict=True)
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield reader.line_num, cells
    except csv.Error as error:
        raise SourceError(f"{origin}: row {reader.line_num}: {error}; write plain comma-separated values") from error


def _columns_of_header(header: list[str], channels: Sequence[Channel], origin: str) -> _Columns:
    if len(header) > MAX_COLUMNS:
        raise SourceError(f"{origin}: {len(header)} columns, more than {MAX_COLUMNS}; keep those the scenario reads")
    at: dict[str, int] = {}
    units: dict[str, str | None] = {}
    wanted = {channel.name for channel in channels} | set(_TIME_SCALES_NS)
    for index, cell in enumerate(header):
        match = _HEADER_CELL.fullmatch(cell)
        name, unit = (match[1], match[2]) if match else (cell.strip(), None)
        if name in at and name in wanted:
            raise SourceError(f"{origin}: row 1 names column {name} twice; keep one")
        at[name], units[name] = index, unit
    times = [name for name in _TIME_SCALES_NS if name in at]
    if len(times) != 1:
        found = " and ".join(times) or "none"
        raise SourceError(f"{origin}: row 1 must name one time column, time_s, t_s or time_ns (found {found})")
    for channel in channels:
        unit = units.get(channel.name)
        if unit is not None and unit.strip() != channel.unit:
            raise SourceError(
                f"{origin}: row 1, column {channel.name}: unit [{unit.strip()}] but the scenario "
                f"reads [{channel.unit}]; convert it"
            )
        if channel.required and channel.name not in at:
            raise SourceError(
                f"{origin}: no column {channel.name} [{channel.unit}], which the scenario requires (row 1 has "
                f"{', '.join(sorted(at))[:200]}); add it"
            )
    return _Columns(
        width=len(header),
        time=at[times[0]],
        time_name=times[0],
        of_channel=tuple(at.get(channel.name) for channel in channels),
    )


def _time_of_cell(text: str, column: str, origin: str, row: int) -> int:
    stripped = text.strip()
    time_ns = round(_number_of_cell(stripped, column, origin, row) * _TIME_SCALES_NS[column])
    if abs(time_ns) > MAX_TIME_NS:
        raise SourceError(
            f"{origin}: row {row}, column {column}: {stripped} is more than a day; times count from "
            f"the recording's start: "
            "subtract the first"
        )
    return time_ns


def _number_of_cell(text: str, column: str, origin: str, row: int) -> float:
    try:
        number = float(text) if len(text) <= 64 and "_" not in text else math.nan
    except ValueError:
        number = math.nan
    limit = math.inf if column in _TIME_SCALES_NS else _FLOAT32_MAX
    if not math.isfinite(number) or abs(number) > limit:
        raise SourceError(
            f"{origin}: row {row}, column {column}: {text[:40]!r} is not a finite number; leave the "
            f"cell empty where nothing was measured"
        )
    return number
