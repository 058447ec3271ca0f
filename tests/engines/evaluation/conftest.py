"""A made-up world with known answers, and the findings of an evaluation of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from engines.training.calibration import stream_subsets
from engines.training.evaluation import alarms, attribution, ceiling, confidence, findings, metrics, robustness, subsets
from engines.training.evaluation.bootstrap import Estimate, Resampling, over_seeds, replicated, resampling, seeds_compared
from engines.training.token_set import Event

STREAMS = ("camera", "microphone", "telemetry", "text")
WORTH = np.array([1.1, 0.9, 0.7, 0.35])
HEADS = {"emergency": ("none", "approaching"), "collision": ("clear", "warning")}
REPLICATES = 200


def sigmoid(logit: NDArray[np.float64]) -> NDArray[np.float64]:
    """The logistic function."""
    return 1 / (1 + np.exp(-logit))


class World:
    """Each stream sees +-worth with unit noise; the log-odds of a subset is the sum of 2 worth o."""

    def __init__(self, seed: int, runs: int = 14, ticks: int = 750, tick_s: float = 0.4) -> None:
        rng = np.random.default_rng(seed)
        self.tick_s, self.seeds = tick_s, tuple(range(seed * 1000, seed * 1000 + runs))
        self.run = np.repeat(np.arange(runs, dtype=np.int32), ticks)
        self.time_s = np.tile(np.arange(ticks) * tick_s, runs).astype(np.float32)
        self.label = np.zeros(runs * ticks, np.int64)
        self.events = []
        for run in range(runs):
            for start in rng.choice(np.arange(1, 7), 3, replace=False) * 40:
                onset = float(start + rng.uniform(0, 8))
                self.events.append(Event(head="emergency", run=run, onset_s=onset, end_s=onset + 6, critical_s=onset + 5))
                self.label[(self.run == run) & (self.time_s >= onset) & (self.time_s <= onset + 6)] = 1
        self.cluster = np.asarray(self.seeds)[self.run]
        luck = rng.normal(0, 0.25, (runs, len(STREAMS)))[self.run]
        self.seen = (2 * self.label[:, None] - 1) * WORTH + luck + rng.normal(0, 1, (len(self.label), len(STREAMS)))

    def prediction(self, mask: str, noise: float = 0.0, seed: int = 0, shift: float = -2.6) -> metrics.Prediction:
        """What the best predictor says of a subset, with noise on its log-odds."""
        there = np.array([c == "1" for c in mask])
        logit = (2 * WORTH * self.seen)[:, there].sum(axis=1) + shift
        logit = logit + noise * np.random.default_rng(seed).normal(size=len(logit))
        return metrics.binary_prediction(sigmoid(logit), self.label, self.cluster)


def masks(streams: int = 4) -> list[str]:
    """Every mask but the empty one."""
    return ["".join("1" if p else "0" for p in present) for present in stream_subsets(streams)]


def made_findings() -> findings.Findings:
    """An evaluation of the made-up world, with every section filled."""
    world, held_out = World(1), World(2)
    drawn = resampling(world.cluster, replicates=REPLICATES)
    by_mask = {m: world.prediction(m) for m in masks()}
    special = {m: world.prediction(m, noise=0.2) for m in masks() if m.count("0") <= 1}
    figures = subsets.subset_figures("emergency", by_mask, drawn, special)
    limits = tuple(
        ceiling.CeilingFigures(
            head="emergency",
            mask=s.mask,
            auroc=Estimate(value=min(s.auroc.value + 0.008, 1), low=s.auroc.low, high=min(s.auroc.high + 0.01, 1)),
            half_auroc=s.auroc.value + 0.007,
            median_effective=240.0 / s.mask.count("1"),
            few_share=0.01,
        )
        for s in figures
    )
    fused = (findings.ALL_STREAMS, by_mask["1111"])
    gains = (
        subsets.comparison("emergency", subsets.SINGLE, fused, ("camera", by_mask["1000"]), drawn),
        subsets.comparison("emergency", subsets.PAIR, fused, ("camera + microphone", by_mask["1100"]), drawn),
        subsets.comparison("emergency", subsets.LATE, fused, ("late, stacked", world.prediction("1111", 1.5)), drawn),
    )
    whole, single = (
        replicated(by_mask["1111"], drawn, ("auroc",))["auroc"],
        replicated(by_mask["1000"], drawn, ("auroc",))["auroc"],
    )
    return findings.Findings(
        setting=_setting(),
        streams=STREAMS,
        heads=HEADS,
        roles={"emergency": "emergency", "collision": "collision"},
        subsets=figures,
        ceilings=limits,
        leaks=(ceiling.leak_check("emergency", "probe of camera tokens", limits[0], single, whole),),
        comparisons=gains,
        headroom={"emergency": subsets.share_of_headroom(single, whole, [replace(single, value=single.value - 0.05)])},
        curves=tuple(subsets.head_curves("emergency", who, p) for who, p in (fused, ("camera", by_mask["1000"]))),
        variants=_variants(world, drawn),
        controls=_controls(),
        alarms=_alarms(world, held_out, drawn),
        examples=(_example(world),),
        conditions=_conditions(world),
        attributions=(_attribution(world, by_mask, drawn),),
        confidences=(
            confidence.confidence_figures("emergency", STREAMS, by_mask, np.ones((len(world.label), 4), np.bool_), drawn),
        ),
        latency=(
            findings.LatencyFigures(
                what="shipped engines", p50_ms=2.4, p99_ms=6.1, p999_ms=9.0, ticks=5000, parts={"camera": (1.2, 3.0)}
            ),
        ),
        tasks=(findings.TaskFigures(head="emergency", measure="auroc", multi=near(0.97), single=near(0.972), cost=near(0.002)),),
        modality_probe=findings.ModalityProbeFigures(
            chance=0.25, shared=near(0.34), private=near(0.97), retrieval=near(6.1), task_cost=near(0.001)
        ),
        ablations=(findings.Ablation(head="emergency", name="without distillation", auroc=near(0.968), cost=near(0.003)),),
    )


def near(value: float, by: float = 0.01) -> Estimate:
    """A figure with an interval about it."""
    return Estimate(value=value, low=value - by, high=value + by)


def _setting() -> findings.Setting:
    return findings.Setting(
        scenario="driving",
        command="chiasm evaluate driving --report report",
        date="2026-12-01",
        machine="2 cores",
        is_quick=False,
        seed=0,
        splits=(findings.Split(name="test", seeds="1000-1023", runs=24, ticks=36_000, hours=2.0),),
        notices=("Trained and tested in simulation only <not> a safety device.",),
        notes=("Ceilings see one tick; networks with memory see more.",),
    )


def _variants(world: World, drawn: Resampling) -> tuple[findings.VariantFigures, ...]:
    made = {"bottleneck": ("intermediate", 0.2), "concat": ("intermediate", 0.5), "early": ("early", 1.6), "late": ("late", 1.1)}
    by_name = {
        name: [replicated(world.prediction("1111", noise + 0.1 * s, s), drawn, ("auroc",))["auroc"] for s in range(5)]
        for name, (_, noise) in made.items()
    }
    return tuple(
        findings.VariantFigures(
            head="emergency",
            name=name,
            family=family,
            parameters=212_000 + 900 * place,
            auroc=over_seeds(by_name[name]),
            chosen_gap=None if name == "bottleneck" else seeds_compared(by_name["bottleneck"], by_name[name]),
            is_chosen=name == "bottleneck",
        )
        for place, (name, (family, _)) in enumerate(made.items())
    )


def _controls() -> tuple[findings.ControlFigures, ...]:
    return (
        findings.ControlFigures(
            world="xor", intermediate=near(0.985), late=near(0.51, 0.02), best_single=near(0.502, 0.02), gain=near(0.483)
        ),
        findings.ControlFigures(
            world="redundant", intermediate=near(0.941), late=near(0.94), best_single=near(0.94), gain=near(0.001, 0.003)
        ),
    )


def _alarms(world: World, held_out: World, drawn: Resampling) -> tuple[findings.AlarmFigures, ...]:
    made = []
    for who, mask in ((findings.ALL_STREAMS, "1111"), ("camera", "1000")):
        levels = [alarms.alarm_levels(timeline(w, mask), w.events) for w in (held_out, world)]
        chosen, own = (found.threshold_at_sensitivity() for found in levels)
        cap, own_cap = (found.threshold_at_false_alarms(1.0) for found in levels)
        made.append(
            findings.AlarmFigures(
                head="emergency",
                who=who,
                rule="2 of 3",
                point=alarms.operating_point(levels[1], chosen, drawn, alarms.VALIDATION),
                oracle=alarms.operating_point(levels[1], own, drawn, alarms.ORACLE),
                capped=alarms.operating_point(levels[1], cap, drawn, alarms.VALIDATION),
                capped_oracle=alarms.operating_point(levels[1], own_cap, drawn, alarms.ORACLE),
                curve=levels[1].curve(),
                ratio=near(0.1) if mask == "1111" else None,
                ratio_to="camera" if mask == "1111" else "",
            )
        )
    return tuple(made)


def timeline(world: World, mask: str) -> alarms.Timeline:
    """The score of a subset over the world's time."""
    score = world.prediction(mask).score
    return alarms.Timeline(score=score, run=world.run, time_s=world.time_s, tick_s=world.tick_s, seeds=world.seeds)


def _example(world: World) -> findings.EventExample:
    event = world.events[0]
    rows = np.flatnonzero((world.run == event.run) & (np.abs(world.time_s - event.onset_s - 3) < 12))
    states = {s: tuple(int(place == 3 and i > 60) * 2 for i in range(len(rows))) for place, s in enumerate(STREAMS)}
    return findings.EventExample(
        head="emergency",
        title="an ambulance behind, its light hidden",
        time_s=tuple(float(t) for t in world.time_s[rows]),
        lines={
            who: tuple(float(v) for v in world.prediction(mask).score[rows])
            for who, mask in ((findings.ALL_STREAMS, "1111"), ("camera", "1000"))
        },
        truth=tuple(int(v) for v in world.label[rows]),
        states=states,
        threshold=0.62,
        onset_s=event.onset_s,
        critical_s=event.critical_s,
        raised_s=event.onset_s + 0.4,
    )


def _conditions(world: World) -> tuple[robustness.ConditionFigures, ...]:
    clean = world.prediction("1111")
    harder = {
        condition: world.prediction("1111", noise=0.4 * place + 0.1, seed=place)
        for place, condition in enumerate(robustness.STANDARD)
    }
    harder |= {c: world.prediction("1111", noise=(c.level or 0) / 250, seed=3) for s in STREAMS[:3] for c in robustness.delays(s)}
    other = World(3, runs=10)
    harder[robustness.Condition(name="unseen siren", group=robustness.UNSEEN)] = other.prediction("1111", noise=1.0)
    return robustness.condition_figures("emergency", clean, harder, replicates=REPLICATES)


def _attribution(world: World, by_mask: dict[str, metrics.Prediction], drawn: Resampling) -> attribution.AttributionFigures:
    worth = {m: np.log(p.score / (1 - p.score)) for m, p in by_mask.items()}
    worth["0000"] = np.full(len(world.label), -2.6)
    decisive = np.where(world.label == 1, np.abs(WORTH * world.seen).argmax(axis=1), -1)
    return attribution.attribution_figures(
        "emergency", STREAMS, attribution.shapley_values(worth), decisive, world.cluster, drawn
    )


@pytest.fixture(scope="session")
def findings_of_made_world() -> findings.Findings:
    """One evaluation for all tests that read one."""
    return made_findings()
