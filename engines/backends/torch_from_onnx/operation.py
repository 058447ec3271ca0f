"""What the translation of one node sees, and how what it asks for is computed now or recorded for run time."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from engines.manifest import EngineError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """A tensor of the graph: known now (no ``node``), or computed by ``node`` at run time and then shaped like ``tensor``."""

    tensor: torch.Tensor
    """The constant itself; of what is computed later a tensor on the device ``meta``: a shape and a dtype without data."""
    node: Any = None

    @property
    def shape(self) -> list[int]:
        """Its dimensions, always known."""
        return list(self.tensor.shape)


class Operation:
    """One node of the graph, as its translation sees it: its inputs, its attributes, and a way to say what shall be computed."""

    def __init__(self, name: str, node: Any, inputs: Sequence[Value | None], recorder: Recorder) -> None:
        from onnx import helper

        self.inputs = inputs
        self._name, self._node, self._recorder = name, node, recorder
        self._attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}

    def attribute(self, name: str, default: Any) -> Any:
        """An attribute, text as str."""
        value = self._attributes.get(name, default)
        return value.decode() if isinstance(value, bytes) else value

    def has(self, place: int) -> bool:
        """Whether an optional input is there."""
        return place < len(self.inputs) and self.inputs[place] is not None

    def input(self, place: int) -> Value:
        """An input that must be there."""
        value = self.inputs[place] if place < len(self.inputs) else None
        return value if value is not None else self.refuse(f"input {place} missing")

    def constant(self, place: int) -> torch.Tensor:
        """An input that must be known now."""
        value = self.input(place)
        return value.tensor if value.node is None else self.refuse(f"input {place} computed at run time")

    def integers(self, place: int) -> list[int]:
        """A constant input as a list of int; empty if it is not there."""
        return [int(n) for n in self.constant(place).reshape(-1).tolist()] if self.has(place) else []

    def require(self, **attributes: Any) -> None:
        """Refuse the node unless these attributes are absent or have these values."""
        for name, wanted in attributes.items():
            if (found := self.attribute(name, wanted)) != wanted:
                self.refuse(f"{name} {found!r}")

    def refuse(self, form: str) -> NoReturn:
        """Raise EngineError: the operator is known, but not like this."""
        label = self._node.name or self._node.output[0]
        operator = self._node.op_type
        raise EngineError(
            f"{self._name}: the torch backend lacks {operator} with {form} (node {label!r}); serve it with ort, "
            "or add it to engines/backends/torch_from_onnx/operators.py"
        )

    def emit(self, function: Callable[..., Any] | str, *arguments: Any, **options: Any) -> Value:
        """What ``function`` (or the method of that name) gives: now, if all it reads is constant, else at run time."""
        return self._recorder.call(function, arguments, options)

    def emit_module(self, module: torch.nn.Module, arguments: Sequence[Value], shapes: Sequence[Sequence[int]]) -> list[Value]:
        """A module with weights of its own that returns a tuple of tensors of these shapes, in the first argument's dtype."""
        return self._recorder.call_module(module, arguments, shapes)


class Recorder:
    """Computes what is constant, and records the rest in an fx graph."""

    def __init__(self, graph: Any, root: torch.nn.Module) -> None:
        self.graph, self.root = graph, root
        self._buffers: dict[int, Any] = {}

    def call(self, function: Callable[..., Any] | str, arguments: tuple[Any, ...], options: dict[str, Any]) -> Value:
        """See `Operation.emit`."""
        if all(value.node is None for value in _values(arguments)):
            return Value(tensor=_called(function, _mapped(arguments, lambda value: value.tensor), options))
        example = _called(function, _mapped(arguments, lambda value: value.tensor.to("meta")), options)
        make = self.graph.call_method if isinstance(function, str) else self.graph.call_function
        return Value(tensor=example, node=make(function, _mapped(arguments, self.argument), options))

    def call_module(self, module: torch.nn.Module, arguments: Sequence[Value], shapes: Sequence[Sequence[int]]) -> list[Value]:
        """See `Operation.emit_module`."""
        name = f"module_{len(list(self.root.children()))}"
        self.root.add_module(name, module)
        node = self.graph.call_module(name, tuple(self.argument(value) for value in arguments))
        example = arguments[0].tensor.to("meta")
        return [
            Value(tensor=example.new_empty(list(shape)), node=self.graph.call_function(operator.getitem, (node, place)))
            for place, shape in enumerate(shapes)
        ]

    def argument(self, value: Value) -> Any:
        """What stands for a value in the recorded graph."""
        if value.node is not None:
            return value.node
        key = id(value.tensor)  # the buffer keeps the tensor, and so the key, alive
        if key not in self._buffers:
            name = f"constant_{len(self._buffers)}"
            self.root.register_buffer(name, value.tensor)
            self._buffers[key] = self.graph.get_attr(name)
        return self._buffers[key]


def _called(function: Callable[..., Any] | str, arguments: Sequence[Any], options: dict[str, Any]) -> Any:
    if isinstance(function, str):
        return getattr(arguments[0], function)(*arguments[1:], **options)
    return function(*arguments, **options)


def _mapped(arguments: Any, change: Callable[[Value], Any]) -> Any:
    """The same arguments with every value, however deep in tuples and lists, changed."""
    if isinstance(arguments, Value):
        return change(arguments)
    if isinstance(arguments, (tuple, list)):
        return type(arguments)(_mapped(argument, change) for argument in arguments)
    return arguments


def _values(arguments: Any) -> list[Value]:
    if isinstance(arguments, Value):
        return [arguments]
    return [value for part in arguments for value in _values(part)] if isinstance(arguments, (tuple, list)) else []
