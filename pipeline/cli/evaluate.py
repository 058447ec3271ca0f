"""``chiasm evaluate``: how good a scenario's networks are, as a report."""

from __future__ import annotations

import importlib
import importlib.util
import os
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from pipeline.cli.errors import UsageError
from pipeline.cli.view import console, table_of
from pipeline.config import load_scenario, scenario_folder

EVALUATING = "engines.training.evaluating"
NEEDED = {
    "torch": "torch",
    "onnxruntime": "onnxruntime",
    "sklearn": "scikit-learn",
    "matplotlib": "matplotlib",
    "scipy": "scipy",
    "panda3d": "panda3d",
}
"""What is imported, and the name it is installed by."""
PAGE = "index.html"
OUTCOME_STYLES = {"met": "green", "missed": "red"}


def evaluate(
    scenario: Annotated[str, typer.Argument(help="A scenario with a simulated world, e.g. driving.")],
    report: Annotated[Path, typer.Option("--report", help="The folder for the report: a page, pictures, numbers.")],
    quick: Annotated[
        bool, typer.Option("--quick", help="Little data, one seed: minutes, to see that it works. Its figures say nothing.")
    ] = False,
    background: Annotated[
        Path | None, typer.Option("--background", help="A folder of real sound files to test against, as background.")
    ] = None,
    card: Annotated[bool, typer.Option("--card", help="Also write the verdicts into the model card beside the engines.")] = False,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of resampling and of what is trained for comparison.")] = 0,
) -> None:
    r"""Evaluate a scenario's networks in simulation; exit code 1: a leak. Needs the extra: pip install 'chiasm\[train]'."""
    config = load_scenario(scenario_folder(scenario))
    for module in (f"engines.training.{config.name}", EVALUATING):
        if importlib.util.find_spec(module) is None:
            raise UsageError(f"scenario {config.name!r} has no evaluation: there is no simulated world to train and test in")
    for module, name in NEEDED.items():
        if importlib.util.find_spec(module) is None:
            raise UsageError(f"evaluating needs {name}; run pip install 'chiasm[train]'")
    check_report_folder(report)
    if background is not None and not background.is_dir():
        raise UsageError(f"--background {background}: no such folder; name one that holds sound files")
    console.print(f"evaluating {escape(config.name)}, seed {seed}{', quick' if quick else ''}, into {escape(str(report))}")
    found = importlib.import_module(EVALUATING).evaluate(
        config.name, report, quick=quick, seed=seed, background=background, write_to_card=card
    )
    cells = importlib.import_module("engines.training.evaluation.page").verdict_cells
    console.print(verdict_table([(cells(verdict), verdict.outcome) for verdict in found.verdicts]))
    for leak in found.leaks:
        console.print(f"[red]a label leaks:[/red] {escape(leak.who)} tells {escape(leak.head)} better than its streams can")
    console.print(f"report: {escape(str(found.page))}")
    if found.leaks:
        raise typer.Exit(1)


def check_report_folder(folder: Path) -> None:
    """Refuse a folder that cannot be written, or that holds something other than an earlier report."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file; --report names a folder")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / PAGE).is_file():
        raise UsageError(f"{folder} holds other things than a report; name an empty folder, or one that is not there yet")
    there = next(place for place in (folder, *folder.absolute().parents) if place.is_dir())
    if not os.access(there, os.W_OK):
        raise UsageError(f"{folder}: {there} cannot be written to; choose another folder or change its permissions")


def verdict_table(rows: list[tuple[tuple[str, str, str, str, str], Any]]) -> Table:
    """What was asked, target, measured, verdict and detail of each figure, with its outcome, which gives the colour."""
    table = table_of("What it had to reach", "target", "measured", "verdict")
    for (text, target, measured, verdict, detail), outcome in rows:
        style = OUTCOME_STYLES.get(str(outcome), "dim")
        named = escape(text) + (f" [dim]({escape(detail)})[/dim]" if detail else "")
        table.add_row(named, escape(target), escape(measured), f"[{style}]{escape(verdict)}[/{style}]")
    return table
