"""Live telemetry and text over UDP: each line of a datagram is one JSON object.

Telemetry: ``{"speed_mps": 13.2, "brake": 0, "time_s": 1042.7}``: any of the scenario's channels, in its units;
others are ignored, null is "not measured". Rates may differ: a line need not hold every channel. Text: ``{"text":
"siren ahead"}``.

``time_s`` is optional: when it was measured, on **this host's** monotonic clock (``time.monotonic()``), at most 10
s ago. Without it the capture time is the time of receipt. A sender on another host leaves it out.

Only this host can send unless the URI names another address to listen on. What does not parse is dropped and
counted by reason in ``rejected``: a sender can neither stop nor grow the source.
"""

from __future__ import annotations

import errno
import json
import math
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal, NoReturn, Self

import numpy as np

from pipeline.sources.base import Packet, SourceError, SourceLost, SourceSpec, StreamInfo
from pipeline.sources.telemetry import telemetry_info, telemetry_json
from pipeline.sources.text import MAX_TEXT_BYTES, text_info

MAX_DATAGRAM_BYTES = 65_536
MAX_LINES = 256
MAX_AGE_NS = 10_000_000_000
QUIET_S = 0.1

_FLOAT32_MAX = float(np.finfo(np.float32).max)


class Rejected(ValueError):
    """Why a datagram or one of its lines was dropped; the message is the reason that is counted."""


class _UdpSource:
    """A bound socket whose lines become packets. ``rejected`` counts what was dropped, by reason."""

    timing: Literal["media", "live"] = "live"

    def __init__(
        self, spec: SourceSpec, info: StreamInfo, payload: Callable[[dict[str, Any]], bytes], now_ns: Callable[[], int]
    ) -> None:
        self._spec = spec
        self._payload = payload
        self._now_ns = now_ns
        self._socket: socket.socket | None = None
        self._stopped = threading.Event()
        self._last_capture_ns = 0
        self.rejected: dict[str, int] = {}
        self.address: tuple[str, int] = ("", 0)
        self.info = info

    def __enter__(self) -> Self:
        """Bind. Raises SourceError when the address cannot be had."""
        stream = self._spec.needs.stream
        host, _, port = self._spec.target.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(host, int(port), type=socket.SOCK_DGRAM)[0]
            self._socket = socket.socket(family, kind, protocol)
            self._socket.settimeout(QUIET_S)
            self._socket.bind(address)
        except (OSError, ValueError, UnicodeError) as error:
            self._close()
            in_use = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
            fix = (
                "stop the program that uses it or choose another port"
                if in_use
                else "name an address of this host and a free port"
            )
            reason = getattr(error, "strerror", None) or error
            raise SourceError(f"{stream}: cannot listen on udp:{self._spec.target} ({reason}); {fix}") from error
        bound = self._socket.getsockname()
        self.address = (str(bound[0]), int(bound[1]))
        self._stopped.clear()
        return self

    def __exit__(self, *exc: object) -> None:
        self._close()

    def _close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def packets(self) -> Iterator[Packet | None]:
        """One packet a good line; None after 100 ms without one, also when only rubbish comes."""
        if self._socket is None:
            raise SourceError(f"{self._spec.needs.stream}: udp:{self._spec.target} is not open; enter the source first")
        quiet_since_ns = self._now_ns()
        while not self._stopped.is_set():
            got = self._receive(self._socket)
            receive_ns = self._now_ns()
            good = list(self.packets_of_datagram(got, receive_ns)) if got is not None else []
            yield from good
            if good:
                quiet_since_ns = receive_ns
            elif receive_ns - quiet_since_ns >= QUIET_S * 1e9:
                quiet_since_ns = receive_ns
                yield None

    def _receive(self, udp: socket.socket) -> bytes | None:
        try:
            return udp.recv(MAX_DATAGRAM_BYTES)
        except TimeoutError:
            return None
        except OSError as error:
            if self._stopped.is_set():
                return None
            raise SourceLost(f"{self._spec.needs.stream}: udp:{self._spec.target} failed ({error.strerror or error})") from error

    def packets_of_datagram(self, datagram: bytes, receive_ns: int) -> Iterator[Packet]:
        """The packets of one datagram's good lines; the others are counted in ``rejected``. Never raises for what a
        sender sent.
        """
        if len(datagram) > MAX_DATAGRAM_BYTES:
            self._reject("datagram too large")
            return
        lines = [line for line in datagram.split(b"\n") if line.strip()]
        if not lines:
            self._reject("empty")
        for _ in lines[MAX_LINES:]:
            self._reject("too many lines")
        for line in lines[:MAX_LINES]:
            try:
                fields = object_of_line(line)
                capture_ns = _capture_ns(fields, receive_ns)
                if capture_ns < self._last_capture_ns:
                    raise Rejected("time runs backwards")
                payload = self._payload(fields)
            except Rejected as rejection:
                self._reject(str(rejection))
                continue
            self._last_capture_ns = capture_ns
            yield Packet(capture_ns=capture_ns, arrival_ns=receive_ns, chunks=(payload,))

    def _reject(self, reason: str) -> None:
        self.rejected[reason] = self.rejected.get(reason, 0) + 1

    def stop(self) -> None:
        """`packets` returns within 100 ms."""
        self._stopped.set()


class UdpTelemetry(_UdpSource):
    """``telemetry=udp:[HOST:]PORT``: each good line is a block of one row."""

    def __init__(self, spec: SourceSpec, now_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._names = tuple(channel.name for channel in spec.needs.channels)
        info = telemetry_info(spec.needs, period_ns=spec.needs.block_ns, min_gap_ns=0, origin=f"udp:{spec.target}")
        super().__init__(spec, info, self._row, now_ns)

    def _row(self, fields: dict[str, Any]) -> bytes:
        numbers = [_number(fields.get(name)) for name in self._names]
        if all(number is None for number in numbers):
            raise Rejected("no channel of the scenario")
        values = np.array([[0.0 if number is None else number for number in numbers]], dtype=np.float32)
        valid = np.array([[number is not None for number in numbers]], dtype=np.bool_)
        return telemetry_json(np.zeros(1, dtype=np.int64), values, valid)


class UdpText(_UdpSource):
    """``text=udp:[HOST:]PORT``: each good line is a line of text."""

    def __init__(self, spec: SourceSpec, now_ns: Callable[[], int] = time.monotonic_ns) -> None:
        super().__init__(spec, text_info(spec.needs.stream, min_gap_ns=0, origin=f"udp:{spec.target}"), _text, now_ns)


def object_of_line(line: bytes) -> dict[str, Any]:
    """One line's JSON object. Raises Rejected for all else: NaN, depth and endless numbers included."""
    try:
        fields = json.loads(line.decode("utf-8", errors="strict"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise Rejected("not JSON") from error
    if not isinstance(fields, dict):
        raise Rejected("not an object")
    return fields


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _capture_ns(fields: dict[str, Any], receive_ns: int) -> int:
    if "time_s" not in fields:
        return receive_ns
    seconds = fields["time_s"]
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds <= 1e10:
        raise Rejected("time_s is no time")
    capture_ns = round(seconds * 1e9)
    if not receive_ns - MAX_AGE_NS <= capture_ns <= receive_ns:
        raise Rejected("time_s is in the future or over 10 s old")
    return capture_ns


def _number(value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Rejected("not a number")
    if not -_FLOAT32_MAX <= value <= _FLOAT32_MAX or not math.isfinite(value):
        raise Rejected("number out of range")
    return float(value)


def _text(fields: dict[str, Any]) -> bytes:
    text = fields.get("text")
    if not isinstance(text, str) or not text.strip():
        raise Rejected("no text")
    try:
        line = text.strip().encode("utf-8", errors="strict")
    except UnicodeEncodeError as error:
        raise Rejected("text is not Unicode") from error
    if len(line) > MAX_TEXT_BYTES:
        raise Rejected("text too long")
    if b"\n" in line or b"\r" in line:
        raise Rejected("text of several lines")
    return line
