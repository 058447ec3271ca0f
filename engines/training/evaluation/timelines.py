"""Pictures of alarms over continuous time: operating curves, lead times, and single events."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from engines.training.evaluation.findings import AlarmFigures, EventExample
from engines.training.evaluation.style import (
    AMBER,
    BLUE,
    DASHES,
    GREEN,
    GRID,
    INK,
    MUTED,
    ORANGE,
    colour_of,
    drawing,
    only_grid,
    whiskers,
)

STATES = ((BLUE, "present"), (AMBER, "quiet"), (GRID, "absent"))
LEAST_PER_H = 0.01
"""False alarms an hour below this are drawn here: the axis is logarithmic."""


def alarm_chart(head: str, alarms: Sequence[AlarmFigures], target_per_h: float | None = None) -> Figure:
    """Sensitivity, and median lead time, over false alarms an hour. Dots: the threshold that validation chose."""
    hours = alarms[0].point.hours if alarms else 0.0
    note = (
        f"{alarms[0].point.events} events in {hours:.1f} h of test time; lines: the test split's own curve; "
        "dot and cross: threshold chosen on validation, with 95% intervals"
        if alarms
        else ""
    )
    with drawing(8.2, 3.9, f"{head}: what do found events cost in false alarms?", note) as figure:
        found, lead = figure.subplots(1, 2)
        for place, one in enumerate(alarms):
            looks: dict[str, Any] = {"color": colour_of(place), "ls": DASHES[place % len(DASHES)]}
            falling = one.curve[::-1]
            x = [max(p.false_alarms_per_h, LEAST_PER_H) for p in falling]
            found.plot(x, [p.sensitivity for p in falling], label=one.who, drawstyle="steps-post", **looks)
            lead.plot(x, [p.lead_s for p in falling], label=one.who, drawstyle="steps-post", **looks)
            _point(found, one, colour_of(place))
        for axes in (found, lead):
            axes.set_xscale("log")
            axes.set_xlabel(f"false alarms per hour (≤ {LEAST_PER_H:g} drawn at {LEAST_PER_H:g})")
            if target_per_h is not None:
                axes.axvline(target_per_h, color=MUTED, lw=1, ls=(0, (2, 2)))
        if target_per_h is not None:
            found.text(target_per_h, 0.02, f" target ≤ {target_per_h:g}/h", color=MUTED, size=8)
        found.axhline(0.95, color=MUTED, lw=1, ls=(0, (2, 2)))
        found.set(title="Events found", ylabel="event sensitivity", ylim=(0, 1.03))
        lead.set(title="Median lead time, all events", ylabel="s (missed or late: 0)")
        lead.set_ylim(bottom=0)
        found.legend(loc="lower right", bbox_to_anchor=(1.0, 0.06))
    return figure


def _point(axes: Any, one: AlarmFigures, colour: str) -> None:
    rate, sensitivity = one.point.false_alarms_per_h, one.point.sensitivity
    x = max(rate.value, LEAST_PER_H)
    whiskers(axes, sensitivity.value, max(rate.low, LEAST_PER_H), max(rate.high, LEAST_PER_H), colour=colour)
    whiskers(axes, x, sensitivity.low, sensitivity.high, vertical=True, colour=colour)
    axes.plot(x, sensitivity.value, "o", ms=6.5, color=colour, mec="white", mew=1, zorder=6)


def lead_chart(head: str, alarms: Sequence[AlarmFigures], target_s: float | None = None) -> Figure:
    """Share of all events that are found with at least so much lead time, at the validation's threshold."""
    capped = bool(alarms) and all(one.capped is not None for one in alarms)
    where = f"at ≤ {alarms[0].cap_per_h:g} false alarm/h" if capped else "at 95% sensitivity"
    note = f"Threshold chosen on validation, {where}; an event that is missed has no lead time"
    with drawing(6.2, 3.6, f"{head}: how early is it known?", note) as figure:
        axes = figure.subplots()
        longest = 0.0
        for place, one in enumerate(alarms):
            point = one.capped if capped and one.capped is not None else one.point
            leads = np.append(np.sort([lead for lead in point.leads_s if lead > 0])[::-1], 0.0)
            longest = max(longest, float(leads[0]))
            share = np.minimum(np.arange(1, len(leads) + 1), len(leads) - 1) / max(point.events, 1)
            name = f"{one.who}  (median {point.lead_median_s.value:.2f} s)"
            axes.step(leads, share, where="post", color=colour_of(place), ls=DASHES[place % len(DASHES)], label=name)
        if target_s is not None:
            axes.axvline(target_s, color=MUTED, lw=1, ls=(0, (2, 2)))
            axes.text(target_s, 1.035, f"target for the median {target_s:g} s", color=MUTED, size=8, ha="center")
            axes.axhline(0.5, color=MUTED, lw=1, ls=(0, (2, 2)))
        axes.set(xlabel="lead time of at least, s", ylabel="share of events", ylim=(0, 1.02), xlim=(0, longest * 1.05 or 1))
        axes.legend(loc="lower left")
    return figure


def event_chart(example: EventExample) -> Figure:
    """One event: what the head said over time, when it was true, and which streams were there."""
    note = "Shaded: the truth. Strips: present (blue), quiet (amber), absent (grey)"
    streams = list(example.states)
    with drawing(8.2, 3.2 + 0.24 * len(streams), f"{example.head}: {example.title}", note) as figure:
        axes, strips = figure.subplots(2, 1, sharex=True, height_ratios=[2.6, 0.24 * len(streams) + 0.1])
        time_s, truth = np.array(example.time_s), np.array(example.truth) > 0
        axes.fill_between(time_s, 0, 1, where=truth, step="mid", color=GREEN, alpha=0.13, lw=0)
        for place, (name, values) in enumerate(example.lines.items()):
            axes.plot(time_s, values, color=colour_of(place), ls=DASHES[place % len(DASHES)], label=name)
        axes.axhline(example.threshold, color=MUTED, lw=1, ls=(0, (2, 2)))
        axes.text(time_s[0], example.threshold + 0.02, "threshold", color=MUTED, size=8)
        marks = [(example.onset_s, "onset", GREEN), (example.critical_s, "critical", ORANGE)]
        if example.raised_s is not None:
            marks.append((example.raised_s, "alarm", BLUE))
        _marks(axes, marks, float(np.ptp(time_s)))
        axes.set(ylim=(0, 1.04), ylabel="probability")
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
        _strips(strips, time_s, example)
    return figure


def _marks(axes: Any, marks: Sequence[tuple[float, str, str]], span: float) -> None:
    """Vertical lines with their names above; a name that would touch the one before is a line higher."""
    last, level = -np.inf, 0
    for at, name, colour in sorted(marks):
        level = level + 1 if at - last < 0.09 * span else 0
        axes.axvline(at, color=colour, lw=1.3)
        axes.text(at, 1.055 + 0.075 * level, name, color=colour, size=8, ha="center", clip_on=False)
        last = at


def _strips(axes: Any, time_s: Any, example: EventExample) -> None:
    half = float(np.median(np.diff(time_s))) / 2 if len(time_s) > 1 else 0.05
    for row, states in enumerate(reversed(list(example.states.values()))):
        held = np.array(states)
        changes = np.flatnonzero(np.diff(held)) + 1
        for first, stop in zip([0, *changes], [*changes, len(held)], strict=True):
            colour, _ = STATES[int(held[first])]
            axes.barh(row, time_s[stop - 1] - time_s[first] + 2 * half, left=time_s[first] - half, height=0.62, color=colour)
    axes.set_yticks(range(len(example.states)), list(reversed(list(example.states))), color=INK)
    axes.set(xlabel="time in the run, s", xlim=(time_s[0] - half, time_s[-1] + half))
    axes.spines["left"].set_visible(False)
    only_grid(axes, "x")
