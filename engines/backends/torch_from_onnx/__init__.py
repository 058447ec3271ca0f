"""From an ONNX graph to a torch module for given input shapes: straight-line code, nothing left to decide at run time.

Because shapes are given, all that depends on nothing else (where a frame is cut, which pixels a resize reads) is computed once,
here. What is left is recorded as a `torch.fx.GraphModule`, which ``torch.compile`` takes as it is. Only the operators of
`engines.backends.torch_from_onnx.operators` are known. Why not onnx2torch: docs/decisions/0014.
"""

from engines.backends.torch_from_onnx.graph import OnnxGraph, read_graph
from engines.backends.torch_from_onnx.module import module_from_graph

__all__ = ["OnnxGraph", "module_from_graph", "read_graph"]
