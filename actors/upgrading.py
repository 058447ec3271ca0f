"""A run starts at once on the reference engine; a builder process makes the engine of choice, which then takes over.

Nothing is compiled on the hot path: deriving, compiling, warming up and the comparison on windows of the running stream happen in
another process, at low priority. Here the result is loaded in a thread of its own and takes over between two calls. When it fails
in a call, the reference answers that very call, and all that follow.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.building import BuildRequest, Built
from actors.engines import reference_engine, warm_up
from actors.plan import RunPlan, load_manifests
from actors.sampling import Reservoir, shapes_of
from engines.backends.base import Runner
from engines.cache import default_cache
from engines.manifest import EngineError
from engines.registry import REFERENCE, engine_choice, open_engine
from engines.windows import Window, save_windows
from pipeline.stages.infer import Infer

SAMPLES = 24
"""Windows of the running stream that an engine is compared on."""
PATIENCE_S = 8.0
"""A sparse stream's engine is compared on what there is after so long."""
BUILD_LIMIT_S = 1800.0
NICENESS = 10
_ONE_AT_A_TIME = threading.Lock()
"""Builders of one process's engines run one after the other: a box has few cores, and a run needs them."""

Build = Callable[[BuildRequest, threading.Event], Built]


class UpgradingEngine:
    """One role's engine. Implements `pipeline.stages.infer.Infer`; ``infer`` belongs to one thread, ``offer_engine`` to any."""

    def __init__(self, role: str, reference: Infer) -> None:
        self._role, self._reference = role, reference
        self._fast: Runner | None = None
        self._waiting: tuple[Runner, str] | None = None
        self.engine = ""
        """As `pipeline.stages.infer.Infer` says it."""
        self.notices: list[str] = []
        self.sampling: Reservoir | None = None
        """Takes the windows that come by while it is set."""

    def infer(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run once on whatever serves."""
        if self._waiting is not None:
            self._fast, self.engine = self._waiting
            self._waiting = None
        if self._fast is not None:
            return self._on_fast(self._fast, inputs)
        if self.sampling is not None:
            self.sampling.offer(inputs)
        return self._reference.infer(inputs)

    def offer_engine(self, runner: Runner, engine: str) -> None:
        """From the next call on, ``runner`` (activated and warm) serves, named ``engine`` in receipts."""
        self._waiting = (runner, engine)

    def _on_fast(self, fast: Runner, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        try:
            outputs = fast.infer(inputs)
            strays = [name for name, array in outputs.items() if not np.isfinite(array).all()]
            if not strays:
                return outputs
            reason = f"{strays[0]} is not finite"
        except Exception as error:  # a device's libraries raise what they like, and the run must go on
            reason = " ".join(str(error).split())[:200]
        outputs = self._reference.infer(inputs)  # where the input is at fault, this raises too, and nothing is swapped
        self.notices.append(f"{self._role}: {REFERENCE} serves again, {self.engine.partition(':')[0]} failed: {reason}")
        self._fast, self.engine = None, ""
        return outputs


class Upgrade:
    """The thread that samples, has an engine built, loads it and offers it."""

    def __init__(self, target: UpgradingEngine, plan: RunPlan, role: str, build: Build, cache: Path) -> None:
        self._target, self._plan, self._role, self._build, self._cache = target, plan, role, build, cache
        self._stopping = threading.Event()
        self._loaded: Runner | None = None
        self._thread = threading.Thread(target=self._run, name=f"upgrade {role}", daemon=True)

    def __enter__(self) -> Upgrade:
        self._target.sampling = Reservoir(SAMPLES)
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stopping.set()
        self._thread.join(timeout=10.0)
        if self._loaded is not None:
            self._loaded.deactivate()

    def _run(self) -> None:
        choice = engine_choice(self._plan.scenario.runtime.engine)
        try:
            windows = self._sampled()
            if not windows:
                return
            with _ONE_AT_A_TIME, tempfile.TemporaryDirectory(prefix="chiasm-build-") as folder:
                if self._stopping.is_set():
                    return
                built = self._build(self._request(windows, Path(folder)), self._stopping)
            runner = open_engine(
                Path(built.manifest),
                choice.backend,
                threads=self._plan.scenario.runtime.threads,
                cache=self._cache / choice.backend,
                shapes=shapes_of(windows),
            )
            runner.activate()
            self._loaded = runner
            warm_up(runner, runner.manifest, shapes_of(windows))
            for window in windows[:3]:
                runner.infer(window)
        except (EngineError, OSError) as error:
            if not self._stopping.is_set():
                self._target.notices.append(f"{self._role}: {REFERENCE} serves all the run, {choice.name} does not: {error}")
            return
        parity = f"off by {built.max_relative:.1e} at most on {built.compared} windows"
        self._target.notices.append(f"{self._role}: {choice.name} took over, built in {built.took_s:.1f} s, {parity}")
        self._target.offer_engine(runner, built.engine)

    def _sampled(self) -> list[Window]:
        """What came by, once that is enough; nothing if the run ends first."""
        sampling = self._target.sampling
        assert sampling is not None
        first_s: float | None = None
        while not self._stopping.wait(0.1):
            if sampling.windows and first_s is None:
                first_s = time.monotonic()
            if len(sampling.windows) >= SAMPLES or (first_s is not None and time.monotonic() - first_s > PATIENCE_S):
                self._target.sampling = None
                return list(sampling.windows)
        return []

    def _request(self, windows: list[Window], folder: Path) -> BuildRequest:
        save_windows(folder / "windows.npz", windows)
        plan = self._plan
        demo = plan.scenario.demo_log
        return BuildRequest(
            manifest=str(load_manifests(plan.scenario, plan.folder)[self._role][0].resolve()),
            choice=plan.scenario.runtime.engine,
            cache=str(self._cache),
            threads=plan.scenario.runtime.threads,
            windows=str(folder / "windows.npz"),
            scenario_folder=str(plan.folder.resolve()),
            calibration_log=str((plan.folder / demo).resolve()) if demo is not None and (plan.folder / demo).is_file() else "",
        )


def build_in_process(request: BuildRequest, stopping: threading.Event) -> Built:
    """A builder process, killed when ``stopping`` is set. Raises EngineError with its word, or with how it ended."""
    with tempfile.TemporaryDirectory(prefix="chiasm-build-") as folder:
        order = Path(folder) / "request.json"
        order.write_text(json.dumps(asdict(request)), encoding="utf-8")
        process = subprocess.Popen(
            [sys.executable, "-m", "actors.building", str(order)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        )
        try:
            os.setpriority(os.PRIO_PROCESS, process.pid, NICENESS)
            output = _output_of(process, stopping)
        finally:
            process.kill()
            process.wait()
    return _answer(output, process.returncode)


def _output_of(process: subprocess.Popen[str], stopping: threading.Event) -> str:
    deadline = time.monotonic() + BUILD_LIMIT_S
    while time.monotonic() < deadline:
        try:
            return process.communicate(timeout=0.2)[0]
        except subprocess.TimeoutExpired:
            if stopping.is_set():
                raise EngineError("the run ended before it was ready") from None
    raise EngineError(f"its builder took more than {BUILD_LIMIT_S:g} s; build it before (chiasm engines build)")


def _answer(output: str, code: int) -> Built:
    lines = output.strip().splitlines()
    try:
        answer = json.loads(lines[-1])
        if "error" in answer:
            raise EngineError(answer["error"])
        return Built(**answer)
    except (IndexError, ValueError, TypeError):
        raise EngineError(f"its builder ended with {code} and no result; try chiasm engines build") from None


@contextmanager
def upgrading_engine(
    plan: RunPlan, role: str, build: Build = build_in_process, cache: Path | None = None
) -> Iterator[UpgradingEngine]:
    """The reference engine at once, and the scenario's ``runtime.engine`` when it is ready."""
    with reference_engine(plan, role) as reference:
        target = UpgradingEngine(role, reference)
        with Upgrade(target, plan, role, build, cache or default_cache()):
            yield target
