"""Which backends there are, and from a manifest's path to a runner on one of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from engines.backends.base import Runner
from engines.backends.onnxruntime import OnnxRuntimeRunner
from engines.manifest import EngineError, Manifest, load_engine_files

BACKENDS: dict[str, Callable[[Manifest, bytes, int], Runner]] = {"onnxruntime": OnnxRuntimeRunner}

WEIGHTS = Path(__file__).parent / "weights"
"""The engines that ship with the package, one folder a scenario."""


def open_engine(manifest_path: Path, backend: str = "onnxruntime", threads: int = 1) -> Runner:
    """A runner for the engine at ``manifest_path``, hash checked, not yet activated.

    ``threads`` is how many threads one inference may use. Raises EngineError: bad manifest or hash, unknown backend,
    backend that cannot run here.
    """
    if backend not in BACKENDS:
        raise EngineError(f"engines.backend: unknown backend {backend!r}; choose one of {', '.join(sorted(BACKENDS))}")
    if threads < 1:
        raise EngineError(f"engines.threads: {threads} is not a number of threads; use 1 or more")
    manifest, model = load_engine_files(manifest_path)
    runner = BACKENDS[backend](manifest, model, threads)
    availability = runner.probe()
    if not availability.available:
        raise EngineError(f"backend {backend}: {availability.reason}")
    return runner


def manifest_paths(folder: Path) -> dict[str, Path]:
    """Role to manifest path for every ``*.json`` of a scenario's weights folder. Raises EngineError without any."""
    paths = {path.stem: path for path in sorted(folder.glob("*.json"))}
    if not paths:
        raise EngineError(f"{folder}: no engine manifests (*.json); restore them or run chiasm train")
    return paths
