"""Tables from a log, as Parquet: decisions, latency, and a table of rows for each telemetry stream.

Times are int64 ns on the log's monotonic clock; a file's metadata holds ``origin_ns`` and ``clock_offset_ns`` to turn them
into seconds of the run or wall time.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.logs.reader import LogReader
from pipeline.logs.records import LogError
from pipeline.messages import Decision, Recording, Spans
from pipeline.sources.base import StreamInfo

BATCH_ROWS = 4096

ADMITTED = pa.struct(
    [
        ("stream", pa.string()),
        ("availability", pa.string()),
        ("seq", pa.int64()),
        ("epoch", pa.int64()),
        ("window_end_ns", pa.int64()),
        ("age_ns", pa.int64()),
        ("overrun", pa.bool_()),
    ]
)

DECISIONS = pa.schema(
    [
        ("seq", pa.int64()),
        ("reference_ns", pa.int64()),
        ("publish_ns", pa.int64()),
        ("deadline_ns", pa.int64()),
        ("status", pa.string()),
        ("action", pa.string()),
        ("outputs", pa.map_(pa.string(), pa.list_(pa.float32()))),
        ("labels", pa.map_(pa.string(), pa.string())),
        ("state", pa.string()),
        ("overrun", pa.bool_()),
        ("synthetic", pa.bool_()),
        ("admitted", pa.list_(ADMITTED)),
        ("config_sha256", pa.string()),
        ("state_sha256", pa.string()),
    ]
)

LATENCY = pa.schema(
    [
        ("seq", pa.int64()),
        ("reference_ns", pa.int64()),
        ("status", pa.string()),
        ("latency_ns", pa.int64()),
        ("critical_stream", pa.string()),
        *((name, pa.int64()) for name in Spans.__struct_fields__ if name != "critical_stream"),
    ]
)
"""One row a decision that has a receipt; the spans are those of `Spans`."""


def telemetry_schema(info: StreamInfo) -> pa.Schema:
    """``time_ns``, ``capture_ns`` and ``seq`` of the block, and a float32 column for each channel (null where invalid)."""
    units = dict(zip(info.encoding.channels, info.encoding.units, strict=False))
    columns = [pa.field(name, pa.float32(), metadata={"unit": units.get(name, "")}) for name in info.encoding.channels]
    fixed = [pa.field(name, pa.int64()) for name in ("time_ns", "capture_ns", "seq")]
    return pa.schema(fixed + columns)


def export_tables(log: str | Path, folder: str | Path) -> dict[str, Path]:
    """Write ``decisions.parquet``, ``latency.parquet`` and a ``STREAM.parquet`` for each telemetry stream into `folder`.

    The folder is made when missing; each file appears whole or not at all. Returns table name to path.
    Raises `LogError` when the log is broken or a file cannot be written. A cut log gives what is before the cut.
    """
    reader, folder = LogReader(log), Path(folder)
    written = {
        "decisions": _write(reader, folder, "decisions", DECISIONS, map(_decision_row, reader.decisions())),
        "latency": _write(reader, folder, "latency", LATENCY, _latency_rows(reader.decisions())),
    }
    for info in reader.streams.values():
        if info.encoding.codec == "telemetry-json":
            rows = _telemetry_rows(reader, info)
            written[info.stream] = _write(reader, folder, info.stream, telemetry_schema(info), rows)
    return written


def _decision_row(decision: Decision) -> dict[str, Any]:
    receipt = decision.receipt
    admitted = receipt.admitted if receipt else ()
    return {
        "seq": decision.seq,
        "reference_ns": decision.reference_ns,
        "publish_ns": decision.publish_ns,
        "deadline_ns": decision.deadline_ns,
        "status": decision.status,
        "action": decision.action,
        "outputs": [(head, values.tolist()) for head, values in decision.outputs.items()],
        "labels": list(decision.labels.items()),
        "state": decision.state,
        "overrun": receipt.overrun if receipt else None,
        "synthetic": receipt.synthetic if receipt else None,
        "admitted": [
            {name: getattr(a, name) for name in ADMITTED.names} | {"availability": a.availability.name.lower()} for a in admitted
        ],
        "config_sha256": receipt.config_sha256 if receipt else None,
        "state_sha256": receipt.state_sha256 if receipt else None,
    }


def _latency_rows(decisions: Iterable[Decision]) -> Iterator[dict[str, Any]]:
    for decision in decisions:
        if decision.receipt is None:
            continue
        spans = decision.receipt.spans
        yield {
            "seq": decision.seq,
            "reference_ns": decision.reference_ns,
            "status": decision.status,
            "latency_ns": decision.latency_ns,
            **{name: getattr(spans, name) for name in Spans.__struct_fields__},
        }


def _telemetry_rows(reader: LogReader, info: StreamInfo) -> Iterator[dict[str, Any]]:
    for recording in reader.recordings(info.stream):
        seq = recording.announcement.header.seq
        try:
            yield from _block_rows(recording, info)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise LogError(
                f"{reader.path}: {info.stream}: sample {seq} is not a telemetry block ({error}); replay another copy"
            ) from error


def _block_rows(recording: Recording, info: StreamInfo) -> Iterator[dict[str, Any]]:
    header = recording.announcement.header
    for chunk in recording.chunks:
        block = json.loads(chunk)
        for offset_ns, row in zip(block["offsets_ns"], block["values"], strict=True):
            times = {"time_ns": header.capture_ns + offset_ns, "capture_ns": header.capture_ns, "seq": header.seq}
            yield times | dict(zip(info.encoding.channels, row, strict=True))


def _write(reader: LogReader, folder: Path, name: str, schema: pa.Schema, rows: Iterator[dict[str, Any]]) -> Path:
    path = folder / f"{name}.parquet"
    unfinished = folder / f".{name}.parquet.{os.getpid()}.tmp"
    notes = {"log": reader.path.name, "scenario": reader.scenario, "origin_ns": str(reader.origin_ns)}
    notes["clock_offset_ns"] = str(reader.clock_offset_ns)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with pq.ParquetWriter(unfinished, schema.with_metadata(notes), compression="zstd") as writer:
            for batch in _batches(rows):
                writer.write_batch(pa.RecordBatch.from_pylist(batch, schema=schema.with_metadata(notes)))
        os.replace(unfinished, path)
    except OSError as error:
        raise LogError(f"{path}: cannot write the table: {error.strerror or error}; choose another folder") from error
    except (pa.ArrowException, OverflowError) as error:
        raise LogError(f"{reader.path}: {name} does not fit its table: {error}; the log is broken") from error
    finally:
        unfinished.unlink(missing_ok=True)
    return path


def _batches(rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    batch: list[dict[str, Any]] = []
    for row in rows:
        batch.append(row)
        if len(batch) == BATCH_ROWS:
            yield batch
            batch = []
    if batch:
        yield batch
