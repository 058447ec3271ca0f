"""How decisions compare with a simulated log's ground truth."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.stages.sink import Timeline

CATCH_NS = 1_000_000_000
"""An event is caught when the action is taken within this of its onset, invented when none was true so long before or after."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EventCounts:
    """How often an action became the right one, how often it was then taken in time, and how often for no reason."""

    true: int
    caught: int
    invented: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TruthComparison:
    """Balanced accuracy is the mean over the classes that occurred of the share of reference times that were right."""

    balanced_accuracy: dict[str, float]
    occurred: dict[str, tuple[str, ...]]
    """Head to the classes that were true at some reference time."""
    events: dict[str, EventCounts]
    """By action, but the action head's first, which is to do nothing."""
    policy_agreement: float
    """Share of reference times at which policy's action was the true one."""


def compare_with_truth(
    timeline: Timeline,
    origin_ns: int,
    truth: Iterable[Mapping[str, Any]],
    truth_origin_ns: int,
    labels: Mapping[str, tuple[str, ...]],
    action_head: str,
) -> TruthComparison | None:
    """Compare by time since each run's origin; the truth at a reference time is the newest entry not after it.

    ``truth`` entries hold ``time_ns`` and, by head, a class index or label. None when there is no truth or nothing was decided.
    """
    entries = [(int(t["time_ns"]) - truth_origin_ns, t) for t in truth]
    times = [time_ns for time_ns, _ in entries]
    if not times or not timeline.reference_ns:
        return None
    since = [reference_ns - origin_ns for reference_ns in timeline.reference_ns]
    at = [bisect_right(times, time_ns) - 1 for time_ns in since]
    accuracy, occurred = {}, {}
    for head, names in labels.items():
        decided = timeline.classes.get(head)
        if decided is not None and head in entries[0][1]:
            true = [_index(entries[i][1][head], names) if i >= 0 else -1 for i in at]
            accuracy[head] = _balanced(true, decided)
            occurred[head] = tuple(name for c, name in enumerate(names) if c in true)
    true_actions = [str(entries[i][1].get(action_head, "")) if i >= 0 else "" for i in at]
    actions = [timeline.action_names[i] for i in timeline.actions]
    agreement = sum(a == t for a, t in zip(actions, true_actions, strict=True)) / len(actions)
    return TruthComparison(
        balanced_accuracy=accuracy,
        occurred=occurred,
        events={action: _events(since, true_actions, actions, action) for action in labels[action_head][1:]},
        policy_agreement=agreement,
    )


def _index(value: Any, names: tuple[str, ...]) -> int:
    return names.index(value) if isinstance(value, str) and value in names else int(value)


def _balanced(true: Iterable[int], decided: Iterable[int]) -> float:
    total: Counter[int] = Counter()
    right: Counter[int] = Counter()
    for t, d in zip(true, decided, strict=True):
        if t >= 0:
            total[t] += 1
            right[t] += t == d
    return sum(right[c] / n for c, n in total.items()) / len(total) if total else 0.0


def _events(since_ns: list[int], true: list[str], decided: list[str], event: str) -> EventCounts:
    onsets = [i for i in range(len(true)) if true[i] == event and (i == 0 or true[i - 1] != event)]
    taken = [i for i in range(len(decided)) if decided[i] == event and (i == 0 or decided[i - 1] != event)]
    caught = sum(_near(since_ns, decided, event, since_ns[i], since_ns[i] + CATCH_NS) for i in onsets)
    invented = sum(not _near(since_ns, true, event, since_ns[i] - CATCH_NS, since_ns[i] + CATCH_NS) for i in taken)
    return EventCounts(true=len(onsets), caught=caught, invented=invented)


def _near(since_ns: list[int], labels: list[str], label: str, from_ns: int, to_ns: int) -> bool:
    first = bisect_right(since_ns, from_ns - 1)
    return any(labels[i] == label for i in range(first, bisect_right(since_ns, to_ns)))
