"""Compares the decisions of two logs: the same drive, replayed, must have decided the same."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.logs.reader import LogReader
from pipeline.messages import Decision

MAX_KEPT = 1000
"""How many differences are described; all are counted."""
_REORDER = 64
"""Decisions that may overtake each other in a log (a skipped one is known only after a newer one)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One way in which the two logs decided otherwise about one reference time.

    ``kind`` is ``only in a``, ``only in b``, ``outputs``, ``action``, ``state``, ``admitted`` or ``skipped``;
    ``relative_ns`` the reference time since the log's first.
    """

    relative_ns: int
    kind: str
    a: str
    b: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What `compare_logs` found. ``differing`` counts reference times, ``counts`` the differences by kind.

    ``notes`` are for people: what else is not the same (scenario, config, engines, a cut).
    """

    decisions_a: int
    decisions_b: int
    differing: int
    counts: dict[str, int]
    differences: tuple[Difference, ...]
    largest_output_difference: float
    notes: tuple[str, ...]

    @property
    def same(self) -> bool:
        """Whether both logs hold the same decisions. Two logs without any are the same."""
        return self.differing == 0


def compare_logs(a: str | Path, b: str | Path) -> Comparison:
    """Compare decision by decision, matched by reference time since each log's first.

    Compared are outputs (bit for bit), action, policy state, whether it was skipped, and per stream what was admitted
    (sequence number, age, availability): what the hash covers. Not times of publishing, which differ in every run.
    Raises `LogError` when either is not a readable log.
    """
    log_a, log_b = LogReader(a), LogReader(b)
    counts: Counter[str] = Counter()
    kept: list[Difference] = []
    total_a = total_b = differing = 0
    largest = 0.0
    receipts: list[tuple[str, dict[str, str]] | None] = [None, None]
    for relative_ns, one, other in _paired(_relative(log_a), _relative(log_b)):
        total_a += one is not None
        total_b += other is not None
        for side, decision in enumerate((one, other)):
            if receipts[side] is None and decision is not None and decision.receipt is not None:
                receipts[side] = decision.receipt.config_sha256, decision.receipt.engines
        found = list(_differences(relative_ns, one, other))
        differing += bool(found)
        counts.update(difference.kind for difference in found)
        kept += found[: max(MAX_KEPT - len(kept), 0)]
        if one is not None and other is not None:
            largest = max(largest, _output_distance(one, other))
    return Comparison(
        decisions_a=total_a,
        decisions_b=total_b,
        differing=differing,
        counts=dict(counts),
        differences=tuple(kept),
        largest_output_difference=largest,
        notes=tuple(_notes(log_a, log_b, receipts)),
    )


def _relative(log: LogReader) -> Iterator[tuple[int, Decision]]:
    """Decisions with their time since the first one's, in rising order as far as `_REORDER` puts them so."""
    first: int | None = None
    heap: list[tuple[int, int, Decision]] = []
    for number, decision in enumerate(log.decisions()):
        heapq.heappush(heap, (decision.reference_ns, number, decision))
        if len(heap) > _REORDER:
            reference_ns, _number, earliest = heapq.heappop(heap)
            first = reference_ns if first is None else first
            yield reference_ns - first, earliest
    for reference_ns, _number, earliest in sorted(heap, key=lambda item: item[:2]):
        first = reference_ns if first is None else first
        yield reference_ns - first, earliest


def _paired(
    a: Iterator[tuple[int, Decision]], b: Iterator[tuple[int, Decision]]
) -> Iterator[tuple[int, Decision | None, Decision | None]]:
    """Join two rising sequences by time."""
    left, right = next(a, None), next(b, None)
    while left is not None or right is not None:
        if right is None or (left is not None and left[0] < right[0]):
            assert left is not None
            yield left[0], left[1], None
            left = next(a, None)
        elif left is None or right[0] < left[0]:
            yield right[0], None, right[1]
            right = next(b, None)
        else:
            yield left[0], left[1], right[1]
            left, right = next(a, None), next(b, None)


def _differences(relative_ns: int, a: Decision | None, b: Decision | None) -> Iterator[Difference]:
    def difference(kind: str, of_a: str, of_b: str) -> Difference:
        return Difference(relative_ns=relative_ns, kind=kind, a=of_a, b=of_b)

    if a is None or b is None:
        present = a or b
        action = present.action if present is not None else ""
        yield difference("only in b" if a is None else "only in a", *(("", action) if a is None else (action, "")))
        return
    if (a.status == "skipped") != (b.status == "skipped"):
        yield difference("skipped", a.status, b.status)
    if _bits(a) != _bits(b):
        yield difference("outputs", _described_outputs(a), _described_outputs(b))
    if a.action != b.action:
        yield difference("action", a.action, b.action)
    if a.state != b.state:
        yield difference("state", a.state, b.state)
    if _admitted(a) != _admitted(b):
        of_a, of_b = _admitted(a), _admitted(b)
        names = [name for name in {**of_a, **of_b} if of_a.get(name) != of_b.get(name)]
        yield difference("admitted", _described(of_a, names), _described(of_b, names))


def _bits(decision: Decision) -> dict[str, bytes]:
    return {head: values.astype("<f4").tobytes() for head, values in decision.outputs.items()}


def _admitted(decision: Decision) -> dict[str, tuple[int, int, str]]:
    if decision.receipt is None:
        return {}
    return {a.stream: (a.seq, a.age_ns, a.availability.name.lower()) for a in decision.receipt.admitted}


def _described(admitted: dict[str, tuple[int, int, str]], names: list[str]) -> str:
    found = ((name, admitted[name]) for name in names if name in admitted)
    return ", ".join(f"{name} {seq} {age_ns / 1e6:.3f} ms {state}" for name, (seq, age_ns, state) in found)


def _described_outputs(decision: Decision) -> str:
    return "; ".join(f"{head} {' '.join(f'{x:.4f}' for x in v)}" for head, v in decision.outputs.items())


def _output_distance(a: Decision, b: Decision) -> float:
    distances = [
        float(np.max(np.abs(values.astype(np.float64) - b.outputs[head])))
        for head, values in a.outputs.items()
        if head in b.outputs and b.outputs[head].shape == values.shape and values.size
    ]
    return max(distances, default=0.0)


def _notes(a: LogReader, b: LogReader, receipts: list[tuple[str, dict[str, str]] | None]) -> Iterator[str]:
    if a.scenario != b.scenario:
        yield f"scenarios differ: {a.scenario} and {b.scenario}"
    one, other = receipts
    if one is not None and other is not None:
        if one[0] != other[0]:
            yield "the configs differ"
        roles = sorted(role for role in {**one[1], **other[1]} if one[1].get(role) != other[1].get(role))
        if roles:
            yield f"engines differ: {', '.join(roles)}"
    for log in (a, b):
        if log.truncated_at:
            yield f"{log.path} is cut: {log.truncated_at}"
