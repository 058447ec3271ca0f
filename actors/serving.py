"""Which engine serves a run, and from when on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from actors.building import compiled_runner, engine_name, prepared_engine
from actors.engines import Opening, ServedEngine, SteadyEngine, reference_engine, warm_up
from actors.plan import RunPlan, calibration_plan, load_manifests
from actors.upgrading import upgrading_engine
from engines.cache import default_cache
from engines.registry import REFERENCE, engine_choice


def opening_of(plan: RunPlan) -> Opening:
    """On the reference, or in a replay on ``runtime.engine`` from the first decision on, or live from when it is ready.

    Raises EngineError for an engine choice that is none.
    """
    choice = engine_choice(plan.scenario.runtime.engine)
    if choice.name == REFERENCE:
        return reference_engine
    return chosen_engine if plan.is_replay else upgrading_engine


@contextmanager
def chosen_engine(plan: RunPlan, role: str) -> Iterator[ServedEngine]:
    """The activated and warmed engine of a role on ``runtime.engine``, made now if it is not in the cache."""
    choice, cache, threads = engine_choice(plan.scenario.runtime.engine), default_cache(), plan.scenario.runtime.threads
    manifest = load_manifests(plan.scenario, plan.folder)[role][0]
    path = prepared_engine(manifest, choice, cache, calibration_plan(plan))
    with compiled_runner(path, choice, cache, threads) as runner:
        warm_up(runner, runner.manifest)
        yield SteadyEngine(runner, engine_name(choice, runner.manifest.sha256))
