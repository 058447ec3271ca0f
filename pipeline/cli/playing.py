"""Plays a plan for the command line: signals, the live view or JSON lines, the summary, the closing line."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from typing import Any, Protocol, TextIO

from rich.markup import escape

from actors.plan import RunPlan
from actors.serving import prepare_engines
from actors.wiring import edges_of
from pipeline.cli.errors import RunFailed
from pipeline.cli.planning import Planned
from pipeline.cli.view import RunView, console, errors, print_summary
from pipeline.decision_json import decision_to_json
from pipeline.links.shared_memory import bytes_needed, check_memory
from pipeline.logs.reader import LogReader
from pipeline.logs.truth import TruthComparison, compare_with_truth
from pipeline.messages import Decision
from pipeline.sources.base import StreamInfo
from pipeline.stages.sink import RunSummary


class _Run(Protocol):
    def run(self) -> RunSummary: ...
    def stop(self) -> None: ...


class _Played:
    """What becomes known when the run begins."""

    origin_ns: int = 0


def play(planned: Planned, *, inline: bool, json_lines: bool = False) -> None:
    """Run the plan to its end or to Ctrl-C, and print what it decided."""
    out = errors if json_lines else console
    plan, stdout = planned.plan, sys.stdout
    live = not plan.is_replay

    def note(text: str) -> None:
        out.print(f"[yellow]note:[/yellow] {escape(text)}")

    if not inline:
        _check_shared_memory(planned)
    for notice in plan.notices:
        note(notice)
    with errors.status("preparing engines") as status:
        prepare_engines(plan, lambda stage: status.update(f"preparing {stage}"))
    played = _Played()
    title = f"{plan.scenario.name} · {planned.about} · {'inline' if inline else 'Ray'}"
    view = RunView(title, planned.duration_ns, live=live, to=out) if out.is_terminal else None
    if view is None:
        out.print(title)

    def show(decisions: list[Decision]) -> None:
        if json_lines:
            _write_lines(decisions, stdout, run)
        if view is not None:
            view.add(decisions, played.origin_ns)

    def began(origin_ns: int, _infos: dict[str, StreamInfo]) -> None:
        played.origin_ns = origin_ns

    run = _make_run(planned, inline=inline, show=show, began=began, note=note)
    started = time.monotonic()
    # Ray prints what it has to say of a dead process to stdout, among the lines of JSON
    elsewhere = redirect_stdout(sys.stderr) if json_lines else nullcontext()
    with elsewhere, _stopping_on_signals(run), view if view is not None else nullcontext():
        summary = _finish(run)
    took_s = time.monotonic() - started
    comparison = _comparison(planned, summary, played.origin_ns) if plan.decides else None
    print_summary(summary, comparison, live=live, to=out)
    span_s = (summary.last_reference_ns - summary.first_reference_ns) / 1e9
    if not live:
        speed = f"{span_s / took_s:.1f}x real time, start and end of the processes included"
        out.print(f"{span_s:.1f} s of log in {took_s:.1f} s: {speed}")
        assert plan.replay_log is not None
        log = LogReader(plan.replay_log)
        _say_where_it_was_cut(log, out)
        _say_whether_it_is_the_same(log, plan, summary, out)
    if plan.record is not None:
        out.print(f"log: {plan.record} ({_how_it_replays(summary)})" if plan.decides else f"log: {plan.record}")
    out.print(summary.closing_line(), soft_wrap=True)


def _write_lines(decisions: list[Decision], to: TextIO, run: _Run) -> None:
    """One JSON line a decision. A reader that has gone (``| head``) ends the run in order."""
    try:
        to.write("".join(decision_to_json(d) + "\n" for d in decisions))
        to.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), to.fileno())  # for the rest of the process, whose end flushes it once more
        run.stop()


def _make_run(
    planned: Planned,
    *,
    inline: bool,
    show: Callable[[list[Decision]], None],
    began: Callable[..., None],
    note: Callable[[str], None],
) -> _Run:
    if inline:
        from actors.inline import InlineRun

        return InlineRun(planned.plan, on_decisions=show, on_start=began)
    from actors.deploy import RayRun

    return RayRun(planned.plan, on_decisions=show, on_start=began, on_notice=note)


def _check_shared_memory(planned: Planned) -> None:
    """Say that the links will not fit before Ray starts, not after. (Each stage looks again when it makes its own.)"""
    runtime = planned.plan.scenario.runtime
    if runtime.link != "ray" and runtime.ray_address is None:
        edges = edges_of(planned.plan, planned.infos)
        check_memory(sum(bytes_needed(edge.spec) for edge in edges), "this run")


def _finish(run: _Run) -> RunSummary:
    try:
        return run.run()
    except Exception as error:
        if type(error).__name__ in ("DeployError", "StageDied"):  # Ray's own module is imported only where it runs
            raise RunFailed(str(error)) from error
        raise


@contextmanager
def _stopping_on_signals(run: _Run) -> Iterator[None]:
    """Ctrl-C and SIGTERM end the run in order; a second one is the default's."""
    earlier: dict[int, Any] = {}

    def stop(number: int, _frame: object) -> None:
        signal.signal(number, earlier[number])
        run.stop()

    for number in map(int, (signal.SIGINT, signal.SIGTERM)):
        earlier[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


def _comparison(planned: Planned, summary: RunSummary, origin_ns: int) -> TruthComparison | None:
    if planned.truth_log is None:
        return None
    log = LogReader(planned.truth_log)
    scenario = planned.plan.scenario
    labels = {name: head.labels for name, head in scenario.heads.items()}
    return compare_with_truth(summary.timeline, origin_ns, log.truth(), log.origin_ns, labels, scenario.policy.action_head)


def _how_it_replays(summary: RunSummary) -> str:
    if summary.clean:
        return "replays bit for bit"
    return "engines changed over: a replay will differ" if summary.swaps else "was not clean: replay it with --as-it-happened"


def _say_where_it_was_cut(log: LogReader, out: Any) -> None:
    if log.end is None:
        for _ in log.recordings():
            pass
        where = log.truncated_at or "it was not closed in order"
        out.print(f"[yellow]note:[/yellow] the log ends without its closing record: {where}")


def _say_whether_it_is_the_same(log: LogReader, plan: RunPlan, summary: RunSummary, out: Any) -> None:
    """Whether a whole replay made the recorded run's decisions; nothing of a log without any, or of a part of one."""
    end = log.end or {}
    if "sha256" not in end or end.get("last_reference_ns") != str(summary.last_reference_ns):
        return
    if end["sha256"] == summary.sha256:
        out.print("the decisions of the recorded run, bit for bit")
        return
    why = "other engines, settings or processor"
    if end.get("swaps", "0") != "0":
        why = "its engines changed over while it ran"
    elif end.get("clean") != "true":
        told = "it dropped, overran or skipped; --as-it-happened admits what it admitted"
        why = f"{why}, or telemetry just after a sample that its encoder never got" if plan.as_it_happened else told
    out.print(f"[yellow]note:[/yellow] not the decisions of the recorded run: {why}")
