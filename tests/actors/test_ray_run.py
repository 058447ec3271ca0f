"""Runs on real Ray actors over real links. Each takes seconds, so each proves several things."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import psutil
import pytest
from ray._common.usage import usage_lib

from actors import restarting
from actors.deploy import IDLE_HELPERS, RUNS, RayRun, start_ray
from actors.inline import run_inline
from actors.supervisor import StageDied
from pipeline.cli.planning import plan_live, plan_replay
from pipeline.messages import Admitted, Availability, Decision
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


def test_ray_runs_without_what_serves_nobody_and_reports_to_nobody() -> None:
    commands = [" ".join(process.cmdline()) for process in psutil.Process().children(recursive=True)]
    assert any("raylet" in command for command in commands)
    assert not [command for command in commands if any(helper in command for helper in IDLE_HELPERS)]
    assert usage_lib.usage_stats_enabled() is False


def test_a_live_runs_decisions_all_reach_the_console_while_its_actors_doze_and_it_stops_at_once() -> None:
    batches: list[list[Decision]] = []
    began: dict[int, int] = {}
    stopped_s: list[float] = []

    def on_decisions(decisions: list[Decision]) -> None:
        batches.append(decisions)
        if len(batches) == 2:
            began.update((pid, main_thread_sleeps(pid)) for pid in run.pids.values())
        if len(batches) == 12:
            slept = [main_thread_sleeps(pid) - began[pid] for pid in run.pids.values()]
            assert max(slept) < 100, f"in two seconds Ray's own looking for signals would make it 200: {slept}"
            stopped_s.append(time.monotonic())
            run.stop()

    run = RayRun(plan_live("driving", [], []).plan, on_decisions=on_decisions)
    summary = run.run()
    assert time.monotonic() - stopped_s[0] < 3
    shown = [decision.seq for batch in batches for decision in batch]
    assert shown == list(range(summary.decisions)) and not summary.dropped
    assert max(map(len, batches)) > 1, "they come some at a time"


def main_thread_sleeps(pid: int) -> int:
    """How often it went to sleep of itself."""
    status = Path(f"/proc/{pid}/task/{pid}/status").read_text(encoding="ascii", errors="replace")
    return int(status.partition("\nvoluntary_ctxt_switches:")[2].split()[0])


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


def when_there_are(count: int, act: Callable[[], None]) -> Callable[[list[Decision]], None]:
    """Call ``act`` once, when so many decisions have been made."""
    seen = [0]

    def on_decisions(decisions: list[Decision]) -> None:
        before, seen[0] = seen[0], seen[0] + len(decisions)
        if before < count <= seen[0]:
            act()

    return on_decisions


def by_stream(decision: Decision) -> dict[str, Admitted]:
    assert decision.receipt is not None
    return {a.stream: a for a in decision.receipt.admitted}


def test_a_killed_encoder_is_started_again_while_decisions_go_on(short_log: Path, tmp_path: Path) -> None:
    log = tmp_path / "restarted.mcap"
    sources = [f"{stream}=log:{short_log}?loop=true" for stream in ("camera", "microphone", "telemetry", "text")]
    first: dict[str, int] = {}

    def kill() -> None:
        first.update(run.pids)
        os.kill(run.pids["encoder"], signal.SIGKILL)

    taken: list[Decision] = []
    killing = when_there_are(30, kill)

    def on_decisions(decisions: list[Decision]) -> None:
        taken.extend(decisions)
        killing(decisions)

    notices: list[str] = []
    plan = plan_live("driving", sources, [], duration="14s", record=log).plan
    run = RayRun(plan, on_decisions=on_decisions, on_notice=notices.append)
    summary = run.run()
    assert run.pids["encoder"] != first["encoder"] and run.pids["camera"] == first["camera"]
    gaps_ns = [b.reference_ns - a.reference_ns for a, b in pairwise(taken)]
    assert max(gaps_ns) < 100_000_000  # one a frame, all the time
    present = [{s for s, a in by_stream(d).items() if a.availability is Availability.PRESENT} for d in taken]
    blind = [number for number, streams in enumerate(present) if "camera" not in streams]
    assert len(blind) > 5
    assert any(streams >= {"camera", "microphone", "telemetry"} for streams in present[blind[-1] :])
    assert [f for f in summary.failures if "encoder" in f and "started again" in f] == list(summary.failures)
    assert ["is being started again" in n for n in notices] == [True, False] and notices[1:] == list(summary.failures)
    assert not summary.clean
    assert run_inline(plan_replay(log, [], "max", as_it_happened=True).plan).sha256 == summary.sha256
    assert nothing_is_left()


def test_the_killed_ingest_of_a_socket_is_started_again_as_another_epoch(short_log: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    over = threading.Event()

    def drive() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as bus:
            while not over.wait(0.02):
                bus.sendto(b'{"speed_mps": 12.0, "brake": 0}\n', ("127.0.0.1", port))

    taken: list[Decision] = []
    killing = when_there_are(60, lambda: os.kill(run.pids["telemetry"], signal.SIGKILL))

    def on_decisions(decisions: list[Decision]) -> None:
        taken.extend(decisions)
        killing(decisions)

    sources = [f"camera=log:{short_log}?loop=true", f"telemetry=udp:{port}"]
    run = RayRun(plan_live("driving", sources, [], duration="14s").plan, on_decisions=on_decisions)
    threading.Thread(target=drive, daemon=True).start()
    try:
        summary = run.run()
    finally:
        over.set()
    found = [by_stream(d)["telemetry"] for d in taken]
    assert {a.epoch for a in found if a.availability is Availability.PRESENT} == {0, 1}
    assert any(a.availability is Availability.MISSING or a.availability is Availability.STALE for a in found[60:])
    assert found[-1].availability is Availability.PRESENT
    assert ["telemetry: its actor died, and was started again" in f for f in summary.failures] == [True]


def test_a_stage_that_dies_again_and_again_ends_the_run_with_one_line(short_log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restarting, "BACKOFF_S", (0.0,))
    sources = [f"{stream}=log:{short_log}?loop=true" for stream in ("camera", "microphone")]
    killed: list[int] = []

    def on_decisions(_decisions: list[Decision]) -> None:
        pid = run.pids["encoder"]
        if pid not in killed:
            killed.append(pid)
            os.kill(pid, signal.SIGKILL)

    run = RayRun(plan_live("driving", sources, [], duration="30s").plan, on_decisions=on_decisions)
    with pytest.raises(StageDied, match="stage encoder died, and there are no decisions without it"):
        run.run()
    assert len(killed) == 2
    assert nothing_is_left()
