"""``chiasm bench``: what it writes, and what it refuses."""

import gzip
import json
import subprocess
import sys

import pytest


def chiasm(*arguments: str, timeout: float = 150) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "pipeline.cli.main", "bench", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)


def test_unknown_benchmark_is_refused_in_one_line_that_names_those_there_are():
    done = chiasm("speed")
    assert done.returncode == 2
    assert done.stderr == "chiasm: no benchmark speed; there are transport, peers, end-to-end, engines, scaling\n"


@pytest.mark.timeout(180)
def test_bench_writes_figures_environment_command_raw_samples_and_a_picture(tmp_path):
    done = chiasm("scaling", "--quick", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "[1/1] scaling" in done.stdout
    result = json.loads((tmp_path / "scaling.json").read_text())
    assert (result["quick"], result["skipped"], result["command"]) == (True, None, "chiasm bench scaling --quick")
    assert {"date", "commit", "cpu", "cores", "packages", "load_average_before"} <= result["environment"].keys()
    samples = json.loads(gzip.decompress((tmp_path / result["samples"]).read_bytes()))
    assert set(samples) == {"1 cameras", "2 cameras", "1 patients", "2 patients"}
    one, two = (len(samples[f"{n} cameras"]["latency_us"]) for n in (1, 2))
    assert one > 40 and abs(two - 2 * one) <= 4, "each run decides for every frame"
    assert result["summary"]["2 cameras"]["cores"] > 0
    assert (tmp_path / "scaling.png").read_bytes().startswith(b"\x89PNG")
    assert "![Many cameras, many patients on one machine](scaling.png)" in (tmp_path / "README.md").read_text()
