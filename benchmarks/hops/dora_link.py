"""A hop between two dora-rs nodes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
from dora import Node

from actors.host import settle_process, sharpen_timers
from benchmarks.hops.schedule import Receipts, Schedule
from benchmarks.peers.rendezvous import meet

QUEUED = 64


def send(spec: Path, out: Path, sender: int) -> None:
    """One sender."""
    node = Node()
    settle_process()
    sharpen_timers()
    for _, _, payload in Schedule.load(spec).payloads(meet(out, f"sender{sender}"), sender):
        node.send_output("hop", pa.array(payload))
    for event in node:  # a node that leaves takes with it what it still shares
        if event["type"] == "STOP":
            return


def receive(spec: Path, out: Path) -> None:
    """The receiver reads in place."""
    node = Node()
    receipts = Receipts(Schedule.load(spec), out)
    settle_process()
    sharpen_timers()
    receipts.begin(meet(out, "receiver"))
    for event in node:
        if event["type"] == "INPUT":
            receipts.note(event["value"].to_numpy())


def main(spec: Path, out: Path) -> None:
    """Play the schedule."""
    names = [f"sender{k}" for k in range(Schedule.load(spec).senders)]

    def node(name: str, **ports: Any) -> dict[str, Any]:
        return {"id": name, "path": sys.executable, "args": f"-m benchmarks.hops.dora_link {name} {spec} {out}", **ports}

    inputs = {name: {"source": f"{name}/hop", "queue_size": QUEUED} for name in names}
    nodes = [*(node(name, outputs=["hop"]) for name in names), node("receiver", inputs=inputs)]
    path = out / "dataflow.yml"
    path.write_text(json.dumps({"nodes": nodes}), encoding="utf-8")
    process = subprocess.Popen([Path(sys.executable).with_name("dora"), "run", path, "--log-level", "error"], cwd=out)
    while process.poll() is None and not (out / "received.npy").exists():
        try:
            process.wait(0.1)
        except subprocess.TimeoutExpired:
            continue
    process.terminate()
    process.wait(10)


if __name__ == "__main__":
    if sys.argv[1] == "receiver":
        receive(Path(sys.argv[2]), Path(sys.argv[3]))
    elif sys.argv[1].startswith("sender"):
        send(Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[1].removeprefix("sender")))
    else:
        main(Path(sys.argv[1]), Path(sys.argv[2]))
