"""Alarms on hand-made timelines, where every figure can be counted."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from engines.training.evaluation import alarms
from engines.training.evaluation.bootstrap import resampling
from engines.training.token_set import Event

TICK_S = 0.2
TICKS = 1500  # 300 s


def timeline(
    *fires: tuple[int, float, float], runs: int = 2, score: float = 0.9, asked: tuple[float, float] | None = None
) -> alarms.Timeline:
    """A score of 0.1, and ``score`` in each span (run, from s, to s), both ends included."""
    run = np.repeat(np.arange(runs), TICKS)
    time_s = np.tile(np.arange(TICKS) * TICK_S, runs)
    values = np.full(runs * TICKS, 0.1)
    for of, start, stop in fires:
        values[(run == of) & (time_s >= start - 1e-9) & (time_s <= stop + 1e-9)] = score
    allowed = None if asked is None else (time_s >= asked[0]) & (time_s < asked[1])
    return alarms.Timeline(
        score=values, run=run, time_s=time_s, tick_s=TICK_S, seeds=tuple(range(100, 100 + runs)), asked=allowed
    )


def event(run: int, onset_s: float, length_s: float = 6.0, critical_s: float = 5.0) -> Event:
    return Event(head="h", run=run, onset_s=onset_s, end_s=onset_s + length_s, critical_s=onset_s + critical_s)


def point(line: alarms.Timeline, events: list[Event], threshold: float = 0.5) -> alarms.OperatingPoint:
    levels = alarms.alarm_levels(line, events)
    return alarms.operating_point(levels, threshold, resampling(np.array(line.seeds), replicates=200), "hand-made")


def test_sensitivity_false_alarms_and_lead_time_are_what_one_counts_by_hand() -> None:
    line = timeline(
        (0, 52.0, 53.0),  # finds the event at 50 s; two ticks of three are there at 52.2 s: lead 2.8 s
        (0, 120.0, 121.0),  # false
        (0, 126.0, 127.0),  # within 10 s of it: the same one
        (0, 200.0, 201.0),  # false
        (1, 30.4, 31.0),  # finds the event at 30 s, at 30.6 s: lead 4.4 s
    )
    found = point(line, [event(0, 50.0), event(1, 30.0), event(1, 100.0)])
    assert found.sensitivity.value == pytest.approx(2 / 3)
    assert found.false_alarms == 2
    assert found.hours == pytest.approx(600 / 3600)
    assert found.false_alarms_per_h.value == pytest.approx(12.0)
    assert found.leads_s == pytest.approx((2.8, 4.4, np.nan), nan_ok=True)
    assert found.lead_median_s.value == pytest.approx(2.8)  # 0, 2.8, 4.4: the missed one counts
    assert found.lead_p10_s.value == 0
    assert found.found_lead_median_s.value == pytest.approx(2.8)
    assert found.in_time.value == pytest.approx(2 / 3)


def test_one_tick_above_is_no_alarm_and_two_of_three_are() -> None:
    single = alarms.alarm_levels(timeline((0, 100.0, 100.0)), [])
    assert single.false_alarms(0.5).sum() == 0
    apart = alarms.alarm_levels(timeline((0, 100.0, 100.0), (0, 100.4, 100.4)), [])
    assert apart.false_alarms(0.5).tolist() == [1, 0]
    too_far = alarms.alarm_levels(timeline((0, 100.0, 100.0), (0, 100.6, 100.6)), [])
    assert too_far.false_alarms(0.5).sum() == 0


def test_ticks_of_two_runs_never_make_one_alarm() -> None:
    levels = alarms.alarm_levels(timeline((0, 299.8, 299.8), (1, 0.0, 0.0)), [])
    assert levels.false_alarms(0.5).sum() == 0


def test_an_alarm_that_never_falls_silent_counts_every_minute_and_not_once() -> None:
    levels = alarms.alarm_levels(timeline(), [])
    assert levels.false_alarms(0.05).tolist() == [5, 5]


def test_a_raised_alarm_beside_a_found_event_is_part_of_it_and_beside_a_missed_one_is_false() -> None:
    events = [event(0, 50.0)]
    assert point(timeline((0, 45.0, 52.0)), events).false_alarms == 0
    early = point(timeline((0, 42.0, 43.0)), events)
    assert (early.false_alarms, early.sensitivity.value) == (1, 0)
    assert point(timeline((0, 55.0, 64.0)), events).false_alarms == 0
    assert point(timeline((0, 55.0, 75.0)), events).false_alarms == 1


def test_lead_time_never_counts_from_before_the_onset_and_late_is_not_in_time() -> None:
    assert point(timeline((0, 45.0, 52.0)), [event(0, 50.0)]).leads_s == pytest.approx((5.0,))
    late = point(timeline((0, 55.4, 55.8)), [event(0, 50.0)])
    assert late.leads_s == pytest.approx((-0.6,))
    assert (late.sensitivity.value, late.in_time.value, late.lead_median_s.value) == (1, 0, 0)


def test_nothing_is_raised_where_the_question_is_not_asked() -> None:
    line = timeline((0, 20.0, 30.0), (0, 120.0, 121.0), asked=(100.0, 200.0))
    assert alarms.alarm_levels(line, []).false_alarms(0.5).tolist() == [1, 0]


def test_the_threshold_at_a_sensitivity_finds_just_that_share() -> None:
    line = timeline(runs=1)
    score = np.array(line.score)
    events = [event(0, 20.0 + 25 * i) for i in range(10)]
    for place, one in enumerate(events):
        score[np.abs(line.time_s - one.onset_s - 2) < 0.5] = 0.5 + place / 100
    levels = alarms.alarm_levels(
        alarms.Timeline(score=score, run=line.run, time_s=line.time_s, tick_s=TICK_S, seeds=(1,)), events
    )
    assert levels.threshold_at_sensitivity(0.9) == pytest.approx(0.51)
    assert (levels.event_level >= levels.threshold_at_sensitivity(0.9)).mean() == 0.9
    assert levels.threshold_at_sensitivity(0.95) == pytest.approx(0.5)


def test_the_threshold_at_a_cap_of_false_alarms_keeps_to_it_and_the_next_level_does_not() -> None:
    line = timeline(runs=1)
    score = np.array(line.score)
    for place in range(6):
        score[np.abs(line.time_s - 20 - 40 * place) < 0.5] = 0.5 + place / 100
    levels = alarms.alarm_levels(alarms.Timeline(score=score, run=line.run, time_s=line.time_s, tick_s=TICK_S, seeds=(1,)), [])
    per_h = 3 / levels.hours
    chosen = levels.threshold_at_false_alarms(per_h)
    assert levels.false_alarms(chosen).sum() == 3
    assert levels.false_alarms(0.52).sum() == 4
    assert 0.52 < chosen <= 0.53
    assert levels.threshold_at_false_alarms(1e9) == pytest.approx(0.1)


def test_no_false_alarm_in_little_time_is_no_proof_that_there_are_none() -> None:
    found = point(timeline(), [])
    assert found.false_alarms_per_h.value == 0
    assert found.false_alarms_per_h.high == pytest.approx(3.689 / found.hours, rel=1e-3)
    assert alarms.poisson_interval(10) == pytest.approx((4.795, 18.390), abs=1e-3)


def test_a_ratio_of_false_alarms_is_paired_by_run() -> None:
    few = alarms.alarm_levels(timeline((0, 20.0, 21.0), (1, 20.0, 21.0)), [])
    many = alarms.alarm_levels(timeline(*((run, 20.0 + 20 * i, 21.0 + 20 * i) for run in (0, 1) for i in range(5))), [])
    ratio = alarms.false_alarm_ratio(few, 0.5, many, 0.5, resampling(np.array([100, 101]), replicates=100))
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((0.2, 0.2, 0.2))


def test_ticks_out_of_order_and_events_of_no_run_are_refused() -> None:
    line = timeline()
    with pytest.raises(ValueError, match="out of order"):
        alarms.alarm_levels(
            alarms.Timeline(score=line.score, run=line.run[::-1], time_s=line.time_s, tick_s=TICK_S, seeds=line.seeds), []
        )
    with pytest.raises(ValueError, match="of run 5"):
        alarms.alarm_levels(line, [event(5, 10.0)])


def test_the_curve_rises_in_sensitivity_as_its_threshold_falls() -> None:
    rng = np.random.default_rng(0)
    line = timeline(runs=2)
    events = [event(r, 30.0 + 60 * i) for r in (0, 1) for i in range(4)]
    score = rng.random(2 * TICKS) * 0.8
    for one in events:
        score[(line.run == one.run) & (np.abs(line.time_s - one.onset_s - 3) < 2)] += rng.random()
    levels = alarms.alarm_levels(
        alarms.Timeline(score=score, run=line.run, time_s=line.time_s, tick_s=TICK_S, seeds=line.seeds), events
    )
    curve = levels.curve(30)
    assert 5 < len(curve) <= 30
    assert all(a.threshold < b.threshold and a.sensitivity >= b.sensitivity for a, b in pairwise(curve))
