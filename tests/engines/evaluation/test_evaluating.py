"""The evaluation of a scenario as a whole, in little: every part runs, and the report says what was not measured."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (extra `train`)")
pytest.importorskip("panda3d.core", reason="panda3d is not installed (extra `sim`)")

from engines.manifest import EngineError  # noqa: E402
from engines.registry import WEIGHTS  # noqa: E402
from engines.training import driving, patient  # noqa: E402
from engines.training.background import pcm_from_folder  # noqa: E402
from engines.training.caching import CacheJob  # noqa: E402
from engines.training.driving_world import DrivingWorld  # noqa: E402
from engines.training.evaluating import sets as evaluation_sets  # noqa: E402
from engines.training.evaluating.bounds import drawn_particles, particles_of  # noqa: E402
from engines.training.evaluating.predicting import masks  # noqa: E402
from engines.training.evaluating.rivals import rivals_of  # noqa: E402
from engines.training.evaluating.watching import watched_heads  # noqa: E402
from engines.training.shipped import load_shipped, save_parameters  # noqa: E402
from engines.training.token_set import Event  # noqa: E402

WORLD = driving.make_world()


def test_the_shipped_fusion_s_parameters_are_those_of_its_engine(tmp_path: Path) -> None:
    network, _ = load_shipped(WEIGHTS / "driving", WORLD.design.layout)
    for path in WEIGHTS.joinpath("driving").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    with torch.no_grad():
        next(iter(network.parameters())).add_(0.1)
    save_parameters(network, tmp_path)
    with pytest.raises(EngineError, match="is not the fusion of"):
        load_shipped(tmp_path, WORLD.design.layout)


@pytest.mark.parametrize("scenario", [driving, patient], ids=["driving", "patient"])
def test_no_set_that_is_tested_on_shares_a_seed_with_training(scenario: ModuleType) -> None:
    plan = evaluation_sets.evaluation_plan(scenario.PLAN, scenario.make_world(), quick=False, background=None)
    learnt = {s for name in ("train", "validation", "watched") for job in plan.jobs[name] for s in job.seeds} | set(
        range(scenario.PLAN.runs)
    )
    tested = {
        s for name, jobs in plan.jobs.items() if name not in ("train", "validation", "watched") for job in jobs for s in job.seeds
    }
    assert not learnt & tested
    hours = sum(len(j.seeds) * j.duration_s for j in plan.jobs["everyday"]) / 3600
    assert hours >= 20


def test_the_dense_test_runs_hold_enough_alarms_to_compare_sensors_on() -> None:
    world = patient.make_world()
    jobs = evaluation_sets.evaluation_plan(patient.PLAN, world, quick=False, background=None).jobs["dense"]
    runs = [world.run(seed, job.duration_s, job.condition, with_senses=False) for job in jobs for seed in job.seeds]
    assert len({run.seed for run in runs}) == len(runs) == world.dense_runs
    alarms = [event for run in runs for event in run.events if event.head == "alarm"]
    assert len(alarms) >= 500  # true ones; about as many again and half are false


@pytest.mark.parametrize(("scenario", "head"), [(driving, "collision"), (patient, "apnea")], ids=["collision", "apnea"])
def test_lead_times_are_measured_on_runs_that_hold_many_events_whole(scenario: ModuleType, head: str) -> None:
    world = scenario.make_world()
    (job,) = evaluation_sets.evaluation_plan(scenario.PLAN, world, quick=False, background=None).jobs["rate"]
    whole = 0
    for seed in job.seeds:
        run = world.run(seed, job.duration_s, job.condition, with_senses=False)
        whole += sum(e.head == head and e.critical_s <= job.duration_s for e in run.events)
    assert whole >= 25


def test_every_subset_and_task_has_a_rival() -> None:
    plan = evaluation_sets.evaluation_plan(driving.PLAN, WORLD, quick=True, background=None)
    names = {rival.name for rival in rivals_of(plan, WORLD.design.layout)}
    assert {f"only {mask}" for mask in masks(WORLD.design.layout)} <= names
    assert {f"task {head}" for head in WORLD.design.heads} <= names
    assert len(names) == len(rivals_of(plan, WORLD.design.layout))


def test_particles_are_drawn_where_the_question_is_asked_and_without_sound() -> None:
    plan = replace(
        evaluation_sets.evaluation_plan(driving.PLAN, WORLD, quick=True, background=None), particle_runs=5, particles_per_run=10
    )
    found = particles_of(driving.make_world, "collision", plan, 2, lambda _: None)
    assert len(found.labels["collision"]) == 50 and found.seeds == frozenset(range(7000, 7005))
    dims = WORLD.percept_dims["collision"]
    assert {s: clean.shape for s, clean in found.clean.items()} == {s: (50, len(d)) for s, d in dims.items()}


def test_particles_leave_out_a_stream_that_perceives_nothing_of_the_question() -> None:
    class Illiterate(DrivingWorld):
        percept_dims = {"collision": {**WORLD.percept_dims["collision"], "text": ()}}  # noqa: RUF012

    for percepts, labels in drawn_particles(Illiterate, "collision", 10, [7000, 7001]):
        assert set(percepts) == {"camera", "microphone", "telemetry"} and len(labels) == 10


def test_a_head_without_an_event_in_either_set_is_not_watched() -> None:
    def event(head: str) -> Event:
        return Event(head=head, run=0, onset_s=1.0, end_s=3.0, critical_s=2.0)

    everyday = [event("collision"), event("emergency")]
    assert watched_heads(("emergency", "collision"), [event("collision")], everyday) == ["collision"]
    assert watched_heads(("emergency", "collision"), everyday, []) == []


def test_a_folder_of_sounds_becomes_one_of_them_after_the_other(tmp_path: Path) -> None:
    import wave

    for name, value in (("a/1.wav", 100), ("b/1.wav", 200)):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        with wave.open(str(path), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(16_000)
            file.writeframes(np.full(8000, value, np.int16).tobytes())
    pcm = pcm_from_folder(tmp_path, 0.75)
    assert len(pcm) == 12_000 and pcm[0] == 100 and pcm[-1] == 200
    with pytest.raises(ValueError, match="no sound file"):
        pcm_from_folder(tmp_path / "a" / "none", 1.0)


@pytest.mark.timeout(600)
def test_a_little_evaluation_writes_a_report_with_every_section(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from engines.training.evaluating import scenario

    whole = evaluation_sets.evaluation_plan

    def little(job: CacheJob) -> CacheJob:
        # everyday runs this short hold no event, and without one there are no alarms to report
        condition = "dense" if job.condition == "everyday" else job.condition
        return replace(job, seeds=job.seeds[:2], duration_s=45.0, condition=condition)

    def tiny(*arguments: object, **options: object) -> evaluation_sets.EvaluationPlan:
        plan = whole(*arguments, **{**options, "quick": True})  # type: ignore[arg-type]
        jobs = {n: tuple(little(j) for j in several) for n, several in plan.jobs.items()}
        return replace(plan, jobs=jobs, rival_steps=3, variant_steps=3, variant_seeds=(1,), particle_runs=20, queries=40)

    monkeypatch.setattr(scenario, "evaluation_plan", tiny)
    monkeypatch.setattr(scenario, "control_figures", lambda **_: [])
    report = scenario.evaluate("driving", tmp_path / "report", quick=True, show_progress=False)
    findings = json.loads(report.numbers.read_text())["findings"]
    for section in ("subsets", "ceilings", "leaks", "comparisons", "variants", "alarms", "conditions", "attributions", "tasks"):
        assert findings[section], section
    assert {v.target.key: v.outcome for v in report.verdicts}["xor.late"] == "not measured"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report"]
