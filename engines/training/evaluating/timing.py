"""How long one tick takes on one core: four encoders from raw samples, and the fusion."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from engines.export import example_inputs
from engines.networks.design import ScenarioDesign
from engines.registry import open_engine
from engines.training.evaluation.findings import LatencyFigures

WARM_UP = 50


def tick_latency(engines: Path, design: ScenarioDesign, ticks: int) -> LatencyFigures:
    """Every engine once a tick, one after the other, one thread, on one core where the system lets us choose it.

    In a process of its own: the evaluation's progress bars, drawn by a thread, hold the interpreter for longer than a tick takes.
    The inputs are random; an ONNX graph of this kind takes the same time whatever they hold.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_tick_latency, engines, design, ticks).result()


def _tick_latency(engines: Path, design: ScenarioDesign, ticks: int) -> LatencyFigures:
    roles = (*design.token_counts, "fusion")
    inputs = {role: example_inputs(role, design) for role in roles}
    taken = np.zeros((ticks, len(roles)))
    with ExitStack() as stack:
        runners = {role: stack.enter_context(open_engine(engines / f"{role}.json")) for role in roles}
        stack.enter_context(_on_one_core())
        for tick in range(-WARM_UP, ticks):
            for place, role in enumerate(roles):
                start = time.perf_counter_ns()
                runners[role].infer(inputs[role])
                if tick >= 0:
                    taken[tick, place] = (time.perf_counter_ns() - start) / 1e6
    whole = taken.sum(axis=1)
    p50, p99, p999 = (float(v) for v in np.percentile(whole, [50, 99, 99.9]))
    parts = {role: (float(np.percentile(taken[:, i], 50)), float(np.percentile(taken[:, i], 99))) for i, role in enumerate(roles)}
    return LatencyFigures(
        what="all four encoders and the fusion, ONNX Runtime, one thread on one core",
        p50_ms=p50,
        p99_ms=p99,
        p999_ms=p999,
        ticks=ticks,
        parts=parts,
        note=f"frames of {design.frame_hw[1]} x {design.frame_hw[0]}; the machine is shared, so the tail is the machine's too",
    )


@contextmanager
def _on_one_core() -> Iterator[None]:
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
