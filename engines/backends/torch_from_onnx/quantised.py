"""Operators of int8 graphs, in arithmetic that every device has: exact, and no faster than the fp32 graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from engines.backends.torch_from_onnx.operation import Operation, Value

if TYPE_CHECKING:
    import torch


def _quantize_linear(op: Operation) -> Value:
    import torch

    target = op.input(2).tensor.dtype if op.has(2) else torch.uint8
    scaled = op.emit(torch.round, op.emit(torch.div, op.input(0), _along_axis(op, 1)))
    if op.has(2):
        scaled = op.emit(torch.add, scaled, op.emit("to", _along_axis(op, 2), scaled.tensor.dtype))
    return _saturated(op, scaled, target)


def _dequantize_linear(op: Operation) -> Value:
    import torch

    scale = _along_axis(op, 1)
    value = op.emit("to", op.input(0), torch.int32)
    if op.has(2):
        value = op.emit(torch.sub, value, op.emit("to", _along_axis(op, 2), torch.int32))
    return op.emit(torch.mul, op.emit("to", value, scale.tensor.dtype), scale)


def _along_axis(op: Operation, place: int) -> Value:
    """A scale or zero point: one for the whole tensor, or one a channel and then shaped so that it lies along that axis."""
    import torch

    value, rank = op.input(place), len(op.input(0).shape)
    if not value.shape or value.shape == [1]:
        return op.emit(torch.reshape, value, [])
    if len(value.shape) != 1:
        op.refuse("scales by block")
    axis = op.attribute("axis", 1) % rank
    return op.emit(torch.reshape, value, [-1 if a == axis else 1 for a in range(rank)])


def _dynamic_quantize_linear(op: Operation) -> Sequence[Value]:
    import torch

    value = op.input(0)
    zero = Value(tensor=torch.tensor(0.0, dtype=value.tensor.dtype))
    low = op.emit(torch.minimum, op.emit(torch.amin, value), zero)
    high = op.emit(torch.maximum, op.emit(torch.amax, value), zero)
    span = op.emit(torch.sub, high, low)
    one = Value(tensor=torch.tensor(1.0, dtype=value.tensor.dtype))
    scale = op.emit(torch.where, op.emit(torch.eq, span, zero), one, op.emit(torch.div, span, 255.0))
    point = op.emit(torch.round, op.emit(torch.clamp, op.emit(torch.div, op.emit(torch.neg, low), scale), 0.0, 255.0))
    steps = op.emit(torch.add, op.emit(torch.round, op.emit(torch.div, value, scale)), point)
    return _saturated(op, steps, torch.uint8), scale, op.emit("to", point, torch.uint8)


def _saturated(op: Operation, value: Value, target: torch.dtype) -> Value:
    import torch

    limits = torch.iinfo(target)
    return op.emit("to", op.emit(torch.clamp, value, limits.min, limits.max), target)


def _mat_mul_integer(op: Operation) -> Value:
    """In float64, which holds these whole numbers exactly and which every device multiplies."""
    import torch

    sides = [op.emit("to", op.input(place), torch.float64) for place in (0, 1)]
    for place in (2, 3):
        if op.has(place):
            point = op.emit("to", op.input(place), torch.float64)
            if place == 2 and len(point.shape) == 1 and point.shape != [1]:
                point = op.emit(torch.unsqueeze, point, -1)  # one a row
            sides[place - 2] = op.emit(torch.sub, sides[place - 2], point)
    return op.emit("to", op.emit(torch.matmul, *sides), torch.int32)


QUANTISED: dict[str, Callable[[Operation], Value | Sequence[Value]]] = {
    "DequantizeLinear": _dequantize_linear,
    "DynamicQuantizeLinear": _dynamic_quantize_linear,
    "MatMulInteger": _mat_mul_integer,
    "QuantizeLinear": _quantize_linear,
}
