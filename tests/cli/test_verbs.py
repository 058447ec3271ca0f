"""Each verb as a user calls it: exit codes, what is on stdout, what lies in the files."""

import importlib.util
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT / ".." / "shared" / "data" / "driving"
NO_DEVICE = "not a medical device"
DEMO = ROOT / "pipeline" / "scenarios" / "driving" / "demo.mcap"
CHIASM = [sys.executable, "-m", "pipeline.cli.main"]
CLOSING = re.compile(r"decisions=(\d+) missed=(\d+) dropped=(\d+) sha256=([0-9a-f]{64})")
ENV = {**os.environ, "OMP_NUM_THREADS": "1"}
NOT_VALIDATED = "networks trained in simulation, not validated on this source"


def chiasm(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [*CHIASM, *(str(a) for a in arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT, env=ENV, check=False)


def done_well(*arguments: object) -> subprocess.CompletedProcess[str]:
    done = chiasm(*arguments)
    assert done.returncode == 0, (done.returncode, done.stdout[-800:], done.stderr[-1500:])
    assert "Traceback" not in done.stderr
    return done


def closing_line(output: str) -> re.Match[str]:
    """What `run` and `replay` end with."""
    found = CLOSING.fullmatch(output.splitlines()[-1])
    assert found is not None, output[-500:]
    return found


def info(log: Path) -> dict[str, Any]:
    described: dict[str, Any] = json.loads(done_well("info", log, "--json").stdout)
    return described


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """Three seconds of the shipped drive, run live, recorded, with JSON on stdout."""
    log = tmp_path_factory.mktemp("verbs") / "live.mcap"
    return log, done_well("run", "driving", "--inline", "--json", "--for", "3s", "--record", log)


Recorded = tuple[Path, subprocess.CompletedProcess[str]]


@pytest.mark.parametrize("verb", [("run", "driving", "--inline", "--record"), ("record", "driving")])
def test_a_disk_that_fills_up_ends_a_recording_at_once_and_says_so(verb: tuple[str, ...], tmp_path: Path) -> None:
    most, log = 400_000, tmp_path / "full.mcap"  # some seconds of the shipped drive, which takes 60

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

    command = [*CHIASM, *verb, str(log)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, text=True, cwd=ROOT, env=ENV, preexec_fn=limited) as process:
        while not log.exists() and process.poll() is None:
            time.sleep(0.02)
        opened = time.monotonic()
        _, said = process.communicate(timeout=120)
    assert time.monotonic() - opened < 30
    assert process.returncode == 2 and "Traceback" not in said
    assert re.search(r"full\.mcap: cannot write the log: File too large; choose another place", said)


def test_json_gives_a_decision_with_its_receipt_a_line_and_nothing_else_on_stdout(recorded: Recorded) -> None:
    _, done = recorded
    decisions = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(decisions) == int(closing_line(done.stderr)[1])
    assert len(decisions) >= 55
    for decision in decisions:
        assert decision["action"] in ("keep", "slow", "yield", "stop")
        assert {a["stream"] for a in decision["receipt"]["admitted"]} == {"camera", "microphone", "telemetry", "text"}
        assert set(decision["receipt"]["engines"]) == {"camera", "microphone", "telemetry", "text", "fusion"}
    seqs = [d["seq"] for d in decisions]
    assert seqs == sorted(set(seqs))


@pytest.mark.ray
def test_json_stays_json_while_a_stage_dies_and_is_started_again(tmp_path: Path) -> None:
    """Ray prints a paragraph of its own to stdout when a process dies."""
    command = [*CHIASM, "run", "driving", "--json", "--for", "8s"]
    with (tmp_path / "stderr").open("w+", encoding="utf-8") as errors:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=ROOT, env=ENV) as run:
            assert run.stdout is not None
            lines = [run.stdout.readline() for _ in range(20)]
            (encoder,) = [p for p in psutil.Process(run.pid).children(recursive=True) if "ray::Encoder" in " ".join(p.cmdline())]
            encoder.kill()
            lines += run.stdout.readlines()
        errors.seek(0)
        told = " ".join(errors.read().split())
    assert run.returncode == 0
    assert len([json.loads(line) for line in lines]) > 100
    assert "encoder: its actor died, and was started again" in told


def test_a_log_replays_to_the_same_hash_every_time_and_to_the_live_one_if_that_was_clean(recorded: Recorded) -> None:
    log, live = recorded
    first = closing_line(done_well("replay", log, "--inline").stdout)
    second = closing_line(done_well("replay", log, "--inline", "--speed", "4").stdout)
    assert first[4] == second[4]
    if info(log)["clean"]:
        assert first[4] == closing_line(live.stderr)[4]


def test_info_says_what_the_log_holds(recorded: Recorded, tmp_path: Path) -> None:
    log, live = recorded
    found = info(log)
    assert found["closed"]
    assert found["simulated"]
    assert found["digest"] == closing_line(live.stderr)[4]
    assert found["decisions"]["count"] == int(closing_line(live.stderr)[1])
    assert {s["info"]["stream"] for s in found["streams"]} == {"camera", "microphone", "telemetry", "text"}
    shown = done_well("info", log, "--tables", tmp_path / "tables").stdout
    assert "scenario" in shown
    assert "driving" in shown
    assert {p.name for p in (tmp_path / "tables").iterdir()} == {"decisions.parquet", "latency.parquet", "telemetry.parquet"}


def test_compare_exits_with_0_for_the_same_decisions_and_1_for_others(recorded: Recorded, tmp_path: Path) -> None:
    log, _ = recorded
    once, again, other = tmp_path / "once.mcap", tmp_path / "again.mcap", tmp_path / "other.mcap"
    done_well("replay", log, "--inline", "--record", once)
    done_well("replay", once, "--inline", "--record", again)
    done_well("replay", log, "--inline", "--record", other, "--set", "policy.memory=3")
    same = chiasm("compare", once, again)
    assert same.returncode == 0, same.stdout
    assert same.stdout.splitlines()[-1].endswith("differing=0")
    differing = chiasm("compare", once, other)
    assert differing.returncode == 1, differing.stderr
    assert "state" in differing.stdout
    assert "configs differ" in differing.stdout


def test_record_writes_streams_without_decisions(tmp_path: Path) -> None:
    log = tmp_path / "streams.mcap"
    done_well("record", "driving", log, "--for", "1s")
    found = info(log)
    assert found["closed"]
    assert found["decisions"]["count"] == 0
    camera = next(s for s in found["streams"] if s["info"]["stream"] == "camera")
    assert 15 <= camera["samples"] <= 22
    assert int(closing_line(done_well("replay", log, "--inline").stdout)[1]) >= 15


def test_an_interrupt_ends_the_run_in_order_and_closes_its_log(tmp_path: Path) -> None:
    log = tmp_path / "stopped.mcap"
    command = [*CHIASM, "run", "driving", "--inline", "--json", "--record", str(log)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=ENV) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(10)]  # it is running
        process.send_signal(signal.SIGINT)
        rest, said = process.communicate(timeout=10)
    assert process.returncode == 0, said
    assert "Traceback" not in said
    assert int(closing_line(said)[1]) == len(lines) + len(rest.splitlines())
    found = info(log)
    assert found["closed"]
    assert found["decisions"]["count"] == int(closing_line(said)[1])


def test_a_reader_that_goes_away_ends_the_run_in_order(tmp_path: Path) -> None:
    log = tmp_path / "stopped.mcap"
    command = [*CHIASM, "run", "driving", "--inline", "--json", "--record", str(log)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=ENV) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        said = process.stderr.read()
        process.wait(timeout=10)
    assert "Traceback" not in said
    assert info(log)["closed"]


def test_simulate_writes_the_same_drive_for_the_same_seed(tmp_path: Path) -> None:
    for needed in ("panda3d", "scipy"):
        if importlib.util.find_spec(needed) is None:
            pytest.skip(f"{needed} is not installed: pip install 'chiasm[sim]'")
    for name in ("one.mcap", "two.mcap"):
        done_well("simulate", "driving", tmp_path / name, "--seed", "7", "--for", "2s")
    assert (tmp_path / "one.mcap").read_bytes() == (tmp_path / "two.mcap").read_bytes()
    found = info(tmp_path / "one.mcap")
    assert found["simulated"]
    assert found["metadata"]["seed"] == "7"


def test_the_bedside_plays_its_shipped_course_and_says_that_it_is_no_medical_device(tmp_path: Path) -> None:
    log = tmp_path / "bedside.mcap"
    played = done_well("run", "patient", "--inline", "--for", "8s", "--record", log).stdout
    assert NO_DEVICE in played
    for head in ("alarm", "apnea", "distress", "action"):
        assert f"{head}: balanced accuracy" in played
    assert "respond: caught within 1 s" in played, "the course begins with a fall"
    assert NO_DEVICE in info(log)["metadata"]["notices"]
    replayed = done_well("replay", log, "--inline").stdout
    assert closing_line(replayed)[1] == closing_line(played)[1]
    assert replayed.count(NO_DEVICE) == 1


@pytest.mark.data
def test_a_real_alarm_and_other_peoples_recordings_are_composed_and_it_is_said(tmp_path: Path) -> None:
    medical = SHARED.parent / "medical"
    if not medical.exists():
        pytest.skip("needs ../shared/data/medical")
    if importlib.util.find_spec("wfdb") is None:
        pytest.skip("wfdb is not installed: pip install 'chiasm[medical]'")
    clip = sorted(medical.glob("rppg_patches/*/*.avi"))[0]
    cough = next(path for path in sorted(medical.glob("cough_covid19/raw/*")) if path.suffix in (".mp3", ".ogg", ".wav"))
    record = medical / "wfdb_waveforms" / "a103l"
    sources = [f"wfdb={record}", f"camera={clip}?loop=true", f"microphone={cough}?loop=true"]
    given = [argument for source in sources for argument in ("--source", source)]
    played = done_well("run", "patient", "--inline", "--for", "5s", *given).stdout
    for said in (NO_DEVICE, NOT_VALIDATED, "composed: camera from", "separate recordings", "it was false"):
        assert said in played, said
    assert int(closing_line(played)[1]) == 25
    alone = done_well("run", "patient", "--inline", "--for", "3s", "--source", f"telemetry=wfdb:{record}").stdout
    assert NO_DEVICE in alone and "composed" not in alone


@pytest.mark.data
@pytest.mark.parametrize(
    ("form", "source", "streams"),
    [
        ("gopro", "gopro_gpmf/karma.mp4", {"camera", "microphone", "telemetry"}),
        ("comma2k19", "comma2k19_segment", {"telemetry"}),
        ("donkeycar", "donkeycar_tub", {"camera"}),
        ("wfdb", "../medical/wfdb_waveforms/a103l", {"telemetry", "text"}),
    ],
)
def test_an_import_replays_and_says_that_it_is_real(form: str, source: str, streams: set[str], tmp_path: Path) -> None:
    if not (SHARED / source).exists():
        pytest.skip(f"needs ../shared/data/driving/{source}")
    one, two = tmp_path / "one.mcap", tmp_path / "two.mcap"
    imported = done_well("import", form, SHARED / source, one)
    assert NOT_VALIDATED in imported.stdout
    done_well("import", form, SHARED / source, two)
    assert one.read_bytes() == two.read_bytes()
    found = info(one)
    assert {s["info"]["stream"] for s in found["streams"]} == streams
    assert not found["simulated"]
    assert NOT_VALIDATED in found["metadata"]["notices"]
    replayed = done_well("replay", one, "--inline").stdout
    assert NOT_VALIDATED in replayed
    assert int(closing_line(replayed)[1]) > 300


def test_doctor_tells_what_there_is_and_its_exit_code_says_whether_that_is_enough() -> None:
    done = chiasm("doctor", "--json", "--no-ray")
    found = json.loads(done.stdout)
    checks = {check["name"]: check for check in found["checks"]}
    assert {"Python", "packages", "engines", "inference", "/dev/shm", "iceoryx2"} <= set(checks)
    assert checks["engines"]["fine"], checks["engines"]
    assert checks["iceoryx2"]["fine"], checks["iceoryx2"]
    assert all(check["fine"] or check["fix"] for check in found["checks"])
    assert done.returncode == (0 if found["ready"] else 1)


def test_help_names_every_verb() -> None:
    shown = done_well("--help").stdout
    for verb in ("run", "replay", "record", "simulate", "train", "import", "info", "compare", "doctor"):
        assert re.search(rf"\b{verb}\b", shown), verb
