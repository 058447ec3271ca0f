"""`engines`, less training, on CPython 3.10 with numpy 1.26: where TensorRT 8.6 lives."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIBRARIES = ("numpy==1.26.4", "pydantic>=2.9", "typing_extensions>=4.10", "onnx==1.17.0")
SCRIPT = """
import sys
from pathlib import Path
import numpy
from engines.backends.portable_graph import portable_graph
from engines.manifest import EngineError, load_engine_files
from engines.registry import WEIGHTS, availabilities, open_engine
assert sys.version_info[:2] == (3, 10) and numpy.__version__ == "1.26.4"
for path in sorted(WEIGHTS.glob("*/*.json")):
    manifest, model = load_engine_files(path)
    shapes = {t.name: tuple(d or 96 for d in t.shape[:2]) + t.shape[2:] for t in manifest.inputs}
    assert portable_graph(model, shapes)
found = availabilities(path)
assert set(found) == {"ort", "ort-cuda", "openvino", "torch", "tensorrt"} and not found["ort"].available
try:
    open_engine(path, "tensorrt")
except EngineError as error:
    print(error)
import benchmarks.gpu_contenders, benchmarks.gpu_measuring
print("imported")
"""


def python310() -> str:
    candidates = [shutil.which("python3.10"), *map(str, sorted(Path.home().glob(".pyenv/versions/3.10.*/bin/python3.10")))]
    for candidate in filter(None, candidates):
        done = subprocess.run([candidate, "-c", "import venv"], capture_output=True, timeout=30, check=False)
        if done.returncode == 0:
            return candidate
    pytest.skip("no CPython 3.10 here")


def test_engines_import_and_rewrite_graphs_on_cpython_310_with_numpy_1(tmp_path: Path) -> None:
    subprocess.run([python310(), "-m", "venv", str(tmp_path / "venv")], check=True, timeout=120)
    python = str(tmp_path / "venv" / "bin" / "python")
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary=:all:", *LIBRARIES]
    fetched = subprocess.run(install, capture_output=True, text=True, timeout=150, check=False)
    if fetched.returncode:
        pytest.skip(f"libraries for CPython 3.10 cannot be fetched here: {fetched.stderr.strip()[-150:]}")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}
    done = subprocess.run(
        [python, "-c", SCRIPT], capture_output=True, text=True, timeout=100, cwd=tmp_path, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr[-1500:]
    assert done.stdout.splitlines()[0].startswith("backend tensorrt: ")
    assert done.stdout.splitlines()[-1] == "imported"
