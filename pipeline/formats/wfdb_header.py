"""The header of a WFDB record (https://wfdb.io), checked before anything that it asks for is read or allocated.

The package `wfdb` parses it. Counts, sizes and rates are bounded here, and every file that it names must be a file in the
record's own folder, long enough for what the header promises. So a hostile header costs one line, and the package, which could
also fetch from PhysioNet or a cloud, only ever gets paths of files that are here.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from pipeline.sources.base import SourceError

MAX_HEADER_BYTES = 256 * 1024
MAX_LINE_CHARS = 1024
MAX_SIGNALS = 128
MAX_SEGMENTS = 1024
MAX_SAMPLES = 32 * 2**20
"""Of all signals of a record together, what is only padding included."""
MAX_RATE_HZ = 20_000
MAX_SECONDS = 86_400

_BYTES_PER_SAMPLE: dict[str, Fraction] = {
    "8": Fraction(1), "80": Fraction(1), "16": Fraction(2), "61": Fraction(2), "160": Fraction(2), "24": Fraction(3),
    "32": Fraction(4), "212": Fraction(3, 2), "310": Fraction(4, 3), "311": Fraction(4, 3),
    "508": Fraction(0), "516": Fraction(0), "524": Fraction(0),
}  # fmt: skip
"""Of each format; 0 for the compressed ones (FLAC)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """One stretch of a record: the record of which it is made (None: nothing was recorded) and where it lies, in frames."""

    name: str | None
    start: int
    frames: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordHeader:
    """A record's header, checked. A frame holds one sample of each signal, or several of the faster ones."""

    path: Path
    frame_rate_hz: Fraction
    frames: int
    segments: tuple[Segment, ...]
    comments: tuple[str, ...]

    @property
    def name(self) -> str:
        """The record's name: the header's file name without its extension."""
        return self.path.stem

    @property
    def last_frame_ns(self) -> int:
        """When the last frame begins, in ns since the first."""
        return round(Fraction(self.frames - 1) * 1_000_000_000 / self.frame_rate_hz)


def header_path(record: str) -> Path:
    """The header file that RECORD names: with or without ``.hea``, or a folder that holds a record of its own name.

    Raises SourceError when there is none.
    """
    given = Path(os.path.abspath(os.path.expanduser(record)))
    candidates = [given] if given.suffix == ".hea" else [Path(f"{given}.hea"), given / f"{given.name}.hea"]
    for path in candidates:
        if path.is_file():
            return path
    raise SourceError(f"no WFDB record {record!r} (no file {candidates[0]}); name the record's header, with or without .hea")


def read_header(path: Path) -> RecordHeader:
    """Read and check a record's header, not yet its samples. Raises SourceError, naming file, field and fix."""
    record = _parsed(path)
    if getattr(record, "n_seg", None) is None:
        segments: tuple[Segment, ...] = (Segment(name=path.stem, start=0, frames=_frames_of(record, path)),)
    else:
        segments = _segments_of(record, path)
    frames = segments[-1].start + segments[-1].frames
    rate_hz = _frame_rate(record, path)
    if frames > MAX_SECONDS * rate_hz:
        raise SourceError(f"{path}: {frames} samples at {float(rate_hz):g} Hz are more than a day; cut the record")
    return RecordHeader(
        path=path, frame_rate_hz=rate_hz, frames=frames, segments=segments, comments=tuple(str(text) for text in record.comments)
    )


# Headers -------------------------------------------------------------------------------------------------------------


def _parsed(path: Path) -> Any:
    """The package's record object of a header whose size and characters are fine."""
    wfdb = wfdb_package()
    _check_text(path)
    if "::" in str(path):
        raise SourceError(f"{path}: a path with '::' in it cannot be read; rename the folder")
    try:
        return wfdb.rdheader(str(path.with_suffix("")))
    except Exception as error:  # the package raises whatever broken fields lead to
        raise SourceError(f"{path}: is no WFDB header ({reason_of(error)}); use the record's own header") from error


def wfdb_package() -> Any:
    """The package, imported when a record is read. Raises SourceError, naming the extra, where it is not installed."""
    try:
        import wfdb
    except ImportError as error:
        raise SourceError(f"WFDB records need the package wfdb ({reason_of(error)}); pip install 'chiasm[medical]'") from error
    return wfdb


def _check_text(path: Path) -> None:
    try:
        if not path.is_file():
            raise SourceError(f"{path}: is no file; name the record's header")
        with path.open("rb") as file:
            content = file.read(MAX_HEADER_BYTES + 1)
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error.strerror or error}); check the path") from error
    if len(content) > MAX_HEADER_BYTES:
        raise SourceError(f"{path}: is larger than {MAX_HEADER_BYTES} bytes, which no header is; use the record's own header")
    lines = 0
    for number, line in enumerate(content.decode("latin-1").splitlines(), start=1):
        if not line.strip() or line.strip().startswith("#"):
            continue
        lines += 1
        # The package drops what is not ASCII: a µV would be read as V.
        if not line.isascii():
            raise SourceError(f"{path}: line {number} is not ASCII; write a unit of µV as uV")
        if len(line) > MAX_LINE_CHARS:
            raise SourceError(f"{path}: line {number} has {len(line)} characters, more than {MAX_LINE_CHARS}; use the original")
    if lines > 1 + MAX_SEGMENTS:
        raise SourceError(f"{path}: {lines - 1} signals or segments, more than {MAX_SEGMENTS}; cut the record")


def _frame_rate(record: Any, path: Path) -> Fraction:
    rate_hz = float(record.fs)
    if not (math.isfinite(rate_hz) and 0.001 <= rate_hz <= MAX_RATE_HZ):
        raise SourceError(f"{path}: a rate of {record.fs} Hz is not between 0.001 and {MAX_RATE_HZ}; mend the first line")
    return Fraction(repr(rate_hz))  # as the header has it: 62.4725, not the nearest binary number


def _frames_of(record: Any, path: Path) -> int:
    frames = record.sig_len
    if frames is None:
        raise SourceError(f"{path}: does not say how many samples there are; add their number to the first line")
    if not 1 <= frames <= MAX_SAMPLES:
        raise SourceError(f"{path}: {str(frames)[:20]} samples are not between 1 and {MAX_SAMPLES}; check the first line")
    return int(frames)


def _segments_of(record: Any, path: Path) -> tuple[Segment, ...]:
    if len(record.seg_name) != record.n_seg or record.n_seg > MAX_SEGMENTS:
        raise SourceError(
            f"{path}: announces {str(record.n_seg)[:20]} segments (at most {MAX_SEGMENTS}) and lists {len(record.seg_name)}; "
            "use the record's own header"
        )
    segments: list[Segment] = []
    start = 0
    for name, frames in zip(record.seg_name, record.seg_len, strict=True):
        if frames:  # one of no length only says which signals there are
            segments.append(Segment(name=None if name == "~" else str(name), start=start, frames=int(frames)))
            start += int(frames)
    if not segments or start > MAX_SAMPLES or (record.sig_len is not None and record.sig_len != start):
        raise SourceError(
            f"{path}: its segments hold {str(start)[:20]} samples (at most {MAX_SAMPLES}), the first line says "
            f"{'nothing' if record.sig_len is None else str(record.sig_len)[:20]}; use the record's own header"
        )
    return tuple(segments)


# Segments ------------------------------------------------------------------------------------------------------------


def checked_segment(header: RecordHeader, segment: Segment) -> Any:
    """A segment's parsed header, of which every number is within bounds and every file is there and long enough."""
    name = segment.name or ""
    path = _beside(header.path, f"{name}.hea", "a segment") if name != header.name else header.path
    record = _parsed(path)
    if getattr(record, "n_seg", None) is not None:
        raise SourceError(f"{path}: is itself made of segments; name the record whose samples it holds")
    frames = _frames_of(record, path)
    if frames != segment.frames or _frame_rate(record, path) != header.frame_rate_hz:
        raise SourceError(
            f"{path}: {frames} samples at {record.fs} Hz, but {header.path.name} says {segment.frames} at "
            f"{float(header.frame_rate_hz):g} Hz; use the original headers"
        )
    described = len(record.sig_name) if record.sig_name is not None else 0
    if not 1 <= record.n_sig <= MAX_SIGNALS or described != record.n_sig:
        raise SourceError(
            f"{path}: announces {str(record.n_sig)[:20]} signals (1 to {MAX_SIGNALS}) and describes {described}; "
            "use the record's own header"
        )
    for index in range(described):
        _check_signal(record, index, frames, path)
    _check_files(record, frames, path)
    # The package takes a signal without a name; we look them up by name.
    record.sig_name = [text or "" for text in record.sig_name]
    record.units = [plain(text or "mV") for text in record.units]
    return record


def _check_signal(record: Any, index: int, frames: int, path: Path) -> None:
    per_frame, skew, offset = (getattr(record, field)[index] or 0 for field in ("samps_per_frame", "skew", "byte_offset"))
    fmt, gain, baseline = record.fmt[index], record.adc_gain[index], record.baseline[index]
    where = f"{path}: signal {index + 1} ({plain(record.sig_name[index] or 'no name')})"
    if fmt not in _BYTES_PER_SAMPLE:
        raise SourceError(f"{where}: format {fmt[:20]} is none of {', '.join(_BYTES_PER_SAMPLE)}; convert the record (xform)")
    if per_frame < 1 or per_frame * record.fs > MAX_RATE_HZ:
        raise SourceError(
            f"{where}: {str(per_frame)[:20]} samples a frame at {record.fs} Hz is not 1 or more, up to {MAX_RATE_HZ} Hz; "
            "check the format field"
        )
    if skew >= frames or offset > 2**40:
        raise SourceError(
            f"{where}: skew {str(skew)[:20]} or offset {str(offset)[:20]} lies beyond the record; use the record's own header"
        )
    if not math.isfinite(gain) or not 1e-9 <= abs(gain) <= 1e12 or abs(baseline or 0) > 2**31:
        raise SourceError(f"{where}: gain {gain} or baseline {str(baseline)[:20]} is absurd; use the record's own header")
    record.samps_per_frame[index] = per_frame


def _check_files(record: Any, frames: int, path: Path) -> None:
    """Every file is in the record's folder and holds what the header says that it holds."""
    for name in dict.fromkeys(record.file_name):
        if name == "~":
            raise SourceError(f"{path}: says that its samples were not kept (file ~); name the record that has them")
        file = _beside(path, name, "a file of samples")
        of_file = [index for index, other in enumerate(record.file_name) if other == name]
        formats = {record.fmt[index] for index in of_file}
        offsets = {record.byte_offset[index] or 0 for index in of_file}
        if len(formats) != 1 or len(offsets) != 1 or of_file != list(range(of_file[0], of_file[-1] + 1)):
            raise SourceError(f"{path}: the signals of {name} differ in format or offset, or lie apart; use the original header")
        per_frame = sum(record.samps_per_frame[index] for index in of_file)
        padded = per_frame * (frames + max(record.skew[index] or 0 for index in of_file))
        if padded > MAX_SAMPLES:
            raise SourceError(f"{path}: {padded} samples in {name}, more than {MAX_SAMPLES}; cut the record")
        bytes_per_sample = _BYTES_PER_SAMPLE[formats.pop()]
        needed = offsets.pop() + int(per_frame * frames * bytes_per_sample) if bytes_per_sample else 0
        size = file.stat().st_size
        if size < needed:
            raise SourceError(f"{file}: has {size} bytes, {path.name} says at least {needed}; copy the record again")


def _beside(header: Path, name: str, what: str) -> Path:
    """The file of this name in the header's folder, and really there."""
    if not name or name in (".", "..") or len(name) > 255 or any(c in name for c in "/\\\0:"):
        raise SourceError(f"{header}: names {what} {plain(name)!r}, which is no plain file name; use the record's own header")
    path = header.parent / name
    if not path.is_file():
        raise SourceError(f"{header}: names {what} {name!r}, which is not in its folder; copy the whole record")
    if path.resolve().parent != header.parent.resolve():
        raise SourceError(f"{header}: {name!r} is a link that leads out of the record's folder; copy the file itself there")
    return path


def plain(text: str) -> str:
    """A header's text for a message: short, printable, and without brackets, which a terminal's markup would read."""
    return "".join(c if c.isprintable() and c not in "[]" else "?" for c in text[:40])


def reason_of(error: BaseException) -> str:
    """What the package's error says, on one line and not too long."""
    return _printable(str(error)) or type(error).__name__


def _printable(text: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text[:300]).split())[:150]
