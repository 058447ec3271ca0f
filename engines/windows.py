"""What an engine really read, kept in a file: for calibration, for parity, for a box that has nothing else."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.manifest import EngineError

Window = dict[str, NDArray[Any]]
"""One call's inputs (or outputs) by name."""
MAX_WINDOWS_BYTES = 1 << 30


def save_windows(path: Path, windows: Sequence[Window]) -> None:
    """Arrays only, whole or not at all. ``INDEX/NAME`` is what each is called."""
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {f"{index}/{name}": array for index, window in enumerate(windows) for name, array in window.items()}
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".making-", suffix=".npz", delete=False) as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
    Path(file.name).replace(path)


def load_windows(path: Path) -> list[Window]:
    """What `save_windows` wrote. Raises EngineError: not such a file, or too large."""
    try:
        if path.stat().st_size > MAX_WINDOWS_BYTES:
            raise EngineError(f"{path}: larger than {MAX_WINDOWS_BYTES} bytes; remove it, it is made again")
        windows: dict[int, Window] = {}
        with np.load(path, allow_pickle=False) as arrays:
            for key in arrays.files:
                index, _, name = key.partition("/")
                windows.setdefault(int(index), {})[name] = arrays[key]
    except (OSError, ValueError) as error:
        raise EngineError(f"{path}: {str(error)[:120]}; remove it, it is made again") from None
    return [windows[index] for index in sorted(windows)]
