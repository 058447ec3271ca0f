"""ONNX operators in torch: those of the engines here and of what `engines.precision` makes of them, and no others.

Each function gets one node as an `Operation` and returns what the node gives. Operators and their defaults are those of the ONNX
specification, opset 18; where it leaves a choice open, ONNX Runtime's on the CPU is made, it being the reference.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from engines.backends.portable_graph import neighbours
from engines.backends.torch_from_onnx.graph import tensor_from_proto
from engines.backends.torch_from_onnx.operation import Operation, Value
from engines.backends.torch_from_onnx.quantised import QUANTISED

if TYPE_CHECKING:
    import torch


def _simple(function: str, op: Operation) -> Value:
    """What torch has under the name ``function``, with the same arguments."""
    import torch

    return op.emit(getattr(torch, function), *(op.input(place) for place in range(len(op.inputs))))


def _identity(op: Operation) -> Value:
    return op.input(0)


def _constant(op: Operation) -> Value:
    value = op.attribute("value", None)
    return Value(tensor=tensor_from_proto(value)) if value is not None else op.refuse("no tensor as its value")


def _cast(op: Operation) -> Value:
    return op.emit("to", op.input(0), _dtype(op, op.attribute("to", 0)))


def _dtype(op: Operation, number: int) -> torch.dtype:
    import torch
    from onnx import TensorProto

    names = {
        TensorProto.FLOAT: torch.float32, TensorProto.FLOAT16: torch.float16, TensorProto.BFLOAT16: torch.bfloat16,
        TensorProto.DOUBLE: torch.float64, TensorProto.UINT8: torch.uint8, TensorProto.INT8: torch.int8,
        TensorProto.INT16: torch.int16, TensorProto.INT32: torch.int32, TensorProto.INT64: torch.int64,
        TensorProto.BOOL: torch.bool,
    }  # fmt: skip
    return names[number] if number in names else op.refuse(f"element type {number}")


# Arithmetic ------------------------------------------------------------------------------------------------------------


def _div(op: Operation) -> Value:
    import torch

    if op.input(0).tensor.dtype.is_floating_point:
        return op.emit(torch.div, op.input(0), op.input(1))
    return op.emit(torch.div, op.input(0), op.input(1), rounding_mode="trunc")


def _sum(op: Operation) -> Value:
    import torch

    total = op.input(0)
    for place in range(1, len(op.inputs)):
        total = op.emit(torch.add, total, op.input(place))
    return total


def _clip(op: Operation) -> Value:
    import torch

    clipped = op.input(0)
    if op.has(1):
        clipped = op.emit(torch.maximum, clipped, op.input(1))
    return op.emit(torch.minimum, clipped, op.input(2)) if op.has(2) else clipped


def _softmax(op: Operation) -> Value:
    import torch

    return op.emit(torch.softmax, op.input(0), op.attribute("axis", -1))


def _reduce(function: str, op: Operation) -> Value:
    """A reduction over the axes in input 1, over all of them if there are none."""
    import torch

    axes, keep = op.integers(1), bool(op.attribute("keepdims", 1))
    if not axes and op.attribute("noop_with_empty_axes", 0):
        return op.input(0)
    return op.emit(getattr(torch, function), op.input(0), axes or list(range(len(op.input(0).shape))), keep)


# Layers ----------------------------------------------------------------------------------------------------------------


def _gemm(op: Operation) -> Value:
    import torch

    a, b = (op.emit(torch.t, op.input(n)) if op.attribute(flag, 0) else op.input(n) for n, flag in ((0, "transA"), (1, "transB")))
    op.require(alpha=1.0, beta=1.0)
    return op.emit(torch.addmm, op.input(2), a, b) if op.has(2) else op.emit(torch.mm, a, b)


def _conv(op: Operation) -> Value:
    import torch

    axes = len(op.input(0).shape) - 2
    if op.attribute("auto_pad", "NOTSET") != "NOTSET" or axes not in (1, 2, 3):
        op.refuse(f"auto_pad {op.attribute('auto_pad', 'NOTSET')!r} over {axes} axes")
    pads, image = op.attribute("pads", [0] * 2 * axes), op.input(0)
    if pads[:axes] != pads[axes:]:
        image, pads = _padded(op, image, [0, 0, *pads[:axes], 0, 0, *pads[axes:]], 0.0), [0] * axes
    return op.emit(
        (torch.conv1d, torch.conv2d, torch.conv3d)[axes - 1],
        image,
        op.input(1),
        op.input(2) if op.has(2) else None,
        op.attribute("strides", [1] * axes),
        pads[:axes],
        op.attribute("dilations", [1] * axes),
        op.attribute("group", 1),
    )


def _pad(op: Operation) -> Value:
    op.require(mode="constant")
    pads, rank = op.integers(1), len(op.input(0).shape)
    value = op.constant(2).item() if op.has(2) else 0.0
    if op.has(3):
        axes = [axis % rank for axis in op.integers(3)]
        begins, ends = (dict(zip(axes, half, strict=True)) for half in (pads[: len(axes)], pads[len(axes) :]))
        pads = [begins.get(axis, 0) for axis in range(rank)] + [ends.get(axis, 0) for axis in range(rank)]
    return _padded(op, op.input(0), pads, value)


def _padded(op: Operation, value: Value, pads: Sequence[int], fill: float) -> Value:
    """ONNX names all beginnings and then all ends; torch begins with the last axis, and gives beginning and end together."""
    import torch

    half = len(pads) // 2
    reverse = [pads[place] for axis in reversed(range(half)) for place in (axis, axis + half)]
    return op.emit(torch.nn.functional.pad, value, reverse, "constant", fill)


def _batch_normalization(op: Operation) -> Value:
    import torch

    op.require(training_mode=0)
    scale, bias, mean, variance = (op.input(place) for place in range(1, 5))
    epsilon = op.attribute("epsilon", 1e-5)
    return op.emit(torch.nn.functional.batch_norm, op.input(0), mean, variance, scale, bias, False, 0.0, epsilon)


def _layer_normalization(op: Operation) -> Value:
    import torch

    axes = op.input(0).shape[op.attribute("axis", -1) :]
    bias = op.input(2) if op.has(2) else None
    return op.emit(torch.nn.functional.layer_norm, op.input(0), axes, op.input(1), bias, op.attribute("epsilon", 1e-5))


def _global_average_pool(op: Operation) -> Value:
    import torch

    return op.emit(torch.mean, op.input(0), list(range(2, len(op.input(0).shape))), True)


def _gru(op: Operation) -> Sequence[Value]:
    """ONNX orders the gates z, r, h and torch r, z, n; with ``linear_before_reset`` both compute the same."""
    import torch

    op.require(direction="forward", layout=0)
    if op.attribute("linear_before_reset", 0) != 1:
        op.refuse("linear_before_reset 0")
    if op.has(4) or op.attribute("activations", None) or op.attribute("clip", None):
        op.refuse("lengths of sequences, other activations or a clip")
    size, sequence = op.attribute("hidden_size", 0), op.input(0)
    weights = [_gates_reordered(op.constant(place)[0], size) for place in (1, 2)]
    biases = op.constant(3)[0].split(3 * size) if op.has(3) else ()
    # not initialised, which would draw from the random numbers of whoever else uses torch in this process
    gru = torch.nn.GRU(weights[0].shape[1], size, bias=op.has(3), dtype=weights[0].dtype, device="meta").to_empty(device="cpu")
    arranged = (*weights, *(_gates_reordered(bias, size) for bias in biases))
    for parameter, tensor in zip(gru.parameters(), arranged, strict=True):
        parameter.requires_grad_(False).copy_(tensor)
    steps, batch = sequence.shape[:2]
    initial = [op.input(5)] if op.has(5) else []
    every, last = op.emit_module(gru, [sequence, *initial], [(steps, batch, size), (1, batch, size)])
    return op.emit(torch.unsqueeze, every, 1), last


def _gates_reordered(stacked: torch.Tensor, size: int) -> torch.Tensor:
    import torch

    update, reset, new = stacked.split(size)
    return torch.cat([reset, update, new])


# Shapes and places -----------------------------------------------------------------------------------------------------


def _shape(op: Operation) -> Value:
    import torch

    dims = op.input(0).shape[op.attribute("start", 0) : op.attribute("end", None)]
    return Value(tensor=torch.tensor(dims, dtype=torch.int64))


def _reshape(op: Operation) -> Value:
    import torch

    wanted, found = op.integers(1), op.input(0).shape
    if not op.attribute("allowzero", 0):
        wanted = [found[axis] if size == 0 else size for axis, size in enumerate(wanted)]
    return op.emit(torch.reshape, op.input(0), wanted)


def _flatten(op: Operation) -> Value:
    import torch

    axis = op.attribute("axis", 1)
    rows = int(np.prod(op.input(0).shape[:axis], dtype=np.int64))
    return op.emit(torch.reshape, op.input(0), [rows, -1])


def _transpose(op: Operation) -> Value:
    import torch

    return op.emit(torch.permute, op.input(0), op.attribute("perm", list(reversed(range(len(op.input(0).shape))))))


def _squeeze(op: Operation) -> Value:
    import torch

    axes = op.integers(1) or [axis for axis, size in enumerate(op.input(0).shape) if size == 1]
    return op.emit(torch.squeeze, op.input(0), tuple(axes))


def _unsqueeze(op: Operation) -> Value:
    import torch

    value, axes = op.input(0), op.integers(1)
    rank = len(value.shape) + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        value = op.emit(torch.unsqueeze, value, axis)
    return value


def _concat(op: Operation) -> Value:
    import torch

    return op.emit(torch.cat, [op.input(place) for place in range(len(op.inputs))], op.attribute("axis", 0))


def _slice(op: Operation) -> Value:
    starts, ends, value = op.integers(1), op.integers(2), op.input(0)
    rank = len(value.shape)
    axes = [axis % rank for axis in op.integers(3)] or list(range(len(starts)))
    steps = op.integers(4) or [1] * len(starts)
    if min(steps) < 1:
        op.refuse("a negative step")
    cuts = [slice(None)] * rank
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        cuts[axis] = slice(start, min(end, value.shape[axis]), step)
    if all(cut == slice(None) or cut == slice(0, size, 1) for cut, size in zip(cuts, value.shape, strict=True)):
        return value  # a view that is the whole picture
    return op.emit(operator.getitem, value, tuple(cuts))


def _gather(op: Operation) -> Value:
    import torch

    value, index = op.input(0), op.input(1)
    axis = op.attribute("axis", 0) % len(value.shape)
    if index.node is None and not index.shape:
        return op.emit(torch.select, value, axis, int(index.tensor))
    return op.emit(operator.getitem, value, (*[slice(None)] * axis, index))


# Pixels ----------------------------------------------------------------------------------------------------------------


def _resize(op: Operation) -> Value:
    """Bilinear, of uint8 ``[1, h, w, channels]``, to constant sizes: what ONNX Runtime's CPU computes there, to the bit.

    It reckons in fixed point: a place in the source is cut to 1/1024 of a pixel, the four pixels around it are weighted by whole
    numbers whose sum is 2**20, and the sum loses its fraction. On a device other than a CPU it is the same, for it is integers.
    """
    import torch

    op.require(mode="linear", coordinate_transformation_mode="half_pixel", antialias=0, keep_aspect_ratio_policy="stretch")
    image, sizes = op.input(0), op.integers(3)
    found, rank = image.shape, len(image.shape)
    if image.tensor.dtype != torch.uint8 or rank != 4 or len(sizes) != 4 or found[0] != 1 or sizes[::3] != found[::3]:
        op.refuse(f"{image.tensor.dtype} {found} to {sizes}")
    if 0 in found:
        raise ValueError("an image without pixels")
    (_, height, width, channels), (rows, columns) = found, sizes[1:3]
    (top, bottom, down), (left, right, across) = neighbours(height, rows), neighbours(width, columns)
    corners = [y[:, None] * width + x[None, :] for y in (top, bottom) for x in (left, right)]
    shares = [v[:, None] * h[None, :] for v in (1024 - down, down) for h in (1024 - across, across)]
    # one index and one weight a byte: laid out like that torch takes and multiplies three times as fast as by pixel
    places = np.stack(corners).reshape(-1, 1) * channels + np.arange(channels)
    weights = np.repeat(np.stack(shares).reshape(4, -1), channels, axis=1)
    place, weight = (Value(tensor=torch.from_numpy(part.astype(np.int32))) for part in (places.reshape(-1), weights))
    read = op.emit(torch.index_select, op.emit(torch.reshape, image, [-1]), 0, place)
    weighted = op.emit(torch.mul, op.emit(torch.reshape, read, [4, rows * columns * channels]), weight)
    whole = op.emit(operator.rshift, op.emit(torch.sum, weighted, [0], dtype=torch.int32), 20)
    return op.emit("to", op.emit(torch.reshape, whole, [1, rows, columns, channels]), torch.uint8)


_SAME: dict[str, str] = {
    "Abs": "abs", "Add": "add", "Equal": "eq", "Exp": "exp", "Floor": "floor", "Greater": "gt", "Log": "log", "MatMul": "matmul",
    "Mul": "mul", "Pow": "pow", "Relu": "relu", "Sigmoid": "sigmoid", "Sqrt": "sqrt", "Sub": "sub", "Tanh": "tanh",
    "Where": "where",
}  # fmt: skip
"""Operator to the function of torch that takes the same arguments."""

OPERATORS: dict[str, Callable[[Operation], Value | Sequence[Value]]] = {
    **{name: partial(_simple, function) for name, function in _SAME.items()},
    **QUANTISED,
    "BatchNormalization": _batch_normalization,
    "Cast": _cast,
    "Clip": _clip,
    "Concat": _concat,
    "Constant": _constant,
    "Conv": _conv,
    "Div": _div,
    "Flatten": _flatten,
    "GRU": _gru,
    "Gather": _gather,
    "Gemm": _gemm,
    "GlobalAveragePool": _global_average_pool,
    "Identity": _identity,
    "LayerNormalization": _layer_normalization,
    "Pad": _pad,
    "ReduceMax": partial(_reduce, "amax"),
    "ReduceMean": partial(_reduce, "mean"),
    "ReduceSum": partial(_reduce, "sum"),
    "Reshape": _reshape,
    "Resize": _resize,
    "Shape": _shape,
    "Slice": _slice,
    "Softmax": _softmax,
    "Squeeze": _squeeze,
    "Sum": _sum,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
