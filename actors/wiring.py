"""Which edges there are between the stages of a run, and the link that carries each: the graph as data.

Stages are named ``camera`` … (ingest, by stream), ``encoder`` (or ``encoder.camera`` … when apart), ``fusion`` and ``sink``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from actors.plan import RunPlan
from pipeline.links.base import EdgeSpec
from pipeline.sources.base import StreamInfo

LinkKind = Literal["shared_memory", "ray"]

SMALL, LINES = 512, 16 * 1024
AUDIO_BYTES, PACKET_BYTES = 64 * 1024, 256 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """One edge of the graph. A receiver sleeps on each of its inboxes in a thread of its own."""

    sender: str
    receiver: str
    inbox: str
    spec: EdgeSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class RunIdentity:
    """Which run this is on its host: names everything it leaves in shared memory, so that it can be swept."""

    run_id: str
    root: Path


def encoder_stage(plan: RunPlan, stream: str) -> str:
    """The stage that encodes a stream."""
    return "encoder" if plan.scenario.runtime.encoders == "together" else f"encoder.{stream}"


def encoder_stages(plan: RunPlan) -> dict[str, tuple[str, ...]]:
    """Encoder stage to the streams it encodes."""
    if not plan.decides:
        return {}
    stages: dict[str, tuple[str, ...]] = {}
    for stream in plan.sources:
        name = encoder_stage(plan, stream)
        stages[name] = (*stages.get(name, ()), stream)
    return stages


def edges_of(plan: RunPlan, infos: Mapping[str, StreamInfo]) -> list[Edge]:
    """Every edge of the run; the memory set aside for frames is that of the frames that the source announced."""
    edges: list[Edge] = []
    for stream, info in infos.items():
        if plan.decides:
            edges += _encoding_edges(plan, info)
        if plan.record is not None:
            raw_bytes = _frame_bytes(info) if info.encoding.codec == "rgb8" else 0
            edges.append(_edge(stream, "sink", 64, max(PACKET_BYTES if info.kind == "camera" else LINES, raw_bytes)))
    if plan.decides:
        edges.append(_edge("fusion", "sink", 256, LINES))
    return edges


def _frame_bytes(info: StreamInfo) -> int:
    return info.encoding.width * info.encoding.height * 3 + 1024


def _encoding_edges(plan: RunPlan, info: StreamInfo) -> list[Edge]:
    stream = info.stream
    frames = plan.scenario.runtime.frames_in_flight + 2
    capacity, max_bytes = {
        "camera": (frames, _frame_bytes(info)),
        "microphone": (128, AUDIO_BYTES),
        "telemetry": (128, LINES),
        "text": (128, LINES),
    }[info.kind]
    encoder = encoder_stage(plan, stream)
    edges = [
        _edge(stream, "fusion", 1024, SMALL),
        # An inbox a stream: each is encoded in a thread of its own, and waits for none of the others.
        replace(_edge(stream, encoder, capacity, max_bytes), inbox=f"{encoder}/{stream}"),
        Edge(
            sender=encoder,
            receiver="fusion",
            inbox="fusion",
            spec=EdgeSpec(name=f"{encoder}>fusion/{stream}", capacity=256, max_bytes=LINES),
        ),
    ]
    if plan.is_replay:
        edges += [_edge(stage, stream, 64, SMALL) for stage in (encoder, "fusion", "sink")]
    return edges


def _edge(sender: str, receiver: str, capacity: int, max_bytes: int) -> Edge:
    spec = EdgeSpec(name=f"{sender}>{receiver}", capacity=capacity, max_bytes=max_bytes)
    return Edge(sender=sender, receiver=receiver, inbox=receiver, spec=spec)
