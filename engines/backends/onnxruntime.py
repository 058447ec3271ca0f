"""ONNX Runtime on the CPU: the reference backend and the default."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from typing_extensions import Self  # noqa: UP035 - on Python 3.10 too, where TensorRT 8.6 lives

from engines.backends.base import Array, Availability, InputCheck
from engines.manifest import EngineError, Manifest, TensorSpec

_DTYPES = {"uint8": "tensor(uint8)", "int16": "tensor(int16)", "float32": "tensor(float)"}


class OnnxRuntimeRunner:
    """One engine in one ONNX Runtime session. Implements `engines.backends.base.Runner`.

    Threads do not spin between calls: a runtime that sleeps on events must not burn the core that the next stage needs.
    """

    def __init__(self, manifest: Manifest, model: bytes, threads: int = 1) -> None:
        self._manifest = manifest
        self._model = model
        self._threads = threads
        self._check = InputCheck(manifest)
        self._session: Any = None
        self._output_names = [t.name for t in manifest.outputs]
        self._binding: Any = None
        self._bound_inputs: dict[str, Array] = {}
        self._bound_outputs: dict[str, Array] = {}

    @property
    def manifest(self) -> Manifest:
        """What this engine reads and gives."""
        return self._manifest

    def probe(self) -> Availability:
        """Whether ONNX Runtime imports here."""
        try:
            import onnxruntime  # type: ignore[import-untyped, unused-ignore]
        except ImportError as error:
            return Availability(reason=f"{error}; pip install onnxruntime")
        return Availability(versions={"onnxruntime": onnxruntime.__version__})

    def activate(self) -> None:
        """Build the session and hold it to the manifest."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            session = onnxruntime.InferenceSession(self._model, options, providers=["CPUExecutionProvider"])
        except _runtime_errors() as error:
            raise EngineError(
                f"{self._manifest.onnx}: ONNX Runtime refuses it ({_reason(error)}); restore or retrain it"
            ) from None
        self._match(session.get_inputs(), self._manifest.inputs, "input")
        self._match(session.get_outputs(), self._manifest.outputs, "output")
        self._session = session
        if all(t.is_fixed for t in (*self._manifest.inputs, *self._manifest.outputs)):
            self._bind(onnxruntime)

    def infer(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run once; see `engines.backends.base.Runner.infer`."""
        if self._session is None:
            raise EngineError(f"{self._manifest.onnx}: infer before activate; call activate() first")
        self._check(inputs)
        try:
            if self._binding is None:
                return dict(zip(self._output_names, self._session.run(self._output_names, inputs), strict=True))
            for name, buffer in self._bound_inputs.items():
                buffer[...] = inputs[name]
            self._session.run_with_iobinding(self._binding)
        except _runtime_errors() as error:
            raise EngineError(f"{self._manifest.onnx}: inference failed ({_reason(error)}); restore or retrain it") from None
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

    def _bind(self, onnxruntime: Any) -> None:
        # Copying a window into a bound buffer and running costs 5-10 us less a call than handing arrays to run(), and
        # allocates nothing. On the CPU an OrtValue shares its array's memory.
        binding = self._session.io_binding()
        for spec in (*self._manifest.inputs, *self._manifest.outputs):
            buffer = np.zeros([d or 0 for d in spec.shape], dtype=spec.dtype)
            value = onnxruntime.OrtValue.ortvalue_from_numpy(buffer)
            if spec in self._manifest.inputs:
                binding.bind_ortvalue_input(spec.name, value)
                self._bound_inputs[spec.name] = buffer
            else:
                binding.bind_ortvalue_output(spec.name, value)
                self._bound_outputs[spec.name] = buffer
        self._binding = binding

    def _match(self, found: Any, expected: tuple[TensorSpec, ...], side: str) -> None:
        graph = {t.name: t for t in found}
        if graph.keys() != {t.name for t in expected}:
            raise EngineError(
                f"{self._manifest.onnx}: graph has {side}s {sorted(graph)}, "
                f"its manifest {sorted(t.name for t in expected)}; retrain it"
            )
        for spec in expected:
            shape = tuple(d if isinstance(d, int) else None for d in graph[spec.name].shape)
            if graph[spec.name].type != _DTYPES[spec.dtype] or shape != spec.shape:
                raise EngineError(
                    f"{self._manifest.onnx}: {side} {spec.name!r} is {graph[spec.name].type} {list(shape)} in graph "
                    f"but {spec.dtype} {list(spec.shape)} in its manifest; retrain it"
                )


def _runtime_errors() -> tuple[type[Exception], ...]:
    # ONNX Runtime's exception classes share no base but Exception.
    from onnxruntime.capi import onnxruntime_pybind11_state as state  # type: ignore[import-untyped, unused-ignore]

    found = (getattr(state, name) for name in dir(state))
    return tuple(e for e in found if isinstance(e, type) and issubclass(e, Exception))


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
