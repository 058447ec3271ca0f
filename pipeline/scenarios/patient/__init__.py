"""The patient scenario and its simulated world. Not a medical device; simulation.

panda3d and neurokit2 are imported only when used.
"""

from pipeline.scenarios.patient.biosignals import CHANNELS, telemetry
from pipeline.scenarios.patient.course import HEADS, Course, CourseEvent, Encounter, decisive, events, labels, scored
from pipeline.scenarios.patient.feeds import Arrivals, arrivals, text_lines
from pipeline.scenarios.patient.percepts import percepts
from pipeline.scenarios.patient.scene import Renderer
from pipeline.scenarios.patient.sound import pcm
from pipeline.scenarios.patient.world import sample_course

__all__ = [
    "CHANNELS",
    "HEADS",
    "Arrivals",
    "Course",
    "CourseEvent",
    "Encounter",
    "Renderer",
    "arrivals",
    "decisive",
    "events",
    "labels",
    "pcm",
    "percepts",
    "sample_course",
    "scored",
    "telemetry",
    "text_lines",
]
