"""The decide stage: from fusion's probabilities to a typed decision with its receipt."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.admission import Admission
from pipeline.clock import Clock
from pipeline.latency import attribute, compute_only, stamped
from pipeline.messages import Admitted, Availability, Decision, Receipt
from pipeline.policy.hysteresis import HysteresisPolicy, PolicyState
from pipeline.stages.memory import FusionMemory


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What made a decision: engines (role to SHA-256) and config."""

    engines: dict[str, str]
    config_sha256: str


class DecideStage:
    """Applies policy and writes receipts. The state in a decision is policy's and the keys of fusion's memory, one value."""

    def __init__(
        self,
        *,
        policy: HysteresisPolicy,
        action_head: str,
        labels: dict[str, tuple[str, ...]],
        identity: Identity,
        deadline_ns: int,
        clock: Clock,
        live: bool,
    ) -> None:
        self._policy, self._action_head, self._labels = policy, action_head, labels
        self._identity, self._deadline_ns, self._clock, self._live = identity, deadline_ns, clock, live
        self._state = PolicyState()
        self._state_json = self._state.to_json()
        self._called: dict[str, str] = {}
        self._engines: dict[str, str] = identity.engines
        self._first_ns: int | None = None
        self._seq = 0

    def skip(self, admission: Admission, streams: tuple[Admitted, ...]) -> Decision:
        """A reference time that a newer one overtook: no outputs, the action in force stands."""
        now_ns = self._clock.now_ns()
        return self._decision(admission, streams, {}, times_ns=(now_ns, now_ns), skipped=True)

    def decide(
        self,
        admission: Admission,
        streams: tuple[Admitted, ...],
        outputs: dict[str, NDArray[np.float32]],
        times_ns: tuple[int, int],
        thresholds: Mapping[str, Mapping[str, float]] | None = None,
        memory: FusionMemory | None = None,
        served: Mapping[str, str] | None = None,
    ) -> Decision:
        """One decision. ``outputs`` maps a head to float32 probabilities ``[classes]``; ``memory`` is fusion's, after this time;
        ``times_ns`` are when fusion began and ended.

        ``thresholds``: head to the probability from which each of its labels is called; the first label needs none. ``served``:
        role to the engine that served it from now on, where that is not the one that the identity names.
        """
        self._engines = {**self._identity.engines, **served} if served else self._identity.engines
        if self._first_ns is None:
            self._first_ns = admission.reference_ns
        blind = not any(a.availability is Availability.PRESENT for a in streams)
        since_first_ns = admission.reference_ns - self._first_ns
        self._called = {h: called(p, self._labels[h], (thresholds or {}).get(h, {})) for h, p in outputs.items()}
        mine = (thresholds or {}).get(self._action_head, {})
        self._state = self._policy.step(self._state, since_first_ns, outputs[self._action_head], mine, blind=blind)
        self._state_json = self._state.to_json(memory.keys() if memory is not None else None)
        snapshot = memory.snapshot(admission.reference_ns) if memory is not None else ""
        return self._decision(admission, streams, outputs, times_ns=times_ns, skipped=False, memory=snapshot)

    def _decision(
        self,
        admission: Admission,
        streams: tuple[Admitted, ...],
        outputs: dict[str, NDArray[np.float32]],
        *,
        times_ns: tuple[int, int],
        skipped: bool,
        memory: str = "",
    ) -> Decision:
        state_sha256 = hashlib.sha256(self._state_json.encode()).hexdigest()
        action = self._policy.label(self._state)
        labels = {head: self._called[head] for head in outputs}
        labels[self._action_head] = action
        deadline_ns = admission.reference_ns + self._deadline_ns
        fuse_ns, stamps = times_ns[1] - times_ns[0], None
        if self._live:
            stamps = stamped(admission, *times_ns)
            publish_ns = self._clock.now_ns()
            spans = attribute(admission, fuse_ns=fuse_ns, publish_ns=publish_ns)
            status = "skipped" if skipped else "on_time" if publish_ns <= deadline_ns else "late"
        else:
            spans, status = compute_only(admission, fuse_ns=fuse_ns), "skipped" if skipped else "replayed"
            publish_ns = admission.reference_ns + spans.total_ns
        seq, self._seq = self._seq, self._seq + 1
        return Decision(
            seq=seq,
            reference_ns=admission.reference_ns,
            publish_ns=publish_ns,
            deadline_ns=deadline_ns,
            status=status,
            action=action,
            outputs=outputs,
            labels=labels,
            state=self._state_json,
            memory=memory,
            receipt=Receipt(
                admitted=streams,
                spans=spans,
                engines=self._engines,
                config_sha256=self._identity.config_sha256,
                state_sha256=state_sha256,
                overrun=admission.overrun,
                synthetic=admission.synthetic,
                stamps=stamps,
            ),
        )


def called(probabilities: NDArray[np.float32], labels: tuple[str, ...], thresholds: Mapping[str, float]) -> str:
    """The most probable of the labels that reach their threshold (a label without one always does), else the first."""
    best, likeliest = labels[0], -1.0  # plain floats: numpy takes longer for so few
    for probability, label in zip(probabilities.tolist(), labels, strict=True):
        if probability > likeliest and probability >= thresholds.get(label, 0.0):
            best, likeliest = label, probability
    return best
