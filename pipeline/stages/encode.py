"""The encode stage: samples of one stream in, tokens out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.clock import Clock
from pipeline.messages import AudioBlock, Frame, Progress, Sample, TelemetryBlock, TextLine, Tokens
from pipeline.stages.infer import Infer
from pipeline.windows import AudioRing, TelemetryRing, WindowSpec

TEXT_BYTES = 128
"""How much of a line the text encoder reads."""


class EncodeStage:
    """Cuts windows and runs the encoder on each. Tokens are a pure function of their window."""

    def __init__(
        self,
        *,
        window: WindowSpec,
        infer: Infer,
        clock: Clock,
        origin_ns: int,
        publish: Callable[[Tokens], None],
        progress: Callable[[Progress], None] | None = None,
    ) -> None:
        self._infer, self._clock, self._publish, self._progress = infer, clock, publish, progress
        self._handled = 0
        self._audio = AudioRing(window, origin_ns) if window.kind == "audio" else None
        self._telemetry = TelemetryRing(window, origin_ns) if window.kind == "telemetry" else None

    def handle(self, sample: Sample) -> None:
        """Take one sample; publish the tokens of every window it completes. Keeps no view of the sample's arrays."""
        taken_ns = self._clock.now_ns()
        for window_end_ns, inputs in self._windows(sample):
            start_ns = self._clock.now_ns()
            values = self._infer.infer(inputs)["tokens"]
            times = (taken_ns, start_ns, self._clock.now_ns())
            self._publish(_tokens(sample, window_end_ns, values, times, self._infer.engine))
        self._handled += 1
        if self._progress is not None:
            header = sample.header
            self._progress(Progress(stage=header.stream, event_ns=header.capture_ns, count=self._handled))

    def _windows(self, sample: Sample) -> Iterator[tuple[int, dict[str, NDArray[Any]]]]:
        if isinstance(sample, Frame):
            yield sample.header.capture_ns, {"frame_hwc": sample.image_hwc}
        elif isinstance(sample, TextLine):
            yield sample.header.capture_ns, {"text_utf8": text_bytes(sample.text)}
        elif isinstance(sample, AudioBlock):
            assert self._audio is not None
            for end_ns, pcm in self._audio.push(sample):
                yield end_ns, {"pcm": pcm}
        elif isinstance(sample, TelemetryBlock):
            assert self._telemetry is not None
            for end_ns, values, valid in self._telemetry.push(sample):
                yield end_ns, {"values": values, "valid": valid}


def text_bytes(text: str) -> NDArray[np.uint8]:
    """A line as uint8 ``[128]``: UTF-8, cut on a character's boundary, zero padded."""
    raw = text.encode("utf-8")[:TEXT_BYTES].decode("utf-8", errors="ignore").encode("utf-8")
    out = np.zeros(TEXT_BYTES, dtype=np.uint8)
    out[: len(raw)] = np.frombuffer(raw, dtype=np.uint8)
    return out


def _tokens(sample: Sample, window_end_ns: int, values: NDArray[Any], times: tuple[int, int, int], engine: str) -> Tokens:
    header, (taken_ns, start_ns, end_ns) = sample.header, times
    return Tokens(
        header=header.published(end_ns),
        window_end_ns=window_end_ns,
        values=values,
        decode_ns=sample.decode_ns,
        decoded_ns=header.publish_ns,
        taken_ns=taken_ns,
        encode_start_ns=start_ns,
        encode_ns=end_ns - start_ns,
        engine=engine,
    )
