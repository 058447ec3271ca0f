"""What H.264 leaves of a frame, decoded as the runtime decodes: networks learn on what a log would hold."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from pipeline.formats.decode import VideoDecoder
from pipeline.sources.base import Encoding, StreamInfo

CRF_CHOICES = (None, 20, 24, 24, 28)
"""Quality of a run's H.264 (a log has 24); None: a raw camera."""


class Compression:
    """Encodes and decodes single frames at a quality drawn for the run; frames are uint8 ``[*frame_hw, 3]``."""

    def __init__(self, seed: int, frame_hw: tuple[int, int], rate_hz: int) -> None:
        rng = np.random.Generator(np.random.PCG64([seed, 102]))
        self._crf = CRF_CHOICES[int(rng.integers(len(CRF_CHOICES)))]
        if self._crf is None:
            return
        import av

        context = av.CodecContext.create("libx264", "w")
        assert isinstance(context, av.VideoCodecContext)
        context.height, context.width = frame_hw
        context.pix_fmt = "yuv420p"
        context.time_base, context.framerate = Fraction(1, rate_hz), Fraction(rate_hz)
        context.thread_count = 1
        context.options = {
            "preset": "veryfast",
            "tune": "zerolatency",
            "crf": str(self._crf),
            "x264-params": "keyint=1:scenecut=0:bframes=0:repeat-headers=1:threads=1",
        }
        self._encoder = context
        encoding = Encoding(codec="av:h264", width=context.width, height=context.height)
        self._decoder = VideoDecoder(
            StreamInfo(stream="camera", kind="camera", encoding=encoding, period_ns=0, min_gap_ns=0, simulated=True)
        )
        self._count = 0

    def __call__(self, image_hwc: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Through H.264 and back."""
        if self._crf is None:
            return image_hwc
        import av

        frame = av.VideoFrame.from_ndarray(image_hwc, format="rgb24")
        frame.pts = self._count
        self._count += 1
        packet = b"".join(bytes(p) for p in self._encoder.encode(frame))
        return self._decoder.decode((packet,))
