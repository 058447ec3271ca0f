"""WFDB records (https://wfdb.io, PhysioNet's format): a text header and the files of samples that it names.

The package `wfdb` reads them, once `pipeline.formats.wfdb_header` has found that what the header asks for is bounded and there.
What we make of the signals, by their names without regard to case; the first in this order that has samples counts:

==============  ==========================================  ==============================================================
channel         signals                                     conversion
==============  ==========================================  ==============================================================
ecg_mv          II, MLII, V, I, III, MCL1, other leads      mV, uV, nV or V to mV; another unit is left out
pleth           PLETH, PPG                                  none: it has no physical unit. PhysioNet's NU is about 0 to 1
resp            RESP, respiration, IMP                      none: impedance or belt, Ohm, V or NU as recorded
spo2_percent    SpO2, %SpO2, SaO2                           %; another unit is left out
heart_rate_bpm  HR, heart rate, PULSE, PR                   1/min; another unit is left out
==============  ==========================================  ==============================================================

A network that reads pleth or resp has to normalise them itself. Each signal keeps its own rate: there is a row for each instant
at which one has a sample, and a slower signal is valid only in the rows of its own samples. Holding is the windows' affair
(`pipeline.windows.sample_and_hold`), which know how long a value may be held; held here, it would look fresh for ever.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.formats.rows import Rows, rows_from_series
from pipeline.formats.wfdb_header import (
    MAX_SAMPLES,
    RecordHeader,
    Segment,
    checked_segment,
    plain,
    read_header,
    reason_of,
    wfdb_package,
)
from pipeline.sources.base import Channel, SourceError

MAX_ROWS = 4_000_000
"""The memory that they take: about 150 MB for five channels."""
MAX_VALUE = 1e9
"""In any unit of ours, far beyond what a body gives."""

_VOLTS_TO_MV = {"v": 1e3, "mv": 1.0, "uv": 1e-3, "nv": 1e-6}
_PER_MINUTE = {"bpm": 1.0, "/min": 1.0, "1/min": 1.0, "beats/min": 1.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Meaning:
    """Which signals a channel may come from, the best first, and the factors of their units (None: any unit, as it is)."""

    names: tuple[str, ...]
    factors: Mapping[str, float] | None


_MEANINGS: dict[str, _Meaning] = {
    "ecg_mv": _Meaning(
        names=(
            *("ii", "mlii", "v", "i", "iii", "mcl1", "mcl", "mliii", "v5", "v2", "v1", "v3", "v4", "v6"),
            *("avf", "avl", "avr", "ecg", "ecg1", "ecg2"),
        ),
        factors=_VOLTS_TO_MV,
    ),
    "pleth": _Meaning(names=("pleth", "plethl", "plethr", "ppg"), factors=None),
    "resp": _Meaning(names=("resp", "respiration", "resp imp", "imp"), factors=None),
    "spo2_percent": _Meaning(names=("spo2", "%spo2", "spo2l", "spo2r", "sao2"), factors={"%": 1.0, "percent": 1.0}),
    "heart_rate_bpm": _Meaning(names=("hr", "heart rate", "pulse", "pr"), factors=_PER_MINUTE),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class MappedRecord:
    """A record's rows, and by channel which signal they come from (``II in mV``)."""

    rows: Rows
    signals: dict[str, str]
    left_out: tuple[str, ...]
    """Signals that a channel might have come from, but for their unit (``II in NU``)."""


def read_record(path: Path, channels: Sequence[Channel]) -> MappedRecord:
    """The record's signals as rows of these channels. Times count from its first frame.

    Raises SourceError for what is broken, too large, missing or outside the record's folder, and when no signal is one of
    the channels'.
    """
    header = read_header(path)
    _refuse_too_long(header.frames, path)
    found = _Found()
    parsed: dict[str, Any] = {}
    samples = 0
    for segment in header.segments:
        if segment.name is None:
            continue
        if segment.name not in parsed:
            parsed[segment.name] = checked_segment(header, segment)
        record = parsed[segment.name]
        if record.sig_len != segment.frames:  # listed twice, with two lengths
            raise SourceError(f"{path}: gives {segment.name} two lengths; use the record's own header")
        samples += segment.frames * sum(record.samps_per_frame)
        if samples > MAX_SAMPLES:
            raise SourceError(f"{path}: holds more than {MAX_SAMPLES} samples; cut the record")
        _collect(found, header, segment, record, channels)
    series, signals = _best(found, channels)
    if not series:
        raise SourceError(
            f"{path}: gives none of the channels {', '.join(c.name for c in channels) or '(none)'} (it has "
            f"{', '.join(found.seen)[:300] or 'no signals'}); name a record with one of these signals, in its unit"
        )
    rows = rows_from_series(series, [channel.name for channel in channels])
    _refuse_too_long(len(rows.times_ns), path)
    return MappedRecord(rows=rows, signals=signals, left_out=tuple(found.misfits))


def _refuse_too_long(rows: int, path: Path) -> None:
    if rows > MAX_ROWS:
        raise SourceError(f"{path}: {rows} rows or more, over {MAX_ROWS}; cut the record")


_Series = tuple[NDArray[np.int64], NDArray[np.float64]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Piece:
    """One signal's valid samples in one segment, in the channel's unit."""

    times_ns: NDArray[np.int64]
    values: NDArray[np.float64]
    about: str


@dataclass(slots=True, kw_only=True)
class _Found:
    """What has been read so far. ``seen`` and ``misfits`` (of the wrong unit) are sets that keep their order."""

    pieces: dict[tuple[str, str], list[_Piece]] = field(default_factory=dict)
    seen: dict[str, None] = field(default_factory=dict)
    misfits: dict[str, None] = field(default_factory=dict)


def _collect(found: _Found, header: RecordHeader, segment: Segment, record: Any, channels: Sequence[Channel]) -> None:
    """Read what the segment holds for the channels."""
    wanted: dict[int, tuple[str, str, float]] = {}
    for index, (name, unit) in enumerate(zip(record.sig_name, record.units, strict=True)):
        about, key = f"{plain(name)} in {plain(unit)}", _key_of(name)
        found.seen[about] = None
        for channel in channels:
            meaning = _MEANINGS.get(channel.name)
            if meaning is None or key not in meaning.names:
                continue
            factor = 1.0 if meaning.factors is None else meaning.factors.get(unit.lower())
            if factor is None:
                found.misfits[about] = None
            else:
                wanted[index] = channel.name, key, factor
    indexes = sorted(wanted)
    arrays = _samples(header.path.parent / (segment.name or ""), segment.frames, indexes) if indexes else []
    for index, physical in zip(indexes, arrays, strict=True):
        channel_name, key, factor = wanted[index]
        name, per_frame = plain(record.sig_name[index]), record.samps_per_frame[index]
        if len(physical) != segment.frames * per_frame:
            raise SourceError(f"{header.path}: {name} has {len(physical)} samples, too few; copy the record again")
        times_ns = _times_ns(segment.start * per_frame, len(physical), header.frame_rate_hz * per_frame)
        valid = np.isfinite(physical)
        values = physical[valid] * factor
        if len(values) and np.abs(values).max() > MAX_VALUE:
            raise SourceError(f"{header.path}: {name} goes beyond {MAX_VALUE:g}; check its gain in the header")
        piece = _Piece(times_ns=times_ns[valid], values=values, about=f"{name} in {plain(record.units[index])}")
        found.pieces.setdefault((channel_name, key), []).append(piece)


def _best(found: _Found, channels: Sequence[Channel]) -> tuple[dict[str, _Series], dict[str, str]]:
    """Of each channel the first signal that has a valid sample, and what it is."""
    series: dict[str, _Series] = {}
    signals: dict[str, str] = {}
    for channel in channels:
        for name in _MEANINGS[channel.name].names if channel.name in _MEANINGS else ():
            pieces = [piece for piece in found.pieces.get((channel.name, name), []) if len(piece.values)]
            if pieces:
                times_ns = np.concatenate([piece.times_ns for piece in pieces])
                series[channel.name] = times_ns, np.concatenate([piece.values for piece in pieces])
                signals[channel.name] = pieces[0].about
                break
    return series, signals


def _samples(record: Path, frames: int, indexes: list[int]) -> list[NDArray[np.float64]]:
    """The signals' samples in physical units, NaN where not measured, each at its own rate."""
    try:
        read = wfdb_package().rdrecord(str(record), sampfrom=0, sampto=frames, channels=indexes, smooth_frames=False)
        return [np.asarray(signal, dtype=np.float64) for signal in read.e_p_signal]
    except Exception as error:  # the package raises whatever broken samples lead to
        raise SourceError(f"{record}.hea: its samples cannot be read ({reason_of(error)}); copy the record again") from error


def _times_ns(first: int, count: int, rate_hz: Fraction) -> NDArray[np.int64]:
    """When samples ``first`` … ``first + count - 1`` were taken, to the nearest ns: two signals' samples of one instant get one
    time, whatever their rates.
    """
    step_ns = Fraction(1_000_000_000) / rate_hz
    fits = 2 * (first + count) * step_ns.numerator + step_ns.denominator < 2**63
    ticks = np.arange(first, first + count, dtype=np.int64).astype(np.int64 if fits else object)
    doubled = 2 * step_ns.denominator
    return np.asarray((ticks * (2 * step_ns.numerator) + step_ns.denominator) // doubled, dtype=np.int64)


def _key_of(name: str) -> str:
    """A signal's name as our table has it: ``ECG Lead II,`` is ``ii``."""
    key = " ".join(name.lower().replace("_", " ").split()).strip(" ,;")
    return key.removeprefix("ecg ").removeprefix("lead ")
