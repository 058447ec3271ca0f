"""The TensorRT backend without a GPU: the graphs it hands over, the order of its calls, its cache, what it says without a device.

The calls go to a recording stand-in (`recording_gpu.py`); nothing here is TensorRT having run. What ran on a device is in
``benchmarks/results/gpu``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx", reason="needs onnx: pip install 'chiasm[precision]'")

from recording_gpu import Gpu

from engines.backends.base import BackendUnavailable, DeviceFault, RunnerOptions
from engines.backends.portable_graph import portable_graph
from engines.backends.tensorrt import TensorRtRunner
from engines.cache import derived_engine
from engines.manifest import EngineError, load_engine_files, load_manifest
from engines.parity import parity_of
from engines.registry import WEIGHTS, availabilities, open_engine

Windows = Callable[[Any, int, int], list[dict[str, Any]]]
ROLES = ("camera", "microphone", "telemetry", "text", "fusion")
LACKING = {"GRU", "Resize", "Shape", "LSTM", "Loop", "If"}
"""Operators that TensorRT 8.6 lacks, or cannot capture in a CUDA graph."""


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    found = Gpu()
    found.install(monkeypatch)
    return found


def runner_of(role: str, cache: Path | None = None, **shapes: tuple[int, ...]) -> TensorRtRunner:
    manifest, model = load_engine_files(WEIGHTS / "driving" / f"{role}.json")
    return TensorRtRunner(manifest, model, RunnerOptions(cache=cache, shapes=shapes))


# Graphs ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scenario", ["driving", "patient"])
@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_the_portable_graph_computes_what_the_engine_does(
    windows_of: Windows, scenario: str, role: str, precision: Any, tmp_path: Path
) -> None:
    import onnx
    import onnxruntime

    path = WEIGHTS / scenario / f"{role}.json"
    windows = windows_of(load_manifest(path), 10, 3)
    derived = derived_engine(path, precision, tmp_path, calibration=lambda: windows, calibrated_on="made", symmetric=True)
    model = load_engine_files(derived)[1]
    rewritten = portable_graph(model, {name: array.shape for name, array in windows[0].items()})
    graph = onnx.load_from_string(rewritten)
    assert graph.opset_import[0].version == 17
    assert not LACKING & {node.op_type for node in graph.graph.node}
    session = onnxruntime.InferenceSession(rewritten, providers=["CPUExecutionProvider"])
    widened = {t.name: np.int32 for t in session.get_inputs() if t.type == "tensor(int32)"}
    limit = 2e-3 if precision == "fp16" else 1e-6  # sixteen bits round differently where nodes are fused differently
    with open_engine(derived) as engine:
        for window in windows:
            inputs = {n: a.astype(widened.get(n, a.dtype)) for n, a in window.items()}
            for found, (name, wanted) in zip(session.run(None, inputs), engine.infer(window).items(), strict=True):
                assert np.abs(found - wanted).max() <= limit * np.abs(wanted).max(), name


@pytest.mark.parametrize("height, width", [(96, 96), (192, 320), (480, 640), (1080, 1920), (37, 251)])
def test_frames_of_any_size_are_resized_to_the_bit(windows_of: Windows, height: int, width: int) -> None:
    import onnxruntime

    model = load_engine_files(WEIGHTS / "driving" / "camera.json")[1]
    frame = np.random.default_rng(height).integers(0, 256, (height, width, 3)).astype(np.uint8)
    session = onnxruntime.InferenceSession(portable_graph(model, {"frame_hwc": frame.shape}), providers=["CPUExecutionProvider"])
    with open_engine(WEIGHTS / "driving" / "camera.json") as reference:
        wanted = reference.infer({"frame_hwc": frame})["tokens"]
        np.testing.assert_allclose(session.run(None, {"frame_hwc": frame})[0], wanted, rtol=0, atol=1e-6 * np.abs(wanted).max())


def test_derived_graphs_are_valid_onnx(windows_of: Windows, tmp_path: Path) -> None:
    import onnx

    for role in ROLES:
        path = WEIGHTS / "driving" / f"{role}.json"
        for precision in ("fp16", "bf16", "int8"):
            windows = windows_of(load_manifest(path), 10, 3)
            made = derived_engine(path, precision, tmp_path, calibration=lambda w=windows: w, calibrated_on="made")  # type: ignore[misc, arg-type]
            onnx.checker.check_model(onnx.load_from_string(load_engine_files(made)[1]))


# Order of calls --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ROLES)
def test_outputs_come_back_from_the_device_and_stay_where_they_are(gpu: Gpu, windows_of: Windows, role: str) -> None:
    path = WEIGHTS / "driving" / f"{role}.json"
    windows = windows_of(load_manifest(path), 5, 9)
    shapes = {name: array.shape for name, array in windows[0].items()}
    with runner_of(role, **shapes) as runner, open_engine(path) as reference:
        first = {name: array.ctypes.data for name, array in runner.infer(windows[0]).items()}
        assert max(p.max_relative for p in parity_of(reference, runner, windows)) < 1e-6
        assert {name: array.ctypes.data for name, array in runner.infer(windows[1]).items()} == first
    assert gpu.memory == {}, "not freed"
    assert gpu.stack == []


def test_the_network_runs_once_before_it_is_captured_and_only_its_graph_after(gpu: Gpu, windows_of: Windows) -> None:
    with runner_of("text") as runner:
        assert gpu.calls.index("execute_async_v3") < gpu.calls.index("cuStreamBeginCapture")
        enqueued = gpu.count("execute_async_v3")
        for window in windows_of(runner.manifest, 3, 1):
            runner.infer(window)
        assert gpu.count("execute_async_v3") == enqueued
        assert gpu.count("cuGraphLaunch") >= 3
    assert gpu.count("cuGraphExecDestroy") == 1


def test_every_thread_gets_the_one_context_for_the_time_of_a_call(gpu: Gpu, windows_of: Windows) -> None:
    with runner_of("text") as runner:
        window = windows_of(runner.manifest, 1, 1)[0]
        failures: list[BaseException] = []

        def work() -> None:
            try:
                runner.infer(window)
                assert gpu.stack == []
            except BaseException as error:
                failures.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        assert not failures


@pytest.mark.parametrize(
    "version, driver, network, flags",
    [
        ("8.6.0", 12020, "network 1", ["-TF32", "+FP16", "+PREFER_PRECISION_CONSTRAINTS"]),
        ("10.16.1", 13000, "network 2", ["-TF32"]),
        ("11.4.0", 13000, "network 2", ["-TF32"]),
    ],
)
def test_precision_lies_in_the_graph_and_is_a_flag_only_where_networks_are_weakly_typed(
    monkeypatch: pytest.MonkeyPatch, version: str, driver: int, network: str, flags: list[str], tmp_path: Path
) -> None:
    gpu = Gpu(version=version, driver=driver)
    gpu.install(monkeypatch)
    manifest, model = load_engine_files(derived_engine(WEIGHTS / "driving" / "text.json", "fp16", tmp_path))
    with TensorRtRunner(manifest, model):
        assert gpu.flags[0] == network
        assert [flag for flag in gpu.flags if flag[0] in "+-"] == flags


def test_eight_six_refuses_bf16_and_says_what_to_take(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    Gpu(version="8.6.0").install(monkeypatch)
    manifest, model = load_engine_files(derived_engine(WEIGHTS / "driving" / "text.json", "bf16", tmp_path))
    with pytest.raises(EngineError, match="has no bf16; use tensorrt-fp16"):
        TensorRtRunner(manifest, model).activate()


# Plans -----------------------------------------------------------------------------------------------------------------


def test_a_plan_is_built_once_and_loaded_after(gpu: Gpu, tmp_path: Path) -> None:
    runner_of("text", tmp_path).compile()
    with runner_of("text", tmp_path):
        assert gpu.count("build_serialized_network") == 1
    assert gpu.flags.count("timing cache of 0") == 1
    runner_of("telemetry", tmp_path).compile()
    assert any(flag.startswith("timing cache of ") and flag != "timing cache of 0" for flag in gpu.flags)


@pytest.mark.parametrize("change", ["version", "driver", "cut", "altered", "no key"])
def test_a_plan_that_does_not_match_is_built_again(
    gpu: Gpu, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, change: str
) -> None:
    runner_of("text", tmp_path).compile()
    plan = next(tmp_path.glob("*.plan"))
    other = Gpu(version="10.17.0" if change == "version" else gpu.version, driver=13010 if change == "driver" else gpu.driver)
    if change == "cut":
        plan.write_bytes(plan.read_bytes()[:100])
    elif change == "altered":
        plan.write_bytes(plan.read_bytes()[:-1] + b"?")
    elif change == "no key":
        plan.with_suffix(".key").unlink()
    other.install(monkeypatch)
    runner_of("text", tmp_path).compile()
    assert other.count("build_serialized_network") == 1


def test_shapes_and_precision_have_plans_of_their_own(gpu: Gpu, tmp_path: Path) -> None:
    for height in (96, 192):
        runner_of("camera", tmp_path, frame_hwc=(height, 320, 3)).compile()
    manifest, model = load_engine_files(derived_engine(WEIGHTS / "driving" / "text.json", "fp16", tmp_path / "derived"))
    TensorRtRunner(manifest, model, RunnerOptions(cache=tmp_path)).compile()
    runner_of("text", tmp_path).compile()
    assert len(list(tmp_path.glob("*.plan"))) == 4


# What cannot run -------------------------------------------------------------------------------------------------------


def test_without_a_device_tensorrt_is_never_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Gpu(devices=0)
    gpu.install(monkeypatch)
    found = runner_of("text").probe()
    assert "no NVIDIA GPU" in found.reason
    for work in (runner_of("text").compile, runner_of("text").activate):
        with pytest.raises(BackendUnavailable, match="no NVIDIA GPU"):
            work()
    assert gpu.count("Runtime") == gpu.count("Builder") == 0


def test_too_old_a_driver_is_said_with_the_one_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    Gpu(version="11.4.0", driver=12040).install(monkeypatch)
    with pytest.raises(BackendUnavailable, match=r"speaks CUDA 12\.4, TensorRT 11\.4\.0 wants 13; install driver 580 or newer"):
        runner_of("text").activate()


def test_here_it_is_listed_with_a_reason_or_its_versions() -> None:
    found = availabilities(WEIGHTS / "driving" / "text.json")["tensorrt"]
    assert found.available != bool(found.reason)
    if found.available:
        assert {"tensorrt", "pycuda", "device"} <= found.versions.keys()


def test_a_full_device_is_a_fault_that_says_so(gpu: Gpu) -> None:
    gpu.free_bytes = 100
    with pytest.raises(DeviceFault, match=r"no room on the GPU.*free memory on it, or serve it on the CPU"):
        runner_of("text").activate()
    gpu.free_bytes = 1 << 30
    with runner_of("text"):
        pass


def test_a_device_that_fails_in_a_call_is_a_fault(gpu: Gpu, windows_of: Windows) -> None:
    import pycuda.driver as cuda

    with runner_of("text") as runner:
        window = windows_of(runner.manifest, 1, 1)[0]
        gpu.fails = lambda name: (
            cuda.LogicError("cuStreamSynchronize failed: an illegal memory access") if name == "synchronize" else None
        )
        with pytest.raises(DeviceFault, match=r"the GPU failed.*illegal memory access"):
            runner.infer(window)
        gpu.fails = lambda name: None


def test_a_device_that_failed_is_left_in_peace_and_the_run_ends_without_another_error(gpu: Gpu) -> None:
    import pycuda.driver as cuda

    runner = runner_of("text")
    runner.activate()
    gpu.fails = lambda name: cuda.LogicError(f"{name} failed: an illegal memory access")
    runner.deactivate()
    assert gpu.stack == []


def test_an_activation_that_fails_half_way_frees_what_it_took(gpu: Gpu) -> None:
    manifest, model = load_engine_files(WEIGHTS / "driving" / "microphone.json")
    gpu.free_bytes = 4 * 32_000 + 100  # room for the sound, none for the tokens
    with pytest.raises(DeviceFault, match="no room on the GPU"):
        TensorRtRunner(manifest, model).activate()
    assert gpu.memory == {}
    assert gpu.stack == []


@pytest.mark.parametrize("attribute, value", [("direction", "reverse"), ("linear_before_reset", 0)])
def test_a_gru_that_runs_otherwise_is_refused_and_not_written_out_wrongly(attribute: str, value: Any) -> None:
    import onnx

    manifest, model = load_engine_files(WEIGHTS / "driving" / "telemetry.json")
    graph = onnx.load_from_string(model)
    (gru,) = (node for node in graph.graph.node if node.op_type == "GRU")
    for known in [a for a in gru.attribute if a.name == attribute]:
        gru.attribute.remove(known)
    gru.attribute.append(onnx.helper.make_attribute(attribute, value))
    with pytest.raises(EngineError, match="only forward"):
        portable_graph(graph.SerializeToString(), {t.name: tuple(d or 0 for d in t.shape) for t in manifest.inputs})


def test_another_shape_than_the_plans_is_refused_and_the_runner_stays_usable(gpu: Gpu, windows_of: Windows) -> None:
    with runner_of("camera", frame_hwc=(96, 160, 3)) as runner:
        with pytest.raises(EngineError, match=r"has shape \[48, 160, 3\], it was compiled for \[96, 160, 3\]"):
            runner.infer({"frame_hwc": np.zeros((48, 160, 3), np.uint8)})
        runner.infer({"frame_hwc": np.zeros((96, 160, 3), np.uint8)})


def test_open_shapes_are_built_for_in_the_first_call(gpu: Gpu) -> None:
    with runner_of("camera") as runner:
        assert gpu.count("build_serialized_network") == 0
        runner.infer({"frame_hwc": np.zeros((96, 160, 3), np.uint8)})
        runner.infer({"frame_hwc": np.ones((96, 160, 3), np.uint8)})
        assert gpu.count("build_serialized_network") == 1
