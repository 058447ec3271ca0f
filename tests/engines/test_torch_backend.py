"""The torch backend: what it computes beside the reference, what it keeps in place, and what it refuses."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs torch: pip install 'chiasm[train]'")
pytest.importorskip("onnx", reason="needs onnx: pip install 'chiasm[train]'")

import torch
from onnx import TensorProto, helper, numpy_helper

from engines.backends.base import DeviceFault, Runner
from engines.backends.torch import TorchRunner, _at_most, without_tf32
from engines.backends.torch_from_onnx import module_from_graph, read_graph
from engines.cache import derived_engine
from engines.manifest import EngineError, load_manifest
from engines.parity import excess, parity_of
from engines.registry import WEIGHTS, open_engine

Windows = Callable[[Any, int, int], list[dict[str, Any]]]
ROLES = ("camera", "microphone", "telemetry", "text", "fusion")
SCENARIOS = ("driving", "patient")
SIZES = (
    (480, 848), (1080, 1920), (192, 320), (720, 1280), (48, 80), (60, 80), (8, 8), (97, 161), (481, 641), (333, 777), (47, 79),
    (719, 1279), (31, 1001),
)  # fmt: skip
"""Frames of cameras, the networks' own sizes, smaller and larger ones, and odd ones whose scale is no round number."""
CLOSE = 2e-5
"""Held tighter than the fp32 budget of 1e-4; 5e-6 was measured."""


def opened(scenario: str, role: str, backend: str = "torch", threads: int = 1) -> Runner:
    return open_engine(WEIGHTS / scenario / f"{role}.json", backend, threads)


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("role", ROLES)
def test_a_shipped_engine_gives_what_the_reference_gives(windows_of: Windows, scenario: str, role: str) -> None:
    with opened(scenario, role, "ort") as reference, opened(scenario, role) as runner:
        found = parity_of(reference, runner, windows_of(reference.manifest, 8, 1))
        assert {parity.tensor for parity in found} == {t.name for t in runner.manifest.outputs}
        assert all(parity.max_relative <= CLOSE for parity in found), found


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_frame_of_any_size_gives_what_the_reference_gives(scenario: str) -> None:
    rng = np.random.default_rng(7)
    frames = [{"frame_hwc": rng.integers(0, 256, (*size, 3), dtype=np.uint8)} for size in SIZES]
    with opened(scenario, "camera", "ort") as reference, opened(scenario, "camera") as runner:
        found = parity_of(reference, runner, [*frames, frames[0]])
        assert found[0].max_relative <= CLOSE


@pytest.mark.parametrize(("height", "width"), [*SIZES, (1, 1), (2, 3)])
@pytest.mark.parametrize("to", [(48, 80), (42, 127)])
def test_resized_pixels_are_the_references_to_the_bit(height: int, width: int, to: tuple[int, int]) -> None:
    import onnxruntime

    sizes = numpy_helper.from_array(np.array([1, *to, 3]), "sizes")
    node = helper.make_node("Resize", ["image", "", "", "sizes"], ["small"], mode="linear")
    model = graph_of([node], [("image", TensorProto.UINT8, [1, "h", "w", 3])], ("small", TensorProto.UINT8, [1, *to, 3]), [sizes])
    image = np.random.default_rng(height).integers(0, 256, (1, height, width, 3), dtype=np.uint8)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    module = module_from_graph(read_graph(model, "resize.onnx"), {"image": image.shape})
    assert np.array_equal(module(torch.from_numpy(image))[0].numpy(), session.run(None, {"image": image})[0])


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8"])
def test_a_derived_engine_stays_within_its_budget(
    windows_of: Windows, scenario: str, role: str, precision: str, tmp_path: Path
) -> None:
    path = WEIGHTS / scenario / f"{role}.json"
    windows = windows_of(load_manifest(path), 24, 3)
    other = derived_engine(path, precision, tmp_path, calibration=lambda: windows, calibrated_on="24 made windows")  # type: ignore[arg-type]
    with open_engine(path) as reference, open_engine(other, "torch") as runner:
        assert excess(parity_of(reference, runner, windows_of(reference.manifest, 6, 4)), runner.manifest.precision) == ""


@pytest.mark.parametrize("role", ROLES)
def test_outputs_keep_their_addresses_and_repeat_their_bits(windows_of: Windows, role: str) -> None:
    with opened("driving", role) as runner:
        first, second = windows_of(runner.manifest, 2, 1)
        given = {n: (o.ctypes.data, o.copy()) for n, o in runner.infer(first).items()}
        runner.infer(second)
        if role == "camera":
            runner.infer({"frame_hwc": np.zeros((50, 70, 3), np.uint8)})
        again = runner.infer(first)
        assert {n: o.ctypes.data for n, o in again.items()} == {n: address for n, (address, _) in given.items()}
        assert all(np.array_equal(again[n], values) for n, (_, values) in given.items())


def test_only_the_last_frame_sizes_are_kept() -> None:
    runner = TorchRunner(load_manifest(WEIGHTS / "driving" / "camera.json"), (WEIGHTS / "driving" / "camera.onnx").read_bytes())
    with runner:
        for height in range(40, 50):
            runner.infer({"frame_hwc": np.zeros((height, 64, 3), np.uint8)})
        assert [shape[0][0] for shape in runner._bound] == [46, 47, 48, 49]


def test_a_read_only_or_strided_frame_is_read_as_what_it_shows(windows_of: Windows) -> None:
    with opened("driving", "camera") as runner:
        frame = windows_of(runner.manifest, 1, 1)[0]["frame_hwc"]
        straight = runner.infer({"frame_hwc": np.ascontiguousarray(frame[::-1])})["tokens"].copy()
        frame.flags.writeable = False
        assert np.array_equal(runner.infer({"frame_hwc": frame[::-1]})["tokens"], straight)


def test_a_call_leaves_threads_random_numbers_and_tf32_as_they_were(windows_of: Windows) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        torch.manual_seed(5)
        expected = torch.rand(3)
        torch.manual_seed(5)
        with opened("driving", "telemetry", threads=1) as runner:
            runner.infer(windows_of(runner.manifest, 1, 1)[0])
        assert torch.get_num_threads() == 2
        assert torch.equal(torch.rand(3), expected)
        with _at_most(1):
            assert torch.get_num_threads() == 1
        with _at_most(8):
            assert torch.get_num_threads() == 2
        conv = getattr(torch.backends.cudnn, "conv", None)  # before torch 2.9 there was one flag for all of cuDNN
        place, name, exact = (conv, "fp32_precision", "ieee") if conv else (torch.backends.cudnn, "allow_tf32", False)
        allowed = getattr(place, name)
        with without_tf32():
            assert getattr(place, name) == exact
        assert getattr(place, name) == allowed
    finally:
        torch.set_num_threads(before)


def test_a_runner_works_in_a_thread_of_its_own(windows_of: Windows) -> None:
    with opened("driving", "text") as runner:
        window = windows_of(runner.manifest, 1, 1)[0]
        here = runner.infer(window)["tokens"].copy()
        found: list[Any] = []
        thread = threading.Thread(target=lambda: found.append(runner.infer(window)["tokens"].copy()))
        thread.start()
        thread.join(60)
        assert np.array_equal(found[0], here)


def test_the_module_is_one_graph_to_torch_compile(windows_of: Windows) -> None:
    path = WEIGHTS / "driving" / "text.json"
    graph = read_graph(path.with_suffix(".onnx").read_bytes(), "text.onnx")
    window = windows_of(load_manifest(path), 1, 1)[0]
    module = module_from_graph(graph, {name: array.shape for name, array in window.items()})
    inputs = [torch.from_numpy(window[name]) for name in graph.inputs]
    compiled = torch.compile(module, backend="eager", fullgraph=True)
    assert torch.equal(compiled(*inputs)[0], module(*inputs)[0])


# Refusals --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: {"values": x["values"]}, r"missing \['valid'\]"),
        (lambda x: x | {"values": x["values"].astype(np.float64)}, "'values' is float64"),
        (lambda x: x | {"values": x["values"][:-1]}, r"shape \[39, 8\]; it must be \[40, 8\]"),
        (lambda x: x | {"values": x["values"] * np.float32(np.nan)}, "NaN"),
    ],
)
def test_a_wrong_input_is_refused_and_the_runner_stays_usable(windows_of: Windows, change: Any, message: str) -> None:
    with opened("driving", "telemetry") as runner:
        inputs = windows_of(runner.manifest, 1, 1)[0]
        before = runner.infer(inputs)["tokens"].copy()
        with pytest.raises(EngineError, match=message):
            runner.infer(change(inputs))
        assert np.array_equal(runner.infer(inputs)["tokens"], before)


def test_infer_before_activate_and_after_deactivate_is_refused(windows_of: Windows) -> None:
    runner = opened("driving", "text")
    inputs = windows_of(runner.manifest, 1, 1)[0]
    with pytest.raises(EngineError, match="activate"):
        runner.infer(inputs)
    runner.compile()
    runner.activate()
    runner.infer(inputs)
    runner.deactivate()
    runner.deactivate()
    with pytest.raises(EngineError, match="activate"):
        runner.infer(inputs)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("CUDA out of memory. Tried to allocate 2 GiB", DeviceFault),
        ("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried", DeviceFault),
        ("CUDA error: an illegal memory access was encountered\nand more", DeviceFault),
        ("The size of tensor a must match", EngineError),
    ],
)
def test_a_failing_device_is_told_from_a_broken_graph(windows_of: Windows, text: str, kind: type[EngineError]) -> None:
    def fail(*_: Any) -> Any:
        raise RuntimeError(text)

    manifest = load_manifest(WEIGHTS / "driving" / "text.json")
    with TorchRunner(manifest, (WEIGHTS / "driving" / "text.onnx").read_bytes()) as runner:
        next(iter(runner._bound.values()))._module = fail  # type: ignore[assignment]
        with pytest.raises(EngineError, match=r"text\.onnx: ") as caught:
            runner.infer(windows_of(manifest, 1, 1)[0])
        assert type(caught.value) is kind
        assert "\n" not in str(caught.value)


def test_probe_names_the_versions() -> None:
    availability = opened("driving", "text").probe()
    assert availability.available
    assert {"torch", "onnx"} <= availability.versions.keys()


def test_probe_without_torch_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    runner = opened("driving", "text")
    monkeypatch.setitem(sys.modules, "torch", None)
    assert "pip install 'chiasm[train]'" in runner.probe().reason


def graph_of(nodes: list[Any], inputs: list[Any], output: Any, initialisers: list[Any] | None = None, opset: int = 18) -> bytes:
    graph = helper.make_graph(
        nodes,
        "made",
        [helper.make_tensor_value_info(*spec) for spec in inputs],
        [helper.make_tensor_value_info(*output)],
        initialisers or [],
    )
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("com.example", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10).SerializeToString()  # type: ignore[no-any-return]


TEXT, TOKENS = ("text_utf8", TensorProto.UINT8, [128]), ("tokens", TensorProto.FLOAT, [2, 64])


def runner_of(model: bytes) -> TorchRunner:
    """A runner of the text engine's manifest with another graph."""
    manifest = load_manifest(WEIGHTS / "driving" / "text.json")
    return TorchRunner(manifest.model_copy(update={"sha256": hashlib.sha256(model).hexdigest()}), model)


def made_tokens(*nodes: Any) -> list[Any]:
    """Nodes that make float tokens ``[2, 64]`` under the name ``made``, and then those given."""
    return [
        helper.make_node("Cast", ["text_utf8"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Constant", [], ["shape"], value=numpy_helper.from_array(np.array([2, 64]))),
        helper.make_node("Reshape", ["floats", "shape"], ["made"]),
        *nodes,
    ]


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (
            helper.make_node("Erf", ["made"], ["tokens"], name="curve"),
            r"lacks the operator Erf \(node 'curve'\); serve it with ort",
        ),
        (helper.make_node("Odd", ["made"], ["tokens"], domain="com.example"), r"operator com\.example\.Odd \(node 'tokens'\)"),
        (helper.make_node("Pad", ["made", "shape"], ["tokens"], mode="edge"), "lacks Pad with mode 'edge'"),
        (helper.make_node("Gemm", ["made", "made"], ["tokens"], alpha=2.0), r"lacks Gemm with alpha 2\.0"),
        (helper.make_node("MatMul", ["made", "made"], ["tokens"], name="n"), r"MatMul \(node 'n'\) cannot be translated"),
        (helper.make_node("Reshape", ["made", "made"], ["tokens"]), "lacks Reshape with input 1 computed at run time"),
        (helper.make_node("Cast", ["made"], ["tokens"], to=TensorProto.FLOAT16), "'tokens' says float32"),
        (helper.make_node("Flatten", ["made"], ["tokens"], axis=0), r"says float32 \[2, 64\], it is float32 \[1, 128\]"),
    ],
)
def test_what_cannot_be_translated_is_refused_by_operator_and_node(node: Any, message: str) -> None:
    runner = runner_of(graph_of(made_tokens(node), [TEXT], TOKENS))
    with pytest.raises(EngineError, match=message) as caught:
        runner.activate()
    assert str(caught.value).startswith("text.onnx: ") and "\n" not in str(caught.value)
    with pytest.raises(EngineError, match="activate"):
        runner.infer({"text_utf8": np.zeros(128, np.uint8)})


def test_an_old_opset_is_refused() -> None:
    with pytest.raises(EngineError, match="opset 17 is below 18"):
        runner_of(graph_of(made_tokens(helper.make_node("Relu", ["made"], ["tokens"])), [TEXT], TOKENS, opset=17)).activate()


def test_weights_in_another_file_are_refused_and_not_read(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(bytes(4))
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    weight.external_data.add(key="location", value=str(tmp_path / "secret"))
    add = helper.make_node("Add", ["made", "w"], ["tokens"])
    with pytest.raises(EngineError, match=r"text\.onnx"):
        runner_of(graph_of(made_tokens(add), [TEXT], TOKENS, [weight])).activate()


@pytest.mark.parametrize("cut", [0, 3, 4_000])
def test_corrupt_bytes_are_refused_in_one_line(cut: int) -> None:
    model = (WEIGHTS / "driving" / "text.onnx").read_bytes()[:cut] + (b"\xff\xff" if cut == 3 else b"")
    with pytest.raises(EngineError, match=r"text\.onnx: ") as caught:
        runner_of(model).activate()
    assert "\n" not in str(caught.value)


def test_a_manifest_that_describes_another_graph_is_refused(tmp_path: Path) -> None:
    manifest = json.loads((WEIGHTS / "driving" / "text.json").read_text())
    other = load_manifest(WEIGHTS / "driving" / "camera.json")
    (tmp_path / "camera.onnx").write_bytes((WEIGHTS / "driving" / "camera.onnx").read_bytes())
    (tmp_path / "text.json").write_text(json.dumps(manifest | {"onnx": other.onnx, "sha256": other.sha256}))
    with pytest.raises(EngineError, match="its manifest"):
        open_engine(tmp_path / "text.json", "torch").activate()
