"""From a trained fp32 graph to the same network in fp16, bf16 or int8: precision is a property of the ONNX file.

Needs the extra ``precision`` (onnx; the transformations are ONNX Runtime's own). Whoever runs the result needs neither.
"""

from __future__ import annotations

import logging
import platform
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from engines.manifest import EngineError, Precision
from engines.ordering import put_in_order

Window = Mapping[str, NDArray[Any]]
"""One call's inputs by name."""
RECIPE = 5
"""Raised whenever the same arguments give another graph."""
MIN_WINDOWS = 8
"""Fewer cannot show what range an activation has."""
QUANTISED = ["Conv", "Gemm", "MatMul"]
TENSORRT = {"AddQDQPairToWeight": True, "QuantizeBias": False, "DedicatedQDQPair": True}
"""TensorRT quantises weights itself, wants biases in floating point, and a Q/DQ pair at each reader."""
WIDE_RANGE = ("Log", "Clip", "Resize", "Sqrt")
"""What reads more orders of magnitude than 8 or 16 bits hold (spectra, ages, raw units, a frame's size in pixels, lengths that
vectors are divided by: a short one makes much of a little rounding): it, and all before it, stays as it is."""


def derived_model(
    model: bytes, precision: Precision, calibration: Sequence[Window] | None = None, *, symmetric: bool = False
) -> bytes:
    """The graph in another precision, with the same inputs and outputs (fp32 where they were).

    ``int8``: convolutions get Q/DQ pairs with ranges measured on ``calibration``, windows that the engine really read. For a CPU
    only those over time that do not read the sensor itself: where nothing is left, the graph stays as it is. ``symmetric``: for
    TensorRT, with zero points that are all 0, and with matrix products and convolutions over pictures too.

    Raises EngineError: a library is missing, too few windows, a graph that cannot be transformed.
    """
    if precision == "fp32":
        return model
    try:
        import onnx
        import onnxruntime.quantization
        import onnxruntime.transformers.float16  # noqa: F401
    except ImportError as error:
        raise EngineError(f"precision {precision}: {error}; pip install 'chiasm[precision]'") from None
    graph = _named(onnx.load_from_string(model))
    try:
        if precision == "int8":
            return _int8(graph, calibration or (), symmetric)
        half = _half(graph)
        return half if precision == "fp16" else _bf16(half)
    except (ValueError, RuntimeError, KeyError, TypeError) as error:
        raise EngineError(
            f"precision {precision}: this graph cannot be transformed ({str(error)[:160]}); run it as it is"
        ) from error


def _named(graph: Any) -> Any:
    """Every node under its own name, which is how the transformations are told what to leave alone."""
    for place, node in enumerate(graph.graph.node):
        node.name = f"{node.op_type}_{place}"
    return graph


def _wide_range(graph: Any) -> list[str]:
    """Names of the nodes in `WIDE_RANGE` and of all that they are computed from, if what they give is floating point."""
    import onnx

    inferred = onnx.shape_inference.infer_shapes(graph).graph
    floats = {v.name for v in (*inferred.value_info, *inferred.output) if v.type.tensor_type.elem_type == onnx.TensorProto.FLOAT}
    maker = {output: node for node in graph.graph.node for output in node.output}
    found: dict[str, bool] = {}
    waiting = [node for node in graph.graph.node if node.op_type in WIDE_RANGE]
    while waiting:
        node = waiting.pop()
        if node.name not in found:
            found[node.name] = any(name in floats for name in node.output)
            waiting += [maker[name] for name in node.input if name in maker]
    return [name for name, is_float in found.items() if is_float]


def _half(graph: Any) -> bytes:
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

    # around what it is told to leave, the converter casts integers too: our resizing reads and gives uint8 and must not be named
    blocked = [operator for operator in DEFAULT_OP_BLOCK_LIST if operator != "Resize"]
    with _quietly():
        half = convert_float_to_float16(graph, keep_io_types=True, op_block_list=blocked, node_block_list=_wide_range(graph))
    _drop_round_trips(half.graph)
    put_in_order(half.graph)
    content: bytes = half.SerializeToString()
    return content


def _drop_round_trips(graph: Any) -> None:
    """Between two nodes that stay fp32 the converter goes through fp16, which is what they were to be spared."""
    from onnx import TensorProto

    casts = [(node, node.attribute[0].i) for node in graph.node if node.op_type == "Cast"]
    narrowed = {node.output[0]: node.input[0] for node, to in casts if to == TensorProto.FLOAT16}
    widened = {
        node.output[0]: narrowed[node.input[0]] for node, to in casts if to == TensorProto.FLOAT and node.input[0] in narrowed
    }
    for node in graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = widened.get(name, name)
    for _ in range(2):  # the widening casts first, then the narrowing ones that only they read
        used = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
        for node in [n for n in graph.node if n.op_type == "Cast" and n.output[0] not in used]:
            graph.node.remove(node)


def _bf16(half: bytes) -> bytes:
    """The fp16 graph with bf16 in every place of fp16: eight bits of mantissa, the exponents of fp32."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    graph = onnx.load_from_string(half)
    for place, tensor in enumerate(graph.graph.initializer):
        if tensor.data_type == TensorProto.FLOAT16:
            values = numpy_helper.to_array(tensor).astype("float32")
            narrowed = helper.make_tensor(tensor.name, TensorProto.BFLOAT16, values.shape, values.flatten())
            graph.graph.initializer[place].CopyFrom(narrowed)
    for node in graph.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT16:
                attribute.i = TensorProto.BFLOAT16
    for value in graph.graph.value_info:
        if value.type.tensor_type.elem_type == TensorProto.FLOAT16:
            value.type.tensor_type.elem_type = TensorProto.BFLOAT16
    content: bytes = graph.SerializeToString()
    return content


def saturates(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether this processor sums two products of uint8 and int8 in 16 bits, where they do not fit: x86-64 without VNNI. Weights
    of 7 bits then keep sums whole (ONNX Runtime's documentation of quantisation).
    """
    if platform.machine() != "x86_64":
        return False
    try:
        flags = cpuinfo.read_text(encoding="utf-8", errors="replace").split()
    except OSError:
        return True
    return not {"avx512_vnni", "avx_vnni"} & set(flags)


def _int8(graph: Any, calibration: Sequence[Window], symmetric: bool) -> bytes:
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    kept = set(_wide_range(graph)) | (_delicate(graph) if symmetric else _not_worth_it(graph))
    if all(node.name in kept for node in graph.graph.node if node.op_type in QUANTISED):
        unchanged: bytes = graph.SerializeToString()
        return unchanged
    if len(calibration) < MIN_WINDOWS:
        raise EngineError(
            f"precision int8: {len(calibration)} windows to calibrate on, {MIN_WINDOWS} are needed; give a longer log (--log)"
        )
    with tempfile.TemporaryDirectory() as folder, _quietly():
        prepared, quantised = Path(folder) / "prepared.onnx", Path(folder) / "int8.onnx"
        quant_pre_process(graph, prepared, skip_symbolic_shape=True, skip_optimization=True)
        quantize_static(
            prepared,
            quantised,
            _reader(calibration),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=QUANTISED,
            per_channel=True,
            # unsigned activations and signed weights are what AVX512-VNNI multiplies
            activation_type=QuantType.QInt8 if symmetric else QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            reduce_range=not symmetric and saturates(),
            nodes_to_exclude=sorted(kept),
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={"ActivationSymmetric": symmetric, "WeightSymmetric": True, **(TENSORRT if symmetric else {})},
        )
        return quantised.read_bytes()


def _delicate(graph: Any) -> set[str]:
    """First and depthwise convolutions and the dense layers of a convolutional network.

    They are few of its multiplications and most of its rounding error: one range serves all channels of what they read. On the
    shipped encoders leaving them in fp32 halves the error of the tokens, and saves the Q/DQ pairs around cheap operators.
    """
    if any(node.op_type == "LayerNormalization" for node in graph.graph.node):
        return set()
    found = {node.name for node in graph.graph.node if node.op_type in QUANTISED[1:]} | _first_convolutions(graph)
    return found | {node.name for node in graph.graph.node if node.op_type == "Conv" and _groups(node) > 1}


def _not_worth_it(graph: Any) -> set[str]:
    """All but convolutions over time: for networks of pictures and transformers ONNX Runtime's fp32 is the faster one on a CPU.

    Measured on AVX512-VNNI: pictures take 1.4 times as long in int8 (convolutions of two dimensions have blocked fp32 kernels), a
    transformer of this size 1.2 times (its activations are quantised anew in each call), and both flip the most decisions.
    """
    dimensions = {tensor.name: len(tensor.dims) for tensor in graph.graph.initializer}
    convolutions = [n for n in graph.graph.node if n.op_type == "Conv"]
    if any(dimensions.get(n.input[1]) != 3 for n in convolutions):
        convolutions = []
    worth_it = {n.name for n in convolutions}
    return {n.name for n in graph.graph.node if n.op_type in QUANTISED and n.name not in worth_it} | _delicate(graph)


def _first_convolutions(graph: Any) -> set[str]:
    """Those that nothing weighted lies before: they read the sensor's own values, which range further than features do."""
    maker = {output: node for node in graph.graph.node for output in node.output}
    weighted: dict[str, bool] = {}

    def is_weighted(name: str) -> bool:
        """Whether a value was made with weights."""
        if name not in weighted:
            node = maker.get(name)
            weighted[name] = node is not None and (node.op_type in QUANTISED or any(map(is_weighted, node.input)))
        return weighted[name]

    return {n.name for n in graph.graph.node if n.op_type == "Conv" and not is_weighted(n.input[0])}


def _groups(node: Any) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)


def _reader(windows: Sequence[Window]) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """The windows, one after the other."""

        def __init__(self) -> None:
            self._waiting: Iterator[Window] = iter(windows)

        def get_next(self) -> dict[str, NDArray[Any]] | None:
            """The next one, None at the end."""
            window = next(self._waiting, None)
            return None if window is None else dict(window)

    return Reader()


class _quietly:
    """ONNX Runtime's tools advise through the root logger; what they say is of no use to whoever waits for an engine."""

    def __enter__(self) -> None:
        self._level = logging.root.level
        logging.root.setLevel(logging.ERROR)

    def __exit__(self, *exc: object) -> None:
        logging.root.setLevel(self._level)
