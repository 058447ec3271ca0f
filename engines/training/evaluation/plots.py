"""Pictures of what each stream is worth, of honest probabilities, of variants and of what breaks. Each returns a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from engines.training.evaluation.attribution import AttributionFigures
from engines.training.evaluation.bootstrap import Estimate
from engines.training.evaluation.confidence import ConfidenceFigures
from engines.training.evaluation.findings import ControlFigures, Findings, VariantFigures
from engines.training.evaluation.robustness import DELAY, NOISE, ConditionFigures
from engines.training.evaluation.style import (
    AMBER,
    BLUE,
    DASHES,
    GREEN,
    GRID,
    INK,
    MUTED,
    ORANGE,
    PINK,
    SKY,
    colour_of,
    drawing,
    only_grid,
    whiskers,
)
from engines.training.evaluation.subsets import HeadCurves, SubsetFigures

FAMILIES = {"early": PINK, "intermediate": BLUE, "late": ORANGE}
LEAST_SHARE = 0.001
HEAD_TEXT = "95% intervals by resampling scenarios"


def subset_chart(findings: Findings, head: str) -> Figure:
    """AUROC of every subset of streams, with interval, ceiling and the model trained for that subset."""
    found = sorted((s for s in findings.subsets if s.head == head), key=lambda s: (s.mask.count("1"), s.auroc.value))
    ceilings = {c.mask: c for c in findings.ceilings if c.head == head}
    title, note = f"{head}: what is each set of streams worth?", f"AUROC, {HEAD_TEXT}"
    if ceilings:
        note += "; grey bar: the Monte-Carlo ceiling of what those streams can perceive"
    if any(s.specialist for s in found):
        note += "; ◇ a model trained for that set alone"
    with drawing(8.2, 1.7 + 0.25 * len(found), title, note) as figure:
        dots, axes = figure.subplots(1, 2, width_ratios=[0.9, 3.1], sharey=True)
        _membership(dots, findings.streams, [s.mask for s in found])
        lowest = min([0.5, *(s.auroc.low for s in found if np.isfinite(s.auroc.low))])
        for row, subset in enumerate(found):
            _subset_bar(axes, row, subset, lowest)
            ceiling = ceilings.get(subset.mask)
            if ceiling:
                axes.plot(
                    [ceiling.auroc.value] * 2, [row - 0.44, row + 0.44], color=MUTED, lw=2.4, solid_capstyle="butt", zorder=5
                )
        axes.set_xlim(lowest, 1.07)
        axes.set_xticks([t for t in (0.5, 0.6, 0.7, 0.8, 0.9, 1.0) if t >= lowest])
        axes.set_ylim(-0.6, len(found) - 0.4)
        axes.set_xlabel("AUROC")
        axes.tick_params(labelleft=False)
        axes.spines["left"].set_visible(False)
        only_grid(axes, "x")
    return figure


def _subset_bar(axes: Any, row: int, subset: SubsetFigures, lowest: float) -> None:
    colour = BLUE if "0" not in subset.mask else SKY
    axes.barh(row, subset.auroc.value - lowest, left=lowest, height=0.62, color=colour, zorder=2)
    whiskers(axes, row, subset.auroc.low, subset.auroc.high)
    if subset.specialist:
        axes.plot(subset.specialist.value, row, "D", ms=5, mfc="white", mec=ORANGE, mew=1.3, zorder=6)
    axes.text(1.068, row, f"{subset.auroc.value:.3f}", va="center", ha="right", size=8.5)


def _membership(axes: Any, streams: Sequence[str], masks: Sequence[str]) -> None:
    """Which streams each row has, as dots under their names."""
    for row, mask in enumerate(masks):
        there = [place for place, flag in enumerate(mask) if flag == "1"]
        axes.plot(range(len(mask)), [row] * len(mask), "o", ms=5, color=GRID, zorder=1)
        axes.plot(there, [row] * len(there), "-o", ms=5.5, lw=1.4, color=INK, zorder=2)
    axes.set_xticks(range(len(streams)), streams, rotation=35, ha="left", size=8)
    axes.xaxis.tick_top()
    axes.set_xlim(-0.6, len(streams) - 0.4)
    axes.tick_params(labelleft=False, pad=1)
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(False)


def curve_chart(head: str, curves: Sequence[HeadCurves], auroc: Mapping[str, float]) -> Figure:
    """Receiver's and precision curves of several predictors of one head. ``auroc``: predictor to its area, where known."""
    with drawing(8.2, 3.9, f"{head}: how do sensitivity and false alarms trade, tick by tick?") as figure:
        receiver, precision = figure.subplots(1, 2)
        receiver.plot([0, 1], [0, 1], color="#b8c0ca", lw=1, zorder=1)
        for place, curve in enumerate(curves):
            name = f"{curve.who}  {auroc[curve.who]:.3f}" if curve.who in auroc else curve.who
            looks = {"color": colour_of(place), "ls": DASHES[place % len(DASHES)]}
            receiver.plot(curve.receiver.x, curve.receiver.y, label=name, **looks)
            precision.plot(curve.precision.x, curve.precision.y, **looks)
        if curves:
            share = curves[0].positive_share
            precision.axhline(share, color="#b8c0ca", lw=1, zorder=1)
            precision.text(0.01, share + 0.012, f"chance {share:.2f}", color=MUTED, size=8)
        receiver.set(
            title="Receiver's curve", xlabel="share of false ticks alarmed", ylabel="sensitivity", xlim=(0, 1), ylim=(0, 1.01)
        )
        precision.set(title="Precision over recall", xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.01))
        legend = receiver.legend(loc="lower right", title="AUROC" if auroc else None, alignment="right", handlelength=2.6)
        legend.get_title().set_color(MUTED)
    return figure


def reliability_chart(findings: Findings, figures: ConfidenceFigures, masks: Sequence[str]) -> Figure:
    """Accuracy over confidence for some subsets, one panel each; the dot's area is the share of ticks."""
    shown = [m for m in masks if m in figures.reliability]
    errors = {s.mask: s.ece for s in findings.subsets if s.head == figures.head}
    columns = min(len(shown), 4) or 1
    rows = -(-len(shown) // columns) or 1
    note = "On the line, what it says 80% sure of is right 80% of the time; dots as large as their share of ticks (0.1% or more)"
    with drawing(
        1.1 + 1.95 * columns, 0.75 + 2.25 * rows, f"{figures.head}: does its confidence mean what it says?", note
    ) as figure:
        panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        for axes in panels.flat[len(shown) :]:
            axes.set_axis_off()
        for axes, mask in zip(panels.flat, shown, strict=False):
            bins = [b for b in figures.reliability[mask] if b.share >= LEAST_SHARE]
            axes.plot([0, 1], [0, 1], color="#b8c0ca", lw=1)
            x, y = [b.confidence for b in bins], [b.accuracy for b in bins]
            axes.plot(x, y, color=BLUE, lw=1, alpha=0.6)
            axes.scatter(x, y, s=[8 + 150 * b.share for b in bins], color=BLUE, alpha=0.85, linewidths=0)
            axes.set_title(findings.streams_of(mask).replace(" + ", "\n+ "), size=8.5)
            if mask in errors:
                axes.text(0.97, 0.05, f"ECE {errors[mask].value:.3f}", ha="right", size=8.5, transform=axes.transAxes)
        held = [b for mask in shown for b in figures.reliability[mask] if b.share >= LEAST_SHARE]
        lows = min([0.5, *(b.confidence for b in held)]), min([0.5, *(b.accuracy for b in held)])
        panels[0, 0].set(xlim=(lows[0] - 0.02, 1.02), ylim=(lows[1] - 0.02, 1.04))
        figure.supxlabel("confidence", size=9, color=MUTED)
        figure.supylabel("accuracy", size=9, color=MUTED)
    return figure


def risk_chart(confidences: Sequence[ConfidenceFigures]) -> Figure:
    """Share of wrong ticks when the least confident are left out."""
    with drawing(
        5.2, 3.3, "Is it less often wrong where it is more confident?", "Ticks kept from the most confident on"
    ) as figure:
        axes = figure.subplots()
        for place, found in enumerate(confidences):
            axes.plot(
                [100 * v for v in found.risk.x],
                [100 * v for v in found.risk.y],
                color=colour_of(place),
                ls=DASHES[place % len(DASHES)],
                label=f"{found.head}  (area {found.risk_area:.4f}, best {found.risk_best:.4f})",
            )
        axes.set(xlabel="ticks kept, %", ylabel="wrong among them, %", xlim=(0, 100))
        axes.set_ylim(bottom=0)
        axes.legend(loc="upper left")
    return figure


def variant_chart(head: str, variants: Sequence[VariantFigures]) -> Figure:
    """AUROC of each fusion variant: one dot a training seed, the mean and the interval over seeds and scenarios."""
    found = sorted(variants, key=lambda v: v.auroc.mean.value)
    note = "Each dot is one training seed; line and mark: mean with the 95% interval over seeds and scenarios"
    with drawing(7.6, 1.4 + 0.4 * len(found), f"{head}: which fusion is best, beyond luck of the seed?", note) as figure:
        axes = figure.subplots()
        ends = [v for f in found for v in (f.auroc.mean.low, f.auroc.mean.high, *f.auroc.seeds)]
        span = max(ends) - min(ends) or 0.01
        for row, variant in enumerate(found):
            colour = FAMILIES.get(variant.family, MUTED)
            mean = variant.auroc.mean
            whiskers(axes, row, mean.low, mean.high, colour=colour, width=2.2)
            axes.plot(mean.value, row, "|", ms=14, mew=2.4, color=colour, zorder=5)
            axes.plot(variant.auroc.seeds, [row - 0.22] * len(variant.auroc.seeds), "o", ms=3.6, color=colour, alpha=0.7)
            text = f"{mean.value:.4f}   {variant.parameters / 1e3:.0f} k weights"
            axes.text(max(ends) + 0.04 * span, row, text, va="center", size=8.5)
        axes.set_yticks(range(len(found)), [f.name + (" (chosen)" if f.is_chosen else "") for f in found], color=INK)
        axes.set(xlim=(min(ends) - 0.05 * span, max(ends) + 0.42 * span), ylim=(-0.6, len(found) - 0.4), xlabel="AUROC")
        only_grid(axes, "x")
        there = [family for family in FAMILIES if any(f.family == family for f in found)]
        handles = [axes.plot([], [], "|", ms=10, mew=2.4, color=FAMILIES[f], label=f)[0] for f in there]
        axes.legend(handles=handles, loc="lower right", bbox_to_anchor=(1, 1), ncols=3, borderaxespad=0, handletextpad=0.2)
    return figure


def control_chart(controls: Sequence[ControlFigures]) -> Figure:
    """The control worlds: fusion must win where only the joint matters, and gain nothing where streams repeat one another."""
    rows: list[tuple[str, Estimate, str]] = []
    for control in controls:
        rows += [
            (f"{control.world}: intermediate", control.intermediate, BLUE),
            (f"{control.world}: additive late", control.late, ORANGE),
            (f"{control.world}: best single", control.best_single, GREEN),
        ]
    with drawing(6.4, 1.1 + 0.32 * len(rows), "Is there a gain where there must be one, and none where there cannot?") as figure:
        axes = figure.subplots()
        for row, (_, estimate, colour) in enumerate(rows[::-1]):
            whiskers(axes, row, estimate.low, estimate.high, colour=colour, width=2.2)
            axes.plot(estimate.value, row, "o", ms=6.5, color=colour, zorder=5)
            axes.text(1.03, row, f"{estimate.value:.3f}", va="center", size=8.5)
        axes.set_yticks(range(len(rows)), [name for name, _, _ in rows[::-1]], color=INK)
        axes.axvline(0.5, color="#b8c0ca", lw=1)
        axes.set(
            xlim=(min([0.45, *(e.low for _, e, _ in rows)]), 1.1), ylim=(-0.6, len(rows) - 0.4), xlabel="AUROC (0.5: chance)"
        )
        axes.set_xticks([0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
        only_grid(axes, "x")
    return figure


def robustness_chart(head: str, conditions: Sequence[ConditionFigures]) -> Figure:
    """AUROC lost under noise, under delay, and under what has no scale, three panels (those there are)."""
    noise = [c for c in conditions if c.condition.group == NOISE and c.condition.level is not None]
    late = [c for c in conditions if c.condition.group == DELAY and c.condition.level is not None]
    others = [c for c in conditions if c not in noise and c not in late]
    panels = [name for name, held in (("noise", noise), ("late", late), ("others", others)) if held]
    note = "Loss of AUROC against clean input; " + HEAD_TEXT
    height = max(3.3, 1.4 + 0.3 * len(others))
    with drawing(2.9 * len(panels) + 0.4, height, f"{head}: what breaks it?", note) as figure:
        for axes, name in zip(figure.subplots(1, len(panels), squeeze=False).flat, panels, strict=True):
            if name == "others":
                _loss_bars(axes, others)
                continue
            _loss_lines(axes, noise if name == "noise" else late)
            axes.set_xlabel("signal to noise, dB" if name == "noise" else "delay, ms")
            axes.set_title("Noise" if name == "noise" else "One stream late")
            if name == "noise":
                axes.invert_xaxis()
            axes.set_ylabel("AUROC lost")
    return figure


def _loss_lines(axes: Any, conditions: Sequence[ConditionFigures]) -> None:
    streams = list(dict.fromkeys(c.condition.stream for c in conditions))
    for place, stream in enumerate(streams):
        line = sorted((c for c in conditions if c.condition.stream == stream), key=lambda c: c.condition.level or 0.0)
        x = [c.condition.level for c in line]
        colour = colour_of(place)
        axes.fill_between(x, [c.loss.low for c in line], [c.loss.high for c in line], color=colour, alpha=0.13, lw=0)
        axes.plot(
            x,
            [c.loss.value for c in line],
            marker="o",
            ms=3.5,
            color=colour,
            ls=DASHES[place % len(DASHES)],
            label=stream or "all",
        )
    axes.axhline(0, color="#b8c0ca", lw=1, zorder=1)
    axes.legend(loc="upper left")


def _loss_bars(axes: Any, conditions: Sequence[ConditionFigures]) -> None:
    for row, found in enumerate(reversed(conditions)):
        axes.barh(row, found.loss.value, height=0.6, color=SKY if found.is_paired else AMBER)
        whiskers(axes, row, found.loss.low, found.loss.high)
    axes.set_yticks(range(len(conditions)), [c.condition.name for c in reversed(conditions)], color=INK)
    axes.set(title="Conditions", xlabel="AUROC lost")
    axes.axvline(0, color="#b8c0ca", lw=1)
    only_grid(axes, "x")


def attribution_chart(figures: AttributionFigures) -> Figure:
    """Mean absolute Shapley values, and which stream leads where the world says which one decides."""
    note = (
        f"Largest Shapley value is the decisive stream's in {figures.agreement.value:.0%} of {figures.ticks:,} ticks "
        f"[{figures.agreement.low:.0%}, {figures.agreement.high:.0%}]; chance {figures.chance:.0%}"
    )
    names, places = figures.streams, range(len(figures.streams))
    with drawing(8.2, 3.4, f"{figures.head}: does it rest on the stream that decides?", note) as figure:
        bars, table = figure.subplots(1, 2, width_ratios=[1, 1.15])
        bars.barh([p + 0.19 for p in places], figures.mean_when_decisive, height=0.36, color=BLUE, label="where it decides")
        bars.barh([p - 0.19 for p in places], figures.mean_absolute, height=0.36, color=SKY, label="all ticks")
        bars.set_yticks(places, names, color=INK)
        bars.invert_yaxis()
        bars.set(title="Mean |Shapley|", xlabel="log-odds")
        bars.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=1, borderaxespad=0, fontsize=7.5, labelspacing=0.2)
        only_grid(bars, "x")
        shares = np.array(figures.table)
        table.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        for i in places:
            for j in places:
                colour = "white" if shares[i, j] > 0.55 else INK
                table.text(j, i, f"{shares[i, j]:.0%}", ha="center", va="center", color=colour, size=8.5)
        table.set_xticks(places, names, size=8, rotation=20)
        table.set_yticks(places, names, size=8)
        table.set(title="Share of ticks", xlabel="stream with the largest value", ylabel="decisive stream")
        table.grid(False)
    return figure
