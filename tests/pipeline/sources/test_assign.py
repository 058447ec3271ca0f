"""Parsing of ``--source`` values."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.sources.assign import NOT_VALIDATED, assign_sources, open_source, parse_duration_ns
from pipeline.sources.base import Channel, SourceError, SourceSpec, StreamNeeds

SPEED = Channel(name="speed_mps", unit="m/s", required=True)
NEEDS = {
    "camera": StreamNeeds(stream="camera", kind="camera"),
    "microphone": StreamNeeds(stream="microphone", kind="microphone"),
    "telemetry": StreamNeeds(stream="telemetry", kind="telemetry", channels=(SPEED,)),
    "text": StreamNeeds(stream="text", kind="text"),
}
DEFAULTS = {name: SourceSpec(needs=need, scheme="log", target="demo.mcap") for name, need in NEEDS.items()}


def assigned(*values: str):
    return assign_sources(NEEDS, values, DEFAULTS)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("drive.mp4", "drive.csv", "lines.txt", "sound.wav", "run.mcap", "one.jpg", "a=b?.mp4", "what?x=1.mp4"):
        (tmp_path / name).write_text("time_s,speed_mps\n0,1\n0.05,2\n" if name == "drive.csv" else "0 hello\n")
    (tmp_path / "frames").mkdir()
    return tmp_path


def test_no_assignment_gives_the_defaults_without_a_notice():
    result = assigned()
    assert result.specs == DEFAULTS
    assert result.notices == ()


def test_only_none_leaves_that_stream_out_of_the_defaults():
    assert set(assigned("microphone=none").specs) == {"camera", "telemetry", "text"}


def test_every_stream_none_is_refused():
    with pytest.raises(SourceError, match="every stream is left out"):
        assigned(*(f"{name}=none" for name in NEEDS))


def test_one_assignment_leaves_the_other_streams_out(folder):
    result = assigned(f"camera={folder}/drive.mp4", "text=none")
    assert set(result.specs) == {"camera"}
    assert result.notices == (f"camera: {NOT_VALIDATED}",)


@pytest.mark.parametrize(
    ("stream", "name", "scheme"),
    [
        ("camera", "drive.mp4", "video"),
        ("camera", "frames", "images"),
        ("camera", "a=b?.mp4", "video"),
        ("camera", "what?x=1.mp4", "video"),
        ("microphone", "sound.wav", "audio"),
        ("microphone", "drive.mp4", "audio"),
        ("telemetry", "drive.csv", "csv"),
        ("telemetry", "drive.mp4", "gopro-telemetry"),
        ("telemetry", "frames", "comma2k19-telemetry"),
        ("text", "lines.txt", "text"),
        ("text", "run.mcap", "log"),
    ],
)
def test_a_path_gets_the_scheme_of_its_kind_and_name(folder, stream, name, scheme):
    spec = assigned(f"{stream}={folder}/{name}").specs[stream]
    assert (spec.scheme, spec.target, spec.needs) == (scheme, f"{folder}/{name}", NEEDS[stream])


@pytest.mark.parametrize(
    ("value", "scheme", "target"),
    [
        ("camera=device:0", "camera-device", "0"),
        ("camera=device:/dev/video0?latency=30ms", "camera-device", "/dev/video0"),
        ("microphone=device:USB Mic: Audio", "microphone-device", "USB Mic: Audio"),
        ("telemetry=udp:5005", "udp-telemetry", "127.0.0.1:5005"),
        ("telemetry=udp:0.0.0.0:5005", "udp-telemetry", "0.0.0.0:5005"),
        ("text=udp:[::1]:5005", "udp-text", "[::1]:5005"),
    ],
)
def test_a_live_uri_gets_its_scheme_and_target(value, scheme, target):
    (spec,) = assigned(value).specs.values()
    assert (spec.scheme, spec.target) == (scheme, target)


def test_options_reach_the_spec(folder):
    spec = assigned(f"camera={folder}/frames?offset=-120ms&fps=12.5").specs["camera"]
    assert spec.offset_ns == -120_000_000
    assert spec.options == {"fps": "12.5"}
    assert assigned("camera=device:0?latency=30ms").specs["camera"].options == {"latency_ns": "30000000"}


def test_loop_gives_the_recording_a_period_past_its_last_sample(folder):
    assert assigned(f"telemetry={folder}/drive.csv?loop=true").specs["telemetry"].loop_period_ns == 100_000_000
    assert assigned(f"telemetry={folder}/drive.csv?loop=false").specs["telemetry"].loop_period_ns == 0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["camra=x"], r"no stream 'camra'.*did you mean camera\?.*Streams: camera, microphone"),
        (["gopr=x"], r"did you mean gopro\?"),
        (["camera"], "write STREAM=URI"),
        (["camera="], "write STREAM=URI"),
        (["=x"], "write STREAM=URI"),
        (["camera=/no/such.mp4"], "no file or folder '/no/such.mp4'.*check the path"),
        (["camera=~nobody/such.mp4"], "no file or folder"),
        (["log=x"], "no stream 'log'"),
        (["camera=log:/no/such.mcap"], "no file or folder"),
        (["camera=device:"], "needs a number or name"),
        (["camera=device:0", "camera=device:1"], "camera is given twice"),
        (["camera=udp:5005"], "cannot come over udp"),
        (["telemetry=device:0"], "no devices"),
        (["telemetry=udp:70000"], "port of 1 to 65535"),
        (["telemetry=udp:x"], "port of 1 to 65535"),
        (["camera=device:0?loop=true"], "no option 'loop'; it takes offset, latency"),
        (["camera=device:0?offset=1ms&offset=2ms"], "option offset is given twice"),
        (["camera=device:0?offset=12"], "'12' is not a time"),
        (["camera=device:0?offset=90000s"], "more than a day"),
        (["gopro=/no/such.mp4"], "--source gopro: no file"),
    ],
)
def test_a_wrong_value_is_refused_in_one_line_with_the_fix(values, message):
    with pytest.raises(SourceError, match=message) as caught:
        assigned(*values)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("camera={0}/one.jpg", "one image is no stream"),
        ("microphone={0}/frames", "give a sound or video file"),
        ("text={0}/frames", "SECONDS TEXT"),
        ("telemetry={0}/sound.wav", "a .csv file"),
        ("camera={0}/drive.mp4?fps=20", "no option 'fps'"),
        ("camera={0}/frames?fps=0", "not a number of frames"),
        ("camera={0}/frames?loop=maybe", "neither true nor false"),
        ("donkeycar={0}/frames", "no donkeycar tub"),
        ("comma2k19={0}/frames", "no comma2k19 segment"),
    ],
)
def test_a_path_that_does_not_fit_is_refused(folder, value, message):
    with pytest.raises(SourceError, match=message):
        assigned(value.format(folder))


def test_offset_moves_every_capture_time_and_arrival(folder):
    spec = assigned(f"telemetry={folder}/drive.csv?offset=1.5s").specs["telemetry"]
    with open_source(spec) as source:
        assert [(p.capture_ns, p.arrival_ns) for p in source.packets()] == [(1_500_000_000,) * 2, (1_550_000_000,) * 2]


def test_an_unknown_scheme_is_refused_with_the_known_ones():
    with pytest.raises(SourceError, match="no source is called 'teletype'; there are video"):
        open_source(SourceSpec(needs=NEEDS["text"], scheme="teletype", target=""))


@given(st.integers(-86_400_000, 86_400_000), st.sampled_from(["ms", "us", "ns"]))
def test_a_duration_in_any_unit_is_read_exactly(number, unit):
    assert parse_duration_ns(f"{number}{unit}", "x") == number * {"ms": 10**6, "us": 10**3, "ns": 1}[unit]


@given(
    st.lists(
        st.one_of(
            st.text(max_size=40),
            st.tuples(st.sampled_from([*NEEDS, "gopro", "comma2k19", "donkeycar"]), st.text(max_size=40)).map("=".join),
            st.tuples(st.sampled_from(["camera=device:", "telemetry=udp:", "text=log:"]), st.text(max_size=20)).map("".join),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_any_text_gives_specs_or_one_line(values):
    try:
        result = assigned(*values)
    except SourceError as error:
        assert "\n" not in str(error)
    else:
        assert set(result.specs) <= set(NEEDS)
