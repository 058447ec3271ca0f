"""Recorded microphones: a sound file, or the sound of a video."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from itertools import count
from typing import TYPE_CHECKING, Literal, Self

import numpy as np
from numpy.typing import NDArray

from pipeline.formats.media import MAX_MEDIA_NS, check_whole, ns_from_pts, open_media, origin_ns
from pipeline.sources.base import Encoding, Packet, SourceError, SourceSpec, StreamInfo, StreamNeeds

if TYPE_CHECKING:
    from av.audio.frame import AudioFrame
    from av.audio.stream import AudioStream
    from av.container import InputContainer

SECOND_NS = 1_000_000_000
MAX_JUMP_NS = 100_000_000
"""The sound's stamps may differ by this from its counted samples before it counts as a hole."""

MAX_BACKLOG_BLOCKS = 2

Segment = tuple[int, NDArray[np.int16]]
"""Where a stretch of sound lies, as the number of its first sample since time 0, and its int16 samples."""


class AudioFile:
    """``microphone=FILE``: whatever FFmpeg reads, as mono int16 at the scenario's rate, in blocks of exactly ``needs.block_ns``.

    Sample ``i`` (since time 0, which is a video's first frame) is captured at ``i / rate``. A remainder at the end goes into the
    last block, which is then up to twice as long, so that no two blocks are closer than a block; only a sound shorter
    than one block comes as a shorter one. Sound before the first frame of the video is left out.
    """

    timing: Literal["media", "live"] = "media"

    def __init__(self, spec: SourceSpec) -> None:
        self._path = spec.target
        self._needs = spec.needs
        self._stream = spec.needs.stream
        self._rate_hz = spec.needs.sample_rate_hz
        self._block = block_samples(spec.needs)
        self._origin_ns: int | None = None
        self._stopped = threading.Event()
        # Rounded down twice, a block's capture may come one ns early.
        gap_ns = self._block * SECOND_NS // self._rate_hz - -(-SECOND_NS // self._rate_hz)
        self.info = StreamInfo(
            stream=self._stream,
            kind="microphone",
            encoding=Encoding(codec="pcm-s16", sample_rate_hz=self._rate_hz),
            period_ns=spec.needs.block_ns,
            min_gap_ns=max(gap_ns, 0),
            origin=spec.target,
        )

    def __enter__(self) -> Self:
        """Check the file and decode its beginning. Raises SourceError."""
        self._stopped.clear()
        with open_media(self._path, self._stream) as container:
            check_whole(container, self._sound(container), self._path, self._stream)
        self._origin_ns = origin_ns(self._path, self._stream)
        for _ in self._segments():
            return self
        raise SourceError(f"{self._stream}: {self._path!r} has a sound track without samples; leave it out: {self._stream}=none")

    def __exit__(self, *exc: object) -> None:
        self._stopped.set()

    def _sound(self, container: InputContainer) -> AudioStream:
        if not container.streams.audio:
            raise SourceError(
                f"{self._stream}: {self._path!r} has no sound; give {self._stream}=FILE with sound, or {self._stream}=none"
            )
        return container.streams.audio[0]

    def packets(self) -> Iterator[Packet | None]:
        """The blocks, decoded as they are asked for. Raises SourceError where the file is damaged."""
        return self._blocks(self._segments())

    def looped_packets(self, period_ns: int) -> Iterator[Packet | None]:
        """The same without end, each pass cut or filled up to ``period_ns``, with one grid of blocks through all."""
        return self._blocks(self._looped_segments(period_ns))

    def _blocks(self, segments: Iterable[Segment]) -> Iterator[Packet | None]:
        for position, pcm in blocks_of(segments, self._block):
            if self._stopped.is_set():
                return
            last = position + len(pcm) - 1
            capture_ns = last * SECOND_NS // self._rate_hz
            before_ns = (position - 1) * SECOND_NS // self._rate_hz
            yield Packet(
                capture_ns=capture_ns,
                arrival_ns=capture_ns,
                span_ns=capture_ns - before_ns,
                chunks=(pcm.astype("<i2", copy=False).tobytes(),),
            )

    def _looped_segments(self, period_ns: int) -> Iterator[Segment]:
        for turn in count():
            base = turn * period_ns * self._rate_hz // SECOND_NS
            length = (turn + 1) * period_ns * self._rate_hz // SECOND_NS - base
            for position, pcm in self._segments():
                if position >= length:
                    break
                yield base + position, pcm[: length - position]
            if self._stopped.is_set():
                return

    def _segments(self) -> Iterator[Segment]:
        """Resampled sound with its place; consecutive unless the file's stamps jump ahead."""
        import av

        with open_media(self._path, self._stream) as container:
            sound = self._sound(container)
            resampler = av.AudioResampler(format="s16", layout="mono", rate=self._rate_hz)
            place: int | None = None
            heard_ns = 0  # where the input's next sample should be
            for frame in container.decode(sound):
                at_ns = self._time_of(frame, heard_ns if place is not None else None)
                if place is None:
                    place = self._sample_at(at_ns)
                elif at_ns - heard_ns > MAX_JUMP_NS:  # a hole: end what was before it, and begin anew
                    yield from _placed(place, resampler.resample(None))
                    resampler = av.AudioResampler(format="s16", layout="mono", rate=self._rate_hz)
                    place = max(place, self._sample_at(at_ns))
                else:
                    at_ns = heard_ns
                heard_ns = at_ns + frame.samples * SECOND_NS // frame.sample_rate
                for piece in _placed(place, resampler.resample(_without_time(frame))):
                    place = piece[0] + len(piece[1])
                    yield from _from_zero(piece)
            if place is not None:
                for piece in _placed(place, resampler.resample(None)):
                    yield from _from_zero(piece)

    def _time_of(self, frame: AudioFrame, expected_ns: int | None) -> int:
        """Time of a frame's first sample since time 0."""
        if frame.pts is None or frame.time_base is None:
            return expected_ns or 0
        at_ns = ns_from_pts(frame.pts, frame.time_base)
        if self._origin_ns is None:  # no video: the sound's beginning is time 0
            self._origin_ns = at_ns
        if abs(at_ns - self._origin_ns) > MAX_MEDIA_NS:
            raise SourceError(f"{self._stream}: {self._path!r} has sound more than 30 days off; it is damaged, re-encode it")
        return at_ns - self._origin_ns

    def _sample_at(self, at_ns: int) -> int:
        return round(at_ns * self._rate_hz / SECOND_NS)

    def stop(self) -> None:
        """End before the next packet."""
        self._stopped.set()


def block_samples(needs: StreamNeeds) -> int:
    """Samples in a block of ``needs.block_ns``. Raises SourceError when that is no whole number."""
    samples, rest = divmod(needs.block_ns * needs.sample_rate_hz, SECOND_NS)
    if rest or samples < 1:
        raise SourceError(
            f"{needs.stream}: block_ns {needs.block_ns} is not a whole number of samples at {needs.sample_rate_hz} Hz; "
            "choose one that is"
        )
    return samples


def blocks_of(segments: Iterable[Segment], block: int) -> Iterator[Segment]:
    """Cut sound into blocks of ``block`` samples on a grid that begins with the first segment; the last takes the remainder.

    Within a block that has some sound, a hole is filled with silence; a block in a hole is left out. Segments must not overlap.
    """
    held = np.zeros(0, dtype=np.int16)
    start: int | None = None  # where `held` lies, always on the grid
    for position, pcm in segments:
        start = position if start is None else start
        hole = position - (start + len(held))
        if hole > 0:
            filled = -(-len(held) // block) * block
            if start + filled <= position:  # the hole reaches past the block: finish that, go on in the block of the segment
                held = np.concatenate([held, np.zeros(filled - len(held), dtype=np.int16)])
                while len(held):
                    yield start, held[:block]
                    start, held = start + block, held[block:]
                start += (position - start) // block * block
            hole = position - (start + len(held))
            held = np.concatenate([held, np.zeros(hole, dtype=np.int16)])
        held = np.concatenate([held, pcm])
        while len(held) >= MAX_BACKLOG_BLOCKS * block:
            yield start, held[:block]
            start, held = start + block, held[block:]
    if start is not None and len(held):
        yield start, held


def _placed(place: int, frames: Iterable[AudioFrame]) -> Iterator[Segment]:
    for frame in frames:
        pcm = np.asarray(frame.to_ndarray(), dtype=np.int16).reshape(-1)
        if len(pcm):
            yield place, pcm
        place += len(pcm)


def _from_zero(segment: Segment) -> Iterator[Segment]:
    position, pcm = segment
    if position + len(pcm) > 0:
        yield max(position, 0), pcm[max(-position, 0) :]


def _without_time(frame: AudioFrame) -> AudioFrame:
    """The resampler would compensate jitter in the stamps; samples are counted here instead."""
    frame.pts = None
    return frame
