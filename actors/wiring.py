"""Which edges there are between the stages of a run, and the link that carries each: the graph as data.

Stages are named ``camera`` … (ingest, by stream), ``encoder`` (or ``encoder.camera`` … when apart), ``fusion`` and ``sink``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from actors.plan import RunPlan
from pipeline.links.base import EdgeSpec

LinkKind = Literal["shared_memory", "ray"]

SMALL, LINES = 512, 16 * 1024
FRAME_BYTES, AUDIO_BYTES = 1280 * 720 * 3, 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """One edge of the graph."""

    sender: str
    receiver: str
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


def edges_of(plan: RunPlan) -> list[Edge]:
    """Every edge of the run."""
    edges: list[Edge] = []
    for stream in plan.sources:
        if plan.decides:
            edges += _encoding_edges(plan, stream)
        if plan.record is not None:
            edges.append(_edge(stream, "sink", 256, 256 * 1024))
    if plan.decides:
        edges.append(_edge("fusion", "sink", 256, LINES))
    return edges


def _encoding_edges(plan: RunPlan, stream: str) -> list[Edge]:
    kind = plan.scenario.streams[stream].kind
    frames = plan.scenario.runtime.frames_in_flight + 2
    capacity, max_bytes = {
        "camera": (frames, FRAME_BYTES),
        "microphone": (128, AUDIO_BYTES),
        "telemetry": (128, LINES),
        "text": (128, LINES),
    }[kind]
    encoder = encoder_stage(plan, stream)
    edges = [
        _edge(stream, "fusion", 1024, SMALL),
        _edge(stream, encoder, capacity, max_bytes),
        Edge(sender=encoder, receiver="fusion", spec=EdgeSpec(name=f"{encoder}>fusion/{stream}", capacity=256, max_bytes=LINES)),
    ]
    if plan.is_replay:
        edges.append(Edge(sender=encoder, receiver=stream, spec=EdgeSpec(name=f"{encoder}>{stream}", capacity=64, max_bytes=SMALL)))
        edges += [_edge("fusion", stream, 64, SMALL), _edge("sink", stream, 64, SMALL)]
    return edges


def _edge(sender: str, receiver: str, capacity: int, max_bytes: int) -> Edge:
    return Edge(sender=sender, receiver=receiver, spec=EdgeSpec(name=f"{sender}>{receiver}", capacity=capacity, max_bytes=max_bytes))
