"""Runs on real Ray actors over real links. Each takes seconds, so each proves several things."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from actors.deploy import RUNS, RayRun, start_ray
from actors.inline import run_inline
from pipeline.cli.planning import plan_live, plan_replay
from pipeline.messages import Availability, Decision
from pipeline.stages.sink import RunSummary

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module", autouse=True)
def ray_session() -> Iterator[None]:
    """One Ray for all these runs: starting and stopping it is what takes most of the time."""
    import ray

    start_ray(None)
    yield
    ray.shutdown()


def replay_on_ray(log: Path, *overrides: str, speed: str = "max") -> RunSummary:
    return RayRun(plan_replay(log, list(overrides), speed).plan).run()


def inline_sha256(log: Path) -> str:
    return run_inline(plan_replay(log, [], "max").plan).sha256


def nothing_is_left() -> bool:
    """Nothing of this process's runs; other runs of the same user may go on."""
    run = f"c{os.getpid()}x"
    roots = os.listdir(RUNS) if RUNS.exists() else []
    return not [p for p in [*roots, *os.listdir("/dev/shm")] if run in p]


@pytest.mark.parametrize(
    "overrides",
    [(), ("runtime.link=ray",), ("runtime.encoders=apart", "runtime.frames_in_flight=3", "runtime.horizon_ms=500")],
    ids=["shared memory", "link ray on every edge", "encoders apart, little credit"],
)
def test_a_replay_on_ray_decides_bit_for_bit_what_it_does_inline(short_log: Path, overrides: tuple[str, ...]) -> None:
    summary = replay_on_ray(short_log, *overrides)
    assert summary.decisions == 120
    assert summary.dropped == 0
    assert summary.sha256 == inline_sha256(short_log)
    assert nothing_is_left()


def test_a_replay_in_real_time_decides_what_it_does_at_full_speed(short_log: Path) -> None:
    assert replay_on_ray(short_log, speed="1").sha256 == inline_sha256(short_log)


def test_a_clean_live_run_replays_bit_for_bit_from_its_log(short_log: Path, tmp_path: Path) -> None:
    log = tmp_path / "live.mcap"
    sources = [f"{stream}=log:{short_log}" for stream in ("camera", "microphone", "telemetry", "text")]
    live = RayRun(plan_live("driving", sources, [], record=log).plan).run()
    replayed = run_inline(plan_replay(log, [], "max").plan)
    assert live.decisions == replayed.decisions >= 120
    if live.clean:
        assert replayed.sha256 == live.sha256
    else:  # a busy machine may have made the live run overrun: then it must have said so
        assert live.overruns or live.dropped or live.skipped


def test_a_killed_camera_actor_costs_the_camera_and_not_the_decisions(short_log: Path) -> None:
    sources = [f"{stream}=log:{short_log}?loop=true" for stream in ("camera", "microphone", "telemetry", "text")]
    taken: list[Decision] = []
    killed_at = threading.Event()

    def on_decisions(decisions: list[Decision]) -> None:
        taken.extend(decisions)
        if len(taken) > 20 and not killed_at.is_set():
            killed_at.set()
            os.kill(run.pids["camera"], signal.SIGKILL)

    run = RayRun(plan_live("driving", sources, [], duration="6s").plan, on_decisions=on_decisions)
    summary = run.run()
    last = taken[-1].receipt
    assert last is not None
    found = {a.stream: a.availability for a in last.admitted}
    assert last.synthetic
    assert found["camera"] in (Availability.STALE, Availability.MISSING)
    assert found["microphone"] is Availability.PRESENT
    assert summary.synthetic > 20
    assert any("camera" in failure for failure in summary.failures)
    assert nothing_is_left()


def test_a_live_run_whose_encoder_stood_still_is_replayed_as_it_happened(short_log: Path, tmp_path: Path) -> None:
    log, frozen_at = tmp_path / "overrun.mcap", [25, 45, 65]
    sources = [f"{stream}=log:{short_log}" for stream in ("camera", "microphone", "telemetry", "text")]

    def on_decisions(decisions: list[Decision]) -> None:
        if frozen_at and decisions[-1].seq >= frozen_at[0]:
            frozen_at.pop(0)
            os.kill(run.pids["encoder"], signal.SIGSTOP)
            threading.Timer(0.2, os.kill, (run.pids["encoder"], signal.SIGCONT)).start()

    run = RayRun(plan_live("driving", sources, [], record=log).plan, on_decisions=on_decisions)
    live = run.run()
    assert live.overruns and not live.clean
    again = run_inline(plan_replay(log, [], "max", as_it_happened=True).plan)
    assert (again.sha256, again.overruns) == (live.sha256, live.overruns)
    assert run_inline(plan_replay(log, [], "max").plan).sha256 != live.sha256
