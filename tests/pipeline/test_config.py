"""The scenario's schema: what is refused, what may be overridden, and what its hash covers."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config import ConfigError, load_scenario, scenario_folder

FOLDER = scenario_folder("driving")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("runtime.threds=2", r"unknown key 'runtime.threds'.*did you mean 'threads'"),
        ("streams.camera.max_age=2", r"unknown key 'streams.camera.max_age'.*did you mean 'max_age_ms'"),
        ("nonsense=2", r"unknown key 'nonsense'.*known are"),
        ("streams.camera.wait_ms=42", r"streams.camera.wait_ms 42 must be below deadline_ms - reserve_ms = 42.*lower it"),
        ("reserve_ms=50", r"reserve_ms 50 must be below deadline_ms 50"),
        ("reference.stream=radar", r"reference.stream 'radar' is none of the streams"),
        ("policy.blind_action=fly", r"'fly'"),
        ("policy.action_head=mood", r"policy.action_head 'mood'"),
        ("runtime.link=smoke", r"runtime.link.*not 'smoke'"),
        ("deadline_ms=soon", r"deadline_ms.*not 'soon'"),
        ("deadline_ms", r"write key=value"),
        ("deadline_ms.x=1", r"'deadline_ms' holds a value"),
        ("deadline_ms=[", r"is not a YAML value"),
    ],
)
def test_wrong_setting_is_refused_in_one_line_that_names_it(override: str, message: str):
    with pytest.raises(ConfigError, match=message) as caught:
        load_scenario(FOLDER, [override])
    assert "\n" not in str(caught.value)


def test_override_is_put_over_the_file():
    scenario = load_scenario(FOLDER, ["runtime.link=ray", "streams.text.heartbeat_ms=500", "deadline_ms=60"])
    assert (scenario.runtime.link, scenario.streams["text"].heartbeat_ms, scenario.deadline_ms) == ("ray", 500, 60)


@pytest.mark.parametrize("override", ["runtime.threads=2", "runtime.link=ray", "runtime.horizon_ms=500", "title=Other"])
def test_hash_ignores_how_the_runtime_runs(override: str):
    assert load_scenario(FOLDER, [override]).sha256 == load_scenario(FOLDER).sha256


@pytest.mark.parametrize(
    "override",
    [
        "deadline_ms=51", "reserve_ms=7", "streams.camera.wait_ms=19", "streams.text.max_age_ms=1", "reference.rate_hz=21",
        "policy.threshold=0.6", "policy.enter.stop=2", "streams.text.sparse=false",
    ],
)  # fmt: skip
def test_hash_covers_the_contract_and_the_policy(override: str):
    assert load_scenario(FOLDER, [override]).sha256 != load_scenario(FOLDER).sha256


@pytest.mark.parametrize(("text", "message"), [("- 1", "must be a mapping"), ("a: [", "not YAML"), ("x: " + "y" * 10**6, "1 MB")])
def test_file_that_is_no_scenario_is_refused_with_its_name(tmp_path: Path, text: str, message: str):
    (tmp_path / "scenario.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        load_scenario(scenario_folder(str(tmp_path)))
    assert "scenario.yaml" in str(caught.value)


def test_unknown_scenario_is_refused_with_the_nearest_name(tmp_path: Path):
    with pytest.raises(ConfigError, match="did you mean 'driving'"):
        scenario_folder("drivng")
    with pytest.raises(ConfigError, match=r"no scenario.yaml in this folder"):
        scenario_folder(str(tmp_path))
