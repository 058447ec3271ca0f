"""The predictions that an evaluation's figures rest on: each made once, several at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field

import torch

from engines.networks.layout import FusionLayout
from engines.training.evaluating.predicting import Predictor, Refitted, full_mask, masks, scored_rows
from engines.training.evaluating.rivals import Rivals, rivals_of
from engines.training.evaluating.sets import DENSE, EVERYDAY, LATE, RATE, VALIDATION, WATCHED, EvaluationPlan, Sets
from engines.training.evaluation.bootstrap import Resampling
from engines.training.evaluation.metrics import Prediction
from engines.training.evaluation.robustness import DELAYS_MS

Predictions = Mapping[str, Prediction]
"""By head, at every tick of a set."""
FROZEN_S = (20.0, 10.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One network's predictions on one set from some of the streams; ``rival`` empty: the shipped network."""

    tokens: str
    mask: str
    rival: str = ""
    late: tuple[str, int] | None = None
    """A stream, and by how many ms."""
    stuck: str = ""
    """A stream that repeats itself for `FROZEN_S[1]` of every `FROZEN_S[0]` seconds."""


@dataclass(slots=True, kw_only=True)
class Bench:
    """Everything that is asked for predictions, with what was predicted so far."""

    layout: FusionLayout
    sets: Sets
    plan: EvaluationPlan
    shipped: Predictor
    rivals: Rivals
    drawn: Resampling
    """Of the dense test runs."""
    _refitted: dict[str, Refitted] = field(default_factory=dict)
    _made: dict[Asked, Predictions] = field(default_factory=dict)

    def predicted(self, asked: Asked) -> Predictions:
        """Every head at every tick, made once."""
        if asked not in self._made:
            self._made[asked] = self._predict(asked)
        return self._made[asked]

    def predict_ahead(
        self, wanted: Sequence[Asked], threads: int, began: Callable[[str, float], Callable[[float], None]]
    ) -> None:
        """Make many at once, one torch thread each."""
        for name in (VALIDATION, *(asked.tokens for asked in wanted)):
            _ = self.sets[name]  # cached by processes of their own, before any thread asks; rivals are calibrated on validation
        ticks = {asked: float(len(self.sets[asked.tokens])) for asked in wanted if asked not in self._made}
        progress = began("predicting", sum(ticks.values()))
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            jobs = {pool.submit(self.predicted, asked): asked for asked in ticks}
            for job in as_completed(jobs):
                job.result()
                progress(ticks[jobs[job]])

    def masked(self, mask: str) -> Predictions:
        """The shipped network's predictions on the dense test with a subset of the streams."""
        return self.predicted(Asked(tokens=DENSE, mask=mask))

    def rival(self, name: str, mask: str | None = None) -> Predictions:
        """A rival's, on the same ticks; by default with all streams."""
        return self.predicted(Asked(tokens=DENSE, mask=mask or full_mask(self.layout), rival=name))

    def asked(self, head: str, predictions: Predictions) -> Prediction:
        """One head's prediction where its question is asked."""
        return predictions[head].at(scored_rows(self.sets[DENSE], head))

    def _predict(self, asked: Asked) -> Predictions:
        tokens = self.sets[asked.tokens]
        if not asked.rival:
            delay_s = {asked.late[0]: asked.late[1] / 1000} if asked.late else None
            frozen = {asked.stuck: FROZEN_S} if asked.stuck else None
            return self.shipped.predictions(tokens, asked.mask, delay_s=delay_s, frozen=frozen)
        if asked.rival not in self._refitted:
            self._refitted[asked.rival] = Refitted(self.rivals.network(asked.rival), self.sets[VALIDATION])
        return self._refitted[asked.rival].predictions(tokens, asked.mask)


def single_masks(layout: FusionLayout) -> dict[str, str]:
    """Each stream's mask in which it is alone."""
    streams = layout.streams
    return {stream: "".join("1" if other == stream else "0" for other in streams) for stream in streams}


def everything_asked(bench: Bench) -> list[Asked]:
    """What the report will ask for, the longest first; conditions that are simulated anew aside."""
    whole, alone = full_mask(bench.layout), single_masks(bench.layout).values()
    continuous = [
        Asked(tokens=tokens, mask=mask, rival=rival)
        for tokens in (EVERYDAY, WATCHED)
        for mask, rival in ((whole, ""), *((mask, f"only {mask}") for mask in alone))
    ]
    at_full_rate = [Asked(tokens=RATE, mask=mask) for mask in (whole, *alone)]
    subsets = [Asked(tokens=DENSE, mask=mask) for mask in masks(bench.layout)]
    rivals = [
        Asked(tokens=DENSE, mask=rival.name.removeprefix("only ") if rival.name.startswith("only ") else whole, rival=rival.name)
        for rival in rivals_of(bench.plan, bench.layout)
    ]
    delays = [None, *((stream, ms) for stream in bench.layout.streams for ms in DELAYS_MS)]
    return [
        *continuous,
        *at_full_rate,
        *subsets,
        Asked(tokens=DENSE, mask=whole, stuck="telemetry"),
        *rivals,
        *(Asked(tokens=LATE, mask=whole, late=late) for late in delays),
    ]
