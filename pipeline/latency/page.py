"""One self-contained HTML page on a log's latency: tables, and plots as SVG inside it. Needs matplotlib (extra ``view``)."""

from __future__ import annotations

import html
import io
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.latency.analysis import PERCENTS, TOTAL, Measured, Tail
from pipeline.latency.histograms import LatencySummary
from pipeline.latency.intervals import STAGES, until_published
from pipeline.latency.waits import WaitOutcome

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WORST = 12
"""Decisions in the waterfall."""
COLOURS = {
    "sensor": "#c9c9c9", "ingest queue": "#8fb3d9", "decode": "#3f7fbf", "sample link": "#b7d7a8", "window": "#7fb069",
    "encode": "#3c8d40", "token link": "#cfe8c6", "wait": "#e0a03c", "fusion queue": "#d7c3e3", "fuse": "#8e63b0",
    "policy": "#5c3a7d",
}  # fmt: skip
STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:1000px;margin:2em auto;padding:0 1em;color:#222}"
    "table{border-collapse:collapse;margin:.6em 0 1.6em}th,td{padding:.15em .9em;text-align:right;border-bottom:1px solid #ddd}"
    "th:first-child,td:first-child{text-align:left}th{color:#666;font-weight:600}svg{width:100%;height:auto}h2{margin-top:1.8em}"
)


def latency_page(
    title: str,
    notes: Sequence[str],
    found: Sequence[Measured],
    stages: LatencySummary,
    streams: LatencySummary,
    slowest: Tail | None,
    outcomes: Sequence[tuple[str, Sequence[WaitOutcome]]],
) -> str:
    """The page, from what `pipeline.latency.analysis` says of ``found``. Raises ImportError without matplotlib.

    ``outcomes``: stream to what its wait, varied alone, would do.
    """
    latencies_ms = np.array([one.decision.latency_ns for one in found]) / 1e6
    sections = [
        f"<h1>{html.escape(title)}</h1>",
        *(f"<p>{html.escape(note)}</p>" for note in notes),
        "<h2>Reference to decision, by stage</h2>",
        _percentile_table(stages, TOTAL),
        _plot(_histogram, latencies_ms, size=(9, 2.8)),
        "<h2>The tail</h2>",
        _plot(_tail_curve, latencies_ms, size=(9, 3.2)),
        _blame_table(slowest),
        f"<h2>The {min(WORST, len(found))} slowest decisions</h2>",
        _plot(_waterfall, found, size=(9, 4.2)),
        "<h2>Over time</h2>",
        _plot(_over_time, found, size=(9, 2.8)),
        "<h2>Every stream's way from capture to fusion</h2>",
        _percentile_table(streams, ""),
        *(_waits_section(outcomes) if outcomes else ()),
    ]
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(sections)}</body></html>\n'


def _percentile_table(summary: LatencySummary, first: str) -> str:
    header = "".join(f"<th>{name}</th>" for name in ("ms", "count", *(f"p{p:g}" for p in PERCENTS), "max"))
    rows = []
    for part in sorted(summary.parts(), key=lambda name: name != first):
        cells = [str(summary.count(part))]
        for percent in PERCENTS:
            ns = summary.percentile_ns(part, percent)
            interval = summary.interval_ns(part, percent)
            shown = "–" if ns is None else f"{ns / 1e6:.2f}"
            cells.append(shown + (f" [{interval[0] / 1e6:.2f}, {interval[1] / 1e6:.2f}]" if interval else ""))
        cells.append(f"{summary.maximum_ns(part) / 1e6:.2f}")
        rows.append(f"<tr><td>{html.escape(part)}</td>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    return f"<table><tr>{header}</tr>{''.join(rows)}</table>"


def _blame_table(slowest: Tail | None) -> str:
    if slowest is None:
        return "<p>Too few decisions for a p99.</p>"
    rows = "".join(
        f"<tr><td>{html.escape(b.stage)} {html.escape(b.stream)}</td><td>{b.tail_ns / 1e6:.2f}</td>"
        f"<td>{b.usual_ns / 1e6:.2f}</td><td>{b.excess_ns / 1e6:+.2f}</td></tr>"
        for b in slowest.blames[:10]
    )
    head = f"<tr><th>ms, {slowest.decisions} slowest decisions</th><th>in the tail</th><th>else</th><th>more</th></tr>"
    return f"<table>{head}{rows}</table>"


def _waits_section(outcomes: Sequence[tuple[str, Sequence[WaitOutcome]]]) -> list[str]:
    sections = ["<h2>What other waits would do</h2>", _plot(_trade, outcomes, size=(9, 3.4))]
    return [*sections, "<p>Re-evaluated from recorded stamps, one stream's wait varied at a time.</p>"]


def _plot(draw: Any, data: Any, *, size: tuple[float, float]) -> str:
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "svg.fonttype": "none"}):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure.subplots(), data)
        target = io.StringIO()
        figure.savefig(target, format="svg", metadata={"Date": None})
    return target.getvalue()[target.getvalue().index("<svg") :]


def _histogram(axes: Axes, latencies_ms: Any) -> None:
    axes.hist(latencies_ms, bins=min(120, max(10, len(latencies_ms) // 8)), color="#3f7fbf")
    axes.set_yscale("log")
    axes.set_xlabel("reference to decision, ms")
    axes.set_ylabel("decisions")


def _tail_curve(axes: Axes, latencies_ms: Any) -> None:
    ordered = np.sort(latencies_ms)
    beyond = 1 - np.arange(len(ordered)) / len(ordered)
    axes.step(ordered, beyond, where="post", color="#8e63b0")
    axes.set_yscale("log")
    axes.set_xlabel("reference to decision, ms")
    axes.set_ylabel("share of decisions as slow or slower")
    for share, name in ((0.5, "p50"), (0.1, "p90"), (0.01, "p99"), (0.001, "p99.9")):
        if share * len(ordered) >= 1:
            axes.axhline(share, color="#bbbbbb", lw=0.6)
            axes.text(ordered[-1], share, f" {name}", va="center", color="#777777", fontsize=8)


def _over_time(axes: Axes, found: Sequence[Measured]) -> None:
    first_ns = found[0].decision.reference_ns
    times_s = [(one.decision.reference_ns - first_ns) / 1e9 for one in found]
    axes.scatter(times_s, [one.decision.latency_ns / 1e6 for one in found], s=4, color="#3f7fbf", linewidths=0)
    deadline_ms = (found[0].decision.deadline_ns - found[0].decision.reference_ns) / 1e6
    axes.axhline(deadline_ms, color="#b5443c", lw=0.8)
    axes.text(times_s[-1], deadline_ms, " deadline", color="#b5443c", va="center", fontsize=8)
    axes.set_xlabel("s of the run")
    axes.set_ylabel("ms")


def _waterfall(axes: Axes, found: Sequence[Measured]) -> None:
    worst = sorted(found, key=lambda one: -one.decision.latency_ns)[:WORST]
    first_ns = found[0].decision.reference_ns
    for row, one in enumerate(worst):
        for interval in until_published(one.intervals):
            left_ms = (interval.start_ns - one.decision.reference_ns) / 1e6
            axes.barh(row, interval.duration_ns / 1e6, left=left_ms, color=COLOURS[interval.stage], height=0.75)
            if interval.stage == "wait" and interval.duration_ns > 0.12 * worst[0].decision.latency_ns:
                name = interval.stream or "reference stream"
                axes.text(left_ms + interval.duration_ns / 2e6, row, name, ha="center", va="center", fontsize=7)
    axes.set_yticks(
        range(len(worst)), [f"{(one.decision.reference_ns - first_ns) / 1e9:.2f} s  #{one.decision.seq}" for one in worst]
    )
    axes.invert_yaxis()
    axes.set_xlabel("ms from the reference time")
    used = Counter(i.stage for one in worst for i in one.intervals)
    handles = [axes.barh(0, 0, color=COLOURS[stage]) for stage in STAGES if stage in used and stage in COLOURS]
    names = [stage for stage in STAGES if stage in used and stage in COLOURS]
    axes.legend(handles, names, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=6, frameon=False, fontsize=8)


def _trade(axes: Axes, outcomes: Sequence[tuple[str, Sequence[WaitOutcome]]]) -> None:
    for stream, along in outcomes:
        points = [(o.p99_ns / 1e6, o.completeness[stream], o.waits_ms[stream]) for o in along if o.p99_ns is not None]
        if points:
            (line,) = axes.plot([p[0] for p in points], [p[1] for p in points], marker="o", ms=3, lw=1, label=stream)
            for (x, y, wait_ms), below in ((points[0], 9), (points[-1], 18)):
                text = axes.annotate(f"{wait_ms} ms", (x, y), textcoords="offset points", xytext=(3, -below), fontsize=7)
                text.set_color(line.get_color())
    axes.set_xlabel("p99, ms")
    axes.set_ylabel("share of decisions with all of the stream")
    axes.legend(frameon=False, fontsize=8)
