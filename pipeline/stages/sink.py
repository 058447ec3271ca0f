"""The sink stage: decisions and recordings in; the log, the network, the run's digest and its summary out."""

from __future__ import annotations

from array import array
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from msgspec.structs import replace

from pipeline.clock import Clock
from pipeline.digest import RunDigest
from pipeline.latency import WARM_UP_NS, LatencySummary
from pipeline.logs.writer import RunLog
from pipeline.messages import Availability, Decision, Message, Progress, Recording
from pipeline.sinks.base import DecisionSink
from pipeline.stages.memory import SNAPSHOT_NS

OUTBOX = 20_000
PROGRESS_STEP_NS = 20_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class StageReport:
    """What one stage lost, and why it failed if it did."""

    stage: str
    drops: dict[tuple[str, str], int] = field(default_factory=dict)
    """(stream, reason) to count."""
    failures: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()
    """What else a user should know: an engine that took over, or could not."""
    sent: int = 0
    """Decisions (fusion) or recordings (ingest) that it sent to the sink, which waits for them before it closes the log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """What was decided when, compactly: for comparing with ground truth.

    ``reference_ns`` int64; ``classes`` maps a head to the index of its top class (-1: skipped); ``actions`` holds policy's
    action as an index into ``action_names``. All of one length.
    """

    reference_ns: array[int]
    classes: dict[str, array[int]]
    actions: array[int]
    action_names: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """How a run went."""

    decisions: int
    on_time: int
    late: int
    skipped: int
    synthetic: int
    overruns: int
    swaps: int
    """How often another engine took over between two decisions."""
    drops: dict[tuple[str, str], int]
    failures: tuple[str, ...]
    notices: tuple[str, ...]
    sha256: str
    actions: dict[str, int]
    availability: dict[str, dict[str, int]]
    latency_ns: dict[str, dict[str, int | None]]
    """Part (``latency``, ``decode``, ``encode``, ``fuse``, ``wait``, ``runtime``) to p50, p90, p99, p99.9, max."""
    within_25_ms: float | None
    first_reference_ns: int
    last_reference_ns: int
    timeline: Timeline

    @property
    def missed(self) -> int:
        """Late or skipped."""
        return self.late + self.skipped

    @property
    def dropped(self) -> int:
        """All drops, of every stream and reason."""
        return sum(self.drops.values())

    @property
    def clean(self) -> bool:
        """No drop, no overrun, nothing skipped, no engine swap: event-time replay of the log gives the same decisions."""
        return not (self.dropped or self.overruns or self.skipped or self.swaps)

    def closing_line(self) -> str:
        """What `run` and `replay` end with."""
        return f"decisions={self.decisions} missed={self.missed} dropped={self.dropped} sha256={self.sha256}"


class SinkStage:
    """Takes a run's decisions and recordings. Its memory grows by about a dozen bytes a decision and no more."""

    def __init__(
        self,
        *,
        writer: RunLog | None,
        sinks: Sequence[DecisionSink] = (),
        progress: Callable[[Progress], None] | None = None,
        keep_outbox: bool = True,
        clock: Clock | None = None,
    ) -> None:
        self._writer, self._sinks, self._progress, self._clock = writer, tuple(sinks), progress, clock
        self.outbox: deque[Decision] | None = deque(maxlen=OUTBOX) if keep_outbox else None
        self.decisions = 0
        self.recordings: Counter[str] = Counter()
        self._digest = RunDigest()
        self._status: Counter[str] = Counter()
        self._actions: Counter[str] = Counter()
        self._availability: dict[str, Counter[str]] = {}
        self._latency = LatencySummary()
        self._within_25_ms = self._measured = 0
        self._engines: dict[str, str] | None = None
        self._swaps = 0
        self._first_ns: int | None = None
        self._last_ns = self._snapshot_ns = self._reported_ns = -(2**62)
        self._recorded_ns: dict[str, int] = {}
        self._has_memory = False
        self._reference_ns = array("q")
        self._classes: dict[str, array[int]] = {}
        self._action_index = array("b")

    def handle(self, message: Message) -> None:
        """Take one decision or one recording."""
        if isinstance(message, Decision):
            self._take_decision(message)
        elif isinstance(message, Recording):
            header = message.announcement.header
            self.recordings[header.stream] += 1
            if self._writer is not None:
                self._writer.announcement(message)
        else:
            raise TypeError(f"a sink takes decisions and recordings, not {type(message).__name__}")

    def _take_decision(self, decision: Decision) -> None:
        self.decisions += 1
        self._digest.add(decision)
        if self._first_ns is None:
            self._first_ns = decision.reference_ns
        self._last_ns = decision.reference_ns
        self._count(decision)
        for sink in self._sinks:
            sink.send(decision)
        if self.outbox is not None:
            self.outbox.append(decision)
        if self._writer is not None:
            self._writer.decision(self._stamped(decision))
            self._snapshot(self._writer, decision)
        if self._progress is not None and decision.reference_ns - self._reported_ns >= PROGRESS_STEP_NS:
            self._reported_ns = decision.reference_ns
            self._progress(Progress(stage="recorder", event_ns=decision.reference_ns, count=self.decisions))

    def _snapshot(self, writer: RunLog, decision: Decision) -> None:
        """Once a second: when fusion gives its memory, or, if it has none, as time goes."""
        self._has_memory = self._has_memory or bool(decision.memory)
        is_due = decision.reference_ns - self._snapshot_ns >= SNAPSHOT_NS
        if decision.memory or (is_due and not self._has_memory):
            self._snapshot_ns = decision.reference_ns
            writer.snapshot(decision.reference_ns, decision.state, decision.memory)

    def _stamped(self, decision: Decision) -> Decision:
        """With when it came here, if it is a live one."""
        if self._clock is None or decision.status == "replayed":
            return decision
        return replace(decision, sink_ns=self._clock.now_ns())

    def _count(self, decision: Decision) -> None:
        self._status[decision.status] += 1
        self._actions[decision.action] += 1
        self._reference_ns.append(decision.reference_ns)
        self._action_index.append(list(self._actions).index(decision.action))
        for head, values in decision.outputs.items():
            earlier = array("b", [-1] * (self.decisions - 1))  # a head first seen now was absent before
            self._classes.setdefault(head, earlier).append(int(np.argmax(values)))
        if not decision.outputs:
            for classes in self._classes.values():
                classes.append(-1)
        receipt = decision.receipt
        if receipt is None:
            return
        self._swaps += self._engines is not None and receipt.engines != self._engines
        self._engines = receipt.engines
        self._status["synthetic"] += receipt.synthetic
        self._status["overrun"] += receipt.overrun
        for admitted in receipt.admitted:
            self._availability.setdefault(admitted.stream, Counter())[Availability(admitted.availability).name.lower()] += 1
        assert self._first_ns is not None
        if decision.status == "skipped" or decision.reference_ns < self._first_ns + WARM_UP_NS:
            return
        spans = receipt.spans
        self._measured += 1
        self._within_25_ms += decision.latency_ns <= 25_000_000
        parts = {"latency": decision.latency_ns, "decode": spans.decode_ns, "encode": spans.encode_ns}
        parts |= {"fuse": spans.fuse_ns, "wait": spans.wait_ns, "runtime": spans.runtime_ns}
        for part, value_ns in parts.items():
            self._latency.add(part, value_ns)

    def take(self) -> list[Decision]:
        """The decisions since the last call, for a console."""
        taken: list[Decision] = []
        while self.outbox:
            taken.append(self.outbox.popleft())
        return taken

    def finish(self, reports: Sequence[StageReport]) -> RunSummary:
        """Close the log and sum up."""
        drops: Counter[tuple[str, str]] = Counter()
        for report in reports:
            drops.update({key: n for key, n in report.drops.items() if n})
        for sink in self._sinks:
            if sink.dropped:
                drops["decisions", f"sink {sink.uri}"] += sink.dropped
        percents = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p99.9": 99.9}
        latency = {
            part: {
                **{n: self._latency.percentile_ns(part, p) for n, p in percents.items()},
                "max": self._latency.maximum_ns(part),
            }
            for part in self._latency.parts()
        }
        summary = RunSummary(
            decisions=self.decisions,
            on_time=self._status["on_time"],
            late=self._status["late"],
            skipped=self._status["skipped"],
            synthetic=self._status["synthetic"],
            overruns=self._status["overrun"],
            swaps=self._swaps,
            drops=dict(drops),
            failures=tuple(f for report in reports for f in report.failures),
            notices=tuple(n for report in reports for n in report.notices),
            sha256=self._digest.hexdigest(),
            actions=dict(self._actions),
            availability={s: dict(c) for s, c in self._availability.items()},
            latency_ns=latency,
            within_25_ms=self._within_25_ms / self._measured if self._measured else None,
            first_reference_ns=self._first_ns or 0,
            last_reference_ns=self._last_ns if self._first_ns is not None else 0,
            timeline=Timeline(
                reference_ns=self._reference_ns,
                classes=self._classes,
                actions=self._action_index,
                action_names=tuple(self._actions),
            ),
        )
        if self._writer is not None:
            self._writer.finish(end_record(summary))
        return summary


def end_record(summary: RunSummary) -> dict[str, str]:
    """What the log says at its end."""
    # Without decisions there is no last one at which a replay should stop.
    decided = {"last_reference_ns": str(summary.last_reference_ns)} if summary.decisions else {}
    return decided | {
        "clean": "true" if summary.clean else "false",
        "decisions": str(summary.decisions),
        "missed": str(summary.missed),
        "overruns": str(summary.overruns),
        "swaps": str(summary.swaps),
        "dropped": str(summary.dropped),
        "drops": "; ".join(f"{stream}: {reason} {n}" for (stream, reason), n in sorted(summary.drops.items())),
        "sha256": summary.sha256,
    }
