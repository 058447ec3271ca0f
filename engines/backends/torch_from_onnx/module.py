"""From a parsed graph and the shapes of its inputs to a torch module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from engines.backends.torch_from_onnx.graph import OnnxGraph
from engines.backends.torch_from_onnx.operation import Operation, Recorder, Value
from engines.backends.torch_from_onnx.operators import OPERATORS
from engines.manifest import EngineError

if TYPE_CHECKING:
    import torch


def module_from_graph(graph: OnnxGraph, shapes: Mapping[str, Sequence[int]]) -> torch.nn.Module:
    """A module that takes the graph's inputs, in their order and with these shapes, and returns a tuple of its outputs.

    It lies on the CPU; its constants are buffers and follow ``to``. Weights are shared between the modules of one graph. Raises
    EngineError that names operator and node: one that is not known, or not in this form; and where what is computed is not what
    the graph says of its outputs.
    """
    import torch
    from torch import fx

    recorder = Recorder(fx.Graph(), torch.nn.Module())
    values = {name: Value(tensor=tensor) for name, tensor in graph.initialisers.items()}
    for place, (name, (dtype, _)) in enumerate(graph.inputs.items()):
        example = torch.empty(list(shapes[name]), dtype=getattr(torch, dtype), device="meta")
        values[name] = Value(tensor=example, node=recorder.graph.placeholder(f"input_{place}"))
    with torch.no_grad():
        for node in graph.nodes:
            found = _translated(graph.name, node, values, recorder)
            values.update((name, value) for name, value in zip(node.output, found, strict=False) if name)
    _check_outputs(graph, values)
    recorder.graph.output(tuple(recorder.argument(values[name]) for name in graph.outputs))
    module = fx.GraphModule(recorder.root, recorder.graph)
    module.graph.eliminate_dead_code()
    module.recompile()
    return module.eval()


def _check_outputs(graph: OnnxGraph, values: Mapping[str, Value]) -> None:
    for name, (dtype, shape) in graph.outputs.items():
        if name not in values:
            raise EngineError(f"{graph.name}: no node gives the output {name!r}; retrain it")
        found, found_dtype = values[name].shape, str(values[name].tensor.dtype).removeprefix("torch.")
        fits = len(found) == len(shape) and all(size in (None, f) for f, size in zip(found, shape, strict=True))
        if not fits or found_dtype != dtype:
            raise EngineError(
                f"{graph.name}: output {name!r} says {dtype} {list(shape)}, it is {found_dtype} {found}; retrain it"
            )


def _translated(name: str, node: Any, values: Mapping[str, Value], recorder: Recorder) -> Sequence[Value]:
    label = node.name or node.output[0]
    translate = OPERATORS.get(node.op_type) if node.domain in ("", "ai.onnx") else None
    if translate is None:
        operator = node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"
        raise EngineError(
            f"{name}: the torch backend lacks the operator {operator} (node {label!r}); serve it with ort, "
            "or add it to engines/backends/torch_from_onnx/operators.py"
        )
    try:
        operation = Operation(name, node, [values[i] if i else None for i in node.input], recorder)
        result = translate(operation)
        found = [result] if isinstance(result, Value) else result
        if len(node.output) > len(found):
            operation.refuse(f"{len(node.output)} outputs")
        return found
    except (RuntimeError, ValueError, IndexError, TypeError, KeyError) as error:
        line = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise EngineError(f"{name}: {node.op_type} (node {label!r}) cannot be translated ({line}); serve it with ort") from None
