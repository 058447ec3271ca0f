"""Recorded telemetry: rows of a file cut into blocks, each a ``telemetry-json`` packet."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from pipeline.formats.rows import Rows
from pipeline.sources.base import Encoding, Packet, SourceError, SourceSpec, StreamInfo, StreamNeeds

MAX_ROWS_PER_BLOCK = 1024


def packets_of_rows(
    times_ns: NDArray[np.int64], values: NDArray[np.floating], valid: NDArray[np.bool_], *, block_ns: int
) -> Iterator[Packet]:
    """Cut rows into packets: one for each stretch of ``block_ns`` (a multiple of it since 0) that holds a row.

    ``times_ns`` int64 ``[rows]``, never falling; ``values`` ``[rows, channels]``; ``valid`` bool ``[rows,
    channels]``. A packet's capture and arrival are its last row's time, its span reaches back to its first row.
    Raises SourceError for more than `MAX_ROWS_PER_BLOCK` rows in one block.
    """
    for first, stop in blocks_of_rows(times_ns, block_ns=block_ns):
        capture_ns = int(times_ns[stop - 1])
        yield Packet(
            capture_ns=capture_ns,
            arrival_ns=capture_ns,
            span_ns=capture_ns - int(times_ns[first]),
            chunks=(telemetry_json(times_ns[first:stop], values[first:stop], valid[first:stop]),),
        )


def blocks_of_rows(times_ns: NDArray[np.int64], *, block_ns: int) -> list[tuple[int, int]]:
    """First row and the one past the last of each packet that `packets_of_rows` cuts. Raises SourceError as it does."""
    if len(times_ns) == 0:
        return []
    starts = np.flatnonzero(np.diff(times_ns // block_ns)) + 1
    blocks = list(zip([0, *starts.tolist()], [*starts.tolist(), len(times_ns)], strict=True))
    for first, stop in blocks:
        if stop - first > MAX_ROWS_PER_BLOCK:
            raise SourceError(
                f"telemetry: {stop - first} rows within {block_ns / 1e6:g} ms from {times_ns[first] / 1e9:.3f} s, "
                f"more than {MAX_ROWS_PER_BLOCK}; thin the rows or check their times"
            )
    return blocks


def telemetry_json(times_ns: NDArray[np.int64], values: NDArray[np.floating], valid: NDArray[np.bool_]) -> bytes:
    """One block's rows as compact JSON: ``offsets_ns`` back from the last row (>= 0), ``values`` rounded to float32,
    null = invalid.
    """
    # str() of a float32 is the shortest text that reads back as the same float32.
    rows = [
        [float(str(number)) if counts else None for number, counts in zip(row, flags, strict=True)]
        for row, flags in zip(values.astype(np.float32), valid.tolist(), strict=True)
    ]
    offsets_ns = (times_ns[-1] - times_ns).tolist()
    return json.dumps({"offsets_ns": offsets_ns, "values": rows}, separators=(",", ":"), allow_nan=False).encode()


def telemetry_info(needs: StreamNeeds, *, period_ns: int, min_gap_ns: int, origin: str) -> StreamInfo:
    """What a telemetry source says of itself: the scenario's channels and units, in its order."""
    encoding = Encoding(
        codec="telemetry-json",
        channels=tuple(channel.name for channel in needs.channels),
        units=tuple(channel.unit for channel in needs.channels),
    )
    return StreamInfo(
        stream=needs.stream,
        kind="telemetry",
        encoding=encoding,
        period_ns=period_ns,
        min_gap_ns=min_gap_ns,
        origin=origin,
    )


class RecordedTelemetry:
    """A recording's rows as packets. Entering reads and checks the whole recording, so that a run never meets a
    broken row; packets are made as they are asked for.
    """

    timing: Literal["media", "live"] = "media"

    def __init__(self, spec: SourceSpec, read: Callable[[], Rows]) -> None:
        self._spec = spec
        self._read = read
        self._rows: Rows | None = None
        self._stopped = threading.Event()
        self.info = telemetry_info(spec.needs, period_ns=spec.needs.block_ns, min_gap_ns=0, origin=spec.target)

    def __enter__(self) -> Self:
        """Read everything. Raises SourceError, naming file, row and column."""
        needs = self._spec.needs
        rows = self._read()
        _require_channels(needs, rows, self._spec.target)
        blocks = blocks_of_rows(rows.times_ns, block_ns=needs.block_ns)
        self._rows = rows
        self._stopped.clear()
        gaps_ns = np.diff(rows.times_ns[[stop - 1 for _, stop in blocks]])
        self.info = telemetry_info(
            needs,
            period_ns=_nominal_period_ns(rows.times_ns, gaps_ns, needs.block_ns),
            min_gap_ns=int(gaps_ns.min()) if len(gaps_ns) else 0,
            origin=self._spec.target,
        )
        return self

    def __exit__(self, *exc: object) -> None:
        self._rows = None

    @property
    def duration_ns(self) -> int:
        """From the recording's beginning to one period past its last row, while it is open."""
        return int(self._rows.times_ns[-1]) + max(self.info.period_ns, 1) if self._rows is not None else 0

    def packets(self) -> Iterator[Packet | None]:
        """All blocks, in order."""
        rows = self._rows
        if rows is None:
            return
        for packet in packets_of_rows(rows.times_ns, rows.values, rows.valid, block_ns=self._spec.needs.block_ns):
            if self._stopped.is_set():
                return
            yield packet

    def stop(self) -> None:
        """End before the next packet."""
        self._stopped.set()


class TelemetryFile(RecordedTelemetry):
    """``telemetry=FILE.csv``; see `pipeline.formats.telemetry_csv` for the form."""

    def __init__(self, spec: SourceSpec) -> None:
        from pipeline.formats.telemetry_csv import rows_from_csv

        super().__init__(spec, partial(rows_from_csv, Path(spec.target), spec.needs.channels))


class Comma2k19Telemetry(RecordedTelemetry):
    """A comma2k19 segment's CAN and IMU logs; see `pipeline.formats.comma2k19`."""

    def __init__(self, spec: SourceSpec) -> None:
        from pipeline.formats.comma2k19 import rows_from_segment

        super().__init__(spec, partial(rows_from_segment, Path(spec.target), spec.needs.channels))


class DonkeycarTelemetry(RecordedTelemetry):
    """A donkeycar tub's steering and throttle; see `pipeline.formats.donkeycar`."""

    def __init__(self, spec: SourceSpec) -> None:
        from pipeline.formats.donkeycar import rows_from_tub

        fps = float(spec.options.get("fps", "20"))
        super().__init__(spec, partial(rows_from_tub, Path(spec.target), spec.needs.channels, fps=fps))


def _require_channels(needs: StreamNeeds, rows: Rows, origin: str) -> None:
    if len(rows.times_ns) == 0:
        raise SourceError(f"{needs.stream}: {origin!r} has no rows; record at least one")
    for column, channel in enumerate(needs.channels):
        if channel.required and not rows.valid[:, column].any():
            raise SourceError(
                f"{needs.stream}: {origin!r} has no {channel.name} [{channel.unit}], which the "
                f"scenario requires; add that channel "
                f"or leave the stream out with {needs.stream}=none"
            )


def _nominal_period_ns(times_ns: NDArray[np.int64], gaps_ns: NDArray[np.int64], block_ns: int) -> int:
    """A block's length where rows are denser than that, else the usual time from one packet to the next."""
    if len(gaps_ns) == 0:
        return block_ns
    row_gaps_ns = np.sort(np.diff(times_ns))
    is_dense = row_gaps_ns[(len(row_gaps_ns) - 1) // 2] <= block_ns
    return block_ns if is_dense else int(np.sort(gaps_ns)[(len(gaps_ns) - 1) // 2])
