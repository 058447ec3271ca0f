"""The model card beside a scenario's engines, written from what training and evaluation measured."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engines.manifest import Manifest, load_manifest
from engines.networks.design import NS, ScenarioDesign
from engines.training.splits import EVALUATION_SEEDS, SHIPPED_SEEDS, TEST_SEEDS

BEGIN, END = "<!-- evaluation:begin -->", "<!-- evaluation:end -->"
_NOTICES = {
    "driving": """No frame, sound or bus message of a real vehicle was used, and the engines have
not been validated on real sensors. They exist to exercise a streaming runtime, not to drive or to warn.""",
    "patient": """**Not a medical device, nor part of one.** Every clinical figure here is of a
simulated bedside; no recording of a patient was used, and nothing was validated on one. The engines exist to exercise a streaming
runtime, not to monitor anybody.""",
}
_LIMITS = {
    "driving": """- The world is low-polygon and its sounds are synthetic: real cameras, sirens and traffic differ.
- Dispatch text is believed as far as the simulated dispatch deserves (stale or wrong 15% of the time).""",
    "patient": """- Rhythms are made of simulated beats, and artefacts are of a few kinds: real monitors see many more.
- The bedside is low-polygon and its sounds are synthetic.
- How often an alarm is true follows the 2015 PhysioNet/CinC challenge; what tells true from false is this world's invention.""",
}
_ALWAYS = """- Text is read as ASCII templates in English; any other line carries no information.
- Calibration and thresholds are those of simulated runs; on other data calibration is unknown.
"""
_HEADER = """# {title} engines: model card

**Trained and tested in simulation only.** {notice}

| | |
|---|---|
| reads | one camera frame (any size), {sound_s:g} s of sound at 16 kHz, {rows_s:g} s of {channels} channels, one line of text |
| remembers | at most {entries} fusion tokens, {step_s:g} s apart or more |
| gives | {heads}, as calibrated probabilities |
| data | simulated runs (`pipeline/scenarios/{name}/world.py`), seeds {train_seeds} |
| calibration, and the figures of the validation runs below | seeds {validation_seeds} |
| never seen | seeds {test}, and {shipped} (the run that ships) |
| made by | `{command}`, seed {seed}, torch {torch_version}, {date}; at most 45 minutes on two cores |

Networks learn from random delays (0 to 350 ms), frozen and silent sensors, H.264 at several qualities, and without random
subsets of the streams; labels are those of *now*. A stream that is quiet or absent is replaced by learned tokens.
"""


def write_card(folder: Path, design: ScenarioDesign, figures: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Path:
    """Write ``folder/README.md`` from the manifests there and the figures of `engines.training.calibrating.calibrate`."""
    manifests = {path.stem: load_manifest(path) for path in sorted(folder.glob("*.json"))}
    heads = ", ".join(f"`{head}` ({', '.join(labels)})" for head, labels in design.heads.items())
    header = _HEADER.format(
        title=design.name.capitalize(),
        name=design.name,
        notice=_NOTICES[design.name],
        sound_s=design.microphone.window_ns / NS,
        rows_s=design.telemetry.window_ns / NS,
        channels=len(design.telemetry.channels),
        entries=design.memory_entries,
        step_s=design.memory_step_ns / NS,
        heads=heads,
        test=f"{TEST_SEEDS.start}-{TEST_SEEDS.stop - 1}, {EVALUATION_SEEDS.start}-{EVALUATION_SEEDS.stop - 1}",
        shipped=SHIPPED_SEEDS[design.name],
        **manifests["fusion"].training.model_dump(exclude={"trained", "simulated"}),
    )
    again = f"Not evaluated since it was trained: `chiasm evaluate {design.name} --report FOLDER --card`."
    parts = [header, f"## Evaluation\n\n{BEGIN}\n{again}\n{END}\n", _files(folder, manifests)]
    parts += [_table(head, tuple(design.token_counts), rows) for head, rows in figures.items()]
    parts += [f"## Limits\n\n{_LIMITS[design.name]}\n{_ALWAYS}"]
    path = folder / "README.md"
    path.write_text("\n".join(parts), encoding="utf-8")
    return path


def put_evaluation(card: Path, text: str) -> None:
    """Replace what the card says between its evaluation marks. Raises ValueError when it has none."""
    whole = card.read_text(encoding="utf-8")
    if BEGIN not in whole or END not in whole:
        raise ValueError(f"{card}: has no {BEGIN} … {END}; train again, or put the marks back")
    before, after = whole[: whole.index(BEGIN)], whole[whole.index(END) :]
    part = card.with_suffix(".part")
    part.write_text(f"{before}{BEGIN}\n{text.strip()}\n{after}", encoding="utf-8")
    os.replace(part, card)


def _files(folder: Path, manifests: Mapping[str, Manifest]) -> str:
    lines = ["## Files\n", "| file | bytes | SHA-256 |", "|---|---|---|"]
    for manifest in manifests.values():
        size = (folder / manifest.onnx).stat().st_size
        lines.append(f"| `{manifest.onnx}` | {size:,} | `{manifest.sha256}` |")
    return "\n".join(lines) + "\n"


def _table(head: str, streams: tuple[str, ...], rows: Mapping[str, Mapping[str, Any]]) -> str:
    lines = [
        f"## `{head}` on the validation runs (simulated)\n",
        "Every tick of dense runs. ECE: expected calibration error, 15 bins, calibration fitted on the other half of the runs.\n",
        "| streams present | balanced accuracy | accuracy | mean top probability | ECE |",
        "|---|---|---|---|---|",
    ]
    for mask, row in rows.items():
        names = ", ".join(s for s, bit in zip(streams, mask, strict=True) if bit == "1")
        cells = [f"{row[key]:.3f}" for key in ("balanced_accuracy", "accuracy", "mean_top_probability", "ece")]
        lines.append(f"| {'all' if '0' not in mask else names} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
