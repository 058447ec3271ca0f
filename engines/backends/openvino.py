"""OpenVINO on the CPU (extra ``openvino``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from typing_extensions import Self  # noqa: UP035 - on Python 3.10 too, where TensorRT 8.6 lives

from engines.backends.base import Array, Availability, InputCheck, RunnerOptions, match_tensors, reason
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
        return Availability(versions=versions)

    def compile(self) -> None:
        """Compile the model; a cache folder keeps the result for the next process."""
        if self._compiled is not None:
            return
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
        try:
            graph = core.read_model(self._model, b"")
            _truncate_resized_pixels(graph)
            compiled = core.compile_model(graph, "CPU", properties)
        except RuntimeError as error:
            raise EngineError(f"{self._manifest.onnx}: OpenVINO refuses it ({_cause(error)}); serve it with ort") from None
        got = str(compiled.get_property("INFERENCE_PRECISION_HINT").to_string())
        if got != _HINTS[self._manifest.precision]:
            raise EngineError(f"{self._manifest.onnx}: OpenVINO computes in {got} although told not to; serve it with ort")
        # compiling may rename tensors, but keeps their order
        inputs, outputs = ([port.get_any_name() for port in ports] for ports in (graph.inputs, graph.outputs))
        match_tensors(self._manifest, "inputs", dict(zip(inputs, map(_described, compiled.inputs), strict=True)))
        match_tensors(self._manifest, "outputs", dict(zip(outputs, map(_described, compiled.outputs), strict=True)))
        self._places = {name: place for names in (inputs, outputs) for place, name in enumerate(names)}
        self._compiled = compiled

    def activate(self) -> None:
        """Make the one request; buffers of fixed shapes are shared with it, not copied."""
        import openvino

        self.compile()
        self._request = self._compiled.create_infer_request()
        for spec in self._manifest.inputs:
            if spec.is_fixed:
                self._bind_input(spec.name, tuple(d or 0 for d in spec.shape), spec.dtype)
        for spec in self._manifest.outputs:
            if spec.is_fixed:
                buffer = np.zeros([d or 0 for d in spec.shape], dtype=spec.dtype)
                self._request.set_output_tensor(self._places[spec.name], openvino.Tensor(buffer, shared_memory=True))
                self._bound_outputs[spec.name] = buffer

    def infer(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run once; see `engines.backends.base.Runner.infer`."""
        if self._request is None:
            raise EngineError(f"{self._manifest.onnx}: infer before activate; call activate() first")
        self._check(inputs)
        try:
            for name, array in inputs.items():
                buffer = self._bound_inputs.get(name)
                if buffer is None or buffer.shape != array.shape:  # a dynamic one: frames of a stream keep their size
                    buffer = self._bind_input(name, array.shape, str(array.dtype))
                buffer[...] = array
            self._request.infer()
        except RuntimeError as error:
            raise EngineError(f"{self._manifest.onnx}: inference failed ({_cause(error)}); serve it with ort") from None
        if len(self._bound_outputs) == len(self._manifest.outputs):
            return dict(self._bound_outputs)
        return {t.name: self._request.get_output_tensor(self._places[t.name]).data for t in self._manifest.outputs}

    def _bind_input(self, name: str, shape: tuple[int, ...], dtype: str) -> Array:
        import openvino

        buffer = np.zeros(shape, dtype=dtype)
        self._request.set_input_tensor(self._places[name], openvino.Tensor(buffer, shared_memory=True))
        self._bound_inputs[name] = buffer
        return buffer

    def deactivate(self) -> None:
        """Drop request and model."""
        self._request = self._compiled = None
        self._bound_inputs, self._bound_outputs = {}, {}

    def __enter__(self) -> Self:
        self.activate()
        return self

    def __exit__(self, *exc: object) -> None:
        self.deactivate()


def _truncate_resized_pixels(graph: Any) -> None:
    """Let resized uint8 pixels lose their fraction, as ONNX Runtime's do: ONNX leaves it open, and OpenVINO would round."""
    from openvino import Type, opset13

    for node in graph.get_ordered_ops():
        if node.get_type_name() == "Interpolate" and node.input(0).get_element_type() == Type.u8:
            readers = node.output(0).get_target_inputs()
            node.input(0).replace_source_output(opset13.convert(node.input_value(0), "f32").output(0))
            node.validate_and_infer_types()
            whole = opset13.convert(opset13.floor(node), "u8")
            for reader in readers:
                reader.replace_source_output(whole.output(0))
    graph.validate_nodes_and_infer_types()


def _described(port: Any) -> tuple[str, tuple[int | None, ...]]:
    kind = port.get_element_type().get_type_name()
    return _DTYPES.get(kind, kind), tuple(d.get_length() if d.is_static else None for d in port.get_partial_shape())


def _cause(error: RuntimeError) -> str:
    """OpenVINO's errors begin with where in its source they were raised; what happened stands in the last lines."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith(("Exception from", "Check '"))]
    return (telling or lines or [reason(error)])[-1][:200]
