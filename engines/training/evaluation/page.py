"""The report: one HTML page that needs nothing else, its pictures as PNG, and every number as JSON."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from engines.training.evaluation.ceiling import LeakCheck
from engines.training.evaluation.findings import Findings, plain
from engines.training.evaluation.sections import MISSING, Section, Table, interval, sections
from engines.training.evaluation.style import png_from_figure
from engines.training.evaluation.verdicts import MET, MISSED, Verdict, verdicts

FORMAT = 1

_STYLE = """
:root { color-scheme: light dark; --ink: #1f2933; --muted: #5b6673; --paper: #fff; --line: #dfe3e8; --band: #f5f7f9;
  --met: #00704f; --missed: #b34700; --unmeasured: #5b6673; --link: #005f97; }
@media (prefers-color-scheme: dark) { :root {
  --ink: #e6eaee; --muted: #a3adb8; --paper: #14181d; --line: #313943; --band: #1b2127;
  --met: #3fc79b; --missed: #ff9a4d; --unmeasured: #a3adb8; --link: #6bbcf0; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 72rem; padding: 2rem 1.25rem 4rem; background: var(--paper); color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
h1 { font-size: 1.7rem; margin: 0 0 .3rem; } 
h2 { font-size: 1.25rem; margin: 3rem 0 .4rem; padding-top: .8rem; border-top: 1px solid var(--line); }
p { max-width: 48rem; margin: .4rem 0 1rem; } .muted, figcaption, caption { color: var(--muted); }
.notice { border-left: 4px solid var(--missed); background: var(--band); padding: .6rem 1rem; max-width: 48rem; margin: .6rem 0; }
.leak { border-left-color: var(--missed); font-weight: 600; }
nav { margin: 1.2rem 0; } nav a { margin-right: 1.1rem; white-space: nowrap; } a { color: var(--link); }
.wide { overflow-x: auto; margin: .8rem 0 1.4rem; }
table { border-collapse: collapse; font-size: .87rem; font-variant-numeric: tabular-nums; min-width: 60%; }
caption { text-align: left; padding: .3rem 0; font-weight: 600; }
th, td { padding: .32rem .7rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child, .text { text-align: left; } td.text { white-space: normal; min-width: 9rem; }
thead th { color: var(--muted); font-weight: 600; border-bottom-width: 2px; } tbody th { font-weight: 400; }
tbody tr:nth-child(even) { background: var(--band); }
.met { color: var(--met); font-weight: 600; } .missed { color: var(--missed); font-weight: 600; } 
.unmeasured { color: var(--unmeasured); }
figure { margin: 1.2rem 0; } 
img { max-width: 100%; height: auto; background: #fff; border: 1px solid var(--line); border-radius: 6px; padding: .4rem; }
figcaption { font-size: .85rem; }
""".strip()


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What was written: the page, the numbers, the pictures, and the verdicts."""

    page: Path
    numbers: Path
    pictures: tuple[Path, ...]
    verdicts: tuple[Verdict, ...]
    leaks: tuple[LeakCheck, ...]
    """Predictors above their ceiling beyond the interval."""


def write_report(findings: Findings, folder: Path) -> Report:
    """Write ``index.html``, ``report.json`` and the pictures to ``folder``, which is made.

    The same findings give the same bytes. Raises OSError where the folder cannot be written.
    """
    judged, parts = verdicts(findings), sections(findings)
    folder.mkdir(parents=True, exist_ok=True)
    images: dict[str, bytes] = {}
    for section in parts:
        images |= {_file_name(p.name): png_from_figure(p.figure) for p in section.pictures}
    for name, content in images.items():
        (folder / name).write_bytes(content)
    numbers, page = folder / "report.json", folder / "index.html"
    numbers.write_text(json_from_findings(findings, judged), encoding="utf-8")
    page.write_text(html_from_findings(findings, judged, parts, images), encoding="utf-8")
    return Report(
        page=page, numbers=numbers, pictures=tuple(folder / name for name in images), verdicts=judged, leaks=findings.leaking
    )


def json_from_findings(findings: Findings, judged: Sequence[Verdict]) -> str:
    """The numbers: ``format``, ``verdicts`` and ``findings`` (see `findings_from_json`)."""
    rows = [{"key": v.target.key, "target": v.target.described, **plain(v)} for v in judged]
    for row, one in zip(rows, judged, strict=True):
        row["target"] = one.target.described
        row["text"] = one.target.text
    return json.dumps(
        {"format": FORMAT, "verdicts": rows, "findings": plain(findings)}, ensure_ascii=False, indent=1, allow_nan=False
    )


def html_from_findings(findings: Findings, judged: Sequence[Verdict], parts: Sequence[Section], images: dict[str, bytes]) -> str:
    """The whole page as one document, images within it. Every text is escaped; there is no script."""
    setting = findings.setting
    title = f"{setting.scenario}: what the evaluation found"
    links = "".join(f'<a href="#{_anchor(s.title)}">{escape(s.title)}</a>' for s in parts)
    body = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="muted">{escape(setting.date)} · <code>{escape(setting.command)}</code> · seed {setting.seed} · '
        f"{escape(setting.machine)}</p>",
        *(f'<p class="notice">{escape(notice)}</p>' for notice in setting.notices),
    ]
    if setting.is_quick:
        body.append(
            '<p class="notice">A quick run on little data: its figures show that the command works, and nothing else.</p>'
        )
    for leak in findings.leaking:
        above = f"{interval(leak.difference)} above the ceiling"
        text = f"A label leaks: {leak.who} tells {leak.head} better than its streams can ({above})."
        body.append(f'<p class="notice leak">{escape(text)}</p>')
    body += [_verdict_table(judged), _split_table(findings), *(f"<p>{escape(note)}</p>" for note in setting.notes)]
    body.append(f"<nav>{links}</nav>")
    for section in parts:
        body.append(_section(section, images))
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n<body>\n" + "\n".join(body) + "\n</body></html>\n"
    )


def verdict_cells(verdict: Verdict) -> tuple[str, str, str, str, str]:
    """What was asked, the target, what was measured, the verdict, and which figure it is."""
    unit = f" {verdict.target.unit}" if verdict.target.unit else ""
    measured = interval(verdict.measured) + unit if verdict.measured else MISSING
    known = verdict.measured is not None and verdict.measured.low != verdict.measured.high
    unsure = " (interval crosses the target)" if known and not verdict.is_clear else ""
    return verdict.target.text, verdict.target.described, measured, verdict.outcome + unsure, verdict.detail


def _verdict_table(judged: Sequence[Verdict]) -> str:
    rows = []
    for verdict in judged:
        text, target, measured, outcome, detail = (escape(cell) for cell in verdict_cells(verdict))
        kind = {MET: "met", MISSED: "missed"}.get(verdict.outcome, "unmeasured")
        rows.append(
            f'<tr><th scope="row">{text}</th><td>{target}</td><td>{measured}</td><td class="text {kind}">{outcome}</td>'
            f'<td class="text">{detail}</td></tr>'
        )
    head = "".join(f'<th scope="col">{name}</th>' for name in ("figure", "target", "measured [95% interval]", "verdict", "which"))
    counted = ", ".join(f"{sum(v.outcome == o for v in judged)} {o}" for o in dict.fromkeys(v.outcome for v in judged))
    return (
        f'<h2 id="targets">What it had to reach: {escape(counted)}</h2><div class="wide"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _split_table(findings: Findings) -> str:
    rows = tuple((s.name, s.seeds, f"{s.runs:,}", f"{s.ticks:,}", f"{s.hours:.1f}", s.note) for s in findings.setting.splits)
    return (
        _table(Table(caption="Data", columns=("split", "world seeds", "runs", "ticks", "hours", "note"), rows=rows))
        if rows
        else ""
    )


def _section(section: Section, images: dict[str, bytes]) -> str:
    parts = [f'<h2 id="{_anchor(section.title)}">{escape(section.title)}</h2><p>{escape(section.text)}</p>']
    for picture in section.pictures:
        encoded = base64.b64encode(images[_file_name(picture.name)]).decode("ascii")
        parts.append(f'<figure><img alt="{escape(picture.alternative)}" src="data:image/png;base64,{encoded}"></figure>')
    parts += [_table(table) for table in section.tables]
    return "\n".join(parts)


def _table(table: Table) -> str:
    texts = {i for i in range(len(table.columns)) if i and any(_is_prose(row[i]) for row in table.rows)}
    kind = [' class="text"' if i in texts else "" for i in range(len(table.columns))]
    head = "".join(f'<th scope="col"{kind[i]}>{escape(name)}</th>' for i, name in enumerate(table.columns))
    body = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>'
        + "".join(f"<td{kind[i]}>{escape(c)}</td>" for i, c in enumerate(row) if i)
        + "</tr>"
        for row in table.rows
    )
    caption = f"<caption>{escape(table.caption)}</caption>" if table.caption else ""
    return f'<div class="wide"><table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _is_prose(cell: str) -> bool:
    return bool(re.search(r"[A-Za-z]{3}", cell))


def _anchor(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def _file_name(name: str) -> str:
    """A head's name is the user's: only what every file system takes goes into a file's name."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", name).lstrip(".")[:100] + ".png"
