"""The engines of a run: opened, warmed up, and as what the stages call.

This is where `pipeline` and `engines` meet: manifests become windows, runners become what stages call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from actors.plan import RunPlan, load_manifests, role_of, window_spec
from engines.backends.base import Runner, Shapes
from engines.manifest import Calibration, EngineError, Manifest
from engines.registry import open_engine
from pipeline.stages.decide import Identity
from pipeline.stages.fuse import Fused
from pipeline.stages.infer import Infer
from pipeline.stages.memory import MemorySpec
from pipeline.windows import WindowSpec


class ServedEngine(Infer, Protocol):
    """What an `Opening` gives."""

    @property
    def notices(self) -> list[str]:
        """What a user should know of how it served, in the order in which it happened."""
        ...


Opening = Callable[[RunPlan, str], AbstractContextManager[ServedEngine]]
"""How the engine of a role is opened for a run."""
DYNAMIC = 192
"""A dimension that a manifest leaves open, while an engine is warmed up."""


class SteadyEngine:
    """One runner that serves all the run. Implements `ServedEngine`."""

    def __init__(self, runner: Runner, engine: str = "") -> None:
        self._runner, self.engine = runner, engine
        self.notices: list[str] = []

    def infer(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """See `pipeline.stages.infer.Infer`."""
        return self._runner.infer(inputs)


@contextmanager
def reference_engine(plan: RunPlan, role: str) -> Iterator[ServedEngine]:
    """The activated and warmed engine of a role, on the reference backend."""
    path, manifest = load_manifests(plan.scenario, plan.folder)[role]
    with open_engine(path, threads=plan.scenario.runtime.threads) as runner:
        warm_up(runner, manifest)
        yield SteadyEngine(runner)


@contextmanager
def encoder_engine(plan: RunPlan, stream: str, opening: Opening = reference_engine) -> Iterator[tuple[WindowSpec, ServedEngine]]:
    """The activated and warmed encoder of a stream, and the windows that it reads."""
    role = role_of(stream)
    manifest = load_manifests(plan.scenario, plan.folder)[role][1]
    with opening(plan, role) as runner:
        yield window_spec(manifest), runner


@contextmanager
def fusion_engine(plan: RunPlan, opening: Opening = reference_engine) -> Iterator[tuple[CalibratedFusion, Identity]]:
    """The activated and warmed fusion network, with what its decisions say they rest on."""
    manifests = load_manifests(plan.scenario, plan.folder)
    with opening(plan, "fusion") as runner:
        engines = {role: m.sha256 for role, (_, m) in manifests.items()}
        identity = Identity(engines=engines, config_sha256=plan.scenario.sha256)
        yield CalibratedFusion(runner, manifests["fusion"][1]), identity


def warm_up(runner: Runner, manifest: Manifest, shapes: Shapes | None = None) -> None:
    """First calls allocate: make them before the run begins. ``shapes``: what will come, where that is known."""
    known = shapes or {}
    wanted = {t.name: known.get(t.name, tuple(DYNAMIC if d is None else d for d in t.shape)) for t in manifest.inputs}
    zeros = {t.name: np.zeros(wanted[t.name], dtype=t.dtype) for t in manifest.inputs}
    if "frame_hwc" in zeros and "frame_hwc" not in known:
        zeros["frame_hwc"] = np.zeros((DYNAMIC, 2 * DYNAMIC, 3), dtype=np.uint8)
    for _ in range(3):
        runner.infer(zeros)


_Calibrations = tuple[tuple[str, str, Calibration], ...]
"""Head, its output, its calibration."""


class CalibratedFusion:
    """A fusion engine whose logits come out as calibrated probabilities."""

    def __init__(self, runner: ServedEngine, manifest: Manifest) -> None:
        self._runner, self._manifest = runner, manifest
        self.streams: tuple[str, ...] = manifest.streams
        shapes = {t.name: t.shape for t in manifest.inputs}
        self.token_shapes: Mapping[str, tuple[int, int]] = {}
        for stream in manifest.streams:
            tokens, channels = shapes[f"{stream}_tokens"]
            if tokens is None or channels is None:
                raise EngineError(f"{manifest.onnx}: {stream}_tokens must have a fixed shape")
            self.token_shapes = {**self.token_shapes, stream: (tokens, channels)}
        self._calibrated: dict[tuple[bool, ...], tuple[_Calibrations, Mapping[str, Mapping[str, float]]]] = {}
        """By which streams are present: each head's calibration and thresholds."""
        entries, channels = shapes.get("memory", (0, 0))
        self.memory: MemorySpec | None = None
        if entries and channels:
            self.memory = MemorySpec(entries=entries, step_ns=manifest.memory_step_ns, channels=channels)

    def fuse(self, inputs: Mapping[str, NDArray[Any]], present: tuple[bool, ...]) -> Fused:
        """See `pipeline.stages.fuse.FusionNetwork`."""
        outputs = self._runner.infer(inputs)
        found = self._calibrated.get(present)
        if found is None:
            heads = self._manifest.heads
            calibrations = tuple((h.name, h.output, h.calibration_for(present)) for h in heads)
            found = self._calibrated[present] = calibrations, {h.name: h.thresholds_for(present) for h in heads}
        calibrations, thresholds = found
        probabilities = {n: c.probabilities(outputs[output]).astype(np.float32) for n, output, c in calibrations}
        token = outputs.get("memory_token")
        return Fused(probabilities=probabilities, thresholds=thresholds, token=token, engine=self._runner.engine)

    @property
    def notices(self) -> list[str]:
        """Those of its engine."""
        return self._runner.notices
