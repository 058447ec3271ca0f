"""The main thread of an actor's process sleeps until there is a knock; Ray's looking for signals is played here by a loop."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from actors.dozing import DOZE_S, knock
from actors.wiring import RunIdentity

WORKER = """
import sys, time
from pathlib import Path
from actors.dozing import Dozing
from actors.wiring import RunIdentity
dozing = Dozing()
print("made", flush=True)
if sys.argv[2] == "dozes":
    dozing.begin(RunIdentity(run_id="r", root=Path(sys.argv[1])), "camera")
while True:
    time.sleep(0.01)
    print(time.monotonic(), flush=True)
"""


@pytest.fixture
def identity(tmp_path: Path) -> RunIdentity:
    return RunIdentity(run_id="r", root=tmp_path)


def worker(identity: RunIdentity, how: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(identity.root), how], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    )
    assert process.stdout is not None and process.stdout.readline() == "made\n"
    return process


def looks_until(process: subprocess.Popen[str], until_s: float) -> list[float]:
    """When its loop came round, up to ``until_s`` from now; ends it."""
    time.sleep(until_s)
    process.terminate()
    out, _ = process.communicate(timeout=2)
    return [float(line) for line in out.split()]


def longest_s(looks: list[float]) -> float:
    return max(later - earlier for earlier, later in itertools.pairwise(looks))


def test_a_dozing_thread_comes_round_a_few_times_a_second(identity: RunIdentity) -> None:
    awake, dozing = worker(identity, "awake"), worker(identity, "dozes")
    assert len(looks_until(awake, 2.5 * DOZE_S)) > 25 * DOZE_S
    looks = looks_until(dozing, 0)
    assert 0 < len(looks) < 10, "a few between two dozes"
    assert longest_s(looks) > 0.9 * DOZE_S


def test_a_knock_wakes_it_for_a_while(identity: RunIdentity) -> None:
    process = worker(identity, "dozes")
    time.sleep(0.3)
    knocked_s = time.monotonic()
    knock(identity, "camera")
    looks = [look for look in looks_until(process, 0.4) if look > knocked_s]
    assert looks[0] - knocked_s < 0.1
    assert len(looks) > 5


def test_a_knock_at_no_door_or_a_dead_ones_does_no_harm(identity: RunIdentity) -> None:
    knock(identity, "camera")
    process = worker(identity, "dozes")
    time.sleep(0.1)
    process.kill()
    process.wait()
    knock(identity, "camera")
    successor = worker(identity, "dozes")
    assert longest_s(looks_until(successor, 2.5 * DOZE_S)) > 0.9 * DOZE_S, "it dozes behind its predecessor's door"


def test_a_signal_ends_a_dozing_process_at_once(identity: RunIdentity) -> None:
    process = worker(identity, "dozes")
    time.sleep(0.3)
    began_s = time.monotonic()
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(2) == -signal.SIGTERM
    assert time.monotonic() - began_s < 0.5
