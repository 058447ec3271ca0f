"""TensorRT 8.6, 10 and 11, through pycuda (extra ``gpu``)."""

from engines.backends.tensorrt.runner import TensorRtRunner

__all__ = ["TensorRtRunner"]
