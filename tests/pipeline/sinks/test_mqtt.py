"""Decisions over MQTT, through a real mosquitto that goes away and comes back."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from actors.inline import InlineRun
from pipeline.cli.planning import plan_live
from pipeline.messages import Decision
from pipeline.sinks.base import SinkError, open_sink
from pipeline.sinks.mqtt import MAX_WAITING

mqtt = pytest.importorskip("paho.mqtt.client")
MOSQUITTO = shutil.which("mosquitto", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
pytestmark = pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed")
TOPIC = "ward/7/decisions"


def until(holds: Callable[[], bool], timeout_s: float = 10.0) -> None:
    pause = threading.Event()
    for _ in range(round(timeout_s / 0.02)):
        if holds():
            return
        pause.wait(0.02)
    raise AssertionError("it did not come to hold")


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Broker:
    """A mosquitto of our own."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._config = folder / "mosquitto.conf"
        self._config.write_text(f"listener {self.port} 127.0.0.1\nallow_anonymous true\npersistence false\n", encoding="utf-8")
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def uri(self) -> str:
        return f"mqtt:127.0.0.1:{self.port}/{TOPIC}"

    def start(self) -> None:
        assert MOSQUITTO is not None
        self._process = subprocess.Popen(
            [MOSQUITTO, "-c", str(self._config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        until(lambda: answers(self.port))

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    one = Broker(tmp_path)
    yield one
    one.kill()


class Ward:
    """Somebody who listens: to the decisions and to whether they come."""

    def __init__(self, port: int) -> None:
        self.decisions: list[dict[str, Any]] = []
        self.status: list[str] = []
        self._client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
        self._client.on_message = self._heard
        ready = threading.Event()
        self._client.on_subscribe = lambda *_: ready.set()
        self._client.on_connect = lambda client, *_: client.subscribe(f"{TOPIC}/#")
        self._client.connect("127.0.0.1", port)
        self._client.reconnect_delay_set(1, 1)
        self._client.loop_start()
        assert ready.wait(5)

    def _heard(self, _client: object, _userdata: object, message: Any) -> None:
        if message.topic.endswith("/status"):
            self.status.append(message.payload.decode())
        else:
            self.decisions.append(json.loads(message.payload))

    def __enter__(self) -> Ward:
        return self

    def __exit__(self, *exc: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()


def test_every_decision_of_a_run_is_published_in_order_and_its_end_is_told(broker: Broker) -> None:
    with Ward(broker.port) as ward:
        summary = InlineRun(plan_live("driving", [], [], duration="3s", sinks=[broker.uri]).plan).run()
        until(lambda: ward.status[-1:] == ["offline"])
        assert summary.drops == {}
        assert [d["seq"] for d in ward.decisions] == list(range(summary.decisions))
        assert all(d["receipt"]["admitted"] for d in ward.decisions)
    with Ward(broker.port) as late:
        until(lambda: late.status == ["offline"])  # retained: who comes later knows too


def decision(seq: int) -> Decision:
    return Decision(seq=seq, reference_ns=seq, publish_ns=seq, deadline_ns=seq, status="on_time", action="keep")


def test_a_broker_that_dies_costs_what_it_missed_and_gets_the_rest(broker: Broker) -> None:
    with open_sink(broker.uri) as sink, Ward(broker.port) as ward:
        sink.send(decision(0))
        until(lambda: len(ward.decisions) == 1)
        broker.kill()

        def refused() -> bool:
            sink.send(decision(1))
            return sink.dropped > 0

        until(refused)
        missed = sink.dropped
        broker.start()

        def heard_again() -> bool:
            sink.send(decision(2))
            return any(d["seq"] == 2 for d in ward.decisions)

        until(heard_again)
        assert sink.dropped >= missed
        assert ward.status[-1] == "online"


def test_a_run_ends_in_order_although_its_broker_is_gone(broker: Broker) -> None:
    with open_sink(broker.uri) as sink:
        sink.send(decision(0))
        broker.kill()
    broker.start()
    with open_sink(broker.uri) as sink:
        broker.kill()
        until(lambda: not sink._client.is_connected())  # type: ignore[attr-defined]


def test_a_broker_that_takes_nothing_more_costs_decisions_and_never_holds_them_up() -> None:
    """It lets the client in, then reads no further."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(1)
        accepted: list[socket.socket] = []

        def let_in() -> None:
            peer, _ = listening.accept()
            peer.recv(4096)
            peer.sendall(b"\x20\x02\x00\x00")  # CONNACK, accepted
            accepted.append(peer)

        threading.Thread(target=let_in, daemon=True).start()
        sink = open_sink(f"mqtt:127.0.0.1:{listening.getsockname()[1]}/{TOPIC}")
        try:
            for seq in range(60_000):  # more than the sockets' buffers hold
                sink.send(decision(seq))
                if sink.dropped:
                    break
            assert sink.dropped
            assert len(sink._waiting) == MAX_WAITING  # type: ignore[attr-defined]
        finally:
            accepted[0].close()
            with sink:
                pass


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("mqtt:127.0.0.1", "use mqtt:HOST:PORT/TOPIC"),
        ("mqtt:/topic", "use mqtt:HOST:PORT/TOPIC"),
        ("mqtt:127.0.0.1:0/topic", "use mqtt:HOST:PORT/TOPIC"),
        ("mqtt:127.0.0.1:99999/topic", "use mqtt:HOST:PORT/TOPIC"),
        ("mqtt:127.0.0.1:1883/", "is no topic"),
        ("mqtt:127.0.0.1:1883/a/#", "is no topic"),
        ("mqtt:127.0.0.1:1/topic", "no broker answers at 127.0.0.1:1"),
    ],
)
def test_what_cannot_be_published_to_is_refused_with_the_fix(uri: str, says: str) -> None:
    with pytest.raises(SinkError, match=f"--sink {uri}.*{says}"):
        open_sink(uri)


def test_a_broker_that_lets_nobody_in_is_refused(tmp_path: Path, broker: Broker) -> None:
    broker.kill()
    broker._config.write_text(f"listener {broker.port} 127.0.0.1\nallow_anonymous false\n", encoding="utf-8")
    broker.start()
    with pytest.raises(SinkError, match=r"does not let us in .*authori"):
        open_sink(broker.uri)
