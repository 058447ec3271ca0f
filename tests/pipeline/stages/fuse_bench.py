"""A fuse stage on a clock of its own, with one camera and a network that says what it is told; several tests share it."""

from __future__ import annotations

import numpy as np

from pipeline.admission import AdmissionMachine
from pipeline.clock import ManualClock
from pipeline.contract import Contract, StreamContract
from pipeline.messages import FOREVER_NS, Announcement, AnnouncementKind, Decision, Header, Progress, Tokens
from pipeline.policy.hysteresis import HysteresisPolicy
from pipeline.stages.decide import DecideStage, Identity
from pipeline.stages.fuse import Fused, FuseStage, FusionNetwork
from pipeline.windows import WindowSpec

MS = 1_000_000
LABELS = ("keep", "stop")


def policy(**changes) -> HysteresisPolicy:
    settings = {"labels": LABELS, "enter": {"stop": 2}, "threshold": 0.6, "memory": 4, "blind_action": "stop"}
    return HysteresisPolicy(**(settings | changes))


class Network:
    """Gives the camera's token as the probability of ``stop`` and remembers what it was asked."""

    streams = ("camera", "text")
    token_shapes = {"camera": (1, 1), "text": (2, 3)}  # noqa: RUF012
    memory = None

    def __init__(self) -> None:
        self.asked: list[tuple[dict, tuple[bool, ...]]] = []

    def fuse(self, inputs, present):
        self.asked.append(({k: v.copy() for k, v in inputs.items()}, present))
        p = float(inputs["camera_tokens"][0, 0])
        return Fused(probabilities={"action": np.array([1 - p, p], dtype=np.float32)})


class Bench:
    def __init__(self, *, live: bool = False, network: FusionNetwork | None = None) -> None:
        self.clock, self.network = ManualClock(), network or Network()
        self.decisions: list[Decision] = []
        self.progress: list[Progress] = []
        contract = Contract(
            streams=(
                StreamContract(
                    stream="camera", window=WindowSpec(kind="sample"), max_age_ns=60 * MS, wait_ns=5 * MS, liveness_ns=90 * MS
                ),
            ),
            reference_stream="camera",
            period_ns=50 * MS,
            deadline_ns=50 * MS,
            reserve_ns=8 * MS,
            origin_ns=0,
        )
        decide = DecideStage(
            policy=policy(),
            action_head="action",
            labels={"action": LABELS},
            identity=Identity(engines={"fusion": "f00d"}, config_sha256="c0"),
            deadline_ns=50 * MS,
            clock=self.clock,
            live=live,
        )
        self.stage = FuseStage(
            machine=AdmissionMachine(contract, clocked=live),
            network=self.network,
            decide=decide,
            clock=self.clock,
            publish=self.decisions.append,
            progress=self.progress.append,
        )

    def announce(self, ms: int, seq: int) -> None:
        header = Header(stream="camera", seq=seq, capture_ns=ms * MS, receive_ns=ms * MS)
        self.stage.handle(Announcement(header=header, watermark_ns=ms * MS))

    def encode(self, ms: int, value: float, seq: int) -> np.ndarray:
        """The tokens of an announced frame; returns the array that the link lent."""
        header = Header(stream="camera", seq=seq, capture_ns=ms * MS, receive_ns=ms * MS)
        lent = np.array([[value]], dtype=np.float32)
        self.stage.handle(Tokens(header=header, window_end_ns=ms * MS, values=lent, decode_ns=1 * MS, encode_ns=2 * MS))
        return lent

    def frame(self, ms: int, value: float, seq: int) -> np.ndarray:
        """`announce` and `encode`."""
        self.announce(ms, seq)
        return self.encode(ms, value, seq)

    def end(self, ms: int) -> None:
        header = Header(stream="camera", seq=99, capture_ns=ms * MS, receive_ns=ms * MS)
        self.stage.handle(Announcement(header=header, kind=AnnouncementKind.END, watermark_ns=FOREVER_NS))
