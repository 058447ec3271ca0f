"""The fuse stage: announcements and tokens in, decisions out, each at its reference time."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from pipeline.admission import Admission
from pipeline.clock import Clock
from pipeline.messages import Admitted, Announcement, Availability, Decision, Message, Progress, Tokens
from pipeline.stages.decide import DecideStage
from pipeline.stages.memory import FusionMemory, MemorySpec

PROGRESS_STEP_NS = 20_000_000
"""How far fusion gets in event time before it tells the sources of a replay again."""


class Fused(msgspec.Struct, frozen=True, kw_only=True):
    """What one call of the network gave."""

    probabilities: dict[str, NDArray[np.float32]]
    """Head to calibrated float32 probabilities ``[classes]``, owned by the caller."""
    thresholds: Mapping[str, Mapping[str, float]] = msgspec.field(default_factory=dict)
    """Head to the probability from which a label is called with the streams that are present; unlisted labels: policy's own."""
    token: NDArray[np.float32] | None = None
    """The fusion token ``[channels]`` to remember; valid until the next call."""
    engine: str = ""
    """The engine that fused, as `pipeline.stages.infer.Infer` says it."""


class FusionNetwork(Protocol):
    """An activated fusion engine with its calibration."""

    streams: tuple[str, ...]
    token_shapes: Mapping[str, tuple[int, int]]
    """Stream to ``(tokens, channels)``."""
    memory: MemorySpec | None
    """The memory that it reads, if it has one."""

    def fuse(self, inputs: Mapping[str, NDArray[Any]], present: tuple[bool, ...]) -> Fused:
        """Fuse once.

        ``inputs``: ``STREAM_tokens`` float32 ``[tokens, channels]`` each, ``age_s`` float32 ``[streams]``, ``mask`` float32
        ``[streams, 3]`` one-hot (present, quiet, absent), and those of `FusionMemory.inputs`. ``present`` says which streams are,
        for calibration.
        """
        ...


class Admitting(Protocol):
    """What says which tokens fusion reads for which reference time: `AdmissionMachine`, or `RecordedAdmission`."""

    counts: Counter[tuple[str, str]]
    """What was refused, by stream and reason."""

    @property
    def clocked(self) -> bool:
        """Whether the clock decides too."""
        ...

    @property
    def finished(self) -> bool:
        """No reference time is pending and none can come."""
        ...

    @property
    def progress_ns(self) -> int:
        """Up to when all that was announced is dealt with."""
        ...

    def announce(self, announcement: Announcement, now_ns: int) -> None:
        """A source says that a sample exists (or that it is alive, ended or lost)."""
        ...

    def tokens(self, tokens: Tokens, now_ns: int) -> None:
        """An encoder's output came; it stays valid."""
        ...

    @property
    def pending_ns(self) -> int | None:
        """The first reference time that waits to be decided."""
        ...

    def due(self, now_ns: int | None) -> Admission | None:
        """The next admission that can be made, or None."""
        ...

    def foreseen(self, now_ns: int) -> Admission | None:
        """What would be admitted at `pending_ns` as things are, for a rehearsal; None where nothing is. Changes nothing."""
        ...

    def next_wake_ns(self) -> int | None:
        """When to ask again although nothing arrived."""
        ...


class FuseStage:
    """Admission, then the network, then policy. A live run passes its clock; a replay goes by stamps alone."""

    def __init__(
        self,
        *,
        machine: Admitting,
        network: FusionNetwork,
        decide: DecideStage,
        clock: Clock,
        publish: Callable[[Decision], None],
        progress: Callable[[Progress], None] | None = None,
    ) -> None:
        self.machine = machine
        self._network, self._decide, self._clock = network, decide, clock
        self._publish, self._progress = publish, progress
        self._last: Fused | None = None
        """What the network gave last."""
        self._rehearsed_ns: int | None = None
        self._reported_ns = -(2**62)
        self.decisions = 0
        self._memory = FusionMemory(network.memory) if network.memory is not None else None
        self._served: dict[str, str] = {}
        self._absent = {s: np.zeros(shape, dtype=np.float32) for s, shape in network.token_shapes.items()}

    def handle(self, message: Message) -> None:
        """Take one announcement or one window's tokens (copied: a link only lends them)."""
        now_ns = self._clock.now_ns()
        if isinstance(message, Announcement):
            self.machine.announce(message, now_ns)
        elif isinstance(message, Tokens):
            self.machine.tokens(message.owned(), now_ns)
        else:
            raise TypeError(f"fusion takes announcements and tokens, not {type(message).__name__}")

    def poll(self) -> None:
        """Decide whatever is due."""
        while (admission := self.machine.due(self._clock.now_ns() if self.machine.clocked else None)) is not None:
            self._publish(self._fuse(admission))
            self.decisions += 1
            self._report()
        self._report()

    def next_wake_ns(self) -> int | None:
        """When to poll again although nothing came (None in replay)."""
        return self.machine.next_wake_ns() if self.machine.clocked else None

    def rehearse(self) -> None:
        """Go through the decision of a reference time that waits for its tokens, once, and throw it away: code that has slept is
        cold, and what was gone through a moment ago takes half as long. Without the network, whose turn of the processor encoders
        need; nothing that is decided changes (decision 0023). For a loop that would else sleep; a replay does nothing here.
        """
        pending_ns, fused = self.machine.pending_ns, self._last
        if not self.machine.clocked or pending_ns is None or pending_ns == self._rehearsed_ns or fused is None:
            return
        self._rehearsed_ns, now_ns = pending_ns, self._clock.now_ns()
        admission = self.machine.foreseen(now_ns)
        if admission is None:
            return
        streams = self._streams(admission)
        self._inputs(admission, streams)
        # Copies are stepped: policy's state, the count of decisions, and when memory was last written out stay as they are.
        copy.copy(self._decide).decide(
            admission, streams, fused.probabilities, (now_ns, now_ns), fused.thresholds, copy.copy(self._memory), self._served
        )

    def _fuse(self, admission: Admission) -> Decision:
        streams = self._streams(admission)
        if admission.skipped:
            return self._decide.skip(admission, streams)
        start_ns = self._clock.now_ns()
        inputs = self._inputs(admission, streams)
        if self._memory is not None:
            inputs |= self._memory.inputs(admission.reference_ns)
        fused = self._network.fuse(inputs, tuple(a.availability is Availability.PRESENT for a in streams))
        if self._memory is not None and fused.token is not None:
            self._memory.keep(admission.reference_ns, fused.token)
        times_ns = (start_ns, self._clock.now_ns())
        for window in admission.windows:
            if window.tokens is not None:
                self._note_engine(window.admitted.stream.partition(".")[0], window.tokens.engine)
        self._note_engine("fusion", fused.engine)
        self._last = fused
        return self._decide.decide(
            admission, streams, fused.probabilities, times_ns, fused.thresholds, self._memory, self._served
        )

    def _streams(self, admission: Admission) -> tuple[Admitted, ...]:
        """The verdict on each of the network's streams, in its order."""
        admitted = {w.admitted.stream: w.admitted for w in admission.windows}
        return tuple(admitted.get(s) or Admitted(stream=s, availability=Availability.MISSING) for s in self._network.streams)

    def _inputs(self, admission: Admission, streams: tuple[Admitted, ...]) -> dict[str, NDArray[Any]]:
        """What the network reads, but for its memory."""
        tokens = {w.admitted.stream: w.tokens.values for w in admission.windows if w.tokens is not None}
        inputs: dict[str, NDArray[Any]] = {}
        age_s = np.zeros(len(streams), dtype=np.float32)
        mask = np.zeros((len(streams), 3), dtype=np.float32)
        for index, admitted in enumerate(streams):
            inputs[f"{admitted.stream}_tokens"] = tokens.get(admitted.stream, self._absent[admitted.stream])
            age_s[index] = admitted.age_ns / 1e9
            mask[index, _mask_column(admitted.availability)] = 1.0
        inputs["age_s"], inputs["mask"] = age_s, mask
        return inputs

    def _note_engine(self, role: str, engine: str) -> None:
        if engine != self._served.get(role, ""):
            self._served = {r: e for r, e in {**self._served, role: engine}.items() if e}

    def _report(self) -> None:
        reached_ns = self.machine.progress_ns
        if self._progress is not None and reached_ns >= self._reported_ns + PROGRESS_STEP_NS:
            self._reported_ns = reached_ns
            self._progress(Progress(stage="fusion", event_ns=reached_ns, count=self.decisions))


def _mask_column(availability: Availability) -> int:
    return {Availability.PRESENT: 0, Availability.QUIET: 1}.get(availability, 2)
