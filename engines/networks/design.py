"""What one scenario's networks read and give, as data: views of a frame, windows, channels, heads, memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from engines.networks.layout import FusionLayout

SAMPLE_RATE_HZ = 16_000
NS = 1_000_000_000
MICROPHONE_TOKENS = 4
TELEMETRY_TOKENS = 2
TEXT_TOKENS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A part of the frame that the camera encoder looks at."""

    box: tuple[float, float, float, float]
    """Top, bottom, left and right as shares of the frame."""
    size: tuple[int, int]
    """Height and width in pixels that the part is resized to."""
    stages: tuple[tuple[int, int], ...]
    """Channels and stride of each separable convolution after the stem, which halves the size."""
    tokens: int = 2

    @property
    def positions(self) -> int:
        """Places of the last feature map."""
        height, width = -(-self.size[0] // 2), -(-self.size[1] // 2)
        for _, stride in self.stages:
            height, width = -(-height // stride), -(-width // stride)
        return height * width


@dataclass(frozen=True, slots=True, kw_only=True)
class MicrophoneDesign:
    """Windows of sound at `SAMPLE_RATE_HZ`."""

    window_ns: int
    hop_ns: int

    @property
    def samples(self) -> int:
        """Samples in a window."""
        return SAMPLE_RATE_HZ * self.window_ns // NS


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelDesign:
    """One telemetry channel. Centre and spread only bring values near 1; they are not learned."""

    name: str
    unit: str
    centre: float
    spread: float
    required: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TelemetryDesign:
    """Windows of rows, sampled and held every ``step_ns``; ``strides`` are those of the convolutions before the GRU."""

    channels: tuple[ChannelDesign, ...]
    window_ns: int
    hop_ns: int
    step_ns: int
    hold_ns: int
    strides: tuple[int, ...]

    @property
    def points(self) -> int:
        """Points in a window."""
        return self.window_ns // self.step_ns


@dataclass(frozen=True, slots=True, kw_only=True)
class ScenarioDesign:
    """All networks of one scenario. Streams are camera, microphone, telemetry, text, in this order."""

    name: str
    frame_hw: tuple[int, int]
    """Size of the frames that training sees; an engine takes any."""
    views: Mapping[str, View]
    microphone: MicrophoneDesign
    telemetry: TelemetryDesign
    heads: Mapping[str, tuple[str, ...]]
    memory_entries: int
    memory_step_ns: int
    shared_width: int = 4
    """Width of a stream's shared part, as in `FusionLayout`."""

    @property
    def token_counts(self) -> dict[str, int]:
        """Tokens of each stream."""
        seen = sum(view.tokens for view in self.views.values())
        return {"camera": seen, "microphone": MICROPHONE_TOKENS, "telemetry": TELEMETRY_TOKENS, "text": TEXT_TOKENS}

    @property
    def layout(self) -> FusionLayout:
        """What its fusion network reads and gives."""
        return FusionLayout(
            streams=tuple(self.token_counts),
            token_counts=tuple(self.token_counts.values()),
            heads=self.heads,
            memory_entries=self.memory_entries,
            memory_step_s=self.memory_step_ns / NS,
            shared_width=self.shared_width,
        )
