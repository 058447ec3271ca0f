"""The job that every contender does: the same samples at the same times, the same encoders, fusion and policy.

What differs between contenders is only what moves messages and wakes whom. So everything else lies here, and needs numpy,
onnxruntime, pydantic and PyYAML alone: it runs in the peers' own virtual environments. Times are ns from the job's
beginning.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from actors.engines import encoder_engine, fusion_engine
from actors.plan import RunPlan, encode_stage
from pipeline.clock import SystemClock
from pipeline.config import load_scenario, scenario_folder
from pipeline.messages import AudioBlock, Frame, Header, Sample, TelemetryBlock, TextLine, Tokens
from pipeline.policy.hysteresis import HysteresisPolicy, PolicyState
from pipeline.stages.memory import FusionMemory

SCENARIO = "driving"
INDEX = np.dtype([("stream", "i8"), ("seq", "i8"), ("capture_ns", "i8"), ("span_ns", "i8"), ("due_ns", "i8"), ("offset", "i8"),
                  ("size", "i8")])  # fmt: skip


class Ticket(NamedTuple):
    """What goes with a sample's bytes; ``due_ns`` is when its sensor hands it over."""

    stream: str
    seq: int
    capture_ns: int
    span_ns: int
    due_ns: int


class Encoded(NamedTuple):
    """What goes with a window's tokens, float32 ``[tokens, channels]``."""

    stream: str
    window_end_ns: int
    due_ns: int
    encode_ns: int


class Job:
    """The samples of a job, as `benchmarks.job_making` laid them into a folder; payloads are mapped, not read."""

    def __init__(self, folder: Path) -> None:
        about = json.loads((folder / "job.json").read_text(encoding="utf-8"))
        self.folder = folder
        self.streams: tuple[str, ...] = tuple(about["streams"])
        self.frame_hw: tuple[int, int] = tuple(about["frame_hw"])
        self.channels: int = about["channels"]
        self.end_ns: int = about["end_ns"]
        self.alive_from_ns: int = about["alive_from_ns"]
        """From when on a stream that says nothing is known to be there."""
        self.owed: dict[str, NDArray[np.int64]] = {
            s: np.array(rows, np.int64).reshape(-1, 3) for s, rows in about["owed"].items()
        }
        """Stream to its windows: end, capture and due time of the sample that completes each."""
        self.index = np.load(folder / "index.npy")
        self._payloads = np.memmap(folder / "samples.bin", np.uint8, "r")

    @property
    def references_ns(self) -> NDArray[np.int64]:
        """Every reference time: the camera's captures."""
        return self.owed["camera"][:, 0]

    def samples(self, *streams: str) -> Iterator[tuple[Ticket, NDArray[np.uint8]]]:
        """The samples of these streams in the order in which they are due, each with its bytes."""
        wanted = [self.streams.index(s) for s in streams]
        for row in self.index[np.isin(self.index["stream"], wanted)]:
            ticket = Ticket(self.streams[row["stream"]], *(int(row[n]) for n in ("seq", "capture_ns", "span_ns", "due_ns")))
            yield ticket, self._payloads[row["offset"] : row["offset"] + row["size"]]

    def paced(self, origin_ns: int, *streams: str) -> Iterator[tuple[Ticket, NDArray[np.uint8]]]:
        """`samples`, each when it is due: open loop, whatever became of those before."""
        for ticket, payload in self.samples(*streams):
            left_ns = origin_ns + ticket.due_ns - time.monotonic_ns()
            if left_ns > 0:
                time.sleep(left_ns / 1e9)
            yield ticket, payload

    def sample(self, ticket: Ticket, payload: NDArray[np.uint8]) -> Sample:
        """The sample that these bytes are, as views into them."""
        header = Header(
            stream=ticket.stream, seq=ticket.seq, capture_ns=ticket.capture_ns, receive_ns=ticket.due_ns, span_ns=ticket.span_ns
        )
        if ticket.stream == "camera":
            return Frame(header=header, image_hwc=payload.reshape(*self.frame_hw, 3))
        if ticket.stream == "microphone":
            return AudioBlock(header=header, pcm=payload.view(np.int16))
        if ticket.stream == "text":
            return TextLine(header=header, text=payload.tobytes().decode())
        return unpacked_telemetry(header, payload, self.channels)


def packed_telemetry(times_ns: NDArray[np.int64], values: NDArray[np.float32], valid: NDArray[np.bool_]) -> bytes:
    """Rows of telemetry as bytes: times, values, validity."""
    return times_ns.tobytes() + values.tobytes() + valid.tobytes()


def unpacked_telemetry(header: Header, payload: NDArray[np.uint8], channels: int) -> TelemetryBlock:
    """What `packed_telemetry` made. (It begins wherever the link put it, so its times are copied.)"""
    rows = payload.size // (8 + 5 * channels)
    raw = payload.tobytes()
    return TelemetryBlock(
        header=header,
        times_ns=np.frombuffer(raw, np.int64, rows),
        values=np.frombuffer(raw, np.float32, rows * channels, 8 * rows).reshape(rows, channels),
        valid=np.frombuffer(raw, np.bool_, rows * channels, (8 + 4 * channels) * rows).reshape(rows, channels),
    )


def job_plan() -> RunPlan:
    """The plan that engines are opened by."""
    folder = scenario_folder(SCENARIO)
    return RunPlan(scenario=load_scenario(folder, []), folder=folder)


class Encoders:
    """The encoders of some streams, each with the buffer that cuts its windows."""

    def __init__(self, job: Job, *streams: str) -> None:
        self._job, self._streams = job, streams
        self._stack = ExitStack()
        self._made: list[Tokens] = []

    def __enter__(self) -> Self:
        plan, clock = job_plan(), SystemClock()
        self._stages = {
            s: encode_stage(self._stack.enter_context(encoder_engine(plan, s)), clock, 0, self._keep, None) for s in self._streams
        }
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def _keep(self, tokens: Tokens) -> None:
        self._made.append(tokens)

    def encode(self, ticket: Ticket, payload: NDArray[np.uint8]) -> list[tuple[Encoded, NDArray[np.float32]]]:
        """The tokens of every window that this sample completes, at most one here; valid until the next call."""
        self._made.clear()
        self._stages[ticket.stream].handle(self._job.sample(ticket, payload))
        return [(Encoded(ticket.stream, t.window_end_ns, ticket.due_ns, t.encode_ns), t.values) for t in self._made]


class Joiner:
    """Joins tokens at each frame's capture time, fuses, decides.

    A peer has no announcements, so nothing tells it which windows it may still wait for. The job does (`Job.owed`), for nothing.
    """

    def __init__(self, job: Job, origin_ns: int = 0) -> None:
        self._job, self.origin_ns = job, origin_ns
        self._stack = ExitStack()
        self._have: dict[str, deque[tuple[Encoded, NDArray[np.float32], int]]] = defaultdict(lambda: deque(maxlen=64))
        self._pending: deque[int] = deque()
        self.rows: list[dict[str, Any]] = []
        self.outputs: list[NDArray[np.float32]] = []

    def __enter__(self) -> Self:
        plan = job_plan()
        self._network, _ = self._stack.enter_context(fusion_engine(plan))
        assert self._network.memory is not None
        self._memory = FusionMemory(self._network.memory)
        scenario, policy = plan.scenario, plan.scenario.policy
        self._max_age_ns = {s: c.max_age_ms * 1_000_000 for s, c in scenario.streams.items()}
        self._wait_ns = {s: c.wait_ms * 1_000_000 for s, c in scenario.streams.items()}
        self._action_head, labels = policy.action_head, scenario.heads[policy.action_head].labels
        self._policy = HysteresisPolicy(
            labels=labels, enter=policy.enter, threshold=policy.threshold, memory=policy.memory, blind_action=policy.blind_action
        )
        self._state = PolicyState()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    @property
    def done(self) -> bool:
        """Whether every reference time has its decision."""
        return len(self.rows) == len(self._job.references_ns)

    def take(self, encoded: Encoded, values: NDArray[np.float32]) -> None:
        """One window's tokens (copied), and whatever can be decided with them."""
        self._have[encoded.stream].append((encoded, values.copy(), time.monotonic_ns()))
        if encoded.stream == "camera":
            self._pending.append(encoded.window_end_ns)
        while self._pending and (chosen := self._chosen(self._pending[0])) is not None:
            self._decide(self._pending.popleft(), chosen)

    def _chosen(self, t: int) -> dict[str, tuple[Encoded, NDArray[np.float32], int]] | None:
        """The newest owed tokens of each stream for reference time ``t``; None while some are on their way."""
        chosen = {}
        for stream in self._job.streams:
            windows = self._job.owed[stream]
            owed = (windows[:, 0] <= t) & (windows[:, 1] <= t) & (windows[:, 2] <= t + self._wait_ns[stream])
            end_ns = int(windows[owed][-1, 0]) if owed.any() else None
            if end_ns is None or t - end_ns > self._max_age_ns[stream]:
                continue
            found = next((h for h in reversed(self._have[stream]) if h[0].window_end_ns == end_ns), None)
            if found is None:
                return None
            chosen[stream] = found
        return chosen

    def _decide(self, t: int, chosen: dict[str, tuple[Encoded, NDArray[np.float32], int]]) -> None:
        network, streams = self._network, self._network.streams
        start_ns = time.monotonic_ns()
        age_s, mask = np.zeros(len(streams), np.float32), np.zeros((len(streams), 3), np.float32)
        inputs: dict[str, NDArray[Any]] = {"age_s": age_s, "mask": mask, **self._memory.inputs(t)}
        for place, stream in enumerate(streams):
            if stream in chosen:
                encoded, inputs[f"{stream}_tokens"], _ = chosen[stream]
                age_s[place] = (t - encoded.window_end_ns) / 1e9
                mask[place, 0] = 1.0
            else:
                inputs[f"{stream}_tokens"] = np.zeros(network.token_shapes[stream], np.float32)
                mask[place, 1 if stream == "text" and t > self._job.alive_from_ns else 2] = 1.0
        fused = network.fuse(inputs, tuple(stream in chosen for stream in streams))
        if fused.token is not None:
            self._memory.keep(t, fused.token)
        fuse_ns = time.monotonic_ns() - start_ns
        thresholds = fused.thresholds.get(self._action_head, {})
        self._state = self._policy.step(self._state, t, fused.probabilities[self._action_head], thresholds, blind=not chosen)
        last, _, _ = max(chosen.values(), key=lambda h: h[2])
        self.rows.append({
            "reference_ns": t, "publish_ns": time.monotonic_ns(), "due_ns": last.due_ns, "encode_ns": last.encode_ns,
            "fuse_ns": fuse_ns, "action": self._state.action,
        })  # fmt: skip
        self.outputs.append(np.concatenate([fused.probabilities[head] for head in sorted(fused.probabilities)]))

    def save(self, out: Path) -> None:
        """Everything decided, for `benchmarks.beside_peers`."""
        save_decisions(out, [{**row, "publish_ns": row["publish_ns"] - self.origin_ns} for row in self.rows], self.outputs)


def save_decisions(out: Path, rows: list[dict[str, Any]], outputs: list[NDArray[np.float32]]) -> None:
    """``OUT/decisions.npz``: a column a field, and ``outputs`` float32 ``[decisions, classes of all heads]``."""
    columns = {name: np.array([row[name] for row in rows], np.int64) for name in rows[0]} if rows else {}
    np.savez(out / "decisions.npz", outputs=np.array(outputs, np.float32), **columns)
