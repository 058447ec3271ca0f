"""One interpreter's engines for `benchmarks.gpu`: opened, compared with the reference and timed, told what to do line by line.

``python -m benchmarks.gpu_contenders FOLDER`` reads one JSON object a line and answers each with one. It runs wherever `engines`
does, on CPython 3.10 with TensorRT 8.6 too, for which reason it imports nothing else of ours.
"""

from __future__ import annotations

import json
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from engines.backends.base import DeviceFault, Runner
from engines.manifest import EngineError
from engines.parity import ParityMeter
from engines.registry import availabilities, open_engine
from engines.windows import Window, load_windows

Infer = Callable[[Window], Mapping[str, Any]]
TimedCall = Callable[[int], int]
"""Runs the engine on one of the windows, by index, and says how many ns it took."""
MAX_CALLS = 1000
"""Of one series in one round."""


class Opened:
    """One engine on one backend, ready to be timed: ``infer`` is what a call does, ``series`` is what of it is timed."""

    def __init__(self, runner: Runner, windows: list[Window]) -> None:
        self.runner, self.windows = runner, windows
        self.closing = ExitStack()
        self.closing.callback(runner.deactivate)
        self.series: dict[str, TimedCall] = {}
        self.serve_by(runner.infer)

    def serve_by(self, infer: Infer) -> None:
        """What is called, compared and timed from host to host."""
        self.infer = infer
        self.series["host to host"] = self.timed(infer)

    def timed(self, infer: Infer) -> TimedCall:
        """A call by the host's clock."""

        def call(index: int) -> int:
            window = self.windows[index % len(self.windows)]
            before_ns = time.perf_counter_ns()
            infer(window)
            return time.perf_counter_ns() - before_ns

        return call


class Contenders:
    """What this interpreter has, on the engines of a prepared folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.open: dict[str, Opened] = {}

    def probe(self) -> dict[str, Any]:
        """Backend to versions or reason."""
        manifest = next(self.folder.glob("*/fp32/*.json"))
        found = {n: {"reason": a.reason, "versions": a.versions} for n, a in availabilities(manifest).items()}
        return {"backends": found, "python": sys.version.split()[0], "numpy": np.__version__}

    def build(self, engine: str, precision: str) -> dict[str, Any]:
        """Build a TensorRT plan into the cache."""
        began = time.perf_counter()
        self._runner(engine, "tensorrt", precision).compile()
        return {"build_s": round(time.perf_counter() - began, 2)}

    def open_one(self, name: str, engine: str) -> dict[str, Any]:
        """Open a contender on an engine (``driving/camera``) and hold it to the reference's outputs."""
        backend, _, precision = name.partition(" ")
        began = time.perf_counter()
        runner = self._runner(engine, backend.partition("+")[0], precision or "fp32")
        runner.activate()
        opened_s = time.perf_counter() - began
        opened = Opened(runner, self._arrays(engine, "windows"))
        for _ in range(3):
            runner.infer(opened.windows[0])
        if backend == "torch+compile":
            _compile_torch(opened)
        elif backend == "torch":
            _time_torch_on_device(opened)
        elif backend == "tensorrt":
            _time_tensorrt(opened)
        if name in self.open:
            self.open[name].closing.close()
        self.open[name] = opened
        return {"opened_s": round(opened_s, 2), "parity": self._parity(engine, opened)}

    def time(self, name: str, series: str, start: int, limit_s: float) -> dict[str, Any]:
        """Durations in ns of at most `MAX_CALLS` calls and at most ``limit_s``."""
        call = self.open[name].series[series]
        end = time.perf_counter() + limit_s
        durations = []
        while len(durations) < MAX_CALLS and time.perf_counter() < end:
            durations.append(call(start + len(durations)))
        return {"ns": durations}

    def close(self) -> dict[str, Any]:
        """Close all that is open."""
        for opened in self.open.values():
            opened.closing.close()
        self.open = {}
        return {}

    def together(self, engines: list[str], precision: str, limit_s: float) -> dict[str, Any]:
        """TensorRT engines at once, each in a thread and on a stream of its own: durations of each, in ns."""
        runners = [self._runner(engine, "tensorrt", precision) for engine in engines]
        windows = [self._arrays(engine, "windows") for engine in engines]
        found: list[list[int]] = [[] for _ in engines]
        gate = threading.Barrier(len(engines))

        def work(place: int) -> None:
            runner = runners[place]
            runner.infer(windows[place][0])
            gate.wait()
            end = time.perf_counter() + limit_s
            while time.perf_counter() < end:
                before_ns = time.perf_counter_ns()
                runner.infer(windows[place][len(found[place]) % len(windows[place])])
                found[place].append(time.perf_counter_ns() - before_ns)

        for runner in runners:
            runner.activate()
        threads = [threading.Thread(target=work, args=(place,)) for place in range(len(engines))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for runner in runners:
            runner.deactivate()
        return {"ns": dict(zip(engines, found))}  # noqa: B905 - one list an engine, by construction

    def endure(self, engine: str, precision: str, calls: int) -> dict[str, Any]:
        """Whether outputs stay where they are, and by how much Python's memory grows."""
        windows = self._arrays(engine, "windows")
        with self._runner(engine, "tensorrt", precision) as runner:
            addresses = {n: a.ctypes.data for n, a in runner.infer(windows[0]).items()}
            tracemalloc.start()
            for index in range(200):  # what is allocated once and kept is no growth
                outputs = runner.infer(windows[index % len(windows)])
            before = tracemalloc.get_traced_memory()[0]
            for index in range(calls):
                outputs = runner.infer(windows[index % len(windows)])
            grown = tracemalloc.get_traced_memory()[0] - before
            tracemalloc.stop()
            stayed = {n: a.ctypes.data for n, a in outputs.items()} == addresses
        return {"calls": calls, "addresses_constant": stayed, "grown_bytes": grown}

    def faults(self, engine: str) -> dict[str, Any]:
        """What bad input and a full device lead to, in words."""
        windows = self._arrays(engine, "windows")
        said: dict[str, Any] = {}
        with self._runner(engine, "tensorrt", "fp32") as runner:
            name = next(iter(windows[0]))
            for what, bad in (("wrong shape", windows[0][name][:1]), ("wrong dtype", windows[0][name].astype(np.float64))):
                said[what] = _said(lambda bad=bad: runner.infer({**windows[0], name: bad}))  # type: ignore[misc]
            floats = {n: np.full_like(a, np.nan) for n, a in windows[0].items() if a.dtype == np.float32}
            if floats:
                said["not a number"] = _said(lambda: runner.infer({**windows[0], **floats}))
            said["after that"] = _said(lambda: runner.infer(windows[0]))
        said["full device"] = _on_a_full_device(lambda: self._runner(engine, "tensorrt", "fp32"))
        return said

    def rebuilt(self, engine: str) -> dict[str, Any]:
        """How long a plan takes from the cache, and again after its file was cut and after its key was altered."""
        found = {}
        found["from the cache"] = self.build(engine, "fp32")["build_s"]
        key = self._key_of(engine)
        plan = key.with_suffix(".plan")
        plan.write_bytes(plan.read_bytes()[:1000])
        found["cut"] = self.build(engine, "fp32")["build_s"]
        key.write_text(key.read_text(encoding="utf-8").replace('"driver": ', '"driver": 1'), encoding="utf-8")
        found["another driver's"] = self.build(engine, "fp32")["build_s"]
        return found

    def _key_of(self, engine: str) -> Path:
        manifest = json.loads(self._manifest(engine, "fp32").read_text(encoding="utf-8"))
        keys = (self.folder / "plans").glob("*.key")
        return next(k for k in keys if json.loads(k.read_text(encoding="utf-8"))["model_sha256"] == manifest["sha256"])

    def _manifest(self, engine: str, precision: str) -> Path:
        scenario, _, role = engine.partition("/")
        return self.folder / scenario / precision / f"{role}.json"

    def _runner(self, engine: str, backend: str, precision: str) -> Runner:
        shapes = {name: array.shape for name, array in self._arrays(engine, "windows")[0].items()}
        return open_engine(self._manifest(engine, precision), backend, cache=self.folder / "plans", shapes=shapes)

    def _arrays(self, engine: str, what: str) -> list[Window]:
        scenario, _, role = engine.partition("/")
        return load_windows(self.folder / scenario / f"{role}.{what}.npz")

    def _parity(self, engine: str, opened: Opened) -> list[dict[str, Any]]:
        meter = ParityMeter(engine)
        for window, wanted in zip(opened.windows, self._arrays(engine, "reference")):  # noqa: B905 - made together
            meter.add(wanted, opened.infer(window))
        return [{n: getattr(p, n) for n in type(p).__slots__} for p in meter.result()]


def _time_tensorrt(opened: Opened) -> None:
    from engines.backends.tensorrt.runner import TensorRtRunner
    from engines.backends.tensorrt.timing import DeviceTimer

    assert isinstance(opened.runner, TensorRtRunner)
    bound = opened.runner.bound
    assert bound is not None

    opened.series["host to host, no graph"] = opened.timed(lambda window: bound(window, with_graph=False))
    for series, with_graph in (("device only", True), ("device only, no graph", False)):
        timer = DeviceTimer(bound, with_graph=with_graph)
        opened.closing.callback(timer.close)
        opened.series[series] = lambda index, timer=timer: timer()  # type: ignore[misc]


def _time_torch_on_device(opened: Opened) -> None:
    import torch

    if not torch.cuda.is_available():
        return
    module, inputs = opened.runner.resident()  # type: ignore[attr-defined]
    tensors = tuple(inputs.values())
    opened.series["device only"] = _events_around(lambda: module(*tensors))


def _compile_torch(opened: Opened) -> None:
    """The same module through torch.compile, as its documentation says for small batches: with CUDA graphs."""
    import torch

    from engines.backends.torch import without_tf32

    opened.closing.enter_context(without_tf32())  # as the runner has it, for as long as this is open
    module, inputs = opened.runner.resident()  # type: ignore[attr-defined]
    tensors = tuple(inputs.values())
    outputs = [spec.name for spec in opened.runner.manifest.outputs]
    compiled = torch.compile(module, mode="reduce-overhead", dynamic=False)
    on_gpu = tensors[0].is_cuda
    hosts = {n: torch.empty_like(t, device="cpu").pin_memory() if on_gpu else t.clone() for n, t in inputs.items()}

    def infer(window: Mapping[str, Any]) -> dict[str, Any]:
        with torch.inference_mode():
            for name, host in hosts.items():
                host.numpy()[...] = window[name]
                inputs[name].copy_(host, non_blocking=True)
            return {n: r.cpu().numpy() for n, r in zip(outputs, compiled(*tensors))}  # noqa: B905 - by construction

    for _ in range(4):
        infer(opened.windows[0])
    opened.serve_by(infer)
    if on_gpu:
        opened.series["device only"] = _events_around(lambda: compiled(*tensors))


def _events_around(work: Callable[[], Any]) -> TimedCall:
    import torch

    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)

    def timed(_: int) -> int:
        with torch.inference_mode():
            start.record()
            work()
            end.record()
            end.synchronize()
        return round(start.elapsed_time(end) * 1e6)

    return timed


def _on_a_full_device(make: Callable[[], Runner]) -> dict[str, str]:
    """Activate while something else holds the device's memory, then again when it is free."""
    import pycuda.driver as cuda

    from engines.backends.tensorrt.device import current_context

    held = []
    with current_context():
        size = 1 << 34
        while size >= 1 << 16:
            try:
                held.append(cuda.mem_alloc(size))
            except cuda.MemoryError:
                size //= 2
    said = {"full": _said(lambda: _activated(make))}
    with current_context():
        for block in held:
            block.free()
    return {**said, "free again": _said(lambda: _activated(make))}


def _activated(make: Callable[[], Runner]) -> None:
    with make():
        pass


def _said(work: Callable[[], object]) -> str:
    try:
        work()
    except DeviceFault as error:
        return f"DeviceFault: {error}"
    except EngineError as error:
        return f"{type(error).__name__}: {error}"
    return "served"


def main(folder: Path) -> None:
    """Answer until standard input ends."""
    contenders = Contenders(folder)
    verbs: dict[str, Callable[..., dict[str, Any]]] = {
        "probe": contenders.probe,
        "build": contenders.build,
        "open": contenders.open_one,
        "time": contenders.time,
        "close": contenders.close,
        "together": contenders.together,
        "endure": contenders.endure,
        "faults": contenders.faults,
        "rebuilt": contenders.rebuilt,
    }
    answers = sys.stdout
    sys.stdout = sys.stderr  # libraries that print would break the protocol
    for line in sys.stdin:
        order = json.loads(line)
        try:
            answer = verbs[order.pop("do")](**order)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"[:500]}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
