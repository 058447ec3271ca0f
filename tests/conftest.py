"""What all tests share: where the real recordings lie, and a short log cut from the shipped simulated drive."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from engines.manifest import Manifest
from pipeline.config import SCENARIOS, Scenario, load_scenario, scenario_folder
from pipeline.logs.reader import LogReader
from pipeline.logs.writer import LogWriter

REPOSITORY = Path(__file__).resolve().parents[1]
RECORDINGS = REPOSITORY.parent / "shared" / "data"
DEMO_LOG = SCENARIOS / "driving" / "demo.mcap"


@pytest.fixture(scope="session")
def recordings() -> Path:
    """The folder of real recordings; a plain clone has none, and the tests that need it skip."""
    if not RECORDINGS.is_dir():
        pytest.skip(f"the real recordings are not here ({RECORDINGS}); a plain clone runs without them")
    return RECORDINGS


@pytest.fixture(scope="session")
def driving() -> Scenario:
    """The shipped driving scenario."""
    return load_scenario(scenario_folder("driving"))


def cut_log(source: Path, target: Path, seconds: float, streams: tuple[str, ...] | None = None) -> Path:
    """The first seconds of a log, of some of its streams, as a log of its own (without decisions)."""
    log = LogReader(source)
    infos = [info for name, info in log.streams.items() if streams is None or name in streams]
    names = {info.stream for info in infos}
    with LogWriter(target, scenario=log.scenario, origin_ns=log.origin_ns, streams=infos, metadata={"simulated": "true"}) as out:
        for recording in log.recordings():
            header = recording.announcement.header
            if header.stream in names and header.receive_ns - log.origin_ns < seconds * 1e9:
                out.announcement(recording)
        for truth in log.truth():
            if truth["time_ns"] - log.origin_ns < seconds * 1e9:
                out.truth(truth["time_ns"], {k: v for k, v in truth.items() if k != "time_ns"})
        out.finish({"clean": "true"})
    return target


@pytest.fixture(scope="session")
def short_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six seconds of the shipped simulated drive."""
    return cut_log(DEMO_LOG, tmp_path_factory.mktemp("logs") / "short.mcap", 6.0)


Window = dict[str, NDArray[Any]]


def _made_window(manifest: Manifest, rng: np.random.Generator) -> Window:
    window: Window = {}
    for spec in manifest.inputs:
        shape = [d or size for d, size in zip(spec.shape, (96, 160, 3), strict=False)] if None in spec.shape else spec.shape
        if spec.dtype == "float32":
            window[spec.name] = rng.random([d or 0 for d in shape]).astype(np.float32)
        else:
            limit = np.iinfo(spec.dtype)
            low, high = (limit.min, limit.max) if spec.dtype == "uint8" else (-6000, 6000)
            window[spec.name] = rng.integers(low, high, [d or 0 for d in shape], dtype=spec.dtype)
    if manifest.role == "fusion":
        window["mask"] = np.eye(3, dtype=np.float32)[rng.choice(3, len(manifest.streams), p=(0.8, 0.1, 0.1))]
    return window


@pytest.fixture(scope="session")
def windows_of() -> Callable[[Manifest, int, int], list[Window]]:
    """Random inputs of a manifest's shapes: ``windows_of(manifest, count, seed)``. They are noise, no recording."""

    def make(manifest: Manifest, count: int, seed: int) -> list[Window]:
        rng = np.random.default_rng(seed)
        return [_made_window(manifest, rng) for _ in range(count)]

    return make
