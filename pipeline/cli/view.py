"""What a person sees of a run: a live view, then a summary. Built on rich; figures are the run's own."""

from __future__ import annotations

import os
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from pipeline.logs.truth import TruthComparison
from pipeline.messages import Availability, Decision
from pipeline.stages.sink import RunSummary

PIPED_WIDTH = 160
"""How wide tables may be where nobody looks: rich would take a pipe for 80 columns."""


def _console(*, stderr: bool = False) -> Console:
    """A line that is longer than the terminal is the terminal's to wrap: paths and the closing line stay whole."""
    console = Console(stderr=stderr, highlight=False, soft_wrap=True)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = Console(stderr=stderr, highlight=False, soft_wrap=True, width=PIPED_WIDTH)
    return console


console = _console()
errors = _console(stderr=True)

RECENT = 8
ACTION_STYLES = {
    **{"keep": "green", "slow": "yellow", "yield": "bold magenta", "stop": "bold red"},
    **{"none": "green", "check": "yellow", "respond": "bold red"},
}
AVAILABILITY_MARKS = {
    Availability.PRESENT: ("●", "green"),
    Availability.QUIET: ("○", "green"),
    Availability.STALE: ("◐", "yellow"),
    Availability.STARTING: ("…", "dim"),
    Availability.MISSING: ("×", "red"),
}


@contextmanager
def progress_bar(title: str, total: float | None, unit: str) -> Iterator[Callable[[float], None]]:
    """A progress bar on stderr, if that is a terminal; call what it yields with how much is done."""
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit), TimeElapsedColumn()]
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as progress:
        task = progress.add_task(title, total=total)
        yield lambda done: progress.update(task, completed=int(done))


class RunView:
    """The live view: the last decisions, streams, counts and a progress bar."""

    def __init__(self, title: str, duration_ns: int | None, *, live: bool, to: Console) -> None:
        self._title, self._duration_ns, self._is_live_run = title, duration_ns, live
        self._recent: deque[Decision] = deque(maxlen=RECENT)
        self._counts: Counter[str] = Counter()
        self._first_ns: int | None = None
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=40),
            TextColumn("{task.fields[done]}"),
            TimeElapsedColumn(),
            console=to,
        )
        total = duration_ns / 1e9 if duration_ns is not None else None
        self._task = self._progress.add_task("starting", total=total, done="")
        self._live = Live(self._render(), console=to, refresh_per_second=8, transient=True)

    def __enter__(self) -> RunView:
        self._live.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self._live.__exit__(None, None, None)

    def add(self, decisions: list[Decision], origin_ns: int) -> None:
        """Show these decisions."""
        for decision in decisions:
            self._recent.append(decision)
            self._counts[decision.status] += 1
            self._first_ns = self._first_ns or decision.reference_ns
        done_s = (decisions[-1].reference_ns - origin_ns) / 1e9
        total = f" of {self._duration_ns / 1e9:.0f} s" if self._duration_ns else " s"
        self._progress.update(self._task, completed=done_s, description="playing", done=f"{done_s:.1f}{total}")
        self._live.update(self._render())

    def _render(self) -> Group:
        table = Table(box=None, pad_edge=False, header_style="dim")
        columns = [("time", "right"), ("action", "left"), ("probabilities", "left"), ("latency", "right"), ("streams", "left")]
        for name, justify in columns:
            table.add_column(name, justify=justify, min_width=8)  # type: ignore[arg-type]
        for decision in self._recent:
            table.add_row(*self._row(decision))
        late = self._counts["late"] + self._counts["skipped"]
        counts = f"{self._counts.total()} decisions" + (f", {late} missed" if self._is_live_run else "")
        return Group(Text(self._title, style="bold"), table, Text(counts, style="dim"), self._progress)

    def _row(self, decision: Decision) -> list[Text]:
        seconds = (decision.reference_ns - (self._first_ns or 0)) / 1e9
        probabilities = "  ".join(
            f"{decision.labels.get(head, '?') if head != 'action' else 'top'} {float(max(values)):.2f}"
            for head, values in decision.outputs.items()
        )
        style = "red" if decision.status in ("late", "skipped") else ""
        streams = Text()
        for admitted in decision.receipt.admitted if decision.receipt else ():
            mark, colour = AVAILABILITY_MARKS[Availability(admitted.availability)]
            streams.append(f"{mark}{admitted.stream} ", style=colour)
        return [
            Text(f"{seconds:.2f} s"),
            Text(decision.action, style=ACTION_STYLES.get(decision.action, "")),
            Text(probabilities),
            Text(f"{decision.latency_ns / 1e6:.1f} ms", style=style),
            streams,
        ]


def print_summary(summary: RunSummary, comparison: TruthComparison | None, *, live: bool, to: Console) -> None:
    """The tables that close a run; its last line is not among them."""
    if summary.decisions:
        to.print(_decisions_table(summary, live=live))
        to.print(_latency_table(summary, live=live))
        to.print(_streams_table(summary))
    if comparison is not None:
        to.print(_truth_table(comparison))
    for notice in summary.notices:
        to.print(Text(f"  {notice}", style="dim"))
    for failure in summary.failures:
        to.print(Text(f"! {failure}", style="yellow"))


def table_of(title: str, *columns: str) -> Table:
    """A plain table under its title, which heads the first column, text; the others are figures."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column(Text(f"\n{title}", style="bold not dim"), no_wrap=True)
    for name in columns:
        table.add_column(name, justify="right")
    return table


def _decisions_table(summary: RunSummary, *, live: bool) -> Table:
    table = table_of("Decisions", "count", "share")
    rows: list[tuple[str, int]] = [(f"action {name}", n) for name, n in sorted(summary.actions.items())]
    if live:
        rows += [("deadline met", summary.on_time), ("late", summary.late), ("skipped", summary.skipped)]
    rows += [("at a synthetic time", summary.synthetic), ("overrun", summary.overruns)]
    for name, count in rows:
        table.add_row(name, str(count), f"{count / summary.decisions:.1%}")
    return table


def _latency_table(summary: RunSummary, *, live: bool) -> Table:
    title = "Latency, ms, after the first 2 s" if live else "Compute alone (this is a replay), ms"
    table = table_of(title, "p50", "p90", "p99", "p99.9", "max")
    parts = ["latency", "decode", "encode", "fuse"] + (["wait", "runtime"] if live else [])
    names = {
        "latency": "reference to decision" if live else "sum",
        "wait": "waiting for a late sensor",
        "runtime": "runtime's own share",
    }
    for part in parts:
        figures = summary.latency_ns.get(part, {})
        cells = [figures.get(p) for p in ("p50", "p90", "p99", "p99.9", "max")]
        table.add_row(names.get(part, part), *("–" if c is None else f"{max(c, 0) / 1e6:.2f}" for c in cells))
    return table


def _streams_table(summary: RunSummary) -> Table:
    states = [a.name.lower() for a in Availability]
    table = table_of("Streams, as the decisions found them", *states, "dropped")
    for stream, found in summary.availability.items():
        drops = {reason: n for (s, reason), n in summary.drops.items() if s == stream}
        dropped = ", ".join(f"{n} {reason}" for reason, n in drops.items()) or "0"
        table.add_row(stream, *(str(found.get(state, 0)) for state in states), dropped)
    shown = set(summary.availability)
    for (stream, reason), n in summary.drops.items():
        if stream not in shown:
            table.add_row(stream, *[""] * len(states), f"{n} {reason}")
    return table


def _truth_table(comparison: TruthComparison) -> Table:
    table = table_of("Against the simulated truth", "")
    for head, value in comparison.balanced_accuracy.items():
        only = comparison.occurred[head]
        table.add_row(f"{head}: balanced accuracy", f"{value:.3f}" + (f"  (only {only[0]!r} occurred)" if len(only) == 1 else ""))
    table.add_row("action after policy: agreement", f"{comparison.policy_agreement:.3f}")
    for action, counts in comparison.events.items():
        if counts.true or counts.invented:
            table.add_row(f"{action}: caught within 1 s", f"{counts.caught} of {counts.true}, {counts.invented} invented")
    return table


def is_interactive() -> bool:
    """Whether a live view makes sense."""
    return sys.stdout.isatty()
