"""TensorRT on an NVIDIA GPU: an engine as a plan, run from page-locked buffers, as one CUDA graph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
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
    reason,
    refuse_other_shapes,
)
from engines.backends.portable_graph import portable_graph
from engines.backends.tensorrt import cuda_graph
from engines.backends.tensorrt.bindings import built_plan, last_error, message_logger
from engines.backends.tensorrt.device import availability, current_context, device_found
from engines.backends.tensorrt.plans import PlanCache, plan_key
from engines.manifest import EngineError, Manifest


class TensorRtRunner:
    """One engine as a TensorRT plan on a stream of its own. Implements `engines.backends.base.Runner`.

    A plan is for given input shapes. Where the manifest leaves a dimension open (a camera's frame), `RunnerOptions.shapes` says
    what will come, and anything else is refused; without that the first call's shapes are built for, in that call.
    """

    def __init__(self, manifest: Manifest, model: bytes, options: RunnerOptions | None = None) -> None:
        self._manifest, self._model, self._options = manifest, model, options or RunnerOptions()
        self._check = InputCheck(manifest)
        self._plans = PlanCache(self._options.cache)
        self._bound: BoundPlan | None = None
        self._is_active = False

    @property
    def manifest(self) -> Manifest:
        """What this engine reads and gives."""
        return self._manifest

    @property
    def bound(self) -> BoundPlan | None:
        """The plan that serves, for whoever times it; None before the first call where shapes are open."""
        return self._bound

    def probe(self) -> Availability:
        """Whether there is a GPU with a driver that is new enough, TensorRT and pycuda."""
        return availability()

    def compile(self) -> None:
        """Build the plan into the cache, if it is not there and its shapes are known. Takes seconds to minutes."""
        self._require_device()
        if (shapes := known_shapes(self._manifest, self._options.shapes)) is not None:
            with _faults(self._manifest.onnx):
                self._plan(shapes)

    def activate(self) -> None:
        """Load the plan, allocate, warm up, capture. Builds it first where the cache does not hold it."""
        self._require_device()
        self._is_active = True
        if (shapes := known_shapes(self._manifest, self._options.shapes)) is not None:
            self._bind(shapes)

    def infer(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run once; see `engines.backends.base.Runner.infer`."""
        if not self._is_active:
            raise EngineError(f"{self._manifest.onnx}: infer before activate; call activate() first")
        self._check(inputs)
        bound = self._bound
        if bound is None or not bound.fits(inputs):
            bound = self._bind(self._shapes_of(inputs))
        with _faults(self._manifest.onnx):
            return bound(inputs)

    def deactivate(self) -> None:
        """Free plan, buffers and stream."""
        self._is_active = False
        bound, self._bound = self._bound, None
        if bound is not None:
            bound.close()

    def __enter__(self) -> Self:
        self.activate()
        return self

    def __exit__(self, *exc: object) -> None:
        self.deactivate()

    def _require_device(self) -> None:
        found = self.probe()
        if not found.available:
            raise BackendUnavailable(f"backend tensorrt: {found.reason}")

    def _shapes_of(self, inputs: Mapping[str, Array]) -> Shapes:
        found = {name: array.shape for name, array in inputs.items()}
        refuse_other_shapes(self._manifest, self._options.shapes, found)
        return found

    def _bind(self, shapes: Shapes) -> BoundPlan:
        if self._bound is not None:
            self._bound.close()
            self._bound = None
        with _faults(self._manifest.onnx):
            self._bound = BoundPlan(self._manifest, self._plan(shapes), shapes)
        return self._bound

    def _plan(self, shapes: Shapes) -> bytes:
        """From the cache, or built now and kept there."""
        import tensorrt as trt

        device, version = device_found(), str(trt.__version__)
        key = plan_key(self._manifest, shapes, version, device)
        if (kept := self._plans.load(key)) is not None:
            return kept
        model = portable_graph(self._model, shapes)
        with current_context():
            timing = self._plans.timing(version, device)
            plan, timed = built_plan(trt, message_logger(trt), model, self._manifest.precision, timing, self._manifest.onnx)
        self._plans.save(key, plan)
        self._plans.save_timing(version, device, timed)
        return plan


class BoundPlan:
    """A loaded plan with its execution context, stream, page-locked and device buffers, bound once.

    A call copies inputs into page-locked memory, launches one CUDA graph (copies to the device, the network, copies back) and
    waits for it. Without cuda-bindings the same work is enqueued call by call.
    """

    def __init__(self, manifest: Manifest, plan: bytes, shapes: Shapes) -> None:
        import pycuda.driver as cuda
        import tensorrt as trt

        self._cuda, self._name, self._shapes = cuda, manifest.onnx, shapes
        self._logger = message_logger(trt)
        self.graph: cuda_graph.CudaGraph | None = None
        self._runtime: Any = None
        self._engine: Any = None
        self._context: Any = None
        self._host: dict[str, Array] = {}
        self._device: dict[str, Any] = {}
        self._inputs = tuple(spec.name for spec in manifest.inputs)
        self._outputs = tuple(spec.name for spec in manifest.outputs)
        with current_context():
            self.stream: Any = cuda.Stream()
            try:
                self._load(trt, plan)
                self._allocate(trt, manifest)
                self._run(with_graph=False)  # the first call allocates, which cannot be captured
                if cuda_graph.is_available():
                    self.graph = cuda_graph.CudaGraph(self.stream, self.enqueue)
                    self._run(with_graph=True)
            except BaseException:
                self.close()
                raise

    def fits(self, inputs: Mapping[str, Array]) -> bool:
        """Whether the inputs have the shapes that this plan is for."""
        return all(inputs[name].shape == shape for name, shape in self._shapes.items())

    def __call__(self, inputs: Mapping[str, Array], *, with_graph: bool = True) -> dict[str, Array]:
        """Run once. The arrays are always the same ones: valid until the next call."""
        for name in self._inputs:
            self._host[name][...] = inputs[name]
        with current_context():
            self._run(with_graph=with_graph)
        return {name: self._host[name] for name in self._outputs}

    def enqueue(self) -> None:
        """Put copies in, network, copies out on the stream."""
        for name in self._inputs:
            self._cuda.memcpy_htod_async(self._device[name], self._host[name], self.stream)
        self.enqueue_network()
        for name in self._outputs:
            self._cuda.memcpy_dtoh_async(self._host[name], self._device[name], self.stream)

    def enqueue_network(self) -> None:
        """Put the network alone on the stream."""
        if not self._context.execute_async_v3(self.stream.handle):
            raise DeviceFault(f"{self._name}: TensorRT cannot run it ({last_error(self._logger, 'no reason given')})")

    def close(self) -> None:
        """Free everything, in the order in which CUDA wants it. A device that failed frees nothing, and that is no new error."""
        graph, self.graph = self.graph, None
        blocks, self._device, self._host = self._device, {}, {}
        with suppress(self._cuda.Error), current_context():
            with suppress(self._cuda.Error):
                self.stream.synchronize()
            if graph is not None:
                graph.close()
            self._context = self._engine = self._runtime = None
            for block in blocks.values():
                with suppress(self._cuda.Error):
                    block.free()
            self.stream = None

    def _run(self, *, with_graph: bool) -> None:
        if with_graph and self.graph is not None:
            self.graph.launch()
        else:
            self.enqueue()
        self.stream.synchronize()

    def _load(self, trt: Any, plan: bytes) -> None:
        self._runtime = trt.Runtime(self._logger)
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise DeviceFault(f"{self._name}: its plan does not load ({last_error(self._logger, 'no reason given')})")
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise DeviceFault(f"{self._name}: no room for its context ({last_error(self._logger, 'out of memory')})")

    def _allocate(self, trt: Any, manifest: Manifest) -> None:
        found = {self._engine.get_tensor_name(place) for place in range(self._engine.num_io_tensors)}
        if found != {*self._inputs, *self._outputs}:
            raise EngineError(f"{self._name}: its plan has tensors {sorted(found)}; remove it from the cache, it is built again")
        for name in self._inputs:
            self._context.set_input_shape(name, self._shapes[name])
        for name in (*self._inputs, *self._outputs):
            shape = tuple(self._context.get_tensor_shape(name))
            dtype = np.dtype(trt.nptype(self._engine.get_tensor_dtype(name)))
            self._host[name] = self._cuda.pagelocked_zeros(shape, dtype)
            self._device[name] = self._cuda.mem_alloc(max(1, self._host[name].nbytes))
            self._context.set_tensor_address(name, int(self._device[name]))
        for spec in manifest.outputs:
            host = self._host[spec.name]
            if host.dtype != spec.dtype or (spec.is_fixed and host.shape != spec.shape):
                described = f"{host.dtype} {list(host.shape)}"
                raise EngineError(f"{self._name}: output {spec.name!r} is {described} in its plan; remove it from the cache")


@contextmanager
def _faults(name: str) -> Iterator[None]:
    """CUDA's errors as `DeviceFault`."""
    import pycuda.driver as cuda

    try:
        yield
    except cuda.MemoryError as error:
        raise DeviceFault(f"{name}: no room on the GPU ({reason(error)}); free memory on it, or serve it on the CPU") from None
    except cuda.Error as error:
        raise DeviceFault(f"{name}: the GPU failed ({reason(error)}); serve it on the CPU, see nvidia-smi and dmesg") from None
