"""Work on a stream, captured once and then launched as one: a CUDA graph. pycuda has none, cuda-bindings do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from engines.backends.base import DeviceFault


class CudaGraph:
    """What ``enqueue`` puts on a stream. Run that once in the ordinary way before: first calls allocate."""

    def __init__(self, stream: Any, enqueue: Callable[[], None]) -> None:
        self._driver = _driver()
        self._stream = self._driver.CUstream(stream.handle)
        mode = self._driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self._checked(self._driver.cuStreamBeginCapture(self._stream, mode))
        try:
            enqueue()
        finally:
            graph = self._checked(self._driver.cuStreamEndCapture(self._stream))
        self._executable = self._checked(self._driver.cuGraphInstantiate(graph, 0))
        self._checked(self._driver.cuGraphDestroy(graph))

    def launch(self) -> None:
        """Put all of it on the stream. Raises DeviceFault."""
        self._checked(self._driver.cuGraphLaunch(self._executable, self._stream))

    def close(self) -> None:
        """Free it; its context must be current."""
        if self._executable is not None:
            self._driver.cuGraphExecDestroy(self._executable)
            self._executable = None

    def _checked(self, result: tuple[Any, ...]) -> Any:
        if int(result[0]) != 0:
            raise DeviceFault(f"CUDA graph: {result[0]!s}; serve it on the CPU")
        return result[1] if len(result) > 1 else None


def _driver() -> Any:
    try:
        from cuda.bindings import driver
    except ImportError:
        from cuda import cuda as driver  # cuda-python before 12.7
    return driver


def is_available() -> bool:
    """Whether cuda-bindings are installed."""
    try:
        _driver()
    except ImportError:
        return False
    return True
