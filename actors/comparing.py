"""Engines side by side on a log: the same windows through each, then the decisions of each."""

from __future__ import annotations

import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from msgspec.structs import replace
from numpy.typing import NDArray

from actors.building import opened_engine
from actors.engines import ServedEngine, SteadyEngine
from actors.inline import InlineRun
from actors.plan import RunPlan
from engines.backends.base import Runner
from engines.parity import INT8_FLIPS, ParityMeter, TensorParity, excess
from engines.registry import EngineChoice
from pipeline.messages import Decision

T = TypeVar("T")
JUDGED_FROM = 200
"""Decisions of a class below which one flip is more than the budget of int8: what is fewer is shown and not judged."""
Progress = Callable[[str, int], None]
"""What is going on, and how far it has come in event time, ns from the log's first decision."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassFlips:
    """How many of the decisions that one engine gave a class got another one from the other."""

    head: str
    label: str
    decisions: int
    flips: int

    @property
    def share(self) -> float:
        """0 to 1."""
        return self.flips / self.decisions if self.decisions else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineComparison:
    """One engine choice against another on a log."""

    reference: EngineChoice
    candidate: EngineChoice
    parity: tuple[TensorParity, ...]
    flips: tuple[ClassFlips, ...]
    latency_ns: Mapping[str, Mapping[str, array[int]]] = field(default_factory=dict)
    """Role, then choice, to one duration a call; the calls of both were made one after the other on the same window."""

    @property
    def problem(self) -> str:
        """Where a budget is passed, in one line; empty if nowhere."""
        precision = self.candidate.precision if self.candidate.precision != "fp32" else self.reference.precision
        if found := excess(self.parity, precision):
            return found
        for class_ in self.flips:
            if precision == "int8" and class_.decisions >= JUDGED_FROM and class_.share > INT8_FLIPS:
                return (
                    f"{class_.head} {class_.label!r}: {class_.flips} of {class_.decisions} decisions flip, "
                    f"the budget of int8 is {INT8_FLIPS:.1%}"
                )
        return ""


def compare_engines(
    replay: RunPlan, reference: EngineChoice, candidates: Sequence[EngineChoice], cache: Path, progress: Progress
) -> list[EngineComparison]:
    """Each candidate against the reference on the log that ``replay`` plays. Raises EngineError for one that cannot run here."""
    shadows = _Shadows(replay, reference, candidates, cache)
    wanted = _decisions(replay, shadows.opened, f"{reference.name} and beside it {_names(candidates)}", progress)
    found = []
    for candidate in candidates:
        opening = _steady(candidate, cache)
        got = _decisions(replay, opening, f"decisions of {candidate.name}", progress)
        latency = {
            role: {name: samples for name, samples in by_choice.items() if name in (reference.name, candidate.name)}
            for role, by_choice in shadows.latency_ns.items()
        }
        found.append(
            EngineComparison(
                reference=reference,
                candidate=candidate,
                parity=tuple(p for meter in shadows.meters[candidate.name].values() for p in meter.result()),
                flips=class_flips(wanted, got),
                latency_ns=latency,
            )
        )
    return found


def class_flips(wanted: Sequence[Decision], got: Sequence[Decision]) -> tuple[ClassFlips, ...]:
    """By head and class of ``wanted``: decisions, and how many of them differ in ``got``. Raises ValueError: other times."""
    if [d.reference_ns for d in wanted] != [d.reference_ns for d in got]:
        raise ValueError(f"{len(wanted)} and {len(got)} decisions at other times cannot be compared; replay the same log")
    counts: Counter[tuple[str, str]] = Counter()
    flips: Counter[tuple[str, str]] = Counter()
    for one, other in zip(wanted, got, strict=True):
        for head, label in one.labels.items():
            counts[head, label] += 1
            flips[head, label] += other.labels.get(head) != label
    return tuple(ClassFlips(head=h, label=c, decisions=n, flips=flips[h, c]) for (h, c), n in sorted(counts.items()))


def in_turn(items: Sequence[T], call: int) -> list[T]:
    """The items in another order each call, forwards and backwards by turns: over twice as many calls as there are items each is
    first as often as any, and before and after each other as often; over two calls each pair runs both ways round.

    Whoever runs second finds the window in the processor's cache; rotating alone would leave the same ones always second.
    """
    first, backwards = call // 2 % len(items), call % 2
    turned = [*items[first:], *items[:first]]
    return turned[::-1] if backwards else turned


class _Shadows:
    """The reference serves; the candidates run on the same windows, turn about, and are timed and compared."""

    def __init__(self, replay: RunPlan, reference: EngineChoice, candidates: Sequence[EngineChoice], cache: Path) -> None:
        self._choices = [reference, *candidates]
        self._cache = cache
        self.meters: dict[str, dict[str, ParityMeter]] = {choice.name: {} for choice in candidates}
        self.latency_ns: dict[str, dict[str, array[int]]] = {}

    @contextmanager
    def opened(self, plan: RunPlan, role: str) -> Iterator[ServedEngine]:
        """See `actors.engines.Opening`."""
        with ExitStack() as stack:
            runners = {c.name: stack.enter_context(opened_engine(plan, role, c, self._cache)) for c in self._choices}
            samples = self.latency_ns.setdefault(role, {name: array("q") for name in runners})
            meters = {name: by_role.setdefault(role, ParityMeter(role)) for name, by_role in self.meters.items()}
            yield _Paired(runners, meters, samples)


class _Paired:
    """Implements `actors.engines.ServedEngine` with the first of its runners."""

    def __init__(
        self, runners: Mapping[str, Runner], meters: Mapping[str, ParityMeter], samples: Mapping[str, array[int]]
    ) -> None:
        self._runners, self._meters, self._samples = list(runners.items()), meters, samples
        self._call = 0
        self.engine = ""
        self.notices: list[str] = []

    def infer(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run all, in turn."""
        self._call += 1
        outputs = {}
        for name, runner in in_turn(self._runners, self._call):
            before_ns = time.perf_counter_ns()
            outputs[name] = runner.infer(inputs)
            self._samples[name].append(time.perf_counter_ns() - before_ns)
        served = outputs[self._runners[0][0]]
        for name, meter in self._meters.items():
            meter.add(served, outputs[name])
        return served


def _steady(choice: EngineChoice, cache: Path) -> Callable[[RunPlan, str], Any]:
    @contextmanager
    def opened(plan: RunPlan, role: str) -> Iterator[ServedEngine]:
        with opened_engine(plan, role, choice, cache) as runner:
            yield SteadyEngine(runner)

    return opened


def _decisions(replay: RunPlan, opening: Callable[[RunPlan, str], Any], what: str, progress: Progress) -> list[Decision]:
    taken: list[Decision] = []
    progress(what, 0)

    def take(decisions: list[Decision]) -> None:
        # a comparison needs labels and times alone
        taken.extend(replace(d, outputs={}, receipt=None, state="", memory="") for d in decisions if d.status != "skipped")
        progress(what, taken[-1].reference_ns - taken[0].reference_ns if taken else 0)

    InlineRun(replay, opening=opening, on_decisions=take).run()
    return taken


def _names(choices: Sequence[EngineChoice]) -> str:
    return ", ".join(choice.name for choice in choices)
