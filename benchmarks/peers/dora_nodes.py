"""dora-rs: a node a source, one for the encoders, one for fusion. dora itself moves what is large through shared memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from dora import Node

from actors.host import settle_process, sharpen_timers
from benchmarks.peers.job import Encoded, Encoders, Job, Joiner, Ticket
from benchmarks.peers.rendezvous import meet

QUEUED = 1024


def source(job: Job, out: Path, stream: str) -> None:
    """One sensor."""
    node = Node()
    settle_process()
    sharpen_timers()
    for ticket, payload in job.paced(meet(out, stream), stream):
        node.send_output("sample", pa.array(np.asarray(payload)), ticket._asdict())
    _wait_for_stop(node)


def encoder(job: Job, out: Path) -> None:
    """All encoders."""
    node = Node()
    with Encoders(job, *job.streams) as encoders:
        settle_process()
        meet(out, "encoder")
        for event in node:
            if event["type"] == "STOP":
                return
            if event["type"] == "INPUT":
                ticket = Ticket(*(event["metadata"][name] for name in Ticket._fields))
                for encoded, values in encoders.encode(ticket, event["value"].to_numpy()):
                    node.send_output("tokens", pa.array(values.reshape(-1)), {**encoded._asdict(), "rows": len(values)})


def fusion(job: Job, out: Path) -> None:
    """Joins, fuses, decides; its end ends the run."""
    node = Node()
    with Joiner(job) as joiner:
        settle_process()
        joiner.origin_ns = meet(out, "fusion")
        for event in node:
            if event["type"] == "INPUT":
                about = event["metadata"]
                values = event["value"].to_numpy().reshape(about["rows"], -1)
                joiner.take(Encoded(*(about[name] for name in Encoded._fields)), values)
            if joiner.done:
                break
        joiner.save(out)
    (out / "done").touch()


def _wait_for_stop(node: Any) -> None:
    """A node that leaves takes with it what it still shares."""
    for event in node:
        if event["type"] == "STOP":
            return


def dataflow(job_folder: Path, out: Path, streams: tuple[str, ...]) -> dict[str, Any]:
    """The graph in dora's terms."""

    def node(name: str, inputs: dict[str, str], outputs: list[str]) -> dict[str, Any]:
        return {
            "id": name,
            "path": sys.executable,
            "args": f"-m benchmarks.peers.dora_nodes {name} {job_folder} {out}",
            "inputs": {key: {"source": source, "queue_size": QUEUED} for key, source in inputs.items()},
            "outputs": outputs,
        }

    return {
        "nodes": [
            *(node(stream, {}, ["sample"]) for stream in streams),
            node("encoder", {stream: f"{stream}/sample" for stream in streams}, ["tokens"]),
            node("fusion", {"tokens": "encoder/tokens"}, []),
        ]
    }


def main(job_folder: Path, out: Path) -> None:
    """Play the job."""
    path = out / "dataflow.yml"
    path.write_text(json.dumps(dataflow(job_folder, out, Job(job_folder).streams)), encoding="utf-8")  # JSON is YAML
    dora = Path(sys.executable).with_name("dora")
    process = subprocess.Popen([dora, "run", path, "--log-level", "error"], cwd=out)
    while process.poll() is None and not (out / "done").exists():
        try:
            process.wait(0.1)
        except subprocess.TimeoutExpired:
            continue
    process.terminate()
    process.wait(10)


if __name__ == "__main__":
    if sys.argv[1] in ("encoder", "fusion"):
        {"encoder": encoder, "fusion": fusion}[sys.argv[1]](Job(Path(sys.argv[2])), Path(sys.argv[3]))
    elif len(sys.argv) > 3:
        source(Job(Path(sys.argv[2])), Path(sys.argv[3]), sys.argv[1])
    else:
        main(Path(sys.argv[1]), Path(sys.argv[2]))
