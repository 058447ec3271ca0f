"""``chiasm latency`` as a user calls it, and the page in a real browser."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


def chiasm(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline.cli.main", *(str(a) for a in arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "160"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT, env=environment, check=False)
    assert "Traceback" not in done.stderr, done.stderr[-1500:]
    return done


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight seconds of a live run."""
    path = tmp_path_factory.mktemp("latency") / "live.mcap"
    assert chiasm("run", "driving", "--inline", "--for", "8s", "--record", path).returncode == 0
    return path


@pytest.fixture(scope="module")
def page(log: Path) -> Path:
    pytest.importorskip("matplotlib", reason="needs matplotlib: pip install 'chiasm[view]'")
    done = chiasm("latency", log, "--html", log.with_suffix(".html"))
    assert done.returncode == 0, done.stderr
    return log.with_suffix(".html")


def test_it_shows_stages_streams_blame_and_waits(log: Path) -> None:
    done = chiasm("latency", log, "--target-p99", "200ms")
    assert done.returncode == 0, done.stderr
    for title in ("Reference to decision, ms", "From capture to fusion, ms", "slowest (p99", "If one stream's wait were"):
        assert title in done.stdout
    assert re.search(r"reference to decision +\d+ +\d+\.\d\d \[\d+\.\d\d, \d+\.\d\d\]", done.stdout)
    assert "p99.9" in done.stdout
    assert re.search(r"^reference to decision .* – +\d", done.stdout, re.M), "120 decisions carry no p99.9"
    assert "to blame for the tail" in done.stdout
    assert re.search(r"streams:\n  camera: \{wait_ms: \d+\}", done.stdout)


def test_a_target_that_no_wait_reaches_ends_with_1_and_says_what_is_left(log: Path) -> None:
    done = chiasm("latency", log, "--target-p99", "10us")
    assert done.returncode == 1
    assert re.search(r"no waits reach a p99 of 0\.01 ms: without any it is \d+\.\d ms", done.stderr)


def test_a_replays_log_and_a_senseless_target_end_with_2(log: Path, tmp_path: Path) -> None:
    assert chiasm("replay", log, "--inline", "--record", tmp_path / "replayed.mcap").returncode == 0
    done = chiasm("latency", tmp_path / "replayed.mcap")
    assert done.returncode == 2
    assert "no live decision to measure (its decisions are a replay's); record a run" in done.stderr
    assert chiasm("latency", log, "--target-p99", "soon").returncode == 2


def test_trace_and_table_hold_the_same_intervals(log: Path, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    done = chiasm("latency", log, "--trace", tmp_path / "trace.json", "--parquet", tmp_path / "spans.parquet")
    assert done.returncode == 0, done.stderr
    table = pq.read_table(tmp_path / "spans.parquet").to_pylist()
    by_decision: dict[int, int] = {}
    for row in table:
        if row["stage"] != "sink link":
            by_decision[row["seq"]] = by_decision.get(row["seq"], 0) + row["end_ns"] - row["start_ns"]
    latency = {row["seq"]: row["latency_ns"] for row in table}
    assert len(latency) > 100
    assert all(by_decision[seq] == pytest.approx(ns, rel=0.01) for seq, ns in latency.items())
    events = json.loads((tmp_path / "trace.json").read_text(encoding="utf-8"))["traceEvents"]
    tracks = {e["args"]["name"]: e["tid"] for e in events if e["name"] == "thread_name"}
    assert {"fusion", "waiting", "camera", "microphone", "telemetry", "text"} == set(tracks)
    fused = [e for e in events if e.get("cat") == "fusion" and e["name"] == "fuse"]
    assert len(fused) == len(latency)
    assert all(e["ph"] == "X" and e["dur"] >= 0 for e in events if e["ph"] != "M")


def test_the_page_needs_nothing_but_itself(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert text.count("<svg") == 5
    references = re.findall(r'(?:src|href)="([^"]+)"', text)
    assert all(r.startswith("#") for r in references)
    assert "<script" not in text


def test_a_real_browser_lays_the_page_out_without_a_complaint(page: Path, tmp_path: Path) -> None:
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip("no Chromium here")
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={tmp_path / 'profile'}",
        "--window-size=1060,3600",
    ]
    shot = tmp_path / "page.png"
    drawn = subprocess.run(
        [browser, *options, f"--screenshot={shot}", page.as_uri()], capture_output=True, text=True, timeout=90, check=False
    )
    assert shot.is_file(), drawn.stderr[-500:]
    dom = subprocess.run(
        [browser, *options, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=90, check=False
    )
    assert dom.stdout.count("<svg") == 5
    for heading in ("Reference to decision, by stage", "The tail", "slowest decisions", "Over time", "What other waits would do"):
        assert heading in dom.stdout
    import cv2

    image = cv2.imread(str(shot))
    assert image is not None
    assert (image.min(axis=2) < 240).mean() > 0.02, "the page is blank"
