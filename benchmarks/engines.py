"""Engines through the runner protocol, timed turn about on windows of a log, beside ONNX Runtime called bare.

The bare call is what the protocol is held to: a session with preallocated I/O binding, inputs copied into it, nothing checked.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.building import opened_engine
from actors.calibration import calibration_windows
from actors.comparing import in_turn
from actors.plan import RunPlan, load_manifests
from engines.manifest import load_engine_files
from engines.registry import EngineChoice

BARE = "bare ort"
Show = Callable[[str, int, int], None]
"""What is timed, how many calls are done, of how many."""


class BareSession:
    """ONNX Runtime as its own documentation says to call it fast: one session, bound once."""

    def __init__(self, manifest_path: Path, window: Mapping[str, NDArray[Any]], threads: int) -> None:
        import onnxruntime

        manifest, model = load_engine_files(manifest_path)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._binding = self._session.io_binding()
        self._inputs = {name: np.zeros_like(array) for name, array in window.items()}
        for name, buffer in self._inputs.items():
            self._binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(buffer))
        for spec in manifest.outputs:
            buffer = np.zeros([d or 0 for d in spec.shape], dtype=spec.dtype)
            self._binding.bind_ortvalue_output(spec.name, onnxruntime.OrtValue.ortvalue_from_numpy(buffer))

    def infer(self, inputs: Mapping[str, NDArray[Any]]) -> None:
        """Copy in, run."""
        for name, buffer in self._inputs.items():
            buffer[...] = inputs[name]
        self._session.run_with_iobinding(self._binding)


def time_engines(
    replay: RunPlan, choices: Sequence[EngineChoice], cache: Path, calls: int, show: Show
) -> dict[str, dict[str, array[int]]]:
    """Role, then choice (and `BARE`), to the duration of each call in ns. Raises EngineError: one cannot run here."""
    found: dict[str, dict[str, array[int]]] = {}
    for role, (manifest, _) in load_manifests(replay.scenario, replay.folder).items():
        show(f"{role}: sampling", 0, calls)
        windows = calibration_windows(replay, role, cache)
        with ExitStack() as stack:
            timed: dict[str, Any] = {BARE: BareSession(manifest, windows[0], replay.scenario.runtime.threads)}
            for choice in choices:
                timed[choice.name] = stack.enter_context(opened_engine(replay, role, choice, cache))
            found[role] = _turn_about(timed, windows, calls, partial(_show_of, show, role, calls))
    return found


def one_tick(timed: Mapping[str, Mapping[str, array[int]]]) -> dict[str, array[int]]:
    """Choice to the sum over all roles, call by call: what a decision pays that reads every stream anew."""
    return {name: array("q", map(sum, zip(*(by[name] for by in timed.values()), strict=True))) for name in _shared(timed)}


def _shared(timed: Mapping[str, Mapping[str, array[int]]]) -> list[str]:
    return list(next(iter(timed.values()), {}))


def _show_of(show: Show, role: str, calls: int, done: int) -> None:
    show(role, done, calls)


def _turn_about(
    timed: Mapping[str, Any], windows: Sequence[Mapping[str, NDArray[Any]]], calls: int, show: Callable[[int], None]
) -> dict[str, array[int]]:
    """Every engine on every window, in turn, so that noise and caches favour none."""
    samples = {name: array("q") for name in timed}
    order = list(timed.items())
    for call in range(calls):
        window = windows[call % len(windows)]
        for name, runner in in_turn(order, call):
            before_ns = time.perf_counter_ns()
            runner.infer(window)
            samples[name].append(time.perf_counter_ns() - before_ns)
        if call % 50 == 0:
            show(call)
    return samples
