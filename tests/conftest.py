"""What all tests share: where the real recordings lie, and a short log cut from the shipped simulated drive."""

from __future__ import annotations

from pathlib import Path

import pytest

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
