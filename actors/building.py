"""Makes an engine ready: derived, compiled, warmed up, held to its parity budget. Also as a process of its own, beside a run.

``python -m actors.building REQUEST.json`` writes one JSON line, a `Built`, and exits with 0; where the engine cannot serve, it
writes ``{"error": …}`` and exits with 1.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from actors.calibration import calibration_name, calibration_windows
from actors.engines import warm_up
from actors.plan import RunPlan, calibration_plan, load_manifests, replay_plan
from actors.sampling import shapes_of
from engines.backends.base import Runner, Shapes
from engines.cache import derived_engine
from engines.manifest import EngineError
from engines.parity import TensorParity, excess, parity_of
from engines.registry import COMPILED_PER_SHAPE, REFERENCE, EngineChoice, engine_choice, open_engine
from engines.windows import Window, load_windows
from pipeline.config import load_scenario


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildRequest:
    """What a builder process is told. Paths are absolute."""

    manifest: str
    choice: str
    cache: str
    threads: int
    windows: str
    """Windows of the running stream, as `actors.calibration.save_windows` writes them: parity is measured on them."""
    scenario_folder: str
    calibration_log: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """An engine that is ready to serve."""

    manifest: str
    choice: str
    sha256: str
    took_s: float
    max_relative: float
    """The worst tensor's max|a-b| / max|a| against the reference."""
    compared: int
    """Windows."""

    @property
    def engine(self) -> str:
        """As receipts name it."""
        return engine_name(engine_choice(self.choice), self.sha256)


def engine_name(choice: EngineChoice, sha256: str) -> str:
    """What a receipt says of an engine: its graph's hash, with the choice before it on all but the reference."""
    return sha256 if choice.name == REFERENCE else f"{choice.name}:{sha256}"


def prepared_engine(manifest: Path, choice: EngineChoice, cache: Path, replay: RunPlan | None) -> Path:
    """The manifest of the engine in the choice's precision, made now if it is not in the cache.

    ``replay`` plays the log that int8 is calibrated on. Raises EngineError.
    """
    role = manifest.stem
    log = replay.replay_log if replay is not None and choice.precision == "int8" else None

    def windows() -> Sequence[Window]:
        return calibration_windows(replay, role, cache) if replay is not None and log is not None else ()

    return derived_engine(
        manifest,
        choice.precision,
        cache,
        calibration=windows,
        calibrated_on=calibration_name(log) if log is not None else "",
        symmetric=choice.backend == "tensorrt",
    )


def shapes_to_compile_for(choice: EngineChoice, replay: RunPlan, role: str, cache: Path) -> Shapes:
    """What the role's engine reads in the log that ``replay`` plays, for backends that compile for given shapes; else nothing."""
    return shapes_of(calibration_windows(replay, role, cache)) if choice.backend in COMPILED_PER_SHAPE else {}


@contextmanager
def opened_engine(plan: RunPlan, role: str, choice: EngineChoice, cache: Path) -> Iterator[Runner]:
    """The activated and warmed engine of a role on a choice, made now if it is not in the cache.

    ``plan`` replays a log: that is where shapes come from, for backends that compile for them. Raises EngineError.
    """
    manifest = load_manifests(plan.scenario, plan.folder)[role][0]
    path = prepared_engine(manifest, choice, cache, calibration_plan(plan))
    shapes = shapes_to_compile_for(choice, plan, role, cache)
    with compiled_runner(path, choice, cache, plan.scenario.runtime.threads, shapes) as runner:
        warm_up(runner, runner.manifest, shapes)
        yield runner


def compiled_runner(manifest: Path, choice: EngineChoice, cache: Path, threads: int, shapes: Shapes) -> Runner:
    """A compiled runner, not yet activated. What a backend keeps lies in its own folder of the cache."""
    runner = open_engine(manifest, choice.backend, threads=threads, cache=cache / choice.backend, shapes=shapes)
    runner.compile()
    return runner


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadyEngines:
    """All engines of a scenario on one choice, ready to be loaded."""

    choice: EngineChoice
    parity: tuple[TensorParity, ...]
    took_s: float

    @property
    def problem(self) -> str:
        """Where the parity budget is passed, in one line; empty if nowhere."""
        found = excess(self.parity, self.choice.precision)
        return f"{self.choice.name}: {found}" if found else ""


def ready_engines(replay: RunPlan, choice: EngineChoice, cache: Path, on_stage: Callable[[str], None]) -> ReadyEngines:
    """Derive, compile and compare every engine of the scenario that ``replay`` plays, on its windows. Raises EngineError."""
    began = time.monotonic()
    found: list[TensorParity] = []
    threads = replay.scenario.runtime.threads
    for role, (manifest, _) in load_manifests(replay.scenario, replay.folder).items():
        on_stage(f"{role}, sampling")
        windows = calibration_windows(replay, role, cache)
        on_stage(f"{role}, deriving")
        path = prepared_engine(manifest, choice, cache, calibration_plan(replay))
        on_stage(f"{role}, compiling")
        fast = compiled_runner(path, choice, cache, threads, shapes_of(windows))
        on_stage(f"{role}, comparing")
        with open_engine(manifest, threads=threads) as reference, fast:
            found += parity_of(reference, fast, windows)
    return ReadyEngines(choice=choice, parity=tuple(found), took_s=time.monotonic() - began)


def build(request: BuildRequest, on_stage: Callable[[str], None] = lambda _: None) -> Built:
    """Do all of it. Raises EngineError: unavailable, an operator is missing, no room, over its parity budget."""
    began = time.monotonic()
    choice, cache, manifest = engine_choice(request.choice), Path(request.cache), Path(request.manifest)
    folder = Path(request.scenario_folder)
    replay = replay_plan(load_scenario(folder), folder, Path(request.calibration_log)) if request.calibration_log else None
    on_stage("deriving")
    path = prepared_engine(manifest, choice, cache, replay)
    on_stage("compiling")
    windows = load_windows(Path(request.windows))
    with (
        open_engine(manifest, threads=request.threads) as reference,
        compiled_runner(path, choice, cache, request.threads, shapes_of(windows)) as fast,
    ):
        on_stage("comparing")
        warm_up(fast, fast.manifest, shapes_of(windows))
        found = parity_of(reference, fast, windows)
        if problem := excess(found, fast.manifest.precision):
            raise EngineError(f"{choice.name}: {problem}; it does not serve")
        return Built(
            manifest=str(path),
            choice=choice.name,
            sha256=fast.manifest.sha256,
            took_s=time.monotonic() - began,
            max_relative=_worst(found),
            compared=len(windows),
        )


def _worst(found: Sequence[TensorParity]) -> float:
    return max(parity.max_relative for parity in found)


def main(arguments: Sequence[str]) -> int:
    """The builder process."""
    request = BuildRequest(**json.loads(Path(arguments[0]).read_text(encoding="utf-8")))
    try:
        answer = asdict(build(request))
    except EngineError as error:
        sys.stdout.write(json.dumps({"error": str(error)}) + "\n")
        return 1
    sys.stdout.write(json.dumps(answer) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
