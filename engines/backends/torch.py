"""torch, on an NVIDIA GPU where there is one and else on the CPU (extra ``train``)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from typing_extensions import Self  # noqa: UP035 - on Python 3.10 too, where TensorRT 8.6 lives

from engines.backends.base import Array, Availability, DeviceFault, InputCheck, RunnerOptions, match_tensors, reason
from engines.backends.torch_from_onnx import OnnxGraph, module_from_graph, read_graph
from engines.manifest import EngineError, Manifest, TensorSpec

if TYPE_CHECKING:
    import torch

MAX_SHAPES = 4
"""How many shapes of dynamic inputs are kept translated. A stream's frames keep their size."""
_EXAMPLE = 64
"""Stands for a dynamic dimension until the first call, so that ``activate`` finds what cannot be translated."""
_EXHAUSTED = (
    "out of memory",
    "can't allocate memory",
    "CUDA error",
    "CUDA driver",
    "CUBLAS_STATUS",
    "CUDNN_STATUS",
    "cuDNN error",
)


class TorchRunner:
    """One engine as a torch module. Implements `engines.backends.base.Runner`.

    The number of threads belongs to torch, not to a module: it is lowered for the time of a call and never raised. torch keeps
    it for each thread, but a thread that first meets torch during such a call begins with the lowered number. TF32, which is
    set for the whole process too, is off for the time of a call: fp32 means fp32. Dynamic inputs: the first call with a new shape
    translates for it, which takes 40 to 80 ms for a camera's; the last `MAX_SHAPES` are kept.
    """

    def __init__(self, manifest: Manifest, model: bytes, options: RunnerOptions | None = None) -> None:
        self._manifest, self._model, self._options = manifest, model, options or RunnerOptions()
        self._check = InputCheck(manifest)
        self._graph: OnnxGraph | None = None
        self._bound: dict[tuple[tuple[int, ...], ...], _BoundModule] = {}
        self._outputs: dict[str, torch.Tensor] = {}

    @property
    def manifest(self) -> Manifest:
        """What this engine reads and gives."""
        return self._manifest

    def probe(self) -> Availability:
        """Whether torch and onnx import here, and which CUDA torch found."""
        try:
            import onnx
            import torch
        except ImportError as error:
            return Availability(reason=f"{error}; pip install 'chiasm[train]'")
        versions = {"torch": str(torch.__version__), "onnx": str(onnx.__version__)}
        if torch.cuda.is_available():
            versions["cuda"] = str(torch.version.cuda)
        return Availability(versions=versions)

    def compile(self) -> None:
        """Nothing: translating takes at most 0.1 s, and its result cannot be kept without pickle."""

    def activate(self) -> None:
        """Translate the graph and hold it to the manifest."""
        graph = read_graph(self._model, self._manifest.onnx)
        match_tensors(self._manifest, "inputs", graph.inputs)
        match_tensors(self._manifest, "outputs", graph.outputs)
        self._graph = graph
        shapes = {t.name: tuple(d or _EXAMPLE for d in t.shape) for t in self._manifest.inputs}
        try:
            self._module_for(tuple(shapes[name] for name in graph.inputs))
        except EngineError:
            self.deactivate()
            raise
        except _errors() as error:
            self.deactivate()
            raise self._failed(error) from None

    def infer(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run once; see `engines.backends.base.Runner.infer`."""
        if self._graph is None:
            raise EngineError(f"{self._manifest.onnx}: infer before activate; call activate() first")
        self._check(inputs)
        shapes = tuple(inputs[name].shape for name in self._graph.inputs)
        try:
            bound = self._bound.get(shapes) or self._module_for(shapes)
            with _at_most(self._options.threads):
                return bound(inputs)
        except _errors() as error:
            raise self._failed(error) from None

    def deactivate(self) -> None:
        """Drop modules and buffers."""
        self._graph = None
        self._bound, self._outputs = {}, {}

    def resident(self) -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
        """The module of the last shapes and the tensors that it reads, on its device: for whoever times or compiles it."""
        if not self._bound:
            raise EngineError(f"{self._manifest.onnx}: no module before activate; call activate() first")
        return next(reversed(self._bound.values())).resident()

    def __enter__(self) -> Self:
        self.activate()
        return self

    def __exit__(self, *exc: object) -> None:
        self.deactivate()

    def _module_for(self, shapes: tuple[tuple[int, ...], ...]) -> _BoundModule:
        """The module for these shapes; the oldest one makes room for it."""
        import torch

        assert self._graph is not None
        named = dict(zip(self._graph.inputs, shapes, strict=True))
        module = module_from_graph(self._graph, named)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        for spec in self._manifest.outputs:
            if spec.is_fixed and spec.name not in self._outputs:
                self._outputs[spec.name] = _host_buffer(tuple(d or 0 for d in spec.shape), spec.dtype, device)
        bound = _BoundModule(module.to(device), device, named, self._manifest.inputs, self._outputs, tuple(self._graph.outputs))
        if len(self._bound) >= MAX_SHAPES:
            del self._bound[next(iter(self._bound))]
        self._bound[shapes] = bound
        return bound

    def _failed(self, error: Exception) -> EngineError:
        line = reason(error)
        if any(sign in str(error) for sign in _EXHAUSTED):
            return DeviceFault(f"{self._manifest.onnx}: the device failed ({line}); free memory on it, or serve it with ort")
        return EngineError(f"{self._manifest.onnx}: inference failed ({line}); serve it with ort")


class _BoundModule:
    """A module for given shapes, with buffers for what it reads. On a GPU the host's side of them is pinned."""

    def __init__(
        self,
        module: torch.nn.Module,
        device: torch.device,
        shapes: Mapping[str, tuple[int, ...]],
        inputs: tuple[TensorSpec, ...],
        outputs: Mapping[str, torch.Tensor],
        output_names: tuple[str, ...],
    ) -> None:
        import torch

        self._module, self._output_names = module, output_names
        self._outputs = {name: (tensor, tensor.numpy()) for name, tensor in outputs.items()}
        dtypes = {spec.name: spec.dtype for spec in inputs}
        self._read = {name: _host_buffer(shape, dtypes[name], device) for name, shape in shapes.items()}
        self._written = {name: tensor.numpy() for name, tensor in self._read.items()}
        self._moved = {n: torch.empty_like(t, device=device) for n, t in self._read.items()} if device.type == "cuda" else {}

    def resident(self) -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
        """See `TorchRunner.resident`."""
        return self._module, self._moved or self._read

    def __call__(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run once, on inputs of just these shapes. Outputs of fixed shape are always the same arrays."""
        import torch

        for name, buffer in self._written.items():
            buffer[...] = inputs[name]
        with torch.inference_mode():
            if self._moved:
                for name, tensor in self._moved.items():
                    tensor.copy_(self._read[name], non_blocking=True)
                with without_tf32():
                    found = self._module(*self._moved.values())
            else:
                found = self._module(*self._read.values())
            outputs: dict[str, Array] = {}
            for name, result in zip(self._output_names, found, strict=True):
                if name in self._outputs:
                    tensor, outputs[name] = self._outputs[name]
                    tensor.copy_(result)  # waits for a GPU
                else:
                    outputs[name] = result.cpu().numpy()
        return outputs


def _host_buffer(shape: tuple[int, ...], dtype: str, device: torch.device) -> torch.Tensor:
    import torch

    if device.type == "cuda":
        return torch.zeros(shape, dtype=getattr(torch, dtype), pin_memory=True)
    return torch.from_numpy(np.zeros(shape, dtype))


@contextmanager
def _at_most(threads: int) -> Iterator[None]:
    """For the time of a call: no more threads than asked for."""
    import torch

    before = torch.get_num_threads()
    if threads >= before:
        yield
        return
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def without_tf32() -> Iterator[None]:
    """For the time of a call: fp32 means fp32, on a GPU too."""
    from torch import backends

    switches: tuple[Any, ...] = (backends.cuda.matmul, backends.cudnn)
    switch: str = "allow_tf32"
    exact: bool | str = False
    if hasattr(backends.cudnn, "conv"):  # torch 2.9 and later, which does not like the two ways mixed
        switches, switch, exact = (backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn), "fp32_precision", "ieee"
    before = [getattr(place, switch) for place in switches]
    for place in switches:
        setattr(place, switch, exact)
    try:
        yield
    finally:
        for place, value in zip(switches, before, strict=True):
            setattr(place, switch, value)


def _errors() -> tuple[type[Exception], ...]:
    return RuntimeError, IndexError
