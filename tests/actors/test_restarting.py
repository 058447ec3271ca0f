"""How often and how soon a dead stage is started again."""

from __future__ import annotations

import threading

import pytest

from actors import restarting
from actors.restarting import BACKOFF_S, FORGIVEN_S, Reopened, RestartBudget, Restarted, Restarter


def test_each_restart_waits_longer_and_then_there_is_none() -> None:
    budget = RestartBudget()
    assert [budget.wait_s("encoder", 10.0 + n) for n in range(4)] == [*BACKOFF_S, None]
    assert budget.wait_s("camera", 14.0) == BACKOFF_S[0]  # each stage has its own


def test_a_stage_that_served_long_enough_is_forgiven() -> None:
    budget = RestartBudget()
    for n in range(3):
        budget.wait_s("encoder", float(n))
    assert budget.wait_s("encoder", FORGIVEN_S - 0.1) is None
    assert budget.wait_s("encoder", FORGIVEN_S + 5.0) == BACKOFF_S[0]


def ended(restarter: Restarter) -> Restarted:
    until = threading.Event()
    for _ in range(500):
        if found := restarter.done():
            return found[0]
        until.wait(0.01)
    raise AssertionError("the restart did not end")


def test_it_says_with_which_actor_a_restart_ended() -> None:
    restarter = Restarter(lambda stage: Reopened(recorded=7), threading.Event())
    assert restarter.begin("encoder")
    found = ended(restarter)
    assert found.stage == "encoder" and found.reopened == Reopened(recorded=7)


def test_it_says_on_one_line_why_a_stage_cannot_be_started() -> None:
    def broken(_stage: str) -> Reopened:
        raise OSError("no such\ndevice")

    restarter = Restarter(broken, threading.Event())
    assert restarter.begin("camera")
    found = ended(restarter)
    assert found.reopened is None and found.failure == "no such device"


def test_how_long_a_stage_was_away_counts_from_its_death_over_all_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(restarting.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(restarting, "BACKOFF_S", (0.0, 0.0))
    attempts: list[str] = []

    def second_time_lucky(stage: str) -> Reopened:
        attempts.append(stage)
        clock[0] += 3.0
        if len(attempts) == 1:
            raise OSError("still held")
        return Reopened()

    restarter = Restarter(second_time_lucky, threading.Event())
    found = []
    for _ in range(2):
        assert restarter.begin("telemetry")
        found.append(ended(restarter))
    assert [(one.reopened is None, one.away_s) for one in found] == [(True, 3.0), (False, 6.0)]


def test_a_run_that_is_ending_starts_nothing_again() -> None:
    stopping, asked = threading.Event(), []
    stopping.set()
    restarter = Restarter(lambda stage: asked.append(stage) or Reopened(), stopping)
    restarter._run("encoder", 60.0)  # what its thread does
    assert restarter.done() == [] and asked == []
