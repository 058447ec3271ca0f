"""``chiasm latency``: where the time of a recorded live run went, who is to blame for its tail, which waits would do."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from pipeline.cli.errors import UsageError
from pipeline.cli.planning import plan_replay
from pipeline.cli.view import console, errors, table_of
from pipeline.config import Scenario
from pipeline.contract import IN_FLIGHT_NS
from pipeline.latency.analysis import PERCENTS, TOTAL, Measured, Tail, by_stage, by_stream, measured, tail
from pipeline.latency.exports import write_table, write_trace
from pipeline.latency.histograms import WARM_UP_NS, LatencySummary
from pipeline.latency.waits import StreamArrivals, WaitModel, WaitOutcome
from pipeline.logs.reader import LogReader
from pipeline.messages import Announcement
from pipeline.sources.assign import parse_duration_ns

SHOWN_BLAMES = 8


def latency(
    log: Annotated[Path, typer.Argument(help="A log of a live run: chiasm run … --record LOG.")],
    target_p99: Annotated[
        str | None, typer.Option("--target-p99", help="Say which waits reach this p99, as 30ms: a piece of scenario.yaml.")
    ] = None,
    trace: Annotated[Path | None, typer.Option("--trace", help="Write a trace that Perfetto and Chrome open.")] = None,
    parquet: Annotated[Path | None, typer.Option("--parquet", help="Write every interval as a Parquet table.")] = None,
    html: Annotated[Path | None, typer.Option("--html", help="Write one self-contained page with plots.")] = None,
) -> None:
    """Percentiles by stage and stream, who is to blame for the tail, and how completeness trades against latency."""
    target_ns = parse_duration_ns(target_p99, "--target-p99") if target_p99 is not None else None
    if html is not None and importlib.util.find_spec("matplotlib") is None:
        raise UsageError("--html draws with matplotlib, which is not installed; pip install 'chiasm[view]'")
    with errors.status(f"reading {log.name}"):
        reader = LogReader(log)
        found = _live_decisions(reader)
        scenario = plan_replay(log, [], "max").plan.scenario
        model = _wait_model(reader, scenario, found)
    console.print(_about(reader, found))
    stages, streams, slowest = by_stage(found), by_stream(found), tail(found)
    console.print(_percentiles("Reference to decision, ms", stages))
    console.print(Text("[…] is a 95% confidence interval; – is a percentile that so few decisions cannot carry", style="dim"))
    console.print(_percentiles("From capture to fusion, ms", streams))
    if slowest is not None:
        console.print(_blame(slowest))
        console.print(Text(_verdict(slowest), style="bold"))
    limit_ms = _limit_ms(scenario)
    along = [(stream, model.along(stream, limit_ms)) for stream in model.waits_ms]
    console.print(_waits(along, model))
    if target_ns is not None:
        _print_contract(model.reaching(target_ns, limit_ms), target_ns, model)
    if trace is not None:
        console.print(f"{write_trace(found, reader.origin_ns, trace)} events: {trace}", soft_wrap=True)
    if parquet is not None:
        console.print(f"{write_table(found, parquet)} intervals: {parquet}", soft_wrap=True)
    if html is not None:
        from pipeline.latency.page import latency_page

        notes = [_about(reader, found), *([_verdict(slowest)] if slowest is not None else [])]
        page = latency_page(f"Latency of {log.name}", notes, found, stages, streams, slowest, along)
        html.write_text(page, encoding="utf-8")
        console.print(f"page: {html}", soft_wrap=True)


def _live_decisions(reader: LogReader) -> list[Measured]:
    found = measured(reader.decisions())
    if not found:
        statuses = {d.status for d in reader.decisions()}
        what = "its decisions are a replay's" if "replayed" in statuses else "none has stamps, or none comes after the first 2 s"
        raise UsageError(f"{reader.path}: no live decision to measure ({what}); record a run: chiasm run SCENARIO --record LOG")
    return found


def _wait_model(reader: LogReader, scenario: Scenario, found: list[Measured]) -> WaitModel:
    waits_ms = {stream: scenario.streams[stream].wait_ms for stream in reader.streams if stream in scenario.streams}
    said: dict[str, list[Announcement]] = {stream: [] for stream in waits_ms}
    for recording in reader.recordings():
        said.get(recording.announcement.header.stream, []).append(recording.announcement)
    arrivals = {stream: StreamArrivals(words, reader.streams[stream].min_gap_ns) for stream, words in said.items()}
    return WaitModel(found, arrivals, waits_ms)


def _limit_ms(scenario: Scenario) -> int:
    """The longest wait that the contract allows: it must end before the deadline less its reserve."""
    return max(0, scenario.deadline_ms - scenario.reserve_ms - IN_FLIGHT_NS // 1_000_000 - 1)


def _about(reader: LogReader, found: list[Measured]) -> str:
    span_s = (found[-1].decision.reference_ns - found[0].decision.reference_ns) / 1e9
    late = sum(one.decision.status == "late" for one in found)
    skip_s = WARM_UP_NS // 1_000_000_000
    return f"{reader.scenario}: {len(found)} live decisions over {span_s:.0f} s, {late} late; the first {skip_s} s are left out"


def _percentiles(title: str, summary: LatencySummary) -> object:
    table = table_of(title, "count", *(f"p{percent:g}" for percent in PERCENTS), "max")
    for part in summary.parts():
        cells = []
        for percent in PERCENTS:
            ns, interval = summary.percentile_ns(part, percent), summary.interval_ns(part, percent)
            bounds = f" [{interval[0] / 1e6:.2f}, {interval[1] / 1e6:.2f}]" if interval and percent in (50, 99) else ""
            cells.append(("–" if ns is None else f"{ns / 1e6:.2f}") + bounds)
        style = "bold" if part == TOTAL else "dim" if ": " in part else ""
        row = ("reference to decision" if part == TOTAL else part, str(summary.count(part)), *cells)
        table.add_row(*(Text(cell, style=style) for cell in (*row, f"{summary.maximum_ns(part) / 1e6:.2f}")))
    return table


def _blame(slowest: Tail) -> object:
    title = f"The {slowest.decisions} slowest (p99 {slowest.from_ns / 1e6:.1f} ms), ms a decision"
    table = table_of(title, "in the tail", "else", "more")
    for blame in slowest.blames[:SHOWN_BLAMES]:
        name = f"{blame.stage} {blame.stream}".strip()
        if blame.stage == "wait":
            name = f"wait for {blame.stream or 'the reference stream'}"
        table.add_row(name, f"{blame.tail_ns / 1e6:.2f}", f"{blame.usual_ns / 1e6:.2f}", f"{blame.excess_ns / 1e6:+.2f}")
    return table


def _verdict(slowest: Tail) -> str:
    waits = [(s or "the reference stream", share) for s, share in slowest.waiting_by_stream().items() if share >= 0.005]
    if not waits:
        return "no sensor is to blame for the tail: none of it is waiting for one"
    return "to blame for the tail: " + ", ".join(f"{share:.0%} of it is waiting for {stream}" for stream, share in waits[:3])


def _waits(along: list[tuple[str, list[WaitOutcome]]], model: WaitModel) -> object:
    table = table_of("If one stream's wait were (re-evaluated from stamps)", "wait, ms", "complete", "p50, ms", "p99, ms")
    for stream, outcomes in along:
        shown: WaitOutcome | None = None
        for outcome in outcomes:
            if shown is not None and outcome.waits_ms != model.waits_ms and _is_alike(shown, outcome, stream):
                continue
            shown = outcome
            wait_ms, now = outcome.waits_ms[stream], outcome.waits_ms[stream] == model.waits_ms[stream]
            figures = ("–" if ns is None else f"{ns / 1e6:.1f}" for ns in (outcome.p50_ns, outcome.p99_ns))
            cells = (stream, f"{wait_ms}{' (now)' if now else ''}", f"{outcome.completeness[stream]:.1%}", *figures)
            table.add_row(*(Text(cell, style="" if now else "dim") for cell in cells))
    return table


def _is_alike(one: WaitOutcome, other: WaitOutcome, stream: str) -> bool:
    """Whether a second row would tell nothing new."""
    same_p99 = abs((one.p99_ns or 0) - (other.p99_ns or 0)) < 500_000
    return same_p99 and abs(one.completeness[stream] - other.completeness[stream]) < 0.0005


def _print_contract(found: WaitOutcome | None, target_ns: int, model: WaitModel) -> None:
    """The waits that reach the target, to paste; exit code 1 if none do."""
    if found is None:
        floor = model.outcome(dict.fromkeys(model.waits_ms, 0)).p99_ns or 0
        why = "compute, paths, and what comes before a reference time is known"
        message = f"no waits reach a p99 of {target_ns / 1e6:g} ms: without any it is {floor / 1e6:.1f} ms ({why})"
        errors.print(Text(message, style="red"))
        raise typer.Exit(1)
    complete = ", ".join(f"{stream} {share:.1%}" for stream, share in found.completeness.items())
    console.print(Text(f"\n# p99 {(found.p99_ns or 0) / 1e6:.1f} ms expected; complete: {complete}\nstreams:"), soft_wrap=True)
    for stream, wait_ms in found.waits_ms.items():
        console.print(Text(f"  {stream}: {{wait_ms: {wait_ms}}}"), soft_wrap=True)
