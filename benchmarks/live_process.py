"""A `chiasm run` of its own process, caught once it decides."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.environment import ROOT
from benchmarks.measurement import Skipped, gopro_file

PATIENCE_S = 60.0


class LiveProcess:
    """``process`` decides; ``lines`` are its decisions as JSON so far, all of them once `finish` has returned."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        assert process.stdout is not None
        self.lines = [process.stdout.readline()]
        self._reader = threading.Thread(target=lambda: self.lines.extend(process.stdout or ()), daemon=True)
        self._reader.start()

    def finish(self) -> int:
        """Wait for its end; its exit code."""
        code = self.process.wait(timeout=PATIENCE_S)
        self._reader.join(timeout=PATIENCE_S)
        return code


def source_arguments() -> tuple[str, list[str]]:
    """What plays, for people and for the command line: the GoPro recording looped, or where it is absent the shipped drive."""
    try:
        return "GoPro, looped", ["--source", f"gopro={gopro_file()}?loop=true"]
    except Skipped:
        return "shipped drive", []


@contextmanager
def deciding(arguments: list[str], scratch: Path) -> Iterator[LiveProcess]:
    """Start ``chiasm run driving --json`` with further arguments, in a session of its own; yields after its first decision."""
    command = [sys.executable, "-m", "pipeline.cli.main", "run", "driving", "--json", *arguments]
    said = scratch / "stderr.txt"
    with open(said, "wb") as stderr:
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=stderr, start_new_session=True)
        try:
            live = LiveProcess(process)
            if not live.lines[0]:
                tail = said.read_text(encoding="utf-8", errors="replace")[-500:]
                raise RuntimeError(f"{' '.join(command)} decided nothing: {tail}")
            yield live
        finally:
            if process.poll() is None:
                process.terminate()
            process.wait(timeout=PATIENCE_S)
