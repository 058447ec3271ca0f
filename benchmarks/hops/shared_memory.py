"""A hop on Chiasm's own link, or on iceoryx2 as bare as Python can use it: ``chiasm`` or ``iceoryx2``."""

from __future__ import annotations

import ctypes
import multiprocessing
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

import numpy as np

from actors.host import settle_process, sharpen_timers
from benchmarks.hops.schedule import STAMP, Arrivals, Schedule
from benchmarks.peers.rendezvous import meet
from pipeline.links.base import EdgeSpec
from pipeline.links.shared_memory import SharedMemoryNode
from pipeline.links.sweeping import prefix_of, sweep
from pipeline.messages import AudioBlock, Frame, Header, Message

CAPACITY = 8
STAY_S = 5
"""A sender that leaves takes with it what was not received yet."""
LARGE_BYTES = 100_000


def message_of(seq: int, begun_ns: int, sender: int, payload: np.ndarray[Any, Any]) -> Message:
    """A frame where it is large, else a block of sound."""
    header = Header(stream=f"s{sender}", seq=seq, capture_ns=begun_ns, receive_ns=begun_ns)
    if payload.size >= LARGE_BYTES:
        return Frame(header=header, image_hwc=payload.reshape(-1, 160, 3))
    return AudioBlock(header=header, pcm=payload.view(np.int16))


def edge_of(sender: int, schedule: Schedule) -> EdgeSpec:
    """One edge a sender."""
    return EdgeSpec(name=f"s{sender}>hop", capacity=CAPACITY, max_bytes=max(p.size for p in schedule.phases))


def send_chiasm(spec: Path, out: Path, run_id: str, root: Path, sender: int) -> None:
    """One sender."""
    schedule = Schedule.load(spec)
    with SharedMemoryNode(run_id, root) as node:
        settle_process()
        sharpen_timers()
        outlet = node.outlet(edge_of(sender, schedule), "hop")
        for seq, begun_ns, payload in schedule.payloads(meet(out, f"sender{sender}"), sender):
            outlet.send(message_of(seq, begun_ns, sender, payload))
        time.sleep(STAY_S)


def receive_chiasm(spec: Path, out: Path, run_id: str, root: Path) -> None:
    """The receiver."""
    schedule = Schedule.load(spec)
    with SharedMemoryNode(run_id, root, owner=True) as node:
        inbox = node.inbox("hop", [edge_of(s, schedule) for s in range(schedule.senders)])
        arrivals = Arrivals(schedule, out)
        settle_process()
        sharpen_timers()
        arrivals.begin(meet(out, "receiver"))
        while True:
            for edge, message in inbox.receive(None):
                header = message.header  # type: ignore[union-attr]
                arrivals.note_stamp(header.seq, int(edge[1]), header.capture_ns, time.monotonic_ns())


def _service(node: Any, name: str, iox2: Any) -> tuple[Any, Any]:
    words = iox2.Slice[ctypes.c_uint64]
    data = (
        node.service_builder(iox2.ServiceName.new(name))
        .publish_subscribe(words)
        .subscriber_max_buffer_size(CAPACITY)
        .subscriber_max_borrowed_samples(CAPACITY)
        .enable_safe_overflow(True)
        .max_publishers(8)
        .open_or_create()
    )
    event = node.service_builder(iox2.ServiceName.new("hop")).event().open_or_create()
    return data, event


def send_iceoryx2(spec: Path, out: Path, run_id: str, root: Path, sender: int) -> None:
    """One sender: loan, copy, send, notify."""
    import iceoryx2 as iox2

    schedule = Schedule.load(spec)
    data, event = _service(_node(iox2, run_id, root), f"s{sender}", iox2)
    largest = max(p.size for p in schedule.phases)
    publisher = data.publisher_builder().initial_max_slice_len(-(-largest // 8)).create()
    notifier = event.notifier_builder().create()
    settle_process()
    sharpen_timers()
    for _, _, payload in schedule.payloads(meet(out, f"sender{sender}"), sender):
        loan = publisher.loan_slice_uninit(-(-payload.size // 8))
        ctypes.memmove(loan.payload_ptr, payload.ctypes.data, payload.size)
        loan.assume_init().send()
        notifier.notify()
    time.sleep(STAY_S)


def receive_iceoryx2(spec: Path, out: Path, run_id: str, root: Path) -> None:
    """The receiver: sleep on the event, take all there is."""
    import iceoryx2 as iox2

    schedule = Schedule.load(spec)
    node = _node(iox2, run_id, root)
    services = [_service(node, f"s{sender}", iox2) for sender in range(schedule.senders)]
    subscribers = [data.subscriber_builder().create() for data, _ in services]
    listener = services[0][1].listener_builder().create()
    arrivals = Arrivals(schedule, out)
    settle_process()
    sharpen_timers()
    arrivals.begin(meet(out, "receiver"))
    while True:
        listener.blocking_wait()
        for subscriber in subscribers:
            while (sample := subscriber.receive()) is not None:
                arrivals.note(ctypes.string_at(sample.payload_ptr, 8 * STAMP))
                sample.delete()


def _node(iox2: Any, run_id: str, root: Path) -> Any:
    config = iox2.config.default()
    config.global_cfg.prefix = iox2.FileName.new(prefix_of(run_id))
    config.global_cfg.root_path = iox2.Path.new(str(root))
    return iox2.NodeBuilder.new().config(config).create(iox2.ServiceType.Ipc)


def main(kind: str, spec: Path, out: Path) -> None:
    """Play the schedule."""
    send, receive = {"chiasm": (send_chiasm, receive_chiasm), "iceoryx2": (send_iceoryx2, receive_iceoryx2)}[kind]
    context = multiprocessing.get_context("spawn")
    run_id = f"hop{uuid.uuid4().hex[:8]}"
    root = Path(tempfile.mkdtemp(prefix="chiasm-hop-"))  # sockets lie in it, so its path must be short
    receiver = context.Process(target=receive, args=(spec, out, run_id, root), daemon=True)
    receiver.start()
    while receiver.is_alive() and not (out / "ready.receiver").exists():
        time.sleep(0.01)
    for sender in range(Schedule.load(spec).senders):
        if receiver.is_alive():
            context.Process(target=send, args=(spec, out, run_id, root, sender), daemon=True).start()
    receiver.join()
    for process in multiprocessing.active_children():
        process.kill()
        process.join()
    sweep(run_id, root)
    sys.exit(receiver.exitcode)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
