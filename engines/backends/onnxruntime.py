"""ONNX Runtime: on the CPU the reference backend and the default, on an NVIDIA GPU through its CUDA provider."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from typing_extensions import Self  # noqa: UP035 - on Python 3.10 too, where TensorRT 8.6 lives

from engines.backends.base import (
    Array,
    Availability,
    BackendUnavailable,
    DeviceFault,
    InputCheck,
    RunnerOptions,
    Shapes,
    known_shapes,
    match_tensors,
    reason,
)
from engines.manifest import EngineError, Manifest

_DTYPES = {"tensor(uint8)": "uint8", "tensor(int16)": "int16", "tensor(float)": "float32"}
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
_EXHAUSTED = ("out of memory", "Failed to allocate", "CUDA failure", "CUDA error", "CUBLAS_STATUS", "CUDNN_STATUS")


class OnnxRuntimeRunner:
    """One engine in one ONNX Runtime session. Implements `engines.backends.base.Runner`.

    Threads do not spin between calls: a runtime that sleeps on events must not burn the core that the next stage needs.
    """

    provider = CPU

    def __init__(self, manifest: Manifest, model: bytes, options: RunnerOptions | None = None) -> None:
        self._manifest = manifest
        self._model = model
        self._options = options or RunnerOptions()
        self._check = InputCheck(manifest)
        self._session: Any = None
        self._output_names = [t.name for t in manifest.outputs]
        self._open_inputs = [t.name for t in manifest.inputs if not t.is_fixed]
        self._has_fixed_outputs = all(t.is_fixed for t in manifest.outputs)
        self._binding: Any = None
        self._bound_inputs: dict[str, Array] = {}
        self._bound_outputs: dict[str, Array] = {}

    @property
    def manifest(self) -> Manifest:
        """What this engine reads and gives."""
        return self._manifest

    def probe(self) -> Availability:
        """Whether ONNX Runtime imports here and was built with the provider."""
        try:
            import onnxruntime  # type: ignore[import-untyped, unused-ignore]
        except ImportError as error:
            return Availability(reason=f"{error}; pip install onnxruntime")
        versions = {"onnxruntime": str(onnxruntime.__version__)}
        built_with = onnxruntime.get_available_providers()
        if self.provider not in built_with:
            missing = f"this onnxruntime has no {self.provider} (only {', '.join(built_with)}); pip install onnxruntime-gpu"
            return Availability(reason=missing, versions=versions)
        return Availability(versions=versions)

    def compile(self) -> None:
        """Nothing: a session is made in tens of milliseconds, and what it optimises belongs to this very processor."""

    def activate(self) -> None:
        """Build the session and hold it to the manifest."""
        import onnxruntime

        try:
            session = onnxruntime.InferenceSession(self._model, self._session_options(onnxruntime), providers=self._providers())
        except _runtime_errors() as error:
            raise self._refused(error) from None
        active = session.get_providers()
        if active[0] != self.provider:
            # a provider that was built in may still fail to load its libraries; the session then falls back and says nothing
            raise BackendUnavailable(
                f"{self._manifest.onnx}: asked for {self.provider}, the session got {', '.join(active)}; "
                "install the CUDA and cuDNN libraries that this onnxruntime-gpu wants"
            )
        match_tensors(self._manifest, "inputs", _described(session.get_inputs()))
        match_tensors(self._manifest, "outputs", _described(session.get_outputs()))
        self._session = session
        shapes = known_shapes(self._manifest, self._options.shapes)
        if self._has_fixed_outputs and shapes is not None:
            self._bind(shapes)

    def infer(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run once; see `engines.backends.base.Runner.infer`."""
        if self._session is None:
            raise EngineError(f"{self._manifest.onnx}: infer before activate; call activate() first")
        self._check(inputs)
        try:
            if not self._has_fixed_outputs:
                return dict(zip(self._output_names, self._session.run(self._output_names, inputs), strict=True))
            if self._binding is None or any(inputs[n].shape != self._bound_inputs[n].shape for n in self._open_inputs):
                self._bind({name: array.shape for name, array in inputs.items()})  # a stream's frames keep their size
            for name, buffer in self._bound_inputs.items():
                buffer[...] = inputs[name]
            self._session.run_with_iobinding(self._binding)
        except _runtime_errors() as error:
            raise self._failed(error) from None
        return dict(self._bound_outputs)

    def deactivate(self) -> None:
        """Drop the session and its memory."""
        self._session = self._binding = None
        self._bound_inputs, self._bound_outputs = {}, {}

    def __enter__(self) -> Self:
        self.activate()
        return self

    def __exit__(self, *exc: object) -> None:
        self.deactivate()

    def _session_options(self, onnxruntime: Any) -> Any:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._options.threads
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        return options

    def _providers(self) -> list[Any]:
        return [CPU]

    def _bind(self, shapes: Shapes) -> None:
        # Copying a window into a bound buffer and running costs 5-10 us less a call than handing arrays to run(), and
        # allocates nothing. On the CPU an OrtValue shares its array's memory.
        import onnxruntime

        binding = self._session.io_binding()
        for spec in self._manifest.inputs:
            buffer = self._bound_inputs[spec.name] = np.zeros(shapes[spec.name], dtype=spec.dtype)
            binding.bind_ortvalue_input(spec.name, onnxruntime.OrtValue.ortvalue_from_numpy(buffer))
        for spec in self._manifest.outputs:
            if spec.name not in self._bound_outputs:  # they stay where they are, also when the inputs' shapes change
                self._bound_outputs[spec.name] = np.zeros([d or 0 for d in spec.shape], dtype=spec.dtype)
            binding.bind_ortvalue_output(spec.name, onnxruntime.OrtValue.ortvalue_from_numpy(self._bound_outputs[spec.name]))
        self._binding = binding

    def _refused(self, error: Exception) -> EngineError:
        line = reason(error)
        if _is_exhaustion(line):
            return DeviceFault(
                f"{self._manifest.onnx}: the device has no room for it ({line}); free memory on it, or serve it on the CPU"
            )
        if "NOT_IMPLEMENTED" in line or "is not a registered function/op" in line or "Could not find an implementation" in line:
            return EngineError(
                f"{self._manifest.onnx}: ONNX Runtime lacks an operator ({line}); update onnxruntime, or export again"
            )
        return EngineError(f"{self._manifest.onnx}: ONNX Runtime refuses it ({line}); restore or retrain it")

    def _failed(self, error: Exception) -> EngineError:
        line = reason(error)
        if _is_exhaustion(line):
            return DeviceFault(f"{self._manifest.onnx}: the device failed ({line}); free memory on it, or serve it on the CPU")
        return EngineError(f"{self._manifest.onnx}: inference failed ({line}); restore or retrain it")


class OnnxRuntimeCudaRunner(OnnxRuntimeRunner):
    """The same on the CUDA provider: inputs and outputs stay in host memory, ONNX Runtime copies.

    TF32 is off, or fp32 would not be fp32.
    """

    provider = CUDA

    def _providers(self) -> list[Any]:
        return [(CUDA, {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}), CPU]


def _described(tensors: Any) -> dict[str, tuple[str, tuple[int | None, ...]]]:
    return {t.name: (_DTYPES.get(t.type, t.type), tuple(d if isinstance(d, int) else None for d in t.shape)) for t in tensors}


def _is_exhaustion(line: str) -> bool:
    return any(sign in line for sign in _EXHAUSTED)


def _runtime_errors() -> tuple[type[Exception], ...]:
    # ONNX Runtime's exception classes share no base but Exception.
    from onnxruntime.capi import onnxruntime_pybind11_state as state  # type: ignore[import-untyped, unused-ignore]

    found = (getattr(state, name) for name in dir(state))
    return tuple(e for e in found if isinstance(e, type) and issubclass(e, Exception))
