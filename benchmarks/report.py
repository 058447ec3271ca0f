"""All results as one table, on the terminal and as ``README.md`` beside them: ``python -m benchmarks.report [FOLDER]``.

Every figure comes from a result's file; nothing is typed here.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.measurement import RESULTS

HEADINGS = ("measurement", "what", "target", "measured", "")
COMPARISON_SIGNS = {"<=": "≤", ">=": "≥", "=": "=", ">": ">"}
FRONT_PAGE = RESULTS.parents[1] / "README.md"
EVALUATION = RESULTS / "evaluation"
LATENCY_MARKS = ("<!-- latency:begin -->", "<!-- latency:end -->")
RATIO_MARKS = ("<!-- ratios:begin -->", "<!-- ratios:end -->")
RATIO_RESULTS = ("transport", "peers", "end-to-end", "scaling")
EVALUATED = ("driving", "patient")
FRONT_PAGE_FIGURES = ("missing.gap", "ece.complete", "ece.subsets", "confidence.rises", "probe.shared", "probe.retrieval")
"""Besides those of a scenario's own questions and every miss; the model cards have all."""
LATENCY_PARTS = {
    "latency": "reference to decision",
    "decode": "decode (H.264)",
    "encode": "encode",
    "fuse": "fuse",
    "wait": "waiting for a late sensor",
    "runtime": "**the runtime's own share**",
}
NEEDED = ("name", "title", "command", "quick", "skipped", "checks", "summary", "samples", "environment")


class ReportError(Exception):
    """A result cannot be read: names the file and the fix."""


def read_results(folder: Path) -> list[dict[str, Any]]:
    """The results in a folder, by name. Raises ReportError for a file that is none."""
    results = []
    for path in sorted(folder.glob("*.json"), key=lambda found: found.stem):
        try:
            result = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ReportError(f"{path}: not JSON ({error}); measure it again") from error
        lacking = [key for key in NEEDED if key not in result] if isinstance(result, dict) else list(NEEDED)
        if lacking:
            raise ReportError(f"{path}: no result of a measurement, it lacks {', '.join(lacking)}; remove it or measure it again")
        results.append(result)
    return results


def rows(results: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str, str, str, str]]:
    """One row for each target, one for each measurement that was skipped."""
    for result in results:
        name = f"{result['name']} (quick)" if result["quick"] else result["name"]
        if result["skipped"]:
            yield name, result["skipped"], "", "", "skipped"
        for check in result["checks"]:
            target = f"{COMPARISON_SIGNS[check['comparison']]} {_figure(check['target'], check['unit'])}"
            yield name, check["what"], target, _figure(check["measured"], check["unit"]), "met" if check["met"] else "MISSED"


def markdown(results: Sequence[Mapping[str, Any]]) -> str:
    """The whole of ``README.md``."""
    lines = [
        "# Results",
        "",
        "Written by `python -m benchmarks.report` from the JSON files beside it: change those by measuring, not this.",
        "",
    ]
    if any(result["quick"] for result in results):
        lines += ["Figures marked *quick* show that a measurement works and prove nothing.", ""]
    lines += ["| " + " | ".join(HEADINGS) + " |", "|" + "---|" * len(HEADINGS)]
    lines += ["| " + " | ".join(_cell(text) for text in row) + " |" for row in rows(results)]
    for result in results:
        lines += ["", f"## {result['title']}", "", f"`{result['command']}`", "", _made_on(result["environment"]), ""]
        if result["skipped"]:
            lines += [f"Skipped: {result['skipped']}", ""]
        if result.get("picture"):
            lines += [f"![{result['title']}]({result['picture']})", ""]
        if result["samples"]:
            lines += [f"Raw samples: [{result['samples']}]({result['samples']})", ""]
        lines += [f"- {name}: {_cell(text)}" for name, text in _flat(result["summary"])]
    return "\n".join(lines).rstrip() + "\n"


def with_ratios(page: str, results: Sequence[dict[str, Any]]) -> str:
    """The front page with every ratio to another runtime between its marks, misses first; as it was where none was measured."""
    before, begin, rest = page.partition(RATIO_MARKS[0])
    _, end, after = rest.partition(RATIO_MARKS[1])
    found = [r for r in results if r["name"] in RATIO_RESULTS and not r["quick"] and not r["skipped"]]
    if not found or not begin or not end:
        return page
    checks = [check for result in found for check in result["checks"]]
    environment = found[0]["environment"]
    lines = [
        f"{environment['date'][:10]}, {environment['cores']} cores of an {environment['cpu']}, medians over interleaved rounds; "
        f"{sum(c['met'] for c in checks)} of {len(checks)} targets met.",
        "",
        "| | at most | measured |",
        "|---|---|---|",
    ]
    for check in sorted(checks, key=lambda check: check["met"]):
        measured = _figure(check["measured"], check["unit"])
        shown = measured if check["met"] else f"**{measured}, missed**"
        lines.append(f"| {check['what']} | {_figure(check['target'], check['unit'])} | {shown} |")
    return before + begin + "\n" + "\n".join(lines) + "\n" + end + after


def with_evaluation(page: str, scenario: str, report: Mapping[str, Any]) -> str:
    """The front page with a scenario's evaluation between its marks, misses first. ``report``: its findings and verdicts."""
    before, begin, rest = page.partition(f"<!-- evaluation {scenario}:begin -->")
    _, end, after = rest.partition(f"<!-- evaluation {scenario}:end -->")
    if not begin or not end:
        return page
    findings, verdicts = report["findings"], report["verdicts"]
    met = sum(verdict["outcome"] == "met" for verdict in verdicts)
    lines = [
        f"{findings['setting']['date']}, {met} of {len(verdicts)} targets met; intervals (95%) by run.",
        "",
        "| | target | measured |",
        "|---|---|---|",
    ]
    for verdict in sorted(verdicts, key=lambda verdict: verdict["outcome"] == "met"):
        is_own = verdict["key"].partition(".")[0] in findings["roles"]
        if verdict["outcome"] == "met" and not is_own and verdict["key"] not in FRONT_PAGE_FIGURES:
            continue
        shown = _estimate(verdict["measured"])
        if verdict["outcome"] == "missed":
            shown = f"**{shown}, missed**"
        what = f"{verdict['text']} ({verdict['detail']})" if verdict["detail"] else verdict["text"]
        lines.append(f"| {_cell(what)} | {verdict['target']} | {shown} |")
    leaks = findings["leaks"]
    above = sum(check["leaks"] for check in leaks)
    shown = f"{above} of {len(leaks)}" if not above else f"**{above} of {len(leaks)}, missed**"
    lines.append(f"| Predictors above the ceiling of their streams, beyond the interval (a label would leak) | 0 | {shown} |")
    return before + begin + "\n" + "\n".join(lines) + "\n" + end + after


def with_latency(page: str, results: Sequence[dict[str, Any]]) -> str:
    """The front page with the whole live run's latency between its marks; as it was where there is none, or no marks."""
    live = next((r for r in results if r["name"] == "live" and not r["quick"] and not r["skipped"]), None)
    before, begin, rest = page.partition(LATENCY_MARKS[0])
    _, end, after = rest.partition(LATENCY_MARKS[1])
    if live is None or not begin or not end:
        return page
    summary, environment = live["summary"], live["environment"]
    lines = [
        f"{environment['date'][:10]}, {environment['cores']} cores of an {environment['cpu']} server, no GPU, Python "
        f"{environment['python']}, Ray {environment['packages']['ray']}. {summary['seconds']:g} s, {summary['frames']} frames, "
        f"{summary['decided']} decisions; {summary['share_within_25_ms']:.1%} within 25 ms, {summary['dropped']} drops.",
        "",
        "| ms | p50 | p90 | p99 | p99.9 |",
        "|---|---|---|---|---|",
    ]
    for part, name in LATENCY_PARTS.items():
        figures = [f"{summary[f'{part}_ms'][p]:.1f}" for p in ("p50", "p90", "p99", "p99.9")]
        lines.append(f"| {name} | " + " | ".join(figures) + " |")
    return before + begin + "\n" + "\n".join(lines) + "\n" + end + after


def main(folder: Annotated[Path, typer.Argument(help="Where the results are.")] = RESULTS) -> None:
    """Print the table and write README.md."""
    try:
        results = read_results(folder)
    except ReportError as error:
        sys.exit(str(error))
    if not results:
        sys.exit(f"{folder}: no results; run chiasm bench")
    table = Table(*HEADINGS, title=f"{sum(row[-1] == 'MISSED' for row in rows(results))} targets missed")
    styles = {"met": "green", "MISSED": "bold red", "skipped": "yellow"}
    for row in rows(results):
        table.add_row(*row[:-1], f"[{styles[row[-1]]}]{row[-1]}")
    Console().print(table)
    (folder / "README.md").write_text(markdown(results), encoding="utf-8")
    if folder.resolve() == RESULTS and FRONT_PAGE.is_file():
        page = with_ratios(with_latency(FRONT_PAGE.read_text(encoding="utf-8"), results), results)
        for scenario in EVALUATED:
            report = json.loads((EVALUATION / f"{scenario}.json").read_text(encoding="utf-8"))
            page = with_evaluation(page, scenario, report)
        FRONT_PAGE.write_text(page, encoding="utf-8")


def _figure(value: float | None, unit: str) -> str:
    if value is None:
        return "not measured"
    return f"{value:g} {unit}".rstrip()


def _estimate(measured: Mapping[str, float] | None) -> str:
    """``0.981 [0.975, 0.986]``; without an interval where there is none."""
    if measured is None:
        return "**not measured**"
    value, low, high = (f"{measured[part]:.3f}" for part in ("value", "low", "high"))
    return value if low == high else f"{value} [{low}, {high}]"


def _made_on(environment: Mapping[str, Any]) -> str:
    """The machine and the code, in one line."""
    commit = str(environment["commit"] or "unknown")[:10]
    changed = f" with {environment['changed_files']} files changed" if environment["changed_files"] else ""
    load = ", ".join(f"{load:g}" for load in environment["load_average_before"])
    return (
        f"{environment['date']}, commit {commit}{changed}; {environment['cpu']}, {environment['cores']} cores, "
        f"{environment['memory_bytes'] / 1e9:.0f} GB; Linux {environment['kernel']}, Python {environment['python']}, "
        f"Ray {environment['packages']['ray']}; load before {load}"
    )


def _flat(summary: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """A summary's figures with their path; a mapping of plain figures stays on one line."""
    for key, value in summary.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and any(isinstance(inner, Mapping) for inner in value.values()):
            yield from _flat(value, f"{name}, ")
        elif isinstance(value, Mapping):
            yield name, ", ".join(f"{k} {_plain(v)}" for k, v in value.items()) or "none"
        else:
            yield name, _plain(value)


def _plain(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, list):
        return "; ".join(str(v) for v in value) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


if __name__ == "__main__":
    typer.run(main)
