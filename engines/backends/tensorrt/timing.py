"""How long a network takes on the device, copies left out: by CUDA events, which the device itself stamps."""

from __future__ import annotations

from engines.backends.tensorrt.cuda_graph import CudaGraph
from engines.backends.tensorrt.device import current_context
from engines.backends.tensorrt.runner import BoundPlan


class DeviceTimer:
    """Times a bound plan's network on the inputs of its last call. Close it before the plan."""

    def __init__(self, bound: BoundPlan, *, with_graph: bool) -> None:
        import pycuda.driver as cuda

        self._bound = bound
        with current_context():
            self._start, self._end = cuda.Event(), cuda.Event()
            self._graph = CudaGraph(bound.stream, bound.enqueue_network) if with_graph else None
        self._launch = self._graph.launch if self._graph is not None else bound.enqueue_network

    def __call__(self) -> int:
        """One run, in ns."""
        with current_context():
            self._start.record(self._bound.stream)
            self._launch()
            self._end.record(self._bound.stream)
            self._end.synchronize()
            return int(self._start.time_till(self._end) * 1e6)

    def close(self) -> None:
        """Free events and graph."""
        with current_context():
            if self._graph is not None:
                self._graph.close()
            del self._start, self._end
