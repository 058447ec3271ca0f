"""How far an engine may be from the reference, and how far it is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.backends.base import Runner
from engines.manifest import Precision

BUDGETS: dict[Precision, float] = {"fp32": 1e-4, "fp16": 1e-2, "bf16": 8e-2}
"""Largest max|a-b| / max|a| of an output tensor in any one call, ``a`` being the reference's."""
INT8_BUDGET = 0.25
"""Largest rms(a-b) / rms(a) of an output tensor of an int8 engine over all calls: a guard against broken scales. What int8 costs
is measured where it counts, in decisions: at most `INT8_FLIPS` of a class."""
INT8_FLIPS = 0.005


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorParity:
    """One output tensor on two engines, over some calls."""

    role: str
    tensor: str
    calls: int
    max_relative: float
    """The worst call's max|a-b| / max|a|."""
    rms_relative: float
    """rms(a-b) / rms(a) over all calls."""


class ParityMeter:
    """Gathers the parity of an engine's outputs, call by call."""

    def __init__(self, role: str) -> None:
        self._role, self._calls = role, 0
        self._worst: dict[str, float] = {}
        self._error: dict[str, float] = {}
        self._power: dict[str, float] = {}

    def add(self, reference: Mapping[str, NDArray[Any]], candidate: Mapping[str, NDArray[Any]]) -> None:
        """One call's outputs on both. What is not finite counts as infinitely far off."""
        self._calls += 1
        for name, wanted in reference.items():
            a, b = wanted.astype(np.float64), candidate[name].astype(np.float64)
            off, size = float(np.abs(a - b).max()), max(float(np.abs(a).max()), 1e-12)
            relative = off / size if np.isfinite(off) else float("inf")
            self._worst[name] = max(self._worst.get(name, 0.0), relative)
            self._error[name] = self._error.get(name, 0.0) + float(((a - b) ** 2).sum())
            self._power[name] = self._power.get(name, 0.0) + float((a**2).sum())

    def result(self) -> tuple[TensorParity, ...]:
        """One entry a tensor."""
        return tuple(
            TensorParity(
                role=self._role,
                tensor=name,
                calls=self._calls,
                max_relative=worst,
                rms_relative=(self._error[name] / max(self._power[name], 1e-24)) ** 0.5,
            )
            for name, worst in self._worst.items()
        )


def parity_of(reference: Runner, candidate: Runner, windows: Iterable[Mapping[str, NDArray[Any]]]) -> tuple[TensorParity, ...]:
    """Both activated runners on the same windows."""
    meter = ParityMeter(reference.manifest.role)
    for window in windows:
        wanted = {name: array.copy() for name, array in reference.infer(window).items()}
        meter.add(wanted, candidate.infer(window))
    return meter.result()


def excess(found: Iterable[TensorParity], precision: Precision) -> str:
    """Where a budget is passed, in one line; empty if nowhere. No calls at all is no proof, and said so."""
    parities = tuple(found)
    if not parities:
        return "no window was compared; play a log, or wait for samples"
    for parity in parities:
        if precision == "int8":
            measured, budget, measure = parity.rms_relative, INT8_BUDGET, "rms(a-b)/rms(a)"
        else:
            measured, budget, measure = parity.max_relative, BUDGETS[precision], "max|a-b|/max|a|"
        if not measured <= budget:
            return f"{parity.role}: {parity.tensor} is off by {measure} {measured:.2g}, the budget of {precision} is {budget:g}"
    return ""
