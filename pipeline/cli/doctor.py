"""``chiasm doctor``: what this machine has and lacks, and the fix for each."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich.table import Table

from pipeline.cli.checks import Check, all_checks, looked_at
from pipeline.cli.view import console, errors


def doctor(
    json_lines: Annotated[bool, typer.Option("--json", help="The same as one JSON object on stdout.")] = False,
    ray: Annotated[bool, typer.Option("--ray/--no-ray", help="Start Ray and look at its workers (some seconds).")] = True,
) -> None:
    """Look at this machine. Exit code 0 if `chiasm run driving` has all it needs, else 1."""
    checks: list[Check] = []
    with errors.status("looking …") as status:
        for name, check in all_checks(with_ray=ray):
            status.update(f"looking at {name} …")
            checks.append(looked_at(name, check))
    is_ready = all(check.fine or not check.needed for check in checks)
    if json_lines:
        typer.echo(json.dumps({"ready": is_ready, "checks": [asdict(check) for check in checks]}, indent=2))
    else:
        _print(checks, is_ready)
    if not is_ready:
        raise typer.Exit(1)


def _print(checks: list[Check], is_ready: bool) -> None:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for check in checks:
        mark = "[green]✓[/green]" if check.fine else "[red]✗[/red]" if check.needed else "[dim]–[/dim]"
        table.add_row(mark, check.name, _escaped(check.found))
        if not check.fine and check.fix:
            table.add_row("", "", f"[{'red' if check.needed else 'dim'}]fix:[/] {_escaped(check.fix)}")
    console.print(table, soft_wrap=False)
    lacking = sum(not check.fine and check.needed for check in checks)
    console.print("ready for chiasm run driving" if is_ready else f"not ready: {lacking} to mend, marked ✗")


def _escaped(text: str) -> str:
    """Square brackets as they are, not as rich's markup: ``chiasm[sim]``."""
    return text.replace("[", r"\[")
