"""Decisions as JSON lines over UDP, one datagram each: what ``--json`` prints."""

from __future__ import annotations

import socket
from typing import Any, Self

from pipeline.decision_json import decision_to_json
from pipeline.messages import Decision
from pipeline.sinks.base import SinkError

MAX_DATAGRAM_BYTES = 65_000


class UdpSink:
    """``udp:HOST:PORT``; ``udp:PORT`` is this host."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self.uri = f"udp:{target}"
        self.dropped = 0
        if not port.isdigit() or not 0 < int(port) < 65536:
            raise SinkError(f"--sink {self.uri}: {port!r} is not a port; use udp:HOST:PORT")
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(host or "127.0.0.1", int(port), type=socket.SOCK_DGRAM)[0]
        except OSError as error:
            raise SinkError(f"--sink {self.uri}: host {host!r} cannot be resolved ({error}); use an address") from error
        self._address: Any = address
        self._socket = socket.socket(family, kind, protocol)
        self._socket.setblocking(False)

    def send(self, decision: Decision) -> None:
        """One datagram; counted as dropped when the network will not take it now."""
        data = decision_to_json(decision).encode() + b"\n"
        try:
            if len(data) > MAX_DATAGRAM_BYTES:
                raise OSError("too long")
            self._socket.sendto(data, self._address)
        except OSError:
            self.dropped += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._socket.close()
