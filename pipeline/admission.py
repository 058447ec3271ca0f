"""Admission: for each reference time, the tokens that fusion reads. A pure state machine over stamps.

Fed with announcements and tokens, asked for what is due. It never reads a clock: a live run passes ``now_ns`` in, an event-
time replay passes None, and then only stamps (and the watermarks that a log's reader knows) decide. Both admit the same
tokens, unless the live run overran; then its receipts say so.

The rules are those of DESIGN.md, "The temporal contract". In short, for reference time *t*:

* samples with ``capture <= t`` and ``receive <= t + wait`` are *owed*, and so are the windows they complete;
* a stream is *settled* once nothing more can be owed; fusion runs when all are settled and the owed tokens are there,
  or, live, at the latest at ``t + deadline - reserve``.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field

import msgspec

from pipeline.contract import Contract, StreamContract
from pipeline.messages import FOREVER_NS, Admitted, Announcement, AnnouncementKind, Availability, Header, Tokens
from pipeline.settling import Settling


@dataclass(slots=True)
class _Window:
    """One window that an announced sample completes, and its tokens once they came."""

    end_ns: int
    header: Header
    after_ns: int
    """The stream was settled up to here before (`Settling.to_ns`): this window serves later reference times only."""
    tokens: Tokens | None = None
    arrived_ns: int = 0
    lost: bool = False


class AdmittedWindow(msgspec.Struct, frozen=True, kw_only=True):
    """One stream's part in an admission: the verdict, and the tokens when they are present."""

    admitted: Admitted
    tokens: Tokens | None
    arrived_ns: int = 0
    settled_ns: int = 0
    """When (on the live clock) the stream settled; 0 in replay, or if fusion did not wait for it."""


class Admission(msgspec.Struct, frozen=True, kw_only=True):
    """What fusion reads for one reference time.

    ``settled_ns`` and ``complete_ns`` are when (on the live clock; 0 in replay) the last stream settled and the last owed
    tokens came: what lies between is waiting for a late sensor. A ``skipped`` one was overtaken while fusion was busy.
    """

    reference_ns: int
    synthetic: bool
    windows: tuple[AdmittedWindow, ...]
    settled_ns: int
    complete_ns: int
    announced_ns: int
    overrun: bool
    skipped: bool = False


@dataclass(slots=True)
class _Pending:
    reference_ns: int
    synthetic: bool
    announced_ns: int
    settled_ns: int | None = None
    complete_ns: int | None = None
    settled_by: dict[str, int] = field(default_factory=dict)
    """Stream to when it settled, as far as that was looked at."""


class _Lane:
    """What is known of one stream."""

    def __init__(self, contract: StreamContract, origin_ns: int) -> None:
        self.contract = contract
        self.settling = Settling(contract, origin_ns)
        self.windows: deque[_Window] = deque()
        self.early: dict[tuple[int, int], tuple[Tokens, int]] = {}
        self.alive: deque[tuple[int, int, int]] = deque()
        """Capture and receive time of each word, and up to when the stream was settled before it."""
        self.epoch = -1
        self.seq = -1
        self.last_capture_ns = -(2**62)
        self.watermark_ns = -(2**62)
        self.heard_ns = -(2**62)
        """Where the watermark of the stamps alone is: unlike that of a reader at its log's end never FOREVER."""
        self.ended: AnnouncementKind | None = None

    def settled(self, reference_ns: int, now_ns: int | None, in_flight_ns: int) -> bool:
        """Whether nothing more can be owed for this reference time."""
        wait_until_ns = reference_ns + self.contract.wait_ns
        if self.ended is AnnouncementKind.END or self.settling.to_ns >= reference_ns or self.watermark_ns >= wait_until_ns:
            return True
        if now_ns is None:  # replay: a log knows its watermarks, and a lost source may come back in it
            return False
        if self.ended is AnnouncementKind.LOST:
            return True
        gap_ns = self.contract.min_gap_ns
        return (gap_ns > 0 and self.last_capture_ns + gap_ns > reference_ns) or now_ns >= wait_until_ns + in_flight_ns

    def owed(self, reference_ns: int) -> list[_Window]:
        """Windows that may serve this reference time, newest first."""
        latest_ns = reference_ns + self.contract.wait_ns
        return [
            w
            for w in reversed(self.windows)
            if w.end_ns <= reference_ns
            and w.after_ns < reference_ns
            and w.header.capture_ns <= reference_ns
            and w.header.receive_ns <= latest_ns
        ]

    def complete(self, reference_ns: int) -> bool:
        """Whether the newest owed window's tokens came, or can no longer come, or would be stale anyway."""
        owed = self.owed(reference_ns)
        if not owed or reference_ns - owed[0].end_ns > self.contract.max_age_ns:
            return True
        return owed[0].tokens is not None or owed[0].lost

    def admit(self, reference_ns: int, settled_ns: int = 0) -> AdmittedWindow:
        """The verdict, from stamps alone."""
        owed = self.owed(reference_ns)
        fresh = [w for w in owed if reference_ns - w.end_ns <= self.contract.max_age_ns]
        overrun = bool(fresh) and fresh[0].tokens is None
        chosen = next((w for w in fresh if w.tokens is not None), None)
        name = self.contract.stream
        if chosen is None:
            availability = self._absence(reference_ns, bool(owed))
            nothing = Admitted(stream=name, availability=availability, overrun=overrun)
            return AdmittedWindow(admitted=nothing, tokens=None, settled_ns=settled_ns)
        return AdmittedWindow(
            admitted=Admitted(
                stream=name,
                availability=Availability.PRESENT,
                seq=chosen.header.seq,
                epoch=chosen.header.epoch,
                window_end_ns=chosen.end_ns,
                age_ns=reference_ns - chosen.end_ns,
                overrun=overrun,
            ),
            tokens=chosen.tokens,
            arrived_ns=chosen.arrived_ns,
            settled_ns=settled_ns,
        )

    def _absence(self, reference_ns: int, any_window: bool) -> Availability:
        since_ns, latest_ns = reference_ns - self.contract.liveness_ns, reference_ns + self.contract.wait_ns
        alive = any(
            since_ns <= capture_ns <= reference_ns and after_ns < reference_ns and receive_ns <= latest_ns
            for capture_ns, receive_ns, after_ns in self.alive
        )
        if not alive:
            return Availability.MISSING
        if self.contract.sparse:
            return Availability.QUIET
        return Availability.STALE if any_window else Availability.STARTING

    def forget(self, reference_ns: int) -> None:
        """Drop what no later reference time can need."""
        in_time_ns, stale_ns = reference_ns + self.contract.wait_ns, reference_ns - self.contract.max_age_ns
        while len(self.windows) > 1:
            following = self.windows[1]
            # One that came too late for this time may not be known yet in another order of arrival: it decides nothing.
            is_owed = max(following.end_ns, following.after_ns + 1) <= reference_ns and following.header.receive_ns <= in_time_ns
            if not is_owed or not (following.tokens is not None or self.windows[0].lost or following.end_ns < stale_ns):
                break
            self.windows.popleft()
        while len(self.alive) > 1 and self.alive[0][0] < reference_ns - self.contract.liveness_ns:
            self.alive.popleft()


@dataclass(slots=True)
class AdmissionMachine:
    """Announcements and tokens in, admissions out, in reference order."""

    contract: Contract
    clocked: bool = True
    """A live run's: the clock decides too, and a lost source no longer holds up the end."""
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    """What was refused, by stream and reason: ``duplicate``, ``out_of_order``, ``late_announcement``, ``lost_window``."""
    _lanes: dict[str, _Lane] = field(init=False)
    _pending: deque[_Pending] = field(default_factory=deque)
    _last_reference_ns: int | None = None
    _last_synthetic: bool = False
    _decided_ns: int = -(2**62)

    def __post_init__(self) -> None:
        """One lane a stream."""
        self._lanes = {s.stream: _Lane(s, self.contract.origin_ns) for s in self.contract.streams}

    # -- in -----------------------------------------------------------------------------------------------------

    def announce(self, announcement: Announcement, now_ns: int = 0) -> None:
        """A source says that a sample exists (or that it is alive, ended or lost)."""
        header = announcement.header
        lane = self._lanes[header.stream]
        if announcement.kind is AnnouncementKind.SAMPLE and not self._accept_sample(lane, header, now_ns):
            return
        lane.watermark_ns = max(lane.watermark_ns, announcement.watermark_ns)
        if announcement.kind is not AnnouncementKind.WATERMARK:
            lane.heard_ns = max(lane.heard_ns, header.receive_ns - 1)
        if announcement.kind is AnnouncementKind.VOID:
            lane.settling.grid.interrupt()
            for window in lane.windows:
                window.lost = window.lost or (window.header.epoch, window.header.seq) == (header.epoch, header.seq)
        elif announcement.kind is AnnouncementKind.HEARTBEAT:
            self._count_if_late(lane, header)
            lane.alive.append((header.capture_ns, header.receive_ns, lane.settling.to_ns))
            lane.settling.heard(header)
        elif announcement.kind in (AnnouncementKind.END, AnnouncementKind.LOST):
            if announcement.kind is AnnouncementKind.END and header.stream == self.contract.reference_stream:
                self._append_synthetic_before(lane.heard_ns, now_ns)  # it may have been silent for long before it ended
            lane.ended = announcement.kind
        self._advance_by_stamps(now_ns)

    def _accept_sample(self, lane: _Lane, header: Header, now_ns: int) -> bool:
        if header.epoch == lane.epoch and header.seq <= lane.seq:
            self.counts[header.stream, "duplicate"] += 1
            return False
        if header.capture_ns <= lane.last_capture_ns:
            self.counts[header.stream, "out_of_order"] += 1
            return False
        self._count_if_late(lane, header)
        lane.watermark_ns = max(lane.watermark_ns, header.receive_ns - 1)
        if header.stream == self.contract.reference_stream:
            self._reference_sample(header, now_ns)
        lane.ended = None
        lane.epoch, lane.seq, lane.last_capture_ns = header.epoch, header.seq, header.capture_ns
        after_ns = lane.settling.to_ns
        lane.alive.append((header.capture_ns, header.receive_ns, after_ns))
        for end_ns in lane.settling.sampled(header):
            window = _Window(end_ns, header, after_ns)
            window.tokens, window.arrived_ns = lane.early.pop((header.epoch, end_ns), (None, 0))
            lane.windows.append(window)
        return True

    def _count_if_late(self, lane: _Lane, header: Header) -> None:
        is_owed = max(header.capture_ns, lane.settling.to_ns + 1) <= self._decided_ns
        if is_owed and header.receive_ns <= self._decided_ns + lane.contract.wait_ns:
            self.counts[header.stream, "late_announcement"] += 1

    def tokens(self, tokens: Tokens, now_ns: int = 0) -> None:
        """An encoder's output came. The tokens must stay valid: the caller copies what a link only lends."""
        lane = self._lanes[tokens.header.stream]
        known = False
        for window in lane.windows:
            if window.header.epoch != tokens.header.epoch:
                continue
            if window.end_ns == tokens.window_end_ns:
                window.tokens, window.arrived_ns, known = tokens, now_ns, True
            elif window.end_ns < tokens.window_end_ns and window.tokens is None and not window.lost:
                window.lost = True  # links keep order: it was dropped on the way to the encoder
                self.counts[tokens.header.stream, "lost_window"] += 1
        if not known and (tokens.header.epoch, tokens.header.seq) > (lane.epoch, lane.seq):
            lane.early[tokens.header.epoch, tokens.window_end_ns] = (tokens, now_ns)
            while len(lane.early) > 256:
                lane.early.pop(next(iter(lane.early)))

    # -- reference times ----------------------------------------------------------------------------------------

    def _append_reference(self, reference_ns: int, *, synthetic: bool, now_ns: int) -> None:
        self._last_reference_ns, self._last_synthetic = reference_ns, synthetic
        stop_ns = self.contract.stop_after_ns
        if stop_ns is None or reference_ns <= stop_ns:
            self._pending.append(_Pending(reference_ns, synthetic, now_ns))

    def _reference_sample(self, header: Header, now_ns: int) -> None:
        # Stamps, not arrival, say whether the sample came too late to stop a synthetic time: replay must find the same.
        self._append_synthetic_before(header.receive_ns, now_ns)
        last_ns = self._last_reference_ns
        if self._last_synthetic and last_ns is not None and header.receive_ns <= last_ns + self.contract.period_ns // 2:
            self.counts[header.stream, "late_announcement"] += 1
        soonest_ns = 0 if last_ns is None else last_ns + (self.contract.period_ns // 2 if self._last_synthetic else 1)
        if last_ns is None or header.capture_ns >= soonest_ns:
            self._append_reference(header.capture_ns, synthetic=False, now_ns=now_ns)

    def _append_synthetic_before(self, heard_ns: int, now_ns: int) -> None:
        """Nothing of the reference stream was received up to ``heard_ns``: go on at the nominal rate."""
        period_ns, stop_ns = self.contract.period_ns, self.contract.stop_after_ns
        while self._last_reference_ns is not None:
            next_ns = self._last_reference_ns + period_ns
            if next_ns + period_ns // 2 >= heard_ns or (stop_ns is not None and next_ns > stop_ns):
                return
            self._append_reference(next_ns, synthetic=True, now_ns=now_ns)

    def _advance_by_stamps(self, now_ns: int) -> None:
        """Synthetic and fixed-rate reference times that stamps alone call for."""
        name = self.contract.reference_stream
        if name is not None and name in self._lanes:
            lane = self._lanes[name]
            if lane.ended is not AnnouncementKind.END:
                self._append_synthetic_before(min(lane.watermark_ns, self._heard_of_all_ns()), now_ns)
            return
        self._append_fixed_rate(self._heard_of_all_ns(), now_ns)

    def _heard_of_all_ns(self) -> int:
        """Up to when every stream that has not ended has been heard; past the last one's end, where the log stopped."""
        running = [lane.watermark_ns for lane in self._lanes.values() if lane.ended is not AnnouncementKind.END]
        heard_ns = min(running, default=FOREVER_NS)
        if heard_ns < FOREVER_NS:
            return heard_ns
        if self.contract.stop_after_ns is not None:
            return self.contract.stop_after_ns + self.contract.period_ns
        return max((lane.heard_ns for lane in self._lanes.values()), default=-(2**62))

    def _append_fixed_rate(self, until_ns: int, now_ns: int) -> None:
        stop_ns = self.contract.stop_after_ns
        while True:
            last_ns = self.contract.origin_ns if self._last_reference_ns is None else self._last_reference_ns
            next_ns = last_ns + self.contract.period_ns
            if next_ns > until_ns or (stop_ns is not None and next_ns > stop_ns):
                return
            self._append_reference(next_ns, synthetic=self.contract.reference_stream is not None, now_ns=now_ns)

    def _advance_by_clock(self, now_ns: int) -> None:
        heard_ns = now_ns - self.contract.in_flight_ns
        name = self.contract.reference_stream
        if name is None or name not in self._lanes:
            if any(lane.ended is None for lane in self._lanes.values()):
                self._append_fixed_rate(heard_ns, now_ns)
        elif self._lanes[name].ended is not AnnouncementKind.END and not self._all_ended():
            self._append_synthetic_before(heard_ns, now_ns)

    def _all_ended(self) -> bool:
        return all(
            lane.ended is AnnouncementKind.END
            or (lane.ended is AnnouncementKind.LOST and (self.clocked or lane.watermark_ns >= FOREVER_NS))
            for lane in self._lanes.values()
        )

    # -- out ----------------------------------------------------------------------------------------------------

    def due(self, now_ns: int | None) -> Admission | None:
        """The next admission that can be made, or None. Ask again until None."""
        if now_ns is not None:
            self._advance_by_clock(now_ns)
        if not self._pending:
            return None
        head = self._pending[0]
        if not self._ready(head, now_ns):
            return None
        self._pending.popleft()
        self._decided_ns = head.reference_ns
        late = now_ns is not None and now_ns > head.reference_ns + self.contract.deadline_ns
        skipped = late and bool(self._pending) and self._ready(self._pending[0], now_ns)
        admission = self._admission(head, skipped=skipped)
        for lane in self._lanes.values():
            lane.forget(head.reference_ns)
        return admission

    @property
    def pending_ns(self) -> int | None:
        """The first reference time that waits to be decided."""
        return self._pending[0].reference_ns if self._pending else None

    def foreseen(self, now_ns: int) -> Admission | None:
        """What would be admitted at `pending_ns` as things are; None where nothing is pending. Changes nothing."""
        if not self._pending:
            return None
        pending = self._pending[0]
        head = _Pending(pending.reference_ns, pending.synthetic, pending.announced_ns)
        self._ready(head, now_ns)
        return self._admission(head, skipped=False)

    def _admission(self, head: _Pending, *, skipped: bool) -> Admission:
        windows = tuple(lane.admit(head.reference_ns, head.settled_by.get(name, 0)) for name, lane in self._lanes.items())
        return Admission(
            reference_ns=head.reference_ns,
            synthetic=head.synthetic,
            windows=windows,
            settled_ns=head.settled_ns or 0,
            complete_ns=head.complete_ns or 0,
            announced_ns=head.announced_ns,
            overrun=any(w.admitted.overrun for w in windows),
            skipped=skipped,
        )

    def _ready(self, pending: _Pending, now_ns: int | None) -> bool:
        reference_ns, contract = pending.reference_ns, self.contract
        for name, lane in self._lanes.items():
            if lane.settled(reference_ns, now_ns, contract.in_flight_ns):
                pending.settled_by.setdefault(name, now_ns or 0)
            else:
                pending.settled_by.pop(name, None)  # lost, and back again
        settled = len(pending.settled_by) == len(self._lanes)
        complete = all(lane.complete(reference_ns) for lane in self._lanes.values())
        if settled and pending.settled_ns is None:
            pending.settled_ns = now_ns or 0
        if complete and pending.complete_ns is None:
            pending.complete_ns = now_ns or 0
        elif not complete:
            pending.complete_ns = None
        if settled and complete:
            return True
        return now_ns is not None and now_ns >= reference_ns + contract.deadline_ns - contract.reserve_ns

    def next_wake_ns(self) -> int | None:
        """When a live run must ask again although nothing arrived; None if only arrivals matter."""
        contract, wakes = self.contract, []
        if self._pending:
            head = self._pending[0]
            wakes.append(head.reference_ns + contract.deadline_ns - contract.reserve_ns)
            # What `due` has not seen settle, though it may have since: a time that just passed must wake, or nothing would.
            wakes += [
                head.reference_ns + lane.contract.wait_ns + contract.in_flight_ns
                for name, lane in self._lanes.items()
                if name not in head.settled_by
            ]
        name = contract.reference_stream
        if name is None or name not in self._lanes:
            last_ns = contract.origin_ns if self._last_reference_ns is None else self._last_reference_ns
            if not self._all_ended():
                wakes.append(last_ns + contract.period_ns + contract.in_flight_ns)
        elif self._last_reference_ns is not None and not (self._lanes[name].ended is AnnouncementKind.END or self._all_ended()):
            silent_ns = contract.period_ns * 3 // 2 + contract.in_flight_ns + 1
            # The next sample may have been announced without a word: its deadline holds whether or not its tokens come.
            unheard_ns = contract.period_ns + contract.deadline_ns - contract.reserve_ns
            wakes.append(self._last_reference_ns + min(silent_ns, unheard_ns))
        return min(wakes) if wakes else None

    @property
    def finished(self) -> bool:
        """No reference time is pending and none can come."""
        if self._pending:
            return False
        name = self.contract.reference_stream
        if name in self._lanes and self._lanes[name].ended is AnnouncementKind.END:
            return True
        return self._all_ended()

    @property
    def progress_ns(self) -> int:
        """Up to when all that was announced is dealt with: the credit of a lossless replay."""
        if self._pending:
            return self._decided_ns
        return max(self._decided_ns, min((lane.watermark_ns for lane in self._lanes.values()), default=self._decided_ns))

    @property
    def decided_ns(self) -> int:
        """The newest reference time that was admitted."""
        return self._decided_ns
