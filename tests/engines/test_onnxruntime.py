"""The ONNX Runtime runner on the shipped engines."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from engines.backends.base import Runner
from engines.manifest import EngineError, Manifest, load_manifest
from engines.registry import WEIGHTS, open_engine

SHIPPED = WEIGHTS / "driving"
ENCODERS = ("camera", "microphone", "telemetry", "text")


def plausible_inputs(manifest: Manifest, seed: int = 0) -> dict[str, NDArray[Any]]:
    """Random inputs of the manifest's shapes; a dynamic dimension becomes 60."""
    rng = np.random.default_rng(seed)
    inputs: dict[str, NDArray[Any]] = {}
    for spec in manifest.inputs:
        shape = [d or 60 for d in spec.shape]
        if spec.dtype == "float32":
            inputs[spec.name] = rng.random(shape).astype(np.float32)
        else:
            limit = np.iinfo(spec.dtype)
            inputs[spec.name] = rng.integers(limit.min, limit.max, shape, dtype=spec.dtype)
    if manifest.role == "fusion":
        inputs["mask"] = np.eye(3, dtype=np.float32)[[0] * len(manifest.streams)]
    return inputs


def opened(role: str, threads: int = 1) -> Runner:
    """The shipped engine of that role."""
    return open_engine(SHIPPED / f"{role}.json", threads=threads)


@pytest.mark.parametrize("role", [*ENCODERS, "fusion"])
def test_a_shipped_engine_answers_with_the_shapes_it_declares(role: str) -> None:
    with opened(role) as runner:
        outputs = runner.infer(plausible_inputs(runner.manifest))
        assert {n: (o.dtype, o.shape) for n, o in outputs.items()} == {
            t.name: (np.dtype(t.dtype), t.shape) for t in runner.manifest.outputs
        }
        assert all(np.isfinite(o).all() for o in outputs.values())


@pytest.mark.parametrize("role", [*ENCODERS, "fusion"])
def test_outputs_are_bit_identical_over_runs_and_sessions(role: str) -> None:
    digests = set()
    for _ in range(2):
        with opened(role) as runner:
            for _ in range(2):
                outputs = runner.infer(plausible_inputs(runner.manifest))
                digests.add(hashlib.sha256(b"".join(o.tobytes() for o in outputs.values())).hexdigest())
    assert len(digests) == 1


@pytest.mark.parametrize("role", [*ENCODERS, "fusion"])
def test_another_input_gives_another_output(role: str) -> None:
    with opened(role) as runner:
        first = {n: o.copy() for n, o in runner.infer(plausible_inputs(runner.manifest, 1)).items()}
        second = runner.infer(plausible_inputs(runner.manifest, 2))
        assert any(not np.array_equal(first[n], second[n]) for n in first)


def test_a_camera_frame_may_have_any_size() -> None:
    with opened("camera") as runner:
        for shape in ((192, 320, 3), (480, 848, 3), (1080, 1920, 3), (8, 8, 3)):
            assert runner.infer({"frame_hwc": np.zeros(shape, np.uint8)})["tokens"].shape == (6, 64)


def test_fixed_buffers_keep_their_addresses() -> None:
    with opened("fusion") as runner:
        inputs = plausible_inputs(runner.manifest)
        addresses = {runner.infer(inputs)["action_logits"].ctypes.data for _ in range(20)}
        assert len(addresses) == 1


def test_each_absent_stream_changes_the_output_and_its_tokens_no_longer_matter() -> None:
    with opened("fusion") as runner:
        inputs = plausible_inputs(runner.manifest)
        whole = runner.infer(inputs)["action_logits"].copy()
        for index, stream in enumerate(runner.manifest.streams):
            answers = []
            for state in (1, 2):
                masked = dict(inputs, mask=inputs["mask"].copy())
                masked["mask"][index] = np.eye(3, dtype=np.float32)[state]
                answers.append(runner.infer(masked)["action_logits"].copy())
                noisy = masked | {f"{stream}_tokens": inputs[f"{stream}_tokens"] * 50}
                noisy["age_s"] = inputs["age_s"].copy()
                noisy["age_s"][index] = 17.0
                assert np.array_equal(runner.infer(noisy)["action_logits"], answers[-1])
            assert not np.array_equal(answers[0], whole)
            assert not np.array_equal(answers[0], answers[1])


def test_age_changes_the_output_of_a_present_stream() -> None:
    with opened("fusion") as runner:
        inputs = plausible_inputs(runner.manifest)
        fresh = runner.infer(inputs)["action_logits"].copy()
        older = runner.infer(inputs | {"age_s": inputs["age_s"] + np.float32(0.2)})["action_logits"]
        assert not np.array_equal(fresh, older)


def with_nan(array: NDArray[Any]) -> NDArray[Any]:
    """A copy with one NaN in it."""
    broken = array.copy()
    broken.flat[3] = np.nan
    return broken


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: {"values": x["values"]}, r"missing \['valid'\]"),
        (lambda x: x | {"speed": x["values"]}, r"unknown \['speed'\]"),
        (lambda x: x | {"values": x["values"].astype(np.float64)}, "'values' is float64"),
        (lambda x: x | {"values": x["values"].tolist()}, "'values' is list"),
        (lambda x: x | {"values": x["values"][:-1]}, r"shape \[39, 8\]; it must be \[40, 8\]"),
        (lambda x: x | {"valid": x["valid"][None]}, r"shape \[1, 40, 8\]"),
        (lambda x: x | {"values": with_nan(x["values"])}, "NaN"),
        (lambda x: x | {"values": x["values"] * np.float32(np.inf)}, "infinity"),
    ],
)
def test_a_wrong_input_is_refused_by_name_and_the_runner_stays_usable(change: Any, message: str) -> None:
    with opened("telemetry") as runner:
        inputs = plausible_inputs(runner.manifest)
        inputs["values"] += 1
        before = runner.infer(inputs)["tokens"].copy()
        with pytest.raises(EngineError, match=message) as caught:
            runner.infer(change(inputs))
        assert "\n" not in str(caught.value)
        assert np.array_equal(runner.infer(inputs)["tokens"], before)


@pytest.mark.parametrize("shape", [(0, 10, 3), (10, 10, 4), (10, 10)])
def test_a_frame_without_pixels_or_with_other_planes_is_refused(shape: tuple[int, ...]) -> None:
    with opened("camera") as runner, pytest.raises(EngineError, match="frame_hwc"):
        runner.infer({"frame_hwc": np.zeros(shape, np.uint8)})


def test_the_largest_finite_telemetry_cannot_overflow_the_network() -> None:
    with opened("telemetry") as runner:
        huge = np.full((40, 8), np.finfo(np.float32).max, np.float32)
        assert np.isfinite(runner.infer({"values": huge, "valid": np.ones((40, 8), np.float32)})["tokens"]).all()


def test_a_strided_view_is_read_as_what_it_shows() -> None:
    with opened("camera") as runner:
        frame = plausible_inputs(runner.manifest)["frame_hwc"]
        straight = runner.infer({"frame_hwc": np.ascontiguousarray(frame[::-1])})["tokens"].copy()
        assert np.array_equal(runner.infer({"frame_hwc": frame[::-1]})["tokens"], straight)


def test_infer_before_activate_and_after_deactivate_is_refused() -> None:
    runner = opened("text")
    inputs = plausible_inputs(runner.manifest)
    with pytest.raises(EngineError, match="activate"):
        runner.infer(inputs)
    runner.activate()
    runner.infer(inputs)
    runner.deactivate()
    runner.deactivate()
    with pytest.raises(EngineError, match="activate"):
        runner.infer(inputs)


def test_probe_names_the_version() -> None:
    availability = opened("text").probe()
    assert availability.available
    assert availability.versions["onnxruntime"]


@pytest.mark.parametrize(("arguments", "message"), [({"backend": "abacus"}, "abacus"), ({"threads": 0}, "threads")])
def test_an_unknown_backend_or_no_threads_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(EngineError, match=message):
        open_engine(SHIPPED / "text.json", **arguments)


def test_a_corrupt_graph_with_a_matching_hash_is_refused_in_one_line(tmp_path: Path) -> None:
    shutil.copytree(SHIPPED, tmp_path / "w")
    model = (tmp_path / "w" / "text.onnx").read_bytes()[:4_000]
    (tmp_path / "w" / "text.onnx").write_bytes(model)
    path = tmp_path / "w" / "text.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"sha256": hashlib.sha256(model).hexdigest()}))
    with pytest.raises(EngineError, match=r"text\.onnx: ONNX Runtime refuses it") as caught:
        open_engine(path).activate()
    assert "\n" not in str(caught.value)


def test_a_manifest_that_describes_another_graph_is_refused(tmp_path: Path) -> None:
    shutil.copytree(SHIPPED, tmp_path / "w")
    path = tmp_path / "w" / "text.json"
    other = load_manifest(SHIPPED / "camera.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"onnx": other.onnx, "sha256": other.sha256}))
    with pytest.raises(EngineError, match="its manifest"):
        open_engine(path).activate()
