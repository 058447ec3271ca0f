"""The model card beside the driving engines, written from what training measured."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engines.manifest import Manifest, load_manifest
from engines.networks.fusion import STREAMS

_HEADER = """# Driving engines: model card

**Trained and tested in simulation only.** No frame, sound or bus message of a real vehicle was used, and the engines have
not been validated on real sensors. They exist to exercise a streaming runtime, not to drive or to warn.

| | |
|---|---|
| reads | one camera frame (any size), 2 s of sound at 16 kHz, 2 s of vehicle motion (8 channels), one line of text |
| gives | `emergency` (none, approaching) and `action` (keep, slow, yield, stop) as calibrated probabilities |
| data | simulated drives (`pipeline/scenarios/driving/world.py`), seeds {train_seeds} |
| calibration and figures below | seeds {validation_seeds} |
| never seen | seeds 1000-1019 (the test split) and 20261123 (the drive that ships) |
| made by | `{command}`, seed {seed}, torch {torch_version}, {date}; at most 15 minutes on two cores |

Each network learns from random delays (0 to 350 ms), frozen and silent sensors, H.264 at several qualities, and without
random subsets of the streams; labels are those of *now*. A stream that is quiet or absent is replaced by learned tokens.
"""

_LIMITS = """## Limits

- The world is low-polygon and its sounds are synthetic: real cameras, sirens and traffic look and sound otherwise.
- One frame, two seconds, one line: the networks have no memory. An alarm that needs more than that is out of reach.
- Dispatch text is believed as far as the simulated dispatch deserves (stale or wrong 15% of the time).
- Text is read as ASCII templates in English; any other line carries no information.
- Temperatures are fitted for each set of present streams on simulated drives; on other data calibration is unknown.
"""


def write_card(folder: Path, figures: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Path:
    """Write ``folder/README.md`` from the manifests there and the figures of `engines.training.driving.calibrate`."""
    manifests = {path.stem: load_manifest(path) for path in sorted(folder.glob("*.json"))}
    training = manifests["fusion"].training.model_dump()
    parts = [_HEADER.format(**training), _files(folder, manifests)]
    parts += [_table(head, rows) for head, rows in figures.items()]
    parts += [_LIMITS]
    path = folder / "README.md"
    path.write_text("\n".join(parts), encoding="utf-8")
    return path


def _files(folder: Path, manifests: Mapping[str, Manifest]) -> str:
    lines = ["## Files\n", "| file | bytes | SHA-256 |", "|---|---|---|"]
    for manifest in manifests.values():
        size = (folder / manifest.onnx).stat().st_size
        lines.append(f"| `{manifest.onnx}` | {size:,} | `{manifest.sha256}` |")
    return "\n".join(lines) + "\n"


def _table(head: str, rows: Mapping[str, Mapping[str, Any]]) -> str:
    lines = [
        f"## `{head}` on the validation drives (simulated)\n",
        "Random moments, each with random sensor delays. ECE: expected calibration error, 15 bins, temperature fitted on the",
        "other half of the drives.\n",
        "| streams present | balanced accuracy | accuracy | mean top probability | ECE |",
        "|---|---|---|---|---|",
    ]
    for mask, row in rows.items():
        names = ", ".join(s for s, bit in zip(STREAMS, mask, strict=True) if bit == "1")
        cells = [f"{row[key]:.3f}" for key in ("balanced_accuracy", "accuracy", "mean_top_probability", "ece")]
        lines.append(f"| {'all' if '0' not in mask else names} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
