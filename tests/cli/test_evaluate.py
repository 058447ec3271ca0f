"""The verb `evaluate`: what it refuses, and what its exit code says. What it measures is tested where it is measured."""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import typer

from pipeline.cli import evaluate as verb
from pipeline.cli.errors import UsageError


def test_a_report_goes_to_a_new_folder_an_empty_one_or_over_an_earlier_report(tmp_path: Path) -> None:
    verb.check_report_folder(tmp_path / "new" / "deeper")
    verb.check_report_folder(tmp_path)
    (tmp_path / "photo.jpg").write_bytes(b"")
    with pytest.raises(UsageError, match="holds other things"):
        verb.check_report_folder(tmp_path)
    (tmp_path / verb.PAGE).write_text("")
    verb.check_report_folder(tmp_path)
    with pytest.raises(UsageError, match="is a file"):
        verb.check_report_folder(tmp_path / "photo.jpg")


@pytest.fixture
def evaluating(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Stands for the evaluation itself; keeps what it was called with, and returns what is put into ``report``."""
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    for needed in verb.NEEDED:
        if importlib.util.find_spec(needed) is None:
            pytest.skip(f"{needed} is not installed; pip install 'chiasm[train]'")
    held = SimpleNamespace(calls=[], report=SimpleNamespace(verdicts=(), leaks=(), page=Path("index.html")))

    def evaluate(*arguments: Any, **named: Any) -> Any:
        held.calls.append((arguments, named))
        return held.report

    stand_in = ModuleType(verb.EVALUATING)
    stand_in.__spec__ = importlib.machinery.ModuleSpec(verb.EVALUATING, None)
    stand_in.evaluate = evaluate  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, verb.EVALUATING, stand_in)
    return held


def test_a_missed_target_is_not_a_failure_and_is_shown(
    evaluating: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    verdicts = importlib.import_module("engines.training.evaluation.verdicts")
    estimate = importlib.import_module("engines.training.evaluation.bootstrap").Estimate
    evaluating.report.verdicts = (verdicts.verdict(verdicts.TARGETS[0], estimate(value=0.9, low=0.89, high=0.91)),)
    verb.evaluate("driving", tmp_path / "r", quick=True, seed=3)
    assert evaluating.calls == [
        (("driving", tmp_path / "r"), {"quick": True, "seed": 3, "background": None, "write_to_card": False})
    ]
    shown = capsys.readouterr().out
    assert "missed" in shown and "0.900 [0.890, 0.910]" in shown and "report: index.html" in shown


def test_a_leak_is_named_and_exits_with_1(
    evaluating: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluating.report.leaks = (SimpleNamespace(who="probe [of] camera", head="emergency"),)
    with pytest.raises(typer.Exit) as left:
        verb.evaluate("driving", tmp_path / "r", quick=False, seed=0)
    assert left.value.exit_code == 1
    assert "probe [of] camera" in capsys.readouterr().out


def test_a_missing_extra_is_named_with_its_fix(
    evaluating: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "sklearn" else found(name))
    with pytest.raises(UsageError, match=r"needs scikit-learn; run pip install 'chiasm\[train\]'"):
        verb.evaluate("driving", tmp_path / "r", quick=False, seed=0)
    assert not evaluating.calls


def test_a_scenario_without_a_world_to_train_in_is_refused(
    evaluating: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "engines.training.driving" else found(name))
    with pytest.raises(UsageError, match="has no evaluation"):
        verb.evaluate("driving", tmp_path / "r", quick=False, seed=0)
