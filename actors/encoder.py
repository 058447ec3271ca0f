"""The encoder actor: all encoders in one process, or one each, as the deployment says."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace

from actors.engines import ServedEngine, encoder_engine
from actors.plan import RunPlan, encode_stage
from actors.serving import opening_of
from actors.stage import StageActor, Start, as_actor
from actors.wiring import RunIdentity, encoder_stages
from pipeline.messages import AudioBlock, Frame, Progress, TelemetryBlock, TextLine
from pipeline.sources.base import StreamInfo
from pipeline.stages.encode import EncodeStage
from pipeline.stages.sink import StageReport
from pipeline.windows import WindowSpec


class Encoder(StageActor):
    """Samples in, tokens out."""

    def __init__(self, plan: RunPlan, stage: str, identity: RunIdentity) -> None:
        super().__init__(plan, stage, identity)
        self._engines: dict[str, tuple[WindowSpec, ServedEngine]] = {}

    def open_stage(self, resources: ExitStack) -> StreamInfo | None:
        """Activate and warm up the engines."""
        for stream in encoder_stages(self.plan)[self.stage]:
            self._engines[stream] = resources.enter_context(encoder_engine(self.plan, stream, opening_of(self.plan)))
        return None

    def loop(self, start: Start) -> None:
        """Encode what comes, the oldest capture first, until stopped."""
        assert self.inbox is not None
        stages = {stream: self._stage(stream, start) for stream in self._engines}
        while not self.stopping.is_set():
            samples = [m for _, m in self.inbox.receive(None) if isinstance(m, Frame | AudioBlock | TelemetryBlock | TextLine)]
            samples.sort(key=lambda s: s.header.capture_ns)
            for sample in samples:
                stages[sample.header.stream].handle(sample)

    def report(self) -> StageReport:
        """What was lost on the way here, and how its engines served."""
        notices = tuple(notice for _, engine in self._engines.values() for notice in engine.notices)
        return replace(super().report(), notices=notices)

    def _stage(self, stream: str, start: Start) -> EncodeStage:
        progress = None
        if self.plan.is_replay:
            send = self.send_to(f"{self.stage}>{stream}")

            def progress(message: Progress) -> None:
                send(message)

        return encode_stage(
            self._engines[stream], self.clock, start.origin_ns, self.send_to(f"{self.stage}>fusion/{stream}"), progress
        )


EncoderActor = as_actor(Encoder)
