"""``chiasm engines list | build | compare | bench`` and ``--engine``, as a user calls them, with a cache of their own."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("onnx", reason="needs onnx: pip install 'chiasm[precision]'")

from engines.registry import BACKENDS, WEIGHTS, availabilities

ROOT = Path(__file__).resolve().parents[2]
Chiasm = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def chiasm(cache: Path) -> Chiasm:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(cache), "COLUMNS": "200"}

    def call(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pipeline.cli.main", *(str(a) for a in arguments)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=150, cwd=ROOT, env=environment, check=False)
        assert "Traceback" not in done.stderr, done.stderr[-1500:]
        return done

    return call


def test_list_says_of_every_backend_whether_it_runs_and_of_every_engine_what_it_is(chiasm: Chiasm) -> None:
    done = chiasm("engines", "list")
    assert done.returncode == 0
    for name, found in availabilities(WEIGHTS / "driving" / "text.json").items():
        (line,) = (line for line in done.stdout.splitlines() if re.match(rf"{name}( \(reference\))? ", line))
        assert ("yes" in line.split()) == found.available
        assert found.reason[:40] in line
    for role in ("camera", "microphone", "telemetry", "text", "fusion"):
        sha256 = hashlib.sha256((WEIGHTS / "driving" / f"{role}.onnx").read_bytes()).hexdigest()
        assert re.search(rf"{role} .*{sha256[:12]}", done.stdout)
    assert len(BACKENDS) == 5


def test_build_makes_what_list_then_shows(chiasm: Chiasm) -> None:
    done = chiasm("engines", "build", "driving", "--engine", "ort-fp16")
    assert done.returncode == 0, done.stderr
    assert "every budget held" in done.stdout
    assert chiasm("engines", "list").stdout.count(" fp16 ") == 5


def test_compare_writes_all_figures_and_exits_with_0_inside_the_budgets(chiasm: Chiasm, short_log: Path, tmp_path: Path) -> None:
    done = chiasm("engines", "compare", "--log", short_log, "--b", "ort-fp16", "--json", tmp_path / "found.json")
    assert done.returncode == 0, done.stderr
    for title in ("ort-fp16 against ort", "Decisions that flip", "Latency, ms"):
        assert title in done.stdout
    (found,) = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    assert (found["a"], found["b"], found["problem"]) == ("ort", "ort-fp16", "")
    assert {p["role"] for p in found["parity"]} == {"camera", "microphone", "telemetry", "text", "fusion"}
    assert len(found["latency_ns"]["camera"]["ort"]) > 100


def test_compare_exits_with_1_past_a_budget_and_names_it(chiasm: Chiasm, cache: Path, short_log: Path) -> None:
    """The cached fp16 graph of the text encoder is exchanged for one with other weights, with a manifest that fits it."""
    import onnx
    from onnx import numpy_helper

    chiasm("engines", "build", "driving", "--engine", "ort-fp16")
    (manifest,) = cache.glob("chiasm/engines/text-fp16-*/text.json")
    kept = {path: path.read_bytes() for path in (manifest, manifest.with_suffix(".onnx"))}
    graph = onnx.load(manifest.with_suffix(".onnx"))
    for tensor in graph.graph.initializer:
        if tensor.name.endswith("project.weight"):
            weights = numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array(weights * weights.dtype.type(1.1), tensor.name))
    content = graph.SerializeToString()
    manifest.with_suffix(".onnx").write_bytes(content)
    described = json.loads(manifest.read_text(encoding="utf-8")) | {"sha256": hashlib.sha256(content).hexdigest()}
    manifest.write_text(json.dumps(described), encoding="utf-8")
    try:
        done = chiasm("engines", "compare", "--log", short_log, "--b", "ort-fp16")
        assert done.returncode == 1
        assert re.search(
            r"! ort-fp16: text: tokens is off by max\|a-b\|/max\|a\| 0\.\d+, the budget of fp16 is 0\.01", done.stderr
        )
        assert chiasm("engines", "build", "driving", "--engine", "ort-fp16").returncode == 1
    finally:
        for path, original in kept.items():
            path.write_bytes(original)


def test_bench_times_every_role_and_one_tick_beside_the_bare_session(chiasm: Chiasm, tmp_path: Path) -> None:
    done = chiasm("engines", "bench", "driving", "--engine", "ort-fp16", "--calls", "100", "--json", tmp_path / "raw.json")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("bare ort") == 6 + 6  # a row and a heading each
    assert "one tick: every engine once" in done.stdout
    raw = json.loads((tmp_path / "raw.json").read_text(encoding="utf-8"))
    assert {len(samples) for by_choice in raw.values() for samples in by_choice.values()} == {100}


def test_an_engine_that_is_none_or_cannot_run_here_ends_with_2_and_says_what_there_is(chiasm: Chiasm, short_log: Path) -> None:
    for verb in (["engines", "build", "driving"], ["run", "driving"], ["replay", short_log]):
        done = chiasm(*verb, "--engine", "abacus")
        assert done.returncode == 2
        assert "engine 'abacus': choose a backend (ort, ort-cuda, openvino, torch, tensorrt)" in done.stderr
    missing = next(n for n, found in availabilities(WEIGHTS / "driving" / "text.json").items() if not found.available)
    done = chiasm("replay", short_log, "--inline", "--engine", missing)
    assert done.returncode == 2
    assert f"backend {missing}: " in done.stderr


def test_a_replay_on_another_engine_names_it_in_every_receipt(chiasm: Chiasm, short_log: Path) -> None:
    done = chiasm("replay", short_log, "--inline", "--json", "--engine", "ort-fp16")
    assert done.returncode == 0, done.stderr
    decisions = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(decisions) > 100
    # a stream that has not spoken yet was served by nobody: the last decision read them all
    assert all(engine.startswith("ort-fp16:") for engine in decisions[-1]["receipt"]["engines"].values())
