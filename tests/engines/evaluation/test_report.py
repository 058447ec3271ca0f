"""Verdicts, numbers and the page of a made-up evaluation."""

from __future__ import annotations

import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from engines.training.evaluation import page, verdicts
from engines.training.evaluation.bootstrap import Estimate
from engines.training.evaluation.findings import Findings, findings_from_json, plain

VOID = {"meta", "img", "br", "link", "hr"}
pytestmark = pytest.mark.filterwarnings("error::UserWarning")
"""What matplotlib warns of is a picture that cannot be read: no room, no glyph."""
PNG = b"\x89PNG\r\n\x1a\n"


def estimate(value: float, low: float | None = None, high: float | None = None) -> Estimate:
    return Estimate(value=value, low=value if low is None else low, high=value if high is None else high)


def target(key: str) -> verdicts.Target:
    return next(t for t in verdicts.TARGETS if t.key == key)


@pytest.mark.parametrize(
    ("key", "measured", "outcome", "is_clear"),
    [
        ("emergency.auroc", estimate(0.98, 0.975, 0.985), verdicts.MET, True),
        ("emergency.auroc", estimate(0.98, 0.96, 0.99), verdicts.MET, False),
        ("emergency.auroc", estimate(0.96, 0.95, 0.965), verdicts.MISSED, True),
        ("emergency.gain_single", estimate(0.09, -0.01, 0.2), verdicts.MISSED, False),
        ("emergency.gain_single", estimate(0.09, 0.01, 0.2), verdicts.MET, False),
        ("redundant.gain", estimate(-0.012, -0.02, 0.0), verdicts.MISSED, False),
        ("redundant.gain", estimate(-0.009, -0.0095, 0.009), verdicts.MET, True),
        ("ece.complete", estimate(0.03), verdicts.MET, True),
        ("ece.complete", estimate(float("nan")), verdicts.UNMEASURED, False),
        ("ece.complete", None, verdicts.UNMEASURED, False),
    ],
)
def test_a_verdict_is_by_value_and_says_whether_the_interval_crosses(
    key: str, measured: Estimate | None, outcome: str, is_clear: bool
) -> None:
    found = verdicts.verdict(target(key), measured)
    assert (found.outcome, found.is_clear) == (outcome, is_clear)


def test_every_target_knows_where_its_figure_comes_from(findings_of_made_world: Findings) -> None:
    everything = replace(
        findings_of_made_world,
        roles={"emergency": "emergency", "collision": "emergency", "alarm": "emergency", "apnea": "emergency"},
    )
    judged = verdicts.verdicts(everything)
    assert {v.target.key for v in judged} == {t.key for t in verdicts.TARGETS}
    assert [v.target.key for v in judged if v.outcome == verdicts.UNMEASURED] == []
    assert len({t.key for t in verdicts.TARGETS}) == len(verdicts.TARGETS)


def test_a_scenario_is_not_judged_on_heads_it_lacks_and_what_is_empty_is_not_measured(findings_of_made_world: Findings) -> None:
    kept = findings_of_made_world
    bare = Findings(setting=kept.setting, streams=kept.streams, heads=kept.heads, roles={"alarm": "alarm"})
    judged = verdicts.verdicts(bare)
    assert not any(v.target.role in ("emergency", "apnea") for v in judged)
    assert {v.outcome for v in judged} == {verdicts.UNMEASURED}


def test_false_alarms_are_those_at_95_percent_on_the_test_where_the_validation_threshold_falls_short(
    findings_of_made_world: Findings,
) -> None:
    alarms = findings_of_made_world.alarms[0]
    short = replace(alarms.point, sensitivity=estimate(0.8), false_alarms_per_h=estimate(0.1))
    own = replace(alarms.oracle, sensitivity=estimate(0.95), false_alarms_per_h=estimate(0.7))
    found = replace(findings_of_made_world, alarms=(replace(alarms, point=short, oracle=own),))
    measured = verdicts.measured_of(target("emergency.false_alarms"), found)
    assert measured is not None and measured[0].value == 0.7 and "0.800" in measured[1]


def test_a_figure_given_by_hand_takes_the_place_of_the_one_from_the_sections(findings_of_made_world: Findings) -> None:
    given = replace(findings_of_made_world, measured={"delay.loss": estimate(0.4)})
    assert next(v for v in verdicts.verdicts(given) if v.target.key == "delay.loss").outcome == verdicts.MISSED


def test_findings_come_back_from_their_json(findings_of_made_world: Findings) -> None:
    text = page.json_from_findings(findings_of_made_world, verdicts.verdicts(findings_of_made_world))
    back = findings_from_json(text)
    assert plain(back) == plain(findings_of_made_world)
    assert back.subsets[0].mask == "1111" and isinstance(back.alarms[0].point.sensitivity, Estimate)
    assert [v.outcome for v in verdicts.verdicts(back)] == [v.outcome for v in verdicts.verdicts(findings_of_made_world)]


def test_what_is_not_finite_is_null_in_json_and_text_that_is_no_report_is_refused() -> None:
    assert plain({"a": float("nan"), "b": np.float32("inf"), "c": np.int8(3)}) == {"a": None, "b": None, "c": 3}
    for text in ("[]", "{}", '{"findings": {"setting": 3}}', "not json"):
        with pytest.raises(ValueError):
            findings_from_json(text)


class Reader(HTMLParser):
    """Checks that tags are closed in order, and keeps what may matter."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.seen: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def written(findings_of_made_world: Findings, tmp_path_factory: pytest.TempPathFactory) -> page.Report:
    """A report of findings whose texts are hostile."""
    folder = tmp_path_factory.mktemp("report")
    hostile = replace(
        findings_of_made_world,
        setting=replace(findings_of_made_world.setting, scenario="<script>alert(1)</script>", is_quick=True),
        subsets=tuple(replace(s, head="../a<b>") if s.mask == "0001" else s for s in findings_of_made_world.subsets),
        leaks=tuple(replace(c, leaks=True, who="a <b>probe</b>") for c in findings_of_made_world.leaks),
    )
    return page.write_report(hostile, folder)


def test_the_page_is_whole_alone_and_escapes_what_it_is_given(written: page.Report) -> None:
    reader = Reader()
    text = written.page.read_text(encoding="utf-8")
    reader.feed(text)
    assert reader.open == []
    assert "script" not in reader.seen and "b" not in reader.seen
    assert all(s.startswith(("data:image/png;base64,", "#")) for s in reader.sources)
    assert reader.seen.count("img") == len(written.pictures) > 10
    assert "A label leaks: a <b>probe</b>" in reader.text and "quick run" in reader.text
    for verdict in written.verdicts:
        assert verdict.target.text in reader.text


def test_pictures_lie_in_the_folder_under_tame_names_and_the_numbers_are_strict_json(written: page.Report) -> None:
    folder: Path = written.page.parent
    assert {p.parent for p in written.pictures} == {folder}
    assert all(p.read_bytes().startswith(PNG) for p in written.pictures)
    numbers = json.loads(written.numbers.read_text(encoding="utf-8"), parse_constant=lambda name: pytest.fail(name))
    assert {row["key"] for row in numbers["verdicts"]} == {v.target.key for v in written.verdicts}
    assert written.leaks


def test_a_report_of_nothing_is_still_a_page(findings_of_made_world: Findings, tmp_path: Path) -> None:
    kept = findings_of_made_world
    report = page.write_report(Findings(setting=kept.setting, streams=kept.streams, heads=kept.heads), tmp_path / "new")
    assert report.pictures == () and "not measured" in report.page.read_text(encoding="utf-8")
