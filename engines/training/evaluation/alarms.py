"""Alarms over continuous time: which events they find, how early, and how often they cry for nothing.

The rule is applied once: the *level* of a tick is the highest threshold at which the rule still raises an alarm there. Every
threshold's figures then come from comparisons, so whole operating curves are cheap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaincinv

from engines.training.evaluation.bootstrap import LEVEL, Estimate, Resampling, replicated_quantile, replicated_ratio
from engines.training.evaluation.metrics import Flags, Floats
from engines.training.token_set import Event, TokenSet

S_PER_H = 3600.0
VALIDATION = "threshold from the validation split"
ORACLE = "threshold from the test split itself (reference only)"


@dataclass(frozen=True, slots=True, kw_only=True)
class AlarmRule:
    """When ticks become an alarm, and when alarms are one.

    An alarm is raised where ``required`` of the last ``of`` ticks of a run reach the threshold. Alarms within ``merge_s`` are
    one, also with a true event that was found. A false alarm that stays on counts again every ``repeat_s``: else a threshold
    of zero, which never falls silent, would count as a single false alarm.
    """

    required: int = 2
    of: int = 3
    merge_s: float = 10.0
    repeat_s: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """A score over continuous time. Ticks of a run are consecutive, ``tick_s`` apart.

    ``score``, ``run``, ``time_s`` ``[n]``; ``seeds``: world seed of each run, by its index. Where ``asked`` ``[n]`` is false the
    question does not arise (no monitor alarm is on): nothing can be raised there, though its time counts as watched.
    """

    score: Floats
    run: NDArray[np.integer[Any]]
    time_s: Floats
    tick_s: float
    seeds: tuple[int, ...]
    asked: Flags | None = None


def timeline_from_tokens(tokens: TokenSet, score: Floats, asked: Flags | None = None) -> Timeline:
    """A score ``[n]`` with the runs and times of the set whose ticks it is about."""
    return Timeline(score=score, run=tokens.run, time_s=tokens.time_s, tick_s=tokens.tick_s, seeds=tokens.seeds, asked=asked)


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePoint:
    """What one threshold gives. ``lead_s``: median over all events, one that was missed or found too late counts 0."""

    threshold: float
    sensitivity: float
    false_alarms_per_h: float
    lead_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatingPoint:
    """Figures at one threshold, with intervals by scenario. ``basis`` says where the threshold comes from.

    Lead times are from the alarm to the event's critical time, no alarm counting as earlier than the event's onset.
    ``lead_median_s`` and ``lead_p10_s`` are over all events, missed and late ones as 0; ``found_lead_median_s`` over those
    found in time, whose share is ``in_time``. ``leads_s`` holds every event's (NaN: missed).
    """

    basis: str
    threshold: float
    events: int
    hours: float
    false_alarms: int
    sensitivity: Estimate
    false_alarms_per_h: Estimate
    in_time: Estimate
    lead_median_s: Estimate
    lead_p10_s: Estimate
    found_lead_median_s: Estimate
    leads_s: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AlarmLevels:
    """A timeline under a rule. ``level``, ``excuse`` ``[n]``, ``event_level`` ``[events]``.

    A tick raises an alarm at threshold t where ``level >= t``; that alarm is false where ``excuse < t``: no event that is
    found at t lies there or within the rule's merging time.
    """

    timeline: Timeline
    rule: AlarmRule
    events: tuple[Event, ...]
    level: NDArray[np.float64]
    excuse: NDArray[np.float64]
    event_level: NDArray[np.float64]
    spans: tuple[tuple[int, int], ...]
    """First tick of each event, and the one after its last."""

    @property
    def hours(self) -> float:
        """Time watched."""
        return len(self.level) * self.timeline.tick_s / S_PER_H

    def threshold_at_sensitivity(self, sensitivity: float = 0.95) -> float:
        """The highest threshold that finds at least this share of the events. Raises ValueError without an event."""
        if not len(self.event_level):
            raise ValueError("no event in this split: there is no sensitivity to choose a threshold by")
        return float(np.sort(self.event_level)[::-1][max(int(np.ceil(sensitivity * len(self.event_level) - 1e-9)), 1) - 1])

    def threshold_at_false_alarms(self, per_h: float) -> float:
        """The lowest threshold that, with all above it, keeps to so many false alarms an hour; infinite if none does."""
        chosen = float("inf")
        for threshold in self.thresholds(400)[::-1]:
            if self.false_alarms(threshold).sum() / self.hours > per_h:
                break
            chosen = float(threshold)
        return chosen

    def thresholds(self, count: int) -> NDArray[np.float64]:
        """Rising thresholds at which something changes, evenly thinned: levels of events, and the highest false ones."""
        false = np.sort(self.level[self.level > self.excuse])[::-1]
        found = self.event_level[np.isfinite(self.event_level)]
        if len(found) > count:
            found = np.quantile(found, np.linspace(0, 1, count), method="nearest")
        if len(false):
            ranked = false[np.unique(np.geomspace(1, len(false), count).astype(int)) - 1]
            found = np.concatenate([found, np.nextafter(ranked, np.inf), ranked])
        finite: NDArray[np.float64] = np.unique(found[np.isfinite(found)])
        return finite[np.unique(np.linspace(0, len(finite) - 1, count).astype(int))] if len(finite) > count else finite

    def false_alarms(self, threshold: float) -> NDArray[np.int64]:
        """False alarms of each run at a threshold, ``[runs]``."""
        time_s, run = self.timeline.time_s, self.timeline.run
        ticks = np.flatnonzero((self.level >= threshold) & (self.excuse < threshold) & np.isfinite(self.level))
        counts = np.zeros(len(self.timeline.seeds), np.int64)
        if not len(ticks):
            return counts
        at, of_run = np.asarray(time_s, np.float64)[ticks], np.asarray(run)[ticks]
        begins = np.flatnonzero(np.concatenate([[True], (np.diff(at) > self.rule.merge_s) | (np.diff(of_run) != 0)]))
        ends = np.concatenate([begins[1:], [len(at)]]) - 1
        np.add.at(counts, of_run[begins], 1 + ((at[ends] - at[begins]) // self.rule.repeat_s).astype(np.int64))
        return counts

    def leads_s(self, threshold: float) -> NDArray[np.float64]:
        """Time from alarm to critical time of each event, below 0 if too late, NaN if it was missed, ``[events]``."""
        leads = np.full(len(self.events), np.nan)
        for place, (event, (first, stop)) in enumerate(zip(self.events, self.spans, strict=True)):
            if self.event_level[place] >= threshold and stop > first:
                tick = first + int((self.level[first:stop] >= threshold).argmax())
                leads[place] = event.critical_s - float(self.timeline.time_s[tick])
        return leads

    def curve(self, points: int = 80) -> tuple[CurvePoint, ...]:
        """The test curve itself, thresholds rising: for reading, not for choosing."""
        return tuple(
            CurvePoint(
                threshold=float(t),
                sensitivity=float((self.event_level >= t).mean()) if len(self.event_level) else float("nan"),
                false_alarms_per_h=float(self.false_alarms(t).sum() / self.hours),
                lead_s=_median(_counted(self.leads_s(t))),
            )
            for t in self.thresholds(points)
        )


def alarm_levels(timeline: Timeline, events: Sequence[Event], rule: AlarmRule | None = None) -> AlarmLevels:
    """Apply a rule to a timeline. Events are those of the head that the score is about.

    Raises ValueError for ticks out of order, or an event of a run that the timeline does not have.
    """
    rule = rule or AlarmRule()
    run, time_s = np.asarray(timeline.run), np.asarray(timeline.time_s, np.float64)
    if (np.diff(run) < 0).any() or (np.diff(time_s)[np.diff(run) == 0] <= 0).any():
        raise ValueError("ticks are out of order: runs must rise, and time within each")
    level = _levels(timeline, rule)
    excuse = np.full(len(level), -np.inf)
    event_level = np.full(len(events), -np.inf)
    spans = []
    for place, event in enumerate(events):
        if not 0 <= event.run < len(timeline.seeds):
            raise ValueError(f"event at {event.onset_s:g} s is of run {event.run}; there are {len(timeline.seeds)}")
        start, stop = np.searchsorted(run, [event.run, event.run + 1])
        within = time_s[start:stop]
        first, last = start + np.searchsorted(within, [event.onset_s - 1e-6, event.end_s + 1e-6])
        spans.append((int(first), int(last)))
        if last > first:
            event_level[place] = level[first:last].max()
            near = start + np.searchsorted(within, [event.onset_s - rule.merge_s - 1e-6, event.end_s + rule.merge_s + 1e-6])
            excuse[near[0] : near[1]] = np.maximum(excuse[near[0] : near[1]], event_level[place])
    return AlarmLevels(
        timeline=timeline,
        rule=rule,
        events=tuple(events),
        level=level,
        excuse=excuse,
        event_level=event_level,
        spans=tuple(spans),
    )


def operating_point(levels: AlarmLevels, threshold: float, drawn: Resampling, basis: str) -> OperatingPoint:
    """Figures of a test split at a threshold. ``drawn`` resamples the seeds of the timeline's runs.

    The interval of false alarms an hour is the wider of the resampled one and the exact one of a Poisson count (Garwood,
    1936): none in 20 h does not mean that there never is one.
    """
    seeds = np.asarray(levels.timeline.seeds, np.int64)
    runs = drawn.index_of(seeds)
    watched = np.bincount(np.asarray(levels.timeline.run), minlength=len(seeds)) * levels.timeline.tick_s / S_PER_H
    hours = np.bincount(runs, weights=watched, minlength=len(drawn.clusters))
    false = levels.false_alarms(threshold)
    false_by_cluster = np.bincount(runs, weights=false, minlength=len(drawn.clusters))
    per_h = replicated_ratio(false_by_cluster, hours, drawn).estimate()
    low, high = poisson_interval(int(false.sum()))
    cluster = seeds[[e.run for e in levels.events]] if levels.events else np.empty(0, np.int64)
    leads = levels.leads_s(threshold)
    counted = _counted(leads)
    found = leads > 0

    def share(flags: Flags) -> Estimate:
        column = drawn.index_of(cluster)
        sums = [np.bincount(column, weights=w, minlength=len(drawn.clusters)) for w in (flags, np.ones(len(flags)))]
        return replicated_ratio(sums[0], sums[1], drawn).estimate()

    return OperatingPoint(
        basis=basis,
        threshold=threshold,
        events=len(levels.events),
        hours=levels.hours,
        false_alarms=int(false.sum()),
        sensitivity=share(levels.event_level >= threshold),
        false_alarms_per_h=Estimate(
            value=per_h.value, low=min(per_h.low, low / levels.hours), high=max(per_h.high, high / levels.hours)
        ),
        in_time=share(found),
        lead_median_s=replicated_quantile(counted, cluster, drawn, 0.5).estimate(),
        lead_p10_s=replicated_quantile(counted, cluster, drawn, 0.1).estimate(),
        found_lead_median_s=replicated_quantile(leads[found], cluster[found], drawn, 0.5).estimate(),
        leads_s=tuple(float(v) for v in leads),
    )


def false_alarm_ratio(
    left: AlarmLevels, left_threshold: float, right: AlarmLevels, right_threshold: float, drawn: Resampling
) -> Estimate:
    """False alarms of the left over those of the right, on the same resamples of the same test runs."""
    sums = [
        np.bincount(
            drawn.index_of(np.asarray(levels.timeline.seeds, np.int64)),
            weights=levels.false_alarms(threshold),
            minlength=len(drawn.clusters),
        )
        for levels, threshold in ((left, left_threshold), (right, right_threshold))
    ]
    return replicated_ratio(sums[0], sums[1], drawn).estimate()


def poisson_interval(count: int, level: float = LEVEL) -> tuple[float, float]:
    """The exact interval of a Poisson mean of which ``count`` was seen (Garwood, 1936)."""
    tail = (1 - level) / 2
    low = float(gammaincinv(count, tail)) if count else 0.0
    return low, float(gammaincinv(count + 1, 1 - tail))


def _levels(timeline: Timeline, rule: AlarmRule) -> NDArray[np.float64]:
    """The ``required``-th largest of the last ``of`` scores of the same run; minus infinity where there are not so many."""
    score = np.asarray(timeline.score, np.float64)
    if timeline.asked is not None:
        score = np.where(timeline.asked, score, -np.inf)
    run = np.asarray(timeline.run)
    recent = np.full((rule.of, len(score)), -np.inf)
    recent[0] = score
    for back in range(1, rule.of):
        same = run[back:] == run[:-back]
        recent[back, back:] = np.where(same, score[:-back], -np.inf)
    level: NDArray[np.float64] = np.sort(recent, axis=0)[rule.of - rule.required]
    if timeline.asked is not None:
        level = np.where(timeline.asked, level, -np.inf)
    return level


def _counted(leads: NDArray[np.float64]) -> NDArray[np.float64]:
    """Missed and late events have no lead."""
    return np.maximum(np.nan_to_num(leads, nan=0.0), 0.0)


def _median(values: NDArray[np.float64]) -> float:
    """The smallest value that half do not exceed, as in `replicated_quantile`."""
    return float(np.quantile(values, 0.5, method="inverted_cdf")) if len(values) else float("nan")
