"""Decisions' intervals for other tools: a trace that Perfetto and Chrome open, and a Parquet table."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pipeline.latency.analysis import Measured

FUSION, WAITING = "fusion", "waiting"
"""Tracks beside those of the streams."""


def write_trace(found: Sequence[Measured], origin_ns: int, path: Path) -> int:
    """Write the Chrome trace event format (JSON object, "X" events in µs from the run's origin); returns the number of events.

    One track a stream with the way of its tokens, one for what fusion waits for, one for fusion itself.
    """
    streams = sorted({s.stream for one in found for s in one.streams})
    tracks = {name: place for place, name in enumerate((FUSION, WAITING, *streams))}
    events: list[dict[str, Any]] = [
        {"name": "thread_name", "ph": "M", "pid": 1, "tid": track, "args": {"name": name}} for name, track in tracks.items()
    ]
    events.append({"name": "process_name", "ph": "M", "pid": 1, "args": {"name": "chiasm"}})
    for one in found:
        events += (_event(*part, origin_ns, tracks, one) for part in _parts(one))
    path.write_text(json.dumps({"displayTimeUnit": "ms", "traceEvents": events}, separators=(",", ":")) + "\n", encoding="utf-8")
    return len(events)


def write_table(found: Sequence[Measured], path: Path) -> int:
    """Write one row an interval, with its decision's seq, reference_ns, latency_ns and status; returns their number."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [
        {
            "seq": one.decision.seq,
            "reference_ns": one.decision.reference_ns,
            "latency_ns": one.decision.latency_ns,
            "status": one.decision.status,
            "stage": interval.stage,
            "stream": interval.stream,
            "start_ns": interval.start_ns,
            "end_ns": interval.end_ns,
        }
        for one in found
        for interval in one.intervals
    ]
    kinds = {"status": pa.string(), "stage": pa.string(), "stream": pa.string()}
    names = ("seq", "reference_ns", "latency_ns", "status", "stage", "stream", "start_ns", "end_ns")
    pq.write_table(pa.Table.from_pylist(rows, schema=pa.schema([(n, kinds.get(n, pa.int64())) for n in names])), path)
    return len(rows)


def _parts(one: Measured) -> Iterator[tuple[str, str, int, int]]:
    """Track, name, start and end of everything that one decision's stamps tell."""
    for s in one.streams:
        if s.arrived_ns:
            ends = (
                s.capture_ns,
                s.receive_ns,
                s.decode_start_ns,
                s.decoded_ns,
                s.taken_ns,
                s.encode_start_ns,
                s.encoded_ns,
                s.arrived_ns,
            )
            names = ("sensor", "ingest queue", "decode", "sample link", "window", "encode", "token link")
            for name, start, end in zip(names, ends, ends[1:], strict=False):
                yield s.stream, name, start, end
    for interval in one.intervals:
        if interval.stage == "wait":
            yield WAITING, f"wait for {interval.stream or 'the reference stream'}", interval.start_ns, interval.end_ns
        elif interval.stage in ("fusion queue", "fuse", "policy", "sink link"):
            yield FUSION, interval.stage, interval.start_ns, interval.end_ns


def _event(track: str, name: str, start: int, end: int, origin_ns: int, tracks: dict[str, int], one: Measured) -> dict[str, Any]:
    decision = one.decision
    return {
        "name": name, "cat": track, "ph": "X", "pid": 1, "tid": tracks[track],
        "ts": (start - origin_ns) / 1000, "dur": max(0, end - start) / 1000,
        "args": {"decision": decision.seq, "latency_ms": decision.latency_ns / 1e6, "status": decision.status},
    }  # fmt: skip
