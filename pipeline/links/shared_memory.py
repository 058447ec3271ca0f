"""The link between two processes of one host: iceoryx2 publish/subscribe on loaned slices, and an event to sleep on.

Each edge is one publish/subscribe service, each receiving stage one event service with an event id an edge. A message is copied
once, into shared memory; the receiver reads it there. Each run has its own file prefix and root folder, so that one run can be
swept without touching another.
"""

from __future__ import annotations

import ctypes
import os
import secrets
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Self

import numpy as np

from pipeline.links.base import EdgeSpec, LinkError, check_name
from pipeline.links.packing import encode_sized
from pipeline.links.sweeping import MEMORY_FOLDER, OWNER_FILE, identity_of, prefix_of
from pipeline.links.unpacking import decode_with_envelope
from pipeline.links.wire import HEADER_BYTES, Envelope, WireHeader
from pipeline.messages import Message

_WORD_BYTES: Final = 8
"""Slices are counted in words, so that every payload starts where any of our arrays may."""
_SOCKET_PATH_BYTES: Final = 107
"""What Linux allows for the path of a socket, and the event of a stage is one: ``root/PREFIX`` and at most 40 characters."""
_SOCKET_NAME_BYTES: Final = 40
_WAKE_ID: Final = 0
_STOP_ID: Final = 1
_FIRST_EDGE_ID: Final = 2
_MAX_EVENT_ID: Final = 255

# A receiver that was killed stays registered until the next node of the run cleans up after it, so each service has room for
# the living and for the dead: two of each port, and nodes to spare.
_MAX_PORTS: Final = 2
_MAX_NODES: Final = 16
_MAX_NOTIFIERS: Final = 64
_LARGE_BYTES: Final = 64 * 1024
_LARGE_BATCH: Final = 4
_SMALL_BATCH: Final = 64

_memory_view = ctypes.pythonapi.PyMemoryView_FromMemory
_memory_view.restype = ctypes.py_object
_memory_view.argtypes = (ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int)
_READ: Final = 0x100  # PyBUF_READ: arrays made from it are read-only
_WRITE: Final = 0x200  # PyBUF_WRITE


def _batch(edge: EdgeSpec) -> int:
    """How many messages of an edge one `receive` takes, which is also how many it may hold."""
    return min(edge.capacity, _LARGE_BATCH if edge.max_bytes >= _LARGE_BYTES else _SMALL_BATCH)


def _words(size: int) -> int:
    return max(1, -(-size // _WORD_BYTES))


def bytes_needed(edge: EdgeSpec) -> int:
    """The most shared memory one sender of this edge fills: what waits and what is held, twice (a restart), and one on loan."""
    slots = _MAX_PORTS * (edge.capacity + _batch(edge)) + 1
    return slots * (_words(edge.max_bytes) * _WORD_BYTES + HEADER_BYTES + 64)


def check_memory(needed: int, what: str) -> None:
    """Raise `LinkError` when /dev/shm has less than ``needed`` bytes free: writing past its end kills the process with SIGBUS."""
    stat = os.statvfs(MEMORY_FOLDER)
    free = stat.f_bavail * stat.f_frsize
    if needed > free:
        raise LinkError(
            f"{MEMORY_FOLDER} is too small: {what} needs {needed / 1e6:.1f} MB, {free / 1e6:.1f} MB are free; "
            f"run with --inline, or make it larger (mount -o remount,size=1G {MEMORY_FOLDER}; docker run --shm-size=1g)"
        )


def _event_id(edge: str) -> int:
    """An edge's event id, the same in every process. Two edges of a stage may share one: an event only says to look."""
    return _FIRST_EDGE_ID + zlib.crc32(edge.encode()) % (_MAX_EVENT_ID + 1 - _FIRST_EDGE_ID)


def _fill(target: memoryview, buffers: list[Any]) -> None:
    """Copy the buffers one after another into ``target``, which is as long as they are together."""
    if len(buffers) == 1:
        target[:] = memoryview(buffers[0]).cast("B")
        return
    start = 0
    for buffer in buffers:
        size = buffer.nbytes if isinstance(buffer, np.ndarray) else len(buffer)
        if size:  # an empty array has no bytes to cast
            target[start : start + size] = memoryview(buffer).cast("B")
        start += size


class SharedMemoryOutlet:
    """One edge's sending end."""

    def __init__(self, iox2: Any, publisher: Any, notifier: Any, edge: EdgeSpec) -> None:
        self.edge = edge.name
        self._iox2 = iox2
        self._publisher: Any = publisher
        self._notifier: Any = notifier
        # iceoryx2's own methods look at type annotations on each call, which costs a fifth of a small message; what they then
        # call has no public name. Where a version has it not, theirs serve.
        self._loan = getattr(publisher, "__loan_slice_uninit", publisher.loan_slice_uninit)
        self._assume_init = getattr(iox2.SampleMutUninit, "__assume_init", iox2.SampleMutUninit.assume_init)
        self._event = iox2.EventId.new(_event_id(edge.name))
        self._slots = bytes_needed(edge) // (_words(edge.max_bytes) * _WORD_BYTES)
        self._room_words = _words(edge.max_bytes)
        self._sender = secrets.randbits(63)
        self._start_ns = 0
        self._count = 0

    def send(self, message: Message, *, wake: bool = True) -> None:
        """Copy the message into shared memory, publish it and wake the receiver. Never blocks.

        Raises `LinkError` when the message cannot travel, when the memory cannot grow to its size, or after `close`.
        """
        if self._publisher is None:
            raise LinkError(f"edge {self.edge}: it is closed")
        if not self._start_ns:
            self._start_ns = time.monotonic_ns()
        header, buffers, size = encode_sized(message, self._sender, self._start_ns, self._count)
        words = _words(size)
        if words > self._room_words:
            self._grow(words)
        try:
            loan = self._loan(words)
        except self._iox2.LoanError as error:
            raise LinkError(f"edge {self.edge}: no memory for {words * _WORD_BYTES} bytes: {error}") from error
        ctypes.memmove(loan.user_header_ptr, header, HEADER_BYTES)
        if size:
            _fill(_memory_view(loan.payload_ptr, size, _WRITE), buffers)
        self._count += 1
        try:
            self._assume_init(loan).send()
        except self._iox2.SendError as error:
            raise LinkError(f"edge {self.edge}: cannot send: {error}") from error
        if wake:
            self.wake()

    def wake(self) -> None:
        """Wake the receiver, for what was sent without. Raises `LinkError` when it cannot."""
        try:
            self._notifier.notify_with_custom_event_id(self._event)
        except self._iox2.NotifierNotifyError as error:
            raise LinkError(f"edge {self.edge}: cannot wake its receiver: {error}") from error

    def _grow(self, words: int) -> None:
        """Make sure that the larger segment which the next loan makes fits: it is a power of two times as large."""
        room = 1 << (words - 1).bit_length()
        check_memory(self._slots * room * _WORD_BYTES, f"edge {self.edge}, for a message of {words * _WORD_BYTES} bytes,")
        self._room_words = room

    def close(self) -> None:
        """Release publisher and notifier. What was sent and not yet received is gone with them."""
        publisher, notifier, self._publisher, self._notifier = self._publisher, self._notifier, None, None
        for port in (publisher, notifier):
            if port is not None:
                port.delete()


class _Edge:
    """What an inbox knows of one edge."""

    __slots__ = ("batch", "expected", "lost", "name", "subscriber")

    def __init__(self, name: str, batch: int, subscriber: Any) -> None:
        self.name = name
        self.batch = batch
        self.subscriber = subscriber
        self.expected: dict[int, int] = {}
        self.lost = 0

    def count(self, envelope: Envelope, born_ns: int) -> None:
        """Count the gap before this message.

        Of a sender first seen now everything since its first message was for us if that came after we were there; of an
        older sender (we are the restarted ones) what went to our predecessor is not ours to count.
        """
        expected = self.expected.get(envelope.sender)
        if expected is None:
            expected = 0 if envelope.sender_start_ns >= born_ns else envelope.number
            if len(self.expected) >= 2 * _MAX_PORTS:
                del self.expected[next(iter(self.expected))]
        self.lost += max(0, envelope.number - expected)
        self.expected[envelope.sender] = envelope.number + 1


class SharedMemoryInbox:
    """One stage's receiving end. See `pipeline.links.base.Inbox`."""

    def __init__(self, iox2: Any, listener: Any, notifier: Any, edges: list[_Edge]) -> None:
        self._iox2 = iox2
        self._listener: Any = listener
        # A listener's own timed wait ends with a tick of the kernel, up to 7 ms late; that of a wait set when it should.
        self._timed: Any = (
            iox2.WaitSetBuilder.new().signal_handling_mode(iox2.SignalHandlingMode.Disabled).create(iox2.ServiceType.Ipc)
        )
        self._attached: Any = self._timed.attach_notification(listener)
        self._notifier: Any = notifier
        self._wake = iox2.EventId.new(_WAKE_ID)
        self._edges = edges
        self._held: list[Any] = []
        self._error: LinkError | None = None
        self._born_ns = time.monotonic_ns()
        self._woken = False
        self._stopped = False

    @property
    def stopped(self) -> bool:
        """Whether the run's stop event has arrived."""
        return self._stopped

    def receive(self, timeout_ns: int | None) -> list[tuple[str, Message]]:
        """The next batch; see `pipeline.links.base.Inbox.receive`. At most 4 large or 64 small messages of an edge at a time."""
        if self._listener is None:
            raise LinkError("this inbox is closed")
        self._release()
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        deadline_ns = None if timeout_ns is None else time.monotonic_ns() + timeout_ns
        self._listen(0)
        while True:
            batch = self._drain()
            if batch or self._woken or self._stopped:
                self._woken = False
                return batch
            if self._error is not None:
                error, self._error = self._error, None
                raise error
            left_ns = None if deadline_ns is None else deadline_ns - time.monotonic_ns()
            if left_ns is not None and left_ns <= 0:
                return batch
            self._listen(left_ns)

    def _listen(self, timeout_ns: int | None) -> None:
        """Sleep until an event, and note what it says besides "look". 0 only looks, None sleeps without limit."""
        try:
            if timeout_ns is None:
                events = self._listener.blocking_wait()
            elif timeout_ns == 0:
                events = self._listener.try_wait()
            else:
                self._timed.wait_and_process_with_timeout(self._iox2.Duration.from_nanos(timeout_ns))
                events = self._listener.try_wait()
        except (self._iox2.ListenerWaitError, self._iox2.WaitSetRunError) as error:
            # A signal arrived. Python runs its handler between two bytecodes, so all there is to do is to look again.
            if "Interrupt" in str(error):
                return
            raise LinkError(f"cannot wait for messages: {error}") from error
        for event in events:
            value = event.id.as_value
            self._woken |= value == _WAKE_ID
            self._stopped |= value == _STOP_ID

    def _drain(self) -> list[tuple[str, Message]]:
        batch: list[tuple[str, Message]] = []
        for edge in self._edges:
            receive = edge.subscriber.receive
            for _ in range(edge.batch):
                try:
                    sample = receive()
                except self._iox2.ReceiveError as error:
                    self._error = LinkError(f"edge {edge.name}: cannot receive: {error}")
                    break
                if sample is None:
                    break
                self._held.append(sample)
                size = sample.header.number_of_elements * _WORD_BYTES
                header = _memory_view(sample.user_header_ptr, HEADER_BYTES, _READ)
                payload = _memory_view(sample.payload_ptr, size, _READ)
                try:
                    message, envelope = decode_with_envelope(header, payload)
                except LinkError as error:
                    self._error = LinkError(f"edge {edge.name}: {error}")
                    continue
                edge.count(envelope, self._born_ns)
                batch.append((edge.name, message))
        return batch

    def _release(self) -> None:
        for sample in self._held:
            sample.delete()
        self._held.clear()

    def wake(self) -> None:
        """Make the current, or else the next, `receive` return at once."""
        notifier = self._notifier
        if notifier is not None:
            notifier.notify_with_custom_event_id(self._wake)

    def lost(self) -> dict[str, int]:
        """Messages overwritten before they were received, by edge."""
        return {edge.name: edge.lost for edge in self._edges}

    def close(self) -> None:
        """Release samples, subscribers and listener."""
        self._release()
        for edge in self._edges:
            if edge.subscriber is not None:
                edge.subscriber.delete()
                edge.subscriber = None
        attached, timed, listener, notifier = self._attached, self._timed, self._listener, self._notifier
        self._attached = self._timed = self._listener = self._notifier = None
        for port in (attached, timed, listener, notifier):
            if port is not None:
                port.delete()


class SharedMemoryNode:
    """One process's part in a run's shared memory. A context manager; leaving it closes the inboxes and outlets it made.

    ``run_id`` and ``root`` are the same in all processes of the run. The process that starts the run passes ``owner=True``: its
    id is written into ``root``, and `sweep_dead` goes by it.
    """

    def __init__(self, run_id: str, root: Path, *, owner: bool = False) -> None:
        self._prefix = prefix_of(run_id)
        self._root = root.absolute()
        self._owner = owner
        self._iox2: Any = None
        self._node: Any = None
        self._ports: list[SharedMemoryInbox | SharedMemoryOutlet] = []

    def __enter__(self) -> Self:
        import iceoryx2 as iox2

        longest = len(os.fsencode(self._root)) + 1 + len(self._prefix) + _SOCKET_NAME_BYTES
        if longest > _SOCKET_PATH_BYTES:
            raise LinkError(
                f"link root {self._root} is {longest - _SOCKET_PATH_BYTES} bytes too long for sockets in it; use a shorter path"
            )
        self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
        if self._owner:
            (self._root / OWNER_FILE).write_text(identity_of(os.getpid()), encoding="ascii")
        # Its warnings are about what killed processes left behind, which it then removes.
        iox2.set_log_level_from_env_or(iox2.LogLevel.Fatal)
        config = iox2.config.default()
        config.global_cfg.prefix = iox2.FileName.new(self._prefix)
        config.global_cfg.root_path = iox2.Path.new(str(self._root))
        # On a busy host the process that creates a service may be off the processor for longer than the default second.
        config.global_cfg.creation_timeout = iox2.Duration.from_secs(10)
        builder = iox2.NodeBuilder.new().config(config).signal_handling_mode(iox2.SignalHandlingMode.Disabled)
        try:
            self._node = builder.create(iox2.ServiceType.Ipc)
        except iox2.NodeCreationFailure as error:
            raise LinkError(f"cannot use shared memory under {self._root}: {error}; run with --inline") from error
        self._iox2 = iox2
        return self

    def __exit__(self, *exc: object) -> None:
        for port in self._ports:
            port.close()
        self._ports.clear()
        self._node = None

    def inbox(self, stage: str, edges: Sequence[EdgeSpec]) -> SharedMemoryInbox:
        """The receiving end of ``stage``. Raises `LinkError` when /dev/shm has no room for the edges or a name is taken."""
        if len({edge.name for edge in edges}) != len(edges):
            raise LinkError(f"stage {stage}: two edges share a name: {sorted(edge.name for edge in edges)}; rename one")
        check_memory(sum(map(bytes_needed, edges)), f"stage {stage} ({len(edges)} edges)")
        event = self._event_service(stage)
        try:
            listener = event.listener_builder().create()
            notifier = event.notifier_builder().create()
            receiving = [_Edge(edge.name, _batch(edge), self._service(edge).subscriber_builder().create()) for edge in edges]
            inbox = SharedMemoryInbox(self._iox2, listener, notifier, receiving)
        except (self._iox2.ListenerCreateError, self._iox2.NotifierCreateError, self._iox2.SubscriberCreateError) as error:
            raise LinkError(f"stage {stage}: cannot make its inbox ({error}); is it already running twice?") from error
        except (self._iox2.WaitSetCreateError, self._iox2.WaitSetAttachmentError) as error:
            raise LinkError(
                f"stage {stage}: cannot wait for its inbox ({error}); are there file descriptors left (ulimit -n)?"
            ) from error
        self._ports.append(inbox)
        return inbox

    def outlet(self, edge: EdgeSpec, stage: str) -> SharedMemoryOutlet:
        """The sending end of ``edge``, which ``stage`` receives. Raises `LinkError` as `inbox` does."""
        iox2 = self._iox2
        check_memory(bytes_needed(edge), f"edge {edge.name}")
        try:
            publisher = (
                self._service(edge)
                .publisher_builder()
                .initial_max_slice_len(_words(edge.max_bytes))
                .allocation_strategy(iox2.AllocationStrategy.PowerOfTwo)
                .backpressure_strategy(iox2.BackpressureStrategy.DiscardData)
                .max_loaned_samples(1)
                .create()
            )
            notifier = self._event_service(stage).notifier_builder().create()
        except (iox2.PublisherCreateError, iox2.NotifierCreateError) as error:
            raise LinkError(
                f"edge {edge.name}: cannot make its outlet ({error}); is its sender already running twice?"
            ) from error
        outlet = SharedMemoryOutlet(iox2, publisher, notifier, edge)
        self._ports.append(outlet)
        return outlet

    def stop_stage(self, stage: str) -> None:
        """Send the run's stop event to ``stage``, whatever its process: its `receive` returns, `Inbox.stopped` is true."""
        notifier = self._event_service(stage).notifier_builder().create()
        notifier.notify_with_custom_event_id(self._iox2.EventId.new(_STOP_ID))
        notifier.delete()

    def _service(self, edge: EdgeSpec) -> Any:
        iox2 = self._iox2
        try:
            return (
                self._node.service_builder(iox2.ServiceName.new(edge.name))
                .publish_subscribe(iox2.Slice[ctypes.c_uint64])
                .user_header(WireHeader)
                .enable_safe_overflow(True)
                .history_size(0)
                .max_publishers(_MAX_PORTS)
                .max_subscribers(_MAX_PORTS)
                .max_nodes(_MAX_NODES)
                .subscriber_max_buffer_size(edge.capacity)
                .subscriber_max_borrowed_samples(_batch(edge))
                .open_or_create()
            )
        except iox2.PublishSubscribeOpenOrCreateError as error:
            raise LinkError(
                f"edge {edge.name}: cannot open its service ({error}); do both ends use the same EdgeSpec?"
            ) from error

    def _event_service(self, stage: str) -> Any:
        iox2 = self._iox2
        if self._node is None:
            raise LinkError("this node is not open: use it in a with statement")
        try:
            return (
                self._node.service_builder(iox2.ServiceName.new(check_name("stage", stage)))
                .event()
                .max_notifiers(_MAX_NOTIFIERS)
                .max_listeners(_MAX_PORTS)
                .max_nodes(_MAX_NODES + _MAX_NOTIFIERS)
                .event_id_max_value(_MAX_EVENT_ID)
                .open_or_create()
            )
        except iox2.EventOpenOrCreateError as error:
            raise LinkError(f"stage {stage}: cannot open its event ({error})") from error
