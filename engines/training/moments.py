"""Moments of simulated runs, cut as the runtime cuts its windows: what encoders are trained on.

A moment is what fusion would get for one reference time: the newest windows with their ages, and the labels of *now*. Runs are
rendered in worker processes into plain ``.npy`` arrays (memory mapped, never pickled). Frames go through H.264, as in a log, and
are kept as the views that the camera engine's own preprocessing graph makes of them; sound as log-mel.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.networks import text
from engines.networks.design import SAMPLE_RATE_HZ
from engines.networks.microphone import MELS, LogMel, log_mel_frames
from engines.training.compression import Compression
from engines.training.worlds import SimulatedRun, World
from pipeline.stages.encode import text_bytes
from pipeline.windows import WindowSpec, sample_and_hold

Array = NDArray[Any]
NS = 1_000_000_000
RUN_S = 60.0
"""Length of a run that moments are drawn from."""
STREAMS = ("camera", "microphone", "telemetry", "text")


@dataclass(frozen=True, slots=True, kw_only=True)
class MomentSet:
    """Memory-mapped arrays by field, each ``[moments, …]``. Fields are those of `fields`."""

    arrays: dict[str, Array]

    def __len__(self) -> int:
        return len(self.arrays["age_s"])


def fields(world: World) -> dict[str, tuple[str, tuple[int, ...]]]:
    """What is kept of a moment: dtype and shape by name.

    ``spoken`` is 0 where no line is young enough; heads are ``label.HEAD`` and auxiliary targets ``clue.NAME``.
    """
    design = world.design
    rows = (design.telemetry.points, len(design.telemetry.channels))
    kept: dict[str, tuple[str, tuple[int, ...]]] = {
        **{view: ("uint8", (*spec.size, 3)) for view, spec in design.views.items()},
        "log_mel": ("float16", (MELS, log_mel_frames(design.microphone.samples))),
        "values": ("float32", rows),
        "valid": ("uint8", rows),
        "text_utf8": ("uint8", (text.BYTES,)),
        "age_s": ("float32", (len(STREAMS),)),
        "spoken": ("uint8", ()),
    }
    kept |= {f"label.{head}": ("uint8", ()) for head in design.heads}
    return kept | {f"clue.{name}": ("float32" if clue.size == 1 else "uint8", ()) for name, clue in world.clues.items()}


def window_spec(world: World) -> WindowSpec:
    """The telemetry windows of the world's networks."""
    rows = world.design.telemetry
    return WindowSpec(kind="telemetry", window_ns=rows.window_ns, hop_ns=rows.hop_ns, step_ns=rows.step_ns, hold_ns=rows.hold_ns)


def build_moments(
    make_world: Callable[[], World], folder: Path, seeds: Sequence[int], per_run: int, processes: int, on_run: Callable[[], None]
) -> MomentSet:
    """Render ``per_run`` random moments of each run into ``folder``; ``on_run`` is called after each run.

    Deterministic in its arguments, whatever ``processes`` is. ``make_world`` must be importable (it is called in workers).
    """
    kept = fields(make_world())
    folder.mkdir(parents=True, exist_ok=True)
    for name, (dtype, shape) in kept.items():
        path = folder / f"{name}.npy"
        np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=(len(seeds) * per_run, *shape)).flush()
    chunks = [range(i, min(i + 5, len(seeds))) for i in range(0, len(seeds), 5)]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        jobs = [pool.submit(_render_chunk, make_world, folder, [(i, seeds[i]) for i in c], per_run) for c in chunks]
        for job in as_completed(jobs):
            for _ in range(job.result()):
                on_run()
    return open_moments(make_world(), folder)


def open_moments(world: World, folder: Path) -> MomentSet:
    """What `build_moments` wrote to ``folder``."""
    return MomentSet(arrays={name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in fields(world)})


def _render_chunk(make_world: Callable[[], World], folder: Path, runs: list[tuple[int, int]], per_run: int) -> int:
    import torch

    from engines.export import camera_preprocessing, session_from_model

    torch.set_num_threads(1)
    world = make_world()
    arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r+") for name in fields(world)}
    views = list(world.design.views)
    cut = session_from_model(camera_preprocessing(world.design.views))
    log_mel = LogMel().eval()
    with world.opened():
        for place, seed in runs:
            run = world.run(seed, RUN_S, world.learnt[seed % 3 == 2])
            first = place * per_run
            moments = _moments(world, run, per_run)
            compress = Compression(seed, world.design.frame_hw, world.frame_rate_hz)
            for offset, moment in enumerate(moments):
                frame = compress(run.frame(moment.frame))
                for name, view in zip(views, cut.run(views, {"frame_hwc": frame}), strict=True):
                    arrays[name][first + offset] = view[0]
            pcm = torch.from_numpy(np.stack(list(sound_windows(world, run, moments))))
            with torch.inference_mode():
                arrays["log_mel"][first : first + per_run] = log_mel(pcm).numpy().astype(np.float16)
            for name, column in cheap_columns(world, run, moments).items():
                arrays[name][first : first + per_run] = column
    return len(runs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """One reference time: the frame it is about, the frame the camera delivered, and the other windows' ages."""

    now: int
    frame: int
    camera_age_s: float
    microphone_age_s: float
    telemetry_age_s: float
    frozen_telemetry_s: float
    silent: bool


def _moments(world: World, run: SimulatedRun, count: int) -> list[Moment]:
    """Random reference times with random delays, after the first full windows."""
    rng = np.random.Generator(np.random.PCG64([run.seed, 101]))
    longest_s = max(world.design.microphone.window_ns, world.design.telemetry.window_ns) / NS + 2.5
    first = int(longest_s * world.frame_rate_hz)
    chosen = np.sort(rng.choice(np.arange(first, run.frames), count, replace=False))
    return [_moment(rng, int(now), world.frame_rate_hz) for now in chosen]


def _moment(rng: np.random.Generator, now: int, rate_hz: int) -> Moment:
    lag_s = float(rng.choice([0.0, 0.05, 0.1, 0.15], p=[0.82, 0.1, 0.05, 0.03]))
    lag = round(lag_s * rate_hz)
    frozen_camera, frozen_telemetry = rng.random(2) < 0.015
    frozen = int(rng.uniform(0.5, 2.0) * rate_hz) if frozen_camera else 0
    return Moment(
        now=now,
        frame=now - lag - frozen,
        camera_age_s=lag / rate_hz,
        microphone_age_s=_window_age_s(rng),
        telemetry_age_s=_window_age_s(rng),
        frozen_telemetry_s=float(rng.uniform(0.5, 2.0)) if frozen_telemetry else 0.0,
        silent=bool(rng.random() < 0.01),
    )


def _window_age_s(rng: np.random.Generator) -> float:
    """A grid's age is below hop and block together; in one of eight cases the stream is late besides."""
    late = rng.uniform(0.0, 0.35) if rng.random() < 0.125 else 0.0
    return float(rng.choice([0.0, 0.05, rng.uniform(0.0, 0.15)]) + late)


def sound_windows(world: World, run: SimulatedRun, moments: list[Moment]) -> Iterator[NDArray[np.int16]]:
    """Each moment's window of sound, int16 ``[samples]``."""
    samples = world.design.microphone.samples
    for moment in moments:
        end_s = moment.now / world.frame_rate_hz - moment.microphone_age_s
        stop = max(samples, int(end_s * SAMPLE_RATE_HZ))
        window = run.pcm[stop - samples : stop]
        yield window // 64 if moment.silent else window


def cheap_columns(world: World, run: SimulatedRun, moments: list[Moment]) -> dict[str, Array]:
    """Every field but the views and the sound, ``[moments, …]``."""
    times_ns = np.round(run.row_times_s * NS).astype(np.int64)
    line_times = np.array([time_s for time_s, _ in run.lines])
    spec, kept = window_spec(world), fields(world)
    columns: dict[str, list[Any]] = {name: [] for name in kept}
    for moment in moments:
        now_s = moment.now / world.frame_rate_hz
        end_ns = round((now_s - moment.telemetry_age_s - moment.frozen_telemetry_s) * NS)
        window = sample_and_hold(times_ns, run.row_values, run.row_valid, end_ns=end_ns, spec=spec)
        columns["values"].append(window[0])
        columns["valid"].append(window[1])
        latest = int(np.searchsorted(line_times, now_s - 0.003)) - 1
        text_age_s = now_s - float(line_times[latest]) if latest >= 0 else np.inf
        spoken = text_age_s <= world.max_age_s["text"]
        line = run.lines[latest][1] if spoken else ""
        columns["spoken"].append(spoken)
        columns["text_utf8"].append(text_bytes(line))
        ages = (moment.camera_age_s, moment.microphone_age_s, moment.telemetry_age_s, text_age_s if spoken else 0.0)
        columns["age_s"].append(ages)
        for head, labels in run.labels.items():
            columns[f"label.{head}"].append(labels[moment.now])
        for name, clue in world.clues.items():
            if name == "said":
                columns["clue.said"].append(next(i for i, phrase in enumerate(world.sayings) if phrase in line))
            else:
                columns[f"clue.{name}"].append(run.clues[name][moment.frame if clue.at == "sample" else moment.now])
    return {name: np.array(column, kept[name][0]) for name, column in columns.items() if column}
