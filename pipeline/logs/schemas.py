"""What a log's channels are called, and the JSON on them: stream descriptions, announcements and their schemas.

How samples themselves lie in a log is in `payloads`; a decision's JSON is `pipeline.decision_json`'s.
"""

from __future__ import annotations

import base64
import json
from dataclasses import asdict
from typing import Any

import msgspec

from pipeline.messages import Announcement, AnnouncementKind, Header
from pipeline.sources.base import Encoding, StreamInfo

FORMAT_VERSION = "1"
START_RECORD = "chiasm.log"
END_RECORD = "chiasm.end"

STREAMS_TOPIC = "/streams"
ANNOUNCEMENTS_TOPIC = "/announcements"
DECISIONS_TOPIC = "/decisions"
TRUTH_TOPIC = "/truth"
SNAPSHOTS_TOPIC = "/snapshots"


def _schema(title: str, **properties: str) -> bytes:
    fields = {name: {"type": kind} for name, kind in properties.items()}
    return json.dumps({"title": title, "type": "object", "properties": fields}).encode()


JSON_SCHEMAS: dict[str, bytes] = {
    "chiasm.StreamInfo": _schema(
        "chiasm.StreamInfo", stream="string", kind="string", encoding="object", period_ns="integer",
        min_gap_ns="integer", simulated="boolean", origin="string", calibration="object",
        clock_uncertainty_ns="integer", labels="object",
    ),
    "chiasm.Announcement": _schema(
        "chiasm.Announcement", kind="integer", stream="string", epoch="integer", seq="integer", capture_ns="integer",
        receive_ns="integer", span_ns="integer", chunks="integer", publish_ns="integer", watermark_ns="integer",
    ),
    "chiasm.TelemetryBlock": _schema("chiasm.TelemetryBlock", offsets_ns="array", values="array"),
    "chiasm.Decision": _schema(
        "chiasm.Decision", seq="integer", reference_ns="integer", publish_ns="integer", latency_ns="integer",
        deadline_ns="integer", status="string", action="string", outputs="object", labels="object", state="string",
        receipt="object", sink_ns="integer",
    ),
    "chiasm.Truth": _schema("chiasm.Truth", time_ns="integer"),
    "chiasm.Snapshot": _schema("chiasm.Snapshot", time_ns="integer", state="string"),
}  # fmt: skip


def topic_of(stream: str) -> str:
    """The data topic of a stream: ``camera.left`` is ``/camera.left``."""
    return f"/{stream}"


def stream_info_to_json(info: StreamInfo) -> bytes:
    """A stream's description; `extradata` in base64."""
    data = asdict(info)
    data["encoding"]["extradata"] = base64.b64encode(info.encoding.extradata).decode()
    if not info.labels:  # most have none, and older readers do not know the field
        del data["labels"]
    return json.dumps(data, separators=(",", ":")).encode()


def stream_info_from_json(data: bytes) -> StreamInfo:
    """Read back what `stream_info_to_json` wrote. Raises ValueError naming the field when it is something else."""
    try:
        fields = json.loads(data)
        encoding = fields.pop("encoding")
        encoding["extradata"] = base64.b64decode(encoding["extradata"], validate=True)
        encoding["channels"] = tuple(encoding["channels"])
        encoding["units"] = tuple(encoding["units"])
        info = StreamInfo(**fields, encoding=Encoding(**encoding))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a stream's description: {error}") from error
    _check_types(info, StreamInfo, ("stream", "kind", "origin"), ("period_ns", "min_gap_ns", "clock_uncertainty_ns"))
    _check_types(info.encoding, Encoding, ("codec",), ("width", "height", "sample_rate_hz"))
    if not info.stream or info.kind not in ("camera", "microphone", "telemetry", "text"):
        raise ValueError(f"stream {info.stream[:40]!r} of kind {info.kind[:40]!r}")
    if not isinstance(info.labels, dict) or not all(isinstance(text, str) for text in info.labels.values()):
        raise ValueError("labels must be texts by name")
    if not all(isinstance(name, str) for name in info.encoding.channels + info.encoding.units):
        raise ValueError("channels and units must be texts")
    return info


def _check_types(value: object, kind: type, texts: tuple[str, ...], integers: tuple[str, ...]) -> None:
    for name in texts:
        if not isinstance(getattr(value, name), str):
            raise ValueError(f"{kind.__name__}.{name} is not text")
    for name in integers:
        number = getattr(value, name)
        if type(number) is not int or not 0 <= number < 2**63:
            raise ValueError(f"{kind.__name__}.{name} is not a count")


def announcement_to_json(announcement: Announcement, chunks: int) -> bytes:
    """An announcement and how many of the messages before it on its stream's channel are its chunks."""
    header = announcement.header
    data: dict[str, Any] = {
        "kind": int(announcement.kind),
        "stream": header.stream,
        "epoch": header.epoch,
        "seq": header.seq,
        "capture_ns": header.capture_ns,
        "receive_ns": header.receive_ns,
        "span_ns": header.span_ns,
        "chunks": chunks,
    }
    # Both are zero in most logs, and a log holds thousands of these.
    if header.publish_ns:
        data["publish_ns"] = header.publish_ns
    if announcement.watermark_ns:
        data["watermark_ns"] = announcement.watermark_ns
    return json.dumps(data, separators=(",", ":")).encode()


def announcement_from_json(data: bytes | memoryview) -> tuple[Announcement, int]:
    """The announcement and its number of chunks. Raises ValueError when the text is not one."""
    try:
        logged = _read_announcement(data)
    except msgspec.DecodeError as error:
        raise ValueError(f"not an announcement: {error}") from error
    fields = {name: getattr(logged, name) for name in Header.__struct_fields__}
    numbers = [value for name, value in fields.items() if name != "stream"]
    if any(abs(n) >= 2**63 for n in (*numbers, logged.watermark_ns, logged.chunks)) or logged.chunks < 0:
        raise ValueError("its times and counts must be 64-bit integers")
    return Announcement(header=Header(**fields), kind=logged.kind, watermark_ns=logged.watermark_ns), logged.chunks


class _LoggedAnnouncement(Header, frozen=True, kw_only=True, forbid_unknown_fields=True):
    kind: AnnouncementKind
    watermark_ns: int = 0
    chunks: int


_read_announcement = msgspec.json.Decoder(_LoggedAnnouncement).decode


def log_time(time_ns: int) -> int:
    """A time as MCAP can hold it: not below zero. (The exact one is in the message.)"""
    return min(max(time_ns, 0), 2**63 - 1)
