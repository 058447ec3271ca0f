"""The simulated drive, as training sees it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np

from engines.networks.design import ScenarioDesign
from engines.networks.driving import DRIVING
from engines.training.token_set import Event
from engines.training.worlds import Array, Clue, SimulatedRun
from pipeline.scenarios.driving import feeds, percepts, scene, sound, world
from pipeline.scenarios.driving.drive import FRAME_RATE_HZ, OBSTACLES, SIREN_KINDS, SOURCES, STOP_TTC_S, Conditions, Drive
from pipeline.scenarios.spans import spans_of

CONDITIONS: Mapping[str, Conditions] = {
    "dense": Conditions(),
    "everyday": Conditions(script="everyday"),
    "night": Conditions(daylight=0.2),
    "unfamiliar siren": Conditions(siren_kinds=(SIREN_KINDS.index("phaser"),)),
    "unfamiliar fog": Conditions(mist=0.55),
}


class DrivingWorld:
    """See `engines.training.worlds.World`."""

    design: ScenarioDesign = DRIVING
    frame_rate_hz: int = FRAME_RATE_HZ
    max_age_s: Mapping[str, float] = {"camera": 0.15, "microphone": 0.5, "telemetry": 0.5, "text": 30.0}
    percept_dims: Mapping[str, Mapping[str, Sequence[int]]] = percepts.DIMS
    asked_heads: Sequence[str] = ()
    event_run_s: float = 60.0
    dense_runs: int = 300
    learnt: tuple[str, str] = ("dense", "everyday")
    unfamiliar: Sequence[str] = ("unfamiliar siren", "unfamiliar fog")
    sayings: Sequence[str] = (
        "from behind", "carriageway, ahead", "has passed", "cross street", "opposite", "parked", "tow truck", "is clear",
        "slow zone ends", "zone, 30", "zone, 40", "zone, 50", "",
    )  # fmt: skip
    clues: Mapping[str, Clue] = {
        "seen_source": Clue(stream="camera", size=len(SOURCES), at="sample"),
        "seen_obstacle": Clue(stream="camera", size=len(OBSTACLES), at="sample"),
        "seen_distance": Clue(stream="camera", size=1, at="sample"),
        "seen_braking": Clue(stream="camera", size=2, at="sample"),
        "seen_zone": Clue(stream="camera", size=2, at="sample"),
        "seen_truck_behind": Clue(stream="camera", size=2, at="sample"),
        "seen_truck_ahead": Clue(stream="camera", size=2, at="sample"),
        "heard_source": Clue(stream="microphone", size=len(SOURCES)),
        "heard_closing": Clue(stream="microphone", size=1),
        "heard_distance": Clue(stream="microphone", size=1),
        "heard_horn": Clue(stream="microphone", size=2),
        "heard_skid": Clue(stream="microphone", size=2),
        "speed": Clue(stream="telemetry", size=1),
        "said": Clue(stream="text", size=13),
    }

    def __init__(self) -> None:
        self._renderer: scene.Renderer | None = None

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Open panda3d."""
        with scene.Renderer() as renderer:
            self._renderer = renderer
            yield
        self._renderer = None

    def run(self, seed: int, duration_s: float, condition: str, *, with_senses: bool = True) -> SimulatedRun:
        """One drive."""
        drive = world.sample_drive(seed, duration_s, CONDITIONS[condition])
        nothing = np.zeros((0, len(feeds.CHANNELS)), np.float32)
        times_s, values, valid = feeds.telemetry(drive) if with_senses else (np.zeros(0), nothing, nothing > 0)
        return SimulatedRun(
            seed=seed,
            duration_s=duration_s,
            frames=len(drive.frame_times_s),
            frame=lambda index: self._frame(drive, index),
            pcm=sound.pcm(drive) if with_senses else np.zeros(0, np.int16),
            row_times_s=times_s,
            row_values=values,
            row_valid=valid,
            lines=feeds.text_lines(drive),
            gaps_s=feeds.arrivals(drive).gaps_s,
            labels={head: getattr(drive, head) for head in DRIVING.heads},
            clues=_clues(drive),
            scored=lambda frames: percepts.scored(drive, frames),
            percepts=lambda frames: percepts.percepts(drive, frames),
            decisive=lambda frames: percepts.decisive(drive, frames),
            events=_events(drive),
        )

    def _frame(self, drive: Drive, index: int) -> Array:
        if self._renderer is None:
            raise RuntimeError("frames are drawn only inside `opened`")
        return self._renderer.frame(drive, index)


def _clues(drive: Drive) -> dict[str, Array]:
    seen = drive.obstacle_visible & (drive.obstacle > 0)
    vehicle = (drive.siren_audible > 0) & np.isfinite(drive.siren_y_m)
    metres = np.hypot(drive.siren_x_m, drive.siren_y_m)
    closing = -np.gradient(metres) * FRAME_RATE_HZ if len(metres) > 1 else np.zeros_like(metres)
    return {
        "seen_source": np.where(drive.siren_visible, drive.siren_source, 0),
        "seen_obstacle": np.where(seen, drive.obstacle, 0),
        "seen_distance": np.where(seen, np.log(np.maximum(1.0, np.nan_to_num(drive.obstacle_m))), np.nan),
        "seen_braking": drive.lead_braking,
        "seen_zone": drive.zone,
        "seen_truck_behind": np.isfinite(drive.truck_behind_m),
        "seen_truck_ahead": np.isfinite(drive.truck_ahead_m),
        "heard_source": np.where(drive.siren_audible > 0, drive.siren_source, 0),
        "heard_closing": np.where(vehicle, closing / 10.0, np.nan),
        "heard_distance": np.where(vehicle, np.log(np.maximum(2.0, np.nan_to_num(metres))), np.nan),
        "heard_horn": drive.horn > 0,
        "heard_skid": drive.skid > 0,
        "speed": drive.speed_mps / 10.0,
    }


def _events(drive: Drive) -> tuple[Event, ...]:
    """An emergency is critical when the vehicle reaches us; a collision when, unbraked, we would have hit."""
    events = []
    for head in ("emergency", "collision"):
        for first, last in spans_of(getattr(drive, head)):
            onset_s, end_s = first / FRAME_RATE_HZ, last / FRAME_RATE_HZ
            critical_s = end_s if head == "emergency" else onset_s + STOP_TTC_S
            events.append(Event(head=head, run=0, onset_s=onset_s, end_s=end_s, critical_s=critical_s))
    return tuple(events)
