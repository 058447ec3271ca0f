"""The encoder actor: all encoders in one process, each in a thread of its own, or a process each, as the deployment says."""

from __future__ import annotations

from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
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
        """Encode until stopped, streams beside one another: engines let go of the interpreter while they compute, so a frame does
        not wait for the sound that came before it. The first failure ends all.
        """
        with ThreadPoolExecutor(len(self._engines), thread_name_prefix=f"{self.stage} ") as threads:
            encoding = [threads.submit(self._encode, stream, self._stage(stream, start)) for stream in self._engines]
            done, _ = wait(encoding, return_when=FIRST_EXCEPTION)
            self.stop()
        for future in done:
            future.result()

    def _encode(self, stream: str, stage: EncodeStage) -> None:
        """One stream's samples, in their order."""
        inbox = self.inboxes[f"{self.stage}/{stream}"]
        while not self.stopping.is_set():
            for _, message in inbox.receive(None):
                if isinstance(message, Frame | AudioBlock | TelemetryBlock | TextLine):
                    stage.handle(message)

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
