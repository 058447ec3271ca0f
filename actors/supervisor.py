"""Watches a run: shows its decisions, ends it in order, and sees to it that a dead actor costs what it must and no more.

What can be started again is (`actors.restarting`), while the run goes on without it; else a dead ingest costs its stream, and
any other dead stage the run.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import RayError

from actors.console import CONSOLE_EDGE
from actors.plan import RunPlan
from actors.restarting import Restarted, Restarter
from actors.staging import StageActors
from actors.wiring import encoder_stages
from pipeline.messages import Announcement, AnnouncementKind, Decision, Header
from pipeline.recorded_admission import NotReproducible
from pipeline.stages.sink import RunSummary, StageReport

STOP_S = 0.8
"""From a request to stop to the log's end, at most."""


class StageDied(Exception):
    """A stage without which there are no decisions is gone: one line that names it."""


class Supervisor:
    """One run's."""

    def __init__(
        self,
        plan: RunPlan,
        stages: StageActors,
        stop: threading.Event,
        on_decisions: Callable[[list[Decision]], None] | None,
        on_notice: Callable[[str], None] = lambda notice: None,
    ) -> None:
        self._plan, self._stages, self._stop = plan, stages, stop
        self._on_decisions, self._on_notice = on_decisions, on_notice
        self._console = stages.console()
        self._waiting = {stages.awake(stage).wait.remote(): stage for stage in stages.actors if stage != "sink"}
        self._reports: dict[str, StageReport] = {}
        self._restarter = Restarter(stages.reopen, stop)
        self._mended: list[StageReport] = []
        """Of stages that died and serve again."""
        self._stopped_at: float | None = None

    def watch(self, origin_ns: int) -> RunSummary:
        """Until the run's end; its summary."""
        end_ns = origin_ns + self._plan.for_ns if self._plan.for_ns is not None else None
        while not self._finished():
            decisions, ended = self._console.wait(self._waiting)
            self._show(decisions)
            for reference in ended:
                self._note_end(reference)
            for restarted in self._restarter.done():
                self._note_restart(restarted)
            if end_ns is not None and time.monotonic_ns() >= end_ns:
                self._stop.set()
            if self._stop.is_set() and self._stopped_at is None:
                self._end_sources()
            if self._stopped_at is not None and time.monotonic() > self._stopped_at + STOP_S:
                break
        return self._finish()

    def _finished(self) -> bool:
        decider = "fusion" if self._plan.decides else None
        if decider is not None:
            return decider in self._reports
        return all(stream in self._reports for stream in self._plan.sources)

    def _note_end(self, reference: Any) -> None:
        stage = self._waiting.pop(reference)
        try:
            self._reports[stage] = ray.get(reference)
        except RayError as error:
            if isinstance(cause := getattr(error, "cause", None), NotReproducible):
                raise cause from None
            reason = " ".join(str(error).split()[-40:])
            can_go_on = self._stopped_at is None and not self._stop.is_set() and self._stages.can_reopen(stage)
            if can_go_on and self._restarter.begin(stage):
                self._on_notice(f"{stage}: its actor died, and is being started again")
            else:
                self._give_up(stage, reason)

    def _give_up(self, stage: str, reason: str) -> None:
        if stage not in self._plan.sources:
            raise StageDied(f"stage {stage} died, and there are no decisions without it: {reason}")
        told = f"{stage}: its actor died: {reason}"
        self._on_notice(told)
        self._reports[stage] = StageReport(stage=stage, failures=(told,))
        self._tell_fusion(stage, AnnouncementKind.LOST)

    def _note_restart(self, restarted: Restarted) -> None:
        stage, reopened = restarted.stage, restarted.reopened
        if reopened is None:
            if not self._restarter.begin(stage):
                self._give_up(stage, f"it could not be started again: {restarted.failure}")
            return
        told = f"{stage}: its actor died, and was started again {restarted.away_s:.1f} s later"
        self._on_notice(told)
        self._mended.append(StageReport(stage=stage, failures=(told,), sent=reopened.recorded))
        self._waiting[self._stages.awake(stage).wait.remote()] = stage
        for stream in encoder_stages(self._plan).get(stage, ()):
            self._tell_fusion(stream, AnnouncementKind.VOID)  # its encoder's windows begin anew

    def _tell_fusion(self, stream: str, kind: AnnouncementKind) -> None:
        """Of a stream whose own actor or encoder cannot speak for itself."""
        if self._plan.decides and not self._plan.is_replay:
            now_ns = time.monotonic_ns()
            header = Header(stream=stream, seq=-1, capture_ns=now_ns, receive_ns=now_ns)
            watermark_ns = now_ns if kind is AnnouncementKind.LOST else 0
            self._stages.awake("fusion").hear.remote(Announcement(header=header, kind=kind, watermark_ns=watermark_ns))

    def _end_sources(self) -> None:
        self._stopped_at = time.monotonic()
        for stream in self._plan.sources:
            self._stages.awake(stream).stop.remote()

    def _finish(self) -> RunSummary:
        for stage in self._stages.actors:
            if stage != "sink" and stage not in self._reports:
                self._stages.awake(stage).stop.remote()
        ended, _ = ray.wait(list(self._waiting), num_returns=len(self._waiting), timeout=STOP_S) if self._waiting else ([], [])
        for reference in ended:
            self._note_end(reference)
        silent = [stage for stage in self._waiting.values()]
        reports = [
            *self._mended,
            *self._reports.values(),
            *(StageReport(stage=s, failures=(f"{s}: did not end in time",)) for s in silent),
        ]
        decisions = self._reports["fusion"].sent if "fusion" in self._reports else None
        recordings = None
        if self._plan.record is not None and all(s in self._reports for s in self._plan.sources):
            recordings = sum(r.sent for r in (*self._mended, *self._reports.values()) if r.stage in self._plan.sources)
        self._show(self._console.rest())  # what was overwritten is noticed when what came after it is read
        if unshown := self._console.lost():
            reports.append(StageReport(stage="console", drops={("decisions", f"overwritten on {CONSOLE_EDGE.name}"): unshown}))
        summary: RunSummary = ray.get(self._stages.awake("sink").finish.remote(decisions, recordings, reports, STOP_S))
        self._show(self._console.rest())
        self._show(ray.get(self._stages.awake("sink").take.remote(0.0)))
        return summary

    def _show(self, decisions: list[Decision]) -> None:
        if decisions and self._on_decisions is not None:
            self._on_decisions(decisions)
