"""The driving scenario and its simulated world. panda3d is imported only when a `Renderer` is entered."""

from pipeline.scenarios.driving.drive import ACTIONS, SOURCES, Drive, Episode
from pipeline.scenarios.driving.feeds import CHANNELS, Arrivals, arrivals, telemetry, text_lines
from pipeline.scenarios.driving.scene import Renderer
from pipeline.scenarios.driving.sound import pcm
from pipeline.scenarios.driving.world import sample_drive

__all__ = [
    "ACTIONS",
    "CHANNELS",
    "SOURCES",
    "Arrivals",
    "Drive",
    "Episode",
    "Renderer",
    "arrivals",
    "pcm",
    "sample_drive",
    "telemetry",
    "text_lines",
]
