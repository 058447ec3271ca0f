"""donkeycar tubs (version 2, https://docs.donkeycar.com): a 1/10 scale car's camera, steering and throttle.

A tub is a folder with ``manifest.json`` (JSON lines; the last names the catalogs and the deleted records),
catalogs (JSON lines, one record each) and ``images/``. A record's time is its ``_index`` at a fixed rate (20 Hz is
donkeycar's default): the stamps in a tub are often those of a later conversion. Steering is ``user/angle``, -1
(left) to 1 (right), times `MAX_STEERING_RAD`, turned to left positive. A tub has no speed.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.formats.rows import Rows, rows_from_series
from pipeline.sources.base import Channel, SourceError, SourceSpec, StreamNeeds

MAX_STEERING_RAD = 0.4
"""The road wheels' angle at full ``user/angle``: a common 1/10 scale car's lock (the tub does not state it)."""

MAX_LINE_BYTES = 64 * 1024
MAX_CATALOG_BYTES = 64 * 2**20
MAX_RECORDS = 1_000_000

_GIVEN = ("steering_rad", "throttle")


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One turn of the car's loop. ``image`` is a file name in ``images/``; ``angle`` and ``throttle`` are None where
    not recorded.
    """

    index: int
    image: str
    angle: float | None
    throttle: float | None


def tub_folder(path: Path) -> Path:
    """The tub itself: ``path``, or the folder ``tub`` in it. Raises SourceError."""
    for folder in (path, path / "tub"):
        if (folder / "manifest.json").is_file():
            return folder
    raise SourceError(f"{path}: is no donkeycar tub (no manifest.json in it); name the tub's folder")


def records_of_tub(path: Path) -> list[Record]:
    """The records that were not deleted, in the order of ``_index``. Raises SourceError, naming file and line."""
    folder = tub_folder(path)
    manifest = _manifest(folder / "manifest.json")
    deleted = {index for index in manifest.get("deleted_indexes", []) if isinstance(index, int)}
    records: list[Record] = []
    for name in manifest["paths"]:
        catalog = folder / _plain_name(name, folder / "manifest.json", 0)
        for line, fields in _json_lines(catalog):
            if len(records) >= MAX_RECORDS:
                raise SourceError(f"{catalog}: more than {MAX_RECORDS} records; cut the tub")
            record = _record(fields, catalog, line)
            if record.index not in deleted:
                records.append(record)
    records.sort(key=lambda record: record.index)
    for before, after in itertools.pairwise(records):
        if before.index == after.index:
            raise SourceError(f"{folder}: _index {after.index} is there twice; remove one of the records")
    if not records:
        raise SourceError(f"{folder}: has no records; name a tub that was driven")
    return records


def record_times_ns(records: Sequence[Record], fps: float) -> NDArray[np.int64]:
    """Each record's time since the first, int64 ``[records]``, from its index. Raises SourceError for a tub of more
    than a day.
    """
    since_first = [record.index - records[0].index for record in records]
    if since_first[-1] / fps > 86_400:
        raise SourceError(
            f"the tub's _index runs from {records[0].index} to {records[-1].index}, more than a day at {fps:g} Hz; check it"
        )
    return np.array([round(index * 1e9 / fps) for index in since_first], dtype=np.int64)


def rows_from_tub(path: Path, channels: Sequence[Channel], *, fps: float) -> Rows:
    """Steering and throttle, one row a record. Raises SourceError."""
    records = records_of_tub(path)
    times_ns = record_times_ns(records, fps)
    series: dict[str, tuple[NDArray[np.int64], NDArray[np.float64]]] = {}
    numbers = {
        "steering_rad": [None if record.angle is None else -record.angle * MAX_STEERING_RAD for record in records],
        "throttle": [record.throttle for record in records],
    }
    for name, column in numbers.items():
        there = np.array([number is not None for number in column])
        series[name] = (
            times_ns[there],
            np.array([number for number in column if number is not None], dtype=np.float64),
        )
    return rows_from_series(series, [channel.name for channel in channels])


def donkeycar_specs(
    path: Path, needs: Mapping[str, StreamNeeds], *, fps: float = 20.0
) -> tuple[dict[str, SourceSpec], list[str]]:
    """The streams that the tub feeds, and what the user must know: telemetry is left out where the scenario requires
    what a tub lacks.
    """
    from pipeline.sources.assign import stream_of_kind

    folder = tub_folder(path)
    options = {"fps": repr(fps)}
    specs: dict[str, SourceSpec] = {}
    notices: list[str] = []
    camera = stream_of_kind(needs, "camera")
    if camera is not None:
        specs[camera] = SourceSpec(needs=needs[camera], scheme="donkeycar-camera", target=str(folder), options=options)
    telemetry = stream_of_kind(needs, "telemetry")
    if telemetry is not None:
        lacking = [c.name for c in needs[telemetry].channels if c.required and c.name not in _GIVEN]
        if lacking:
            notices.append(f"{telemetry}: left out, a donkeycar tub has no {', '.join(lacking)}, which the scenario requires")
        else:
            specs[telemetry] = SourceSpec(
                needs=needs[telemetry], scheme="donkeycar-telemetry", target=str(folder), options=options
            )
    return specs, notices


def _manifest(path: Path) -> dict[str, Any]:
    for _, fields in reversed(list(_json_lines(path))):
        if isinstance(fields, dict) and isinstance(fields.get("paths"), list):
            return fields
    raise SourceError(f"{path}: no line names the catalogs (paths); use the tub's own manifest")


def _json_lines(path: Path) -> list[tuple[int, Any]]:
    """Each line's number and value."""
    try:
        if path.stat().st_size > MAX_CATALOG_BYTES:
            raise SourceError(f"{path}: is larger than {MAX_CATALOG_BYTES} bytes; cut the tub")
        content = path.read_bytes()
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error.strerror or error}); check the tub") from error
    parsed: list[tuple[int, Any]] = []
    for line, text in enumerate(content.split(b"\n"), start=1):
        if not text.strip():
            continue
        if len(text) > MAX_LINE_BYTES:
            raise SourceError(f"{path}: line {line} has {len(text)} bytes, more than {MAX_LINE_BYTES}; use the tub's own catalog")
        try:
            parsed.append((line, json.loads(text)))
        except (ValueError, RecursionError) as error:
            raise SourceError(f"{path}: line {line} is not JSON; remove it or copy the tub again") from error
    return parsed


def _record(fields: object, catalog: Path, line: int) -> Record:
    index = fields.get("_index") if isinstance(fields, dict) else None
    if not isinstance(fields, dict) or type(index) is not int or not 0 <= index < 2**40:
        raise SourceError(f"{catalog}: line {line} has no whole number _index; remove it or copy the tub again")
    return Record(
        index=index,
        image=_plain_name(fields.get("cam/image_array"), catalog, line),
        angle=_number(fields, "user/angle", catalog, line),
        throttle=_number(fields, "user/throttle", catalog, line),
    )


def _plain_name(name: object, file: Path, line: int) -> str:
    """A file name without a folder, so that a tub cannot reach outside itself."""
    if not isinstance(name, str) or not name or len(name) > 255 or name in (".", "..") or any(c in name for c in "/\\\0"):
        raise SourceError(f"{file}: line {line}: {str(name)[:40]!r} is no plain file name; copy the tub again")
    return name


def _number(fields: dict[str, Any], key: str, catalog: Path, line: int) -> float | None:
    number = fields.get(key)
    if number is None:
        return None
    if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number) or abs(number) > 1e6:
        raise SourceError(f"{catalog}: line {line}: {key} is {str(number)[:40]!r}, not a finite number; remove that line")
    return float(number)
