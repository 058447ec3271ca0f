"""Graphs in other precisions: what they compute, what they keep, how they are cached, and what is refused."""

from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx", reason="needs onnx: pip install 'chiasm[precision]'")

from engines.backends.base import Runner
from engines.cache import derived_engine
from engines.manifest import EngineError, load_manifest
from engines.parity import ParityMeter, TensorParity, excess, parity_of
from engines.precision import derived_model, saturates
from engines.registry import WEIGHTS, engine_choice, open_engine

Windows = Callable[[Any, int, int], list[dict[str, Any]]]
ROLES = ("camera", "microphone", "telemetry", "text", "fusion")


def derived(windows_of: Windows, scenario: str, role: str, precision: str, cache: Path) -> tuple[Runner, Runner]:
    """The shipped engine and the one in another precision, not yet activated."""
    path = WEIGHTS / scenario / f"{role}.json"
    windows = windows_of(load_manifest(path), 24, 3)
    other = derived_engine(path, precision, cache, calibration=lambda: windows, calibrated_on="24 made windows")  # type: ignore[arg-type]
    return open_engine(path), open_engine(other)


@pytest.mark.parametrize("scenario", ["driving", "patient"])
@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_derived_engine_stays_within_its_budget_on_other_windows(
    windows_of: Windows, scenario: str, role: str, precision: str, tmp_path: Path
) -> None:
    reference, other = derived(windows_of, scenario, role, precision, tmp_path)
    with reference, other:
        found = parity_of(reference, other, windows_of(reference.manifest, 12, 4))
        assert excess(found, other.manifest.precision) == ""
        is_left_alone = precision == "int8" and (role in ("camera", "fusion") or (scenario, role) == ("driving", "telemetry"))
        assert any(parity.max_relative > 0 for parity in found) != is_left_alone
        assert other.manifest.derived_from == reference.manifest.sha256
        assert (other.manifest.calibrated_on != "") == (precision == "int8")


def test_what_is_loud_or_far_away_does_not_overflow_sixteen_bits(windows_of: Windows, tmp_path: Path) -> None:
    for role in ("microphone", "telemetry", "fusion"):
        reference, half = derived(windows_of, "driving", role, "fp16", tmp_path)
        with reference, half:
            inputs = windows_of(half.manifest, 1, 5)[0]
            if role == "microphone":
                inputs["pcm"] = np.where(np.arange(len(inputs["pcm"])) // 40 % 2, 32767, -32768).astype(np.int16)
            elif role == "telemetry":
                inputs["values"] = np.full_like(inputs["values"], np.finfo(np.float32).max)
            else:
                inputs["age_s"] = np.full_like(inputs["age_s"], 1e6)
            assert all(np.isfinite(o).all() for o in half.infer(inputs).values())


def test_bf16_is_refused_on_the_cpu_with_what_to_do(windows_of: Windows, tmp_path: Path) -> None:
    _, narrow = derived(windows_of, "driving", "text", "bf16", tmp_path)
    with pytest.raises(EngineError, match=r"text\.onnx: ONNX Runtime"):
        narrow.activate()


def test_a_derived_graph_is_made_once_and_made_again_when_it_was_altered(tmp_path: Path) -> None:
    path = WEIGHTS / "driving" / "text.json"
    first = derived_engine(path, "fp16", tmp_path)
    made = (first.parent / "text.onnx").stat().st_mtime_ns
    assert derived_engine(path, "fp16", tmp_path) == first
    assert (first.parent / "text.onnx").stat().st_mtime_ns == made
    (first.parent / "text.onnx").write_bytes(b"cut")
    load_manifest(derived_engine(path, "fp16", tmp_path))
    assert not list(tmp_path.glob(".making-*"))


def test_other_calibration_windows_make_another_engine(windows_of: Windows, tmp_path: Path) -> None:
    path = WEIGHTS / "driving" / "text.json"
    windows = windows_of(load_manifest(path), 20, 1)
    found = {
        derived_engine(path, "int8", tmp_path, calibration=lambda: windows, calibrated_on=name) for name in ("a log", "another")
    }
    assert len(found) == 2


def test_too_few_windows_and_a_second_derivation_are_refused(tmp_path: Path) -> None:
    path = WEIGHTS / "driving" / "text.json"
    with pytest.raises(EngineError, match="0 windows to calibrate on"):
        derived_engine(path, "int8", tmp_path)
    with pytest.raises(EngineError, match="is fp16 already"):
        derived_engine(derived_engine(path, "fp16", tmp_path), "int8", tmp_path)


def test_symmetric_int8_has_no_zero_points_but_zero(windows_of: Windows) -> None:
    import onnx
    from onnx import numpy_helper

    path = WEIGHTS / "driving" / "text.json"
    content = derived_model(
        (WEIGHTS / "driving" / "text.onnx").read_bytes(), "int8", windows_of(load_manifest(path), 16, 1), symmetric=True
    )
    graph = onnx.load_from_string(content).graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    points = [constants[node.input[2]] for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert points and not any(point.any() for point in points)


@pytest.mark.parametrize(
    ("text", "backend", "precision"),
    [
        ("ort", "ort", "fp32"),
        ("ort-int8", "ort", "int8"),
        ("ort-cuda", "ort-cuda", "fp32"),
        ("ort-cuda-fp16", "ort-cuda", "fp16"),
    ],
)
def test_an_engine_choice_is_a_backend_and_a_precision(text: str, backend: str, precision: str) -> None:
    choice = engine_choice(text)
    assert (choice.backend, choice.precision, choice.name) == (backend, precision, text)


@pytest.mark.parametrize("text", ["", "abacus", "ort-", "ort-int4", "int8", "ort_int8"])
def test_an_engine_choice_that_is_none_is_refused_with_what_there_is(text: str) -> None:
    with pytest.raises(EngineError, match="ort, ort-cuda, openvino"):
        engine_choice(text)


def test_parity_counts_nan_as_infinitely_far_and_no_call_as_no_proof() -> None:
    meter = ParityMeter("text")
    meter.add({"tokens": np.ones(3, np.float32)}, {"tokens": np.array([1, np.nan, 1], np.float32)})
    assert meter.result()[0].max_relative == float("inf")
    assert "off by" in excess(meter.result(), "fp16") and "off by" in excess(meter.result(), "int8")
    assert "no window" in excess((), "fp32")


@pytest.mark.parametrize(("precision", "relative"), [("fp32", 1.01e-4), ("fp16", 1.01e-2)])
def test_a_budget_is_passed_just_above_it(precision: str, relative: float) -> None:
    at = TensorParity(role="text", tensor="tokens", calls=1, max_relative=relative, rms_relative=0.0)
    assert f"the budget of {precision}" in excess([at], precision)  # type: ignore[arg-type]


@pytest.mark.skipif(platform.machine() != "x86_64", reason="a matter of x86-64")
@pytest.mark.parametrize(("flags", "expected"), [("avx2 avx512f", True), ("avx2 avx512_vnni", False), ("avx2 avx_vnni", False)])
def test_weights_get_seven_bits_where_a_processor_would_saturate(flags: str, expected: bool, tmp_path: Path):
    (tmp_path / "cpuinfo").write_text(f"flags\t\t: {flags}\n")
    assert saturates(tmp_path / "cpuinfo") is expected
