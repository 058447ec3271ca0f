"""Continuous time: false alarms an hour, lead times, and one event to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from engines.training.evaluating.bench import Asked, Bench, single_masks
from engines.training.evaluating.predicting import full_mask
from engines.training.evaluating.sets import EVERYDAY, RATE, WATCHED
from engines.training.evaluation.alarms import (
    ORACLE,
    AlarmLevels,
    AlarmRule,
    alarm_levels,
    false_alarm_ratio,
    operating_point,
    timeline_from_tokens,
)
from engines.training.evaluation.alarms import VALIDATION as FROM_VALIDATION
from engines.training.evaluation.bootstrap import Estimate, Resampling, replicated_quantile, resampling
from engines.training.evaluation.findings import ALL_STREAMS, AlarmFigures, EventExample
from engines.training.token_set import Event

SENSITIVITY = 0.95
CAP_PER_H = 1.0
RULE = AlarmRule()
AROUND_S = (12.0, 8.0)
"""How much before and after an event an example shows."""


def watched_heads(heads: Sequence[str], watched: Sequence[Event], everyday: Sequence[Event]) -> list[str]:
    """The heads with events in both sets: without one in the first there is no threshold to choose, as in a little evaluation."""
    return [head for head in heads if all(any(event.head == head for event in events) for events in (watched, everyday))]


def alarms(bench: Bench, head: str, *, only_when_asked: bool) -> tuple[AlarmFigures, ...]:
    """Alarms of all streams, and of each stream alone, by the better-informed of masked and specialised models."""
    everything = full_mask(bench.layout)
    whole = _levels(bench, head, everything, "", only_when_asked)
    drawn = resampling(np.asarray(bench.sets[EVERYDAY].seeds), replicates=bench.plan.replicates)
    singles: dict[str, tuple[AlarmLevels, AlarmLevels]] = {}
    for stream, mask in single_masks(bench.layout).items():
        singles[stream] = _levels(bench, head, mask, f"only {mask}", only_when_asked)
    rival = min(singles, key=lambda s: singles[s][1].false_alarms(_threshold(singles[s][0])).sum())
    ratio = false_alarm_ratio(whole[1], _threshold(whole[0]), singles[rival][1], _threshold(singles[rival][0]), drawn)
    found = [_figures(head, ALL_STREAMS, *whole, drawn, ratio, rival)]
    return (*found, *(_figures(head, stream, *levels, drawn, None, "") for stream, levels in singles.items()))


def _threshold(watched: AlarmLevels) -> float:
    return watched.threshold_at_sensitivity(SENSITIVITY)


def _levels(bench: Bench, head: str, mask: str, rival: str, only_when_asked: bool) -> tuple[AlarmLevels, AlarmLevels]:
    """Levels on the set that thresholds are chosen on, and on the test."""
    found = []
    for name in (WATCHED, EVERYDAY):
        tokens = bench.sets[name]
        score = bench.predicted(Asked(tokens=name, mask=mask, rival=rival))[head].score
        asked = np.asarray(tokens.scored[head]) if only_when_asked else None
        events = [e for e in tokens.events if e.head == head]
        found.append(alarm_levels(timeline_from_tokens(tokens, score, asked), events, RULE))
    return found[0], found[1]


def _figures(
    head: str, who: str, watched: AlarmLevels, test: AlarmLevels, drawn: Resampling, ratio: Estimate | None, ratio_to: str
) -> AlarmFigures:
    capped, oracle = watched.threshold_at_false_alarms(CAP_PER_H), test.threshold_at_false_alarms(CAP_PER_H)
    return AlarmFigures(
        head=head,
        who=who,
        rule=f"{RULE.required} of {RULE.of} ticks at 5 Hz, alarms within {RULE.merge_s:g} s are one",
        point=operating_point(test, _threshold(watched), drawn, FROM_VALIDATION),
        oracle=operating_point(test, test.threshold_at_sensitivity(SENSITIVITY), drawn, ORACLE),
        capped=operating_point(test, capped, drawn, FROM_VALIDATION),
        capped_oracle=operating_point(test, oracle, drawn, ORACLE),
        cap_per_h=CAP_PER_H,
        curve=test.curve(),
        ratio=ratio,
        ratio_to=ratio_to,
    )


def lead_at_full_rate(bench: Bench, head: str, threshold: float, *, only_when_asked: bool = False) -> Estimate:
    """Median lead time in s at a threshold, on runs at the reference rate; missed events count 0."""
    tokens = bench.sets[RATE]
    score = bench.predicted(Asked(tokens=RATE, mask=full_mask(bench.layout)))[head].score
    asked = np.asarray(tokens.scored[head]) if only_when_asked else None
    events = [e for e in tokens.events if e.head == head and e.critical_s <= float(np.asarray(tokens.time_s).max())]
    levels = alarm_levels(timeline_from_tokens(tokens, score, asked), events, RULE)
    leads = np.maximum(np.nan_to_num(levels.leads_s(threshold), nan=0.0), 0.0)
    seeds = np.asarray(tokens.seeds, np.int64)
    cluster = seeds[[e.run for e in events]]
    drawn = resampling(seeds, replicates=bench.plan.replicates)
    return replicated_quantile(leads, cluster, drawn, 0.5).estimate()


def example(bench: Bench, head: str, threshold: float) -> EventExample | None:
    """The first whole event of the full-rate runs, with all streams and with each alone."""
    tokens = bench.sets[RATE]
    last_s = float(np.asarray(tokens.time_s).max())
    events = [e for e in tokens.events if e.head == head and AROUND_S[0] < e.onset_s and e.end_s + AROUND_S[1] < last_s]
    if not events:
        return None
    event = events[0]
    run, time_s = np.asarray(tokens.run), np.asarray(tokens.time_s)
    rows = np.flatnonzero((run == event.run) & (time_s >= event.onset_s - AROUND_S[0]) & (time_s <= event.end_s + AROUND_S[1]))
    lines: dict[str, tuple[float, ...]] = {ALL_STREAMS: _line(bench, full_mask(bench.layout), head, rows)}
    for stream, mask in single_masks(bench.layout).items():
        lines[f"{stream} alone"] = _line(bench, mask, head, rows)
    states: Mapping[str, tuple[int, ...]] = {
        s: tuple(int(v) for v in np.asarray(tokens.state)[rows, i]) for i, s in enumerate(bench.layout.streams)
    }
    return EventExample(
        head=head,
        title=f"the first {head} of the full-rate runs (seed {tokens.seeds[event.run]})",
        time_s=tuple(float(t) for t in time_s[rows]),
        lines=lines,
        truth=tuple(int(v) for v in np.asarray(tokens.labels[head])[rows] > 0),
        states=states,
        threshold=threshold,
        onset_s=event.onset_s,
        critical_s=event.critical_s,
    )


def _line(bench: Bench, mask: str, head: str, rows: np.ndarray) -> tuple[float, ...]:  # type: ignore[type-arg]
    return tuple(float(v) for v in bench.predicted(Asked(tokens=RATE, mask=mask))[head].score[rows])
