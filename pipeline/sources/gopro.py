"""GoPro recordings: one MP4 that holds picture, sound and the GPMF telemetry track.

What feeds which channel (the first that the track has):

=====================  ================================================================
speed_mps              GPS5 or GPS9, 2D speed, while there is a fix; a Karma drone's VFRH ground speed, or GLPI velocity
accel_forward_mps2     ACCL, axis Y
accel_left_mps2        ACCL, axis -X
accel_up_mps2          ACCL, axis Z; gravity is in it (about +9.8 at rest)
yaw_rate_radps         GYRO about Z, counterclockwise from above positive
=====================  ================================================================

GoPro stores the axes in the order Z, X, Y (named "up/down, right/left, forward/back": the first word is positive) unless
``ORIN`` says otherwise: a letter for each stored element, lower case where it is negated. This holds for a camera that is
mounted upright and looks ahead.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Literal, Self

import numpy as np
from numpy.typing import NDArray

from pipeline.formats.gpmf import GpmfError, SensorStream, parse, streams_of
from pipeline.formats.media import MAX_MEDIA_NS, check_whole, loop_period_ns, ns_from_pts, open_media, origin_ns, packets_of
from pipeline.formats.rows import Rows, rows_from_series
from pipeline.sources.base import Packet, SourceError, SourceSpec, StreamInfo, StreamKind, StreamNeeds
from pipeline.sources.telemetry import packets_of_rows, telemetry_info, telemetry_json

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.stream import Stream

__all__ = ["GoproTelemetry", "gopro_specs", "loop_period_ns", "rows_from_gopro"]

DEFAULT_AXES = "ZXY"
MAX_SAMPLES = 20_000_000
MAX_PAYLOAD_NS = 3_600_000_000_000
FLOAT32_MAX = float(np.finfo(np.float32).max)

_SCHEMES: dict[StreamKind, str] = {"camera": "video", "microphone": "audio", "telemetry": "gopro-telemetry"}


def gopro_specs(path: str, needs: dict[str, StreamNeeds], offset_ns: int = 0) -> dict[str, SourceSpec]:
    """The sources of a GoPro file: for camera, microphone and telemetry the scenario's stream of that kind, where it has one.

    Looping is the caller's choice: `loop_period_ns` gives the period that keeps the three together. Raises nothing: a track
    that the file lacks is found, with the fix, when its source is entered.
    """
    specs: dict[str, SourceSpec] = {}
    for kind, scheme in _SCHEMES.items():
        names = [name for name, need in needs.items() if need.kind == kind]
        if names:
            name = kind if kind in names else names[0]
            specs[name] = SourceSpec(needs=needs[name], scheme=scheme, target=path, offset_ns=offset_ns)
    return specs


# From the track to series ----------------------------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class _Payload:
    """One payload's place on the recording's axis (ns) and its sensor streams."""

    start_ns: int
    duration_ns: int
    streams: dict[str, SensorStream]


Values = NDArray[np.float64]


def _element(index: int) -> Callable[[SensorStream], Values]:
    return lambda stream: stream.values[:, index]


def _gps_speed(stream: SensorStream) -> Values:
    return np.full(len(stream.values), np.nan) if stream.fix == 0 else stream.values[:, 3]


def _horizontal_speed(stream: SensorStream) -> Values:
    return np.asarray(np.hypot(stream.values[:, 5], stream.values[:, 6]))


def _axis(letter: str, sign: float) -> Callable[[SensorStream], Values]:
    def read(stream: SensorStream) -> Values:
        order = stream.axes[0] if sorted(stream.axes[0].upper()) == ["X", "Y", "Z"] else DEFAULT_AXES
        index = order.upper().index(letter)
        return stream.values[:, index] * (sign if order[index].isupper() else -sign)

    return read


@dataclass(frozen=True, slots=True, kw_only=True)
class _Feed:
    """Where a channel may come from: the GPMF key, how many elements it must have, and how to read it."""

    key: str
    elements: int
    read: Callable[[SensorStream], Values]


_FEEDS: dict[tuple[str, str], tuple[_Feed, ...]] = {
    ("speed_mps", "m/s"): (
        _Feed(key="GPS5", elements=5, read=_gps_speed),
        _Feed(key="GPS9", elements=9, read=_gps_speed),
        _Feed(key="VFRH", elements=2, read=_element(1)),
        _Feed(key="GLPI", elements=7, read=_horizontal_speed),
    ),
    ("accel_forward_mps2", "m/s2"): (_Feed(key="ACCL", elements=3, read=_axis("Y", 1.0)),),
    ("accel_left_mps2", "m/s2"): (_Feed(key="ACCL", elements=3, read=_axis("X", -1.0)),),
    ("accel_up_mps2", "m/s2"): (_Feed(key="ACCL", elements=3, read=_axis("Z", 1.0)),),
    ("yaw_rate_radps", "rad/s"): (_Feed(key="GYRO", elements=3, read=_axis("Z", 1.0)),),
}


def rows_from_gopro(path: str, needs: StreamNeeds) -> Rows:
    """The scenario's channels from a file's GPMF track, on the recording's axis (0 is the first video frame).

    A payload's samples are spread evenly over its time in the MP4. Each measurement makes a row, or joins one of that instant.
    Raises SourceError when there is no track, a payload is broken, or a required channel is missing.
    """
    payloads = _payloads(path, needs.stream)
    series: dict[str, tuple[NDArray[np.int64], Values]] = {}
    for channel in needs.channels:
        for feed in _FEEDS.get((channel.name, channel.unit), ()):
            found = _series(payloads, feed)
            if len(found[0]):
                series[channel.name] = found
                break
    missing = [channel for channel in needs.channels if channel.required and channel.name not in series]
    if missing or not series:
        wanted = ", ".join(f"{channel.name} [{channel.unit}]" for channel in missing or needs.channels)
        has = ", ".join(sorted({key for payload in payloads for key in payload.streams}))
        raise SourceError(
            f"{needs.stream}: {path!r} has no {wanted}; its GPMF track has {has or 'nothing'} (GPS counts only with a fix); "
            f"give another {needs.stream}=FILE or {needs.stream}=none"
        )
    return rows_from_series(series, [channel.name for channel in needs.channels])


def _payloads(path: str, stream: str) -> list[_Payload]:
    start_ns = origin_ns(path, stream) or 0
    payloads: list[_Payload] = []
    samples = 0
    with open_media(path, stream) as container:
        track = _gpmf_track(container, path, stream)
        check_whole(container, track, path, stream)
        for number, packet in enumerate(packets_of(container, track, path, stream)):
            if packet.pts is None or packet.time_base is None or not packet.duration or packet.duration < 0:
                raise SourceError(f"{stream}: {path!r} GPMF payload {number} has no time; copy the file from the camera again")
            found: dict[str, SensorStream] = {}
            try:
                for sensor in streams_of(parse(bytes(packet))):
                    found.setdefault(sensor.key, sensor)
                    samples += len(sensor.values)
            except GpmfError as error:
                raise SourceError(
                    f"{stream}: {path!r} GPMF payload {number} is broken at {error}; copy the file from the camera again, "
                    f"or leave it out with {stream}=none"
                ) from error
            if samples > MAX_SAMPLES:
                raise SourceError(f"{stream}: {path!r} has more than {MAX_SAMPLES} GPMF samples; cut the recording")
            begin_ns = ns_from_pts(packet.pts, packet.time_base)
            end_ns = ns_from_pts(packet.pts + packet.duration, packet.time_base)
            if abs(begin_ns - start_ns) > MAX_MEDIA_NS or end_ns - begin_ns > MAX_PAYLOAD_NS:
                raise SourceError(f"{stream}: {path!r} GPMF payload {number} lies at an impossible time; copy the file again")
            payloads.append(_Payload(start_ns=begin_ns - start_ns, duration_ns=end_ns - begin_ns, streams=found))
    return payloads


def _gpmf_track(container: InputContainer, path: str, stream: str) -> Stream:
    for track in container.streams.data:
        if "GoPro MET" in track.metadata.get("handler_name", ""):
            return track
    raise SourceError(f"{stream}: {path!r} has no GPMF track (handler GoPro MET); use {stream}=none or another {stream} source")


def _series(payloads: list[_Payload], feed: _Feed) -> tuple[NDArray[np.int64], Values]:
    """Times and finite values of one feed over all payloads; what lies before the first video frame is left out."""
    times: list[NDArray[np.int64]] = [np.zeros(0, dtype=np.int64)]
    values: list[Values] = [np.zeros(0)]
    usual_ns = 0  # a payload's length for as many samples as it has, at the rate of the one before
    for index, payload in enumerate(payloads):
        sensor = payload.streams.get(feed.key)
        if sensor is None or sensor.values.shape[1] < feed.elements:
            continue
        rows = len(sensor.values)
        span_ns = payload.duration_ns
        if index == len(payloads) - 1 and usual_ns:  # the last payload's duration may be that of a full one
            span_ns = min(span_ns, usual_ns * rows)
        usual_ns = span_ns // rows
        times.append(payload.start_ns + span_ns * np.arange(rows, dtype=np.int64) // rows)
        values.append(feed.read(sensor))
    all_times, all_values = np.concatenate(times), np.concatenate(values)
    with np.errstate(invalid="ignore"):
        keep = (np.abs(all_values) <= FLOAT32_MAX) & (all_times >= 0)
    order = np.argsort(all_times[keep], kind="stable")
    return all_times[keep][order], all_values[keep][order]


# The source --------------------------------------------------------------------------------------------------------------


class GoproTelemetry:
    """``telemetry=FILE.mp4``: the GPMF track as blocks of rows. Entering reads and checks the whole track."""

    timing: Literal["media", "live"] = "media"

    def __init__(self, spec: SourceSpec) -> None:
        self._path = spec.target
        self._needs = spec.needs
        self._rows = rows_from_series({}, [channel.name for channel in spec.needs.channels])
        self._stopped = threading.Event()
        self.info = self._info(0)

    def _info(self, min_gap_ns: int) -> StreamInfo:
        return telemetry_info(self._needs, period_ns=self._needs.block_ns, min_gap_ns=min_gap_ns, origin=self._path)

    def __enter__(self) -> Self:
        """Read the track. Raises SourceError."""
        self._rows = rows_from_gopro(self._path, self._needs)
        # Every block that holds rows ends within one row's step of its grid line, or else its neighbour is empty.
        steps_ns = np.diff(self._rows.times_ns)
        widest_ns = int(steps_ns.max()) if len(steps_ns) else 0
        self.info = self._info(max(self._needs.block_ns - widest_ns, 0))
        self._stopped.clear()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stopped.set()

    def packets(self) -> Iterator[Packet | None]:
        """All blocks; the last takes the remainder of the rows, so that it is not closer to its neighbour than others are."""
        block_ns, rows = self._needs.block_ns, self._rows
        last_ns = int(rows.times_ns[-1])
        split_ns = (last_ns + 1) // block_ns * block_ns
        if last_ns + 1 != split_ns:
            split_ns -= block_ns
        split = int(np.searchsorted(rows.times_ns, split_ns)) if last_ns >= block_ns else 0
        yield from self._cut(_part(rows, 0, split))
        if self._stopped.is_set():
            return
        rest = _part(rows, split, len(rows.times_ns))
        yield Packet(
            capture_ns=last_ns,
            arrival_ns=last_ns,
            span_ns=last_ns - int(rest.times_ns[0]),
            chunks=(telemetry_json(rest.times_ns, rest.values, rest.valid),),
        )

    def looped_packets(self, period_ns: int) -> Iterator[Packet | None]:
        """The same without end, each pass cut at ``period_ns``, with one grid of blocks through all."""
        block_ns = self._needs.block_ns
        turn_rows = _part(self._rows, 0, int(np.searchsorted(self._rows.times_ns, period_ns)))
        if len(turn_rows.times_ns) == 0:
            return
        held = _part(turn_rows, 0, 0)
        for turn in count():
            moved = turn_rows.times_ns + turn * period_ns
            if len(held.times_ns) and held.times_ns[-1] // block_ns != moved[0] // block_ns:
                # The track ends before the period; its unfinished block would be too close to the one before.
                held = _part(held, 0, 0)
            rows = Rows(
                times_ns=np.concatenate([held.times_ns, moved]),
                values=np.concatenate([held.values, turn_rows.values]),
                valid=np.concatenate([held.valid, turn_rows.valid]),
            )
            full_ns = (turn + 1) * period_ns // block_ns * block_ns
            split = int(np.searchsorted(rows.times_ns, full_ns))
            yield from self._cut(_part(rows, 0, split))
            if self._stopped.is_set():
                return
            held = _part(rows, split, len(rows.times_ns))

    def _cut(self, rows: Rows) -> Iterator[Packet]:
        for packet in packets_of_rows(rows.times_ns, rows.values, rows.valid, block_ns=self._needs.block_ns):
            if self._stopped.is_set():
                return
            yield packet

    def stop(self) -> None:
        """End before the next packet."""
        self._stopped.set()


def _part(rows: Rows, first: int, stop: int) -> Rows:
    return Rows(times_ns=rows.times_ns[first:stop], values=rows.values[first:stop], valid=rows.valid[first:stop])
