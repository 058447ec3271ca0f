"""The simulated bedside, as training sees it."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed (extra `train`)")
pytest.importorskip("neurokit2", reason="neurokit2 is not installed (extra `sim`)")

from engines.networks.patient import PATIENT
from engines.training.moments import Moment, cheap_columns, fields
from engines.training.patient import PLAN
from engines.training.patient_world import PatientWorld
from engines.training.splits import check_trainable
from engines.training.worlds import SimulatedRun
from pipeline.config import load_scenario, scenario_folder

WORLD = PatientWorld()


@pytest.fixture(scope="module")
def run() -> SimulatedRun:
    """Two minutes at the bedside."""
    return WORLD.run(11, 120.0, "dense")


def test_the_design_agrees_with_the_scenario() -> None:
    scenario = load_scenario(scenario_folder("patient"))
    assert {name: head.labels for name, head in scenario.heads.items()} == dict(PATIENT.heads)
    channels = [(c.name, c.unit) for c in scenario.streams["telemetry"].channels]
    assert channels == [(c.name, c.unit) for c in PATIENT.telemetry.channels]
    for stream, age_s in WORLD.max_age_s.items():
        assert scenario.streams[stream].max_age_ms == round(age_s * 1000)


def test_no_seed_of_the_plan_is_for_testing() -> None:
    check_trainable([*range(PLAN.runs), *(s for job in (*PLAN.train, *PLAN.validation) for s in job.seeds)])


def test_every_clue_has_a_target_within_its_classes(run: SimulatedRun) -> None:
    assert set(run.clues) | {"said"} == set(WORLD.clues)
    for name, target in run.clues.items():
        clue = WORLD.clues[name]
        assert len(target) == run.frames
        if clue.size > 1:
            assert np.min(target) >= 0 and np.max(target) < clue.size, name


def test_what_is_said_is_told_apart_by_alarm_and_chart(run: SimulatedRun) -> None:
    assert WORLD.clues["said"].size == len(WORLD.sayings)
    lines = {line for seed in range(5) for _, line in WORLD.run(seed, 120.0, "dense", with_senses=False).lines}
    kinds = {line: next(i for i, phrase in enumerate(WORLD.sayings) if phrase in line) for line in lines}
    alarms = [line for line in lines if "ALARM" in line]
    assert alarms and len({kinds[line] for line in alarms}) >= len({line.split(";")[0] for line in alarms})


def test_columns_have_the_shapes_that_are_kept(run: SimulatedRun) -> None:
    moment = Moment(
        now=400, frame=400, camera_age_s=0.0, microphone_age_s=0.0, telemetry_age_s=0.0, frozen_telemetry_s=0.0, silent=False
    )
    columns = cheap_columns(WORLD, run, [moment])
    for name, column in columns.items():
        assert column.shape == (1, *fields(WORLD)[name][1]), name
    assert columns["valid"].mean() > 0.9


def test_without_senses_the_truth_is_the_same(run: SimulatedRun) -> None:
    bare = WORLD.run(11, 120.0, "dense", with_senses=False)
    assert len(bare.pcm) == 0 and len(bare.row_values) == 0
    assert all(np.array_equal(bare.labels[head], run.labels[head]) for head in PATIENT.heads)
    frames = np.arange(0, run.frames, 50)
    for stream, (clean, _) in run.percepts(frames).items():
        assert np.array_equal(clean, bare.percepts(frames)[stream][0])
