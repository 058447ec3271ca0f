"""Training samples of the simulated drive, cut as the runtime cuts its windows.

A sample is what fusion would get for one reference time: the newest windows with their ages, and the labels of *now*.
Drives are rendered in worker processes into plain ``.npy`` arrays (memory mapped, never pickled). Frames go through H.264,
as in a log, and are kept as the views that the camera engine's own preprocessing graph makes of them; sound as log-mel.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.networks import camera, microphone, telemetry, text
from pipeline.formats.decode import VideoDecoder
from pipeline.scenarios.driving import feeds, scene, sound, world
from pipeline.sources.base import Encoding, StreamInfo
from pipeline.stages.encode import text_bytes
from pipeline.windows import WindowSpec, sample_and_hold

Array = NDArray[Any]
NS = 1_000_000_000
DRIVE_S = 60.0
TEXT_MAX_AGE_S = 30.0
TEST_SEEDS = range(1000, 1020)
SHIPPED_SEED = 20261123

FIELDS: dict[str, tuple[str, tuple[int, ...]]] = {
    **{view: ("uint8", (*size, 3)) for view, (_, size, _) in camera.VIEWS.items()},
    "log_mel": ("float16", (microphone.MELS, microphone.FRAMES)),
    "values": ("float32", (telemetry.POINTS, len(telemetry.CHANNELS))),
    "valid": ("float32", (telemetry.POINTS, len(telemetry.CHANNELS))),
    "text_utf8": ("uint8", (text.BYTES,)),
    "age_s": ("float32", (4,)),
    "spoken": ("uint8", ()),
    "said": ("uint8", ()),
    "emergency": ("uint8", ()),
    "action": ("uint8", ()),
    "seen_source": ("uint8", ()),
    "seen_obstacle": ("uint8", ()),
    "seen_distance": ("float32", ()),
    "seen_braking": ("uint8", ()),
    "seen_zone": ("uint8", ()),
    "heard_source": ("uint8", ()),
    "heard_horn": ("uint8", ()),
    "heard_skid": ("uint8", ()),
    "speed_mps": ("float32", ()),
}
"""What is kept of a sample: dtype and shape. ``seen_`` and ``heard_`` are what the sensor alone could tell (auxiliary
targets); ``seen_distance`` is ln metres, NaN without a visible obstacle; ``spoken`` is 0 where no line is young enough,
``said`` the index of what it says in `SAYINGS`."""

SAYINGS = (
    "from behind", "carriageway, ahead", "has passed", "cross street", "opposite", "parked", "tow truck", "is clear",
    "slow zone ends", "zone, 30", "zone, 40", "zone, 50", "",
)  # fmt: skip
"""Phrases that tell the kinds of lines apart; the last fits any line."""

CRF_CHOICES = (None, 20, 24, 24, 28)
"""Quality of the drive's H.264 (a log has 24); None: a raw camera."""

WINDOW = WindowSpec(
    kind="telemetry",
    window_ns=telemetry.WINDOW_NS,
    hop_ns=telemetry.HOP_NS,
    step_ns=telemetry.STEP_NS,
    hold_ns=telemetry.HOLD_NS,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleSet:
    """Memory-mapped arrays by field, each ``[samples, …]``."""

    arrays: dict[str, Array]

    def __len__(self) -> int:
        return len(self.arrays["action"])


def build(folder: Path, seeds: Sequence[int], samples_per_drive: int, processes: int, on_drive: Callable[[], None]) -> SampleSet:
    """Render ``samples_per_drive`` random moments of each drive into ``folder``; ``on_drive`` is called after each drive.

    Deterministic in its arguments, whatever ``processes`` is. Raises ValueError for a seed of the test split or of the drive
    that ships.
    """
    if forbidden := sorted(set(seeds) & {*TEST_SEEDS, SHIPPED_SEED}):
        raise ValueError(f"seeds {forbidden} are for testing only; train on others")
    folder.mkdir(parents=True, exist_ok=True)
    for name, (dtype, shape) in FIELDS.items():
        np.lib.format.open_memmap(
            _file(folder, name), mode="w+", dtype=dtype, shape=(len(seeds) * samples_per_drive, *shape)
        ).flush()
    chunks = [range(i, min(i + 10, len(seeds))) for i in range(0, len(seeds), 10)]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context, max_tasks_per_child=None) as pool:
        jobs = [pool.submit(_render_chunk, folder, [(i, seeds[i]) for i in c], samples_per_drive) for c in chunks]
        for job in as_completed(jobs):
            for _ in range(job.result()):
                on_drive()
    return SampleSet(arrays={name: np.load(_file(folder, name), mmap_mode="r") for name in FIELDS})


def _file(folder: Path, name: str) -> Path:
    return folder / f"{name}.npy"


def _render_chunk(folder: Path, drives: list[tuple[int, int]], per_drive: int) -> int:
    import torch

    from engines.export import camera_preprocessing, session_from_model

    torch.set_num_threads(1)
    arrays = {name: np.load(_file(folder, name), mmap_mode="r+") for name in FIELDS}
    views = session_from_model(camera_preprocessing())
    log_mel = microphone.LogMel().eval()
    with scene.Renderer() as renderer:
        for place, seed in drives:
            drive = world.sample_drive(seed, DRIVE_S)
            rows = slice(place * per_drive, (place + 1) * per_drive)
            moments = _moments(drive, per_drive)
            compress = _Compression(seed)
            for offset, moment in enumerate(moments):
                frame = compress(renderer.frame(drive, moment.frame))
                for name, view in zip(camera.VIEWS, views.run(list(camera.VIEWS), {"frame_hwc": frame}), strict=True):
                    arrays[name][rows.start + offset] = view[0]
            pcm = torch.from_numpy(np.stack(list(_sound_windows(drive, moments))))
            with torch.inference_mode():
                arrays["log_mel"][rows] = log_mel(pcm).numpy().astype(np.float16)
            for name, column in _cheap_columns(drive, moments).items():
                arrays[name][rows] = column
    return len(drives)


class _Compression:
    """What H.264 leaves of single frames, at a quality drawn for the drive, decoded as the runtime decodes."""

    def __init__(self, seed: int) -> None:
        rng = np.random.Generator(np.random.PCG64([seed, 102]))
        self._crf = CRF_CHOICES[int(rng.integers(len(CRF_CHOICES)))]
        if self._crf is None:
            return
        import av

        context = av.CodecContext.create("libx264", "w")
        assert isinstance(context, av.VideoCodecContext)
        context.width, context.height, context.pix_fmt = scene.WIDTH, scene.HEIGHT, "yuv420p"
        context.time_base, context.framerate = Fraction(1, world.FRAME_RATE_HZ), Fraction(world.FRAME_RATE_HZ)
        context.thread_count = 1
        context.options = {
            "preset": "veryfast",
            "tune": "zerolatency",
            "crf": str(self._crf),
            "x264-params": "keyint=1:scenecut=0:bframes=0:repeat-headers=1:threads=1",
        }
        self._encoder = context
        encoding = Encoding(codec="av:h264", width=scene.WIDTH, height=scene.HEIGHT)
        self._decoder = VideoDecoder(
            StreamInfo(stream="camera", kind="camera", encoding=encoding, period_ns=0, min_gap_ns=0, simulated=True)
        )
        self._count = 0

    def __call__(self, image_hwc: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if self._crf is None:
            return image_hwc
        import av

        frame = av.VideoFrame.from_ndarray(image_hwc, format="rgb24")
        frame.pts = self._count
        self._count += 1
        packet = b"".join(bytes(p) for p in self._encoder.encode(frame))
        return self._decoder.decode((packet,))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Moment:
    """One reference time: the frame it is about, the frame the camera delivered, and the other windows' ages."""

    now: int
    frame: int
    camera_age_s: float
    microphone_age_s: float
    telemetry_age_s: float
    frozen_telemetry_s: float
    silent: bool


def _moments(drive: world.Drive, count: int) -> list[_Moment]:
    """Random reference times with random delays. The first full window ends 2 s after the start."""
    rng = np.random.Generator(np.random.PCG64([drive.seed, 101]))
    chosen = np.sort(rng.choice(np.arange(50, len(drive.frame_times_s)), count, replace=False))
    return [_moment(rng, int(now)) for now in chosen]


def _moment(rng: np.random.Generator, now: int) -> _Moment:
    lag = int(rng.choice(4, p=[0.82, 0.1, 0.05, 0.03]))
    frozen_camera, frozen_telemetry = rng.random(2) < 0.015
    frame = now - lag - (int(rng.integers(10, 40)) if frozen_camera else 0)
    return _Moment(
        now=now,
        frame=frame,
        camera_age_s=lag / world.FRAME_RATE_HZ,
        microphone_age_s=_window_age_s(rng),
        telemetry_age_s=_window_age_s(rng),
        frozen_telemetry_s=float(rng.uniform(0.5, 2.0)) if frozen_telemetry else 0.0,
        silent=bool(rng.random() < 0.01),
    )


def _window_age_s(rng: np.random.Generator) -> float:
    """A grid's age is below hop and block together; in one of eight cases the stream is late besides."""
    late = rng.uniform(0.0, 0.35) if rng.random() < 0.125 else 0.0
    return float(rng.choice([0.0, 0.05, rng.uniform(0.0, 0.15)]) + late)


def _sound_windows(drive: world.Drive, moments: list[_Moment]) -> Iterator[NDArray[np.int16]]:
    pcm = sound.pcm(drive)
    for moment in moments:
        end_s = float(drive.frame_times_s[moment.now]) - moment.microphone_age_s
        stop = max(microphone.SAMPLES, int(end_s * microphone.SAMPLE_RATE_HZ))
        window = pcm[stop - microphone.SAMPLES : stop]
        yield window // 64 if moment.silent else window


def _cheap_columns(drive: world.Drive, moments: list[_Moment]) -> dict[str, Array]:
    times_s, values, valid = feeds.telemetry(drive)
    times_ns = np.round(times_s * NS).astype(np.int64)
    lines = feeds.text_lines(drive)
    line_times = np.array([time_s for time_s, _ in lines])
    columns: dict[str, list[Any]] = {name: [] for name in FIELDS}
    for moment in moments:
        now_s = float(drive.frame_times_s[moment.now])
        end_ns = round((now_s - moment.telemetry_age_s - moment.frozen_telemetry_s) * NS)
        window = sample_and_hold(times_ns, values, valid, end_ns=end_ns, spec=WINDOW)
        columns["values"].append(window[0])
        columns["valid"].append(window[1])
        latest = int(np.searchsorted(line_times, now_s - 0.003)) - 1
        text_age_s = now_s - float(line_times[latest]) if latest >= 0 else np.inf
        spoken = text_age_s <= TEXT_MAX_AGE_S
        columns["spoken"].append(spoken)
        line = lines[latest][1] if spoken else ""
        columns["said"].append(next(i for i, phrase in enumerate(SAYINGS) if phrase in line))
        columns["text_utf8"].append(text_bytes(line))
        text_age_s = text_age_s if spoken else 0.0
        columns["age_s"].append((moment.camera_age_s, moment.microphone_age_s, moment.telemetry_age_s, text_age_s))
        for name, target in _targets(drive, moment.now, moment.frame).items():
            columns[name].append(target)
    return {name: np.array(column, FIELDS[name][0]) for name, column in columns.items() if column}


def _targets(drive: world.Drive, now: int, frame: int) -> dict[str, float]:
    seen = bool(drive.obstacle_visible[frame])
    return {
        "emergency": drive.emergency[now],
        "action": drive.action[now],
        "seen_source": drive.siren_source[frame] if drive.siren_visible[frame] else 0,
        "seen_obstacle": drive.obstacle[frame] if seen else 0,
        "seen_distance": np.log(max(1.0, drive.obstacle_m[frame])) if seen else np.nan,
        "seen_braking": drive.lead_braking[frame],
        "seen_zone": drive.zone[frame],
        "heard_source": drive.siren_source[now] if drive.siren_audible[now] > 0 else 0,
        "heard_horn": drive.horn[now] > 0,
        "heard_skid": drive.skid[now] > 0,
        "speed_mps": drive.speed_mps[now],
    }
