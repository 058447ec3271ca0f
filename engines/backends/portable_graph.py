"""A graph that other libraries read as ONNX Runtime does: for given shapes, in opset 17, with what TensorRT 8.6 already knew.

What it computes stays the same: inputs of 16 bits become inputs of 32, a frame is cut and resized in whole numbers exactly as
ONNX Runtime does it, a GRU is written out step by step (as a loop it could not be captured in a CUDA graph).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.backends.base import Shapes
from engines.manifest import EngineError
from engines.ordering import put_in_order

OPSET = 17
"""The newest that TensorRT 8.6 reads."""
MAX_FOLDED = 4096
"""Elements of a constant up to which it is computed here: sizes and indices, never weights."""
MAX_STEPS = 256
"""Steps of a recurrent layer up to which it is written out."""
FOLDED = ("Add", "Cast", "Concat", "Div", "Floor", "Gather", "Identity", "Mul", "Slice", "Squeeze", "Sub", "Unsqueeze")
FIXED_POINT = 1024
"""ONNX Runtime's bilinear resize of uint8 cuts a place in the source to 1/1024 of a pixel."""

Constants = dict[str, NDArray[Any]]


def portable_graph(model: bytes, shapes: Shapes, *, with_int32: bool = True) -> bytes:
    """The graph for inputs of just these shapes. Raises EngineError: onnx is missing, or the graph cannot be brought there.

    ``with_int32``: whether the library multiplies and divides whole numbers of 32 bits as such; OpenVINO does it in float32.
    """
    try:
        import onnx
    except ImportError as error:
        raise EngineError(f"{error}; pip install 'chiasm[precision]'") from None
    try:
        parsed = onnx.load_from_string(model)
        put_in_order(parsed.graph)
        _fix_shapes(parsed.graph, shapes)
        inferred = onnx.shape_inference.infer_shapes(parsed)
        writer = _Rewriter(inferred, with_int32)
        writer.run()
        rewritten = writer.model()
        onnx.checker.check_model(rewritten)
    except (ValueError, KeyError, IndexError, TypeError, onnx.checker.ValidationError) as error:
        raise EngineError(f"this graph cannot be written for other libraries ({str(error)[:160]}); run it on ort") from error
    content: bytes = rewritten.SerializeToString()
    return content


def _fix_shapes(graph: Any, shapes: Shapes) -> None:
    for value in graph.input:
        dims = value.type.tensor_type.shape.dim
        wanted = shapes[value.name]
        if len(dims) != len(wanted):
            raise ValueError(f"input {value.name!r} has {len(dims)} dimensions, not {len(wanted)}")
        for dim, size in zip(dims, wanted, strict=True):
            dim.ClearField("dim_param")
            dim.dim_value = size


class _Rewriter:
    """Goes through the nodes once, in order, and writes each as it is, folded, or in other words."""

    def __init__(self, model: Any, with_int32: bool) -> None:
        from onnx import TensorProto, numpy_helper

        self._graph, self._with_int32 = model.graph, with_int32
        self._nodes: list[Any] = []
        self._new: list[Any] = []
        self._renamed: dict[str, str] = {}
        self._weights = {tensor.name: tensor for tensor in self._graph.initializer}
        self._known: Constants = {
            name: numpy_helper.to_array(tensor)
            for name, tensor in self._weights.items()
            if int(np.prod(tensor.dims)) <= MAX_FOLDED and tensor.data_type != TensorProto.BFLOAT16
        }
        described = (*self._graph.input, *self._graph.value_info, *self._graph.output)
        self._shapes = {v.name: tuple(d.dim_value for d in v.type.tensor_type.shape.dim) for v in described}
        self._types = {v.name: v.type.tensor_type.elem_type for v in described}

    def run(self) -> None:
        """Rewrite all nodes."""
        self._widen_inputs()
        special: dict[str, Callable[[Any], None]] = {
            "Resize": self._resize,
            "GRU": self._gru,
            "ReduceMax": self._reduce,
            "ReduceMean": self._reduce,
            "ReduceMin": self._reduce,
            "DequantizeLinear": self._dequantize,
        }
        for node in self._graph.node:
            for place, name in enumerate(node.input):
                node.input[place] = self._renamed.get(name, name)
            if not self._folds(node):
                special.get(node.op_type, self._keep)(node)

    def model(self) -> Any:
        """The rewritten model, without constants that nothing reads."""
        from onnx import helper

        read = {name for node in self._nodes for name in node.input}
        constants = [tensor for tensor in (*self._weights.values(), *self._new) if tensor.name in read]
        graph = helper.make_graph(self._nodes, self._graph.name, self._graph.input, self._graph.output, constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8, producer_name="chiasm")

    # How things are written ------------------------------------------------------------------------------------------------

    def _keep(self, node: Any) -> None:
        while node.input and not node.input[-1]:
            node.input.pop()  # TensorRT's parser takes an input without a name for one that is there
        if node.op_type == "Slice" and all(name in self._known for name in node.input[1:]):
            # a frame is cut at places that only became known here, so shape inference did not see them
            read = np.broadcast_to(np.int8(0), self._shapes[node.input[0]])
            self._shapes[node.output[0]] = _evaluated(node, {**self._known, node.input[0]: read}).shape
        self._nodes.append(node)

    def _emit(self, operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        from onnx import helper

        self._nodes.append(helper.make_node(operator, list(inputs), [output], name=f"{operator}_{output}", **attributes))
        return output

    def _constant(self, name: str, array: NDArray[Any], like: int | None = None) -> str:
        """A new constant; ``like`` an element type of ONNX: cast to it."""
        from onnx import helper, numpy_helper

        if like is None:
            self._new.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        else:
            self._new.append(helper.make_tensor(name, like, array.shape, array.astype(np.float32).ravel()))
        return name

    # Constants -------------------------------------------------------------------------------------------------------------

    def _folds(self, node: Any) -> bool:
        """Compute it now, if all that it reads is known: sizes and indices, which TensorRT need not see."""
        if node.op_type == "Shape":
            shape = self._shapes.get(node.input[0], ())
            if not shape or 0 in shape:
                return False
            found = np.array(shape, np.int64)
        elif node.op_type in FOLDED and all(name in self._known for name in node.input if name):
            found = _evaluated(node, self._known)
        else:
            return False
        self._known[node.output[0]] = found
        self._constant(node.output[0], found)
        return True

    def _dequantize(self, node: Any) -> None:
        """A bias in 32 bits becomes one in floating point: TensorRT dequantizes int8 alone."""
        from onnx import TensorProto, numpy_helper

        tensor = self._weights.get(node.input[0])
        if tensor is None or tensor.data_type != TensorProto.INT32:
            self._keep(node)
            return
        scale = numpy_helper.to_array(self._weights[node.input[1]])
        self._constant(node.output[0], (numpy_helper.to_array(tensor) * scale).astype(np.float32))

    # Inputs ----------------------------------------------------------------------------------------------------------------

    def _widen_inputs(self) -> None:
        """Pixels stay bytes on the way to the device and are widened there; other whole numbers arrive in 32 bits."""
        from onnx import TensorProto

        for value in self._graph.input:
            kind = value.type.tensor_type
            if kind.elem_type == TensorProto.UINT8 and len(kind.shape.dim) == 3:
                # TensorRT turns uint8 into floating point only
                pixels = self._emit("Cast", [value.name], f"{value.name}.float", to=TensorProto.FLOAT)
                if self._with_int32:
                    pixels = self._emit("Cast", [pixels], f"{value.name}.int", to=TensorProto.INT32)
                self._renamed[value.name] = pixels
            elif kind.elem_type in (TensorProto.UINT8, TensorProto.INT16):
                kind.elem_type = TensorProto.INT32

    # Operators -------------------------------------------------------------------------------------------------------------

    def _reduce(self, node: Any) -> None:
        """Axes were an attribute up to opset 17."""
        from onnx import helper

        if len(node.input) > 1 and node.input[1]:
            axes = [int(axis) for axis in self._known[node.input[1]]]
            node.attribute.append(helper.make_attribute("axes", axes))
            del node.input[1:]
        for attribute in [a for a in node.attribute if a.name == "noop_with_empty_axes"]:
            node.attribute.remove(attribute)
        self._keep(node)

    def _resize(self, node: Any) -> None:
        """Bilinear, of whole numbers ``[1, h, w, channels]``, from four weighted pixels, as ONNX Runtime does it on a CPU."""
        name, image = node.output[0], node.input[0]
        sizes = self._known.get(node.input[3]) if len(node.input) > 3 else None
        found = self._shapes.get(image, ())
        modes = {a.name: a.s.decode() for a in node.attribute if a.s}
        is_ours = modes.get("mode") == "linear" and modes.get("coordinate_transformation_mode", "half_pixel") == "half_pixel"
        if sizes is None or len(found) != 4 or not is_ours or image not in self._integers():
            raise ValueError(f"Resize to {name!r}: only bilinear, half-pixel, of uint8 [1, h, w, channels] to a constant size")
        (_, height, width, channels), (rows, columns) = found, (int(sizes[1]), int(sizes[2]))
        (top, bottom, down), (left, right, across) = neighbours(height, rows), neighbours(width, columns)
        corners = [y[:, None] * width + x[None, :] for y in (top, bottom) for x in (left, right)]
        is_cut = not down.any() and not across.any()  # every place is a pixel
        read = corners[0].reshape(-1) if is_cut else np.stack(corners).reshape(2, 2, -1)
        places = self._constant(f"{name}.places", read.astype(np.int32))
        flat = self._constant(f"{name}.flat", np.array([height * width, channels], np.int64))
        shape = self._constant(f"{name}.shape", np.array([1, rows, columns, channels], np.int64))
        pixels = self._emit("Gather", [self._emit("Reshape", [image, flat], f"{name}.pixels"), places], f"{name}.read", axis=0)
        if is_cut:
            self._emit("Reshape", [pixels, shape], name)
            return
        by_row = np.repeat(np.stack([FIXED_POINT - down, down]), columns, axis=1)[:, None, :, None]
        by_column = np.tile(np.stack([FIXED_POINT - across, across]), rows)[:, :, None]
        weigh = self._weighted_in_int32 if self._with_int32 else self._weighted_in_float32
        self._emit("Reshape", [weigh(name, pixels, by_row, by_column), shape], name)

    def _weighted_in_int32(self, name: str, pixels: str, by_row: NDArray[Any], by_column: NDArray[Any]) -> str:
        """Pixels ``[2, 2, places, channels]`` (row, column) to ``[places, channels]``: the weights' sum is 2**20."""
        weights = self._constant(f"{name}.weights", (by_row * by_column).astype(np.int32))
        axes = self._constant(f"{name}.axes", np.array([0, 1], np.int64))
        unit = self._constant(f"{name}.unit", np.array(FIXED_POINT**2, np.int32))
        weighted = self._emit("Mul", [pixels, weights], f"{name}.weighted")
        summed = self._emit("ReduceSum", [weighted, axes], f"{name}.sum", keepdims=0)
        return self._emit("Div", [summed, unit], f"{name}.whole")

    def _weighted_in_float32(self, name: str, pixels: str, by_row: NDArray[Any], by_column: NDArray[Any]) -> str:
        """The same where whole numbers are exact up to 2**24 only: high and low 10 bits of the rows' sum are weighted apart."""
        rows, columns = (
            self._constant(f"{name}.{n}", w.astype(np.float32)) for n, w in (("rows", by_row), ("columns", by_column))
        )
        axis = self._constant(f"{name}.axis", np.array([0], np.int64))
        unit = self._constant(f"{name}.unit", np.array(FIXED_POINT, np.float32))

        def whole(value: str, output: str) -> str:
            return self._emit("Floor", [self._emit("Div", [value, unit], f"{output}.share")], output)

        def summed(value: str, weights: str, output: str) -> str:
            return self._emit("ReduceSum", [self._emit("Mul", [value, weights], f"{output}.parts"), axis], output, keepdims=0)

        across_rows = summed(pixels, rows, f"{name}.by_row")
        high = whole(across_rows, f"{name}.high")
        low = self._emit("Sub", [across_rows, self._emit("Mul", [high, unit], f"{name}.cut")], f"{name}.low")
        carried = whole(summed(low, columns, f"{name}.low_sum"), f"{name}.carried")
        total = self._emit("Add", [summed(high, columns, f"{name}.high_sum"), carried], f"{name}.total")
        return whole(total, f"{name}.whole")

    def _integers(self) -> set[str]:
        """Names that hold bytes, or what bytes were widened to."""
        from onnx import TensorProto

        return {n for n, kind in self._types.items() if kind == TensorProto.UINT8} | set(self._renamed.values())

    def _gru(self, node: Any) -> None:
        """A GRU over a known number of steps, forward, with reset after the matrix product (Cho et al., 2014, as in cuDNN)."""
        attributes = {a.name: a for a in node.attribute}
        steps, width = self._shapes[node.input[0]][0], int(attributes["hidden_size"].i)
        inputs = [*node.input, *[""] * (6 - len(node.input))]
        said = {name: _value(a) for name, a in attributes.items() if name != "hidden_size"}
        is_plain = not inputs[4] and {**_GRU_DEFAULTS, **said} == _GRU_WANTED
        if steps > MAX_STEPS or not is_plain or any(name not in self._weights for name in inputs[1:4]):
            raise ValueError(f"GRU to {node.output[0]!r}: only forward, of constant weights, up to {MAX_STEPS} steps")
        name, kind = node.output[0] or node.output[1], self._weights[inputs[1]].data_type
        from_input, from_state, bias = (_floats(self._weights[n])[0] for n in inputs[1:4])
        at_input, at_state = np.split(bias, 2)
        at_input = at_input + np.concatenate([at_state[: 2 * width], np.zeros(width, np.float32)])
        wide = self._constant(f"{name}.w", from_input.T, kind)
        deep = self._constant(f"{name}.r", from_state.T, kind)
        offset = self._constant(f"{name}.wb", at_input[None], kind)
        reset_offset = self._constant(f"{name}.rb", at_state[None, 2 * width :], kind)
        rows = self._constant(f"{name}.rows", np.array([steps, from_input.shape[1]], np.int64))
        row = self._constant(f"{name}.row", np.array([1, width], np.int64))
        flat = self._emit("Reshape", [inputs[0], rows], f"{name}.x")
        given = self._emit("Add", [self._emit("MatMul", [flat, wide], f"{name}.xw"), offset], f"{name}.given")
        if inputs[5]:
            state = self._emit("Reshape", [inputs[5], row], f"{name}.h")
        else:
            state = self._constant(f"{name}.h", np.zeros((1, width), np.float32), kind)
        states = []
        for step in range(steps):
            here = f"{name}.{step}"
            x = self._cut(given, here + ".x", 0, step, step + 1)
            h = self._emit("MatMul", [state, deep], here + ".hr")
            gates = [self._cut(x, here + ".xzr", 1, 0, 2 * width), self._cut(h, here + ".hzr", 1, 0, 2 * width)]
            update_reset = self._emit("Sigmoid", [self._emit("Add", gates, here + ".zrsum")], here + ".zr")
            update, reset = (self._cut(update_reset, f"{here}.{g}", 1, p, p + width) for g, p in (("z", 0), ("r", width)))
            past = self._emit("Add", [self._cut(h, here + ".hn", 1, 2 * width, 3 * width), reset_offset], here + ".past")
            kept = self._emit("Mul", [reset, past], here + ".kept")
            new = self._emit("Add", [self._cut(x, here + ".xn", 1, 2 * width, 3 * width), kept], here + ".newsum")
            new = self._emit("Tanh", [new], here + ".new")
            change = self._emit("Mul", [update, self._emit("Sub", [state, new], here + ".away")], here + ".back")
            state = self._emit("Add", [new, change], here + ".state")
            states.append(state)
        self._gru_outputs(node, states, width)

    def _gru_outputs(self, node: Any, states: Sequence[str], width: int) -> None:
        if node.output[0]:
            shape = self._constant(f"{node.output[0]}.shape", np.array([len(states), 1, 1, width], np.int64))
            self._emit("Reshape", [self._emit("Concat", states, f"{node.output[0]}.all", axis=0), shape], node.output[0])
        if len(node.output) > 1 and node.output[1]:
            shape = self._constant(f"{node.output[1]}.shape", np.array([1, 1, width], np.int64))
            self._emit("Reshape", [states[-1], shape], node.output[1])

    def _cut(self, value: str, output: str, axis: int, start: int, stop: int) -> str:
        bounds = [self._constant(f"{output}.{n}", np.array([v], np.int64)) for n, v in (("a", start), ("b", stop), ("c", axis))]
        return self._emit("Slice", [value, *bounds], output)


_GRU_WANTED = {"linear_before_reset": 1, "direction": b"forward", "layout": 0}
"""What a GRU that is written out says of itself, beside its size."""
_GRU_DEFAULTS = {"linear_before_reset": 0, "direction": b"forward", "layout": 0}
"""What it means by saying nothing (ONNX, GRU-14)."""


def neighbours(size: int, resized: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Along one axis, for each resized place: the source pixel before it, the one after it, and its way to that in 1/1024."""
    scale = np.float32(resized) / np.float32(size)
    place = np.arange(resized, dtype=np.float32)
    if scale != 1:
        place = (place + np.float32(0.5)) / scale - np.float32(0.5)
    place = np.clip(place, np.float32(0), np.float32(size - 1))
    before = place.astype(np.int64)
    return before, np.minimum(before + 1, size - 1), (place * np.float32(FIXED_POINT)).astype(np.int64) - before * FIXED_POINT


def _value(attribute: Any) -> Any:
    from onnx import helper

    return helper.get_attribute_value(attribute)


def _floats(tensor: Any) -> NDArray[np.float32]:
    from onnx import numpy_helper

    return np.asarray(numpy_helper.to_array(tensor)).astype(np.float32)


def _evaluated(node: Any, known: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    from onnx import helper
    from onnx.reference import ReferenceEvaluator

    names = [name for name in dict.fromkeys(node.input) if name]
    inputs = [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(known[n].dtype), known[n].shape) for n in names]
    graph = helper.make_graph([node], "constant", inputs, [helper.make_empty_tensor_value_info(node.output[0])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    return np.asarray(ReferenceEvaluator(model).run(None, {name: known[name] for name in names})[0])
