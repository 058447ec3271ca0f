"""Makes docs/demo.svg and docs/summary.svg from a real run: ``.venv/bin/python docs/make_pictures.py [SOURCE ...] [--inline]``.

Plays the driving scenario in real time (its shipped simulated drive, unless sources are given as on the command line). Keeps the
live view of the moment at which most different actions are on the screen, and the summary. Run it again, on an otherwise idle
machine, whenever the engines, the shipped drive or the view change. Nothing is drawn by hand; only the web font that rich links
to is left out.
"""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console, RenderableType
from rich.terminal_theme import MONOKAI

from pipeline.cli.planning import plan_live
from pipeline.cli.view import RunView, print_summary
from pipeline.logs.reader import LogReader
from pipeline.logs.truth import compare_with_truth
from pipeline.messages import Availability, Decision

DOCS = Path(__file__).parent
COLUMNS = 108
COMMAND = "chiasm run driving"


def main(
    source: Annotated[list[str] | None, typer.Argument(help="STREAM=URI or BUNDLE=PATH, as for --source.")] = None,
    inline: Annotated[bool, typer.Option("--inline", help="One process, without Ray.")] = False,
    duration: Annotated[str | None, typer.Option("--for", help="Stop after this long, e.g. 30s.")] = None,
) -> None:
    """Play, and write both pictures."""
    planned = plan_live("driving", source or [], [], duration=duration)
    plan = planned.plan
    title = f"{plan.scenario.name} · {planned.about} · {'inline' if inline else 'Ray'}"
    view = RunView(title, planned.duration_ns, live=True, to=_screen())
    origins = [0]
    recent: list[Decision] = []
    best = (0, 0, 0)

    def show(decisions: list[Decision]) -> None:
        nonlocal best
        view.add(decisions, origins[0])
        recent[:] = [*recent, *decisions][-8:]
        score = (len(recent), len({d.action for d in recent}), _present(recent[-1]))
        if score > best:
            best = score
            _write("demo.svg", view._render())  # what rich shows 8 times a second

    def began(origin_ns: int, _infos: object) -> None:
        origins[0] = origin_ns

    if inline:
        from actors.inline import InlineRun

        summary = InlineRun(plan, on_decisions=show, on_start=began).run()
    else:
        from actors.deploy import RayRun

        summary = RayRun(plan, on_decisions=show, on_start=began).run()

    comparison = None
    if planned.truth_log is not None:
        log = LogReader(planned.truth_log)
        labels = {name: head.labels for name, head in plan.scenario.heads.items()}
        comparison = compare_with_truth(
            summary.timeline, origins[0], log.truth(), log.origin_ns, labels, plan.scenario.policy.action_head
        )
    screen = _screen()
    print_summary(summary, comparison, live=True, to=screen)
    screen.print(summary.closing_line(), soft_wrap=True)
    _save("summary.svg", screen)


def _present(decision: Decision) -> int:
    admitted = decision.receipt.admitted if decision.receipt is not None else ()
    return sum(a.availability is Availability.PRESENT for a in admitted)


def _screen() -> Console:
    return Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, color_system="truecolor", highlight=False)


def _write(name: str, shown: RenderableType) -> None:
    screen = _screen()
    screen.print(shown)
    _save(name, screen)


def _save(name: str, screen: Console) -> None:
    svg = screen.export_svg(title=COMMAND, theme=MONOKAI, unique_id="chiasm")
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
    svg = svg.replace("Fira Code, monospace", "ui-monospace, Menlo, 'DejaVu Sans Mono', monospace")
    (DOCS / name).write_text("\n".join(line.rstrip() for line in svg.splitlines()) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
