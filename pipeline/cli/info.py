"""``chiasm info``: what a log holds."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from pipeline.cli.view import console, errors, table_of
from pipeline.logs.summary import LogSummary, StreamSummary, summarise


def info(
    log: Annotated[Path, typer.Argument(help="A log (MCAP) that chiasm wrote.")],
    json_lines: Annotated[bool, typer.Option("--json", help="The same as one JSON object on stdout.")] = False,
    tables: Annotated[
        Path | None, typer.Option("--tables", help="Also write decisions, latency and telemetry as Parquet into this folder.")
    ] = None,
) -> None:
    """Show what a log holds: streams and their gaps, sizes, decisions and their latency, whether it is whole."""
    summary = summarise(log)
    if json_lines:
        typer.echo(json.dumps(_plain(summary), indent=2))
    else:
        _print(summary)
    if tables is not None:
        from pipeline.logs.tables import export_tables

        for name, path in export_tables(log, tables).items():
            (errors if json_lines else console).print(f"{name}: {path}", soft_wrap=True)


def _plain(summary: LogSummary) -> dict[str, Any]:
    """The summary as JSON takes it; a codec's extradata in hexadecimal."""
    plain = asdict(summary)
    plain["path"] = str(summary.path)
    plain["simulated"] = _is_simulated(summary)
    for stream in plain["streams"]:
        encoding = stream["info"]["encoding"]
        encoding["extradata"] = encoding["extradata"].hex()
    return plain


def _print(summary: LogSummary) -> None:
    console.print(_about(summary))
    console.print(_streams(summary))
    console.print(_channels(summary))
    if summary.decisions.count:
        console.print(_decisions(summary))
    for notice in summary.metadata.get("notices", "").splitlines():
        console.print(f"[yellow]note:[/yellow] {escape(notice)}", soft_wrap=True)
    if not summary.closed:
        where = summary.truncated_at or "it was not closed in order"
        console.print(f"[yellow]note:[/yellow] the log ends without its closing record: {where}", soft_wrap=True)


def _is_simulated(summary: LogSummary) -> bool:
    return bool(summary.streams) and all(s.info.simulated for s in summary.streams)


def _about(summary: LogSummary) -> Table:
    table = table_of(str(summary.path), "")
    table.columns[1].justify = "left"
    clean = {True: "yes: its replay decides the same", False: "no: something was dropped or overran", None: "unknown"}
    rows = {
        "scenario": summary.scenario,
        "simulated": "yes" if _is_simulated(summary) else "no",
        "length": f"{summary.duration_ns / 1e9:.1f} s, {summary.size_bytes / 1e6:.2f} MB",
        "made by": summary.metadata.get("creator", "unknown"),
        "closed": "yes" if summary.closed else f"no, cut: {summary.truncated_at or 'no closing record'}",
        "clean": clean[summary.clean] if summary.decisions.count else "nothing was decided in it",
    }
    if summary.decisions.count:
        rows["sha256 of the decisions"] = summary.digest or "unknown"
    if "seed" in summary.metadata:
        rows["seed"] = summary.metadata["seed"]
    if labels := {name: text for stream in summary.streams for name, text in stream.info.labels.items()}:
        rows["labels"] = escape(", ".join(f"{name} {text}" for name, text in labels.items()))
    if summary.end and summary.end.get("drops"):
        rows["drops"] = summary.end["drops"]
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def _streams(summary: LogSummary) -> Table:
    columns = ("samples", "rate, Hz", "from, s", "to, s", "gaps", "longest, ms", "lost in the log", "delay p50, ms")
    table = table_of("Streams", "codec", *columns, "from where")
    table.columns[1].justify = table.columns[-1].justify = "left"
    for stream in summary.streams:
        table.add_row(*_stream_row(stream, summary.origin_ns))
    return table


def _stream_row(stream: StreamSummary, origin_ns: int) -> list[str]:
    info = stream.info
    encoding = info.encoding
    if encoding.width:
        codec = f"{encoding.codec} {encoding.width}x{encoding.height}"
    elif encoding.sample_rate_hz:
        codec = f"{encoding.codec} {encoding.sample_rate_hz} Hz"
    else:
        codec = f"{encoding.codec}, {len(encoding.channels)} channels" if encoding.channels else encoding.codec
    span_ns = (stream.first_capture_ns - origin_ns, stream.last_capture_ns - origin_ns)
    spans = [f"{t / 1e9:.2f}" if stream.samples else "–" for t in span_ns]
    is_sparse = info.period_ns == 0
    return [
        info.stream,
        codec,
        str(stream.samples),
        "sparse" if is_sparse else f"{stream.rate_hz:.2f}",
        *spans,
        "–" if is_sparse else str(stream.gaps),
        f"{stream.longest_gap_ns / 1e6:.0f}" if stream.gaps else "–",
        str(stream.missing),
        f"{stream.delay_p50_ns / 1e6:.1f}",
        Path(info.origin).name if info.origin else "",
    ]


def _channels(summary: LogSummary) -> Table:
    table = table_of("Channels, before compression", "messages", "kB")
    for topic, size in sorted(summary.channels.items(), key=lambda item: -item[1].bytes):
        table.add_row(topic, str(size.messages), f"{size.bytes / 1e3:.1f}")
    return table


def _decisions(summary: LogSummary) -> Table:
    found = summary.decisions
    table = table_of("Decisions", "")
    rows: list[tuple[str, str]] = [("all", str(found.count))]
    rows += [(f"action {name}", str(n)) for name, n in sorted(found.by_action.items())]
    rows += [(name.replace("_", " "), str(n)) for name, n in sorted(found.by_status.items())]
    rows += [("overrun", str(found.overruns)), ("at a synthetic time", str(found.synthetic))]
    latency = (found.latency_p50_ns, found.latency_p99_ns, found.latency_max_ns)
    rows.append(("latency p50 / p99 / max, ms", " / ".join(f"{ns / 1e6:.2f}" for ns in latency)))
    for name, value in rows:
        table.add_row(name, value)
    return table
