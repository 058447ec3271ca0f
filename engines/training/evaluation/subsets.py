"""Every subset of the streams against the others, against models of their own, and against the ceiling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from engines.training.evaluation.bootstrap import MEASURES, Estimate, Replicated, Resampling, compared, replicated
from engines.training.evaluation.metrics import Curve, Prediction, auroc, precision_curve, receiver_curve

SINGLE, PAIR, LATE, VARIANT = "best single stream", "best pair", "tuned late fusion", "variant"
"""Kinds of `Comparison`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SubsetFigures:
    """One head with one subset of the streams there (``mask``, e.g. ``"1011"``).

    ``ece`` is over every tick where those were given, ``ece_asked`` over the ticks of the other figures.
    ``specialist``: AUROC of a model trained for that subset alone; ``specialist_gap``: the specialist's less ours, paired.
    """

    head: str
    mask: str
    auroc: Estimate
    auprc: Estimate
    brier: Estimate
    ece: Estimate
    ece_asked: Estimate
    specialist: Estimate | None = None
    specialist_gap: Estimate | None = None


def subset_figures(
    head: str,
    by_mask: Mapping[str, Prediction],
    drawn: Resampling,
    specialists: Mapping[str, Prediction] | None = None,
    everywhere: Mapping[str, Prediction] | None = None,
) -> tuple[SubsetFigures, ...]:
    """Figures by mask, the specialists' too where there is one of that mask (on the same ticks).

    ``everywhere``: the predictions on every tick, for the ECE. A set of streams that cannot tell when a head's question is asked
    can be calibrated over all ticks only, which is also what its calibration is fitted on.
    """
    found = []
    for mask, prediction in by_mask.items():
        own = replicated(prediction, drawn)
        ece = replicated(everywhere[mask], drawn, ("ece",))["ece"].estimate() if everywhere else own["ece"].estimate()
        rival = (specialists or {}).get(mask)
        special = replicated(rival, drawn, ("auroc",))["auroc"] if rival is not None else None
        found.append(
            SubsetFigures(
                head=head,
                mask=mask,
                auroc=own["auroc"].estimate(),
                auprc=own["auprc"].estimate(),
                brier=own["brier"].estimate(),
                ece=ece,
                ece_asked=own["ece"].estimate(),
                specialist=special.estimate() if special else None,
                specialist_gap=special.minus(own["auroc"]).estimate() if special else None,
            )
        )
    return tuple(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two predictors of one head on the same ticks and resamples, by measure. ``difference`` is left minus right."""

    head: str
    kind: str
    left_name: str
    right_name: str
    left: Mapping[str, Estimate]
    right: Mapping[str, Estimate]
    difference: Mapping[str, Estimate]


def comparison(
    head: str,
    kind: str,
    left: tuple[str, Prediction],
    right: tuple[str, Prediction],
    drawn: Resampling,
    which: Sequence[str] = MEASURES,
) -> Comparison:
    """Compare two predictors, each with its name. Raises ValueError if they are not of the same ticks."""
    if not np.array_equal(left[1].labels, right[1].labels) or not np.array_equal(left[1].cluster, right[1].cluster):
        raise ValueError(f"{left[0]} and {right[0]} are not predictions of the same ticks")
    found = compared(left[1], right[1], drawn, which)
    return Comparison(
        head=head,
        kind=kind,
        left_name=left[0],
        right_name=right[0],
        left={name: three[0] for name, three in found.items()},
        right={name: three[1] for name, three in found.items()},
        difference={name: three[2] for name, three in found.items()},
    )


def best_of(rivals: Mapping[str, Prediction]) -> tuple[str, Prediction]:
    """The rival with the highest AUROC on these very ticks: chosen in the rivals' favour."""
    name = max(rivals, key=lambda n: auroc(rivals[n].score, rivals[n].positive))
    return name, rivals[name]


def share_of_headroom(model: Replicated, ceiling: Replicated, single_ceilings: Sequence[Replicated]) -> Estimate:
    """(model - best single ceiling) / (ceiling - best single ceiling), in AUROC, with its paired interval.

    All must be replicated on the same ticks. The best single ceiling is that of the data, the same in every replicate.
    """
    best = max(single_ceilings, key=lambda c: c.value)
    return model.minus(best).over(ceiling.minus(best)).estimate()


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadCurves:
    """Curves of one predictor of a head, for drawing."""

    head: str
    who: str
    receiver: Curve
    precision: Curve
    positive_share: float


def head_curves(head: str, who: str, prediction: Prediction) -> HeadCurves:
    """Receiver's and precision curve, thinned."""
    return HeadCurves(
        head=head,
        who=who,
        receiver=receiver_curve(prediction),
        precision=precision_curve(prediction),
        positive_share=float(prediction.positive.mean()),
    )
