"""Engines side by side on a log: flips by class, budgets, and what one altered weight does."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

pytest.importorskip("onnx", reason="needs onnx: pip install 'chiasm[precision]'")

from actors.comparing import JUDGED_FROM, ClassFlips, EngineComparison, class_flips, compare_engines, in_turn
from actors.inline import InlineRun
from actors.plan import replay_plan
from engines.parity import TensorParity
from engines.registry import EngineChoice, engine_choice
from pipeline.config import Scenario, scenario_folder
from pipeline.messages import Decision


@pytest.fixture(scope="module")
def decisions(driving: Scenario, short_log: Path) -> list[Decision]:
    taken: list[Decision] = []
    InlineRun(replay_plan(driving, scenario_folder("driving"), short_log), on_decisions=taken.extend).run()
    return taken


def comparison(precision: str, flips: ClassFlips, rms: float = 0.0, worst: float = 0.0) -> EngineComparison:
    parity = TensorParity(role="text", tensor="tokens", calls=5, max_relative=worst, rms_relative=rms)
    candidate = EngineChoice(backend="ort", precision=precision)  # type: ignore[arg-type]
    return EngineComparison(reference=engine_choice("ort"), candidate=candidate, parity=(parity,), flips=(flips,))


def test_flips_are_counted_by_the_class_that_the_reference_gave(decisions: list[Decision]) -> None:
    head = next(iter(decisions[0].labels))
    other = [replace(d, labels={**d.labels, head: "another"}) if place < 3 else d for place, d in enumerate(decisions)]
    found = {(f.head, f.label): f for f in class_flips(decisions, other)}
    assert sum(f.decisions for f in found.values() if f.head == head) == len(decisions)
    assert sum(f.flips for f in found.values()) == 3
    assert all(f.flips == 0 for f in class_flips(decisions, decisions))


def test_in_turn_each_is_first_and_before_each_other_as_often() -> None:
    orders = [in_turn("abcd", call) for call in range(8)]
    assert sorted(order[0] for order in orders) == sorted("abcd" * 2)
    for one in "abcd":
        for other in set("abcd") - {one}:
            assert sum(order.index(one) < order.index(other) for order in orders) == 4
            assert all(
                (a.index(one) < a.index(other)) != (b.index(one) < b.index(other))
                for a, b in zip(orders[::2], orders[1::2], strict=True)
            )


def test_decisions_give_probabilities_in_float32(decisions: list[Decision]) -> None:
    outputs = [values for decision in decisions for values in decision.outputs.values()]
    assert outputs and all(values.dtype == "float32" for values in outputs)


def test_decisions_at_other_times_are_not_compared(decisions: list[Decision]) -> None:
    with pytest.raises(ValueError, match="at other times cannot be compared"):
        class_flips(decisions, decisions[1:])


@pytest.mark.parametrize(
    "flips, problem",
    [(5, ""), (6, "6 of 1000 decisions flip, the budget of int8 is 0.5%")],
)
def test_int8_may_flip_half_a_percent_of_a_class(flips: int, problem: str) -> None:
    found = comparison("int8", ClassFlips(head="action", label="keep", decisions=1000, flips=flips)).problem
    assert problem in found
    assert (found == "") == (problem == "")


def test_a_class_of_few_decisions_is_shown_and_not_judged() -> None:
    assert comparison("int8", ClassFlips(head="action", label="stop", decisions=JUDGED_FROM - 1, flips=9)).problem == ""


def test_a_tensor_over_its_budget_is_named() -> None:
    none = ClassFlips(head="action", label="keep", decisions=1000, flips=0)
    assert (
        "text: tokens is off by max|a-b|/max|a| 0.02, the budget of fp16 is 0.01" in comparison("fp16", none, worst=0.02).problem
    )
    assert "rms" in comparison("int8", none, rms=0.3).problem


def test_two_backends_on_a_log_agree_in_tensors_and_decisions(driving: Scenario, short_log: Path, tmp_path: Path) -> None:
    replay = replay_plan(driving, scenario_folder("driving"), short_log)
    said: list[str] = []
    (found,) = compare_engines(
        replay, engine_choice("ort"), [engine_choice("ort-fp16")], tmp_path, lambda what, _: said.append(what)
    )
    assert found.problem == ""
    assert {p.role for p in found.parity} == {"camera", "microphone", "telemetry", "text", "fusion"}
    assert any(p.max_relative > 0 for p in found.parity)
    for samples in found.latency_ns.values():
        assert len(samples["ort"]) == len(samples["ort-fp16"]) > 0
    assert "decisions of ort-fp16" in said
