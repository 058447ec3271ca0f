"""A run that skipped and heard too late is replayed as it happened: its very decisions, inline and on Ray.

One that overran is in `tests/actors/test_ray_run.py`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from actors.engines import ServedEngine, reference_engine
from actors.inline import InlineRun, run_inline
from actors.plan import RunPlan
from pipeline.cli.errors import UsageError
from pipeline.cli.main import app
from pipeline.cli.planning import plan_live, plan_replay
from pipeline.logs.reader import LogReader
from pipeline.recorded_admission import NotReproducible
from pipeline.stages.sink import RunSummary

STALL_S, EVERY = 0.13, 12
"""The camera's encoder stands still so long, in each so-many-th call."""


class Stalling:
    """The camera's real engine, which now and then stands still. An inline run stands still with it, and is overtaken."""

    def __init__(self, engine: ServedEngine) -> None:
        self._engine, self.engine, self.notices = engine, engine.engine, engine.notices
        self._calls = 0

    def infer(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        self._calls += 1
        if self._calls % EVERY == 0:
            threading.Event().wait(STALL_S)
        return self._engine.infer(inputs)


@contextmanager
def stalling_camera(plan: RunPlan, role: str) -> Iterator[ServedEngine]:
    with reference_engine(plan, role) as engine:
        yield Stalling(engine) if role == "camera" else engine


@pytest.fixture(scope="module")
def unclean(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunSummary]:
    path = tmp_path_factory.mktemp("unclean") / "stalled.mcap"
    live = plan_live("driving", [], [], record=path, duration="6s").plan
    return path, InlineRun(live, opening=stalling_camera).run()


def replayed(path: Path, *, as_it_happened: bool = True) -> RunSummary:
    return InlineRun(plan_replay(path, [], "max", as_it_happened=as_it_happened).plan).run()


def test_the_recorded_run_was_not_clean_and_its_stamps_call_for_other_decisions(unclean: tuple[Path, RunSummary]) -> None:
    path, live = unclean
    assert live.skipped and live.dropped and not live.clean
    assert replayed(path, as_it_happened=False).sha256 != live.sha256


def test_as_it_happened_makes_its_very_decisions_inline(unclean: tuple[Path, RunSummary]) -> None:
    path, live = unclean
    again = replayed(path)
    assert again.sha256 == live.sha256
    assert (again.decisions, again.synthetic, again.skipped) == (live.decisions, live.synthetic, live.skipped)
    assert again.actions == live.actions


@pytest.mark.ray
def test_as_it_happened_makes_its_very_decisions_on_ray(unclean: tuple[Path, RunSummary]) -> None:
    from actors.deploy import run

    path, live = unclean
    assert run(plan_replay(path, [], "max", as_it_happened=True).plan).sha256 == live.sha256


def test_a_replay_of_the_replay_is_the_same_again(unclean: tuple[Path, RunSummary], tmp_path: Path) -> None:
    path, live = unclean
    copy = tmp_path / "again.mcap"
    InlineRun(plan_replay(path, [], "max", record=copy, as_it_happened=True).plan).run()
    assert replayed(copy).sha256 == live.sha256
    skipped = [d for d in LogReader(copy).decisions() if d.status == "skipped"]
    assert len(skipped) == live.skipped and all(not d.outputs for d in skipped)


def test_the_command_line_says_whether_it_was_the_same(unclean: tuple[Path, RunSummary]) -> None:
    path, live = unclean
    as_it_was = CliRunner().invoke(app, ["replay", str(path), "--inline", "--as-it-happened"])
    assert "the decisions of the recorded run, bit for bit" in as_it_was.stdout and live.sha256 in as_it_was.stdout
    by_stamps = CliRunner().invoke(app, ["replay", str(path), "--inline"])
    assert "--as-it-happened admits what it admitted" in " ".join(by_stamps.stdout.split())


def test_a_log_without_decisions_has_nothing_to_go_by() -> None:
    log = plan_live("driving", [], []).plan.sources["camera"].target
    with pytest.raises(UsageError, match=r"holds no decisions.*leave out --as-it-happened"):
        plan_replay(Path(log), [], "max", as_it_happened=True)


class Renamed:
    """The camera's real engine, which after a second goes by another name, as after a change-over."""

    def __init__(self, engine: ServedEngine) -> None:
        self._engine, self.engine, self.notices = engine, engine.engine, engine.notices
        self._calls = 0

    def infer(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        self._calls += 1
        self.engine = "another" if self._calls > 20 else self._engine.engine
        return self._engine.infer(inputs)


@contextmanager
def renamed_camera(plan: RunPlan, role: str) -> Iterator[ServedEngine]:
    with reference_engine(plan, role) as engine:
        yield Renamed(engine) if role == "camera" else engine


@pytest.mark.ray
def test_what_cannot_be_replayed_is_said_in_one_line_inline_and_on_ray(tmp_path: Path) -> None:
    from actors.deploy import run

    path = tmp_path / "changed.mcap"
    assert InlineRun(plan_live("driving", [], [], record=path, duration="3s").plan, opening=renamed_camera).run().swaps == 1
    plan = plan_replay(path, [], "max", as_it_happened=True).plan
    for play in (run_inline, run):
        with pytest.raises(NotReproducible, match=rf"^{path}: from decision \d+ on, other engines served \(camera\); [^\n]*$"):
            play(plan)
