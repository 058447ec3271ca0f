"""Stand-ins for tensorrt, pycuda and cuda-bindings that record and judge the order of calls. They prove nothing about TensorRT.

What a plan "computes" is its graph on ONNX Runtime, on arrays that stand for device memory, so that a forgotten copy or a wrong
address shows in the outputs. Every call that CUDA makes on a context demands that it be current in the calling thread.
"""

from __future__ import annotations

import enum
import itertools
import sys
import threading
import types
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest


class CallOrderError(AssertionError):
    """A call that real CUDA or TensorRT would answer with an error, or with the end of the process."""


class Gpu:
    """One pretended device: its memory, its contexts by thread, what was called."""

    def __init__(self, version: str = "10.16.1", driver: int = 13000, devices: int = 1) -> None:
        self.version, self.driver, self.devices = version, driver, devices
        self.calls: list[str] = []
        self.flags: list[str] = []
        self.memory: dict[int, Any] = {}
        self.free_bytes = 1 << 30
        self.fails: Callable[[str], Exception | None] = lambda name: None
        self._local = threading.local()
        self._addresses = itertools.count(0x7000_0000, 1 << 20)

    @property
    def stack(self) -> list[Any]:
        """Contexts pushed in this thread."""
        if not hasattr(self._local, "stack"):
            self._local.stack = []
        stack: list[Any] = self._local.stack
        return stack

    def call(self, name: str, *, needs_context: bool = True) -> None:
        """Note a call."""
        if needs_context and not self.stack:
            raise CallOrderError(f"{name} without a current context in {threading.current_thread().name}")
        self.calls.append(name)
        if (failure := self.fails(name)) is not None:
            raise failure

    def address(self) -> int:
        """A new one."""
        return next(self._addresses)

    def count(self, name: str) -> int:
        """How often it was called."""
        return self.calls.count(name)

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """As the modules that code imports."""
        from engines.backends.tensorrt import device

        device._primary.cache_clear()
        driver, bindings = fake_pycuda(self), fake_cuda_bindings(self)
        pycuda = types.ModuleType("pycuda")
        pycuda.VERSION_TEXT, pycuda.driver = "recorded", driver  # type: ignore[attr-defined]
        cuda, cuda_bindings = types.ModuleType("cuda"), types.ModuleType("cuda.bindings")
        cuda.bindings, cuda_bindings.driver = cuda_bindings, bindings  # type: ignore[attr-defined]
        modules = {"pycuda": pycuda, "pycuda.driver": driver, "cuda": cuda, "cuda.bindings": cuda_bindings}
        modules |= {"cuda.bindings.driver": bindings, "tensorrt": fake_tensorrt(self)}
        for name, module in modules.items():
            patch.setitem(sys.modules, name, module)


class _Stream:
    def __init__(self, gpu: Gpu) -> None:
        gpu.call("Stream")
        self._gpu, self.handle = gpu, gpu.address()
        self.capturing: list[Callable[[], None]] | None = None
        self.pending: list[Callable[[], None]] = []
        self.enqueued = 0
        _STREAMS[self.handle] = self

    def put(self, work: Callable[[], None]) -> None:
        (self.pending if self.capturing is None else self.capturing).append(work)

    def synchronize(self) -> None:
        self._gpu.call("synchronize")
        if self.capturing is not None:
            raise CallOrderError("synchronize while capturing")
        for work in self.pending:
            work()
        self.pending = []


_STREAMS: dict[int, _Stream] = {}


class _Block(int):
    """Device memory."""

    gpu: Gpu

    def free(self) -> None:
        self.gpu.call("free")
        self.gpu.free_bytes += len(self.gpu.memory.pop(int(self)))


def fake_pycuda(gpu: Gpu) -> Any:
    """``pycuda.driver``."""
    driver: Any = types.ModuleType("pycuda.driver")

    class Error(Exception):
        pass

    class LogicError(Error):
        pass

    class MemoryError(Error):
        pass

    class Context:
        def push(self) -> None:
            gpu.calls.append("push")
            gpu.stack.append(self)

        @staticmethod
        def pop() -> None:
            gpu.calls.append("pop")
            gpu.stack.pop()

    class Device:
        def __init__(self, index: int) -> None:
            if index >= gpu.devices:
                raise LogicError("cuDeviceGet failed: invalid device ordinal")

        count = staticmethod(lambda: gpu.devices)
        name = staticmethod(lambda: "Recorded GPU")
        compute_capability = staticmethod(lambda: (9, 0))
        retain_primary_context = staticmethod(Context)

    def mem_alloc(size: int) -> _Block:
        gpu.call("mem_alloc")
        if size > gpu.free_bytes:
            raise MemoryError("cuMemAlloc failed: out of memory")
        block = _Block(gpu.address())
        block.gpu = gpu
        gpu.free_bytes -= size
        gpu.memory[int(block)] = np.full(size, 0xA5, np.uint8)
        return block

    def pagelocked_zeros(shape: tuple[int, ...], dtype: Any) -> Any:
        gpu.call("pagelocked_zeros")
        return np.zeros(shape, dtype)

    def htod(block: _Block, host: Any, stream: _Stream) -> None:
        gpu.call("memcpy_htod_async")
        stream.put(lambda: gpu.memory[int(block)].__setitem__(slice(host.nbytes), host.reshape(-1).view(np.uint8)))

    def dtoh(host: Any, block: _Block, stream: _Stream) -> None:
        gpu.call("memcpy_dtoh_async")
        stream.put(lambda: host.reshape(-1).view(np.uint8).__setitem__(slice(None), gpu.memory[int(block)][: host.nbytes]))

    names = {"Error": Error, "LogicError": LogicError, "MemoryError": MemoryError, "Context": Context, "Device": Device}
    names |= {"init": lambda: gpu.call("init", needs_context=False), "get_driver_version": lambda: gpu.driver}
    names |= {"Stream": lambda: _Stream(gpu), "mem_alloc": mem_alloc, "pagelocked_zeros": pagelocked_zeros}
    names |= {"memcpy_htod_async": htod, "memcpy_dtoh_async": dtoh}
    vars(driver).update(names)
    return driver


def fake_cuda_bindings(gpu: Gpu) -> Any:
    """``cuda.bindings.driver``: graphs alone."""
    driver: Any = types.ModuleType("cuda.bindings.driver")

    def begin(stream: int, mode: str) -> tuple[int]:
        gpu.call("cuStreamBeginCapture")
        assert mode == "thread local"
        if not _STREAMS[stream].enqueued:
            raise CallOrderError("capture before the network has run once: what it allocates cannot be captured")
        _STREAMS[stream].capturing = []
        return (0,)

    def end(stream: int) -> tuple[int, Any]:
        gpu.call("cuStreamEndCapture")
        captured, _STREAMS[stream].capturing = _STREAMS[stream].capturing, None
        return 0, (gpu.stack[-1], captured)

    def launch(executable: list[Any], stream: int) -> tuple[int]:
        gpu.call("cuGraphLaunch")
        context, works = executable
        if context is not gpu.stack[-1]:
            raise CallOrderError("a graph is launched in another context than it was captured in")
        for work in works:
            _STREAMS[stream].put(work)
        return (0,)

    def freed(name: str) -> Callable[[Any], tuple[int]]:
        def call(_: Any) -> tuple[int]:
            gpu.call(name)
            return (0,)

        return call

    driver.CUstream = int
    driver.CUstreamCaptureMode = types.SimpleNamespace(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL="thread local")
    driver.cuStreamBeginCapture, driver.cuStreamEndCapture = begin, end
    driver.cuGraphInstantiate = lambda graph, flags: (0, graph)
    driver.cuGraphLaunch = launch
    driver.cuGraphDestroy, driver.cuGraphExecDestroy = freed("cuGraphDestroy"), freed("cuGraphExecDestroy")
    return driver


class _Severity(enum.IntEnum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2


class _ILogger:
    Severity = _Severity


class _Network:
    num_layers = 0
    model = b""


class _Timing:
    def __init__(self, content: bytes) -> None:
        self.content = content

    def serialize(self) -> bytes:
        return self.content + b"timed;"


class _Engine:
    """A plan: its graph on ONNX Runtime."""

    def __init__(self, gpu: Gpu, plan: bytes) -> None:
        import onnxruntime

        self._gpu = gpu
        self.session = onnxruntime.InferenceSession(plan.removeprefix(b"plan:"), providers=["CPUExecutionProvider"])
        self.tensors = {t.name: t for t in (*self.session.get_inputs(), *self.session.get_outputs())}
        self.num_io_tensors = len(self.tensors)

    def get_tensor_name(self, place: int) -> str:
        return list(self.tensors)[place]

    def get_tensor_dtype(self, name: str) -> str:
        return str(self.tensors[name].type)

    def create_execution_context(self) -> _ExecutionContext:
        self._gpu.call("create_execution_context")
        return _ExecutionContext(self._gpu, self)


class _ExecutionContext:
    def __init__(self, gpu: Gpu, engine: _Engine) -> None:
        self._gpu, self._engine = gpu, engine
        self._addresses: dict[str, int] = {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        return list(shape) == list(self._engine.tensors[name].shape)

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._engine.tensors[name].shape)

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._addresses[name] = address
        return True

    def execute_async_v3(self, handle: int) -> bool:
        self._gpu.call("execute_async_v3")
        missing = self._engine.tensors.keys() - self._addresses.keys()
        if missing:
            raise CallOrderError(f"enqueued before the addresses of {sorted(missing)} were set")
        _STREAMS[handle].put(self._compute)
        _STREAMS[handle].enqueued += 1
        return True

    def _compute(self) -> None:
        session, memory = self._engine.session, self._gpu.memory
        inputs = {}
        for tensor in session.get_inputs():
            dtype, size = np.dtype(_NUMPY[tensor.type]), int(np.prod(tensor.shape))
            block = memory[self._addresses[tensor.name]]
            inputs[tensor.name] = block[: size * dtype.itemsize].view(dtype).reshape(tensor.shape)
        for tensor, array in zip(session.get_outputs(), session.run(None, inputs), strict=True):
            memory[self._addresses[tensor.name]][: array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)


_NUMPY = {"tensor(float)": np.float32, "tensor(int32)": np.int32, "tensor(uint8)": np.uint8, "tensor(float16)": np.float16}


class _Config:
    def __init__(self, gpu: Gpu) -> None:
        self._gpu, self._timing = gpu, _Timing(b"")

    def set_memory_pool_limit(self, pool: Any, size: int) -> None:
        self._gpu.call("set_memory_pool_limit")

    def set_tactic_sources(self, sources: int) -> None:
        self._gpu.call("set_tactic_sources")

    def set_flag(self, flag: Any) -> None:
        self._gpu.flags.append(f"+{flag.name}")

    def clear_flag(self, flag: Any) -> None:
        self._gpu.flags.append(f"-{flag.name}")

    def create_timing_cache(self, content: bytes) -> _Timing:
        self._gpu.flags.append(f"timing cache of {len(content)}")
        return _Timing(content)

    def set_timing_cache(self, cache: _Timing, ignore_mismatch: bool) -> bool:
        assert ignore_mismatch is False
        self._timing = cache
        return True

    def get_timing_cache(self) -> _Timing:
        return self._timing


class _Builder:
    def __init__(self, gpu: Gpu, logger: Any) -> None:
        gpu.call("Builder")
        self._gpu = gpu

    def create_network(self, wanted: int) -> _Network:
        self._gpu.flags.append(f"network {wanted}")
        return _Network()

    def create_builder_config(self) -> _Config:
        return _Config(self._gpu)

    def build_serialized_network(self, network: _Network, config: _Config) -> bytes:
        self._gpu.call("build_serialized_network")
        return b"plan:" + network.model


class _OnnxParser:
    num_errors = 0

    def __init__(self, network: _Network, logger: Any) -> None:
        self._network = network

    def parse(self, model: bytes) -> bool:
        self._network.model = model
        return True


class _Runtime:
    def __init__(self, gpu: Gpu, logger: Any) -> None:
        gpu.call("Runtime")
        if not gpu.devices:
            raise CallOrderError("trt.Runtime without a device ends the process")
        self._gpu = gpu

    def deserialize_cuda_engine(self, plan: bytes) -> _Engine:
        return _Engine(self._gpu, plan)


def fake_tensorrt(gpu: Gpu) -> Any:
    """``tensorrt`` of the Gpu's version."""
    trt: Any = types.ModuleType("tensorrt")
    generation = int(gpu.version.partition(".")[0])
    flags = ["TF32", *(["FP16", "INT8", "PREFER_PRECISION_CONSTRAINTS"] if generation < 11 else [])]
    creation = ["EXPLICIT_BATCH", *(["STRONGLY_TYPED"] if generation >= 10 else [])]
    trt.__version__ = gpu.version
    trt.ILogger, trt.OnnxParser = _ILogger, _OnnxParser
    trt.Builder, trt.Runtime = partial(_Builder, gpu), partial(_Runtime, gpu)
    trt.NetworkDefinitionCreationFlag = enum.IntEnum("NetworkDefinitionCreationFlag", creation, start=0)
    trt.BuilderFlag = enum.IntEnum("BuilderFlag", flags)
    trt.MemoryPoolType = enum.IntEnum("MemoryPoolType", ["WORKSPACE"])
    trt.TacticSource = enum.IntEnum("TacticSource", ["EDGE_MASK_CONVOLUTIONS", "JIT_CONVOLUTIONS"], start=3)
    trt.LayerType = enum.IntEnum("LayerType", ["CONSTANT", "SHAPE", "CAST"])
    trt.float32, trt.float16 = "tensor(float)", "tensor(float16)"
    trt.nptype = lambda kind: _NUMPY[kind]
    return trt
