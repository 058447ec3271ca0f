"""Windows: which spans of samples one encoder call reads, and the buffers that cut them.

`WindowGrid` looks at headers only and says which windows a sample completes. Fusion runs it on announcements to know what is
owed, the encoder stage runs it on samples to know what to cut: the same code, so the two cannot disagree.

Windows end on a capture-time grid (``origin + k * hop``) and need their whole span: no padding, no state from one to the next.
Sound at a window's start belongs to it, sound at its very end to the next: however it is cut into blocks, a window is the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.messages import AudioBlock, Header, TelemetryBlock


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowSpec:
    """What an encoder reads at a time, from its manifest.

    ``hop_ns == 0``: every sample is a window of its own (a frame, a line). ``gap_ns``: a hole in capture time wider than
    this breaks a window. ``slack_ns``: a sample completes a window whose end lies at most this far past its last row,
    because the next row would be past the end anyway (one period of sound; the row period of telemetry). ``hold_ns``: how
    long telemetry holds a value.
    """

    kind: Literal["sample", "audio", "telemetry"]
    window_ns: int = 0
    hop_ns: int = 0
    gap_ns: int = 20_000_000
    slack_ns: int = 0
    sample_rate_hz: int = 0
    step_ns: int = 0
    hold_ns: int = 0

    def __post_init__(self) -> None:
        """Refuse grids that could never complete a window."""
        if self.kind != "sample" and (self.hop_ns <= 0 or self.window_ns <= 0):
            raise ValueError(f"a {self.kind} window needs window_ns > 0 and hop_ns > 0, not {self.window_ns} and {self.hop_ns}")


class WindowGrid:
    """The window ends that each sample completes, from headers alone."""

    def __init__(self, spec: WindowSpec, origin_ns: int) -> None:
        self._spec = spec
        self._origin_ns = origin_ns
        self._epoch = -1
        self._seq = -1
        self._last_capture_ns = 0
        self._covered_from_ns = 0
        self._next_end_ns = -(2**62)

    @property
    def covered_from_ns(self) -> int:
        """Since when there has been no hole."""
        return self._covered_from_ns

    @property
    def next_end_ns(self) -> int | None:
        """Where the next window will end if nothing breaks it; None where every sample is a window, or before the first."""
        return None if self._spec.kind == "sample" or self._epoch < 0 else self._next_end_ns

    def interrupt(self) -> None:
        """The last sample came to nothing: what follows begins anew, as it does for an encoder that never saw it."""
        self._seq = -2

    def push(self, header: Header) -> list[int]:
        """The grid instants (ns) of the windows that this sample completes, oldest first."""
        spec = self._spec
        if spec.kind == "sample":
            return [header.capture_ns]
        start_ns = header.capture_ns - header.span_ns
        broken = header.epoch != self._epoch or header.seq != self._seq + 1 or start_ns - self._last_capture_ns > spec.gap_ns
        if broken:
            self._covered_from_ns = start_ns
            # A source that begins anew with what lies further back makes no window twice, nor one before those it made.
            self._next_end_ns = max(self._next_end_ns, self._first_end_after(start_ns + spec.window_ns))
        self._epoch, self._seq, self._last_capture_ns = header.epoch, header.seq, header.capture_ns
        ends = list(range(self._next_end_ns, header.capture_ns + spec.slack_ns + 1, spec.hop_ns))
        if ends:
            self._next_end_ns = ends[-1] + spec.hop_ns
        return ends

    def _first_end_after(self, at_least_ns: int) -> int:
        steps = -((self._origin_ns - at_least_ns) // self._spec.hop_ns)
        return self._origin_ns + steps * self._spec.hop_ns


class AudioRing:
    """The last stretch of gapless sound, from which windows of int16 samples are cut."""

    def __init__(self, spec: WindowSpec, origin_ns: int) -> None:
        self.grid = WindowGrid(spec, origin_ns)
        self._rate_hz = spec.sample_rate_hz
        self._samples = spec.window_ns * spec.sample_rate_hz // 1_000_000_000
        self._buffer = np.zeros(2 * self._samples + spec.sample_rate_hz, dtype=np.int16)
        self._filled = 0

    def push(self, block: AudioBlock) -> list[tuple[int, NDArray[np.int16]]]:
        """Add a block; returns ``(window end, pcm int16 [samples])`` of every window it completes."""
        before = self.grid.covered_from_ns
        ends = self.grid.push(block.header)
        if self.grid.covered_from_ns != before:
            self._filled = 0
        self._append(block.pcm)
        return [(end, self._cut(end, block.header.capture_ns)) for end in ends]

    def _append(self, pcm: NDArray[np.int16]) -> None:
        if pcm.size > self._buffer.size - self._samples:  # a block longer than a second: grow once
            self._buffer = np.concatenate([self._buffer, np.zeros(pcm.size + self._samples, dtype=np.int16)])
        if self._filled + pcm.size > self._buffer.size:
            keep = self._buffer[self._filled - self._samples : self._filled].copy()
            self._buffer[: keep.size] = keep
            self._filled = keep.size
        self._buffer[self._filled : self._filled + pcm.size] = pcm
        self._filled += pcm.size

    def _cut(self, end_ns: int, capture_ns: int) -> NDArray[np.int16]:
        # The block's last sample was taken at capture_ns; step back to the last one before the window's end. One at the very end
        # is not in the window: the sample a period before completes it (`WindowSpec.slack_ns`), whichever block comes next.
        past_end = (capture_ns - end_ns) * self._rate_hz // 1_000_000_000 + 1
        stop = min(max(self._filled - past_end, self._samples), self._filled)  # rounding may be one sample short
        return self._buffer[stop - self._samples : stop].copy()


class TelemetryRing:
    """The last rows of telemetry, from which windows are cut by sample and hold onto fixed steps."""

    def __init__(self, spec: WindowSpec, origin_ns: int) -> None:
        self.grid = WindowGrid(spec, origin_ns)
        self._spec = spec
        self._points = spec.window_ns // spec.step_ns
        self._blocks: list[TelemetryBlock] = []

    def push(self, block: TelemetryBlock) -> list[tuple[int, NDArray[np.float32], NDArray[np.float32]]]:
        """Add a block (its arrays are copied).

        Returns ``(window end, values float32 [points, channels], valid float32 [points, channels])`` of every window it
        completes.
        """
        before = self.grid.covered_from_ns
        ends = self.grid.push(block.header)
        if self.grid.covered_from_ns != before:
            self._blocks.clear()
        self._blocks.append(
            TelemetryBlock(
                header=block.header, times_ns=block.times_ns.copy(), values=block.values.copy(), valid=block.valid.copy()
            )
        )
        windows = self._cut(ends)
        # Only now: a long block also completes windows that end well before its last row, and these read older blocks.
        keep_from_ns = block.header.capture_ns - self._spec.window_ns - self._spec.hold_ns - self._spec.hop_ns
        while self._blocks[0].header.capture_ns < keep_from_ns:
            self._blocks.pop(0)
        return windows

    def _cut(self, ends: list[int]) -> list[tuple[int, NDArray[np.float32], NDArray[np.float32]]]:
        if not ends:
            return []
        times = np.concatenate([b.times_ns for b in self._blocks])
        values = np.concatenate([b.values for b in self._blocks])
        valid = np.concatenate([b.valid for b in self._blocks])
        return [(end, *sample_and_hold(times, values, valid, end_ns=end, spec=self._spec)) for end in ends]


def sample_and_hold(
    times_ns: NDArray[np.int64],
    values: NDArray[np.float32],
    valid: NDArray[np.bool_],
    *,
    end_ns: int,
    spec: WindowSpec,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Rows ``[rows, channels]`` to fixed points ``[points, channels]`` that end at ``end_ns``, ``spec.step_ns`` apart.

    Each channel takes its last valid value at or before the point, if that is at most ``spec.hold_ns`` old; else value and
    validity are 0. Rates may differ by channel and jitter.
    """
    points = spec.window_ns // spec.step_ns
    points_ns = end_ns - np.arange(points - 1, -1, -1, dtype=np.int64) * spec.step_ns
    channels = values.shape[1]
    row_index = np.arange(len(times_ns), dtype=np.int64)[:, None]
    last_valid_row = np.maximum.accumulate(np.where(valid, row_index, -1), axis=0)
    row_at_point = np.searchsorted(times_ns, points_ns, side="right") - 1
    chosen = np.where(row_at_point[:, None] >= 0, last_valid_row[np.maximum(row_at_point, 0)], -1)
    safe = np.maximum(chosen, 0)
    held = (chosen >= 0) & (points_ns[:, None] - times_ns[safe] <= spec.hold_ns)
    out = np.where(held, values[safe, np.arange(channels)], np.float32(0.0)).astype(np.float32)
    return out, held.astype(np.float32)
