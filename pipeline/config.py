"""Settings: the schema of ``scenario.yaml``, and the only reader of settings from files and the command line.

A scenario is a folder. Everything in it is checked once, when it is loaded; unknown keys are refused, and an error names
the file, the field, the value and the fix.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, model_validator

from pipeline.sources.base import Channel, StreamKind, StreamNeeds

SCENARIOS = Path(__file__).parent / "scenarios"
SHM_MARGIN_BYTES = 32 * 2**20


class ConfigError(Exception):
    """A setting is wrong: one line that names the file, the field, the value and the fix."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)


class ChannelConfig(_Frozen):
    """One telemetry channel: its name, its unit, and whether a source without it is refused."""

    name: str
    unit: str
    required: bool = False


class StreamConfig(_Frozen):
    """One stream, with its part of the temporal contract."""

    kind: StreamKind
    max_age_ms: PositiveInt
    wait_ms: int = Field(ge=0)
    sparse: bool = False
    heartbeat_ms: PositiveInt = 1000
    sample_rate_hz: PositiveInt = 16_000
    block_ms: PositiveInt = 50
    channels: tuple[ChannelConfig, ...] = ()

    @property
    def liveness_ns(self) -> int:
        """Without a word for this long a stream is missing: three heartbeats if sparse, else a second or its maximum age."""
        heartbeats_ms = 3 * self.heartbeat_ms if self.sparse else 1000
        return (heartbeats_ms if self.sparse else max(heartbeats_ms, self.max_age_ms)) * 1_000_000


class ReferenceConfig(_Frozen):
    """What sets the reference times: a stream's samples (with its nominal rate), or, without a stream, the rate alone."""

    stream: str | None = None
    rate_hz: float = Field(gt=0, le=1000)


class HeadConfig(_Frozen):
    """One output of the fusion network and the names of its classes."""

    labels: tuple[str, ...] = Field(min_length=2)


class PolicyConfig(_Frozen):
    """From probabilities to an action: hysteresis, and what to do when blind."""

    action_head: str
    enter: dict[str, PositiveInt] = {}
    threshold: float = Field(default=0.5, ge=0, le=1)
    memory: PositiveInt = 16
    blind_action: str
    """The action when no stream is present at all."""


class RuntimeConfig(_Frozen):
    """How the runtime runs; nothing here may change a decision, but for an engine within its parity budget."""

    engine: str = Field(default="ort", pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", max_length=40)
    """What serves: ``BACKEND[-PRECISION]``. A live run begins on ``ort`` and changes over when it is ready."""
    link: Literal["auto", "shared_memory", "ray"] = "auto"
    encoders: Literal["together", "apart"] = "together"
    threads: PositiveInt = 1
    ray_address: str | None = None
    place: dict[str, str] = Field(default_factory=dict)
    """Stage to the Ray resource that its host offers: ``camera: edge`` runs where ``ray start --resources='{"edge": 1}'``."""
    clock_uncertainty_ms: float = Field(default=2.0, gt=0, le=1000)
    """A host whose clock cannot be compared more closely than this is refused."""
    horizon_ms: PositiveInt = 2000
    frames_in_flight: PositiveInt = 8


class Scenario(_Frozen):
    """The whole of ``scenario.yaml``."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    title: str = ""
    notice: str = ""
    """One line that is said and logged whenever the scenario plays."""
    trained_in_simulation: bool = True
    reference: ReferenceConfig
    deadline_ms: PositiveInt
    reserve_ms: int = Field(ge=0)
    streams: dict[str, StreamConfig] = Field(min_length=1)
    heads: dict[str, HeadConfig] = Field(min_length=1)
    policy: PolicyConfig
    engines: str | None = None
    demo_log: str | None = None
    runtime: RuntimeConfig = RuntimeConfig()

    @model_validator(mode="after")
    def _consistent(self) -> Scenario:
        if self.reference.stream is not None and self.reference.stream not in self.streams:
            raise ValueError(f"reference.stream {self.reference.stream!r} is none of the streams {sorted(self.streams)}")
        if self.reserve_ms >= self.deadline_ms:
            raise ValueError(f"reserve_ms {self.reserve_ms} must be below deadline_ms {self.deadline_ms}")
        latest_ms = self.deadline_ms - self.reserve_ms
        for name, stream in self.streams.items():
            if stream.wait_ms >= latest_ms:
                raise ValueError(
                    f"streams.{name}.wait_ms {stream.wait_ms} must be below deadline_ms - reserve_ms = {latest_ms}: "
                    "lower it, or raise deadline_ms"
                )
        if self.policy.action_head not in self.heads:
            raise ValueError(f"policy.action_head {self.policy.action_head!r} is none of the heads {sorted(self.heads)}")
        longest = max(self.policy.enter.values(), default=1)
        if longest > self.policy.memory:
            raise ValueError(f"policy.enter asks for {longest} in a row, policy.memory keeps {self.policy.memory}: raise memory")
        actions = self.heads[self.policy.action_head].labels
        for action in (*self.policy.enter, self.policy.blind_action):
            if action not in actions:
                raise ValueError(f"policy names the action {action!r}, the head has {list(actions)}")
        return self

    @property
    def sha256(self) -> str:
        """Over everything that can change a decision (not over title, notice, paths and the runtime's settings)."""
        content = self.model_dump(mode="json", exclude={"title", "notice", "engines", "demo_log", "runtime"})
        return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    def with_notice(self, notices: tuple[str, ...]) -> tuple[str, ...]:
        """What a run or a log has to say, the scenario's own notice first."""
        return tuple(dict.fromkeys((self.notice, *notices) if self.notice else notices))

    def needs(self, *, recording: bool = False) -> dict[str, StreamNeeds]:
        """What each stream's source must deliver."""
        return {
            name: StreamNeeds(
                stream=name,
                kind=s.kind,
                sample_rate_hz=s.sample_rate_hz,
                channels=tuple(Channel(name=c.name, unit=c.unit, required=c.required) for c in s.channels),
                block_ns=s.block_ms * 1_000_000,
                recording=recording,
            )
            for name, s in self.streams.items()
        }


def scenario_folder(name_or_path: str) -> Path:
    """The folder of a shipped scenario's name, or of a path. Raises ConfigError naming what there is."""
    shipped = sorted(p.parent.name for p in SCENARIOS.glob("*/scenario.yaml"))
    if name_or_path in shipped:
        return SCENARIOS / name_or_path
    folder = Path(name_or_path)
    if (folder / "scenario.yaml").is_file():
        return folder
    if folder.is_dir():
        raise ConfigError(f"{folder}: no scenario.yaml in this folder; a scenario is a folder that holds one")
    near = difflib.get_close_matches(name_or_path, shipped, n=1)
    hint = f"did you mean {near[0]!r}?" if near else "or give a folder that holds a scenario.yaml"
    raise ConfigError(f"no scenario {name_or_path!r}: shipped are {', '.join(shipped)}; {hint}")


def load_scenario(folder: Path, overrides: list[str] | None = None) -> Scenario:
    """Read and check ``folder/scenario.yaml``, with ``key.path=value`` overrides (values are YAML) put over it."""
    path = folder / "scenario.yaml"
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); check the path and its permissions") from error
    if len(text) > 1_000_000:
        raise ConfigError(f"{path}: larger than 1 MB; this is not a scenario")
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML ({' '.join(str(error).split())}); fix that line") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: must be a mapping of keys, not {type(data).__name__}")
    for override in overrides or []:
        _apply(data, override)
    try:
        return Scenario.model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"{path}: {_first_problem(error)}") from error


def _apply(data: dict[str, Any], override: str) -> None:
    key, separator, value = override.partition("=")
    if not separator or not key:
        raise ConfigError(f"--set {override!r}: write key=value, for example runtime.link=ray")
    node: Any = data
    *parents, last = key.split(".")
    for part in parents:
        node = node.setdefault(part, {})
        if not isinstance(node, dict):
            raise ConfigError(f"--set {override!r}: {part!r} holds a value, not further keys")
    try:
        node[last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override!r}: {value!r} is not a YAML value") from error


def _first_problem(error: ValidationError) -> str:
    # An unknown key is often a required one misspelt, so it goes before the one that is then missing.
    problem = min(error.errors(), key=lambda p: p["type"] != "extra_forbidden")
    field = ".".join(str(part) for part in problem["loc"])
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if problem["type"] == "extra_forbidden":
        known = _known_keys(problem["loc"])
        near = difflib.get_close_matches(str(problem["loc"][-1]), known, n=1)
        fix = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
        return f"unknown key {field!r}: remove it; {fix}{more}"
    message = problem["msg"].removeprefix("Value error, ")
    value = "" if problem["type"] in ("missing", "value_error") else f", not {problem['input']!r}"
    return f"{field + ': ' if field else ''}{message}{value}{more}"


def _known_keys(location: tuple[int | str, ...]) -> list[str]:
    sections: dict[str, type[BaseModel]] = {
        "streams": StreamConfig,
        "reference": ReferenceConfig,
        "policy": PolicyConfig,
        "heads": HeadConfig,
        "runtime": RuntimeConfig,
    }
    model = sections.get(str(location[0]), Scenario) if len(location) > 1 else Scenario
    if "channels" in location:
        model = ChannelConfig
    return sorted(model.model_fields)
