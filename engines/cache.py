"""Graphs in other precisions, made once: where they lie, under which key, each with its own manifest."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from engines.manifest import EngineError, Manifest, Precision, load_engine_files, load_manifest
from engines.precision import RECIPE, Window, derived_model, saturates

Calibration = Callable[[], Sequence[Window]]
"""Gives the windows to calibrate on; called only when a graph must be made."""


def default_cache() -> Path:
    """``chiasm/engines`` in the user's cache folder (XDG Base Directory Specification)."""
    root = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(root) if root.startswith("/") else Path.home() / ".cache") / "chiasm" / "engines"


def derived_engine(
    manifest_path: Path,
    precision: Precision,
    cache: Path,
    *,
    calibration: Calibration = tuple,
    calibrated_on: str = "",
    symmetric: bool = False,
) -> Path:
    """The manifest of the engine in ``precision``: the given one for fp32, else one in ``cache``, made now if it is not there.

    ``calibrated_on`` names the windows of ``calibration`` (a log, its hash, how many): others give another graph. A cached graph
    whose hash is not its manifest's is made again. Raises EngineError as `engines.precision.derived_model` does.
    """
    if precision == "fp32":
        return manifest_path
    manifest, model = load_engine_files(manifest_path)
    if manifest.precision != "fp32":
        raise EngineError(f"{manifest_path}: is {manifest.precision} already; derive {precision} from the fp32 engine")
    key = _key(manifest, precision, calibrated_on if precision == "int8" else "", symmetric)
    folder = cache / f"{manifest.role}-{precision}-{key[:20]}"
    path = folder / f"{manifest.role}.json"
    if path.exists():
        try:
            load_manifest(path)
            return path
        except EngineError:
            shutil.rmtree(folder)  # cut or altered: it costs seconds to make it again
    windows = calibration() if precision == "int8" else ()
    content = derived_model(model, precision, windows, symmetric=symmetric)
    _publish(folder, manifest, content, precision, calibrated_on if precision == "int8" else "")
    return path


def _key(manifest: Manifest, precision: Precision, calibrated_on: str, symmetric: bool) -> str:
    import onnxruntime  # type: ignore[import-untyped, unused-ignore]

    bits = "7" if precision == "int8" and not symmetric and saturates() else "8"
    parts = (manifest.sha256, precision, calibrated_on, str(symmetric), str(RECIPE), bits, str(onnxruntime.__version__))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _publish(folder: Path, manifest: Manifest, model: bytes, precision: Precision, calibrated_on: str) -> None:
    """Whole or not at all, also when two processes make the same graph at once."""
    derived = manifest.model_dump(mode="json") | {
        "sha256": hashlib.sha256(model).hexdigest(),
        "precision": precision,
        "derived_from": manifest.sha256,
        "calibrated_on": calibrated_on,
    }
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".making-") as place:
        made = Path(place) / folder.name
        made.mkdir()
        (made / manifest.onnx).write_bytes(model)
        (made / f"{manifest.role}.json").write_text(json.dumps(derived, indent=2) + "\n", encoding="utf-8")
        try:
            made.rename(folder)
        except OSError:
            load_manifest(folder / f"{manifest.role}.json")  # another process was first
