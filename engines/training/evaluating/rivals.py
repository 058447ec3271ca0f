"""Networks trained for comparison with the shipped one: other variants, models for one subset or one task, and ablations."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from engines.networks.layout import FusionLayout
from engines.networks.variant import FusionNetwork
from engines.networks.variants import LATE, VARIANTS
from engines.training.evaluating.sets import EvaluationPlan
from engines.training.fusing import low_level_shapes, train_fusion
from engines.training.objective import FusingOptions
from engines.training.shipped import VARIANT
from engines.training.token_set import TokenSet, load_token_set

SEED = 11
"""Of rivals that are trained once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rival:
    """One network to train."""

    name: str
    variant: str
    seed: int
    steps: int
    options: FusingOptions


def rivals_of(plan: EvaluationPlan, layout: FusionLayout) -> list[Rival]:
    """Everything that is compared: ``variant NAME SEED``, ``only MASK``, ``task HEAD``, ``late NAME``, ``ablation NAME``."""
    long, fusing = plan.rival_steps, plan.fusing
    found = [
        Rival(name=f"variant {name} {seed}", variant=name, seed=seed, steps=plan.variant_steps, options=fusing)
        for seed in plan.variant_seeds
        for name in VARIANTS
    ]
    streams = len(layout.streams)
    masks = [format(i, f"0{streams}b") for i in range(1, 2**streams)]
    for mask in masks:
        options = replace(fusing, present=tuple(bit == "1" for bit in mask), taken=0.0)
        found.append(Rival(name=f"only {mask}", variant=VARIANT, seed=SEED, steps=long, options=options))
    for head in layout.heads:
        found.append(Rival(name=f"task {head}", variant=VARIANT, seed=SEED, steps=long, options=replace(fusing, tasks=(head,))))
    for name in LATE:
        found.append(Rival(name=f"late {name}", variant=name, seed=SEED, steps=long, options=fusing))
    ablations = {
        "as shipped, another seed": fusing,
        "no adversary": replace(fusing, adversary=0.0),
        "equal weights": replace(fusing, weighting="equal"),
        "PCGrad": replace(fusing, weighting="pcgrad"),
        "no distillation": replace(fusing, distillation=0.0),
    }
    found += [
        Rival(name=f"ablation {name}", variant=VARIANT, seed=SEED, steps=long, options=options)
        for name, options in ablations.items()
    ]
    return found


class Rivals:
    """The trained rivals, each in a file of arrays; trained in worker processes, one thread each."""

    def __init__(self, folder: Path, layout: FusionLayout, train: TokenSet) -> None:
        self._folder, self._layout, self._shapes = folder, layout, low_level_shapes(train)

    def train(
        self, wanted: Sequence[Rival], tokens: Path, processes: int, began: Callable[[str, float], Callable[[float], None]]
    ) -> None:
        """Train those that an interrupted evaluation has not trained yet. ``tokens``: the folder of the training set."""
        self._folder.mkdir(parents=True, exist_ok=True)
        waiting = [rival for rival in wanted if not self._path(rival.name).exists()]
        # the slowest first: PCGrad goes back through the network once a task, and would be left to one core at the end
        waiting.sort(key=lambda rival: (rival.options.weighting != "pcgrad", -rival.steps))
        on_steps = began("training rivals", sum(rival.steps for rival in waiting))
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(processes, mp_context=context) as pool:
            jobs = {pool.submit(_train, rival, tokens, self._layout, self._path(rival.name)): rival for rival in waiting}
            for job in as_completed(jobs):
                job.result()
                on_steps(jobs[job].steps)

    def network(self, name: str) -> FusionNetwork:
        """A trained rival, for inference."""
        variant = name.split()[1] if name.split()[0] in ("variant", "late") else VARIANT
        network = VARIANTS[variant](self._layout, self._shapes)
        with np.load(self._path(name), allow_pickle=False) as arrays:
            network.load_state_dict({key: torch.from_numpy(arrays[key]) for key in arrays.files})
        network.train(False)
        return network

    def _path(self, name: str) -> Path:
        return self._folder / f"{name.replace(' ', '_').replace(',', '')}.npz"


def _train(rival: Rival, tokens: Path, layout: FusionLayout, path: Path) -> None:
    torch.set_num_threads(1)
    network = train_fusion(
        load_token_set(tokens), layout, rival.variant, seed=rival.seed, steps=rival.steps, options=rival.options
    )
    part = path.with_suffix(".part.npz")
    arrays: dict[str, np.ndarray] = {name: value.numpy() for name, value in network.state_dict().items()}  # type: ignore[type-arg]
    np.savez(part, **arrays)  # type: ignore[arg-type]
    part.rename(path)
