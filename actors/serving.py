"""Which engine serves a run, and from when on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from actors.building import compiled_runner, engine_name, opened_engine, prepared_engine, shapes_to_compile_for
from actors.engines import Opening, ServedEngine, SteadyEngine, reference_engine
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


def prepare_engines(plan: RunPlan, on_stage: Callable[[str], None]) -> None:
    """Make what a replay on ``runtime.engine`` needs, into the cache, so that opening its engines is quick. Raises EngineError.

    ``on_stage`` is told what is going on. A live run needs none of it: it begins on the reference.
    """
    choice, cache, threads = engine_choice(plan.scenario.runtime.engine), default_cache(), plan.scenario.runtime.threads
    if choice.name == REFERENCE or not plan.is_replay or not plan.decides:
        return
    for role, (manifest, _) in load_manifests(plan.scenario, plan.folder).items():
        on_stage(f"{choice.name}: {role}, deriving")
        path = prepared_engine(manifest, choice, cache, calibration_plan(plan))
        on_stage(f"{choice.name}: {role}, compiling")
        compiled_runner(path, choice, cache, threads, shapes_to_compile_for(choice, plan, role, cache))


@contextmanager
def chosen_engine(plan: RunPlan, role: str) -> Iterator[ServedEngine]:
    """The engine of a role on ``runtime.engine``, as `actors.building.opened_engine` gives it."""
    choice = engine_choice(plan.scenario.runtime.engine)
    with opened_engine(plan, role, choice, default_cache()) as runner:
        yield SteadyEngine(runner, engine_name(choice, runner.manifest.sha256))
