"""From a spec to a source: picks the class by scheme, and wraps it for loop and offset."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Literal, Self, cast

from pipeline.sources.base import Packet, Source, SourceError, SourceSpec, StreamInfo

_CLASSES: dict[str, tuple[str, str]] = {
    "video": ("pipeline.sources.camera", "VideoFile"),
    "images": ("pipeline.sources.camera", "ImageFolder"),
    "audio": ("pipeline.sources.microphone", "AudioFile"),
    "gopro-telemetry": ("pipeline.sources.gopro", "GoproTelemetry"),
    "csv": ("pipeline.sources.telemetry", "TelemetryFile"),
    "comma2k19-telemetry": ("pipeline.sources.telemetry", "Comma2k19Telemetry"),
    "donkeycar-camera": ("pipeline.sources.donkeycar", "DonkeycarCamera"),
    "donkeycar-telemetry": ("pipeline.sources.telemetry", "DonkeycarTelemetry"),
    "wfdb-telemetry": ("pipeline.sources.wfdb", "WfdbTelemetry"),
    "wfdb-text": ("pipeline.sources.wfdb", "WfdbText"),
    "text": ("pipeline.sources.text", "TextFile"),
    "udp-telemetry": ("pipeline.sources.network", "UdpTelemetry"),
    "udp-text": ("pipeline.sources.network", "UdpText"),
    "camera-device": ("pipeline.sources.devices", "CameraDevice"),
    "microphone-device": ("pipeline.sources.devices", "MicrophoneDevice"),
    "log": ("pipeline.sources.log", "LogSource"),
}
"""Where each scheme's class is; imported when used, so that a scheme's libraries are needed only by its users."""


def duration_of(spec: SourceSpec) -> int:
    """How long a recording plays, in ns: from its beginning to one period past its last sample. Raises SourceError."""
    if spec.scheme == "audio":
        return _sound_duration_ns(spec)
    if spec.scheme in ("video", "gopro-telemetry"):
        from pipeline.formats.media import loop_period_ns

        return loop_period_ns(spec.target, spec.needs.stream)
    from pipeline.sources.telemetry import RecordedTelemetry

    with build_source(spec) as source:
        if isinstance(source, RecordedTelemetry):
            return source.duration_ns
        last_ns = -1
        for packet in source.packets():
            if packet is not None:
                last_ns = max(last_ns, packet.capture_ns)
        return last_ns + max(source.info.period_ns, 1)


def _sound_duration_ns(spec: SourceSpec) -> int:
    """A film's sound loops with its frames, other sound as long as its container says."""
    from pipeline.formats.media import loop_period_ns, open_media

    with open_media(spec.target, spec.needs.stream) as container:
        duration_us = container.duration or 0
        has_frames = any(video.frames > 1 for video in container.streams.video)  # a cover picture is one frame
    if has_frames:
        return loop_period_ns(spec.target, spec.needs.stream)
    if duration_us <= 0:
        raise SourceError(
            f"{spec.needs.stream}: {spec.target!r} does not say how long it is, so it cannot loop; leave out loop=true"
        )
    return int(duration_us) * 1000


def build_source(spec: SourceSpec) -> Source:
    """The source of ``spec.scheme``, not entered, without offset and loop. Raises SourceError for an unknown scheme."""
    plain = replace(spec, offset_ns=0, loop_period_ns=0)
    if spec.scheme not in _CLASSES:
        raise SourceError(f"{spec.needs.stream}: no source is called {spec.scheme!r}; there are {', '.join(_CLASSES)}")
    module, name = _CLASSES[spec.scheme]
    return cast(Source, getattr(importlib.import_module(module), name)(plain))


def open_source(spec: SourceSpec) -> Source:
    """The source that ``spec`` names, not yet entered: looped if the spec says so, then moved by its offset."""
    source = build_source(spec)
    if spec.loop_period_ns > 0:
        from pipeline.sources.looped import Looped

        source = Looped(source, spec.loop_period_ns)
    return MovedSource(source, spec.offset_ns) if spec.offset_ns else source


class MovedSource:
    """A source whose capture times are moved by ``offset_ns``; a recording's arrivals move along, a live source's do
    not.
    """

    def __init__(self, source: Source, offset_ns: int) -> None:
        self._source = source
        self._offset_ns = offset_ns
        self.timing: Literal["media", "live"] = source.timing
        self.info: StreamInfo = source.info

    def __enter__(self) -> Self:
        self._source.__enter__()
        self.info = self._source.info
        return self

    def __exit__(self, *exc: object) -> None:
        self._source.__exit__(*exc)

    def packets(self) -> Iterator[Packet | None]:
        """The source's packets, moved."""
        arrival_ns = 0 if self.timing == "live" else self._offset_ns
        for packet in self._source.packets():
            yield packet and replace(
                packet, capture_ns=packet.capture_ns + self._offset_ns, arrival_ns=packet.arrival_ns + arrival_ns
            )

    def stop(self) -> None:
        """Pass it on."""
        self._source.stop()
