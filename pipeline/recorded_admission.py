"""Admission as a recorded run's receipts tell it: replay of what happened, also where that run dropped or overran.

`pipeline.admission.AdmissionMachine` finds from stamps what a run ought to have read. `RecordedAdmission` reads in the receipts
what it did read, and hands out those very tokens. So a replay makes the decisions of a run that was not clean, too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from pipeline.admission import Admission, AdmittedWindow
from pipeline.contract import Contract, StreamContract
from pipeline.messages import FOREVER_NS, Admitted, Announcement, AnnouncementKind, Availability, Decision, Receipt, Tokens
from pipeline.windows import WindowGrid

MAX_EARLY = 256
"""Windows whose tokens may come before their announcement."""
_Key = tuple[int, int]
"""Epoch of a window's last sample, and the window's end."""


class NotReproducible(Exception):
    """A log does not hold what its decisions rested on: one line that names the decision, and what can be done instead."""


@dataclass(slots=True)
class _Window:
    seq: int
    tokens: Tokens | None = None
    lost: bool = False


@dataclass(slots=True)
class _Lane:
    """The windows of one stream that decisions still to come may name."""

    contract: StreamContract
    grid: WindowGrid
    windows: dict[_Key, _Window] = field(default_factory=dict)
    early: dict[_Key, Tokens] = field(default_factory=dict)
    newest: tuple[int, int] = (-1, -1)
    """Epoch and seq of the last sample."""
    last_capture_ns: int = -(2**62)
    watermark_ns: int = -(2**62)
    over: bool = False

    def announce(self, announcement: Announcement) -> None:
        header = announcement.header
        self.watermark_ns = max(self.watermark_ns, announcement.watermark_ns, header.receive_ns - 1)
        name = (header.epoch, header.seq)
        if announcement.kind in (AnnouncementKind.END, AnnouncementKind.LOST):
            self.over = announcement.watermark_ns >= FOREVER_NS
        elif announcement.kind is AnnouncementKind.VOID:
            self.grid.interrupt()
            for (epoch, _), window in self.windows.items():
                window.lost = window.lost or (epoch, window.seq) == name
        elif announcement.kind is AnnouncementKind.SAMPLE and header.capture_ns > self.last_capture_ns and name > self.newest:
            self.newest, self.last_capture_ns = name, header.capture_ns
            for end_ns in self.grid.push(header):
                key = (header.epoch, end_ns)
                self.windows[key] = _Window(header.seq, self.early.pop(key, None))

    def take(self, tokens: Tokens) -> None:
        key = (tokens.header.epoch, tokens.window_end_ns)
        if key in self.windows:
            self.windows[key].tokens = tokens
        elif (tokens.header.epoch, tokens.header.seq) > self.newest:
            self.early[key] = tokens
            while len(self.early) > MAX_EARLY:
                self.early.pop(next(iter(self.early)))

    def tokens_of(self, admitted: Admitted) -> Tokens | None:
        """Its tokens; None while they may still come. Raises LookupError when they cannot."""
        window = self.windows.get((admitted.epoch, admitted.window_end_ns))
        if window is None:
            if self.over or (admitted.epoch, admitted.seq) <= self.newest:
                raise LookupError("is not in the log")
            return None
        if window.tokens is None and window.lost:
            raise LookupError("cannot be decoded")
        return window.tokens

    def forget(self, reference_ns: int, admitted: Admitted | None) -> None:
        """Drop what no later decision can rest on: a stream's tokens never grow older from one decision to the next."""
        oldest_ns = reference_ns - self.contract.max_age_ns
        if admitted is not None and admitted.availability is Availability.PRESENT:
            oldest_ns = max(oldest_ns, admitted.window_end_ns)
        for key in [key for key in self.windows if key[1] < oldest_ns]:
            del self.windows[key]


class RecordedAdmission:
    """Announcements and tokens in, the recorded decisions' admissions out, in their order.

    ``decisions`` are a log's, read as they are needed; ``source`` names the log in errors. Raises `NotReproducible` when a
    decision is missing, has no receipt, was made with other engines than the first, or rests on what the log lacks.
    """

    clocked = False

    def __init__(self, decisions: Iterable[Decision], contract: Contract, source: str) -> None:
        self._decisions, self._source = iter(decisions), source
        self._lanes = {s.stream: _Lane(s, WindowGrid(s.window, contract.origin_ns)) for s in contract.streams}
        self.counts: Counter[tuple[str, str]] = Counter()
        self._decided_ns = -(2**62)
        self._engines: dict[str, str] | None = None
        self._seq = -1
        self._next: tuple[Decision, Receipt] | None = None
        self._advance()

    def announce(self, announcement: Announcement, now_ns: int = 0) -> None:
        """A source says that a sample exists (or that it is alive, ended or lost)."""
        self._lanes[announcement.header.stream].announce(announcement)

    def tokens(self, tokens: Tokens, now_ns: int = 0) -> None:
        """An encoder's output came. The tokens must stay valid: the caller copies what a link only lends."""
        self._lanes[tokens.header.stream].take(tokens)

    def due(self, now_ns: int | None) -> Admission | None:
        """The next recorded admission, once all that it names is there."""
        if self._next is None:
            return None
        decision, receipt = self._next
        windows = []
        for admitted in receipt.admitted:
            tokens = None
            if admitted.availability is Availability.PRESENT:
                tokens = self._tokens_of(decision, admitted)
                if tokens is None:
                    return None
            windows.append(AdmittedWindow(admitted=admitted, tokens=tokens))
        by_stream = {admitted.stream: admitted for admitted in receipt.admitted}
        for stream, lane in self._lanes.items():
            lane.forget(decision.reference_ns, by_stream.get(stream))
        self._decided_ns = decision.reference_ns
        self._advance()
        return Admission(
            reference_ns=decision.reference_ns,
            synthetic=receipt.synthetic,
            windows=tuple(windows),
            settled_ns=0,
            complete_ns=0,
            announced_ns=0,
            overrun=receipt.overrun,
            skipped=decision.status == "skipped",
        )

    def next_wake_ns(self) -> int | None:
        """A replay is woken by what comes."""
        return None

    @property
    def pending_ns(self) -> int | None:
        """None: nothing here waits for a clock."""
        return None

    def foreseen(self, now_ns: int) -> Admission | None:
        """None: a replay rehearses nothing."""
        return None

    @property
    def finished(self) -> bool:
        """Every recorded decision was made again."""
        return self._next is None

    @property
    def progress_ns(self) -> int:
        """Up to when all that was announced is dealt with: sources may go on to what the next decision rests on."""
        if self._next is None:
            return self._decided_ns
        heard_ns = min((lane.watermark_ns for lane in self._lanes.values()), default=self._decided_ns)
        return max(self._decided_ns, min(self._next[0].reference_ns, heard_ns))

    def _tokens_of(self, decision: Decision, admitted: Admitted) -> Tokens | None:
        if admitted.stream not in self._lanes:
            raise self._not_reproducible(f"decision {decision.seq} rests on stream {admitted.stream[:40]!r}, which the log lacks")
        try:
            return self._lanes[admitted.stream].tokens_of(admitted)
        except LookupError as error:
            sample = f"sample {admitted.seq} of {admitted.stream!r}"
            raise self._not_reproducible(f"decision {decision.seq} rests on {sample}, which {error.args[0]}") from None

    def _advance(self) -> None:
        decision = next(self._decisions, None)
        if decision is None:
            self._next = None
            return
        receipt = decision.receipt
        if receipt is None:
            raise self._not_reproducible(f"decision {decision.seq} has no receipt")
        if decision.seq != self._seq + 1:
            raise self._not_reproducible(f"after decision {self._seq} comes {decision.seq}: what lay between was not recorded")
        self._engines = self._engines or receipt.engines
        if receipt.engines != self._engines:
            changed = ", ".join(role for role, engine in receipt.engines.items() if engine != self._engines.get(role))
            raise self._not_reproducible(f"from decision {decision.seq} on, other engines served ({changed})")
        self._seq, self._next = decision.seq, (decision, receipt)

    def _not_reproducible(self, why: str) -> NotReproducible:
        return NotReproducible(f"{self._source}: {why}; it cannot be replayed as it happened: leave out --as-it-happened")
