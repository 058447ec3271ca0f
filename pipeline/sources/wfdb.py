"""WFDB records as streams: the waveforms as telemetry, the alarm that a record was cut around as the monitor's text.

Records of the PhysioNet/CinC challenge of 2015 name their alarm in the header's comments, and whether it was true
(``#Asystole``, ``#False alarm``); it sounded 5:00 after their start. The text stream says what the bedside monitor said,
``monitor: ALARM asystole``, then and every 3 s after. Whether it was true is what is to be found out: that is a label, which
the log keeps and no stream carries.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from pipeline.formats.rows import Rows
from pipeline.formats.wfdb import MappedRecord, read_record
from pipeline.formats.wfdb_header import RecordHeader, header_path, read_header
from pipeline.sources.base import Packet, SourceError, SourceSpec, StreamNeeds
from pipeline.sources.telemetry import RecordedTelemetry
from pipeline.sources.text import RecordedText

ALARM_NS = 300_000_000_000
"""When the alarm sounds in a record of the challenge of 2015: the short ones end there, the long ones go on for 30 s."""
REPEAT_NS = 3_000_000_000
_SHORT_BY_NS = 1_000_000_000

_ALARMS = {
    "asystole": "asystole",
    "bradycardia": "bradycardia",
    "tachycardia": "tachycardia",
    "ventricular flutter fib": "ventricular flutter",
    "ventricular flutter": "ventricular flutter",
    "ventricular tachycardia": "ventricular tachycardia",
}
"""A header's comment to what the monitor says."""
_TRUTHS = {"true alarm": "true", "false alarm": "false"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """What a record says of its alarm. ``is_true``: ``true``, ``false``, or empty where the header keeps it to itself."""

    kind: str
    is_true: str
    start_ns: int


def alarm_of(header: RecordHeader) -> Alarm | None:
    """The alarm that the record was cut around; None where its comments name none, or it ends before one could sound."""
    comments = [" ".join(text.lower().replace("_", " ").split()) for text in header.comments]
    kind = next((_ALARMS[text] for text in comments if text in _ALARMS), None)
    if kind is None or header.last_frame_ns < ALARM_NS - _SHORT_BY_NS:
        return None
    is_true = next((_TRUTHS[text] for text in comments if text in _TRUTHS), "")
    # A short record's last sample is one period before its alarm: say it with that sample, or nothing would come after it.
    return Alarm(kind=kind, is_true=is_true, start_ns=min(ALARM_NS, header.last_frame_ns))


def wfdb_specs(record: str, needs: Mapping[str, StreamNeeds]) -> tuple[dict[str, SourceSpec], list[str]]:
    """The streams that the record feeds, telemetry and, where it has an alarm, text; and what the user must know.

    Raises SourceError as reading the record does.
    """
    from pipeline.sources.assign import stream_of_kind

    path = header_path(record)
    header = read_header(path)
    specs: dict[str, SourceSpec] = {}
    notices: list[str] = []
    telemetry = stream_of_kind(needs, "telemetry")
    if telemetry is not None:
        specs[telemetry] = SourceSpec(needs=needs[telemetry], scheme="wfdb-telemetry", target=str(path))
        notices.append(_about_signals(telemetry, read_record(path, needs[telemetry].channels)))
    text, alarm = stream_of_kind(needs, "text"), alarm_of(header)
    if text is not None and alarm is not None:
        specs[text] = SourceSpec(needs=needs[text], scheme="wfdb-text", target=str(path))
        truth = f"that it was {alarm.is_true} is the log's label, which no network reads" if alarm.is_true else "not said if true"
        notices.append(f"{text}: the alarm of {header.name}, {alarm.kind}, from {alarm.start_ns / 1e9:g} s on; {truth}")
    return specs, notices


class WfdbTelemetry(RecordedTelemetry):
    """``telemetry=wfdb:RECORD``; see `pipeline.formats.wfdb` for which signals become which channels."""

    def __init__(self, spec: SourceSpec) -> None:
        self._path = Path(spec.target)
        self._channels = spec.needs.channels
        self._mapped: MappedRecord | None = None
        super().__init__(spec, self._read_rows)

    def _read_rows(self) -> Rows:
        self._mapped = read_record(self._path, self._channels)
        return self._mapped.rows

    def __enter__(self) -> Self:
        """Read the record. Raises SourceError, naming file, field and fix."""
        super().__enter__()
        signals = self._mapped.signals if self._mapped is not None else {}
        self._mapped = None
        self.info = replace(self.info, calibration=dict(signals), labels=_labels_of(read_header(self._path)))
        return self


class WfdbText(RecordedText):
    """``text=wfdb:RECORD``: what the bedside monitor said of the record's alarm."""

    def __init__(self, spec: SourceSpec) -> None:
        self._path = Path(spec.target)
        super().__init__(spec, lambda: _packets_of_alarm(self._path))

    def __enter__(self) -> Self:
        """Read the header. Raises SourceError when it names no alarm."""
        super().__enter__()
        self.info = replace(self.info, labels=_labels_of(read_header(self._path)))
        return self


def _packets_of_alarm(path: Path) -> list[Packet]:
    header = read_header(path)
    alarm = alarm_of(header)
    if alarm is None:
        raise SourceError(f"{path}: its comments name no alarm that sounds at 5:00; leave the text out, or give a file of lines")
    line = f"monitor: ALARM {alarm.kind}".encode()
    times_ns = range(alarm.start_ns, header.last_frame_ns + 1, REPEAT_NS)
    return [Packet(capture_ns=time_ns, arrival_ns=time_ns, chunks=(line,)) for time_ns in times_ns]


def _labels_of(header: RecordHeader) -> dict[str, str]:
    alarm = alarm_of(header)
    if alarm is None:
        return {}
    return {"alarm": alarm.kind, "alarm_ns": str(alarm.start_ns)} | ({"alarm_is_true": alarm.is_true} if alarm.is_true else {})


def _about_signals(stream: str, mapped: MappedRecord) -> str:
    said = ", ".join(f"{channel} from {about}" for channel, about in mapped.signals.items())
    left_out = f"; left out for their unit: {', '.join(mapped.left_out)}" if mapped.left_out else ""
    return f"{stream}: {said}{left_out}"
