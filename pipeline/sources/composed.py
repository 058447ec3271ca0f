"""Whether a run's streams were recorded together, as far as their files tell."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import PurePath


def composed_notice(recordings: Mapping[str, str]) -> str | None:
    """One line that says that the streams come from several recordings; None where they come from one.

    ``recordings``: by stream, the file or folder that it was given as, recordings only. Files in one folder whose names differ
    in their extension only (``drive.mp4``, ``drive.csv``) are taken for one recording.
    """
    streams_of: dict[str, list[str]] = {}
    names: dict[str, str] = {}
    for stream, path in recordings.items():
        key = str(PurePath(os.path.abspath(path)).with_suffix(""))
        streams_of.setdefault(key, []).append(stream)
        names.setdefault(key, PurePath(path).name.removesuffix(".hea"))
    if len(streams_of) < 2:
        return None
    parts = [f"{' and '.join(streams)} from {names[key]}" for key, streams in streams_of.items()]
    return f"composed: {', '.join(parts)}: separate recordings, played as if of one place (or patient) and one time"
