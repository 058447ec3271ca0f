"""``chiasm engines list | build | compare | bench``: what runs the networks here, made ready, compared, timed."""

from __future__ import annotations

import importlib.util
import json
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from actors.building import ready_engines
from actors.comparing import ClassFlips, EngineComparison, compare_engines
from actors.plan import RunPlan, load_manifests, replay_plan
from engines.cache import default_cache
from engines.manifest import EngineError, Precision, load_manifest
from engines.parity import BUDGETS, INT8_BUDGET, INT8_FLIPS, TensorParity
from engines.registry import REFERENCE, EngineChoice, availabilities, engine_choice
from pipeline.cli.errors import UsageError
from pipeline.cli.planning import plan_replay
from pipeline.cli.view import console, errors, table_of
from pipeline.config import load_scenario, scenario_folder
from pipeline.logs.reader import LogReader

app = typer.Typer(help="Backends and precisions: what there is, made ready, compared, timed.", no_args_is_help=True)
NARROW: tuple[Precision, ...] = ("fp16", "int8")
"""Precisions of the reference backend that are made and compared when nothing is named."""

ScenarioName = Annotated[str, typer.Argument(help="A shipped scenario's name, or a folder that holds a scenario.yaml.")]
Choices = Annotated[list[str] | None, typer.Option("--engine", help="BACKEND[-PRECISION], as ort-int8. Repeatable.")]

Log = Annotated[Path | None, typer.Option("--log", help="A log to play; without it, the scenario's own.")]


@app.command("list")
def list_engines(scenario: ScenarioName = "driving") -> None:
    """Which backends can run here, why others cannot, and which engines the scenario has."""
    folder = scenario_folder(scenario)
    manifests = load_manifests(load_scenario(folder), folder)
    backends = table_of("Backends", "runs here")
    backends.add_column("versions, or what to do")
    for name, found in availabilities(next(iter(manifests.values()))[0]).items():
        versions = ", ".join(f"{library} {version}" for library, version in found.versions.items())
        reference = " (reference)" if name == REFERENCE else ""
        backends.add_row(name + reference, "yes" if found.available else "no", Text(found.reason or versions))
    engines = table_of(f"Engines of {scenario}", "precision", "bytes", "sha256", "where")
    for role, (path, manifest) in manifests.items():
        size = (path.parent / manifest.onnx).stat().st_size
        engines.add_row(role, manifest.precision, f"{size:,}", manifest.sha256[:12], str(path.parent))
    hashes = {manifest.sha256 for _, manifest in manifests.values()}
    for path in sorted(default_cache().glob("*/*.json")):
        try:
            derived = load_manifest(path)
        except EngineError as error:
            engines.add_row(path.parent.name, "broken", "", "", str(error))
            continue
        if derived.derived_from in hashes:
            size = (path.parent / derived.onnx).stat().st_size
            engines.add_row(derived.role, derived.precision, f"{size:,}", derived.sha256[:12], str(path.parent))
    console.print(backends)
    console.print(engines)


@app.command("build")
def build(scenario: ScenarioName = "driving", engine: Choices = None, log: Log = None) -> None:
    """Make engines ready and hold them to their parity budgets, so that a run need not wait. Exits with 1 past a budget."""
    replay = _replay(scenario, log)
    choices = [engine_choice(text) for text in engine or ()] or _present(replay)
    if not choices:
        raise UsageError("nothing but the reference can run here; name one with --engine, or see chiasm engines list")
    problems = []
    with _bars() as bars:
        task = bars.add_task("", total=None)
        for choice in choices:
            ready = ready_engines(replay, choice, default_cache(), partial(_describe, bars, task, choice))
            problems += [ready.problem] if ready.problem else []
            console.print(_parity_table(f"{choice.name} against {REFERENCE}", ready.parity, choice))
            console.print(Text(f"made and compared in {ready.took_s:.1f} s, kept in {default_cache()}", style="dim"))
    _end(problems)


@app.command("compare")
def compare(
    log: Log = None,
    a: Annotated[str, typer.Option("--a", help="The engine to compare with.")] = REFERENCE,
    b: Annotated[
        list[str] | None, typer.Option("--b", help="The engine to compare; repeatable. Without it, all that run here.")
    ] = None,
    scenario: Annotated[str, typer.Option("--scenario", help="Whose own log is played when --log names none.")] = "driving",
    json_path: Annotated[Path | None, typer.Option("--json", help="Write all figures and raw durations there.")] = None,
) -> None:
    """Run engines over a log: tensors, decisions and latency side by side. Exits with 1 where a parity budget is passed."""
    replay = _replay(scenario, log)
    reference = engine_choice(a)
    candidates = [engine_choice(text) for text in b or ()] or _present(replay)
    if not candidates:
        raise UsageError("nothing but the reference can run here; see chiasm engines list")
    with _bars() as bars:
        comparisons = compare_engines(replay, reference, candidates, default_cache(), _progress(bars, replay))
    for comparison in comparisons:
        title = f"{comparison.candidate.name} against {comparison.reference.name}"
        console.print(_parity_table(title, comparison.parity, comparison.candidate))
        console.print(_flips_table(comparison.flips))
        console.print(_latency_table(comparison))
    if json_path is not None:
        json_path.write_text(json.dumps([_as_json(c) for c in comparisons]) + "\n", encoding="utf-8")
    _end([f"{c.candidate.name}: {c.problem}" for c in comparisons if c.problem])


@app.command("bench")
def bench(
    scenario: ScenarioName = "driving",
    engine: Choices = None,
    calls: Annotated[int, typer.Option("--calls", min=100, max=1_000_000, help="Timed calls of each engine.")] = 2000,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write all raw durations there.")] = None,
) -> None:
    """Time engines on the windows of the scenario's own log, one call of each after the other, beside bare ONNX Runtime."""
    from benchmarks.engines import BARE, one_tick, time_engines

    replay = _replay(scenario, None)
    choices = [engine_choice(REFERENCE), *([engine_choice(text) for text in engine or ()] or _present(replay))]
    with _bars() as bars:
        task = bars.add_task("", total=None)

        def show(what: str, done: int, total: int) -> None:
            bars.update(task, description=what, completed=done, total=total)

        timed = time_engines(replay, choices, default_cache(), calls, show)
    for role, samples in timed.items():
        console.print(_timing_table(role, samples, BARE))
    console.print(_timing_table("one tick: every engine once", one_tick(timed), BARE))
    if json_path is not None:
        raw = {role: {name: list(values) for name, values in samples.items()} for role, samples in timed.items()}
        json_path.write_text(json.dumps(raw) + "\n", encoding="utf-8")


def _describe(bars: Progress, task: TaskID, choice: EngineChoice, what: str) -> None:
    bars.update(task, description=f"{choice.name}: {what}")


def _replay(scenario: str, log: Path | None) -> RunPlan:
    if log is not None:
        return plan_replay(log, [], "max").plan
    folder = scenario_folder(scenario)
    loaded = load_scenario(folder)
    if loaded.demo_log is None or not (folder / loaded.demo_log).is_file():
        raise UsageError(f"scenario {loaded.name!r} ships no log to play; give --log")
    load_manifests(loaded, folder)
    return replay_plan(loaded, folder, folder / loaded.demo_log)


def _present(replay: RunPlan) -> list[EngineChoice]:
    manifest = next(iter(load_manifests(replay.scenario, replay.folder).values()))[0]
    found = availabilities(manifest)
    backends = [EngineChoice(backend=name) for name, one in found.items() if one.available and name != REFERENCE]
    narrow = NARROW if importlib.util.find_spec("onnx") is not None else ()
    return [*backends, *(EngineChoice(backend=REFERENCE, precision=precision) for precision in narrow)]


@contextmanager
def _bars() -> Iterator[Progress]:
    columns = (SpinnerColumn(), TextColumn("{task.description:<44}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=errors, transient=True) as bars:
        yield bars


def _progress(bars: Progress, replay: RunPlan) -> Callable[[str, int], None]:
    assert replay.replay_log is not None
    log = LogReader(replay.replay_log)
    end = (log.end or {}).get("last_reference_ns", "")
    total_ns = max(int(end) - log.origin_ns, 1) if end.isascii() and end.isdigit() and len(end) <= 20 else None
    tasks: dict[str, TaskID] = {}

    def show(what: str, reached_ns: int) -> None:
        if what not in tasks:
            tasks[what] = bars.add_task(what, total=total_ns)
        bars.update(tasks[what], completed=reached_ns if total_ns is None else min(reached_ns, total_ns))

    return show


def _parity_table(title: str, parity: Sequence[TensorParity], choice: EngineChoice) -> object:
    int8 = choice.precision == "int8"
    budget = f"budget {INT8_BUDGET:g} of rms" if int8 else f"budget {BUDGETS[choice.precision]:g} of max"
    table = table_of(title, "max|a-b| / max|a|", "rms(a-b) / rms(a)", "calls", budget)
    for one in parity:
        held = one.rms_relative <= INT8_BUDGET if int8 else one.max_relative <= BUDGETS[choice.precision]
        mark = Text("held", style="green") if held else Text("passed", style="red")
        figures = (f"{one.max_relative:.1e}", f"{one.rms_relative:.1e}", str(one.calls))
        table.add_row(f"{one.role} {one.tensor}", *figures, mark)
    return table


def _flips_table(flips: Sequence[ClassFlips]) -> object:
    table = table_of("Decisions that flip", "decisions", "flips", "share")
    for one in flips:
        style = "red" if one.share > INT8_FLIPS else ""
        table.add_row(f"{one.head} {one.label}", str(one.decisions), str(one.flips), Text(f"{one.share:.2%}", style=style))
    return table


def _latency_table(comparison: EngineComparison) -> object:
    a, b = comparison.reference.name, comparison.candidate.name
    table = table_of("Latency, ms", f"{a} p50", f"{b} p50", "ratio", f"{a} p99", f"{b} p99", "ratio")
    for role, samples in comparison.latency_ns.items():
        cells = []
        for percent in (50, 99):
            one, other = (float(np.percentile(np.asarray(samples[name]), percent)) / 1e6 for name in (a, b))
            cells += [f"{one:.3f}", f"{other:.3f}", f"{other / one:.2f}"]
        table.add_row(role, *cells)
    return table


def _timing_table(role: str, samples: Mapping[str, array[int]], bare: str) -> object:
    table = table_of(f"{role}, ms", "p50", "p99", "p99.9", "p50 / bare ort")
    base = float(np.percentile(np.asarray(samples[bare]), 50))
    for name, values in samples.items():
        p50, p99, p999 = (float(np.percentile(np.asarray(values), p)) for p in (50, 99, 99.9))
        tail = f"{p999 / 1e6:.3f}" if len(values) >= 10_000 else "–"
        table.add_row(name, f"{p50 / 1e6:.3f}", f"{p99 / 1e6:.3f}", tail, f"{p50 / base:.2f}")
    return table


def _as_json(comparison: EngineComparison) -> dict[str, object]:
    return {
        "a": comparison.reference.name,
        "b": comparison.candidate.name,
        "problem": comparison.problem,
        "parity": [{name: getattr(p, name) for name in TensorParity.__slots__} for p in comparison.parity],
        "flips": [{name: getattr(f, name) for name in ClassFlips.__slots__} for f in comparison.flips],
        "latency_ns": {role: {name: list(v) for name, v in by.items()} for role, by in comparison.latency_ns.items()},
    }


def _end(problems: Sequence[str]) -> None:
    for problem in problems:
        errors.print(Text(f"! {problem}", style="red"))
    if problems:
        raise typer.Exit(1)
    console.print(Text("every budget held", style="green"))
