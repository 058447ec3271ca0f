"""Makes the job of `benchmarks.peers` from the shipped drive: as a folder of plain samples, and as a log of the same samples."""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from actors.plan import load_manifests, role_of, window_spec
from benchmarks.made_logs import DEMO_LOG, ORIGIN_NS
from benchmarks.peers.job import INDEX, job_plan, packed_telemetry
from pipeline.clock import SystemClock
from pipeline.formats.decode import decoder_for
from pipeline.logs.reader import LogReader
from pipeline.logs.writer import LogWriter
from pipeline.messages import FOREVER_NS, Announcement, AnnouncementKind, Frame, Recording, TelemetryBlock
from pipeline.sources.base import StreamInfo
from pipeline.sources.telemetry import telemetry_json
from pipeline.stages.ingest import SampleReader
from pipeline.windows import WindowGrid

REFERENCE_NS, HURRY_NS = 50_000_000, 5_000_000
"""Chiasm reads a sample only if it was received in time; peers go by when it was due. So that a late timer does not make the two
differ, lines come at least so long after one reference time and long before the next, and sound and telemetry at most so late.
"""
LONGEST_S = 32
"""Then the shipped drive's camera falls silent, and what a runtime does about that is another matter."""


def make_job(folder: Path, seconds: float, rate: float = 1.0) -> Path:
    """The first seconds of the shipped drive, played ``rate`` times as fast, without what decoding would cost.

    Frames are raw RGB. At a rate above 1 all stamps lie closer: frames, rows and blocks come more often, windows and hops keep
    their length. Returns the folder. Raises ValueError past `LONGEST_S`.
    """
    if seconds * rate > LONGEST_S:
        raise ValueError(f"{seconds} s at {rate} times the speed: the shipped drive's camera is whole for {LONGEST_S} s only")
    folder.mkdir(parents=True)
    log = LogReader(DEMO_LOG)
    infos = {s: _raw(info, rate) for s, info in log.streams.items()}
    lanes = {s: list(_lane(log, s, seconds, rate)) for s in infos}
    _write_log(folder / "job.mcap", infos, lanes)
    _write_samples(folder, infos, lanes)
    return folder


def _raw(info: StreamInfo, rate: float) -> StreamInfo:
    encoding = replace(info.encoding, codec="rgb8", extradata=b"") if info.kind == "camera" else info.encoding
    periods = {"period_ns": round(info.period_ns / rate), "min_gap_ns": round(info.min_gap_ns / rate)}
    return replace(info, encoding=encoding, **periods)


def _lane(log: LogReader, stream: str, seconds: float, rate: float) -> Iterator[tuple[Recording, Any]]:
    """Each sample as a recording with raw chunks, and as decoded."""
    info = log.streams[stream]
    reader = SampleReader(info, decoder_for(info), SystemClock())
    received_ns = 0
    for recording in log.recordings(stream):
        announcement, header = recording.announcement, recording.announcement.header
        if announcement.kind is not AnnouncementKind.SAMPLE:
            continue
        sample = reader.read(header, recording.chunks)
        capture_ns = round((header.capture_ns - log.origin_ns) / rate)
        if capture_ns > seconds * 1e9:
            return
        delay_ns = header.receive_ns - header.capture_ns
        if stream == "text":
            capture_ns += -capture_ns % REFERENCE_NS + HURRY_NS
        elif stream != "camera":
            delay_ns = min(delay_ns, HURRY_NS)
        received_ns = max(received_ns + 1, capture_ns + round(delay_ns / rate))
        moved = msgspec.structs.replace(
            header,
            capture_ns=ORIGIN_NS + capture_ns,
            receive_ns=ORIGIN_NS + received_ns,
            span_ns=round(header.span_ns / rate),
        )
        chunks = recording.chunks
        if isinstance(sample, Frame):
            chunks = (sample.image_hwc.tobytes(),)
        elif isinstance(sample, TelemetryBlock):
            times_ns = capture_ns - np.rint((header.capture_ns - sample.times_ns) / rate).astype(np.int64)
            sample = msgspec.structs.replace(sample, header=header, times_ns=times_ns)
            chunks = (telemetry_json(times_ns, sample.values, sample.valid),)
        yield Recording(announcement=Announcement(header=moved), chunks=chunks), sample


def _received_ns(item: tuple[Recording, Any]) -> int:
    return item[0].announcement.header.receive_ns


def _write_log(path: Path, infos: dict[str, StreamInfo], lanes: dict[str, list[tuple[Recording, Any]]]) -> None:
    metadata = {"creator": "benchmarks", "simulated": "true"}
    with LogWriter(
        path,
        scenario="driving",
        origin_ns=ORIGIN_NS,
        streams=list(infos.values()),
        metadata=metadata,
        atomic=True,
        compressed=False,  # as the peers' samples lie in their file
    ) as writer:
        last = {}
        for recording, _ in heapq.merge(*lanes.values(), key=_received_ns):
            writer.announcement(recording)
            last[recording.announcement.header.stream] = recording.announcement.header
        end_ns = max(header.receive_ns for header in last.values()) + 1
        for header in last.values():
            over = msgspec.structs.replace(header, seq=header.seq + 1, receive_ns=end_ns)
            writer.announcement(Recording(announcement=Announcement(header=over, kind=AnnouncementKind.END)))
        writer.finish({"clean": "true", "last_reference_ns": str(FOREVER_NS)})


def _write_samples(folder: Path, infos: dict[str, StreamInfo], lanes: dict[str, list[tuple[Recording, Any]]]) -> None:
    plan, streams = job_plan(), list(infos)
    rows, offset, end_ns = [], 0, 0
    with open(folder / "samples.bin", "wb") as payloads:
        for recording, sample in heapq.merge(*lanes.values(), key=_received_ns):
            header = recording.announcement.header
            payload, place = _payload(sample), streams.index(header.stream)
            capture_ns, due_ns = header.capture_ns - ORIGIN_NS, header.receive_ns - ORIGIN_NS
            rows.append((place, header.seq, capture_ns, header.span_ns, due_ns, offset, len(payload)))
            end_ns = max(end_ns, due_ns)
            offset += payloads.write(payload) + payloads.write(bytes(-len(payload) % 8))
    np.save(folder / "index.npy", np.array(rows, INDEX))
    manifests = load_manifests(plan.scenario, plan.folder)
    about = {
        "streams": streams,
        "frame_hw": [infos["camera"].encoding.height, infos["camera"].encoding.width],
        "channels": len(infos["telemetry"].encoding.channels),
        "end_ns": end_ns,
        "alive_from_ns": plan.scenario.streams["text"].heartbeat_ms * 1_000_000,
        "owed": {
            s: [
                (end - ORIGIN_NS, r.announcement.header.capture_ns - ORIGIN_NS, r.announcement.header.receive_ns - ORIGIN_NS)
                for grid in (WindowGrid(window_spec(manifests[role_of(s)][1]), ORIGIN_NS),)
                for r, _ in lanes[s]
                for end in grid.push(r.announcement.header)
            ]
            for s in streams
        },
    }
    (folder / "job.json").write_text(json.dumps(about), encoding="utf-8")


def _payload(sample: Any) -> bytes:
    """A decoded sample as the bytes that contenders pass on."""
    if sample.header.stream == "camera":
        return bytes(sample.image_hwc.tobytes())
    if sample.header.stream == "microphone":
        return bytes(sample.pcm.tobytes())
    if sample.header.stream == "text":
        return bytes(sample.text.encode())
    return packed_telemetry(sample.times_ns, sample.values, sample.valid)
