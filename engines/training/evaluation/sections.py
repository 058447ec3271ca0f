"""The report's sections: what is asked, what was found, as tables and pictures. Data in, text and figures out; no HTML here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from engines.training.evaluation import plots, timelines
from engines.training.evaluation.alarms import OperatingPoint
from engines.training.evaluation.bootstrap import Estimate
from engines.training.evaluation.findings import Findings, ModalityProbeFigures
from engines.training.evaluation.verdicts import TARGETS

MISSING = "–"


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table under a caption; all cells are text, the first column names the row."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A figure with its file name (without suffix) and what it shows, in words."""

    name: str
    alternative: str
    figure: Figure


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One part of the report."""

    title: str
    text: str
    pictures: tuple[Picture, ...] = ()
    tables: tuple[Table, ...] = ()


def sections(findings: Findings) -> tuple[Section, ...]:
    """Every section that has something to show, in reading order."""
    made: tuple[Callable[[Findings], Section | None], ...] = (
        _subsets,
        _gains,
        _leaks,
        _alarms,
        _events,
        _confidence,
        _variants,
        _controls,
        _robustness,
        _attribution,
        _training,
        _latency,
    )
    return tuple(section for make in made if (section := make(findings)) is not None)


def interval(estimate: Estimate | None, digits: int = 3) -> str:
    """``0.981 [0.975, 0.986]``; a dash where there is none."""
    if estimate is None or estimate.value != estimate.value:
        return MISSING
    value = f"{estimate.value:.{digits}f}"
    if estimate.low == estimate.high or estimate.low != estimate.low:
        return value
    return f"{value} [{estimate.low:.{digits}f}, {estimate.high:.{digits}f}]"


def _heads(findings: Findings, named: Sequence[str]) -> list[str]:
    """The heads that occur, in the scenario's order, then any others."""
    return [h for h in (*findings.heads, *sorted(set(named) - set(findings.heads))) if h in named]


def _bound(findings: Findings, head: str, figure: str) -> float | None:
    keys = {f"{role}.{figure}" for role, name in findings.roles.items() if name == head}
    return next((t.bound for t in TARGETS if t.key in keys), None)


def _subsets(findings: Findings) -> Section | None:
    pictures, tables = [], []
    for head in _heads(findings, [s.head for s in findings.subsets]):
        limits = {c.mask: c for c in findings.ceilings if c.head == head}
        pictures.append(
            Picture(
                name=f"subsets_{head}",
                alternative=f"AUROC of {head} for every set of streams, with ceilings",
                figure=plots.subset_chart(findings, head),
            )
        )
        rows = []
        for s in (s for s in findings.subsets if s.head == head):
            limit = limits.get(s.mask)
            rows.append(
                (
                    findings.streams_of(s.mask),
                    *(interval(e) for e in (s.auroc, s.auprc, s.brier, s.ece)),
                    interval(limit.auroc if limit else None),
                    f"{limit.median_effective:.0f}" + ("" if limit.is_converged else " ⚠") if limit else MISSING,
                    interval(s.specialist),
                    interval(s.specialist_gap),
                )
            )
        columns = ("streams", "AUROC", "AUPRC", "Brier", "ECE", "ceiling, AUROC", "particles", "specialist", "specialist − ours")
        tables.append(Table(caption=f"{head}, every set of streams", columns=columns, rows=tuple(rows)))
    text = (
        "Each set of streams, the others absent, read by the same network. The ceiling is the AUROC of the Bayes posterior given "
        "the noisy latents that those streams perceive at that tick; particles: the median effective number it rests on (⚠: more "
        "particles would still move it). A specialist was trained for that set alone. ECE is biased upward where ticks are few."
    )
    return Section(title="Every set of streams", text=text, pictures=tuple(pictures), tables=tuple(tables)) if tables else None


def _gains(findings: Findings) -> Section | None:
    rows = tuple(
        (
            c.head,
            c.kind,
            f"{c.left_name} − {c.right_name}",
            *(interval(c.difference.get(m)) for m in ("auroc", "auprc", "brier", "ece")),
        )
        for c in findings.comparisons
    )
    headroom = tuple((head, interval(share, 2)) for head, share in findings.headroom.items())
    tables = [Table(caption="Differences", columns=("head", "against", "what", "AUROC", "AUPRC", "Brier", "ECE"), rows=rows)]
    if headroom:
        caption = "(ours − best single ceiling) / (ceiling − best single ceiling)"
        tables.append(Table(caption=caption, columns=("head", "share reached"), rows=headroom))
    pictures = []
    for head in _heads(findings, [c.head for c in findings.curves]):
        curves = [c for c in findings.curves if c.head == head]
        areas = {findings.streams_of(s.mask): s.auroc.value for s in findings.subsets if s.head == head}
        pictures.append(
            Picture(
                name=f"curves_{head}",
                alternative=f"Receiver's and precision curves of {head}",
                figure=plots.curve_chart(head, curves, {c.who: areas[c.who] for c in curves if c.who in areas}),
            )
        )
    text = (
        "Differences on the same ticks and the same resamples of whole scenarios. Rivals are chosen in their favour: the best on "
        "these very ticks."
    )
    there = rows or headroom or pictures
    return Section(title="What fusion gains", text=text, pictures=tuple(pictures), tables=tuple(tables)) if there else None


def _leaks(findings: Findings) -> Section | None:
    rows = tuple(
        (
            c.head,
            c.who,
            findings.streams_of(c.mask),
            interval(c.auroc),
            interval(c.ceiling),
            interval(c.difference),
            "LEAKS" if c.leaks else "no",
            c.note,
        )
        for c in findings.leaks
    )
    columns = ("head", "predictor", "reads", "AUROC", "ceiling", "predictor − ceiling", "leak", "note")
    text = (
        "A predictor above the ceiling of what its streams perceive, beyond the interval, has found a label that leaks; so have "
        "linear probes of a single stream. The ceiling knows one tick: where the past tells something, memory may rightly exceed "
        "it."
    )
    return (
        Section(title="Does a label leak?", text=text, tables=(Table(caption="", columns=columns, rows=rows),)) if rows else None
    )


def _point_row(name: str, point: OperatingPoint) -> tuple[str, ...]:
    return (
        name,
        point.basis,
        f"{point.threshold:.4g}",
        interval(point.sensitivity),
        interval(point.false_alarms_per_h, 2),
        str(point.false_alarms),
        interval(point.lead_median_s, 2),
        interval(point.lead_p10_s, 2),
        interval(point.found_lead_median_s, 2),
        interval(point.in_time, 2),
    )


def _alarms(findings: Findings) -> Section | None:
    pictures, tables = [], []
    for head in _heads(findings, [a.head for a in findings.alarms]):
        alarms = [a for a in findings.alarms if a.head == head]
        rows = []
        for one in alarms:
            rows += [_point_row(f"{one.who}, 95% sensitivity", p) for p in (one.point, one.oracle)]
            capped = f"{one.who}, ≤ {one.cap_per_h:g} false/h"
            rows += [_point_row(capped, p) for p in (one.capped, one.capped_oracle) if p is not None]
            if one.ratio is not None:
                rows.append((f"{one.who}: false alarms over {one.ratio_to}", "", "", "", interval(one.ratio, 2), *[""] * 5))
        columns = ("predictor", "basis", "threshold", "sensitivity", "false/h", "false", "lead median, s", "lead p10, s")
        point = alarms[0].point
        caption = f"{head}: {point.events} events in {point.hours:.1f} h, {alarms[0].rule}"
        tables.append(Table(caption=caption, columns=(*columns, "median of those in time, s", "found in time"), rows=tuple(rows)))
        pictures += [
            Picture(
                name=f"alarms_{head}",
                alternative=f"Event sensitivity and lead time of {head} over false alarms an hour",
                figure=timelines.alarm_chart(head, alarms, _bound(findings, head, "false_alarms")),
            ),
            Picture(
                name=f"lead_{head}",
                alternative=f"Share of events of {head} by lead time",
                figure=timelines.lead_chart(head, alarms, _bound(findings, head, "lead")),
            ),
        ]
    text = (
        "Continuous time. Detections within 10 s are one; a false alarm that stays on counts again every minute. Lead time is "
        "from the alarm to the critical time, never from before the onset; the median and p10 are over all events, missed or "
        "late ones as 0. Thresholds come from the validation split; those from the test split itself are for reference."
    )
    return Section(title="Alarms over time", text=text, pictures=tuple(pictures), tables=tuple(tables)) if tables else None


def _events(findings: Findings) -> Section | None:
    pictures = tuple(
        Picture(
            name=f"event_{place}_{example.head}",
            alternative=f"{example.head}: {example.title}",
            figure=timelines.event_chart(example),
        )
        for place, example in enumerate(findings.examples)
    )
    text = "Single events of the test split, to see what the figures are made of."
    return Section(title="Events to look at", text=text, pictures=pictures) if pictures else None


def _confidence(findings: Findings) -> Section | None:
    if not findings.confidences:
        return None
    streams = len(findings.streams)
    singles = ["".join("1" if p == at else "0" for p in range(streams)) for at in range(streams)]
    removed = ["".join("0" if p == at else "1" for p in range(streams)) for at in range(streams)]
    pictures = [
        Picture(
            name=f"reliability_{c.head}",
            alternative=f"Accuracy over confidence of {c.head}",
            figure=plots.reliability_chart(findings, c, ["1" * streams, *removed, *singles][:8]),
        )
        for c in findings.confidences
    ]
    name = "risk"
    alternative = "Share of wrong ticks over the share of ticks kept"
    pictures.append(Picture(name=name, alternative=alternative, figure=plots.risk_chart(findings.confidences)))
    rows = tuple(
        (c.head, interval(c.rises), interval(c.rises_clearly), *(interval(e) for e in c.rises_by_stream))
        for c in findings.confidences
    )
    margin = findings.confidences[0].margin
    columns = ("head", "any rise", f"by > {margin:g}", *(f"without {s}" for s in findings.confidences[0].streams))
    caption = "Share of removals of one stream after which the top probability rises"
    text = "Probabilities as calibrated for their availability mask. To take a stream away should not make surer."
    table = Table(caption=caption, columns=columns, rows=rows)
    return Section(title="Honest confidence", text=text, pictures=tuple(pictures), tables=(table,))


def _variants(findings: Findings) -> Section | None:
    pictures, tables = [], []
    for head in _heads(findings, [v.head for v in findings.variants]):
        found = sorted((v for v in findings.variants if v.head == head), key=lambda v: -v.auroc.mean.value)
        figure = plots.variant_chart(head, found)
        pictures.append(Picture(name=f"variants_{head}", alternative=f"AUROC of each fusion for {head}, by seed", figure=figure))
        rows = tuple(
            (
                v.name + (" (chosen)" if v.is_chosen else ""),
                v.family,
                f"{v.parameters:,}",
                interval(v.auroc.mean, 4),
                f"{v.auroc.sd:.4f}",
                ", ".join(f"{s:.4f}" for s in v.auroc.seeds),
                interval(v.chosen_gap, 4),
            )
            for v in found
        )
        columns = ("fusion", "family", "weights", "AUROC, mean", "sd of seeds", "seeds", "chosen − this")
        tables.append(Table(caption=head, columns=columns, rows=rows))
    text = "Fusions of equal budgets on the same cached tokens. Intervals hold both the seeds of training and the scenarios."
    return Section(title="Which fusion", text=text, pictures=tuple(pictures), tables=tuple(tables)) if tables else None


def _controls(findings: Findings) -> Section | None:
    rows = tuple(
        (c.world, *(interval(e) for e in (c.intermediate, c.late, c.best_single, c.gain, c.ceiling)), c.note)
        for c in findings.controls
    )
    columns = ("world", "intermediate", "additive late", "best single", "gain over single", "ceiling", "note")
    text = "XOR: each stream alone is worth nothing, only both together tell. Redundant: every stream tells the same."
    if not rows:
        return None
    picture = Picture(name="controls", alternative="AUROC in the control worlds", figure=plots.control_chart(findings.controls))
    return Section(
        title="Control worlds", text=text, pictures=(picture,), tables=(Table(caption="", columns=columns, rows=rows),)
    )


def _robustness(findings: Findings) -> Section | None:
    pictures, tables = [], []
    for head in _heads(findings, [c.head for c in findings.conditions]):
        found = [c for c in findings.conditions if c.head == head]
        figure = plots.robustness_chart(head, found)
        pictures.append(Picture(name=f"robustness_{head}", alternative=f"AUROC that {head} loses by condition", figure=figure))
        rows = tuple(
            (c.condition.name, c.condition.group, interval(c.auroc), interval(c.loss, 4), "yes" if c.is_paired else "no")
            for c in found
        )
        columns = ("condition", "group", "AUROC", "loss against clean", "same ticks")
        tables.append(Table(caption=head, columns=columns, rows=rows))
    text = "The same network under conditions; amber bars are other worlds than the clean test split, compared without pairs."
    return Section(title="What breaks it", text=text, pictures=tuple(pictures), tables=tuple(tables)) if tables else None


def _attribution(findings: Findings) -> Section | None:
    pictures = tuple(
        Picture(
            name=f"attribution_{a.head}", alternative=f"Shapley values of {a.head} by stream", figure=plots.attribution_chart(a)
        )
        for a in findings.attributions
    )
    rows = tuple(
        (a.head, f"{a.ticks:,}", interval(a.agreement), f"{a.chance:.3f}", *(interval(e) for e in a.by_stream))
        for a in findings.attributions
    )
    columns = ("head", "ticks", "agreement", "by chance", *(f"{s} decides" for s in findings.streams))
    text = (
        "Exact Shapley values of the alarm's log-odds over all sets of streams, against the stream that the world says decides."
    )
    table = Table(caption="", columns=columns, rows=rows)
    return Section(title="What it rests on", text=text, pictures=pictures, tables=(table,)) if rows else None


def _training(findings: Findings) -> Section | None:
    tables = []
    if findings.tasks:
        rows = tuple((t.head, t.measure, interval(t.multi), interval(t.single), interval(t.cost, 4)) for t in findings.tasks)
        columns = ("task", "measure", "with the others", "alone", "alone − with the others")
        tables.append(Table(caption="Tasks learned together and alone", columns=columns, rows=rows))
    if findings.modality_probe is not None:
        tables.append(_parts_table(findings.modality_probe))
    if findings.ablations:
        rows = tuple((a.head, a.name, interval(a.auroc), interval(a.cost, 4), a.note) for a in findings.ablations)
        columns = ("head", "change", "AUROC", "shipped − this", "note")
        tables.append(Table(caption="Choices of training, one changed at a time", columns=columns, rows=rows))
    text = "What each choice of training is worth. Differences are ours less theirs, so that above 0 the choice paid."
    return Section(title="Choices of training", text=text, tables=tuple(tables)) if tables else None


def _parts_table(probe: ModalityProbeFigures) -> Table:
    rows = (
        (f"shared part (chance {probe.chance:.2f})", interval(probe.shared), interval(probe.shared_without)),
        ("private part", interval(probe.private), interval(probe.private_without)),
        ("cross-modal retrieval, multiples of chance", interval(probe.retrieval, 2), MISSING),
        ("AUROC that it costs the task", interval(probe.task_cost, 4), MISSING),
    )
    columns = ("a probe reads the stream from the", "with the adversary", "without")
    return Table(caption="Shared and private parts", columns=columns, rows=rows)


def _latency(findings: Findings) -> Section | None:
    rows = []
    for found in findings.latency:
        rows.append(
            (found.what, f"{found.p50_ms:.2f}", f"{found.p99_ms:.2f}", f"{found.p999_ms:.2f}", f"{found.ticks:,}", found.note)
        )
        rows += [(f"– {part}", f"{p50:.2f}", f"{p99:.2f}", "", "", "") for part, (p50, p99) in found.parts.items()]
    columns = ("one core, preprocessing included", "p50, ms", "p99, ms", "p99.9, ms", "ticks", "note")
    text = "One tick: every stream's encoder, and fusion. Measured on the machine named above."
    table = Table(caption="", columns=columns, rows=tuple(rows))
    return Section(title="Time of one tick", text=text, tables=(table,)) if rows else None
