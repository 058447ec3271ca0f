"""What the runner protocol promises, on every backend that can run here: errors by name, constant addresses, no growth."""

from __future__ import annotations

import gc
import hashlib
import json
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import engines
from engines.backends.base import Runner
from engines.manifest import EngineError, load_manifest
from engines.registry import BACKENDS, WEIGHTS, availabilities, open_engine

Windows = Callable[[Any, int, int], list[dict[str, Any]]]
TEXT = WEIGHTS / "driving" / "text.json"
PRESENT = [name for name, found in availabilities(TEXT).items() if found.available]
ABSENT = [name for name in BACKENDS if name not in PRESENT]
ENDURED = 10_000
LIMIT = 1000
"""Bytes by which so many calls may grow what our lines hold."""
LIBRARIES = 128 << 10
"""The same of all else. tracemalloc counts up to 256 blocks of 124 bytes at the calls into ONNX Runtime and OpenVINO, however
many calls there are, and what torch leaves to the next garbage collection."""
SLOWER = {"torch": 1_000}
"""Calls of a backend that takes ten times as long."""


def copied(folder: Path, change: Callable[[bytes], bytes], *, with_hash: bool) -> Path:
    """A copy of the text engine whose graph is changed, with a manifest that says so or does not."""
    shutil.copy(TEXT, folder / "text.json")
    content = change((TEXT.parent / "text.onnx").read_bytes())
    (folder / "text.onnx").write_bytes(content)
    if with_hash:
        manifest = json.loads(TEXT.read_text(encoding="utf-8")) | {"sha256": hashlib.sha256(content).hexdigest()}
        (folder / "text.json").write_text(json.dumps(manifest), encoding="utf-8")
    return folder / "text.json"


def with_an_unknown_operator(model: bytes) -> bytes:
    import onnx

    graph = onnx.load_from_string(model)
    for node in graph.graph.node:
        if node.op_type == "Relu":
            node.op_type, node.domain = "Perceive", "org.example"
            break
    graph.opset_import.append(onnx.helper.make_opsetid("org.example", 1))
    return bytes(graph.SerializeToString())


@pytest.mark.parametrize("backend", PRESENT)
@pytest.mark.parametrize(
    "bad, message",
    [
        (lambda w: {n: a[:3] for n, a in w.items()}, r"input 'values' has shape \[3, 8\]; it must be \[40, 8\]"),
        (lambda w: {n: a.astype(np.float64) for n, a in w.items()}, "input 'values' is float64; convert it to float32"),
        (lambda w: {n: np.where(a == a.max(), np.nan, a) for n, a in w.items()}, "'values' holds NaN or infinity; mask"),
        (lambda w: {n: np.where(a == a.max(), np.float32(np.inf), a) for n, a in w.items()}, "'values' holds NaN or infinity"),
        (lambda w: {"values": w["values"]}, r"inputs missing \['valid'\]"),
        (lambda w: {**w, "extra": w["valid"]}, r"unknown \['extra'\]"),
    ],
)
def test_bad_input_is_refused_by_name_and_the_runner_stays_usable(
    windows_of: Windows, backend: str, bad: Callable[[Any], Any], message: str
) -> None:
    with open_engine(WEIGHTS / "driving" / "telemetry.json", backend) as runner:
        window = windows_of(runner.manifest, 1, 1)[0]
        with pytest.raises(EngineError, match=message):
            runner.infer(bad(window))
        runner.infer(window)


@pytest.mark.parametrize("backend", PRESENT)
def test_large_finite_values_are_no_infinity(windows_of: Windows, backend: str) -> None:
    with open_engine(WEIGHTS / "driving" / "telemetry.json", backend) as runner:
        window = windows_of(runner.manifest, 1, 1)[0]
        window["values"] = np.full_like(window["values"], 3e38)  # whose square is infinite
        assert all(np.isfinite(a).all() for a in runner.infer(window).values())


@pytest.mark.parametrize("backend", PRESENT)
def test_a_corrupt_graph_a_wrong_hash_and_a_missing_operator_have_an_error_each(backend: str, tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="needs onnx: pip install 'chiasm[precision]'")

    def refused(change: Callable[[bytes], bytes], *, with_hash: bool) -> str:
        with pytest.raises(EngineError) as caught, open_engine(copied(tmp_path, change, with_hash=with_hash), backend):
            pass
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "restore the file or train again" in refused(lambda model: model + b" ", with_hash=False)
    assert refused(lambda model: model[: len(model) // 2], with_hash=True).startswith("text.onnx: ")
    assert "Perceive" in refused(with_an_unknown_operator, with_hash=True)


@pytest.mark.parametrize("backend", ABSENT)
def test_a_backend_that_cannot_run_here_says_what_to_do(backend: str) -> None:
    with pytest.raises(EngineError, match=rf"backend {backend}: .*(install|see nvidia-smi)"):
        open_engine(TEXT, backend)


@pytest.mark.parametrize("backend", PRESENT)
@pytest.mark.parametrize("role", ["text", "telemetry"])
def test_ten_thousand_calls_neither_move_outputs_nor_grow_memory(windows_of: Windows, backend: str, role: str) -> None:
    with open_engine(WEIGHTS / "driving" / f"{role}.json", backend) as runner:
        grown = growth(runner, windows_of(runner.manifest, 4, 2), SLOWER.get(backend, ENDURED))
    assert grown < LIMIT


@pytest.mark.parametrize("backend", [name for name in PRESENT if name not in SLOWER])
def test_neither_do_a_thousand_frames(windows_of: Windows, backend: str) -> None:
    with open_engine(WEIGHTS / "driving" / "camera.json", backend) as runner:
        assert growth(runner, windows_of(runner.manifest, 2, 2), 1000) < LIMIT


def growth(runner: Runner, windows: list[dict[str, Any]], calls: int) -> int:
    """Bytes of Python's memory by which that many calls grow what our lines hold, after a few. Asserts that outputs stay put."""
    gc.collect()
    gc.disable()  # a collection empties the interpreter's lists of free objects, which then fill again
    tracemalloc.start()
    try:
        for index in range(200):
            outputs = runner.infer(windows[index % len(windows)])
        addresses = {name: array.ctypes.data for name, array in outputs.items()}
        before, all_before = tracemalloc.take_snapshot(), tracemalloc.get_traced_memory()[0]
        for index in range(calls):
            outputs = runner.infer(windows[index % len(windows)])
        all_after, after = tracemalloc.get_traced_memory()[0], tracemalloc.take_snapshot()
    finally:
        tracemalloc.stop()
        gc.enable()
    assert {name: array.ctypes.data for name, array in outputs.items()} == addresses
    assert all_after - all_before < LIBRARIES
    ours = [tracemalloc.Filter(True, str(Path(engines.__file__).parent / "*"))]
    return sum(s.size_diff for s in after.filter_traces(ours).compare_to(before.filter_traces(ours), "filename"))


def test_outputs_stay_where_they_are_when_frames_change_their_size() -> None:
    with open_engine(WEIGHTS / "driving" / "camera.json") as runner:
        small = runner.infer({"frame_hwc": np.zeros((96, 160, 3), np.uint8)})["tokens"].ctypes.data
        assert runner.infer({"frame_hwc": np.zeros((48, 64, 3), np.uint8)})["tokens"].ctypes.data == small


def test_every_shipped_engine_agrees_on_every_backend_within_1e_4(windows_of: Windows) -> None:
    from engines.parity import excess, parity_of

    for scenario in ("driving", "patient"):
        for role in ("camera", "microphone", "telemetry", "text", "fusion"):
            path = WEIGHTS / scenario / f"{role}.json"
            windows = windows_of(load_manifest(path), 4, 5)
            for backend in PRESENT:
                with open_engine(path) as reference, open_engine(path, backend) as runner:
                    assert excess(parity_of(reference, runner, windows), "fp32") == "", backend
