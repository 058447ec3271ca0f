"""``chiasm compare``: the decisions in which two logs differ."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.errors import UsageError
from pipeline.cli.view import console, table_of
from pipeline.logs.compare import Comparison, compare_logs

SHOWN = 20


def compare(
    log_a: Annotated[Path, typer.Argument(help="A log with decisions.")],
    log_b: Annotated[Path, typer.Argument(help="Another, of the same drive.")],
    shown: Annotated[int, typer.Option("--show", min=0, max=1000, help="How many differences to show.")] = SHOWN,
) -> None:
    """Compare two logs decision by decision. Exit code 0 if all are the same, 1 if any differs, 2 if they cannot be compared."""
    found = compare_logs(log_a, log_b)
    if not found.decisions_a and not found.decisions_b:
        raise UsageError(f"{log_a} and {log_b} hold no decisions; compare what chiasm run or chiasm replay wrote with --record")
    _print(found, shown)
    if not found.same:
        raise typer.Exit(1)


def _print(found: Comparison, shown: int) -> None:
    if found.differences and shown:
        table = table_of("Differences at, s", "what", "A", "B")
        for column in table.columns[1:]:
            column.justify = "left"
        for difference in found.differences[:shown]:
            table.add_row(f"{difference.relative_ns / 1e9:.3f}", difference.kind, difference.a, difference.b)
        console.print(table)
        described = sum(found.counts.values())
        if described > shown:
            console.print(f"and {described - min(shown, len(found.differences))} more")
    for note in found.notes:
        console.print(f"[yellow]note:[/yellow] {note}", soft_wrap=True)
    for kind, count in sorted(found.counts.items()):
        console.print(f"{kind}: {count}")
    if found.counts.get("outputs"):
        console.print(f"largest difference of a probability: {found.largest_output_difference:.3g}")
    console.print(f"decisions A={found.decisions_a} B={found.decisions_b} differing={found.differing}", soft_wrap=True)
