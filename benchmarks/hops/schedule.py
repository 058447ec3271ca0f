"""What is sent when, and what came when. Needs numpy alone: it runs in the peers' environments."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

STAMP = 3
"""Sequence number, sender, and when it began to send, as int64 at the start of every payload."""
PAUSE_NS = 300_000_000
LAST_WORD_NS = 1_500_000_000
SATURATED_LIMIT = 200_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """``count`` messages of ``size`` bytes, ``period_ns`` apart; a period of 0 is as fast as the link takes them, for
    ``for_ns``.
    """

    name: str
    size: int
    period_ns: int
    count: int
    for_ns: int = 0

    @property
    def length_ns(self) -> int:
        """How long it sends."""
        return self.count * self.period_ns if self.period_ns else self.for_ns


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """All phases, one after another with a pause between; every sender sends them all."""

    phases: tuple[Phase, ...]
    senders: int = 1

    def save(self, path: Path) -> None:
        """For the processes that take part."""
        path.write_text(json.dumps({"senders": self.senders, "phases": [asdict(p) for p in self.phases]}), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Schedule:
        """What `save` wrote."""
        raw = json.loads(path.read_text(encoding="utf-8"))
        return cls(phases=tuple(Phase(**p) for p in raw["phases"]), senders=raw["senders"])

    @property
    def starts_ns(self) -> list[int]:
        """When each phase begins."""
        lengths = [p.length_ns + PAUSE_NS for p in self.phases]
        return [PAUSE_NS + sum(lengths[:k]) for k in range(len(lengths))]

    @property
    def end_ns(self) -> int:
        """When the last message is due."""
        return self.starts_ns[-1] + self.phases[-1].length_ns

    def first_seq(self, phase: int) -> int:
        """The sequence number that a phase begins with."""
        return sum(p.count if p.period_ns else SATURATED_LIMIT for p in self.phases[:phase])

    def payloads(self, origin_ns: int, sender: int = 0) -> Iterator[tuple[int, int, NDArray[np.uint8]]]:
        """``(seq, begun, payload)``, each when it is due.

        Open loop: a message that the link held up before it was sent has begun when it was due. One that had to be slept for has
        begun when the sleep ended, since how late timers wake a process says nothing of a link.
        """
        for place, (phase, start_ns) in enumerate(zip(self.phases, self.starts_ns, strict=True)):
            payload = np.arange(phase.size, dtype=np.uint64).astype(np.uint8)
            stamp = payload[: 8 * STAMP].view(np.int64)
            stamp[1] = sender
            for k in range(phase.count if phase.period_ns else SATURATED_LIMIT):
                begun_ns = origin_ns + start_ns + k * phase.period_ns
                left_ns = begun_ns - time.monotonic_ns()
                if left_ns > 0:
                    time.sleep(left_ns / 1e9)
                    begun_ns = time.monotonic_ns()
                elif not phase.period_ns and -left_ns > phase.for_ns:
                    break
                stamp[0], stamp[2] = self.first_seq(place) + k, begun_ns
                yield int(stamp[0]), begun_ns, payload


class Arrivals:
    """Notes what came when; at the schedule's end writes it and ends the process, whatever it then waits for."""

    def __init__(self, schedule: Schedule, out: Path) -> None:
        self._schedule, self._out = schedule, out
        self._rows: list[tuple[int, int, int, int]] = []

    def begin(self, origin_ns: int) -> None:
        """Once the origin is known."""
        left_ns = origin_ns + self._schedule.end_ns + LAST_WORD_NS - time.monotonic_ns()
        threading.Thread(target=self._end, args=(origin_ns, left_ns / 1e9), daemon=True).start()

    def note(self, payload: Any) -> None:
        """One payload came: a flat array of uint8."""
        now_ns = time.monotonic_ns()
        seq, sender, begun_ns = np.frombuffer(payload, np.int64, STAMP)
        self.note_stamp(int(seq), int(sender), int(begun_ns), now_ns)

    def note_stamp(self, seq: int, sender: int, begun_ns: int, now_ns: int) -> None:
        """The same, where the link's own header carries the stamp."""
        self._rows.append((seq, sender, begun_ns, now_ns))

    def _end(self, origin_ns: int, in_s: float) -> None:
        time.sleep(in_s)
        rows = np.array(self._rows, np.int64).reshape(-1, STAMP + 1)
        rows[:, 2:] -= origin_ns
        np.save(self._out / ".received.npy", rows)
        (self._out / ".received.npy").rename(self._out / "received.npy")
        os._exit(0)
