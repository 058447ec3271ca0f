"""A live run changes over to the engine of choice without losing a tick, and back when that fails."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("onnx", reason="needs onnx: pip install 'chiasm[precision]'")

from actors import upgrading
from actors.building import BuildRequest, Built, build, main
from actors.engines import SteadyEngine
from actors.inline import InlineRun
from actors.upgrading import UpgradingEngine, build_in_process, upgrading_engine
from engines.backends.base import DeviceFault
from engines.manifest import EngineError, load_manifest
from engines.registry import WEIGHTS, open_engine
from engines.windows import load_windows, save_windows
from pipeline.cli.planning import plan_live
from pipeline.messages import Decision

Windows = Callable[[Any, int, int], list[dict[str, Any]]]
TEXT = WEIGHTS / "driving" / "text.json"


class Failing:
    """A runner that answers so often and then fails."""

    def __init__(self, runner: Any, calls: int, failure: Exception | float) -> None:
        self._runner, self._left, self._failure = runner, calls, failure

    def infer(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        outputs = self._runner.infer(inputs)
        self._left -= 1
        if self._left >= 0:
            return outputs
        if isinstance(self._failure, Exception):
            raise self._failure
        return {name: np.full_like(array, self._failure) for name, array in outputs.items()}


def request_for(role: str, choice: str, folder: Path, windows_of: Windows, calibrated: bool = False) -> BuildRequest:
    manifest = WEIGHTS / "driving" / f"{role}.json"
    save_windows(folder / "windows.npz", windows_of(load_manifest(manifest), 6, 1))
    return BuildRequest(
        manifest=str(manifest),
        choice=choice,
        cache=str(folder / "cache"),
        threads=1,
        windows=str(folder / "windows.npz"),
        scenario_folder=str(Path("pipeline/scenarios/driving").resolve()),
    )


@pytest.mark.parametrize(
    "failure", [DeviceFault("text.onnx: the device failed (out of memory)"), RuntimeError("a library's own"), float("nan")]
)
def test_an_engine_that_fails_is_replaced_within_the_very_call(failure: Exception | float, windows_of: Windows) -> None:
    with open_engine(TEXT) as reference, open_engine(TEXT) as fast:
        engine = UpgradingEngine("text", SteadyEngine(reference))
        window = windows_of(reference.manifest, 1, 1)[0]
        wanted = engine.infer(window)["tokens"].copy()
        assert engine.engine == ""
        engine.offer_engine(Failing(fast, 2, failure), "openvino:f00d")  # type: ignore[arg-type]
        served = []
        for _ in range(4):
            assert np.array_equal(engine.infer(window)["tokens"], wanted)
            served.append(engine.engine)
        assert served == ["openvino:f00d", "openvino:f00d", "", ""]
        assert len(engine.notices) == 1 and "ort serves again, openvino failed" in engine.notices[0]


def test_an_input_at_fault_is_refused_and_swaps_nothing(windows_of: Windows) -> None:
    with open_engine(TEXT) as reference, open_engine(TEXT) as fast:
        engine = UpgradingEngine("text", SteadyEngine(reference))
        engine.offer_engine(fast, "openvino:f00d")
        with pytest.raises(EngineError, match="text_utf8"):
            engine.infer({"text_utf8": np.zeros(3, np.uint8)})
        engine.infer(windows_of(reference.manifest, 1, 1)[0])
        assert engine.engine == "openvino:f00d" and not engine.notices


def built_here(cache: Path) -> Callable[[BuildRequest, threading.Event], Built]:
    """The builder's own work, in the calling thread: what a test of the change-over need not wait for is the process."""

    def make(request: BuildRequest, _stopping: threading.Event) -> Built:
        return build(BuildRequest(**{**asdict(request), "cache": str(cache)}))

    return make


def test_a_live_run_changes_over_between_two_ticks_and_loses_none(short_log: Path, tmp_path: Path) -> None:
    streams = ("camera", "microphone", "telemetry", "text")
    sources = [f"{stream}=log:{short_log}?loop=true" for stream in streams]
    plan = plan_live("driving", sources, ["runtime.engine=ort-fp16", "deadline_ms=400"], duration="9s").plan
    taken: list[Decision] = []

    def opening(plan: Any, role: str) -> Any:
        return upgrading_engine(plan, role, build=built_here(tmp_path), cache=tmp_path)

    summary = InlineRun(plan, opening=opening, on_decisions=taken.extend).run()
    receipts = [d.receipt for d in taken]
    assert all(r is not None for r in receipts)
    served = [r.engines for r in receipts if r is not None]
    assert not any(e.startswith("ort-fp16:") for e in served[0].values()), "it did not begin on the reference"
    assert served[-1]["camera"].startswith("ort-fp16:") and served[-1]["fusion"].startswith("ort-fp16:")
    assert summary.swaps >= 2 and not summary.clean
    assert any("camera: ort-fp16 took over" in notice for notice in summary.notices)
    references = np.array([d.reference_ns for d in taken])
    assert summary.skipped == 0 and len(taken) == summary.decisions
    assert np.diff(references).max() <= 1.6 * np.median(np.diff(references)), "a tick is missing"


def test_a_builder_process_gives_what_serves_in_another(tmp_path: Path, windows_of: Windows) -> None:
    built = build_in_process(request_for("text", "ort-fp16", tmp_path, windows_of), threading.Event())
    manifest = load_manifest(Path(built.manifest))
    assert (manifest.precision, built.choice, built.compared) == ("fp16", "ort-fp16", 6)
    assert 0 < built.max_relative < 1e-2
    assert built.engine == f"ort-fp16:{manifest.sha256}"


@pytest.mark.parametrize(
    ("choice", "message"),
    [("ort-int8", "0 windows to calibrate on"), ("ort-bf16", "ONNX Runtime"), ("ort-cuda", "CUDAExecutionProvider")],
)
def test_a_builder_says_why_an_engine_cannot_serve(choice: str, message: str, tmp_path: Path, windows_of: Windows) -> None:
    with pytest.raises(EngineError, match=message):
        build_in_process(request_for("text", choice, tmp_path, windows_of), threading.Event())


def test_an_engine_over_its_parity_budget_does_not_serve(
    tmp_path: Path, windows_of: Windows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("engines.parity", fromlist=["BUDGETS"]).BUDGETS, "fp16", 1e-9)
    with pytest.raises(EngineError, match="the budget of fp16 is 1e-09; it does not serve"):
        build(request_for("text", "ort-fp16", tmp_path, windows_of))


def signal_builders(monkeypatch: pytest.MonkeyPatch, number: signal.Signals) -> None:
    """Builders get this signal as soon as they are there, however fast they are."""
    started = upgrading.subprocess.Popen

    def signalled_at_once(*args: Any, **kwargs: Any) -> Any:
        process = started(*args, **kwargs)
        os.kill(process.pid, number)
        return process

    monkeypatch.setattr(upgrading.subprocess, "Popen", signalled_at_once)


def test_a_builder_that_is_killed_is_an_error_and_no_more(
    tmp_path: Path, windows_of: Windows, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = request_for("camera", "ort-fp16", tmp_path, windows_of)
    signal_builders(monkeypatch, signal.SIGKILL)
    with pytest.raises(EngineError, match="ended with -9 and no result"):
        build_in_process(request, threading.Event())


def test_a_run_that_ends_does_not_wait_for_its_builder(
    tmp_path: Path, windows_of: Windows, monkeypatch: pytest.MonkeyPatch
) -> None:
    signal_builders(monkeypatch, signal.SIGSTOP)  # it would never end
    stopping = threading.Event()
    threading.Timer(0.3, stopping.set).start()
    began = time.monotonic()
    with pytest.raises(EngineError, match="the run ended before"):
        build_in_process(request_for("camera", "ort-fp16", tmp_path, windows_of), stopping)
    assert time.monotonic() - began < 5


def test_windows_survive_the_trip_and_what_is_no_such_file_is_refused(tmp_path: Path, windows_of: Windows) -> None:
    windows = windows_of(load_manifest(WEIGHTS / "driving" / "telemetry.json"), 3, 2)
    save_windows(tmp_path / "w.npz", windows)
    found = load_windows(tmp_path / "w.npz")
    assert all(np.array_equal(a[name], b[name]) for a, b in zip(windows, found, strict=True) for name in a)
    (tmp_path / "w.npz").write_bytes(b"PK no zip")
    with pytest.raises(EngineError, match="remove it"):
        load_windows(tmp_path / "w.npz")


def test_the_builder_process_prints_one_line_of_json(
    tmp_path: Path, windows_of: Windows, capsys: pytest.CaptureFixture[str]
) -> None:
    order = tmp_path / "request.json"
    order.write_text(json.dumps(asdict(request_for("text", "ort-fp16", tmp_path, windows_of))))
    assert main([str(order)]) == 0
    assert json.loads(capsys.readouterr().out)["choice"] == "ort-fp16"
