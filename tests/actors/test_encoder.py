"""The encoder actor's loop, in this process: streams are encoded beside one another."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actors.encoder import Encoder
from actors.stage import Start
from actors.wiring import Edge, RunIdentity
from pipeline.cli.planning import plan_live
from pipeline.links.base import EdgeSpec
from pipeline.links.in_process import InProcessInbox
from pipeline.messages import Frame, Header, TextLine
from pipeline.windows import WindowSpec

EACH = WindowSpec(kind="sample")
PATIENCE_S = 10


class Engine:
    """Gives one token; before that it waits for ``gate``, or raises."""

    engine = ""

    def __init__(self, gate: threading.Event | None = None, error: Exception | None = None) -> None:
        self.notices: list[str] = []
        self._gate, self._error = gate, error

    def infer(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        if self._error is not None:
            raise self._error
        if self._gate is not None:
            assert self._gate.wait(PATIENCE_S)
        return {"tokens": np.zeros((1, 4), np.float32)}


def spec(name: str) -> EdgeSpec:
    return EdgeSpec(name=name, capacity=8, max_bytes=1024)


@contextmanager
def running(tmp_path: Path, engines: dict[str, Engine]) -> Iterator[tuple[Encoder, InProcessInbox, threading.Thread]]:
    """An encoder that runs on these engines, what fusion gets of it, and its loop's thread."""
    plan = plan_live("driving", [f"{stream}=none" for stream in ("microphone", "telemetry")], []).plan
    encoder = Encoder(plan, "encoder", RunIdentity(run_id="none", root=tmp_path))
    encoder._engines = {stream: (EACH, engine) for stream, engine in engines.items()}
    into = [Edge(sender=s, receiver="encoder", inbox=f"encoder/{s}", spec=spec(f"{s}>encoder")) for s in engines]
    encoder.listen("ray", into)
    fusion = InProcessInbox([spec(f"encoder>fusion/{stream}") for stream in engines])
    encoder.outlets = {name: fusion.outlet(name) for name in (f"encoder>fusion/{stream}" for stream in engines)}
    encoder.start(Start(origin_ns=0, infos={}))
    assert encoder._thread is not None
    try:
        yield encoder, fusion, encoder._thread
    finally:
        encoder.stop()
        encoder._thread.join(PATIENCE_S)


def frame() -> Frame:
    header = Header(stream="camera", seq=0, capture_ns=1, receive_ns=1)
    return Frame(header=header, image_hwc=np.zeros((2, 2, 3), np.uint8))


def line() -> TextLine:
    return TextLine(header=Header(stream="text", seq=0, capture_ns=2, receive_ns=2), text="siren ahead")


def test_a_stream_whose_engine_takes_long_holds_up_no_other(tmp_path: Path) -> None:
    gate = threading.Event()
    with running(tmp_path, {"camera": Engine(gate), "text": Engine()}) as (encoder, fusion, _):
        encoder.inboxes["encoder/camera"].outlet("camera>encoder").send(frame())  # type: ignore[attr-defined]
        encoder.inboxes["encoder/text"].outlet("text>encoder").send(line())  # type: ignore[attr-defined]
        assert [edge for edge, _ in fusion.receive(PATIENCE_S * 10**9)] == ["encoder>fusion/text"]
        gate.set()
        assert [edge for edge, _ in fusion.receive(PATIENCE_S * 10**9)] == ["encoder>fusion/camera"]


def test_an_engine_that_fails_ends_the_stage_and_is_named(tmp_path: Path) -> None:
    with running(tmp_path, {"camera": Engine(error=OSError("no such device")), "text": Engine()}) as (encoder, _, thread):
        encoder.inboxes["encoder/camera"].outlet("camera>encoder").send(frame())  # type: ignore[attr-defined]
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
        with pytest.raises(RuntimeError, match=r"(?s)stage encoder failed.*no such device"):
            encoder.wait()
