"""What the evaluation must reach, as data, and whether it did."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from engines.training.evaluation.alarms import OperatingPoint
from engines.training.evaluation.bootstrap import Estimate
from engines.training.evaluation.findings import ALL_STREAMS, AlarmFigures, ControlFigures, Findings
from engines.training.evaluation.robustness import DELAY
from engines.training.evaluation.subsets import PAIR, SINGLE

Comparator = Literal["≥", "≤", "within ±"]
AT_LEAST: Comparator = "≥"
AT_MOST: Comparator = "≤"
WITHIN: Comparator = "within ±"
MET, MISSED, UNMEASURED = "met", "missed", "not measured"
SENSITIVITY = 0.95
LATE_MS = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One figure to reach. ``role``: only for scenarios with that head; ``clear_of_zero``: the interval must lie above 0 too."""

    key: str
    text: str
    comparison: Comparator
    bound: float
    unit: str = ""
    role: str = ""
    clear_of_zero: bool = False

    @property
    def described(self) -> str:
        """``"≥ 0.08, interval clear of 0"``."""
        gap = "" if self.comparison == WITHIN else " "
        unit = f" {self.unit}" if self.unit else ""
        return f"{self.comparison}{gap}{self.bound:g}{unit}" + (", interval clear of 0" if self.clear_of_zero else "")

    def reached_by(self, value: float) -> bool:
        """Whether a value, without regard to its interval, reaches the bound. NaN does not."""
        if self.comparison == AT_LEAST:
            return value >= self.bound
        return (abs(value) if self.comparison == WITHIN else value) <= self.bound


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A target and what was measured. ``is_clear``: the whole interval is on the value's side of the bound."""

    target: Target
    outcome: str
    measured: Estimate | None
    is_clear: bool
    detail: str


def _fused(role: str, title: str) -> tuple[Target, ...]:
    return (
        Target(key=f"{role}.auroc", text=f"{title}: AUROC, all streams", comparison=AT_LEAST, bound=0.97, role=role),
        Target(
            key=f"{role}.gain_single",
            text=f"{title}: AUROC gain over the best single stream",
            comparison=AT_LEAST,
            bound=0.08,
            role=role,
            clear_of_zero=True,
        ),
        Target(
            key=f"{role}.gain_pair", text=f"{title}: AUROC gain over the best pair", comparison=AT_LEAST, bound=0.02, role=role
        ),
        Target(
            key=f"{role}.headroom",
            text=f"{title}: share of (ceiling − best single ceiling) reached",
            comparison=AT_LEAST,
            bound=0.9,
            role=role,
        ),
    )


def _target(key: str, text: str, comparison: Comparator, bound: float, unit: str = "", role: str = "") -> Target:
    return Target(key=key, text=text, comparison=comparison, bound=bound, unit=unit, role=role)


TARGETS: tuple[Target, ...] = (
    *_fused("emergency", "Emergency vehicle"),
    *_fused("alarm", "Alarm adjudication"),
    _target("xor.intermediate", "XOR world: AUROC of intermediate fusion", AT_LEAST, 0.97),
    _target("xor.late", "XOR world: AUROC of additive late fusion", AT_MOST, 0.55),
    _target("redundant.gain", "Redundant world: AUROC gain of fusion", WITHIN, 0.01),
    _target("emergency.false_alarms", "Emergency vehicle: false alarms at 95% sensitivity", AT_MOST, 0.5, "/h", "emergency"),
    _target("emergency.ratio", "Emergency vehicle: false alarms over the best single stream's", AT_MOST, 0.2, "", "emergency"),
    _target("collision.lead", "Collision: median lead time at ≤ 1 false alarm/h", AT_LEAST, 1.2, "s", "collision"),
    _target("apnea.lead", "Apnea: median lead time before the SpO₂ threshold", AT_LEAST, 10.0, "s", "apnea"),
    _target("missing.gap", "One stream missing: AUROC below a model trained for that subset, worst", AT_MOST, 0.02),
    _target("complete.gap", "Complete input: AUROC below a model trained for it alone, worst", AT_MOST, 0.005),
    _target("ece.complete", "ECE, all streams, worst head", AT_MOST, 0.03),
    _target("ece.subsets", "ECE, worst subset and head", AT_MOST, 0.05),
    _target("confidence.rises", "Removals after which confidence rises, worst head", AT_MOST, 0.10),
    _target("delay.loss", "300 ms delay on one stream: AUROC loss, worst", AT_MOST, 0.015),
    _target("probe.shared", "Modality probe on the shared part (chance 0.25)", AT_MOST, 0.40),
    _target("probe.private", "Modality probe on the private part", AT_LEAST, 0.90),
    _target("probe.retrieval", "Cross-modal retrieval, multiples of chance", AT_LEAST, 3.0, "×"),
    _target("probe.cost", "AUROC that the adversary costs the task", AT_MOST, 0.005),
    _target("multitask.cost", "Multi-task below single-task, worst task", AT_MOST, 0.005),
    _target("tick.p50", "One tick on one core, p50", AT_MOST, 3.0, "ms"),
    _target("tick.p99", "One tick on one core, p99", AT_MOST, 8.0, "ms"),
)

Measured = tuple[Estimate, str] | None


def verdicts(findings: Findings) -> tuple[Verdict, ...]:
    """A verdict on every target that concerns the scenario: those without a role, and those of the heads it has."""
    return tuple(
        verdict(target, *(measured_of(target, findings) or (None, "")))
        for target in TARGETS
        if not target.role or target.role in findings.roles
    )


def verdict(target: Target, measured: Estimate | None, detail: str = "") -> Verdict:
    """Judge one figure by its value; the interval only says whether it could be otherwise."""
    if measured is None or measured.value != measured.value:
        return Verdict(target=target, outcome=UNMEASURED, measured=None, is_clear=False, detail=detail)
    reached = target.reached_by(measured.value) and (measured.low > 0 or not target.clear_of_zero)
    ends = [target.reached_by(end) for end in (measured.low, measured.high)]
    known = measured.low == measured.low and measured.high == measured.high
    is_clear = known and (all(ends) if target.reached_by(measured.value) else not any(ends))
    return Verdict(target=target, outcome=MET if reached else MISSED, measured=measured, is_clear=is_clear, detail=detail)


def measured_of(target: Target, findings: Findings) -> Measured:
    """The figure that a target asks for, and which one it is; None if it was not measured."""
    if target.key in findings.measured:
        return findings.measured[target.key], ""
    figure = target.key.rpartition(".")[2]
    if target.role:
        head = findings.roles[target.role]
        return _OF_HEAD[figure](findings, head)
    return _OF_SCENARIO[target.key](findings)


def _auroc(findings: Findings, head: str) -> Measured:
    complete = "1" * len(findings.streams)
    return next(((s.auroc, "") for s in findings.subsets if (s.head, s.mask) == (head, complete)), None)


def _gain(kind: str) -> Callable[[Findings, str], Measured]:
    def of(findings: Findings, head: str) -> Measured:
        found = next((c for c in findings.comparisons if (c.head, c.kind) == (head, kind)), None)
        return (found.difference["auroc"], f"over {found.right_name}") if found and "auroc" in found.difference else None

    return of


def _headroom(findings: Findings, head: str) -> Measured:
    return (findings.headroom[head], "") if head in findings.headroom else None


def _alarms(findings: Findings, head: str) -> AlarmFigures | None:
    return next((a for a in findings.alarms if (a.head, a.who) == (head, ALL_STREAMS)), None)


def _false_alarms(findings: Findings, head: str) -> Measured:
    """At the validation's threshold if that keeps the sensitivity on the test; else where the test has it, which is worse."""
    alarms = _alarms(findings, head)
    if alarms is None:
        return None
    kept = alarms.point.sensitivity.value >= SENSITIVITY
    point = alarms.point if kept else alarms.oracle
    detail = f"test sensitivity {alarms.point.sensitivity.value:.3f} at the validation's threshold"
    if not kept:
        detail += f" ({alarms.point.false_alarms_per_h.value:.2f}/h there), so the test's own threshold counts"
    return point.false_alarms_per_h, detail


def _ratio(findings: Findings, head: str) -> Measured:
    alarms = _alarms(findings, head)
    return (alarms.ratio, f"over {alarms.ratio_to}") if alarms and alarms.ratio else None


def _capped_lead(findings: Findings, head: str) -> Measured:
    """At the validation's threshold if that keeps to the cap on the test; else at the test's own, which is stricter."""
    alarms = _alarms(findings, head)
    if alarms is None or alarms.capped is None:
        return None
    point = alarms.capped
    kept = point.false_alarms_per_h.value <= alarms.cap_per_h
    if not kept and alarms.capped_oracle is not None:
        point = alarms.capped_oracle
    return point.lead_median_s, _lead_detail(point) + ("" if kept else "; the validation's threshold exceeds the cap on the test")


def _lead_detail(point: OperatingPoint) -> str:
    return f"{point.false_alarms_per_h.value:.2f} false alarms/h, {point.in_time.value:.0%} of {point.events} events in time"


def _lead(findings: Findings, head: str) -> Measured:
    alarms = _alarms(findings, head)
    return (alarms.point.lead_median_s, _lead_detail(alarms.point)) if alarms else None


_OF_HEAD: dict[str, Callable[[Findings, str], Measured]] = {
    "auroc": _auroc,
    "gain_single": _gain(SINGLE),
    "gain_pair": _gain(PAIR),
    "headroom": _headroom,
    "false_alarms": _false_alarms,
    "ratio": _ratio,
    "lead": lambda findings, head: (
        _capped_lead(findings, head) if head == findings.roles.get("collision") else _lead(findings, head)
    ),
}


def _worst(found: Iterable[tuple[Estimate | None, str]]) -> Measured:
    known = [(e, what) for e, what in found if e is not None and e.value == e.value]
    return max(known, key=lambda pair: pair[0].value) if known else None


def _gaps(findings: Findings, missing: int) -> Measured:
    return _worst(
        (s.specialist_gap, f"{s.head}, {findings.streams_of(s.mask)}") for s in findings.subsets if s.mask.count("0") == missing
    )


def _errors(findings: Findings, *, complete: bool) -> Measured:
    return _worst(
        (s.ece, f"{s.head}, {findings.streams_of(s.mask)}") for s in findings.subsets if not complete or "0" not in s.mask
    )


def _delays(findings: Findings) -> Measured:
    return _worst(
        (c.loss, f"{c.head}, {c.condition.stream}")
        for c in findings.conditions
        if c.condition.group == DELAY and c.condition.level == LATE_MS
    )


def _control(world: str, figure: Callable[[ControlFigures], Estimate]) -> Callable[[Findings], Measured]:
    return lambda findings: next(((figure(c), c.note) for c in findings.controls if c.world == world), None)


def _probe(name: str) -> Callable[[Findings], Measured]:
    return lambda findings: (getattr(findings.modality_probe, name), "") if findings.modality_probe else None


def _tick(name: str) -> Callable[[Findings], Measured]:
    def of(findings: Findings) -> Measured:
        if not findings.latency:
            return None
        first = findings.latency[0]
        value = float(getattr(first, name))
        return Estimate(value=value, low=value, high=value), f"{first.what}, {first.ticks} ticks"

    return of


_OF_SCENARIO: dict[str, Callable[[Findings], Measured]] = {
    "xor.intermediate": _control("xor", lambda c: c.intermediate),
    "xor.late": _control("xor", lambda c: c.late),
    "redundant.gain": _control("redundant", lambda c: c.gain),
    "missing.gap": lambda findings: _gaps(findings, 1),
    "complete.gap": lambda findings: _gaps(findings, 0),
    "ece.complete": lambda findings: _errors(findings, complete=True),
    "ece.subsets": lambda findings: _errors(findings, complete=False),
    "confidence.rises": lambda findings: _worst((c.rises, c.head) for c in findings.confidences),
    "delay.loss": _delays,
    "probe.shared": _probe("shared"),
    "probe.private": _probe("private"),
    "probe.retrieval": _probe("retrieval"),
    "probe.cost": _probe("task_cost"),
    "multitask.cost": lambda findings: _worst((t.cost, t.head) for t in findings.tasks),
    "tick.p50": _tick("p50_ms"),
    "tick.p99": _tick("p99_ms"),
}
