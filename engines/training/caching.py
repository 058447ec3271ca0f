"""From simulated runs to cached tokens: every sensor of every tick through the frozen encoders, once."""

from __future__ import annotations

import multiprocessing
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from engines.backends.base import Runner
from engines.networks.design import NS, SAMPLE_RATE_HZ
from engines.networks.microphone import LogMel
from engines.registry import open_engine
from engines.training.compression import Compression
from engines.training.low_level import coarse_camera, coarse_microphone, coarse_telemetry, coarse_text
from engines.training.moments import STREAMS, window_spec
from engines.training.token_set import TokenSet, joined, load_token_set
from engines.training.worlds import SimulatedRun, World
from pipeline.stages.encode import text_bytes
from pipeline.windows import sample_and_hold

Array = NDArray[Any]
NOTHING = np.zeros((1, 1, 0), np.float32)
"""Low-level features that were not asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Corruption:
    """What is done to samples before the encoders see them, to test robustness."""

    snr_db: float | None = None
    """Noise is added at this ratio to the run's sound: ``background`` (int16, 16 kHz, repeated) or else white."""
    background: Array | None = None
    blur_px: float = 0.0
    """Standard deviation of a Gaussian blur of the frame."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheJob:
    """Which runs, at which ticks, under which condition."""

    seeds: tuple[int, ...]
    duration_s: float
    tick_s: float
    condition: str = "dense"
    corruption: Corruption = Corruption()
    low_level: bool = False
    """Also keep what early fusion reads."""


def cache_tokens(
    make_world: Callable[[], World],
    engines: Path,
    jobs: Sequence[CacheJob],
    folder: Path,
    processes: int,
    on_run: Callable[[float], None] = lambda _: None,
) -> TokenSet:
    """The jobs' runs, one after the other, as one set in ``folder``, through the engines of the folder ``engines``.

    Jobs must agree in ``tick_s`` and ``low_level``. ``on_run`` gets the simulated seconds of each finished run. Deterministic in
    its arguments, whatever ``processes`` is. A run that an interrupted call has finished is not simulated again.
    """
    runs = [(place, job, seed) for place, (job, seed) in enumerate((j, s) for j in jobs for s in j.seeds)]
    parts = folder.with_name(folder.name + ".parts")
    parts.mkdir(parents=True, exist_ok=True)
    waiting = [run for run in runs if not (parts / f"{run[0]}" / "set.json").exists()]
    for _ in range(len(runs) - len(waiting)):
        on_run(runs[0][1].duration_s)
    chunks = [waiting[i : i + 2] for i in range(0, len(waiting), 2)]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        pending = {pool.submit(_cache_chunk, make_world, engines, chunk, parts): chunk for chunk in chunks}
        for finished in as_completed(pending):
            finished.result()
            for _, job, _ in pending[finished]:
                on_run(job.duration_s)
    # read, not mapped: with some 27 files a run, a thousand runs would be more files than a process may hold open
    whole = joined([load_token_set(parts / f"{place}", mapped=False) for place, _, _ in runs])
    whole.save(folder)
    shutil.rmtree(parts)
    return load_token_set(folder)


def _cache_chunk(make_world: Callable[[], World], engines: Path, runs: Sequence[tuple[int, CacheJob, int]], parts: Path) -> None:
    torch.set_num_threads(1)
    world = make_world()
    with world.opened(), ExitStack() as stack:
        runners = {stream: stack.enter_context(open_engine(engines / f"{stream}.json")) for stream in STREAMS}
        for place, job, seed in runs:
            tokens_of_run(world, runners, job, seed).save(parts / f"{place}")


def tokens_of_run(world: World, engines: Mapping[str, Runner], job: CacheJob, seed: int) -> TokenSet:
    """One run as a set. ``world`` must be open, ``engines`` (one a stream) activated."""
    run = world.run(seed, job.duration_s, job.condition)
    ticks = round(job.duration_s / job.tick_s)
    time_s = np.arange(ticks) * job.tick_s
    lanes = {
        "camera": _camera(world, engines["camera"], run, job, time_s),
        "microphone": _microphone(world, engines["microphone"], run, job, time_s),
        "telemetry": _telemetry(world, engines["telemetry"], run, job, time_s),
        "text": _text(world, engines["text"], run, time_s),
    }
    frames = np.minimum(np.round(time_s * world.frame_rate_hz).astype(np.int64), run.frames - 1)
    rng = np.random.Generator(np.random.PCG64([seed, 103]))
    seen = {s: clean + spread * rng.standard_normal(clean.shape) for s, (clean, spread) in run.percepts(frames).items()}
    return TokenSet(
        tick_s=job.tick_s,
        seeds=(seed,),
        run=np.zeros(ticks, np.int32),
        time_s=time_s.astype(np.float32),
        tokens={s: lane.tokens.astype(np.float16) for s, lane in lanes.items()},
        low_level={s: lane.low_level.astype(np.float16) for s, lane in lanes.items()} if job.low_level else {},
        state=np.stack([lanes[s].state for s in STREAMS], axis=1),
        age_s=np.stack([lanes[s].age_s for s in STREAMS], axis=1),
        labels={head: labels[frames].astype(np.uint8) for head, labels in run.labels.items()},
        scored=dict(run.scored(frames)),
        percepts={s: values.astype(np.float32) for s, values in seen.items()},
        decisive=run.decisive(frames),
        events=tuple(replace(e, run=0) for e in run.events),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Lane:
    tokens: Array
    low_level: Array
    state: NDArray[np.uint8]
    age_s: NDArray[np.float32]


def _camera(world: World, engine: Runner, run: SimulatedRun, job: CacheJob, time_s: Array) -> _Lane:
    from engines.export import camera_preprocessing, session_from_model

    frames = np.floor(time_s * world.frame_rate_hz + 1e-6).astype(np.int64)
    delivered, age_s, state = _newest(world, "camera", time_s, frames / world.frame_rate_hz, run, 0.0)
    compress = Compression(run.seed, world.design.frame_hw, world.frame_rate_hz)
    names = list(world.design.views)
    cut = session_from_model(camera_preprocessing(world.design.views)) if job.low_level else None
    tokens, coarse, last, encoded = [], [], -1, np.zeros(0, np.float32)
    for index in frames.tolist():
        if index != last:
            frame = _blurred(compress(run.frame(index)), job.corruption.blur_px)
            encoded = engine.infer({"frame_hwc": frame})["tokens"].copy()
            last = index
        tokens.append(encoded)
        coarse.append(coarse_camera(cut.run(names, {"frame_hwc": frame})) if cut is not None else NOTHING)
    return _Lane(tokens=np.stack(tokens)[delivered], low_level=np.concatenate(coarse)[delivered], state=state, age_s=age_s)


def _blurred(frame: Array, blur_px: float) -> Array:
    if blur_px <= 0:
        return frame
    import cv2

    blurred: Array = cv2.GaussianBlur(frame, (0, 0), blur_px)
    return blurred


def _microphone(world: World, engine: Runner, run: SimulatedRun, job: CacheJob, time_s: Array) -> _Lane:
    design = world.design.microphone
    hop = SAMPLE_RATE_HZ * design.hop_ns // NS
    ends = np.floor(time_s * SAMPLE_RATE_HZ / hop + 1e-6).astype(np.int64) * hop
    delivered, age_s, state = _newest(world, "microphone", time_s, ends / SAMPLE_RATE_HZ, run, design.window_ns / NS)
    pcm = _noisy(run.pcm, run.seed, job.corruption)
    log_mel = LogMel().eval() if job.low_level else None
    tokens: dict[int, Array] = {}
    coarse: dict[int, Array] = {}
    for end in sorted(set(ends.tolist())):
        window = pcm[max(0, end - design.samples) : end]
        window = np.pad(window, (design.samples - len(window), 0))
        tokens[end] = engine.infer({"pcm": window})["tokens"].copy()
        coarse[end] = NOTHING
        if log_mel is not None:
            with torch.inference_mode():
                coarse[end] = coarse_microphone(log_mel(torch.from_numpy(window)[None]).numpy())
    chosen = ends[delivered].tolist()
    return _Lane(
        tokens=np.stack([tokens[end] for end in chosen]),
        low_level=np.concatenate([coarse[end] for end in chosen]),
        state=state,
        age_s=age_s,
    )


def _noisy(pcm: Array, seed: int, corruption: Corruption) -> Array:
    if corruption.snr_db is None:
        return pcm
    wave = pcm.astype(np.float32)
    if corruption.background is not None:
        noise = np.resize(corruption.background.astype(np.float32), len(wave))
    else:
        noise = np.random.Generator(np.random.PCG64([seed, 104])).standard_normal(len(wave), dtype=np.float32)
    power = float((wave**2).mean()) / max(float((noise**2).mean()), 1e-9)
    mixed = wave + noise * np.float32((power * 10 ** (-corruption.snr_db / 10)) ** 0.5)
    return np.clip(mixed, -32768, 32767).astype(np.int16)


def _telemetry(world: World, engine: Runner, run: SimulatedRun, job: CacheJob, time_s: Array) -> _Lane:
    spec, design = window_spec(world), world.design.telemetry
    ends_ns = np.floor(time_s * NS / design.hop_ns + 1e-6).astype(np.int64) * design.hop_ns
    delivered, age_s, state = _newest(world, "telemetry", time_s, ends_ns / NS, run, spec.window_ns / NS)
    times_ns = np.round(run.row_times_s * NS).astype(np.int64)
    tokens, coarse = [], []
    for end_ns in ends_ns.tolist():
        values, valid = _rows(times_ns, run, end_ns, spec)
        tokens.append(engine.infer({"values": values, "valid": valid})["tokens"].copy())
        coarse.append(coarse_telemetry(values[None], valid[None], design) if job.low_level else NOTHING)
    return _Lane(tokens=np.stack(tokens)[delivered], low_level=np.concatenate(coarse)[delivered], state=state, age_s=age_s)


def _rows(times_ns: Array, run: SimulatedRun, end_ns: int, spec: Any) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """One window, from the rows about it alone: searching a whole run for each would be slow."""
    first, last = np.searchsorted(times_ns, (end_ns - spec.window_ns - 2 * spec.hold_ns, end_ns + 1))
    if first == last:
        nothing = np.zeros((spec.window_ns // spec.step_ns, run.row_values.shape[1]), np.float32)
        return nothing, nothing
    rows = slice(int(first), int(last))
    values, valid = sample_and_hold(times_ns[rows], run.row_values[rows], run.row_valid[rows], end_ns=end_ns, spec=spec)
    return np.asarray(values, np.float32), np.asarray(valid, np.float32)


def _text(world: World, engine: Runner, run: SimulatedRun, time_s: Array) -> _Lane:
    """The latest line that came; quiet where none did or it is too old."""
    nothing = (-1e9, "")  # what was heard before anything was said
    gaps_s = run.gaps_s.get("text", ())
    heard = [nothing, *((t, line) for t, line in run.lines if not any(a <= t < b for a, b in gaps_s))]
    times = np.array([t for t, _ in heard])
    known = sorted({line for _, line in heard})
    table = np.stack([text_bytes(line) for line in known])
    tokens = np.stack([engine.infer({"text_utf8": line})["tokens"].copy() for line in table])
    latest = np.searchsorted(times, time_s - 0.003) - 1
    age_s = time_s - times[latest]
    spoken = age_s <= world.max_age_s["text"]
    row = np.array([known.index(heard[i][1]) if s else known.index("") for i, s in zip(latest, spoken, strict=True)], np.int64)
    return _Lane(
        tokens=tokens[row],
        low_level=coarse_text(table)[row],
        state=np.where(spoken, 0, 1).astype(np.uint8),
        age_s=np.where(spoken, age_s, 0.0).astype(np.float32),
    )


def _newest(
    world: World, stream: str, time_s: Array, end_s: Array, run: SimulatedRun, window_s: float
) -> tuple[Array, NDArray[np.float32], NDArray[np.uint8]]:
    """By tick: which tick's window serves, its age, and the state, as gaps of the sensor leave them."""
    whole = end_s >= window_s - 1e-9
    for start, stop in run.gaps_s.get(stream, ()):
        whole &= ~((end_s > start) & (end_s - window_s < stop)) if window_s else ~((end_s >= start) & (end_s < stop))
    place = np.maximum.accumulate(np.where(whole, np.arange(len(time_s)), -1))
    age_s = np.where(place >= 0, time_s - end_s[np.maximum(place, 0)], np.inf)
    present = age_s <= world.max_age_s[stream] + 1e-6
    state = np.where(present, 0, 2).astype(np.uint8)
    return np.maximum(place, 0), np.where(present, age_s, 0.0).astype(np.float32), state
