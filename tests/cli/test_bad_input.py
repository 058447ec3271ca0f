"""Bad input as a user meets it: one line that names file, field or stream and the fix, exit code 2, nothing left behind."""

import os
import shutil
import struct
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
DRIVING = ROOT / "pipeline" / "scenarios" / "driving"
WEIGHTS = ROOT / "engines" / "weights" / "driving"
DEMO = DRIVING / "demo.mcap"
CHIASM = [sys.executable, "-m", "pipeline.cli.main"]


def chiasm(*arguments: object, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    command = [*before, *CHIASM, *(str(a) for a in arguments)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT, env=env, check=False)


def refused(*arguments: object, says: tuple[str, ...], before: tuple[str, ...] = ()) -> str:
    """Run it, hold it to the rules for refusals, and return its line."""
    done = chiasm(*arguments, before=before)
    assert done.returncode == 2, (done.returncode, done.stdout[-500:], done.stderr[-1500:])
    assert "Traceback" not in done.stdout + done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("chiasm: ")
    assert done.stdout == ""
    for text in says:
        assert text in lines[0], lines[0]
    return lines[0]


def run_inline(*arguments: object) -> tuple[object, ...]:
    return ("run", "driving", "--inline", "--for", "1s", *arguments)


def write_video(path: Path, *, frames: int = 50, telemetry: list[bytes] | None = None) -> Path:
    """H.264 without sound; with a GPMF track if ``telemetry`` is given, one payload a second."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25, options={"bf": "0"})
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        track = None
        if telemetry is not None:
            track = container.add_data_stream("bin_data")
            track.time_base, track.metadata["handler_name"] = Fraction(1, 1000), "\tGoPro MET"
        noise = np.random.default_rng(1).integers(0, 255, (48, 64, 3), dtype=np.uint8)
        for index in range(frames):
            frame = av.VideoFrame.from_ndarray(np.roll(noise, index, axis=1))
            frame.pts = index
            container.mux(video.encode(frame))
        container.mux(video.encode())
        for index, payload in enumerate(telemetry or ()):
            packet = av.Packet(payload)
            packet.stream, packet.time_base, packet.duration = track, Fraction(1, 1000), 1000
            packet.pts = packet.dts = index * 1000
            container.mux(packet)
    return path


def write_csv(path: Path, *rows: str, header: str = "time_s,speed_mps") -> Path:
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def own_scenario(tmp_path: Path) -> Path:
    """The driving scenario as a user's own folder, with its own engines."""
    folder = tmp_path / "mine"
    folder.mkdir()
    shutil.copy(DRIVING / "scenario.yaml", folder)
    shutil.copytree(WEIGHTS, folder / "engines")
    return folder


def test_a_source_file_that_is_missing_is_named() -> None:
    refused(*run_inline("--source", "camera=/nowhere/drive.mp4"), says=("camera", "/nowhere/drive.mp4", "check the path"))


def test_a_log_that_is_missing_is_named() -> None:
    for verb in (("replay", "/nowhere/a.mcap", "--inline"), ("info", "/nowhere/a.mcap"), ("compare", "/nowhere/a.mcap", DEMO)):
        refused(*verb, says=("/nowhere/a.mcap", "check the path"))


def test_an_mp4_cut_before_its_index_is_named(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "drive.mp4").read_bytes()
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole[: len(whole) // 2])
    refused(*run_inline("--source", f"camera={cut}"), says=("camera", "cut.mp4", "cut short", "again"))


def test_an_mp4_with_its_index_first_and_cut_in_its_pictures_is_named(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    whole, fast = write_video(tmp_path / "drive.mp4"), tmp_path / "fast.mp4"
    with av.open(str(whole)) as source, av.open(str(fast), "w", options={"movflags": "faststart"}) as target:
        video = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.size:
                packet.stream = video
                target.mux(packet)
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(fast.read_bytes()[: fast.stat().st_size * 2 // 3])
    refused(*run_inline("--source", f"camera={cut}"), says=("camera", "cut.mp4", "cut short", "again"))


def test_a_video_without_sound_asked_for_a_microphone_names_the_way_out(tmp_path: Path) -> None:
    video = write_video(tmp_path / "silent.mp4")
    refused(*run_inline("--source", f"microphone={video}"), says=("microphone", "silent.mp4", "no sound", "microphone=none"))
    refused(*run_inline("--source", f"gopro={video}"), says=("microphone", "silent.mp4", "no sound", "microphone=none"))


def test_a_gpmf_track_with_a_bad_length_names_where_it_lies(tmp_path: Path) -> None:
    payload = b"DEVC\0" + struct.pack(">BH", 1, 60_000) + b"STRM\0\x01\0\x04" + bytes(4)
    video = write_video(tmp_path / "gopro.mp4", telemetry=[payload, payload])
    refused(*run_inline("--source", f"telemetry={video}"), says=("telemetry", "gopro.mp4"))


def test_telemetry_with_nan_names_row_and_column(tmp_path: Path) -> None:
    table = write_csv(tmp_path / "can.csv", "0.0,1.0", "0.1,nan")
    refused(*run_inline("--source", f"telemetry={table}"), says=("can.csv", "row 3", "speed_mps", "leave the cell empty"))


def test_telemetry_without_a_required_channel_names_it(tmp_path: Path) -> None:
    table = write_csv(tmp_path / "can.csv", "0.0,1.0", "0.1,1.0", header="time_s,brake")
    refused(*run_inline("--source", f"telemetry={table}"), says=("can.csv", "speed_mps", "requires", "add it"))


def test_telemetry_whose_time_runs_backwards_names_the_row(tmp_path: Path) -> None:
    table = write_csv(tmp_path / "can.csv", "0.0,1.0", "0.2,1.0", "0.1,1.0")
    refused(*run_inline("--source", f"telemetry={table}"), says=("can.csv", "row 4", "runs backwards", "sort"))


def test_text_whose_time_runs_backwards_names_the_line(tmp_path: Path) -> None:
    lines = tmp_path / "radio.txt"
    lines.write_text("2.0 ambulance ahead\n1.0 never mind\n", encoding="utf-8")
    refused(*run_inline("--source", f"text={lines}"), says=("radio.txt", "2"))


def test_an_unknown_key_in_a_scenario_is_named_with_the_one_meant(own_scenario: Path) -> None:
    path = own_scenario / "scenario.yaml"
    path.write_text(path.read_text(encoding="utf-8").replace("deadline_ms:", "dedline_ms:"), encoding="utf-8")
    refused("run", own_scenario, "--inline", "--source", f"camera={DEMO}", says=("scenario.yaml", "dedline_ms", "deadline_ms"))


def test_a_scenario_that_is_not_there_names_those_that_are() -> None:
    refused("run", "drivng", "--inline", says=("drivng", "driving"))


def test_an_engine_whose_hash_does_not_match_is_named(own_scenario: Path) -> None:
    model = own_scenario / "engines" / "camera.onnx"
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 1
    model.write_bytes(content)
    refused("run", own_scenario, "--inline", "--source", f"camera={DEMO}", says=("camera.onnx", "restore"))


def test_an_engine_that_is_missing_is_named(own_scenario: Path) -> None:
    (own_scenario / "engines" / "fusion.json").unlink()
    refused("run", own_scenario, "--inline", "--source", f"camera={DEMO}", says=("engines", "fusion", "restore"))


def test_a_source_for_a_stream_that_the_scenario_lacks_names_those_it_has() -> None:
    refused(*run_inline("--source", "lidar=/tmp"), says=("lidar", "camera, microphone, telemetry, text"))


def test_a_wait_that_leaves_no_time_to_decide_is_refused() -> None:
    line = refused(*run_inline("--set", "streams.microphone.wait_ms=60"), says=("streams.microphone.wait_ms 60", "lower it"))
    assert "deadline_ms - reserve_ms = 42" in line


def test_an_unknown_setting_on_the_command_line_is_named() -> None:
    refused(*run_inline("--set", "runtime.lnk=ray"), says=("runtime.lnk", "link"))


def test_a_shared_memory_that_is_too_small_is_said_before_anything_starts(tmp_path: Path) -> None:
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount: unshare -m")
    small = ("unshare", "-m", "sh", "-c", 'mount -t tmpfs -o size=8m tmpfs /dev/shm && exec "$@"', "sh")
    log = tmp_path / "new.mcap"
    says = ("/dev/shm is too small", "--inline", "--shm-size")
    refused("run", "driving", "--for", "1s", "--record", log, says=says, before=small)
    assert not log.exists()


def test_recording_onto_a_file_that_exists_leaves_it_alone(tmp_path: Path) -> None:
    log = tmp_path / "kept.mcap"
    log.write_bytes(b"precious")
    refused(*run_inline("--record", log), says=("kept.mcap", "exists"))
    refused("record", "driving", log, says=("kept.mcap", "exists"))
    refused("simulate", "driving", log, says=("kept.mcap", "exists"))
    assert log.read_bytes() == b"precious"


def test_recording_into_a_folder_that_is_missing_is_refused(tmp_path: Path) -> None:
    refused(*run_inline("--record", tmp_path / "no" / "log.mcap"), says=("no", "does not exist"))


@pytest.mark.parametrize(
    ("sink", "fix"),
    [
        ("kafka:here", "udp:HOST:PORT or mqtt:HOST:PORT/TOPIC"),
        ("udp:127.0.0.1:0", "udp:HOST:PORT"),
        ("udp:", "udp:HOST:PORT"),
        ("mqtt:here", "mqtt:HOST:PORT/TOPIC"),
    ],
)
def test_a_sink_that_cannot_be_is_refused(sink: str, fix: str, tmp_path: Path) -> None:
    refused(*run_inline("--sink", sink, "--record", tmp_path / "new.mcap"), says=("--sink", sink, fix))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("speed", ["fast", "-1", "nan"])
def test_a_speed_that_is_none_is_refused(speed: str) -> None:
    refused("replay", DEMO, "--inline", f"--speed={speed}", says=("--speed", speed, "max"))


@pytest.mark.parametrize("duration", ["soon", "0s"])
def test_a_duration_that_is_none_is_refused(duration: str) -> None:
    refused("run", "driving", "--inline", f"--for={duration}", says=("--for", duration, "30s"))


def test_a_file_that_is_no_log_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "drive.mcap"
    other.write_bytes(b"this is not a log at all" * 100)
    for verb in (("replay", other, "--inline"), ("info", other), run_inline("--source", f"camera={other}")):
        refused(*verb, says=("drive.mcap", "not an MCAP file"))


def test_an_import_of_a_broken_recording_leaves_nothing(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "drive.mp4").read_bytes()
    cut, out = tmp_path / "cut.mp4", tmp_path / "out"
    cut.write_bytes(whole[: len(whole) // 2])
    out.mkdir()
    refused("import", "gopro", cut, out / "log.mcap", says=("cut.mp4", "cut short"))
    refused("import", "gopro", f"{tmp_path / 'drive.mp4'}?loop=true", out / "log.mcap", says=("loop=true", "no end"))
    assert list(out.iterdir()) == []


def test_two_logs_without_decisions_cannot_be_compared() -> None:
    refused("compare", DEMO, DEMO, says=("demo.mcap", "no decisions"))


def test_an_option_that_does_not_exist_is_one_line_too() -> None:
    refused("run", "driving", "--colour", "red", says=("--colour", "--help"))


def test_a_log_cut_inside_a_chunk_replays_up_to_the_cut_and_says_where(tmp_path: Path) -> None:
    cut = tmp_path / "cut.mcap"
    cut.write_bytes(DEMO.read_bytes()[:1_500_000])
    done = chiasm("replay", cut, "--inline")
    assert done.returncode == 0, done.stderr
    note = next(line for line in done.stdout.splitlines() if "closing record" in line)
    assert "byte" in note
    assert "s after the start" in note
    assert done.stdout.splitlines()[-1].startswith("decisions=")
    described = chiasm("info", cut)
    assert described.returncode == 0
    assert "closing record" in described.stdout
