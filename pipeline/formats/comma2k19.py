"""comma2k19 segments (https://github.com/commaai/comma2k19): one minute of a car's CAN and IMU logs.

Each log is a pair of NumPy files without extension, ``t`` (seconds on the device's boot clock) and ``value``. Here
times count from the earliest sample read or camera frame, and stay jittered as they were recorded. What we make of
the logs:

================  ==================  =========================================================================
channel           log                 conversion
================  ==================  =========================================================================
speed_mps         CAN/speed           none
steering_rad      CAN/steering_angle  steering wheel degrees to the road wheels' radians; left positive in both
accel_*_mps2      IMU/accelerometer   forward/right/down to forward/left/up; gravity is in it (about +9.8 up)
yaw_rate_radps    IMU/gyro            rate about down, turned: left positive
================  ==================  =========================================================================
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.formats.rows import Rows, rows_from_series
from pipeline.sources.base import Channel, SourceError, SourceSpec, StreamKind, StreamNeeds

STEERING_RATIO = 16.88
"""Steering wheel to road wheel of the data set's Toyota RAV4, as openpilot has it."""

MAX_BYTES = 256 * 2**20
MAX_SECONDS = 86_400.0
FRAME_RATE_HZ = 20

_FRAME_TIMES = "global_pose/frame_times"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Log:
    """One channel: which log, which of its columns, and the factor to our sign and unit."""

    log: str
    column: int
    factor: float = 1.0


_CHANNELS: dict[str, _Log] = {
    "speed_mps": _Log(log="processed_log/CAN/speed", column=0),
    "steering_rad": _Log(log="processed_log/CAN/steering_angle", column=0, factor=np.pi / 180 / STEERING_RATIO),
    "accel_forward_mps2": _Log(log="processed_log/IMU/accelerometer", column=0),
    "accel_left_mps2": _Log(log="processed_log/IMU/accelerometer", column=1, factor=-1.0),
    "accel_up_mps2": _Log(log="processed_log/IMU/accelerometer", column=2, factor=-1.0),
    "yaw_rate_radps": _Log(log="processed_log/IMU/gyro", column=2, factor=-1.0),
}


def segment_folder(path: Path) -> Path:
    """The segment itself: ``path``, or the only segment in it. Raises SourceError."""
    if (path / "processed_log").is_dir():
        return path
    found = sorted(folder for folder in path.iterdir() if (folder / "processed_log").is_dir()) if path.is_dir() else []
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(folder.name for folder in found[:3])
        raise SourceError(f"{path}: holds {len(found)} comma2k19 segments ({names}, …); name one of them")
    raise SourceError(f"{path}: is no comma2k19 segment (no folder processed_log in it); name the segment's folder")


def rows_from_segment(path: Path, channels: Sequence[Channel]) -> Rows:
    """The segment's logs as rows, one for each instant at which a log has a value (about 270 a second).

    Raises SourceError, naming file and row, for files that are no plain number arrays, differ in length, hold NaN
    or run backwards.
    """
    folder = segment_folder(path)
    wanted = {channel.name: _CHANNELS[channel.name] for channel in channels if channel.name in _CHANNELS}
    logs = {log.log: _read_log(folder / log.log) for log in wanted.values() if (folder / log.log).is_dir()}
    start_s = _start_s(folder, [times for times, _ in logs.values() if len(times)])
    series: dict[str, tuple[NDArray[np.int64], NDArray[np.float64]]] = {}
    for name, log in wanted.items():
        if log.log not in logs:
            continue
        times_s, values = logs[log.log]
        if values.shape[1] <= log.column:
            raise SourceError(
                f"{folder / log.log / 'value'}: has {values.shape[1]} columns, expected more than {log.column}; use the original"
            )
        since_start_s = times_s - start_s
        if len(times_s) and since_start_s[-1] > MAX_SECONDS:
            raise SourceError(
                f"{folder / log.log / 't'}: row {len(times_s) - 1} is more than a day after the start; use the original"
            )
        series[name] = (np.rint(since_start_s * 1e9).astype(np.int64), values[:, log.column] * log.factor)
    return rows_from_series(series, [channel.name for channel in channels])


def comma2k19_specs(path: Path, needs: Mapping[str, StreamNeeds]) -> dict[str, SourceSpec]:
    """The streams that the segment feeds: telemetry, and the camera where ``video.hevc`` is there."""
    folder = segment_folder(path)
    specs: dict[str, SourceSpec] = {}
    telemetry = _stream_of(needs, "telemetry")
    if telemetry is not None:
        specs[telemetry] = SourceSpec(needs=needs[telemetry], scheme="comma2k19-telemetry", target=str(folder))
    camera = _stream_of(needs, "camera")
    if camera is not None and (folder / "video.hevc").is_file():
        # A raw HEVC stream carries no times of its own; the data set's camera runs at 20 Hz.
        specs[camera] = SourceSpec(
            needs=needs[camera], scheme="video", target=str(folder / "video.hevc"), options={"fps": str(FRAME_RATE_HZ)}
        )
    return specs


def _stream_of(needs: Mapping[str, StreamNeeds], kind: StreamKind) -> str | None:
    from pipeline.sources.assign import stream_of_kind

    return stream_of_kind(needs, kind)


def _start_s(folder: Path, times: list[NDArray[np.float64]]) -> float:
    starts = [float(each[0]) for each in times]
    if (folder / _FRAME_TIMES).is_file():
        frames = _read_array(folder / _FRAME_TIMES).ravel()
        starts += [float(frames[0])] if len(frames) and np.isfinite(frames[0]) else []
    return min(starts, default=0.0)


def _read_log(folder: Path) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """``t`` float64 ``[n]``, never falling, and ``value`` float64 ``[n, columns]``; all finite."""
    times = _read_array(folder / "t")
    values = _read_array(folder / "value")
    if times.ndim != 1 or values.ndim not in (1, 2) or len(values) != len(times):
        raise SourceError(
            f"{folder}: t has shape {times.shape} and value {values.shape}; they must have as many rows: use the originals"
        )
    values = values.reshape(len(times), -1)
    for name, array in (("t", times[:, None]), ("value", values)):
        broken = np.flatnonzero(~np.isfinite(array).all(axis=1))
        if len(broken):
            raise SourceError(f"{folder / name}: row {broken[0]} is not a finite number; remove that row from t and value")
    backwards = np.flatnonzero(np.diff(times) < 0)
    if len(backwards):
        raise SourceError(f"{folder / 't'}: row {backwards[0] + 1}: time runs backwards; sort t and value by time")
    return times, values


def _read_array(path: Path) -> NDArray[np.float64]:
    """A plain .npy array of numbers. Mapped first, so that a header which promises more than the file holds costs no
    memory.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise SourceError(f"{path}: is larger than {MAX_BYTES} bytes; cut the segment")
        mapped = np.lib.format.open_memmap(path, mode="r")
        if mapped.dtype.kind not in "fiu":
            raise SourceError(f"{path}: holds {mapped.dtype}, not numbers; use the original file")
        return np.array(mapped, dtype=np.float64)
    except (OSError, ValueError, TypeError, EOFError, OverflowError) as error:
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise SourceError(f"{path}: cannot be read as a NumPy array ({reason}); use the original file") from error
