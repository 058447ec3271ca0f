"""A run, as plain data that travels to every actor, and how each stage is built from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from engines.manifest import Manifest, load_manifest
from engines.registry import WEIGHTS, manifest_paths
from pipeline.admission import AdmissionMachine
from pipeline.clock import Clock
from pipeline.config import ConfigError, Scenario
from pipeline.contract import Contract, StreamContract
from pipeline.logs.reader import LogReader
from pipeline.messages import Decision, Progress, Tokens
from pipeline.policy.hysteresis import HysteresisPolicy
from pipeline.recorded_admission import RecordedAdmission
from pipeline.sources.base import SourceSpec, StreamInfo
from pipeline.stages.decide import DecideStage, Identity
from pipeline.stages.encode import EncodeStage
from pipeline.stages.fuse import Admitting, FuseStage, FusionNetwork
from pipeline.stages.infer import Infer
from pipeline.windows import WindowSpec

TELEMETRY_SLACK_NS = 12_000_000
"""The row period of the slowest vehicle bus we read (83 Hz): the next row would lie past the window's end."""
TELEMETRY_GAP_NS = 250_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPlan:
    """One run: which scenario, on which sources or which log, with what beside it.

    ``replay_log`` set: a replay at ``speed`` (None: as fast as can be), in event time or ``as_it_happened`` (admitting what the
    log's receipts say was admitted); else a live run of ``sources``.
    ``decides`` False is ingest only (`chiasm record`).
    """

    scenario: Scenario
    folder: Path
    sources: Mapping[str, SourceSpec] = field(default_factory=dict)
    replay_log: Path | None = None
    speed: float | None = None
    as_it_happened: bool = False
    stop_after_ns: int | None = None
    record: Path | None = None
    sinks: tuple[str, ...] = ()
    for_ns: int | None = None
    notices: tuple[str, ...] = ()
    decides: bool = True

    @property
    def is_replay(self) -> bool:
        """Whether stamps come from a log."""
        return self.replay_log is not None

    @property
    def encoded_streams(self) -> tuple[str, ...]:
        """The scenario's streams, in its order."""
        return tuple(self.scenario.streams)


def replay_plan(scenario: Scenario, folder: Path, log: Path, *, speed: float | None = None) -> RunPlan:
    """The event-time replay of a log by a scenario, from its first sample to its last, without anything beside it."""
    streams = LogReader(log).streams
    sources = {
        stream: SourceSpec(needs=needs, scheme="log", target=str(log))
        for stream, needs in scenario.needs().items()
        if stream in streams
    }
    return RunPlan(scenario=scenario, folder=folder, sources=sources, replay_log=log, speed=speed)


def calibration_plan(plan: RunPlan) -> RunPlan | None:
    """The replay of the scenario's own log, on which int8 engines are calibrated; None where it ships none."""
    demo = plan.scenario.demo_log
    if demo is None or not (plan.folder / demo).is_file():
        return None
    return replay_plan(plan.scenario, plan.folder, plan.folder / demo)


def engines_folder(scenario: Scenario, folder: Path) -> Path:
    """Where the scenario's engines lie: its own ``engines`` path, its ``engines`` folder, or what ships under its name."""
    if scenario.engines is not None:
        return (folder / scenario.engines).resolve()
    own = folder / "engines"
    return own if own.is_dir() else WEIGHTS / scenario.name


def load_manifests(scenario: Scenario, folder: Path) -> dict[str, tuple[Path, Manifest]]:
    """Role to (path, manifest) of every engine that the scenario needs, hashes checked.

    Raises ConfigError or EngineError: one line that names what is missing.
    """
    where = engines_folder(scenario, folder)
    paths = manifest_paths(where)
    manifests: dict[str, tuple[Path, Manifest]] = {}
    for role in (*(role_of(s) for s in scenario.streams), "fusion"):
        if role not in paths:
            raise ConfigError(f"{where}: no engine for {role!r} ({role}.json); restore it or run chiasm train {scenario.name}")
        manifests[role] = (paths[role], load_manifest(paths[role]))
    _check_agreement(scenario, where, manifests["fusion"][1])
    return manifests


def _check_agreement(scenario: Scenario, where: Path, fusion: Manifest) -> None:
    if set(fusion.streams) != set(scenario.streams):
        raise ConfigError(
            f"{where}/fusion.json: reads the streams {sorted(fusion.streams)}, the scenario has {sorted(scenario.streams)}; "
            "make them agree, or train this scenario"
        )
    for name, head in scenario.heads.items():
        if fusion.head(name).labels != head.labels:
            raise ConfigError(
                f"{where}/fusion.json: head {name!r} has the labels {list(fusion.head(name).labels)}, "
                f"the scenario {list(head.labels)}; make them agree"
            )


def role_of(stream: str) -> str:
    """``camera.left`` is served by the engine for ``camera``."""
    return stream.partition(".")[0]


def window_spec(manifest: Manifest) -> WindowSpec:
    """The windows that an encoder reads, from its manifest."""
    if manifest.hop_ns == 0:
        return WindowSpec(kind="sample")
    if manifest.role == "microphone":
        return WindowSpec(
            kind="audio",
            window_ns=manifest.window_ns,
            hop_ns=manifest.hop_ns,
            sample_rate_hz=manifest.sample_rate_hz,
            slack_ns=-(-1_000_000_000 // manifest.sample_rate_hz),
        )
    return WindowSpec(
        kind="telemetry",
        window_ns=manifest.window_ns,
        hop_ns=manifest.hop_ns,
        gap_ns=TELEMETRY_GAP_NS,
        slack_ns=TELEMETRY_SLACK_NS,
        step_ns=manifest.step_ns,
        hold_ns=manifest.hold_ns,
    )


def contract_of(plan: RunPlan, infos: Mapping[str, StreamInfo], origin_ns: int) -> Contract:
    """The temporal contract of a run with these streams. Raises ConfigError when it cannot be kept."""
    scenario = plan.scenario
    manifests = load_manifests(scenario, plan.folder)
    reference = scenario.reference.stream
    period_ns = round(1e9 / scenario.reference.rate_hz)
    if reference is not None and reference in infos and infos[reference].period_ns > 0:
        period_ns = infos[reference].period_ns
    streams = tuple(
        StreamContract(
            stream=name,
            window=window_spec(manifests[role_of(name)][1]),
            max_age_ns=s.max_age_ms * 1_000_000,
            wait_ns=s.wait_ms * 1_000_000,
            liveness_ns=s.liveness_ns,
            sparse=s.sparse,
            min_gap_ns=infos[name].min_gap_ns,
        )
        for name, s in scenario.streams.items()
        if name in infos
    )
    try:
        return Contract(
            streams=streams,
            reference_stream=reference,
            period_ns=period_ns,
            deadline_ns=scenario.deadline_ms * 1_000_000,
            reserve_ns=scenario.reserve_ms * 1_000_000,
            origin_ns=origin_ns,
            stop_after_ns=plan.stop_after_ns,
        )
    except ValueError as error:
        raise ConfigError(f"scenario {scenario.name!r}: {error}") from error


def encode_stage(
    engine: tuple[WindowSpec, Infer],
    clock: Clock,
    origin_ns: int,
    publish: Callable[[Tokens], None],
    progress: Callable[[Progress], None] | None,
) -> EncodeStage:
    """One stream's encode stage."""
    window, runner = engine
    return EncodeStage(window=window, infer=runner, clock=clock, origin_ns=origin_ns, publish=publish, progress=progress)


def fuse_stage(
    plan: RunPlan,
    engine: tuple[FusionNetwork, Identity],
    contract: Contract,
    clock: Clock,
    publish: Callable[[Decision], None],
    progress: Callable[[Progress], None] | None,
) -> FuseStage:
    """The fuse stage with its policy."""
    network, identity = engine
    scenario = plan.scenario
    policy = scenario.policy
    decide = DecideStage(
        policy=HysteresisPolicy(
            labels=scenario.heads[policy.action_head].labels,
            enter=policy.enter,
            threshold=policy.threshold,
            memory=policy.memory,
            blind_action=policy.blind_action,
        ),
        action_head=policy.action_head,
        labels={name: head.labels for name, head in scenario.heads.items()},
        identity=identity,
        deadline_ns=contract.deadline_ns,
        clock=clock,
        live=not plan.is_replay,
    )
    machine = _admission(plan, contract)
    return FuseStage(machine=machine, network=network, decide=decide, clock=clock, publish=publish, progress=progress)


def _admission(plan: RunPlan, contract: Contract) -> Admitting:
    if plan.replay_log is not None and plan.as_it_happened:
        return RecordedAdmission(LogReader(plan.replay_log).decisions(), contract, str(plan.replay_log))
    return AdmissionMachine(contract, clocked=not plan.is_replay)
