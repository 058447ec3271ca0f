"""Which backends there are, and from a manifest's path and an engine choice to a runner.

An *engine choice* is written ``BACKEND`` or ``BACKEND-PRECISION``: ``ort``, ``ort-int8``, ``openvino``, ``tensorrt-fp16``.
Without a precision a backend runs the graph as it was trained, fp32. A precision other than fp32 is another graph, made once by
`engines.precision` and kept by `engines.cache`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from engines.backends.base import Availability, BackendUnavailable, Runner, RunnerOptions, Shapes
from engines.backends.onnxruntime import OnnxRuntimeCudaRunner, OnnxRuntimeRunner
from engines.backends.openvino import OpenVinoRunner
from engines.backends.tensorrt import TensorRtRunner
from engines.backends.torch import TorchRunner
from engines.manifest import EngineError, Manifest, Precision, load_engine_files

BACKENDS: dict[str, Callable[[Manifest, bytes, RunnerOptions], Runner]] = {
    "ort": OnnxRuntimeRunner,
    "ort-cuda": OnnxRuntimeCudaRunner,
    "openvino": OpenVinoRunner,
    "torch": TorchRunner,
    "tensorrt": TensorRtRunner,
}
COMPILED_PER_SHAPE = frozenset({"tensorrt"})
"""Backends that take seconds to minutes for each new shape of an input."""
REFERENCE = "ort"
"""The choice that all others are held to: ONNX Runtime on the CPU, the graph as trained."""
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

WEIGHTS = Path(__file__).parent / "weights"
"""The engines that ship with the package, one folder a scenario."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineChoice:
    """A backend and the precision of the graph that it runs."""

    backend: str
    precision: Precision = "fp32"

    @property
    def name(self) -> str:
        """As it is written: ``ort-int8``; fp32 goes without saying."""
        return self.backend if self.precision == "fp32" else f"{self.backend}-{self.precision}"


def engine_choice(text: str) -> EngineChoice:
    """From ``ort-int8`` to a choice. Raises EngineError that names what there is."""
    backend, _, precision = text.rpartition("-")
    if text in BACKENDS:
        return EngineChoice(backend=text)
    for known in PRECISIONS:
        if precision == known and backend in BACKENDS:
            return EngineChoice(backend=backend, precision=known)
    raise EngineError(
        f"engine {text!r}: choose a backend ({', '.join(BACKENDS)}), with -{', -'.join(PRECISIONS)} behind it for a precision"
    )


def open_engine(
    manifest_path: Path,
    backend: str = REFERENCE,
    threads: int = 1,
    cache: Path | None = None,
    shapes: Shapes | None = None,
) -> Runner:
    """A runner for the engine at ``manifest_path``, hash checked, not yet activated.

    The graph is run as it is: give the manifest of a derived graph for another precision. ``threads`` is how many threads one
    inference may use, ``cache`` a folder for what a backend compiles, ``shapes`` those of dynamic inputs, where known. Raises
    EngineError: bad manifest or hash, unknown backend; BackendUnavailable: a backend that cannot run here.
    """
    if backend not in BACKENDS:
        raise EngineError(f"engines.backend: unknown backend {backend!r}; choose one of {', '.join(sorted(BACKENDS))}")
    if threads < 1:
        raise EngineError(f"engines.threads: {threads} is not a number of threads; use 1 or more")
    manifest, model = load_engine_files(manifest_path)
    runner = BACKENDS[backend](manifest, model, RunnerOptions(threads=threads, cache=cache, shapes=shapes or {}))
    availability = runner.probe()
    if not availability.available:
        raise BackendUnavailable(f"backend {backend}: {availability.reason}")
    return runner


def availabilities(manifest_path: Path) -> dict[str, Availability]:
    """Backend to whether it can run here, and why not. ``manifest_path``: any engine; it is not run."""
    manifest, model = load_engine_files(manifest_path)
    return {name: make(manifest, model, RunnerOptions()).probe() for name, make in BACKENDS.items()}


def manifest_paths(folder: Path) -> dict[str, Path]:
    """Role to manifest path for every ``*.json`` of a scenario's weights folder. Raises EngineError without any."""
    paths = {path.stem: path for path in sorted(folder.glob("*.json"))}
    if not paths:
        raise EngineError(f"{folder}: no engine manifests (*.json); restore them or run chiasm train")
    return paths
