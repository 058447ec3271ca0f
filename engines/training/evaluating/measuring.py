"""What an evaluation measures of one head on the dense test runs: subsets, comparisons, confidence, attribution, robustness."""

from __future__ import annotations

import numpy as np

from engines.networks.variant import parameter_count
from engines.networks.variants import INTERMEDIATE, VARIANTS
from engines.networks.variants import LATE as LATE_VARIANTS
from engines.training.evaluating.bench import Asked, Bench, single_masks
from engines.training.evaluating.predicting import flags, full_mask, masks, scored_rows
from engines.training.evaluating.sets import DENSE, HARDER_RUNS, LATE, SNRS_DB, VALIDATION
from engines.training.evaluation.attribution import AttributionFigures, alarm_log_odds, attribution_figures, shapley_values
from engines.training.evaluation.bootstrap import over_seeds, replicated, resampling, seeds_compared
from engines.training.evaluation.confidence import ConfidenceFigures, confidence_figures
from engines.training.evaluation.findings import ALL_STREAMS, Ablation, ModalityProbeFigures, TaskFigures, VariantFigures
from engines.training.evaluation.metrics import Prediction, auroc
from engines.training.evaluation.robustness import (
    BUS,
    CAMERA,
    DELAYS_MS,
    NOISE,
    UNSEEN,
    Condition,
    ConditionFigures,
    condition_figures,
    delays,
)
from engines.training.evaluation.subsets import LATE as LATE_KIND
from engines.training.evaluation.subsets import (
    PAIR,
    SINGLE,
    Comparison,
    HeadCurves,
    SubsetFigures,
    best_of,
    comparison,
    head_curves,
    subset_figures,
)
from engines.training.fusing import predict


def subsets(bench: Bench, head: str) -> tuple[SubsetFigures, ...]:
    """Every subset, beside models trained for it alone."""
    by_mask = {mask: bench.asked(head, bench.masked(mask)) for mask in masks(bench.layout)}
    specialists = {mask: bench.asked(head, bench.rival(f"only {mask}", mask)) for mask in masks(bench.layout)}
    everywhere = {mask: bench.masked(mask)[head] for mask in masks(bench.layout)}
    return subset_figures(head, by_mask, bench.drawn, specialists, everywhere)


def comparisons(bench: Bench, head: str) -> tuple[Comparison, ...]:
    """Against the best single stream, the best pair, and tuned late fusion; each the better of masked and specialised models."""
    fused = (ALL_STREAMS, bench.asked(head, bench.masked(full_mask(bench.layout))))
    found = []
    for kind, size in ((SINGLE, 1), (PAIR, 2)):
        rivals = {}
        for mask in (m for m in masks(bench.layout) if m.count("1") == size):
            named = " + ".join(s for s, there in zip(bench.layout.streams, flags(mask), strict=True) if there)
            rivals[named] = bench.asked(head, bench.masked(mask))
            rivals[f"{named}, trained alone"] = bench.asked(head, bench.rival(f"only {mask}", mask))
        found.append(comparison(head, kind, fused, best_of(rivals), bench.drawn))
    late = {name: bench.asked(head, bench.rival(f"late {name}")) for name in LATE_VARIANTS}
    tuned = max(LATE_VARIANTS, key=lambda name: _on_validation(bench, f"late {name}", head))
    return (*found, comparison(head, LATE_KIND, fused, (tuned, late[tuned]), bench.drawn))


def _on_validation(bench: Bench, rival: str, head: str) -> float:
    """AUROC of a rival on validation runs, which is what a choice among rivals may look at."""
    tokens = bench.sets[VALIDATION]
    logits = predict(bench.rivals.network(rival), tokens, present=flags(full_mask(bench.layout)))[head]
    rows = scored_rows(tokens, head)
    return auroc(alarm_log_odds(logits[rows]), np.asarray(tokens.labels[head])[rows] > 0)


def curves(bench: Bench, head: str) -> tuple[HeadCurves, ...]:
    """Receiver's and precision curves of all streams and of each alone."""
    found = [head_curves(head, ALL_STREAMS, bench.asked(head, bench.masked(full_mask(bench.layout))))]
    for stream, mask in single_masks(bench.layout).items():
        found.append(head_curves(head, stream, bench.asked(head, bench.masked(mask))))
    return tuple(found)


def variants(bench: Bench, head: str) -> tuple[VariantFigures, ...]:
    """Every fusion variant over training seeds, all trained alike and for the same number of steps."""
    scores = {
        name: [
            replicated(bench.asked(head, bench.rival(f"variant {name} {seed}")), bench.drawn, ("auroc",))["auroc"]
            for seed in bench.plan.variant_seeds
        ]
        for name in VARIANTS
    }
    chosen = "bottleneck"
    return tuple(
        VariantFigures(
            head=head,
            name=name,
            family="early" if name == "early" else "intermediate" if name in INTERMEDIATE else "late",
            parameters=parameter_count(bench.rivals.network(f"variant {name} {bench.plan.variant_seeds[0]}")),
            auroc=over_seeds(found),
            chosen_gap=None if name == chosen else seeds_compared(scores[chosen], found),
            is_chosen=name == chosen,
        )
        for name, found in scores.items()
    )


def confidence(bench: Bench, head: str) -> ConfidenceFigures:
    """Calibration, and what removing a stream does to it, over every tick: it is what calibrations are fitted on."""
    by_mask = {mask: bench.masked(mask)[head] for mask in masks(bench.layout)}
    present = np.asarray(bench.sets[DENSE].state) == 0
    return confidence_figures(head, bench.layout.streams, by_mask, present, bench.drawn)


def attribution(bench: Bench, head: str) -> AttributionFigures:
    """Exact Shapley values against the world's own decisive stream."""
    tokens = bench.sets[DENSE]
    rows = scored_rows(tokens, head)
    worth = {}
    for mask in (*masks(bench.layout), "0" * len(bench.layout.streams)):
        worth[mask] = alarm_log_odds(predict(bench.shipped.network, tokens, present=flags(mask), rows=rows)[head])
    cluster = bench.asked(head, bench.masked(full_mask(bench.layout))).cluster
    decisive = np.asarray(tokens.decisive)[rows]
    return attribution_figures(head, bench.layout.streams, shapley_values(worth), decisive, cluster, bench.drawn)


def conditions(bench: Bench, head: str, unfamiliar: tuple[str, ...], with_background: bool) -> tuple[ConditionFigures, ...]:
    """Delays and a frozen bus on the cached tokens; noise, night, blur and unfamiliar worlds simulated anew."""
    mask = full_mask(bench.layout)
    late_set = bench.sets[LATE]
    late_rows = scored_rows(late_set, head)
    late: dict[Condition, Prediction] = {}
    for stream in bench.layout.streams:
        for condition, ms in zip(delays(stream), DELAYS_MS, strict=True):
            late[condition] = bench.predicted(Asked(tokens=LATE, mask=mask, late=(stream, ms)))[head].at(late_rows)
    in_time = bench.predicted(Asked(tokens=LATE, mask=mask))[head].at(late_rows)
    clean_set = bench.sets[DENSE]
    rows = scored_rows(clean_set, head)
    rows = rows[np.asarray(clean_set.run)[rows] < HARDER_RUNS]
    stuck = bench.predicted(Asked(tokens=DENSE, mask=mask, stuck="telemetry"))
    harder = {Condition(name="frozen telemetry", group=BUS, stream="telemetry"): stuck[head].at(rows)}
    renewed = {
        **{
            f"SNR {db:g} dB": Condition(name=f"SNR {db:g} dB", group=NOISE, stream="microphone", level=db, unit="dB")
            for db in SNRS_DB
        },
        "night": Condition(name="night", group=CAMERA, stream="camera"),
        "blur": Condition(name="blur", group=CAMERA, stream="camera"),
        **{name: Condition(name=name, group=UNSEEN) for name in unfamiliar},
    }
    if with_background:
        renewed["real background sound"] = Condition(name="real background sound", group=UNSEEN, stream="microphone")
    for name, condition in renewed.items():
        renewal = bench.predicted(Asked(tokens=name, mask=mask))
        harder[condition] = renewal[head].at(scored_rows(bench.sets[name], head))
    clean = bench.masked(mask)[head].at(rows)
    replicates = bench.plan.replicates
    return (
        *condition_figures(head, in_time, late, replicates=replicates),
        *condition_figures(head, clean, harder, replicates=replicates),
    )


def tasks(bench: Bench) -> tuple[TaskFigures, ...]:
    """Each task alone against the same network trained for all, the same seed and steps."""
    found = []
    for head in bench.layout.heads:
        multi = bench.asked(head, bench.rival("ablation as shipped, another seed"))
        single = bench.asked(head, bench.rival(f"task {head}"))
        drawn = resampling(multi.cluster, replicates=bench.plan.replicates)
        a, b = (replicated(p, drawn, ("auroc",))["auroc"] for p in (multi, single))
        found.append(TaskFigures(head=head, measure="auroc", multi=a.estimate(), single=b.estimate(), cost=b.minus(a).estimate()))
    return tuple(found)


def ablations(bench: Bench) -> tuple[Ablation, ...]:
    """Choices of training left out or replaced, against the same seed and steps with all of them."""
    found = []
    for head in bench.layout.heads:
        base = replicated(bench.asked(head, bench.rival("ablation as shipped, another seed")), bench.drawn, ("auroc",))["auroc"]
        for name in ("no adversary", "equal weights", "PCGrad", "no distillation"):
            other = replicated(bench.asked(head, bench.rival(f"ablation {name}")), bench.drawn, ("auroc",))["auroc"]
            found.append(Ablation(head=head, name=name, auroc=other.estimate(), cost=base.minus(other).estimate()))
    return tuple(found)


def modality_figures(bench: Bench, head: str) -> ModalityProbeFigures:
    """Probes on the shipped network's parts, beside those of a network without the adversary."""
    from engines.training.evaluating.sets import TRAIN
    from engines.training.evaluation.bootstrap import Estimate
    from engines.training.probing import modality_probe

    train, test = bench.sets[TRAIN], bench.sets[DENSE]
    own = [modality_probe(bench.shipped.network, train, test, seed=s) for s in range(3)]
    without = [modality_probe(bench.rivals.network("ablation no adversary"), train, test, seed=s) for s in range(3)]
    cost = next(a.cost for a in ablations(bench) if a.head == head and a.name == "no adversary")

    def worst(found: list[dict[str, float]], part: str) -> Estimate:
        """The better of both probes, over draws of ticks: for the shared part the stricter reading."""
        values = [max(f[f"{part}_linear"], f[f"{part}_mlp"]) for f in found]
        return Estimate(value=float(np.mean(values)), low=min(values), high=max(values))

    retrieved = [f["retrieval_times_chance"] for f in own]
    return ModalityProbeFigures(
        chance=own[0]["chance"],
        shared=worst(own, "shared"),
        private=worst(own, "private"),
        retrieval=Estimate(value=float(np.mean(retrieved)), low=min(retrieved), high=max(retrieved)),
        task_cost=Estimate(value=-cost.value, low=-cost.high, high=-cost.low),
        shared_without=worst(without, "shared"),
        private_without=worst(without, "private"),
    )
