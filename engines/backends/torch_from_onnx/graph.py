"""A parsed ONNX file: its nodes, and its weights as torch tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engines.manifest import EngineError
from engines.ordering import put_in_order

if TYPE_CHECKING:
    import torch

MIN_OPSET = 18
"""Before it reductions had their axes elsewhere."""
Shape = tuple[int | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxGraph:
    """A parsed and checked ONNX file."""

    name: str
    """The file's, for errors."""
    nodes: Sequence[Any]
    initialisers: Mapping[str, torch.Tensor]
    inputs: Mapping[str, tuple[str, Shape]]
    """Name to dtype and shape, None for a dynamic dimension; so too ``outputs``."""
    outputs: Mapping[str, tuple[str, Shape]]


def read_graph(model: bytes, name: str) -> OnnxGraph:
    """Parse an ONNX file's bytes. Raises EngineError: not ONNX, against its rules, an old opset, weights in another file."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        parsed = onnx.load_from_string(model)
        put_in_order(parsed.graph)
        onnx.checker.check_model(parsed)
    except (DecodeError, ValueError, onnx.checker.ValidationError) as error:
        line = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise EngineError(f"{name}: not an ONNX file that can be read ({line}); restore or retrain it") from None
    opsets = {imported.domain: imported.version for imported in parsed.opset_import}
    if opsets.get("", 0) < MIN_OPSET:
        raise EngineError(f"{name}: opset {opsets.get('')} is below {MIN_OPSET}; export it again")
    graph = parsed.graph
    try:
        initialisers = {tensor.name: tensor_from_proto(tensor) for tensor in graph.initializer}
    except (TypeError, ValueError) as error:
        raise EngineError(f"{name}: a weight cannot be read ({str(error)[:200]}); export it as one file of numbers") from None
    inputs = _described(value for value in graph.input if value.name not in initialisers)
    return OnnxGraph(
        name=name, nodes=list(graph.node), initialisers=initialisers, inputs=inputs, outputs=_described(graph.output)
    )


def tensor_from_proto(proto: Any) -> torch.Tensor:
    """An ONNX tensor as a torch tensor of the same dtype, in memory of its own. Raises ValueError: its data lie elsewhere."""
    import torch
    from onnx import TensorProto, numpy_helper

    if proto.data_location == TensorProto.EXTERNAL:  # whose path would be the file's choice
        raise ValueError(f"{proto.name!r} lies in another file")
    array = numpy_helper.to_array(proto)
    if proto.data_type == TensorProto.BFLOAT16:  # which numpy does not have
        return torch.from_numpy(array.astype("float32")).to(torch.bfloat16)
    return torch.from_numpy(array.copy())


def _described(infos: Any) -> dict[str, tuple[str, Shape]]:
    from onnx import helper

    described: dict[str, tuple[str, Shape]] = {}
    for info in infos:
        tensor = info.type.tensor_type
        dims = tuple(d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim)
        described[info.name] = str(helper.tensor_dtype_to_np_dtype(tensor.elem_type)), dims
    return described
