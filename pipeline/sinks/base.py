"""Where decisions go besides the log: ``--sink URI``."""

from __future__ import annotations

from typing import Protocol, Self

from pipeline.messages import Decision


class SinkError(Exception):
    """A sink cannot be used: one line that names the URI and the fix."""


class DecisionSink(Protocol):
    """Takes decisions as they are made. Never blocks: what it cannot take it counts in ``dropped``."""

    uri: str
    dropped: int

    def send(self, decision: Decision) -> None:
        """Pass one decision on."""
        ...

    def __enter__(self) -> Self: ...
    def __exit__(self, *exc: object) -> None: ...


def open_sink(uri: str) -> DecisionSink:
    """The sink of a URI (``udp:HOST:PORT``, ``mqtt:HOST:PORT/TOPIC``). Raises SinkError for one that is unknown or malformed."""
    scheme, _, target = uri.partition(":")
    if scheme == "udp":
        from pipeline.sinks.udp import UdpSink

        return UdpSink(target)
    if scheme == "mqtt":
        from pipeline.sinks.mqtt import MqttSink

        return MqttSink(target)
    raise SinkError(f"--sink {uri}: unknown kind {scheme!r}; use udp:HOST:PORT or mqtt:HOST:PORT/TOPIC")
