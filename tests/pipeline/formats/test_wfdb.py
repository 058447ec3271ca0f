"""WFDB records: small ones written here, hostile headers, and the real ones where they are."""

import builtins
import os
import socket
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.formats.wfdb import MAX_ROWS, read_record
from pipeline.formats.wfdb_header import MAX_HEADER_BYTES, header_path, read_header
from pipeline.sources.base import Channel, SourceError

wfdb = pytest.importorskip("wfdb", reason="wfdb is not installed: pip install 'chiasm[medical]'")

CHANNELS = tuple(
    Channel(name=name, unit=unit)
    for name, unit in (("ecg_mv", "mV"), ("pleth", "1"), ("resp", "1"), ("spo2_percent", "%"), ("heart_rate_bpm", "1/min"))
)
ECG, PLETH, RESP, SPO2, HEART_RATE = range(5)


def write_record(
    folder: Path, name: str, signals: dict[str, tuple[str, list[float]]], *, rate_hz: float = 250, fmt: str = "16",
    comments: list[str] | None = None,
) -> Path:  # fmt: skip
    """A record of these signals (name to unit and samples) at a gain of 100."""
    physical = np.array([samples for _, samples in signals.values()], dtype=np.float64).T
    wfdb.wrsamp(
        name, fs=rate_hz, units=[unit for unit, _ in signals.values()], sig_name=list(signals), p_signal=physical,
        fmt=[fmt] * len(signals), adc_gain=[100.0] * len(signals), baseline=[0] * len(signals), comments=comments,
        write_dir=str(folder),
    )  # fmt: skip
    return folder / f"{name}.hea"


def write_header(folder: Path, text: str | bytes, name: str = "r", samples: bytes = bytes(400)) -> Path:
    """A header as given, beside a file of samples."""
    (folder / f"{name}.dat").write_bytes(samples)
    path = folder / f"{name}.hea"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_signals_become_channels_in_our_units_whatever_their_case_and_order(tmp_path):
    ramp = [0.0, 0.5, 1.0, -0.5]
    path = write_record(
        tmp_path, "r", {"Pleth": ("NU", ramp), "ECG_lead_ii": ("uV", [v * 100 for v in ramp]), "HR": ("bpm", [60, 61, 62, 63]),
                        "%SpO2": ("%", [97, 97, 96, 96]), "ABP": ("mmHg", ramp)},
    )  # fmt: skip
    record = read_record(path, CHANNELS)
    assert record.rows.times_ns.tolist() == [0, 4_000_000, 8_000_000, 12_000_000]
    assert record.rows.values[:, ECG] == pytest.approx([0, 0.05, 0.1, -0.05])
    assert record.rows.values[:, PLETH] == pytest.approx(ramp)
    assert record.rows.values[:, [SPO2, HEART_RATE]].tolist() == [[97, 60], [97, 61], [96, 62], [96, 63]]
    assert record.rows.valid.all(axis=0).tolist() == [True, True, False, True, True]
    assert record.signals["ecg_mv"] == "ECG_lead_ii in uV"


@pytest.mark.parametrize(("unit", "factor"), [("V", 1e3), ("mV", 1.0), ("uV", 1e-3), ("nV", 1e-6)])
def test_a_lead_in_any_part_of_a_volt_is_millivolts(tmp_path, unit, factor):
    path = write_record(tmp_path, "r", {"II": (unit, [1.0, 2.0])})
    assert read_record(path, CHANNELS).rows.values[:, ECG] == pytest.approx([factor, 2 * factor])


@pytest.mark.parametrize(
    ("names", "chosen"), [(("V", "II"), "II"), (("I", "V"), "V"), (("MCL1", "III"), "III"), (("V5", "MLII"), "MLII")]
)
def test_the_better_lead_counts_wherever_it_stands(tmp_path, names, chosen):
    path = write_record(tmp_path, "r", {name: ("mV", [1.0 if name == chosen else 2.0] * 3) for name in names})
    record = read_record(path, CHANNELS)
    assert record.rows.values[:, ECG].tolist() == [1, 1, 1]
    assert record.signals == {"ecg_mv": f"{chosen} in mV"}


def test_a_lead_that_was_never_measured_gives_way_and_unmeasured_samples_are_no_rows(tmp_path):
    nan = float("nan")
    path = write_record(tmp_path, "r", {"II": ("mV", [nan] * 4), "V": ("mV", [0.25, nan, nan, 0.75])})
    record = read_record(path, CHANNELS)
    assert record.signals == {"ecg_mv": "V in mV"}
    assert record.rows.times_ns.tolist() == [0, 12_000_000]
    assert record.rows.values[:, ECG].tolist() == [0.25, 0.75]


def test_a_lead_in_a_foreign_unit_is_left_out_and_said(tmp_path):
    path = write_record(tmp_path, "r", {"II": ("NU", [1.0, 2.0]), "V": ("mV", [3.0, 4.0])})
    record = read_record(path, CHANNELS)
    assert record.rows.values[:, ECG].tolist() == [3, 4]
    assert record.left_out == ("II in NU",)


def test_a_record_with_none_of_the_channels_says_what_it_has(tmp_path):
    path = write_record(tmp_path, "r", {"ABP": ("mmHg", [1.0, 2.0]), "II": ("NU", [1.0, 2.0])})
    with pytest.raises(SourceError, match=r"gives none of the channels ecg_mv, .* \(it has ABP in mmHg, II in NU\)"):
        read_record(path, CHANNELS)


@pytest.mark.parametrize("rate", ["250", "360", "62.4725", "999.56", "0.5", "0.0166667", "1024"])
def test_every_time_is_the_exact_one_to_the_nearest_nanosecond(tmp_path, rate):
    path = write_record(tmp_path, "r", {"II": ("mV", [0.5] * 5000)}, rate_hz=250)
    frames = 5000 if float(rate) >= 0.1 else 1000
    path.write_text(path.read_text().replace(" 250 5000", f" {rate} {frames}", 1))
    exact = [Fraction(k * 1_000_000_000) / Fraction(rate) for k in range(frames)]
    times_ns = read_record(path, CHANNELS).rows.times_ns.tolist()
    assert all(2 * abs(found - wanted) <= 1 for found, wanted in zip(times_ns, exact, strict=True))


def test_signals_of_different_rates_keep_their_own_and_share_the_instants_they_have_in_common(tmp_path):
    # Frames of four samples of II, two of PLETH, one of RESP, at a rate at which no period is a whole number of ns.
    frames = np.arange(7 * 100, dtype="<i2").reshape(100, 7)
    path = write_header(
        tmp_path,
        "r 3 62.4725 100\n"
        "r.dat 16x4 100/mV 16 0 0 0 0 II\nr.dat 16x2 100/NU 16 0 0 0 0 PLETH\nr.dat 16 100/Ohm 16 0 0 0 0 RESP\n",
        samples=frames.tobytes(),
    )
    rows = read_record(path, CHANNELS).rows
    assert len(rows.times_ns) == 400
    assert rows.valid[:, ECG].all()
    assert np.flatnonzero(rows.valid[:, PLETH]).tolist() == list(range(0, 400, 2))
    assert np.flatnonzero(rows.valid[:, RESP]).tolist() == list(range(0, 400, 4))
    assert rows.values[:8, ECG] * 100 == pytest.approx([0, 1, 2, 3, 7, 8, 9, 10])
    assert rows.values[rows.valid[:, PLETH], PLETH][:4] * 100 == pytest.approx([4, 5, 11, 12])
    assert rows.values[rows.valid[:, RESP], RESP][:2] * 100 == pytest.approx([6, 13])


def test_segments_follow_one_another_and_a_gap_holds_no_rows(tmp_path):
    write_record(tmp_path, "one", {"II": ("mV", [1.0] * 10)})
    write_record(tmp_path, "two", {"ABP": ("mmHg", [9.0] * 10), "II": ("mV", [2.0] * 10)})
    (tmp_path / "all.hea").write_text("all/4 1 250 35\none 10\n~ 5\ntwo 10\none 10\n")
    rows = read_record(tmp_path / "all.hea", CHANNELS).rows
    assert (rows.times_ns // 4_000_000).tolist() == [*range(10), *range(15, 35)]
    assert rows.values[:, ECG].tolist() == [1.0] * 10 + [2.0] * 10 + [1.0] * 10


@pytest.mark.parametrize("fmt", ["80", "212", "16", "24", "32", "508", "516", "524"])
def test_every_format_that_the_package_writes_is_read_back(tmp_path, fmt):
    wave = [round(0.5 * np.sin(k / 5), 2) for k in range(501)]
    path = write_record(tmp_path, "r", {"II": ("mV", wave)}, fmt=fmt)
    assert read_record(path, CHANNELS).rows.values[:, ECG] == pytest.approx(wave, abs=1e-6)


def test_a_record_is_named_with_or_without_its_extension_or_by_its_folder(tmp_path, monkeypatch):
    (tmp_path / "rec.1").mkdir()
    path = write_header(tmp_path / "rec.1", "rec 1 250 4\nr.dat 16\n", name="rec.1")
    monkeypatch.chdir(tmp_path)
    for text in (str(path), str(path.with_suffix("")), str(tmp_path / "rec.1"), "rec.1", "rec.1/rec.1"):
        assert header_path(text) == path
    with pytest.raises(SourceError, match=r"no WFDB record 'rec\.2'.*with or without \.hea"):
        header_path("rec.2")


@pytest.mark.parametrize("folder", ["a [1] *?", "ünï çode", "s3:", "{x}"])
def test_a_folder_of_any_name_will_do(tmp_path, folder):
    (tmp_path / folder).mkdir()
    path = write_header(tmp_path / folder, "r 1 250 4\nr.dat 16 100/mV 16 0 0 0 0 II\n")
    assert len(read_record(path, CHANNELS).rows.times_ns) == 4


def test_without_the_package_one_line_names_the_extra(tmp_path, monkeypatch):
    path = write_header(tmp_path, "r 1 250 4\nr.dat 16\n")
    real = builtins.__import__

    def absent(name, *rest, **more):
        if name == "wfdb":
            raise ModuleNotFoundError("No module named 'wfdb'")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(SourceError, match=r"pip install 'chiasm\[medical\]'"):
        read_record(path, CHANNELS)


# Hostile and broken headers --------------------------------------------------------------------------------------------

GOOD = "r 1 250 100\nr.dat 16 100/mV 16 0 0 0 0 II\n"


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("", "is no WFDB header"),
        ("# only a comment\n", "is no WFDB header"),
        ("\0\1\2\n", "is no WFDB header"),
        ("r\n", r"is no WFDB header \(invalid syntax in record line\)"),
        ("r 1 250 100\n???\n", r"is no WFDB header \(invalid syntax in signal line\)"),
        ("r 1 250\nr.dat 16 100/mV 16 0 0 0 0 II\n", "does not say how many samples"),
        (GOOD.replace("100\n", "0\n", 1), "0 samples are not between 1 and"),
        (GOOD.replace("100\n", "9" * 600 + "\n", 1), "samples are not between 1 and"),
        (GOOD.replace("100\n", "101\n", 1).replace("16 100", "16x4 100"), r"r\.dat: has 400 bytes, r\.hea says at least 808"),
        (GOOD.replace("100\n", "30000000\n", 1), "more than a day"),
        (GOOD.replace(" 250", " 20000").replace("100\n", "33000000\n", 1), "33000000 rows or more, over 4000000"),
        (GOOD.replace("dat 16", "dat 16x80").replace("100\n", "3000000\n", 1), "240000000 samples in r.dat, more than"),
        (GOOD.replace("dat 16", "dat 516x80").replace("100\n", "3000000\n", 1), "240000000 samples in r.dat, more than"),
        (GOOD.replace(" 250", " 0"), "a rate of 0 Hz is not between"),
        (GOOD.replace(" 250", " 99999999"), "a rate of 99999999 Hz"),
        (GOOD.replace(" 250", " " + "9" * 500), "is no WFDB header|a rate of"),
        (GOOD.replace("r 1", "r 2"), r"announces 2 signals \(1 to 128\) and describes 1"),
        (GOOD.replace("r 1", "r 999999999"), "announces 999999999 signals"),
        ("r 0 250 100\n", r"announces 0 signals"),
        ("r 200 250 100\n" + "r.dat 16 100/mV 16 0 0 0 0 II\n" * 200, r"announces 200 signals \(1 to 128\)"),
        ("r 1 250 100\n" + "r.dat 16\n" * 3000, "3000 signals or segments, more than"),
        (GOOD.replace("dat 16", "dat 17"), r"signal 1 \(II\): format 17 is none of 8,"),
        (GOOD.replace("dat 16", "dat 16x999999999"), "999999999 samples a frame at 250 Hz"),
        (GOOD.replace("dat 16", "dat 16x0"), "0 samples a frame"),
        (GOOD.replace("dat 16", "dat 16:99999999999"), "skew 99999999999"),
        (GOOD.replace("dat 16", "dat 16:100"), "skew 100 "),
        (GOOD.replace("dat 16", "dat 16:99"), None),
        (GOOD.replace("dat 16", "dat 16+" + "9" * 30), "lies beyond the record"),
        (GOOD.replace("dat 16", "dat 16+399"), r"has 400 bytes, r\.hea says at least 599"),
        (GOOD.replace("100/mV", "1e-300/mV"), "gain 1e-300"),
        (GOOD.replace("100/mV", "1e999/mV"), "gain inf"),
        (GOOD.replace("100/mV", f"100({'9' * 40})/mV"), "is absurd"),
        (GOOD.replace("/mV", "/µV"), "line 2 is not ASCII; write a unit of µV as uV"),
        ("# µV in a comment is fine\n" + GOOD, None),
        (GOOD + "x" * 2000 + "\n", "line 3 has 2000 characters"),
        ("#" * (MAX_HEADER_BYTES + 10), "larger than"),
        (GOOD.replace("r.dat", "no.dat"), r"names a file of samples 'no\.dat', which is not in its folder"),
        (GOOD.replace("r.dat", "~"), r"samples were not kept"),
        (GOOD.replace("r.dat", "../r.dat"), "invalid syntax in signal line|no plain file name"),
        (GOOD.replace("r.dat", "/etc/passwd"), "invalid syntax in signal line|no plain file name"),
        (GOOD.replace("r.dat", "http://127.0.0.1/r.dat"), "invalid syntax in signal line|no plain file name"),
        ("r 2 250 50\nr.dat 16 1/mV 16 0 0 0 0 II\nr.dat 212 1/mV 12 0 0 0 0 V\n", "differ in format or offset"),
        ("r/1 1 250 100\nr 100\n", "is itself made of segments"),
        ("r/0 1 250 100\n", "is no WFDB header"),
        ("r/5 1 250 100\none 100\n", "announces 5 segments"),
        ("r/99999999 1 250 100\none 100\n", "announces 99999999 segments"),
        ("r/1 1 250 100\none 100\n", r"names a segment 'one\.hea', which is not in its folder"),
        ("r/1 1 250 100\n../one 100\n", "invalid syntax in segment line|no plain file name"),
        ("r/1 1 250 100\none 99\n", r"its segments hold 99 samples \(at most 33554432\), the first line says 100"),
        ("r/1 1 250 0\none 0\n", "its segments hold 0 samples"),
        ("r/2 1 250 100\n~ 50\n~ 50\n", r"gives none of the channels .*it has no signals"),
        ("r/2 1 250\n~ " + "9" * 400 + "\n~ 5\n", "its segments hold 1000000"),
    ],
)  # fmt: skip
def test_a_broken_or_hostile_header_is_refused_in_one_line_before_a_sample_is_read(tmp_path, monkeypatch, header, message):
    path = write_header(tmp_path, header)
    if message is None:
        assert len(read_record(path, CHANNELS).rows.times_ns) > 0
        return
    monkeypatch.setattr(wfdb, "rdrecord", lambda *a, **k: pytest.fail("samples were read"))
    began = time.monotonic()
    with pytest.raises(SourceError, match=message) as caught:
        read_record(path, CHANNELS)
    assert time.monotonic() - began < 5
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 700


def test_a_segment_that_differs_from_what_the_record_says_is_refused(tmp_path):
    write_record(tmp_path, "one", {"II": ("mV", [1.0] * 10)})
    for line, second in (("all/1 1 250 9", "one 9"), ("all/1 1 125 10", "one 10"), ("all/2 1 250 15", "one 10\none 5")):
        (tmp_path / "all.hea").write_text(f"{line}\n{second}\n")
        with pytest.raises(SourceError, match=r"one\.hea: 10 samples at 250 Hz, but all\.hea says|gives one two lengths"):
            read_record(tmp_path / "all.hea", CHANNELS)


def test_a_link_out_of_the_folder_is_refused_and_one_within_it_is_not(tmp_path):
    (tmp_path / "outside").write_bytes(bytes(400))
    (tmp_path / "record").mkdir()
    path = write_header(tmp_path / "record", GOOD.replace("r.dat", "l.dat"))
    link = tmp_path / "record" / "l.dat"
    link.symlink_to(tmp_path / "outside")
    with pytest.raises(SourceError, match=r"'l\.dat' is a link that leads out"):
        read_record(path, CHANNELS)
    link.unlink()
    link.symlink_to("r.dat")
    assert len(read_record(path, CHANNELS).rows.times_ns) == 100


def test_a_pipe_in_place_of_the_samples_does_not_hang(tmp_path):
    path = write_header(tmp_path, GOOD.replace("r.dat", "p.dat"))
    os.mkfifo(tmp_path / "p.dat")
    with pytest.raises(SourceError, match=r"'p\.dat', which is not in its folder"):
        read_record(path, CHANNELS)


def test_nothing_is_fetched_for_a_record_whose_files_are_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(socket.socket, "connect", lambda *a: pytest.fail("connected"))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: pytest.fail("looked up a host"))
    for name in ("http:", "s3:", "gs:"):
        with pytest.raises(SourceError, match="no WFDB record"):
            header_path(f"{name}//physionet.org/files/mitdb/100")
    for header in (GOOD.replace("r.dat", "100.dat"), "r/1 1 250 100\n100 100\n", "r/1 1 250 100\nmitdb 100\n"):
        with pytest.raises(SourceError, match="not in its folder"):
            read_record(write_header(tmp_path, header), CHANNELS)


@pytest.mark.parametrize("content", [b"", b"junk", b"fLaC", b"fLaC" + bytes(1000)])
def test_a_compressed_file_that_is_none_is_refused_in_one_line(tmp_path, content):
    path = write_header(tmp_path, GOOD.replace("dat 16", "dat 516"), samples=content)
    with pytest.raises(SourceError, match=r"r\.hea: its samples cannot be read") as caught:
        read_record(path, CHANNELS)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("cut", ["longer", "truncated"])
def test_a_compressed_file_that_holds_less_than_the_header_says_is_refused(tmp_path, cut):
    path = write_record(tmp_path, "r", {"II": ("mV", np.random.default_rng(1).normal(size=5000).round(2).tolist())}, fmt="516")
    (data,) = tmp_path.glob("r*.dat")
    if cut == "longer":
        path.write_text(path.read_text().replace(" 250 5000", " 250 5001"))
    else:
        data.write_bytes(data.read_bytes()[:2000])
    with pytest.raises(SourceError, match=r"r\.hea: (its samples cannot be read|II has)"):
        read_record(path, CHANNELS)


def test_too_many_rows_are_refused(tmp_path):
    path = write_header(tmp_path, GOOD.replace("100\n", f"{MAX_ROWS + 1}\n", 1), samples=b"")
    os.truncate(tmp_path / "r.dat", 2 * (MAX_ROWS + 1))  # a hole: takes no disk
    with pytest.raises(SourceError, match=f"{MAX_ROWS + 1} rows or more, over {MAX_ROWS}"):
        read_record(path, CHANNELS)


TOKENS = st.sampled_from(
    ["r", "r.dat", "one", "~", "1", "2", "3", "16", "212", "516", "8", "250", "62.5/999", "100", "0", "-1", "1e9", "x4", ":3",
     "+9", "100/mV", "0(5)/uV", "II", "PLETH", "r/2", "9999999999", "#", "..", "/", "[/red]", "\t", "é"]
)  # fmt: skip
LINES = st.one_of(
    st.lists(TOKENS, max_size=9).map(" ".join), st.lists(TOKENS, max_size=9).map("".join), st.sampled_from(GOOD.splitlines())
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=st.lists(LINES, max_size=5), samples=st.binary(max_size=300))
def test_any_header_gives_rows_or_one_line(tmp_path, lines, samples):
    path = write_header(tmp_path, "\n".join(lines).encode("latin-1"), samples=samples)
    try:
        rows = read_record(path, CHANNELS).rows
    except SourceError as error:
        assert len(str(error).splitlines()) == 1
    else:
        assert np.isfinite(rows.values).all()
        assert (np.diff(rows.times_ns) >= 0).all()


# Real records ----------------------------------------------------------------------------------------------------------


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "rows", "last_ns", "valid", "signals"),
    [
        ("a103l", 82_500, 329_996_000_000, [82_500, 82_500, 0, 0, 0], {"ecg_mv": "II in mV", "pleth": "PLETH in NU"}),
        ("03700181", 300_000, 599_998_000_000, [300_000, 0, 74_996, 0, 0], {"ecg_mv": "MCL1 in mV", "resp": "RESP in mV"}),
        ("041s", 8_000, 15_998_000_000, [8_000, 2_000, 2_000, 0, 0],
         {"ecg_mv": "V in mV", "pleth": "PLETH in mV", "resp": "RESP in mV"}),
        ("mixedsignals", 57_088, 230_497_418_864, [56_576, 28_800, 14_400, 0, 0],
         {"ecg_mv": "II in mV", "pleth": "Pleth in NU", "resp": "Resp in Ohm"}),
        ("100", 650_000, 1_805_552_777_778, [650_000, 0, 0, 0, 0], {"ecg_mv": "MLII in mV"}),
        ("s0010_re", 38_400, 38_399_000_000, [38_400, 0, 0, 0, 0], {"ecg_mv": "ii in mV"}),
    ],
)  # fmt: skip
def test_a_real_record_gives_its_rows(recordings, name, rows, last_ns, valid, signals):
    record = read_record(header_path(str(recordings / "medical" / "wfdb_waveforms" / name)), CHANNELS)
    assert len(record.rows.times_ns) == rows
    assert record.rows.times_ns[-1] == last_ns
    assert record.rows.valid.sum(axis=0).tolist() == valid
    assert record.signals == signals


@pytest.mark.data
def test_the_real_alarm_record_has_a_row_every_four_milliseconds_with_the_packages_own_values(recordings):
    path = header_path(str(recordings / "medical" / "wfdb_waveforms" / "a103l"))
    rows = read_record(path, CHANNELS).rows
    assert (rows.times_ns == np.arange(82_500) * 4_000_000).all()
    ours = np.fromfile(path.with_suffix(".mat"), dtype="<i2", offset=24).reshape(82_500, 3)  # format 16, by hand
    assert rows.values[:, ECG] == pytest.approx(ours[:, 0] / 7247, abs=1e-6)
    assert rows.values[:, PLETH] == pytest.approx(ours[:, 2] / 12_530, abs=1e-6)
    assert read_header(path).comments == ("Asystole", "False alarm")
