"""OpenVINO on the CPU (extra ``openvino``)."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any

import numpy as np
from typing_extensions import Self  # noqa: UP035 - on Python 3.10 too, where TensorRT 8.6 lives

from engines.backends.base import (
    Array,
    Availability,
    InputCheck,
    RunnerOptions,
    Shapes,
    fixed_to,
    known_shapes,
    match_tensors,
    reason,
    refuse_other_shapes,
)
from engines.backends.portable_graph import portable_graph
from engines.manifest import EngineError, Manifest

_DTYPES = {"u8": "uint8", "i16": "int16", "f32": "float32"}
_HINTS = {"fp32": "f32", "int8": "f32", "fp16": "f32", "bf16": "bf16"}
"""What is left in floating point is computed in this: without the hint some CPUs take bf16 and say nothing."""


class OpenVinoRunner:
    """One engine as one compiled OpenVINO model with one infer request. Implements `engines.backends.base.Runner`."""

    def __init__(self, manifest: Manifest, model: bytes, options: RunnerOptions | None = None) -> None:
        self._manifest, self._model, self._options = manifest, model, options or RunnerOptions()
        self._check = InputCheck(manifest)
        self._compiled: Any = None
        self._places: dict[str, int] = {}
        self._request: Any = None
        self._is_active = False
        self._open_inputs = [t.name for t in manifest.inputs if not t.is_fixed]
        self._shapes: Shapes = {}
        self._bound_inputs: dict[str, Array] = {}
        self._bound_outputs: dict[str, Array] = {}

    @property
    def manifest(self) -> Manifest:
        """What this engine reads and gives."""
        return self._manifest

    def probe(self) -> Availability:
        """Whether OpenVINO imports here and knows the CPU."""
        try:
            import openvino
        except ImportError as error:
            return Availability(reason=f"{error}; pip install 'chiasm[openvino]'")
        versions = {"openvino": str(openvino.__version__).partition("-")[0]}
        if "CPU" not in openvino.Core().available_devices:
            return Availability(reason="OpenVINO has no CPU plugin here; reinstall openvino", versions=versions)
        if self._open_inputs and importlib.util.find_spec("onnx") is None:
            return Availability(reason="No module named 'onnx'; pip install 'chiasm[openvino]'", versions=versions)
        return Availability(versions=versions)

    def compile(self) -> None:
        """Compile the model, if its shapes are known; a cache folder keeps the result for the next process."""
        shapes = known_shapes(self._manifest, self._options.shapes)
        if self._compiled is None and shapes is not None:
            self._compile(shapes)

    def _compile(self, shapes: Shapes) -> None:
        import openvino

        core = openvino.Core()
        properties: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": _HINTS[self._manifest.precision],
            "INFERENCE_NUM_THREADS": self._options.threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "ENABLE_CPU_PINNING": False,
        }
        if self._options.cache is not None:
            self._options.cache.mkdir(parents=True, exist_ok=True)
            properties["CACHE_DIR"] = str(self._options.cache)
        # OpenVINO rounds resized pixels otherwise than the reference, and only frames have dimensions that are open
        model = portable_graph(self._model, shapes, with_int32=False) if self._open_inputs else self._model
        try:
            graph = core.read_model(model, b"")
            compiled = core.compile_model(graph, "CPU", properties)
        except RuntimeError as error:
            raise EngineError(f"{self._manifest.onnx}: OpenVINO refuses it ({_cause(error)}); serve it with ort") from None
        got = str(compiled.get_property("INFERENCE_PRECISION_HINT").to_string())
        if got != _HINTS[self._manifest.precision]:
            raise EngineError(f"{self._manifest.onnx}: OpenVINO computes in {got} although told not to; serve it with ort")
        # compiling may rename tensors, but keeps their order
        inputs, outputs = ([port.get_any_name() for port in ports] for ports in (graph.inputs, graph.outputs))
        expected = fixed_to(self._manifest, shapes)
        match_tensors(expected, "inputs", dict(zip(inputs, map(_described, compiled.inputs), strict=True)))
        match_tensors(expected, "outputs", dict(zip(outputs, map(_described, compiled.outputs), strict=True)))
        self._places = {name: place for names in (inputs, outputs) for place, name in enumerate(names)}
        self._compiled, self._shapes = compiled, shapes

    def activate(self) -> None:
        """Compile and bind, or wait for the first call where a frame's size is not yet known."""
        self._is_active = True
        self.compile()
        if self._compiled is not None:
            self._bind()

    def _bind(self) -> None:
        """Make the one request; its buffers are shared with it, not copied."""
        import openvino

        self._request = self._compiled.create_infer_request()
        for spec in self._manifest.inputs:
            buffer = self._bound_inputs[spec.name] = np.zeros(self._shapes[spec.name], dtype=spec.dtype)
            self._request.set_input_tensor(self._places[spec.name], openvino.Tensor(buffer, shared_memory=True))
        for spec in self._manifest.outputs:
            if spec.is_fixed:
                buffer = self._bound_outputs.setdefault(spec.name, np.zeros([d or 0 for d in spec.shape], dtype=spec.dtype))
                self._request.set_output_tensor(self._places[spec.name], openvino.Tensor(buffer, shared_memory=True))

    def infer(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run once; see `engines.backends.base.Runner.infer`."""
        if not self._is_active:
            raise EngineError(f"{self._manifest.onnx}: infer before activate; call activate() first")
        self._check(inputs)
        if any(inputs[name].shape != self._shapes.get(name) for name in self._open_inputs):
            self._fit(inputs)
        try:
            for name, buffer in self._bound_inputs.items():
                buffer[...] = inputs[name]
            self._request.infer()
        except RuntimeError as error:
            raise EngineError(f"{self._manifest.onnx}: inference failed ({_cause(error)}); serve it with ort") from None
        if len(self._bound_outputs) == len(self._manifest.outputs):
            return dict(self._bound_outputs)
        return {t.name: self._request.get_output_tensor(self._places[t.name]).data for t in self._manifest.outputs}

    def _fit(self, inputs: Mapping[str, Array]) -> None:
        """Frames of another size: compile for them, in 0.1 s, unless it was said before what would come."""
        found = {name: array.shape for name, array in inputs.items()}
        refuse_other_shapes(self._manifest, self._options.shapes, found)
        self._compile(found)
        self._bind()

    def deactivate(self) -> None:
        """Drop request and model."""
        self._request = self._compiled = None
        self._is_active = False
        self._bound_inputs, self._bound_outputs, self._shapes = {}, {}, {}

    def __enter__(self) -> Self:
        self.activate()
        return self

    def __exit__(self, *exc: object) -> None:
        self.deactivate()


def _described(port: Any) -> tuple[str, tuple[int | None, ...]]:
    kind = port.get_element_type().get_type_name()
    return _DTYPES.get(kind, kind), tuple(d.get_length() if d.is_static else None for d in port.get_partial_shape())


def _cause(error: RuntimeError) -> str:
    """OpenVINO's errors begin with where in its source they were raised; what happened stands in the last lines."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    missing = [line.removeprefix("-- ") for line in lines if line.startswith("-- No conversion rule found")]
    telling = missing or [line for line in lines if not line.startswith(("Exception from", "Check '"))]
    return (telling or lines or [reason(error)])[-1][:200]
