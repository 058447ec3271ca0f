"""``chiasm simulate``: write a simulated log."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.errors import UsageError
from pipeline.cli.planning import check_output, parse_duration_s
from pipeline.cli.view import console, progress_bar
from pipeline.config import load_scenario, scenario_folder


def simulate(
    scenario: Annotated[str, typer.Argument(help="A scenario with a simulated world.")],
    log: Annotated[Path, typer.Argument(help="The log (MCAP) to write.")],
    seed: Annotated[int, typer.Option("--seed", min=0, help="The same seed gives the same log.")] = 0,
    duration: Annotated[str, typer.Option("--for", help="How long, e.g. 60s.")] = "60s",
) -> None:
    r"""Simulate a run and write it as a log, with ground truth. Needs the extra: pip install 'chiasm\[sim]'."""
    folder = scenario_folder(scenario)
    config = load_scenario(folder)
    duration_s = parse_duration_s(duration, "--for")
    check_output(log)
    module = f"pipeline.scenarios.{config.name}.simulate"
    if importlib.util.find_spec(f"pipeline.scenarios.{config.name}") is None or importlib.util.find_spec(module) is None:
        raise UsageError(f"scenario {config.name!r} has no simulated world; record real sources with chiasm record")
    for needed in ("panda3d", "scipy", "neurokit2"):
        if importlib.util.find_spec(needed) is None:
            raise UsageError(f"simulating needs {needed}; run pip install 'chiasm[sim]'")
    world = importlib.import_module(module)
    with progress_bar(f"simulating {config.name}, seed {seed}", duration_s, "s") as advance:
        world.simulate(log, config, seed=seed, duration_s=duration_s, on_progress=advance)
    size_mb = log.stat().st_size / 1e6
    console.print(f"{log}: a [bold]simulated[/bold] run of {config.name}, seed {seed}, {duration_s:g} s, {size_mb:.1f} MB")
