"""WFDB records as streams: telemetry, the monitor's text, the label that no stream carries, and the log that keeps it."""

import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.config import Scenario
from pipeline.formats.wfdb_header import read_header
from pipeline.logs.importing import import_specs
from pipeline.logs.reader import LogReader
from pipeline.sources.assign import NOT_VALIDATED, assign_sources, open_source
from pipeline.sources.base import Channel, SourceError, StreamNeeds
from pipeline.sources.opening import duration_of
from pipeline.sources.wfdb import alarm_of

pytest.importorskip("wfdb", reason="wfdb is not installed: pip install 'chiasm[medical]'")

CHANNELS = (Channel(name="ecg_mv", unit="mV"), Channel(name="pleth", unit="1"), Channel(name="resp", unit="1"))
NEEDS = {
    "camera": StreamNeeds(stream="camera", kind="camera"),
    "microphone": StreamNeeds(stream="microphone", kind="microphone"),
    "telemetry": StreamNeeds(stream="telemetry", kind="telemetry", channels=CHANNELS),
    "text": StreamNeeds(stream="text", kind="text"),
}


def assigned(*values: object):
    return assign_sources(NEEDS, [str(value) for value in values], {})


def write_record(folder: Path, *comments: str, seconds: float = 330, rate_hz: int = 10, name: str = "r") -> Path:
    """A record of II and PLETH, both ramps that count frames, in the challenge's form: format 16 with a header of 24 bytes."""
    frames = round(seconds * rate_hz)
    ramp = np.arange(frames, dtype="<i2")
    (folder / f"{name}.mat").write_bytes(bytes(24) + np.stack([ramp, -ramp], axis=1).tobytes())
    lines = [
        f"{name} 2 {rate_hz} {frames}",
        f"{name}.mat 16+24 1000/mV 16 0 0 0 0 II",
        f"{name}.mat 16+24 1000/NU 16 0 0 0 0 PLETH",
    ]
    (folder / f"{name}.hea").write_text("\n".join([*lines, *(f"#{text}" for text in comments)]) + "\n")
    return folder / f"{name}.hea"


def lines_of(spec) -> list[tuple[float, str]]:
    with open_source(spec) as source:
        return [(packet.capture_ns / 1e9, packet.chunks[0].decode()) for packet in source.packets()]


@pytest.mark.parametrize("form", ["wfdb={}", "telemetry=wfdb:{}", "telemetry={}.hea"])
def test_a_record_plays_as_telemetry_on_its_own_rows(tmp_path, form):
    record = write_record(tmp_path, seconds=2, rate_hz=100).with_suffix("")
    spec = assigned(form.format(record)).specs["telemetry"]
    assert (spec.scheme, spec.target) == ("wfdb-telemetry", f"{record}.hea")
    with open_source(spec) as source:
        assert source.info.encoding.channels == ("ecg_mv", "pleth", "resp")
        assert source.info.calibration == {"ecg_mv": "II in mV", "pleth": "PLETH in NU"}
        assert (source.info.period_ns, source.info.simulated, source.info.labels) == (50_000_000, False, {})
        packets = list(source.packets())
    assert [packet.capture_ns for packet in packets[:2]] == [40_000_000, 90_000_000]
    block = json.loads(packets[0].chunks[0])
    assert block["offsets_ns"] == [40_000_000, 30_000_000, 20_000_000, 10_000_000, 0]
    assert block["values"][:2] == [[0.0, 0.0, None], [0.001, -0.001, None]]
    assert sum(len(json.loads(packet.chunks[0])["values"]) for packet in packets) == 200


@pytest.mark.parametrize(
    ("comment", "said"),
    [
        ("Asystole", "asystole"),
        ("Bradycardia", "bradycardia"),
        ("Tachycardia", "tachycardia"),
        ("Ventricular_Flutter_Fib", "ventricular flutter"),
        ("Ventricular_Tachycardia", "ventricular tachycardia"),
    ],
)
def test_the_alarm_is_said_at_five_minutes_and_every_three_seconds_to_the_end(tmp_path, comment, said):
    specs = assigned(f"wfdb={write_record(tmp_path, comment, 'False alarm')}").specs
    assert lines_of(specs["text"]) == [(300.0 + 3 * k, f"monitor: ALARM {said}") for k in range(10)]


def test_a_record_that_ends_with_its_alarm_says_it_with_the_last_sample(tmp_path):
    specs = assigned(f"wfdb={write_record(tmp_path, 'Asystole', 'True alarm', seconds=300)}").specs
    assert lines_of(specs["text"]) == [(299.9, "monitor: ALARM asystole")]


@pytest.mark.parametrize(
    ("comments", "seconds"), [((), 330), (("69 M 1085 1629 x1",), 330), (("Asystole",), 120), (("no asystole",), 330)]
)
def test_a_record_without_an_alarm_gives_no_text(tmp_path, comments, seconds):
    path = write_record(tmp_path, *comments, seconds=seconds)
    assert set(assigned(f"wfdb={path}").specs) == {"telemetry"}
    with (
        pytest.raises(SourceError, match="name no alarm that sounds at 5:00"),
        open_source(assigned(f"text={path}").specs["text"]),
    ):
        pass


@pytest.mark.parametrize(("comment", "is_true"), [("True alarm", "true"), ("False alarm", "false"), ("another", "")])
def test_whether_the_alarm_was_true_is_a_label_of_the_stream_and_in_none_of_its_bytes(tmp_path, comment, is_true):
    path = write_record(tmp_path, "Bradycardia", comment)
    alarm = alarm_of(read_header(path))
    assert alarm is not None and alarm.is_true == is_true
    result = assigned(f"wfdb={path}")
    for spec in result.specs.values():
        with open_source(spec) as source:
            content = b"".join(chunk for packet in source.packets() for chunk in packet.chunks)
            assert source.info.labels.get("alarm_is_true", "") == is_true
            assert source.info.labels["alarm"] == "bradycardia"
        assert not any(word in content.lower() for word in (b"true", b"false"))
    assert (f"that it was {is_true}" in "\n".join(result.notices)) == bool(is_true)


def test_labels_and_notices_reach_the_log_and_two_imports_are_equal(tmp_path):
    channels = [{"name": channel.name, "unit": channel.unit} for channel in CHANNELS]
    streams = {
        "telemetry": {"kind": "telemetry", "max_age_ms": 1000, "wait_ms": 30, "channels": channels},
        "text": {"kind": "text", "sparse": True, "max_age_ms": 30000, "wait_ms": 0},
    }
    scenario = Scenario.model_validate(
        {
            "name": "bedside", "reference": {"rate_hz": 5}, "deadline_ms": 200, "reserve_ms": 20, "streams": streams,
            "heads": {"action": {"labels": ["none", "check"]}}, "policy": {"action_head": "action", "blind_action": "check"},
        }
    )  # fmt: skip
    record = write_record(tmp_path, "Ventricular_Tachycardia", "True alarm")
    result = assign_sources(scenario.needs(recording=True), [f"wfdb={record}"], {})
    for name in ("one.mcap", "two.mcap"):
        import_specs(tmp_path / name, scenario, result.specs, notices=result.notices)
    assert (tmp_path / "one.mcap").read_bytes() == (tmp_path / "two.mcap").read_bytes()
    log = LogReader(tmp_path / "one.mcap")
    labels = {"alarm": "ventricular tachycardia", "alarm_ns": "300000000000", "alarm_is_true": "true"}
    assert {name: info.labels for name, info in log.streams.items()} == {"telemetry": labels, "text": labels}
    assert log.streams["telemetry"].calibration == {"ecg_mv": "II in mV", "pleth": "PLETH in NU"}
    assert NOT_VALIDATED in log.metadata["notices"]
    with open_source(assign_sources(scenario.needs(), [f"text={tmp_path}/one.mcap"], {}).specs["text"]) as source:
        assert source.info.labels == labels  # so that a recording of its replay keeps them


def test_other_recordings_beside_a_record_are_said_to_be_composed(tmp_path):
    path = write_record(tmp_path, "Asystole", name="a103l")
    (tmp_path / "clip.avi").write_bytes(b"0")
    (tmp_path / "cough.ogg").write_bytes(b"0")
    both = assigned(f"wfdb={path.with_suffix('')}", f"camera={tmp_path}/clip.avi", f"microphone={tmp_path}/cough.ogg")
    (said,) = [notice for notice in both.notices if notice.startswith("composed: ")]
    assert said.startswith("composed: camera from clip.avi, microphone from cough.ogg, telemetry and text from a103l: separate")
    assert both.notices[-1] == f"camera, microphone, telemetry, text: {NOT_VALIDATED}"
    assert all("\n" not in notice for notice in both.notices)


def test_one_record_alone_is_not_composed_however_it_is_given(tmp_path):
    record = write_record(tmp_path, "Asystole").with_suffix("")
    for values in ((f"wfdb={record}",), (f"telemetry=wfdb:{record}", f"text={record}.hea")):
        assert not any("composed" in notice for notice in assigned(*values).notices)


def test_offset_and_loop_keep_the_streams_of_a_record_together(tmp_path):
    path = write_record(tmp_path, "Asystole")
    specs = assigned(f"wfdb={path}?offset=1s&loop=true").specs
    assert {spec.offset_ns for spec in specs.values()} == {1_000_000_000}
    assert {spec.loop_period_ns for spec in specs.values()} == {duration_of(specs["telemetry"])} - {0}
    with open_source(specs["text"]) as source:
        first = next(packet.capture_ns for packet in source.packets() if packet is not None)
    assert first == 301_000_000_000


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("wfdb={0}/none", "--source wfdb: no WFDB record"),
        ("telemetry=wfdb:{0}/none", "--source telemetry: no WFDB record"),
        ("camera=wfdb:{0}/r", "a WFDB record cannot feed a camera stream; use telemetry or text"),
        ("wfdb={0}/r?fps=3", "no option 'fps'; it takes offset, loop"),
        ("wfdb={0}/x", "is no WFDB header"),
    ],
)
def test_a_record_that_cannot_serve_is_refused_in_one_line(tmp_path, value, message):
    write_record(tmp_path, seconds=2)
    (tmp_path / "x.hea").write_text("[/bold]\n")
    with pytest.raises(SourceError, match=message) as caught:
        assigned(value.format(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.data
def test_the_real_false_asystole_alarm_plays_as_telemetry_and_text_beside_a_clip_and_a_cough(recordings):
    medical = recordings / "medical"
    clip = next((medical / "rppg_patches").rglob("*.avi"), None)
    cough = next((medical / "cough_covid19" / "raw").glob("*.*"), None)
    if clip is None or cough is None:
        pytest.skip("no clip or cough among the real recordings")
    result = assigned(f"wfdb={medical}/wfdb_waveforms/a103l", f"camera={clip}", f"microphone={cough}")
    assert set(result.specs) == set(NEEDS)
    assert any(notice.startswith("composed: camera from") for notice in result.notices)
    assert lines_of(result.specs["text"])[:2] == [(300.0, "monitor: ALARM asystole"), (303.0, "monitor: ALARM asystole")]
    for spec in result.specs.values():
        with open_source(spec) as source:
            assert next(iter(source.packets())) is not None
            assert source.info.labels.get("alarm_is_true", "false") == "false"
