"""The microphone for real: a tone played into a PulseAudio null sink, recorded through PortAudio's ``pulse`` device.

PortAudio reads its environment when it is loaded, so each recording runs in a process of its own.
"""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import wave
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[3]
RATE_HZ = 16_000
BLOCKS = 40


def missing() -> str:
    """What this machine lacks for the test; empty if nothing."""
    for program in ("pulseaudio", "pactl", "paplay"):
        if shutil.which(program) is None:
            return f"{program} is not installed (packages pulseaudio, pulseaudio-utils)"
    if importlib.util.find_spec("sounddevice") is None:
        return "sounddevice is not installed"
    check = subprocess.run([sys.executable, "-c", "import sounddevice"], capture_output=True, check=False)
    if check.returncode:
        return "PortAudio is not installed (package libportaudio2)"
    plugins = [
        *Path("/usr/lib").glob("*/alsa-lib/libasound_module_pcm_pulse.so"),
        *Path("/usr/lib/alsa-lib").glob("*pcm_pulse.so"),
    ]
    return "" if plugins else "ALSA's pulse plugin is not installed (package libasound2-plugins)"


@pytest.fixture(scope="module")
def needs_pulseaudio() -> None:
    reason = missing()
    if reason:
        pytest.skip(reason)


@dataclass
class Pulse:
    """A running sound server with a null sink, and the environment in which programs find it."""

    server: subprocess.Popen[bytes]
    environment: dict[str, str]


@pytest.fixture
def pulse(needs_pulseaudio: None, tmp_path: Path) -> Iterator[Pulse]:
    # A socket's path must be short: pytest's own folders can be too long.
    runtime = Path(tempfile.mkdtemp(prefix="chiasm-pa-"))
    home = tmp_path / "home"
    home.mkdir()
    (home / ".asoundrc").write_text("pcm.pulse { type pulse }\nctl.pulse { type pulse }\n")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PULSE_")}
    environment |= {
        "HOME": str(home),
        "XDG_RUNTIME_DIR": str(runtime),
        "XDG_CONFIG_HOME": str(home / "config"),
        "PULSE_RUNTIME_PATH": str(runtime / "pulse"),
        "PULSE_SOURCE": "chiasm.monitor",
        "PYTHONPATH": str(ROOT),
    }
    command = ["pulseaudio", "--daemonize=no", "--exit-idle-time=-1", "-n"]
    command += [
        "-L",
        "module-native-protocol-unix",
        "-L",
        f"module-null-sink sink_name=chiasm rate={RATE_HZ} channels=1",
    ]
    log = (tmp_path / "pulseaudio.log").open("wb")
    server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        ask = "until pactl info >/dev/null 2>&1; do sleep 0.05; done"
        subprocess.run(["bash", "-c", ask], env=environment, timeout=15, check=True)
        yield Pulse(server=server, environment=environment)
    finally:
        server.kill()
        server.wait()
        log.close()
        shutil.rmtree(runtime, ignore_errors=True)


@pytest.fixture
def tone(pulse: Pulse, tmp_path: Path) -> Iterator[None]:
    """A 1 kHz tone plays into the sink for 20 s."""
    times = np.arange(20 * RATE_HZ) / RATE_HZ
    with wave.open(str(tmp_path / "tone.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE_HZ)
        file.writeframes((8000 * np.sin(2 * np.pi * 1000 * times)).astype("<i2").tobytes())
    command = ["paplay", "--latency-msec=20", "--device=chiasm", str(tmp_path / "tone.wav")]
    player = subprocess.Popen(command, env=pulse.environment, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        player.kill()
        player.wait()


RECORD = """
import json, os, signal, sys, time
from pipeline.sources.base import SourceError, SourceLost, SourceSpec, StreamNeeds
from pipeline.sources.devices import MicrophoneDevice

target, blocks, victim = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
spec = SourceSpec(needs=StreamNeeds(stream="microphone", kind="microphone"), scheme="microphone-device", target=target)
found = {"blocks": [], "error": "", "lost": "", "lost_after_s": 0.0}
source = MicrophoneDevice(spec)
killed = time.monotonic()
try:
    with source:
        for packet in source.packets():
            if packet is None:
                continue
            found["blocks"].append([packet.capture_ns, packet.arrival_ns, packet.span_ns, packet.chunks[0].hex()])
            if len(found["blocks"]) == blocks:
                if not victim:
                    break
                killed = time.monotonic()
                os.kill(victim, signal.SIGKILL)
except SourceLost as error:
    found["lost"], found["lost_after_s"] = str(error), time.monotonic() - killed
except SourceError as error:
    found["error"] = str(error)
found |= {"origin": source.info.origin, "overflows": source.overflows, "lost_blocks": source.lost_blocks}
print(json.dumps(found))
"""


def record(pulse: Pulse, target: str, blocks: int = BLOCKS, victim: int = 0) -> dict:
    command = [sys.executable, "-c", textwrap.dedent(RECORD), target, str(blocks), str(victim)]
    result = subprocess.run(command, env=pulse.environment, cwd=ROOT, capture_output=True, timeout=30, check=False)
    assert result.returncode == 0, result.stderr.decode()
    return json.loads(result.stdout.splitlines()[-1])


@pytest.mark.timeout(60)
def test_a_tone_played_into_the_sink_is_recorded_with_ordered_stamps(pulse: Pulse, tone: None) -> None:
    found = record(pulse, "pulse")
    assert found["error"] == found["lost"] == ""
    assert found["origin"] == "device:pulse"
    assert found["overflows"] == found["lost_blocks"] == 0
    captures, receives, spans = (np.array([block[column] for block in found["blocks"]]) for column in range(3))
    pcm = [np.frombuffer(bytes.fromhex(block[3]), dtype="<i2") for block in found["blocks"]]
    assert {len(block) for block in pcm} == {800}
    assert set(spans.tolist()) == {50_000_000}

    spectrum = np.abs(np.fft.rfft(np.concatenate(pcm[-20:]) * np.hanning(20 * 800)))
    assert np.argmax(spectrum) == 1000  # one second: a bin is a hertz
    assert spectrum[1000] > 1000 * np.median(spectrum)

    assert (captures <= receives).all()
    assert np.abs(np.diff(captures) - 50_000_000).max() < 10_000_000  # as even as the samples: windows hold together
    assert (receives - captures).max() < 100_000_000


@pytest.mark.timeout(60)
def test_killing_the_sound_server_loses_the_microphone_within_2_s(pulse: Pulse, tone: None) -> None:
    found = record(pulse, "pulse", blocks=10, victim=pulse.server.pid)
    assert len(found["blocks"]) >= 10
    assert "microphone 'pulse'" in found["lost"]
    assert found["lost_after_s"] < 2.0
    assert pulse.server.wait(timeout=5) == -signal.SIGKILL


@pytest.mark.timeout(60)
def test_a_microphone_that_is_not_there_is_an_error_that_lists_the_inputs(pulse: Pulse) -> None:
    found = record(pulse, "no such microphone")
    assert "cannot record 16000 Hz mono" in found["error"]
    assert "the inputs here: pulse" in found["error"]
    assert "microphone=none" in found["error"]
    assert "\n" not in found["error"]
