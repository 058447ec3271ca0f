"""Torch to ONNX, with the preprocessing inside the graph, and the manifest beside it.

Needs the ``train`` extra (torch, onnx). Every export is held to `PARITY` against torch before its manifest is written.
"""

# mypy: allow-subclassing-any
from __future__ import annotations

import hashlib
import io
import json
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime  # type: ignore[import-untyped, unused-ignore]
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from engines.manifest import EngineError, Manifest, Training
from engines.networks import text
from engines.networks.blocks import TOKEN_CHANNELS
from engines.networks.camera import CameraEncoder
from engines.networks.design import SAMPLE_RATE_HZ, ScenarioDesign, View

OPSET = 18
PARITY = 1e-4
"""Largest max|a-b| / max|a| between torch and the exported graph."""

Array = NDArray[Any]


def export_engine(
    role: str,
    network: nn.Module,
    design: ScenarioDesign,
    folder: Path,
    training: Training,
    heads: list[dict[str, Any]] | None = None,
) -> Path:
    """Write ``folder/role.onnx`` and ``folder/role.json``; returns the manifest's path.

    A fusion network is given as `engines.networks.variant.Flat`. ``heads`` (fusion only) is the manifest's ``heads``.
    Raises EngineError when the graph does not compute what torch does.
    """
    network = network.eval()
    model = graph_from_network(role, network, design)
    _check_parity(role, network, model, design)
    content = model.SerializeToString()
    manifest = manifest_fields(role, design) | {
        "format": 1,
        "role": role,
        "onnx": f"{role}.onnx",
        "sha256": hashlib.sha256(content).hexdigest(),
        "training": training.model_dump(),
    }
    if role == "fusion":
        manifest["heads"] = heads or default_heads(design)
    Manifest.model_validate(manifest)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{role}.onnx").write_bytes(content)
    path = folder / f"{role}.json"
    path.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    return path


def graph_from_network(role: str, network: nn.Module, design: ScenarioDesign) -> onnx.ModelProto:
    """The checked ONNX graph of one network, without a batch dimension, reading raw samples."""
    module = _Unbatched(network)
    samples = _network_inputs(role, example_inputs(role, design), design)
    tensors = tuple(torch.from_numpy(a.copy()) for a in samples.values())
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            tensors,
            buffer,  # type: ignore[arg-type]  # the annotation names paths only, a binary buffer works
            input_names=list(samples),
            output_names=[t["name"] for t in manifest_fields(role, design)["outputs"]],
            opset_version=OPSET,
            dynamo=False,
            do_constant_folding=True,
        )
    model = onnx.load_from_string(buffer.getvalue())
    if role == "camera":
        cut = camera_preprocessing(design.views)
        model = onnx.compose.merge_models(cut, model, io_map=[(v, v) for v in design.views])
    model = _folded(model)
    del model.metadata_props[:]
    model.producer_name, model.producer_version, model.doc_string = "chiasm", "", ""
    model.graph.name = role
    onnx.checker.check_model(model, full_check=True)
    return model


def _folded(model: onnx.ModelProto) -> onnx.ModelProto:
    """Constants folded and batch normalisation merged, by ONNX Runtime's basic level, whose output is standard ONNX."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "folded.onnx"
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(path)
        options.log_severity_level = 3
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        folded = onnx.load(path)
    foreign = sorted({node.domain for node in folded.graph.node} - {"", "ai.onnx"})
    if foreign:
        raise EngineError(f"{path.name}: folding left operators of {foreign}; export with another onnxruntime")
    del folded.opset_import[:]
    folded.opset_import.append(helper.make_opsetid("", OPSET))
    return folded


def camera_preprocessing(views: Mapping[str, View]) -> onnx.ModelProto:
    """``frame_hwc`` uint8 ``[H, W, 3]`` to the camera encoder's views, uint8 with a batch of one, by bilinear resizing.

    Training reads its frames through this very graph, so that it learns on exactly what the engine sees.
    """
    constants: dict[str, Array] = {
        "batch_axis": np.array([0], np.int64),
        "box_axes": np.array([1, 2], np.int64),
        "hw_start": np.array([1], np.int64),
        "hw_stop": np.array([3], np.int64),
        "half": np.array([0.5], np.float32),
    }
    nodes = [
        helper.make_node("Unsqueeze", ["frame_hwc", "batch_axis"], ["frame"]),
        helper.make_node("Shape", ["frame"], ["shape"]),
        helper.make_node("Slice", ["shape", "hw_start", "hw_stop"], ["hw_int"]),
        helper.make_node("Cast", ["hw_int"], ["hw"], to=TensorProto.FLOAT),
    ]
    outputs = []
    for view, spec in views.items():
        top, bottom, left, right = spec.box
        for edge, corner in (("start", (top, left)), ("stop", (bottom, right))):
            constants[f"{view}_{edge}_share"] = np.array(corner, np.float32)
            nodes += _rounded_product(f"{view}_{edge}", "hw", f"{view}_{edge}_share")
        constants[f"{view}_size"] = np.array([1, *spec.size, 3], np.int64)
        cut = [f"{view}_start", f"{view}_stop", "box_axes"]
        nodes.append(helper.make_node("Slice", ["frame", *cut], [f"{view}_cut"]))
        nodes.append(helper.make_node("Resize", [f"{view}_cut", "", "", f"{view}_size"], [view], mode="linear"))
        outputs.append(helper.make_tensor_value_info(view, TensorProto.UINT8, [1, *spec.size, 3]))
    frame = helper.make_tensor_value_info("frame_hwc", TensorProto.UINT8, ["height", "width", 3])
    initializers = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "camera_preprocessing", [frame], outputs, initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)


def _rounded_product(name: str, left: str, right: str) -> list[onnx.NodeProto]:
    return [
        helper.make_node("Mul", [left, right], [f"{name}_product"]),
        helper.make_node("Add", [f"{name}_product", "half"], [f"{name}_sum"]),
        helper.make_node("Floor", [f"{name}_sum"], [f"{name}_floor"]),
        helper.make_node("Cast", [f"{name}_floor"], [name], to=TensorProto.INT64),
    ]


def session_from_model(model: onnx.ModelProto) -> Any:
    """An ONNX Runtime session on one thread, set as the runner sets it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def manifest_fields(role: str, design: ScenarioDesign) -> dict[str, Any]:
    """What the manifest of this role says besides hash, heads and provenance."""
    if role == "fusion":
        return _fusion_fields(design)
    outputs = [_tensor("tokens", "float32", [design.token_counts[role], TOKEN_CHANNELS], "1")]
    if role == "camera":
        return {"inputs": [_tensor("frame_hwc", "uint8", [None, None, 3], "RGB")], "outputs": outputs}
    if role == "microphone":
        return {
            "inputs": [_tensor("pcm", "int16", [design.microphone.samples], "1/32768 of full scale")],
            "outputs": outputs,
            "window_ns": design.microphone.window_ns,
            "hop_ns": design.microphone.hop_ns,
            "sample_rate_hz": SAMPLE_RATE_HZ,
        }
    if role == "telemetry":
        rows = design.telemetry
        shape = [rows.points, len(rows.channels)]
        return {
            "inputs": [
                _tensor("values", "float32", shape, "as channels"),
                _tensor("valid", "float32", shape, "1 where measured"),
            ],
            "outputs": outputs,
            "window_ns": rows.window_ns,
            "hop_ns": rows.hop_ns,
            "channels": [{"name": c.name, "unit": c.unit, "required": c.required} for c in rows.channels],
            "step_ns": rows.step_ns,
            "hold_ns": rows.hold_ns,
        }
    return {"inputs": [_tensor("text_utf8", "uint8", [text.BYTES], "UTF-8, zero padded")], "outputs": outputs}


def _fusion_fields(design: ScenarioDesign) -> dict[str, Any]:
    streams = len(design.token_counts)
    entries = design.memory_entries
    return {
        "inputs": [
            *(_tensor(f"{s}_tokens", "float32", [n, TOKEN_CHANNELS], "1") for s, n in design.token_counts.items()),
            _tensor("age_s", "float32", [streams], "s"),
            _tensor("mask", "float32", [streams, 3], "one-hot: present, quiet, absent"),
            _tensor("memory", "float32", [entries, TOKEN_CHANNELS], "1"),
            _tensor("memory_age_s", "float32", [entries], "s"),
            _tensor("memory_mask", "float32", [entries], "1 where there is an entry"),
        ],
        "outputs": [
            *(_tensor(f"{h}_logits", "float32", [len(labels)], "logit") for h, labels in design.heads.items()),
            _tensor("memory_token", "float32", [TOKEN_CHANNELS], "1"),
        ],
        "streams": list(design.token_counts),
        "memory_step_ns": design.memory_step_ns,
    }


def default_heads(design: ScenarioDesign) -> list[dict[str, Any]]:
    """The heads before calibration."""
    return [{"name": h, "output": f"{h}_logits", "labels": list(labels)} for h, labels in design.heads.items()]


def example_inputs(role: str, design: ScenarioDesign) -> dict[str, Array]:
    """Deterministic inputs of the manifest's shapes, for tracing and parity."""
    rng = np.random.default_rng(7)
    examples: dict[str, Array] = {}
    for tensor in manifest_fields(role, design)["inputs"]:
        shape = [d or size for d, size in zip(tensor["shape"], (*design.frame_hw, 3), strict=False)]
        if tensor["dtype"] == "float32":
            examples[tensor["name"]] = rng.normal(size=shape).astype(np.float32)
        else:
            limit = np.iinfo(tensor["dtype"])
            examples[tensor["name"]] = rng.integers(limit.min // 4, limit.max // 4, shape).astype(tensor["dtype"])
    if role == "telemetry":
        examples["valid"] = (examples["valid"] > -1).astype(np.float32)
    if role == "fusion":
        examples["age_s"] = np.array([0.0, 0.08, 0.05, 4.0], np.float32)
        examples["mask"] = np.eye(3, dtype=np.float32)[[0, 0, 1, 2]]
        places = np.arange(design.memory_entries)
        examples["memory_mask"] = (places < design.memory_entries - 1).astype(np.float32)
        examples["memory_age_s"] = (0.3 + places).astype(np.float32) * design.memory_step_ns / 1e9
    return examples


class _Unbatched(nn.Module):
    """A network whose exported inputs have no batch dimension. The camera's do: they come from the resizing graph."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.is_camera = isinstance(network, CameraEncoder)

    def forward(self, *inputs: torch.Tensor) -> Any:
        """Add the batch dimension, run, drop it."""
        outputs = self.network(*(inputs if self.is_camera else tuple(x[None] for x in inputs)))
        return tuple(o[0] for o in outputs) if isinstance(outputs, tuple) else outputs[0]


def _network_inputs(role: str, samples: Mapping[str, Array], design: ScenarioDesign) -> dict[str, Array]:
    if role != "camera":
        return dict(samples)
    views = session_from_model(camera_preprocessing(design.views)).run(list(design.views), dict(samples))
    return dict(zip(design.views, views, strict=True))


def _check_parity(role: str, network: nn.Module, model: onnx.ModelProto, design: ScenarioDesign) -> None:
    samples = example_inputs(role, design)
    with torch.inference_mode():
        wanted = _Unbatched(network)(*(torch.from_numpy(a.copy()) for a in _network_inputs(role, samples, design).values()))
    wanted = wanted if isinstance(wanted, tuple) else (wanted,)
    found = session_from_model(model).run(None, dict(samples))
    for expected, got in zip((w.numpy() for w in wanted), found, strict=True):
        error = float(np.abs(expected - got).max() / max(float(np.abs(expected).max()), 1e-12))
        if not error <= PARITY:
            raise EngineError(f"{role}.onnx: differs from torch by {error:.1e} (budget {PARITY:.0e}); do not ship it")


def _tensor(name: str, dtype: str, shape: list[int | None] | list[int], unit: str) -> dict[str, Any]:
    return {"name": name, "dtype": dtype, "shape": list(shape), "unit": unit}
