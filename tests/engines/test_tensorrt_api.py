"""Every name of TensorRT's bindings that the code uses exists in the real ones: 10.16 and 11.4, fetched, and 8.6, written down.

The bindings are the vendor's true wheels; the three libraries under them are stubs of a dozen functions that return nothing,
compiled here. So names are true and nothing runs.
"""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

BACKEND = Path(__file__).resolve().parents[2] / "engines" / "backends" / "tensorrt"
HERE = Path(__file__).parent
CLASSES = {
    "builder": "Builder", "network": "INetworkDefinition", "parser": "OnnxParser", "config": "IBuilderConfig", "layer": "ILayer",
    "self._runtime": "Runtime", "self._engine": "ICudaEngine", "self._context": "IExecutionContext",
    "flags": "NetworkDefinitionCreationFlag",
}  # fmt: skip
"""What the code calls an object to the class that it is of."""
WEAKLY_TYPED = {"_constrain"}
"""Functions that only TensorRT before 10 comes to."""
ONLY_BEFORE_10, ONLY_FROM_10 = {"EXPLICIT_BATCH"}, {"STRONGLY_TYPED"}
STUBS = {
    "nvinfer": (
        "createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL", "createInferRuntime_INTERNAL", "getBuilderPluginRegistry",
        "getPluginRegistry", "getInferLibVersion",
    ),
    "nvonnxparser": ("createNvOnnxParser_INTERNAL", "createNvOnnxParserRefitter_INTERNAL", "getNvOnnxParserVersion"),
    "nvinfer_plugin": ("initLibNvInferPlugins",),
}  # fmt: skip
"""Library to the functions that the bindings link against."""


def used_names(generation: int) -> Iterator[tuple[str, str]]:
    """Pairs (class, or nothing for the module itself; name) that the backend's code uses on this generation."""
    for path in sorted(BACKEND.glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if generation >= 10:
            tree.body = [node for node in tree.body if getattr(node, "name", "") not in WEAKLY_TYPED]
        for node in ast.walk(tree):
            if not isinstance(node, ast.Attribute):
                continue
            base = ast.unparse(node.value)
            if node.attr in (ONLY_BEFORE_10 if generation >= 10 else ONLY_FROM_10):
                continue
            if base in ("trt", "tensorrt"):
                yield "", node.attr
            elif base.startswith("trt."):
                yield base.removeprefix("trt.").partition(".")[0], node.attr
            elif base in CLASSES:
                yield CLASSES[base], node.attr


def missing(api: dict[str, Any]) -> list[str]:
    """Names that the code uses and these bindings lack."""
    names = api["names"]
    used = set(used_names(int(api["version"].partition(".")[0])))
    assert len(used) > 30, "the code's names were not found; did variables change theirs?"
    lacking = {f"{c}.{n}" for c, n in used if c and n not in names.get(c, ()) and not n.startswith("__")}
    return sorted(lacking | {n for c, n in used if not c and n not in names and n != "__version__"})


def fetched_api(version: str, folder: Path) -> dict[str, Any]:
    """The names of the true bindings of that version. Skips where they cannot be had."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        pytest.skip("no C compiler to make stubs of TensorRT's libraries with")
    for library, functions in STUBS.items():
        source = folder / f"{library}.c"
        source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in functions), encoding="utf-8")
        target = f"lib{library}.so.{version.partition('.')[0]}"
        command = [compiler, "-shared", "-fPIC", f"-Wl,-soname,{target}", "-o", str(folder / target), str(source)]
        subprocess.run(command, check=True, timeout=60)
    options = ["--quiet", "--no-deps", "--no-compile", "--only-binary=:all:", "--disable-pip-version-check"]
    install = [sys.executable, "-m", "pip", "install", *options, "--target", str(folder), f"tensorrt-cu13-bindings=={version}"]
    done = subprocess.run(install, capture_output=True, text=True, timeout=150, check=False)
    if done.returncode:
        pytest.skip(f"TensorRT's bindings cannot be fetched here: {done.stderr.strip()[-150:]}")
    package = folder / "tensorrt"
    package.mkdir()
    aliases = "from tensorrt_bindings import *\nfrom tensorrt_bindings import __version__\n"
    (package / "__init__.py").write_text(aliases, encoding="utf-8")
    environment = {**os.environ, "LD_LIBRARY_PATH": str(folder), "PYTHONPATH": str(folder)}
    command = [sys.executable, str(HERE / "list_tensorrt_api.py")]
    listed = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, env=environment)
    api: dict[str, Any] = json.loads(listed.stdout)
    return api


@pytest.mark.parametrize("version", ["10.16.1.11", "11.4.0.106"])
def test_every_name_the_code_uses_is_in_the_real_bindings(version: str, tmp_path: Path) -> None:
    api = fetched_api(version, tmp_path)
    assert api["version"] == version
    assert missing(api) == []


def test_every_name_the_code_uses_is_in_eight_six() -> None:
    assert missing(json.loads((HERE / "tensorrt_8.6.0_api.json").read_text(encoding="utf-8"))) == []


def test_a_name_that_is_not_there_would_be_found() -> None:
    api = json.loads((HERE / "tensorrt_8.6.0_api.json").read_text(encoding="utf-8"))
    api["names"]["IExecutionContext"].remove("execute_async_v3")
    del api["names"]["nptype"]
    assert missing(api) == ["IExecutionContext.execute_async_v3", "nptype"]
