"""The house's own rules, as tests: who may import whom, what may be imported where, how long and how named a module may be.

`lint-imports` checks the contracts of pyproject.toml; here it is also checked that those contracts leave nothing out, and what
import-linter cannot see: that modules really import where a library is not installed.
"""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("pipeline", "actors", "engines", "benchmarks")

MAX_LINES = 450
LONGER = {"pipeline/links/shared_memory.py": 480}
"""Modules that are let run longer, and how long. Shorten them rather than adding to this."""

OPTIONAL = (
    "ray", "torch", "av", "cv2", "iceoryx2", "sounddevice", "panda3d", "direct", "mcap", "mcap_protobuf",
    "foxglove_schemas_protobuf", "onnx", "onnxruntime", "wfdb", "neurokit2", "sklearn", "matplotlib",
    "openvino", "tensorrt", "pycuda", "cuda", "paho",
)  # fmt: skip
"""What `import pipeline` must work without."""

WITHOUT_RAY = (
    "building", "calibration", "engines", "inline", "lane", "plan", "recording", "sampling", "serving", "upgrading", "wiring",
)  # fmt: skip
"""Modules of `actors` that serve a run without Ray."""

DOCTOR = ("pipeline/cli/doctor.py", "pipeline/cli/checks.py")
"""The verb that tries each library, when asked."""

ALLOWED: dict[str, tuple[str, ...]] = {
    "ray": ("actors/", "pipeline/cli/run.py", "pipeline/cli/replay.py", "pipeline/cli/playing.py", *DOCTOR),
    "torch": (
        "engines/networks/",
        "engines/training/",
        "engines/export.py",
        "engines/backends/torch.py",
        "engines/backends/torch_from_onnx/",
        "benchmarks/gpu_contenders.py",
    ),
    "onnx": (
        "engines/export.py",
        "engines/precision.py",
        "engines/training/",
        "engines/backends/torch.py",
        "engines/backends/torch_from_onnx/",
        "engines/backends/portable_graph.py",
    ),
    "onnxruntime": (
        "engines/backends/",
        "engines/cache.py",
        "engines/export.py",
        "engines/precision.py",
        "engines/training/",
        *DOCTOR,
    ),
    "openvino": ("engines/backends/openvino.py",),
    "tensorrt": ("engines/backends/tensorrt/",),
    "pycuda": ("engines/backends/tensorrt/",),
    "cuda": ("engines/backends/tensorrt/",),
    "av": ("pipeline/formats/", "pipeline/sources/", "pipeline/scenarios/", "engines/training/", *DOCTOR),
    "cv2": ("pipeline/formats/", "pipeline/sources/", "pipeline/scenarios/", "engines/training/", *DOCTOR),
    "sounddevice": ("pipeline/sources/", *DOCTOR),
    "iceoryx2": ("pipeline/links/", *DOCTOR),
    "panda3d": ("pipeline/scenarios/", *DOCTOR),
    "direct": ("pipeline/scenarios/",),
    "mcap": ("pipeline/logs/",),
    "mcap_protobuf": ("pipeline/logs/",),
    "foxglove_schemas_protobuf": ("pipeline/logs/",),
    "paho": ("pipeline/sinks/mqtt.py",),
    "hdrh": ("pipeline/latency/",),
    "wfdb": ("pipeline/formats/", *DOCTOR),
    "neurokit2": ("pipeline/scenarios/", *DOCTOR),
    "sklearn": ("engines/training/",),
    "matplotlib": ("engines/training/", "pipeline/latency/page.py"),
}
"""Library to the places that may name it. Tests may name all, benchmarks all but torch, which one of them times."""

FORBIDDEN_WORDS = {"util", "utils", "helper", "helpers", "common", "manager", "managers", "misc"}


def _modules(package: str) -> list[Path]:
    return sorted(p for p in (ROOT / package).rglob("*.py") if "__pycache__" not in p.parts)


def _dotted(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imported(path: Path) -> Iterator[tuple[int, str]]:
    """Line and top-level name of every import of a file, also those inside functions and under TYPE_CHECKING."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.partition(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.lineno, node.module.partition(".")[0]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("import_module", "importlib.import_module", "__import__"):
            name = node.args[0] if node.args else None
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                yield node.lineno, name.value.partition(".")[0]


def _contracts() -> dict[str, dict[str, list[str]]]:
    linter = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    assert set(linter["root_packages"]) == set(PACKAGES)
    return {contract["name"]: contract for contract in linter["contracts"]}


def _children(package: str) -> set[str]:
    """The modules and packages right below a package."""
    folder = ROOT / package
    files = {f"{package}.{p.stem}" for p in folder.glob("*.py") if p.stem != "__init__"}
    return files | {f"{package}.{p.name}" for p in folder.iterdir() if p.is_dir() and any(p.rglob("*.py"))}


# The contracts of pyproject.toml ---------------------------------------------------------------------------------------


def test_import_linter_keeps_every_contract() -> None:
    command = shutil.which("lint-imports", path=str(Path(sys.executable).parent)) or shutil.which("lint-imports")
    if command is None:
        pytest.skip("lint-imports is not installed; pip install 'chiasm[dev]'")
    done = subprocess.run([command, "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_contracts_cover_every_part_of_pipeline_but_its_command_line() -> None:
    contract = next(c for c in _contracts().values() if "pipeline.messages" in c["source_modules"])
    assert set(contract["forbidden_modules"]) == {"actors", "engines", "benchmarks"}
    assert set(contract["source_modules"]) == _children("pipeline") - {"pipeline.cli"}


def test_contracts_cover_every_part_of_engines_but_training() -> None:
    contract = next(c for c in _contracts().values() if "engines.manifest" in c["source_modules"])
    assert set(contract["forbidden_modules"]) == {"pipeline", "actors", "benchmarks"}
    assert set(contract["source_modules"]) == _children("engines") - {"engines.training", "engines.weights"}


@pytest.mark.parametrize("package", ["engines.training", "actors"])
def test_training_and_actors_have_a_contract_against_benchmarks(package: str) -> None:
    assert any(package in c["source_modules"] and "benchmarks" in c["forbidden_modules"] for c in _contracts().values())


# What is imported where ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("library", ALLOWED)
def test_a_library_is_named_only_where_it_is_driven(library: str) -> None:
    allowed = ALLOWED[library] if library == "torch" else (*ALLOWED[library], "benchmarks/")
    strays = [
        f"{relative}:{line}"
        for package in PACKAGES
        for path in _modules(package)
        if not (relative := path.relative_to(ROOT).as_posix()).startswith(allowed)
        for line, name in _imported(path)
        if name == library
    ]
    assert not strays, f"{library} is imported at {', '.join(strays)}"


@pytest.mark.parametrize("module", WITHOUT_RAY)
def test_what_runs_without_ray_does_not_name_it(module: str) -> None:
    assert "ray" not in {name for _, name in _imported(ROOT / "actors" / f"{module}.py")}


_IMPORT_ALL = """
import importlib, importlib.abc, json, sys, traceback
blocked, wanted = json.loads(sys.argv[1])

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ModuleNotFoundError(f"No module named {name!r} (blocked by the test)", name=name)

sys.meta_path.insert(0, Absent())
failed = {}
for name in wanted:
    try:
        importlib.import_module(name)
    except ImportError:
        failed[name] = traceback.format_exc(limit=-2)
json.dump(failed, sys.stdout)
"""


def _import_without(blocked: tuple[str, ...], wanted: list[str]) -> dict[str, str]:
    """Import these modules in a fresh interpreter that lacks the blocked ones; module to traceback of those that cannot."""
    arguments = json.dumps([blocked, wanted])
    command = [sys.executable, "-c", _IMPORT_ALL, arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    failed: dict[str, str] = json.loads(done.stdout)
    return failed


def test_blocking_works_so_that_the_tests_below_can_fail() -> None:
    assert set(_import_without(("json5", "wave"), ["wave", "pipeline.messages"])) == {"wave"}


def test_every_module_of_pipeline_imports_without_optional_libraries_and_without_the_other_packages() -> None:
    wanted = [_dotted(p) for p in _modules("pipeline") if p.relative_to(ROOT / "pipeline").parts[0] != "cli"]
    assert "pipeline" in wanted and len(wanted) > 40
    assert _import_without((*OPTIONAL, "actors", "engines", "benchmarks"), wanted) == {}


def test_the_command_line_imports_without_optional_libraries() -> None:
    assert _import_without(OPTIONAL, ["pipeline.cli.main"]) == {}


def test_the_inline_run_imports_without_ray() -> None:
    assert _import_without(("ray", "iceoryx2", "torch"), [f"actors.{name}" for name in WITHOUT_RAY]) == {}


def test_engines_but_networks_training_and_export_import_without_torch_and_without_pipeline() -> None:
    apart = ("networks", "training", "export.py")
    wanted = [_dotted(p) for p in _modules("engines") if p.relative_to(ROOT / "engines").parts[0] not in apart]
    assert "engines.registry" in wanted
    assert _import_without((*OPTIONAL, "pipeline", "actors", "benchmarks"), wanted) == {}


# Names and lengths -----------------------------------------------------------------------------------------------------


def test_no_module_is_too_long_to_read_at_a_sitting() -> None:
    lengths = {
        p.relative_to(ROOT).as_posix(): len(p.read_text(encoding="utf-8").splitlines())
        for package in PACKAGES
        for p in _modules(package)
    }
    too_long = {path: n for path, n in lengths.items() if n > LONGER.get(path, MAX_LINES)}
    assert not too_long
    assert set(LONGER) <= set(lengths), "LONGER names modules that no longer exist"


def test_no_module_folder_or_class_has_a_name_that_says_nothing() -> None:
    strays = []
    for path in [p for package in (*PACKAGES, "tests") for p in _modules(package)]:
        relative = path.relative_to(ROOT)
        words = {word for part in relative.with_suffix("").parts for word in part.lower().split("_")}
        strays += [str(relative) for _ in words & FORBIDDEN_WORDS]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                in_name = {word.lower() for word in re.findall(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])", node.name)}
                strays += [f"{relative}:{node.lineno} {node.name}" for _ in in_name & FORBIDDEN_WORDS]
    assert not strays


def _tracked_files() -> list[Path]:
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: which files belong to the project is not known")
    listed = subprocess.run(
        [git, "-c", f"safe.directory={ROOT}", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def test_no_file_names_the_host_of_a_package_registry() -> None:
    hosts = [
        ".".join(parts).encode()  # put together here, so that this file does not name them either
        for parts in (
            ("pypi", "org"), ("pythonhosted", "org"), ("pypi", "nvidia", "com"), ("npmjs", "org"), ("npmjs", "com"),
            ("crates", "io"), ("anaconda", "org"), ("download", "pytorch", "org"),
            ("proxy", "golang", "org"), ("rubygems", "org"), ("nuget", "org"),
        )
    ]  # fmt: skip
    named = {
        f"{path.relative_to(ROOT)}: {host.decode()}"
        for path in _tracked_files()
        for host in hosts
        if host in path.read_bytes().lower()
    }
    assert not named
