"""The simulated patient world: latents, labels, percepts and feeds. Not a medical device; simulation."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.scenarios.patient import (
    HEADS,
    Course,
    arrivals,
    decisive,
    events,
    labels,
    percepts,
    sample_course,
    scored,
    text_lines,
)
from pipeline.scenarios.patient.course import (
    ALARM_MIX,
    ALARMS,
    BOOL_ARRAYS,
    CHARTS,
    DEFAULT_LIMITS_BPM,
    FLOAT_ARRAYS,
    GRID_HZ,
    INT_ARRAYS,
    STREAMS,
    WIDE_LIMITS_BPM,
    on_grid,
)
from pipeline.scenarios.patient.percepts import DIMENSIONS


@pytest.fixture(scope="module")
def courses() -> list[Course]:
    return [sample_course(seed, 3600.0) for seed in range(40)]


def _at_alarms(courses: list[Course], after_s: float = 5.0) -> list[tuple[Course, int, bool]]:
    """Course, step and truth of every alarm, ``after_s`` into it."""
    found = []
    for course in courses:
        for e in course.encounters:
            step = round((e.start_s + after_s) * GRID_HZ)
            if e.kind == "alarm" and step < len(course.times_s):
                found.append((course, step, e.truth))
    return found


def test_same_seed_gives_the_same_latents_and_another_seed_or_script_others() -> None:
    first, again, other = sample_course(5, 300.0), sample_course(5, 300.0), sample_course(6, 300.0)
    for name in (*INT_ARRAYS, *BOOL_ARRAYS, *FLOAT_ARRAYS, "breath_phase", "action", "decisive"):
        assert np.array_equal(getattr(first, name), getattr(again, name)), name
    assert first.encounters == again.encounters and first.lines == again.lines and first.room == again.room
    assert first.encounters != other.encounters
    assert first.encounters != sample_course(5, 300.0, "everyday").encounters


def test_grid_is_10_hz_and_latents_are_read_only() -> None:
    course = sample_course(1, 30.0)
    assert np.array_equal(course.times_s, np.arange(300) / 10)
    assert all(getattr(course, name).shape == (300,) for name in (*INT_ARRAYS, *BOOL_ARRAYS, *FLOAT_ARRAYS, "decisive"))
    with pytest.raises(ValueError, match="read-only"):
        course.action[0] = 1


@pytest.mark.parametrize("duration_s", [0.0, -1.0, 1e6, float("nan")])
def test_impossible_duration_is_refused_by_name(duration_s: float) -> None:
    with pytest.raises(ValueError, match="duration_s"):
        sample_course(0, duration_s)


def test_unknown_script_is_refused_and_the_known_ones_named() -> None:
    with pytest.raises(ValueError, match="dense, everyday"):
        sample_course(0, 10.0, "busy")


def test_alarms_come_and_are_true_as_often_as_in_the_challenge_s_training_set(courses: list[Course]) -> None:
    alarms = [e for course in courses for e in course.encounters if e.kind == "alarm"]
    total = sum(every for _, every in ALARM_MIX.values())
    assert len(alarms) > 2500
    for what, (true, every) in ALARM_MIX.items():
        own = [e.truth for e in alarms if e.what == what]
        assert len(own) / len(alarms) == pytest.approx(every / total, abs=0.03)
        assert np.mean(own) == pytest.approx(true / every, abs=0.09), what


def test_what_hides_an_alarm_from_a_sensor_is_independent_of_its_truth(courses: list[Course]) -> None:
    found = _at_alarms(courses)
    true = np.array([truth for _, _, truth in found])
    for name in ("hidden", "masked", "covered"):
        hides = np.array([getattr(course, name)[step] > 0 for course, step, _ in found])
        expected = {"hidden": 0.35, "masked": 0.40, "covered": 0.25}[name]
        assert hides.mean() == pytest.approx(expected, abs=0.03)
        assert abs(hides[true].mean() - hides[~true].mean()) < 0.06, name
    noisy = np.array([course.pleth[step] == 2 for course, step, _ in found])
    off = np.array([course.pleth[step] == 3 for course, step, _ in found])
    assert abs(noisy[true].mean() - noisy[~true].mean()) < 0.06 and abs(off[true].mean() - off[~true].mean()) < 0.06


def test_pulse_wave_before_an_alarm_says_nothing_of_its_truth(courses: list[Course]) -> None:
    before = _at_alarms(courses, after_s=-0.2)
    flat = np.array([course.pleth[step] == 1 for course, step, _ in before])
    true = np.array([truth for _, _, truth in before])
    assert abs(flat[true].mean() - flat[~true].mean()) < 0.03


def test_movement_also_comes_with_true_alarms_but_less_often(courses: list[Course]) -> None:
    found = _at_alarms(courses)
    moving = np.array([course.moving[step] for course, step, _ in found])
    true = np.array([truth for _, _, truth in found])
    assert 0.01 < moving[true].mean() < 0.15 and 0.3 < moving[~true].mean() < 0.6


def test_rate_alarm_is_true_just_where_the_real_rate_is_beyond_the_patient_s_own_limits(courses: list[Course]) -> None:
    limits = [e for course in courses for e in course.encounters if e.cause == "limits"]
    assert limits and not any(e.truth for e in limits)
    (low, high), (default_low, default_high) = WIDE_LIMITS_BPM, DEFAULT_LIMITS_BPM
    for course in courses:
        for e in course.encounters:
            step = round((e.start_s + 4) * GRID_HZ)
            if e.kind != "alarm" or step >= len(course.times_s) or e.what not in ("bradycardia", "tachycardia"):
                continue
            bpm = course.heart_bpm[step]
            assert bpm < default_low or bpm > default_high  # the monitor's own limits: else it would not sound
            if e.cause == "limits":
                assert low < bpm < high and course.pulse_bpm[step] == bpm
            if e.cause == "artefact":
                assert course.pulse_bpm[step] != bpm


def test_chart_line_of_a_rate_alarm_is_wrong_15_percent_of_the_time(courses: list[Course]) -> None:
    wrong = []
    for course in courses:
        for e in course.encounters:
            step = round((e.start_s + 4) * GRID_HZ)
            if e.cause == "limits" and step < len(course.times_s):
                wrong.append(CHARTS[course.chart[step]] != "HR limits {wide}")
    assert len(wrong) > 100 and 0.05 <= np.mean(wrong) <= 0.25


def test_apnea_is_called_6_s_after_the_last_breath_and_spo2_crosses_90_at_least_10_s_later(courses: list[Course]) -> None:
    checked = 0
    for course in courses:
        for e in course.encounters:
            if e.kind != "apnea" or not e.truth or e.stop_s > course.duration_s:
                continue
            onset, critical = round(e.onset_s * GRID_HZ), round(e.critical_s * GRID_HZ)
            assert course.apnea[onset + 1] == 1 and course.apnea[onset - 2] == 0
            assert (course.airflow[onset - 50 : onset] < 0.01).all()
            assert course.spo2[critical + 5] < 90.0 < course.spo2[critical - 5]
            assert course.spo2[onset : onset + 100].min() > 93.0  # the number lags
            assert e.critical_s - e.onset_s >= 10.0 and e.end_s > e.critical_s
            if e.what == "obstructive":
                assert course.effort[onset] > 0.4
            checked += 1
    assert checked > 100


def test_every_decoy_occurs_and_none_is_labelled(courses: list[Course]) -> None:
    seen = {e.what for course in courses for e in course.encounters if not e.truth}
    decoys = {
        "quiet breathing",
        "slipped probe",
        "calm",
        "dropped object",
        "sits up",
        "physio on the mat",
        "television",
        "exercise",
    }
    assert decoys <= seen
    for course in courses[:10]:
        for e in course.encounters:
            span = slice(round(e.start_s * GRID_HZ), round(e.stop_s * GRID_HZ))
            if not e.truth:
                assert not (course.alarm[span] | course.apnea[span] | course.distress[span]).any()


def test_action_is_respond_for_alarm_and_distress_and_check_for_apnea(courses: list[Course]) -> None:
    for course in courses[:10]:
        respond = (course.alarm == 1) | (course.distress == 1)
        assert np.array_equal(course.action == HEADS["action"].index("respond"), respond)
        assert np.array_equal(course.action == HEADS["action"].index("check"), (course.apnea == 1) & ~respond)


def test_everyday_script_has_20_to_25_encounters_an_hour() -> None:
    runs = [sample_course(seed, 36_000.0, "everyday") for seed in range(4)]
    per_hour = [sum(e.kind != "routine" for e in run.encounters) / 10 for run in runs]
    assert 20.0 <= np.mean(per_hour) <= 26.0


def test_alarm_is_scored_from_its_third_second_and_the_others_everywhere() -> None:
    course = sample_course(3, 600.0)
    e = next(e for e in course.encounters if e.kind == "alarm")
    times = np.array([e.start_s - 0.5, e.start_s + 1.0, e.start_s + 2.5, e.start_s + 3.5, e.end_s - 0.2, e.end_s + 0.3])
    asked = scored(course, times)
    assert asked["alarm"].tolist() == [False, False, False, True, True, False]
    assert set(asked) == set(HEADS) and all(asked[head].all() for head in ("apnea", "distress", "action"))


def test_events_are_the_runs_of_the_labels() -> None:
    course = sample_course(4, 1800.0)
    for head in ("alarm", "apnea", "distress"):
        label = getattr(course, head)
        onsets = np.flatnonzero(np.diff(label.astype(int), prepend=0) == 1) / GRID_HZ
        told = [event.onset_s for event in events(course) if event.head == head]
        assert np.allclose(onsets, told, atol=0.11)
    assert all(event.onset_s <= event.end_s for event in events(course))


def test_labels_are_those_of_the_step_that_holds_the_time() -> None:
    course = sample_course(4, 300.0)
    times = np.random.default_rng(0).uniform(0, 300, 500)
    steps = on_grid(course, times)
    assert (steps == np.floor(times * 10 + 1e-6)).all()
    told = labels(course, times)
    assert all(np.array_equal(told[head], getattr(course, head)[steps]) for head in HEADS)


def test_percepts_are_constant_where_a_sensor_perceives_nothing(courses: list[Course]) -> None:
    for course in courses[:5]:
        times = course.times_s
        seen = percepts(course, times)
        for stream, (clean, spread) in seen.items():
            assert clean.dtype == spread.dtype == np.float32
            assert clean.shape == (len(times), len(DIMENSIONS[stream])) and clean.shape[1] <= 8
            assert (spread > 0).all() and np.isfinite(clean).all()
        assert len(np.unique(seen["camera"][0][course.hidden > 0], axis=0)) == 1
        quiet = (course.masked > 0) & (course.alarm_on == 0)
        drowned = seen["microphone"][0][quiet]
        drowned = drowned[:, [0, 1, 2, 3, 4, 5, 7]]  # but for a thump that was heard before the noise began
        assert len(np.unique(drowned, axis=0)) == 1


def test_decisive_stream_is_named_only_while_an_alarm_is_on_and_each_one_decides_sometimes(courses: list[Course]) -> None:
    named = np.zeros(len(STREAMS))
    for course in courses:
        index = decisive(course, course.times_s)
        assert index.dtype == np.int8 and (index[course.alarm_on == 0] == -1).all()
        named += np.bincount(index[index >= 0], minlength=len(STREAMS))
    assert (named > 0).all()


def test_text_is_sparse_sorted_short_and_names_the_alarm_while_it_is_on() -> None:
    course = sample_course(2, 1800.0)
    lines = text_lines(course)
    times = [time_s for time_s, _ in lines]
    assert times == sorted(times) and times[0] >= 0 and times[-1] < 1800.0
    assert 2.0 <= 1800.0 / len(lines) <= 10.0
    assert all(line.isprintable() and len(line) <= 128 and "{" not in line for _, line in lines)
    for e in course.encounters:
        if e.kind == "alarm" and e.stop_s < 1800.0:
            own = [line for time_s, line in lines if e.start_s + 0.7 <= time_s < e.end_s]
            assert own and all(f"ALARM {e.what};" in line for line in own)
    for time_s, line in lines:
        if "ALARM" in line:
            assert ALARMS[course.alarm_on[int(time_s * GRID_HZ)]] in line


def test_arrivals_are_small_and_samples_are_lost_only_in_the_gaps() -> None:
    course = sample_course(3, 600.0)
    late = arrivals(course)
    assert tuple(late.gaps_s) == STREAMS
    for stream, gaps in late.gaps_s.items():
        delays = late.delays_s(stream, course.times_s)
        assert np.array_equal(delays, late.delays_s(stream, course.times_s), equal_nan=True)
        heard = ~np.isnan(delays)
        inside = np.zeros(len(delays), bool)
        for a, b in gaps:
            inside |= (course.times_s >= a) & (course.times_s < b)
            assert 0.3 <= b - a <= 3.0
        assert np.array_equal(heard, ~inside)
        assert delays[heard].min() >= 0.001 and delays[heard].max() <= 0.012
