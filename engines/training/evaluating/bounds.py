"""Ceilings and probes: how well anyone could do with each subset of the sensors, and whether somebody does better."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.training.evaluating.predicting import full_mask, masks, prediction, scored_rows
from engines.training.evaluating.sets import EvaluationPlan
from engines.training.evaluation.bootstrap import Estimate, Replicated, Resampling, replicated
from engines.training.evaluation.ceiling import CeilingFigures, LeakCheck, Particles, ceilings, leak_check
from engines.training.evaluation.metrics import Prediction, auroc
from engines.training.evaluation.probes import linear_probes
from engines.training.evaluation.subsets import share_of_headroom
from engines.training.token_set import TokenSet
from engines.training.worlds import World

FIRST_PARTICLE_SEED = 7000
SETTLED_S = 6.0
"""Ticks before that have no full windows."""
RUNS_AT_ONCE = 20
_Drawn = tuple[dict[str, tuple[NDArray[Any], NDArray[np.float64]]], NDArray[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """One head's ceilings, what they say of the network, and who exceeds them."""

    figures: tuple[CeilingFigures, ...]
    headroom: Estimate
    leaks: tuple[LeakCheck, ...]


def particles_of(
    make_world: Callable[[], World], head: str, plan: EvaluationPlan, processes: int, on_run: Callable[[float], None]
) -> Particles:
    """Draws of the world at moments when the head's question is asked, from seeds that nothing else uses.

    The same whatever ``processes`` is.
    """
    seeds = range(FIRST_PARTICLE_SEED, FIRST_PARTICLE_SEED + plan.particle_runs)
    chunks = [seeds[i : i + RUNS_AT_ONCE] for i in range(0, len(seeds), RUNS_AT_ONCE)]
    clean: dict[str, list[NDArray[Any]]] = {}
    spread: dict[str, NDArray[np.float64]] = {}
    labels = []
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        drawing = partial(drawn_particles, make_world, head, plan.particles_per_run)
        for chunk, found in zip(chunks, pool.map(drawing, chunks), strict=True):
            for percepts, label in found:
                for stream, (values, noise) in percepts.items():
                    clean.setdefault(stream, []).append(values)
                    spread[stream] = noise
                labels.append(label)
            on_run(len(chunk))
    return Particles(
        clean={s: np.concatenate(several) for s, several in clean.items()},
        spread=spread,
        labels={head: np.concatenate(labels).astype(np.int64)},
        seeds=frozenset(seeds),
    )


def drawn_particles(make_world: Callable[[], World], head: str, count: int, seeds: Sequence[int]) -> list[_Drawn]:
    """Of each run: what the streams that perceive anything of the question perceive, with its spread; and the truth."""
    world = make_world()
    dims = {s: list(d) for s in world.design.token_counts if (d := world.percept_dims[head].get(s))}
    drawn = []
    for seed in seeds:
        rng = np.random.default_rng((seed, 7))
        run = world.run(seed, 60.0, "dense", with_senses=False)
        frames = np.arange(int(SETTLED_S * world.frame_rate_hz), run.frames)
        frames = frames[run.scored(frames)[head]]
        frames = np.sort(rng.choice(frames, min(count, len(frames)), replace=False))
        perceived = run.percepts(frames)
        percepts = {s: (perceived[s][0][:, d], np.asarray(perceived[s][1], np.float64)[d]) for s, d in dims.items()}
        drawn.append((percepts, run.labels[head][frames]))
    return drawn


def bounds(
    world: World,
    head: str,
    tokens: TokenSet,
    train: TokenSet,
    particles: Particles,
    plan: EvaluationPlan,
    drawn: Resampling,
    predictors: Mapping[str, Sequence[tuple[str, Prediction]]],
    on_progress: Callable[[int], None],
) -> Bounds:
    """Ceilings at some of the test's ticks. ``predictors``: mask to who predicts with it, over every tick; the network first.

    A stream without a percept for this head perceives nothing of it: its subsets share the ceiling of those without it.
    """
    rows = scored_rows(tokens, head)
    rows = rows[np.asarray(tokens.time_s)[rows] >= SETTLED_S]
    rng = np.random.default_rng(5)
    rows = np.sort(rng.choice(rows, min(plan.queries, len(rows)), replace=False))
    dims = {s: list(world.percept_dims[head][s]) for s in particles.clean}
    seen = {s: np.asarray(tokens.percepts[s][rows], np.float64)[:, d] for s, d in dims.items()}
    classes = len(world.design.heads[head])
    found = ceilings(seen, frozenset(tokens.seeds), particles, {head: classes}, on_progress=on_progress)
    perceiving = tuple(seen)
    figures, values = [], {}
    layout = world.design.layout
    for mask in masks(layout):
        there = dict(zip(layout.streams, mask, strict=True))
        key = "".join(there[s] for s in perceiving)
        if "1" not in key:
            continue
        ceiling = found[key]
        bound = prediction(ceiling.probability[head], tokens, head, rows)
        values[mask] = replicated(bound, drawn, ("auroc",))["auroc"]
        halves = [auroc(p[head][:, 1:].sum(axis=1), bound.positive) for p in (ceiling.first_half, ceiling.second_half)]
        figures.append(
            CeilingFigures(
                head=head,
                mask=mask,
                auroc=values[mask].estimate(),
                half_auroc=float(np.mean(halves)),
                median_effective=ceiling.median_effective,
                few_share=ceiling.few_share,
            )
        )
    by_mask = {f.mask: f for f in figures}
    checks = []
    for mask, several in predictors.items():
        for who, whole in several if mask in by_mask else ():
            checks.append(_checked(head, who, by_mask[mask], whole.at(rows), values[mask], drawn))
    for probe in linear_probes(train, tokens, head, classes, rows):
        mask = "".join("1" if s == probe.stream else "0" for s in layout.streams)
        if mask in by_mask:
            who = f"linear probe on the {probe.source} of {probe.stream}"
            checks.append(_checked(head, who, by_mask[mask], probe.prediction, values[mask], drawn))
    whole_mask = full_mask(layout)
    network = replicated(predictors[whole_mask][0][1].at(rows), drawn, ("auroc",))["auroc"]
    singles = [values[m] for m in values if m.count("1") == 1]
    return Bounds(
        figures=tuple(figures),
        headroom=share_of_headroom(network, values[whole_mask], singles),
        leaks=tuple(checks),
    )


def _checked(
    head: str, who: str, figures: CeilingFigures, predicted: Prediction, ceiling: Replicated, drawn: Resampling
) -> LeakCheck:
    return leak_check(head, who, figures, replicated(predicted, drawn, ("auroc",))["auroc"], ceiling)
