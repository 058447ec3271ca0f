"""Backends leave nothing in a user's home, and so have nothing to send."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import numpy, sys
from pathlib import Path
from engines import open_engine

with open_engine(Path("engines/weights/driving/text.json"), sys.argv[1]) as engine:
    engine.infer({t.name: numpy.zeros(t.shape, t.dtype) for t in engine.manifest.inputs})
"""


@pytest.mark.parametrize(("backend", "library"), [("ort", "onnxruntime"), ("openvino", "openvino"), ("torch", "torch")])
def test_a_backend_writes_nothing_into_a_home(backend: str, library: str, tmp_path: Path) -> None:
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"needs {library}")
    # in CI both libraries are silent of themselves, and then this would show nothing
    spared = (
        "CI",
        "GITHUB_ACTIONS",
        "TF_BUILD",
        "JENKINS_URL",
        "ORT_DISABLE_TELEMETRY",
        "ORT_RUNNING_UNIT_TESTS",
        "XDG_CACHE_HOME",
    )
    environment = {name: value for name, value in os.environ.items() if name not in spared} | {"HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", PROGRAM, backend], cwd=ROOT, env=environment, check=True, timeout=120)
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()) == []
