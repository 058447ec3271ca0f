"""From arguments to a `RunPlan`: scenario, sources, log, checked before anything starts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from actors.plan import RunPlan, load_manifests, replay_plan
from pipeline.cli.errors import UsageError
from pipeline.config import Scenario, load_scenario, scenario_folder
from pipeline.logs.reader import LogReader
from pipeline.sinks.base import open_sink
from pipeline.sources.assign import NOT_VALIDATED, assign_sources
from pipeline.sources.base import SourceSpec, StreamInfo
from pipeline.sources.opening import duration_of, open_source

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)?")
_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A plan, how long it plays (None: until stopped), and the log that holds its ground truth, if one does."""

    plan: RunPlan
    duration_ns: int | None
    truth_log: Path | None
    about: str
    infos: Mapping[str, StreamInfo]
    """The streams whose sources could be opened before the run: files and logs."""


def parse_duration_s(text: str, option: str) -> float:
    """``30s``, ``5m``, ``1h`` or bare seconds. Raises UsageError."""
    match = _DURATION.fullmatch(text.strip())
    if match is None or float(match[1]) <= 0:
        raise UsageError(f"{option} {text!r} is not a duration; write 30s, 5m or 1h")
    return float(match[1]) * _UNIT_S[match[2] or "s"]


def plan_live(
    scenario_name: str,
    sources: list[str],
    overrides: list[str],
    *,
    record: Path | None = None,
    duration: str | None = None,
    sinks: list[str] | None = None,
    decides: bool = True,
) -> Planned:
    """The plan of a live run. Every source is opened once here, so that what is wrong is said before anything starts."""
    for_ns = int(parse_duration_s(duration, "--for") * 1e9) if duration is not None else None
    folder = scenario_folder(scenario_name)
    scenario = load_scenario(folder, overrides)
    if record is not None:
        check_output(record)
    assigned = assign_sources(scenario.needs(recording=record is not None), sources, _defaults(scenario, folder, bool(sources)))
    specs = started_together(assigned.specs)
    if not specs:
        raise UsageError("no stream has a source; give --source STREAM=URI for at least one")
    if decides:
        load_manifests(scenario, folder)
    for uri in sinks or ():
        with open_sink(uri):
            pass
    here = {stream: spec for stream, spec in specs.items() if not _is_elsewhere(stream, spec, scenario)}
    infos = {stream: info for stream, spec in here.items() if (info := _probe(spec)) is not None}
    notices = assigned.notices or _not_validated(infos)  # a log says only once it is open whether it was simulated
    plan = RunPlan(
        scenario=scenario,
        folder=folder,
        sources=specs,
        record=record,
        sinks=tuple(sinks or ()),
        for_ns=for_ns,
        notices=scenario.with_notice(notices),
        decides=decides,
    )
    targets = {spec.target for spec in specs.values() if spec.scheme == "log"}
    truth_log = Path(targets.pop()) if len(targets) == 1 and not any(s.loop_period_ns for s in specs.values()) else None
    return Planned(
        plan=plan,
        duration_ns=for_ns if for_ns is not None else _duration_ns(here),
        truth_log=truth_log,
        about=", ".join(dict.fromkeys(_origin(spec, infos) for spec in specs.values())),
        infos=infos,
    )


def plan_replay(
    log_path: Path, overrides: list[str], speed: str, *, record: Path | None = None, as_it_happened: bool = False
) -> Planned:
    """The plan of a replay, in event time or as it happened, with the scenario that the log names."""
    factor = _speed(speed)
    log = LogReader(log_path)
    if as_it_happened and next(log.decisions(), None) is None:
        raise UsageError(f"{log_path}: holds no decisions, so nothing says what was admitted; leave out --as-it-happened")
    if record is not None:
        check_output(record)
    folder = scenario_folder(log.metadata.get("scenario_folder") or log.scenario)
    scenario = load_scenario(folder, overrides)
    load_manifests(scenario, folder)
    foreign = set(log.streams) - set(scenario.streams)
    if foreign:
        raise UsageError(f"{log_path}: holds the streams {sorted(foreign)}, which scenario {scenario.name!r} does not have")
    plan = replace(
        replay_plan(scenario, folder, log_path, speed=factor),
        as_it_happened=as_it_happened,
        stop_after_ns=_last_reference_ns(log),
        record=record,
        notices=scenario.with_notice(tuple(log.metadata.get("notices", "").splitlines()) or _not_validated(log.streams)),
    )
    about = ", ".join(dict.fromkeys(i.origin for i in log.streams.values()))
    return Planned(plan=plan, duration_ns=None, truth_log=log_path, about=about, infos=log.streams)


def _last_reference_ns(log: LogReader) -> int | None:
    """Where a replay stops: at the log's last decision. None when it has none, or was cut."""
    text = (log.end or {}).get("last_reference_ns")
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 20:
        raise UsageError(f"{log.path}: last_reference_ns of its end record is {text[:30]!r}, not a time; replay another copy")
    return int(text)


def check_output(path: Path) -> None:
    """Refuse a log path that cannot be written or would overwrite something."""
    if path.exists():
        raise UsageError(f"{path} exists; remove it or choose another name")
    if not path.parent.is_dir():
        raise UsageError(f"{path}: the folder {path.parent} does not exist; make it first")


def _speed(text: str) -> float | None:
    if text == "max":
        return None
    try:
        speed = float(text)
    except ValueError:
        speed = 0.0
    if not 0 < speed < 1e6:
        raise UsageError(f"--speed {text!r}: write 1, another factor, or max")
    return speed


def _defaults(scenario: Scenario, folder: Path, given: bool) -> dict[str, SourceSpec]:
    """The scenario's own log, as the sources that serve when none are given."""
    if scenario.demo_log is None or not (folder / scenario.demo_log).is_file():
        if given:
            return {}
        raise UsageError(f"scenario {scenario.name!r} ships no log to play; give --source STREAM=URI, or chiasm simulate one")
    demo = str(folder / scenario.demo_log)
    held = LogReader(demo).streams
    return {
        stream: SourceSpec(needs=needs, scheme="log", target=demo) for stream, needs in scenario.needs().items() if stream in held
    }


def _probe(spec: SourceSpec) -> StreamInfo | None:
    """Open and close the source. Devices and sockets are left to the actor that will own them."""
    if spec.is_live:
        return None
    with open_source(spec) as source:
        return source.info


def _origin(spec: SourceSpec, infos: Mapping[str, StreamInfo]) -> str:
    info = infos.get(spec.needs.stream)
    return info.origin or spec.target if info is not None else f"{spec.scheme} {spec.target}"


def _not_validated(infos: Mapping[str, StreamInfo]) -> tuple[str, ...]:
    real = [stream for stream, info in infos.items() if not info.simulated]
    return (f"{', '.join(real)}: {NOT_VALIDATED}",) if real else ()


def _is_elsewhere(stream: str, spec: SourceSpec, scenario: Scenario) -> bool:
    """Its actor runs on another host, which alone has the file. (What ships with the package is on both.)"""
    return stream in scenario.runtime.place and not Path(spec.target).exists()


def started_together(specs: dict[str, SourceSpec]) -> dict[str, SourceSpec]:
    """Nothing is captured before a run begins: a recording moved to before its start moves the other recordings later instead."""
    recordings = {stream: spec for stream, spec in specs.items() if not spec.is_live}
    earliest_ns = min((spec.offset_ns for spec in recordings.values()), default=0)
    if earliest_ns >= 0:
        return specs
    return {**specs, **{s: replace(spec, offset_ns=spec.offset_ns - earliest_ns) for s, spec in recordings.items()}}


def _duration_ns(specs: dict[str, SourceSpec]) -> int | None:
    spec = next(iter(specs.values()), None)
    return None if spec is None or spec.loop_period_ns or spec.is_live else duration_of(spec)
