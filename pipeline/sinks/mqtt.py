"""Decisions as JSON over MQTT (OASIS MQTT 3.1.1), one message each: what ``--json`` prints."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Any, Self

from pipeline.decision_json import decision_to_json
from pipeline.messages import Decision
from pipeline.sinks.base import SinkError

PORT = 1883
ANSWER_S = 3.0
"""How long a broker may take to answer when the sink is opened, and to take what is left when it is closed."""
KEEP_ALIVE_S = 5
MAX_WAITING = 256
"""Decisions on their way to a broker that does not take them; what comes beyond is dropped, for it would come too late."""


class MqttSink:
    """``mqtt:HOST:PORT/TOPIC``, or ``mqtt:HOST/TOPIC`` on port 1883.

    Decisions go to ``TOPIC`` at most once (QoS 0): one that comes late is worth nothing. Whether they come is retained in
    ``TOPIC/status``: ``online``, or ``offline`` from a run's end on; the broker itself says so (last will) when the run is gone
    without a word. A broker that goes away is looked for again; meanwhile decisions are dropped, and counted.
    Raises SinkError when the URI is malformed, paho-mqtt is not installed, or no broker answers.
    """

    def __init__(self, target: str) -> None:
        self.uri = f"mqtt:{target}"
        self.dropped = 0
        host, port, self._topic = self._parsed(target.removeprefix("//"))
        self._status = f"{self._topic}/status"
        self._lock = threading.Lock()
        self._waiting: set[int] = set()
        """Message ids on their way."""
        self._answered = threading.Event()
        self._refusal = ""
        self._client = self._connected(host, port)

    def send(self, decision: Decision) -> None:
        """Hand one message to the client's own thread; counted as dropped where the broker is away or behind."""
        with self._lock:
            if len(self._waiting) < MAX_WAITING:
                message = self._client.publish(self._topic, decision_to_json(decision).encode())
                if not message.rc:
                    self._waiting.add(message.mid)
                    return
            self.dropped += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        last = self._client.publish(self._status, "offline", retain=True)  # behind all decisions
        with suppress(RuntimeError):  # no connection, or lost meanwhile
            last.wait_for_publish(ANSWER_S)
        self._client.disconnect()
        self._client.loop_stop()

    def _parsed(self, target: str) -> tuple[str, int, str]:
        where, slash, topic = target.partition("/")
        host, _, port = where.rpartition(":") if ":" in where else (where, "", str(PORT))
        if not host or not slash or not port.isdecimal() or not 0 < int(port) < 65536:
            raise SinkError(f"--sink {self.uri}: use mqtt:HOST:PORT/TOPIC")
        if not topic or set(topic) & set("+#\0") or len(topic.encode()) > 60_000:
            raise SinkError(f"--sink {self.uri}: {topic[:40]!r} is no topic to publish to; use one without + and #")
        return host.strip("[]"), int(port), topic

    def _connected(self, host: str, port: int) -> Any:
        try:
            import paho.mqtt.client as mqtt
        except ImportError as error:
            raise SinkError(f"--sink {self.uri}: needs paho-mqtt; pip install 'chiasm[mqtt]'") from error
        client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
        client.connect_timeout = ANSWER_S
        client.reconnect_delay_set(1, 5)
        client.will_set(self._status, "offline", retain=True)
        client.on_connect, client.on_disconnect, client.on_publish = self._on_connect, self._on_disconnect, self._on_publish
        try:
            client.connect(host, port, keepalive=KEEP_ALIVE_S)
        except (OSError, ValueError) as error:
            raise SinkError(f"--sink {self.uri}: no broker answers at {host}:{port} ({error}); start one there") from error
        client.loop_start()
        if not self._answered.wait(ANSWER_S) or self._refusal:
            client.disconnect()
            client.loop_stop()
            why = self._refusal or f"it says nothing for {ANSWER_S:g} s"
            raise SinkError(f"--sink {self.uri}: the broker at {host}:{port} does not let us in ({why}); use one that does")
        return client

    # -- called in the client's thread ----------------------------------------------------------------------------

    def _on_connect(self, client: Any, _userdata: object, _flags: object, reason: Any, _properties: object) -> None:
        if reason.is_failure:
            self._refusal = str(reason)
        else:
            client.publish(self._status, "online", retain=True)
        self._answered.set()

    def _on_publish(self, _client: Any, _userdata: object, message: int, *_why: object) -> None:
        with self._lock:
            self._waiting.discard(message)

    def _on_disconnect(self, *_why: object) -> None:
        with self._lock:  # the client forgets what it had not written
            self.dropped += len(self._waiting)
            self._waiting.clear()
