"""``chiasm train``: a scenario's networks from nothing."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.errors import UsageError
from pipeline.cli.view import console
from pipeline.config import SCENARIOS, Scenario, load_scenario, scenario_folder


def train(
    scenario: Annotated[str, typer.Argument(help="A scenario with a simulated world, e.g. driving.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Where to write the engines; without it, over those the scenario has.", show_default=False),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="The same seed gives the same networks on the same machine.")] = 1,
) -> None:
    r"""Train a scenario's networks in simulation, from nothing. Needs the extra: pip install 'chiasm\[train]'."""
    folder = scenario_folder(scenario)
    config = load_scenario(folder)
    module = f"engines.training.{config.name}"
    if importlib.util.find_spec(module) is None:
        raise UsageError(
            f"scenario {config.name!r} has no training of its own; train it elsewhere and put ONNX and manifests in its folder"
        )
    for needed in ("torch", "onnx", "panda3d", "scipy", "neurokit2"):
        if importlib.util.find_spec(needed) is None:
            raise UsageError(f"training needs {needed}; run pip install 'chiasm[train]'")
    output = out if out is not None else _own_engines(config, folder)
    console.print(f"training {config.name}, seed {seed}, into {output}", soft_wrap=True)
    outcome = importlib.import_module(module).train(output, seed=seed)
    _print_figures(outcome.figures)
    console.print(f"engines: {outcome.folder}", soft_wrap=True)


def _own_engines(config: Scenario, folder: Path) -> Path:
    """The scenario's engines folder. A scenario outside the package never writes over the engines that ship."""
    if folder.is_relative_to(SCENARIOS) or config.engines is not None:
        from actors.plan import engines_folder

        return engines_folder(config, folder)
    return folder / "engines"


def _print_figures(figures: dict[str, dict[str, dict[str, float]]]) -> None:
    """On held-out drives, with all streams there, by head. (All masks are in the figures file beside the engines.)"""
    for head, by_mask in figures.items():
        if not isinstance(by_mask, dict):
            continue
        sound = max((mask for mask in by_mask if isinstance(by_mask[mask], dict)), key=lambda m: m.count("1"), default=None)
        if sound is not None:
            described = ", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in by_mask[sound].items())
            console.print(f"{head}: {described}", soft_wrap=True)
