"""What an evaluation of one scenario holds: the interface between who measures and who reports; as JSON, the report's data."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from engines.training.evaluation.alarms import CurvePoint, OperatingPoint
from engines.training.evaluation.attribution import AttributionFigures
from engines.training.evaluation.bootstrap import Estimate, SeededEstimate
from engines.training.evaluation.ceiling import CeilingFigures, LeakCheck
from engines.training.evaluation.confidence import ConfidenceFigures
from engines.training.evaluation.robustness import ConditionFigures
from engines.training.evaluation.subsets import Comparison, HeadCurves, SubsetFigures

ALL_STREAMS = "all streams"
"""The name of the fused network with complete input, wherever predictors have names."""
DIGITS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """One split of the data: which world seeds, how many runs and ticks, how long."""

    name: str
    seeds: str
    runs: int
    ticks: int
    hours: float
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What was evaluated, with what, where, and what a reader must know first (``notices``: simulation only, not a device)."""

    scenario: str
    command: str
    date: str
    machine: str
    is_quick: bool
    seed: int
    splits: tuple[Split, ...] = ()
    notices: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantFigures:
    """One fusion variant for one head over training seeds. ``family``: early, intermediate or late.

    ``chosen_gap``: AUROC of the chosen variant less this one's.
    """

    head: str
    name: str
    family: str
    parameters: int
    auroc: SeededEstimate
    chosen_gap: Estimate | None = None
    is_chosen: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlFigures:
    """The control worlds. ``world``: xor or redundant. ``best_single`` and ``gain`` (intermediate less best single) in AUROC."""

    world: str
    intermediate: Estimate
    late: Estimate
    best_single: Estimate
    gain: Estimate
    ceiling: Estimate | None = None
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AlarmFigures:
    """Alarms of one head over continuous time, as one predictor raises them (``who``: `ALL_STREAMS`, or a mask's streams).

    ``point``: threshold for 95% event sensitivity chosen on validation; ``oracle``: the same chosen on the test itself, for
    reference; ``capped``: threshold for at most ``cap_per_h`` false alarms an hour, chosen on validation; ``capped_oracle``: the
    same chosen on the test. ``ratio``: false alarms at ``point`` over those of ``ratio_to``.
    """

    head: str
    who: str
    rule: str
    point: OperatingPoint
    oracle: OperatingPoint
    capped: OperatingPoint | None = None
    capped_oracle: OperatingPoint | None = None
    cap_per_h: float = 1.0
    curve: tuple[CurvePoint, ...] = ()
    ratio: Estimate | None = None
    ratio_to: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class EventExample:
    """One event to look at: the head's probability over time beside the truth. Times in s of the run.

    ``lines``: predictor to probability ``[ticks]``; ``states``: stream to its state at each tick (0 present, 1 quiet, 2 absent).
    """

    head: str
    title: str
    time_s: tuple[float, ...]
    lines: Mapping[str, tuple[float, ...]]
    truth: tuple[int, ...]
    states: Mapping[str, tuple[int, ...]]
    threshold: float
    onset_s: float
    critical_s: float
    raised_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyFigures:
    """One tick on one core, preprocessing included. ``parts``: part to (p50, p99) in ms."""

    what: str
    p50_ms: float
    p99_ms: float
    p999_ms: float
    ticks: int
    parts: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFigures:
    """One task learned with the others and alone. ``cost``: the single-task model's less the multi-task one's."""

    head: str
    measure: str
    multi: Estimate
    single: Estimate
    cost: Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class ModalityProbeFigures:
    """Whether the shared part of an embedding tells which stream it is of: accuracies of a probe.

    ``retrieval`` is in multiples of chance; ``task_cost``: AUROC without the adversary less that with it; ``shared_without``
    and ``private_without``: the same probe where no adversary trained.
    """

    chance: float
    shared: Estimate
    private: Estimate
    retrieval: Estimate
    task_cost: Estimate
    shared_without: Estimate | None = None
    private_without: Estimate | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ablation:
    """One choice of training left out or replaced. ``cost``: AUROC as shipped less that without."""

    head: str
    name: str
    auroc: Estimate
    cost: Estimate
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """Everything. What was not measured stays empty, and the report says so.

    ``roles``: what the targets call a head (``emergency``, ``collision``, ``alarm``, ``apnea``) to its name. ``headroom``: head
    to the share of (ceiling - best single ceiling) reached. ``measured``: key of a target to a figure that takes the place of
    the one read from the sections.
    """

    setting: Setting
    streams: tuple[str, ...]
    heads: Mapping[str, tuple[str, ...]]
    roles: Mapping[str, str] = field(default_factory=dict)
    subsets: tuple[SubsetFigures, ...] = ()
    ceilings: tuple[CeilingFigures, ...] = ()
    leaks: tuple[LeakCheck, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    headroom: Mapping[str, Estimate] = field(default_factory=dict)
    curves: tuple[HeadCurves, ...] = ()
    variants: tuple[VariantFigures, ...] = ()
    controls: tuple[ControlFigures, ...] = ()
    alarms: tuple[AlarmFigures, ...] = ()
    examples: tuple[EventExample, ...] = ()
    conditions: tuple[ConditionFigures, ...] = ()
    attributions: tuple[AttributionFigures, ...] = ()
    confidences: tuple[ConfidenceFigures, ...] = ()
    latency: tuple[LatencyFigures, ...] = ()
    tasks: tuple[TaskFigures, ...] = ()
    modality_probe: ModalityProbeFigures | None = None
    ablations: tuple[Ablation, ...] = ()
    measured: Mapping[str, Estimate] = field(default_factory=dict)

    @property
    def leaking(self) -> tuple[LeakCheck, ...]:
        """The predictors above their ceiling beyond the interval."""
        return tuple(check for check in self.leaks if check.leaks)

    def streams_of(self, mask: str) -> str:
        """``"camera + text"`` for a mask; `ALL_STREAMS` for the complete one."""
        named = [s for s, there in zip(self.streams, mask, strict=True) if there == "1"]
        return ALL_STREAMS if len(named) == len(self.streams) else " + ".join(named) or "none"


def plain(value: Any) -> Any:
    """The value as JSON knows it: dataclasses as objects, floats of 6 significant digits, what is not finite as null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(held) for key, held in value.items()}
    if isinstance(value, (tuple, list, frozenset, np.ndarray)):
        return [plain(held) for held in value]
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, (int, np.integer)):
        return int(value)
    if isinstance(value, (float, np.floating)):
        return float(f"{float(value):.{DIGITS}g}") if np.isfinite(value) else None
    return value


def findings_from_json(text: str) -> Findings:
    """The findings that a ``report.json`` holds; null becomes NaN where a float is due.

    Raises ValueError for text that is not such a report.
    """
    try:
        built: Findings = _built(Findings, json.loads(text)["findings"])
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not the report of an evaluation ({error})") from error
    return built


def _built(kind: Any, value: Any) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return None if value is None else _built(next(a for a in arguments if a is not type(None)), value)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        hints = typing.get_type_hints(kind)
        return kind(**{f.name: _built(hints[f.name], value[f.name]) for f in dataclasses.fields(kind) if f.name in value})
    if origin is tuple:
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return tuple(_built(arguments[0], held) for held in value)
        return tuple(_built(a, held) for a, held in zip(arguments, value, strict=True))
    if origin is not None and issubclass(origin, Mapping):
        return {key: _built(arguments[1], held) for key, held in value.items()}
    if kind is float:
        return float("nan") if value is None else float(value)
    return value
