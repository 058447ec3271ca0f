"""Manifests: what is refused, and how the refusal reads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines.manifest import Calibration, EngineError, HeadSpec, load_manifest
from engines.registry import WEIGHTS, manifest_paths

SHIPPED = WEIGHTS / "driving"


@pytest.fixture
def engine_folder(tmp_path: Path) -> Path:
    """A copy of the shipped engines that a test may break."""
    folder = tmp_path / "driving"
    shutil.copytree(SHIPPED, folder)
    return folder


def edit(path: Path, **changes: Any) -> None:
    """Change top-level keys of a manifest."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_shipped_manifests_load_and_hash() -> None:
    roles = {load_manifest(path).role for path in manifest_paths(SHIPPED).values()}
    assert roles == {"camera", "microphone", "telemetry", "text", "fusion"}


def test_shipped_onnx_is_small() -> None:
    assert sum(path.stat().st_size for path in SHIPPED.glob("*.onnx")) <= 5_000_000


def test_one_changed_byte_in_the_onnx_is_refused_with_file_hashes_and_fix(engine_folder: Path) -> None:
    model = engine_folder / "text.onnx"
    content = bytearray(model.read_bytes())
    content[-1] ^= 1
    model.write_bytes(content)
    with pytest.raises(EngineError, match=r"text\.onnx: sha256 .* expects; restore .*chiasm train") as caught:
        load_manifest(engine_folder / "text.json")
    assert "\n" not in str(caught.value)


def test_missing_onnx_is_refused(engine_folder: Path) -> None:
    (engine_folder / "text.onnx").unlink()
    with pytest.raises(EngineError, match=r"text\.onnx: No such file"):
        load_manifest(engine_folder / "text.json")


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("text.json", {"precison": "fp16"}, "precison"),
        ("text.json", {"format": 2}, "format"),
        ("text.json", {"onnx": "../text.onnx"}, "onnx"),
        ("text.json", {"hop_ns": 5}, "window_ns"),
        ("text.json", {"streams": ["camera"]}, "fusion"),
        ("microphone.json", {"sample_rate_hz": 8000}, "pcm"),
        ("telemetry.json", {"channels": []}, "channels"),
        ("telemetry.json", {"step_ns": 20_000_000}, "values"),
        ("fusion.json", {"streams": ["camera", "lidar"]}, "lidar_tokens"),
        ("fusion.json", {"heads": []}, "heads"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused_by_field(
    engine_folder: Path, file: str, changes: dict[str, Any], message: str
) -> None:
    edit(engine_folder / file, **changes)
    with pytest.raises(EngineError, match=message) as caught:
        load_manifest(engine_folder / file)
    assert file in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"null", b"[" * 100_000])
def test_what_is_not_json_is_refused(engine_folder: Path, content: bytes) -> None:
    (engine_folder / "text.json").write_bytes(content)
    with pytest.raises(EngineError, match=r"text\.json"):
        load_manifest(engine_folder / "text.json")


def test_a_folder_without_manifests_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="no engine manifests"):
        manifest_paths(tmp_path)


def test_a_masks_own_calibration_is_used_and_flattens() -> None:
    part_alone = Calibration(temperature=2.0, bias=(0.5, -0.5), doubt=0.1)
    head = HeadSpec(name="h", output="h_logits", labels=("a", "b"), calibration_by_mask={"10": part_alone})
    logits = np.array([2.0, 0.0], np.float32)
    whole = head.calibration_for((True, True)).probabilities(logits)
    part = head.calibration_for((True, False)).probabilities(logits)
    np.testing.assert_allclose(whole[0], 1 / (1 + np.exp(-2)), rtol=1e-6)
    np.testing.assert_allclose(part[0], 0.9 / (1 + np.exp(-2)) + 0.05, rtol=1e-6)
    np.testing.assert_allclose(part.sum(), 1, rtol=1e-6)
    assert whole.dtype == np.float64, "so that every host rounds alike"


def test_many_logits_are_calibrated_as_each_alone() -> None:
    calibration = Calibration(temperature=0.7, bias=(0.1, 0.0, -0.3), doubt=0.2)
    logits = np.random.default_rng(0).normal(size=(5, 3))
    np.testing.assert_allclose(calibration.probabilities(logits), [calibration.probabilities(row) for row in logits])


def test_a_bias_must_have_a_number_for_every_label() -> None:
    with pytest.raises(ValueError, match=r"'h', 10: bias has 3 numbers for 2 labels"):
        HeadSpec(name="h", output="o", labels=("a", "b"), calibration_by_mask={"10": Calibration(bias=(0.0, 0.0, 0.0))})


@pytest.mark.parametrize("field", [{"temperature": 0.0}, {"doubt": 1.1}, {"bias": (float("nan"), 0.0)}])
def test_a_calibration_out_of_bounds_is_refused(field: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(field))):
        Calibration(**field)
