"""Replays a log inline at full speed and tells its own memory as it goes: what `benchmarks.memory` runs as a process.

``python -m benchmarks.replaying LOG`` prints a JSON line about once a second: ``event_s`` (how far in the log), ``wall_s``,
``pss_bytes``, ``rss_bytes``.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import psutil

from actors.inline import InlineRun
from pipeline.cli.planning import plan_replay
from pipeline.messages import Decision
from pipeline.sources.base import StreamInfo

EVERY_S = 1.0


class _Memory:
    """Prints where this process is."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._started = time.monotonic()
        self._told = -EVERY_S
        self._origin_ns = 0

    def began(self, origin_ns: int, _infos: dict[str, StreamInfo]) -> None:
        """The run's start."""
        self._origin_ns = origin_ns

    def tell(self, batch: list[Decision]) -> None:
        """Print a line if one is due."""
        wall_s = time.monotonic() - self._started
        if wall_s < self._told + EVERY_S:
            return
        self._told = wall_s
        memory = self._process.memory_full_info()
        event_s = (batch[-1].reference_ns - self._origin_ns) / 1e9
        line = {"event_s": round(event_s, 3), "wall_s": round(wall_s, 3), "pss_bytes": memory.pss, "rss_bytes": memory.rss}
        print(json.dumps(line), flush=True)


def main(log: Path) -> None:
    """Replay ``log``."""
    memory = _Memory()
    InlineRun(plan_replay(log, [], "max").plan, on_decisions=memory.tell, on_start=memory.began).run()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
