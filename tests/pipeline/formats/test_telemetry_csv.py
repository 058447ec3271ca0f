"""Telemetry as CSV."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.formats.telemetry_csv import rows_from_csv
from pipeline.sources.base import Channel, SourceError

CHANNELS = (Channel(name="speed_mps", unit="m/s", required=True), Channel(name="brake", unit="1"))


def rows_of(tmp_path, content: str | bytes):
    path = tmp_path / "t.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return rows_from_csv(path, CHANNELS)


def test_named_columns_are_read_in_the_scenarios_order_and_an_empty_cell_is_invalid(tmp_path):
    rows = rows_of(tmp_path, "\ufeffbrake,other, t_s ,speed_mps [m/s]\n0,x,0.5,1.25\n\n,x,0.75, 2 \n")
    assert rows.times_ns.tolist() == [500_000_000, 750_000_000]
    assert rows.values.tolist() == [[1.25, 0.0], [2.0, 0.0]]
    assert rows.valid.tolist() == [[True, True], [True, False]]
    assert rows.values.dtype == np.float32


def test_whole_nanoseconds_are_read_exactly(tmp_path):
    assert rows_of(tmp_path, "time_ns,speed_mps\n86399999999999,1\n").times_ns.tolist() == [86399999999999]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("time_s,brake\n0,1\n", r"no column speed_mps \[m/s\]"),
        ("speed_mps\n1\n", "one time column"),
        ("time_s,time_ns,speed_mps\n1,1,1\n", "found time_s and time_ns"),
        ("time_s,speed_mps,speed_mps\n0,1,1\n", "names column speed_mps twice"),
        ("time_s,speed_mps [km/h]\n0,1\n", r"unit \[km/h\] but the scenario reads \[m/s\]"),
        ("time_s,speed_mps\n0,1\n1,nan\n", "row 3, column speed_mps: 'nan' is not a finite number"),
        ("time_s,speed_mps,brake\n0,1,inf\n", "row 2, column brake"),
        ("time_s,speed_mps\n0,1e39\n", "row 2, column speed_mps"),
        ("time_s,speed_mps\n0,1_0\n", "row 2, column speed_mps"),
        ("time_s,speed_mps\n,1\n", "row 2, column time_s"),
        ("time_s,speed_mps\nnan,1\n", "row 2, column time_s"),
        ("time_s,speed_mps\n2,1\n1,1\n", "row 3, column time_s: time runs backwards"),
        ("time_s,speed_mps\n1602421393,1\n", "subtract the first"),
        ("time_s,speed_mps\n0,1,2\n", "row 2 has 3 cells, the header 2"),
        ('time_s,speed_mps\n0,"1\n', "row 2"),
        (b"time_s,speed_mps\n0,\xff\n", "not UTF-8"),
    ],
)
def test_a_broken_file_names_file_row_and_column(tmp_path, content, message):
    with pytest.raises(SourceError, match=message) as caught:
        rows_of(tmp_path, content)
    assert "t.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_too_large_is_refused_unread(tmp_path):
    path = tmp_path / "t.csv"
    with path.open("wb") as file:
        file.truncate(64 * 2**20 + 1)
    with pytest.raises(SourceError, match="cut the file"):
        rows_from_csv(path, CHANNELS)


CELLS = st.one_of(st.text(max_size=6), st.sampled_from(["time_s", "speed_mps", "brake", "0", "1.5", "nan", "1e400", '"']))


@given(st.lists(st.lists(CELLS, min_size=1, max_size=4).map(",".join), max_size=6).map("\n".join))
def test_any_text_gives_finite_ordered_rows_or_one_line(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_text("time_s,speed_mps\n" + content, encoding="utf-8", errors="ignore", newline="")
    try:
        rows = rows_from_csv(path, CHANNELS)
    except SourceError as error:
        assert "\n" not in str(error)
        return
    assert np.isfinite(rows.values).all()
    assert (np.diff(rows.times_ns) >= 0).all()
