"""Plans on disk: under a key that holds everything a plan depends on, so that one that does not match is never loaded."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from engines.backends.tensorrt.device import Device
from engines.manifest import Manifest

RECIPE = 1
"""Raised whenever the same graph is brought to TensorRT in another way."""
MAX_PLAN_BYTES = 1 << 30
MAX_TIMING_BYTES = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanKey:
    """What a plan was built from, by and for."""

    model_sha256: str
    precision: str
    shapes: tuple[tuple[str, tuple[int, ...]], ...]
    tensorrt: str
    device: str
    compute_capability: str
    driver: int
    recipe: int = RECIPE

    @property
    def digest(self) -> str:
        """SHA-256 over all of it, hex."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


def plan_key(manifest: Manifest, shapes: Mapping[str, tuple[int, ...]], tensorrt: str, device: Device) -> PlanKey:
    """The key of an engine's plan for inputs of these shapes, here."""
    return PlanKey(
        model_sha256=manifest.sha256,
        precision=manifest.precision,
        shapes=tuple(sorted(shapes.items())),
        tensorrt=tensorrt,
        device=device.name,
        compute_capability=device.compute_capability,
        driver=device.driver,
    )


class PlanCache:
    """A folder of plans and timing caches; None: nothing is kept. A plan is machine code: nobody but its user may write there."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def load(self, key: PlanKey) -> bytes | None:
        """The plan for just this key; None if there is none, or if it is not whole: it is then built again."""
        if self._folder is None:
            return None
        plan, about = self._paths(key)
        try:
            if plan.stat().st_size > MAX_PLAN_BYTES:
                return None
            written = json.loads(about.read_text(encoding="utf-8"))
            content = plan.read_bytes()
        except (OSError, ValueError):
            return None
        wanted = json.loads(json.dumps(asdict(key))) | {"plan_sha256": hashlib.sha256(content).hexdigest()}
        return content if written == wanted else None

    def save(self, key: PlanKey, content: bytes) -> None:
        """Keep a plan, whole or not at all."""
        if self._folder is None:
            return
        plan, about = self._paths(key)
        written = asdict(key) | {"plan_sha256": hashlib.sha256(content).hexdigest()}
        _write(plan, content)
        _write(about, (json.dumps(written, indent=2) + "\n").encode())

    def timing(self, tensorrt: str, device: Device) -> bytes:
        """What earlier builds timed with this TensorRT on such a device under this driver; nothing if none did."""
        path = self._timing_path(tensorrt, device)
        try:
            return path.read_bytes() if path is not None and path.stat().st_size <= MAX_TIMING_BYTES else b""
        except OSError:
            return b""

    def save_timing(self, tensorrt: str, device: Device, content: bytes) -> None:
        """Keep a timing cache. Of two builders at once the later one's stays."""
        path = self._timing_path(tensorrt, device)
        if path is not None and content:
            _write(path, content)

    def _paths(self, key: PlanKey) -> tuple[Path, Path]:
        assert self._folder is not None
        stem = f"plan-{key.precision}-{key.digest[:24]}"
        return self._folder / f"{stem}.plan", self._folder / f"{stem}.key"

    def _timing_path(self, tensorrt: str, device: Device) -> Path | None:
        if self._folder is None:
            return None
        digest = hashlib.sha256(json.dumps([tensorrt, asdict(device)]).encode()).hexdigest()
        return self._folder / f"timing-{digest[:24]}.cache"


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".making-", delete=False) as file:
        file.write(content)
    Path(file.name).replace(path)
