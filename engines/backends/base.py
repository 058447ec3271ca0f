"""The runner protocol: what every backend does with an engine, and the checks they share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self  # noqa: UP035 - on Python 3.10 too, where TensorRT 8.6 lives

from engines.manifest import EngineError, Manifest, TensorSpec

Array = NDArray[Any]
Shapes = Mapping[str, tuple[int, ...]]
"""Of one call's inputs, by name."""


class BackendUnavailable(EngineError):
    """The backend cannot run here at all: its library, its driver or its device is missing. One line with the fix."""


class DeviceFault(EngineError):
    """The device failed in a call that was in order: out of memory, lost, or its context broken. The runner is of no more use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Availability:
    """Whether a backend can run here. ``reason`` is empty if it can, else says what is missing and how to get it."""

    reason: str = ""
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def available(self) -> bool:
        """Whether the backend can be activated."""
        return not self.reason


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerOptions:
    """How a runner runs; nothing here may change what it computes beyond the parity budget of its precision."""

    threads: int = 1
    """Threads that one inference may use, on a CPU."""
    cache: Path | None = None
    """Folder in which a backend keeps what takes long to make (plans, compiled blobs); None: nothing is kept."""
    shapes: Shapes = field(default_factory=dict)
    """Shapes of inputs whose manifest leaves a dimension open, where they are known before the first call. Backends that compile
    for given shapes compile for these, and then take no others."""


class Runner(Protocol):
    """One engine on one backend. Not thread-safe: a runner belongs to the thread that calls it.

    ``activate`` before ``infer``, ``deactivate`` when done (twice is harmless); as a context manager it does both.
    """

    @property
    def manifest(self) -> Manifest:
        """What this engine reads and gives."""
        ...

    def probe(self) -> Availability:
        """Whether the backend can run here, and its versions. Needs no activation, never raises."""
        ...

    def compile(self) -> None:
        """Do what takes long and can be kept, into the options' cache, so that ``activate`` is quick. Twice is harmless.

        ``activate`` does it itself where it was not done. Raises EngineError: an operator that the backend lacks, no room.
        """
        ...

    def activate(self) -> None:
        """Load the network and bind buffers. Raises EngineError: model broken, or not what its manifest says."""
        ...

    def infer(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run once.

        ``inputs`` must hold exactly the manifest's names with their dtypes and shapes, finite values only; anything
        else raises EngineError and leaves the runner usable. The arrays returned are **valid until the next call**:
        copy to keep. Raises `DeviceFault` where the device itself fails.
        """
        ...

    def deactivate(self) -> None:
        """Free everything ``activate`` took."""
        ...

    def __enter__(self) -> Self: ...
    def __exit__(self, *exc: object) -> None: ...


class InputCheck:
    """Refuses inputs that a manifest does not describe, at a cost of microseconds."""

    def __init__(self, manifest: Manifest) -> None:
        self._onnx = manifest.onnx
        self._expected = {t.name: (np.dtype(t.dtype), t.shape, t) for t in manifest.inputs}

    def __call__(self, inputs: Mapping[str, Array]) -> None:
        """Raise EngineError that names the first tensor that does not fit."""
        if inputs.keys() != self._expected.keys():
            missing = sorted(self._expected.keys() - inputs.keys())
            unknown = sorted(inputs.keys() - self._expected.keys())
            raise EngineError(f"{self._onnx}: inputs missing {missing}, unknown {unknown}; give exactly the manifest's inputs")
        for name, (dtype, shape, spec) in self._expected.items():
            array = inputs[name]
            if not isinstance(array, np.ndarray) or array.dtype != dtype:
                found = getattr(array, "dtype", type(array).__name__)
                raise EngineError(f"{self._onnx}: input {name!r} is {found}; convert it to {spec.dtype}")
            if array.shape != shape and not _fits(array.shape, spec):
                raise EngineError(f"{self._onnx}: input {name!r} has shape {list(array.shape)}; it must be {_text(spec)}")
            # a product of the array with itself is finite if all of it is, short of overflow, and costs a third of looking
            if spec.dtype == "float32" and not isfinite(np.vdot(array, array)) and not np.isfinite(array).all():
                raise EngineError(f"{self._onnx}: input {name!r} holds NaN or infinity; mask what is invalid at its source")


def match_tensors(manifest: Manifest, side: str, found: Mapping[str, tuple[str, tuple[int | None, ...]]]) -> None:
    """Hold a loaded graph's tensors (name to dtype and shape) to the manifest's ``inputs`` or ``outputs``, or EngineError."""
    expected = manifest.inputs if side == "inputs" else manifest.outputs
    if found.keys() != {t.name for t in expected}:
        raise EngineError(
            f"{manifest.onnx}: graph has {side} {sorted(found)}, its manifest {sorted(t.name for t in expected)}; retrain it"
        )
    for spec in expected:
        dtype, shape = found[spec.name]
        if dtype != spec.dtype or shape != spec.shape:
            raise EngineError(
                f"{manifest.onnx}: {side[:-1]} {spec.name!r} is {dtype} {list(shape)} in graph "
                f"but {spec.dtype} {list(spec.shape)} in its manifest; retrain it"
            )


def known_shapes(manifest: Manifest, told: Shapes) -> Shapes | None:
    """Of every input, as ``told`` or as the manifest fixes it; None if one is known only when it comes."""
    fixed = {t.name: tuple(d or 0 for d in t.shape) for t in manifest.inputs if t.is_fixed}
    known = {**fixed, **told}
    return known if known.keys() == {t.name for t in manifest.inputs} else None


def fixed_to(manifest: Manifest, shapes: Shapes) -> Manifest:
    """The manifest of the same engine for inputs of just these shapes."""
    inputs = tuple(t.model_copy(update={"shape": shapes[t.name]}) for t in manifest.inputs)
    return manifest.model_copy(update={"inputs": inputs})


def refuse_other_shapes(manifest: Manifest, told: Shapes, found: Shapes) -> None:
    """EngineError where a call brings other shapes than `RunnerOptions.shapes` said: nothing is compiled while a run waits."""
    for name, shape in told.items():
        if found[name] != shape:
            raise EngineError(
                f"{manifest.onnx}: input {name!r} has shape {list(found[name])}, it was compiled for {list(shape)}; "
                "compile it for this shape, or run it on ort"
            )


def reason(error: BaseException) -> str:
    """A library's error in one bounded line."""
    text = str(error).strip()
    return (text.splitlines() or [type(error).__name__])[0][:200]


def _fits(shape: tuple[int, ...], spec: TensorSpec) -> bool:
    return len(shape) == len(spec.shape) and all(
        found > 0 and expected in (None, found) for found, expected in zip(shape, spec.shape, strict=True)
    )


def _text(spec: TensorSpec) -> str:
    return "[" + ", ".join("any" if d is None else str(d) for d in spec.shape) + "]"
