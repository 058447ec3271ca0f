"""How decisions are compared with ground truth, checked by hand."""

from __future__ import annotations

from array import array

import pytest

from pipeline.logs.truth import EventCounts, compare_with_truth
from pipeline.stages.sink import Timeline

NAMES = ("keep", "yield")
SECOND = 1_000_000_000


def timeline(classes: list[int], actions: list[int], step_ns: int = SECOND // 2, origin_ns: int = 5 * SECOND) -> Timeline:
    times = array("q", [origin_ns + i * step_ns for i in range(len(classes))])
    return Timeline(reference_ns=times, classes={"action": array("b", classes)}, actions=array("b", actions), action_names=NAMES)


def compare(line: Timeline, truth: list[tuple[float, str]]):
    entries = [{"time_ns": 100 + round(s * SECOND), "action": label} for s, label in truth]
    return compare_with_truth(line, 5 * SECOND, entries, 100, {"action": NAMES}, "action")


def test_balanced_accuracy_is_the_mean_over_classes_that_occurred():
    # truth: keep at 0, 0.5, 1, 1.5 and yield from 2 on; right are 3 of 4 and 1 of 2
    result = compare(timeline([0, 0, 1, 0, 1, 0], [0] * 6), [(0, "keep"), (2, "yield")])
    assert result.balanced_accuracy == {"action": pytest.approx((3 / 4 + 1 / 2) / 2)}
    assert result.occurred == {"action": NAMES}
    assert result.policy_agreement == pytest.approx(4 / 6)


def test_skipped_decision_counts_as_wrong():
    result = compare(timeline([0, -1], [0, 0]), [(0, "keep")])
    assert result.balanced_accuracy == {"action": 0.5}
    assert result.occurred == {"action": ("keep",)}


@pytest.mark.parametrize(("taken_at", "caught"), [(4, 1), (6, 1), (7, 0)])
def test_event_is_caught_within_a_second_of_its_onset(taken_at: int, caught: int):
    actions = [int(i >= taken_at) for i in range(10)]
    result = compare(timeline([0] * 10, actions), [(0, "keep"), (2, "yield")])
    assert result.events == {"yield": EventCounts(true=1, caught=caught, invented=0)}


def test_action_far_from_any_true_event_is_invented():
    result = compare(timeline([0] * 10, [0, 1, 0, 0, 0, 0, 0, 0, 0, 0]), [(0, "keep"), (3, "yield")])
    assert result.events == {"yield": EventCounts(true=1, caught=0, invented=1)}


def test_without_truth_or_decisions_there_is_nothing_to_compare():
    assert compare(timeline([0], [0]), []) is None
    assert compare(timeline([], []), [(0, "keep")]) is None
