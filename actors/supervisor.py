"""Watches a run: shows its decisions, ends it in order, and sees to it that a dead actor costs what it must and no more."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import RayError

from actors.plan import RunPlan
from pipeline.messages import Announcement, AnnouncementKind, Decision, Header
from pipeline.stages.sink import RunSummary, StageReport

CONSOLE_S = 0.2
STOP_S = 0.8
"""From a request to stop to the log's end, at most."""


class StageDied(Exception):
    """A stage without which there are no decisions is gone: one line that names it."""


class Supervisor:
    """One run's."""

    def __init__(
        self,
        plan: RunPlan,
        actors: dict[str, Any],
        stop: threading.Event,
        on_decisions: Callable[[list[Decision]], None] | None,
    ) -> None:
        self._plan, self._actors, self._stop, self._on_decisions = plan, actors, stop, on_decisions
        self._waiting = {actor.wait.remote(): stage for stage, actor in actors.items() if stage != "sink"}
        self._reports: dict[str, StageReport] = {}
        self._stopped_at: float | None = None

    def watch(self, origin_ns: int) -> RunSummary:
        """Until the run's end; its summary."""
        end_ns = origin_ns + self._plan.for_ns if self._plan.for_ns is not None else None
        taking = self._actors["sink"].take.remote(CONSOLE_S)
        while not self._finished():
            done, _ = ray.wait([taking, *self._waiting], num_returns=1, timeout=CONSOLE_S)
            for reference in done:
                if reference == taking:
                    self._show(ray.get(taking))
                    taking = self._actors["sink"].take.remote(CONSOLE_S)
                else:
                    self._note_end(reference)
            if end_ns is not None and time.monotonic_ns() >= end_ns:
                self._stop.set()
            if self._stop.is_set() and self._stopped_at is None:
                self._end_sources()
            if self._stopped_at is not None and time.monotonic() > self._stopped_at + STOP_S:
                break
        return self._finish(taking)

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
            reason = " ".join(str(error).split()[-40:])
            if stage not in self._plan.sources:
                raise StageDied(f"stage {stage} died, and there are no decisions without it: {reason}") from error
            self._reports[stage] = StageReport(stage=stage, failures=(f"{stage}: its actor died: {reason}",))
            self._lose(stage)

    def _lose(self, stream: str) -> None:
        """An ingest actor is gone: that costs its stream only."""
        if self._plan.decides and not self._plan.is_replay:
            now_ns = time.monotonic_ns()
            header = Header(stream=stream, seq=-1, capture_ns=now_ns, receive_ns=now_ns)
            announcement = Announcement(header=header, kind=AnnouncementKind.LOST, watermark_ns=now_ns)
            self._actors["fusion"].lose.remote(announcement)

    def _end_sources(self) -> None:
        self._stopped_at = time.monotonic()
        for stream in self._plan.sources:
            self._actors[stream].stop.remote()

    def _finish(self, taking: Any) -> RunSummary:
        for stage, actor in self._actors.items():
            if stage != "sink" and stage not in self._reports:
                actor.stop.remote()
        ended, _ = ray.wait(list(self._waiting), num_returns=len(self._waiting), timeout=STOP_S) if self._waiting else ([], [])
        for reference in ended:
            self._note_end(reference)
        silent = [stage for stage in self._waiting.values()]
        reports = [*self._reports.values(), *(StageReport(stage=s, failures=(f"{s}: did not end in time",)) for s in silent)]
        decisions = self._reports["fusion"].sent if "fusion" in self._reports else None
        recordings = None
        if self._plan.record is not None and all(s in self._reports for s in self._plan.sources):
            recordings = sum(self._reports[s].sent for s in self._plan.sources)
        summary: RunSummary = ray.get(self._actors["sink"].finish.remote(decisions, recordings, reports, STOP_S))
        self._show(ray.get(taking))
        self._show(ray.get(self._actors["sink"].take.remote(0.0)))
        return summary

    def _show(self, decisions: list[Decision]) -> None:
        if decisions and self._on_decisions is not None:
            self._on_decisions(decisions)
