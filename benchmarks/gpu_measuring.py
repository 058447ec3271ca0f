"""The timing of `benchmarks.gpu`: several interpreters' contenders on the same engines, turn about.

Imports the standard library and numpy alone, so that it runs on whatever Python a box with a GPU has.
"""

from __future__ import annotations

import gzip
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

ROUNDS = 10
"""In each, every series of every contender has its turn; another one is first each time."""
FULL_S, SHORT_S = 0.15, 0.06
"""How long a series' turn lasts at most: of those that the comparison rests on, and of the others."""
CALLS_FOR = {"p50": 20, "p99": 1_000, "p99.9": 10_000}
"""Samples below which a percentile is not said."""
TENSORRT = ("tensorrt fp32", "tensorrt fp16", "tensorrt int8")
OTHERS = ("torch", "torch+compile", "ort-cuda", "ort")
ENDURED = 10_000


class Worker:
    """A process of `benchmarks.gpu_contenders` under some interpreter."""

    def __init__(self, command: str, folder: Path) -> None:
        self._command = command
        self._process = subprocess.Popen(
            [*shlex.split(command), "-m", "benchmarks.gpu_contenders", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def send(self, **order: Any) -> None:
        """Give an order."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # `answer` says how it ended

    def answer(self) -> dict[str, Any]:
        """What it says to the oldest order not yet answered; a process that died answers with an error."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            return {"error": f"{self._command} ended with {self._process.wait()}"}
        found: dict[str, Any] = json.loads(line)
        return found

    def ask(self, **order: Any) -> dict[str, Any]:
        """Give an order and wait for the answer."""
        self.send(**order)
        return self.answer()

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()


def measure(folder: Path, commands: Sequence[str], out: Path, builders: int) -> dict[str, Any]:
    """Build, compare and time all engines of a prepared folder; write ``gpu-DATE.json`` and its raw samples into ``out``."""
    prepared = json.loads((folder / "prepared.json").read_text(encoding="utf-8"))
    samples: dict[str, dict[str, list[int]]] = {}
    with _workers(commands, folder) as workers:
        probes = [worker.ask(do="probe") for worker in workers]
        present = [[n for n, found in p.get("backends", {}).items() if not found["reason"]] for p in probes]
        backends = {name: worker for worker, names in zip(workers, present) for name in names}  # noqa: B905 - one a worker
        command_of = {name: command for command, names in zip(commands, present) for name in names}  # noqa: B905
        report: dict[str, Any] = {
            "date": datetime.now(tz=timezone.utc).isoformat(timespec="seconds"),  # noqa: UP017 - 3.10 has no datetime.UTC
            "machine": {
                "cpu": _cpu(),
                "cores": len(os.sched_getaffinity(0)),
                "gpu": _nvidia_smi(),
                "python": sys.version.split()[0],
            },
            "prepared": prepared,
            "workers": probes,
            "builds": _built(folder, command_of, prepared["engines"], builders),
            "engines": {},
        }
        for engine in prepared["engines"]:
            print(f"{engine}: comparing and timing", file=sys.stderr, flush=True)
            report["engines"][engine], samples[engine] = _one_engine(engine, backends)
            _write(report, samples, out)  # what is measured stays, also when the time on a lent device ends
        if (worker := backends.get("tensorrt")) is not None:
            print("endurance, engines at once, faults", file=sys.stderr, flush=True)
            report |= _tensorrt_alone(worker, prepared["engines"], samples)
            _write(report, samples, out)
    return report


@contextmanager
def _workers(commands: Sequence[str], folder: Path) -> Iterator[list[Worker]]:
    with ExitStack() as stack:
        workers = [Worker(command, folder) for command in commands]
        for worker in workers:
            stack.callback(worker.close)
        yield workers


def _built(folder: Path, command_of: Mapping[str, str], engines: Sequence[str], builders: int) -> dict[str, Any]:
    """What takes long and is kept, made by several processes at once: plans in all precisions, what torch.compile generates."""
    found: dict[str, Any] = {"processes_at_once": builders}
    plans = [{"do": "build", "engine": e, "precision": n.partition(" ")[2]} for n in TENSORRT for e in engines]
    compiled = [{"do": "open", "name": "torch+compile", "engine": e} for e in engines]
    jobs = [(name, job) for name, some in (("tensorrt", plans), ("torch", compiled)) if name in command_of for job in some]
    with ExitStack() as stack:
        pools = {n: stack.enter_context(_workers([c] * builders, folder)) for n, c in command_of.items() if n in dict(jobs)}
        for place, (name, job) in enumerate(jobs):
            pools[name][place % builders].send(**job)
        for place, (name, job) in enumerate(jobs):
            answer = pools[name][place % builders].answer()
            answer.pop("parity", None)
            found[f"{name} {job['engine']} {job.get('precision', 'compile')}"] = answer
            print(f"built {name} {job['engine']} {job.get('precision', 'compile')}: {answer}", file=sys.stderr, flush=True)
    return found


def _one_engine(engine: str, backends: Mapping[str, Worker]) -> tuple[dict[str, Any], dict[str, list[int]]]:
    contenders = {n: w for n in (*TENSORRT, *OTHERS) if (w := backends.get(n.partition(" ")[0].partition("+")[0])) is not None}
    found: dict[str, Any] = {}
    for name, worker in contenders.items():
        worker.send(do="open", name=name, engine=engine)
    for name, worker in contenders.items():
        found[name] = worker.answer()
    turns = [(n, s) for n in contenders if "error" not in found[n] for s in _series_of(n)]
    samples: dict[str, list[int]] = {f"{name}, {series}": [] for name, series in turns}
    for turn in range(ROUNDS):
        first = turn * max(1, len(turns) // ROUNDS) % max(1, len(turns))
        for name, series in turns[first:] + turns[:first]:
            taken = samples[f"{name}, {series}"]
            limit_s = FULL_S if series == "host to host" else SHORT_S
            answer = contenders[name].ask(do="time", name=name, series=series, start=len(taken), limit_s=limit_s)
            taken += answer.get("ns", [])
    for worker in set(contenders.values()):
        worker.ask(do="close")
    for key, taken in samples.items():
        name, _, series = key.partition(", ")
        found[name].setdefault("latency_ms", {})[series] = percentiles(taken)
    return found, {key: taken for key, taken in samples.items() if taken}


def _series_of(name: str) -> tuple[str, ...]:
    if name in TENSORRT:
        return ("host to host", "host to host, no graph", "device only", "device only, no graph")
    return ("host to host", "device only") if name.startswith("torch") else ("host to host",)


def _tensorrt_alone(worker: Worker, engines: Sequence[str], samples: dict[str, dict[str, list[int]]]) -> dict[str, Any]:
    first = engines[0].partition("/")[0]
    encoders = [e for e in engines if e.startswith(f"{first}/") and not e.endswith("/fusion")]
    at_once: dict[str, Any] = {}
    for precision in ("fp32", "fp16"):
        for count in range(1, len(encoders) + 1):
            answer = worker.ask(do="together", engines=encoders[:count], precision=precision, limit_s=1.5)
            key = f"{count} at once, {precision}"
            at_once[key] = {e: percentiles(ns) for e, ns in answer["ns"].items()} if "ns" in answer else answer
            samples[key] = answer.get("ns", {})
    return {
        "at_once": at_once,
        "endurance": {e: worker.ask(do="endure", engine=e, precision="fp32", calls=ENDURED) for e in encoders},
        "faults": worker.ask(do="faults", engine=f"{first}/telemetry"),
        "rebuilt_s": worker.ask(do="rebuilt", engine=f"{first}/text"),
    }


def percentiles(durations_ns: Sequence[int]) -> dict[str, float | int]:
    """Count and percentiles in ms; none that so many samples cannot carry."""
    found: dict[str, float | int] = {"calls": len(durations_ns)}
    for name, needed in CALLS_FOR.items():
        if len(durations_ns) >= needed:
            found[name] = round(float(np.percentile(np.asarray(durations_ns), float(name[1:]))) / 1e6, 4)
    return found


def _write(report: Mapping[str, Any], samples: Mapping[str, Any], out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    stem = f"gpu-{str(report['date'])[:10]}"
    (out / f"{stem}.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    with gzip.open(out / f"{stem}.samples.json.gz", "wt", encoding="utf-8") as file:
        json.dump({"unit": "ns", "samples": samples}, file)


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _nvidia_smi() -> str:
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total,clocks.sm,clocks.max.sm", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, timeout=30, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "none"
