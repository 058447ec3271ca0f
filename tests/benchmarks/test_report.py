import gzip
import json

import pytest

from benchmarks.measurement import RESULTS, Check, Outcome, Skipped, make_result, percentiles, write_samples
from benchmarks.memory import growth
from benchmarks.report import (
    EVALUATED,
    EVALUATION,
    FRONT_PAGE,
    ReportError,
    markdown,
    read_results,
    rows,
    with_evaluation,
    with_latency,
    with_ratios,
)


def outcome(measured: float | None = 1.25) -> Outcome:
    checks = (
        Check(what="share p50", measured=measured, comparison="<=", target=1.5, unit="ms"),
        Check(what="lost | gone", measured=3, comparison="=", target=0),
    )
    return Outcome(checks=checks, summary={"frames": 7, "parts": {"p50": 0.5, "p99.9": None}}, samples={"t": {"ns": [1, 2]}})


def skip(_setting: object) -> Outcome:
    raise Skipped("no camera here; plug one in")


def test_result_written_and_read_gives_its_figures_in_the_table(tmp_path):
    make_result("live", "Live", lambda _: outcome(), quick=False, out=tmp_path)
    found = list(rows(read_results(tmp_path)))
    assert found == [("live", "share p50", "≤ 1.5 ms", "1.25 ms", "met"), ("live", "lost | gone", "= 0", "3", "MISSED")]


def test_result_holds_environment_command_and_raw_samples(tmp_path):
    make_result("live", "Live", lambda _: outcome(), quick=True, out=tmp_path)
    (result,) = read_results(tmp_path)
    assert result["command"] == "python -m benchmarks.spine live --quick"
    assert {"date", "commit", "cpu", "cores", "memory_bytes", "kernel", "python", "packages", "load_average_before"} <= set(
        result["environment"]
    )
    samples = json.loads(gzip.decompress((tmp_path / result["samples"]).read_bytes()))
    assert samples == {"t": {"ns": [1, 2]}}


def test_skipped_measurement_shows_its_reason_and_counts_as_nothing(tmp_path):
    make_result("live", "Live", skip, quick=False, out=tmp_path)
    results = read_results(tmp_path)
    assert list(rows(results)) == [("live", "no camera here; plug one in", "", "", "skipped")]
    assert "Skipped: no camera here; plug one in" in markdown(results)


def test_unmeasured_figure_misses_its_target(tmp_path):
    make_result("live", "Live", lambda _: outcome(measured=None), quick=False, out=tmp_path)
    assert next(iter(rows(read_results(tmp_path))))[3:] == ("not measured", "MISSED")


def test_markdown_escapes_bars_marks_quick_and_follows_the_file(tmp_path):
    make_result("live", "Live", lambda _: outcome(), quick=True, out=tmp_path)
    path = tmp_path / "live.json"
    path.write_text(path.read_text().replace("1.25", "1.75").replace('"frames": 7', '"frames": 8'))
    text = markdown(read_results(tmp_path))
    assert "| live (quick) | lost \\| gone | = 0 | 3 | MISSED |" in text
    assert "1.75 ms" in text and "1.25" not in text
    assert "- frames: 8" in text and "- parts: p50 0.5, p99.9 –" in text
    assert "prove nothing" in text


@pytest.mark.parametrize("content", ["{", "[]", '{"name": "live"}'])
def test_file_that_is_no_result_is_refused_by_name(tmp_path, content):
    (tmp_path / "odd.json").write_text(content)
    with pytest.raises(ReportError, match=r"odd\.json"):
        read_results(tmp_path)


def test_samples_beyond_the_limit_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.measurement.MAX_SAMPLES_BYTES", 10)
    with pytest.raises(ValueError, match="measure for a shorter time"):
        write_samples(tmp_path / "a.samples.json.gz", {"t": {"ns": list(range(100))}})
    assert not list(tmp_path.iterdir())


def test_percentile_is_none_where_too_few_samples_lie_beyond():
    found = percentiles([1_000_000.0] * 99 + [5_000_000.0], 1e6)
    assert found["p50"] == 1.0 and found["p99"] is not None and found["p99.9"] is None and found["max"] == 5.0


def test_growth_is_the_slope_after_the_second_minute_only():
    def line(event_s: float, mb: float) -> dict[str, float]:
        return {"event_s": event_s, "wall_s": event_s / 10, "rss_bytes": mb * 1e6}

    lines = [line(0, 10), line(60, 80), line(120, 100), line(180, 101), line(240, 102)]
    assert growth(lines, "event_s") == pytest.approx(1.0)
    assert growth(lines, "wall_s") == pytest.approx(10.0)
    assert growth(lines[:4], "event_s") is None


def test_front_page_shows_the_latency_that_was_measured():
    page = FRONT_PAGE.read_text(encoding="utf-8")
    results = read_results(RESULTS)
    assert with_latency(page, results) == page, "run python -m benchmarks.report"
    (live,) = [r for r in results if r["name"] == "live"]
    slower = {**live, "summary": {**live["summary"], "runtime_ms": {"p50": 91.25, "p90": 92, "p99": 93, "p99.9": 94}}}
    assert "| 91.2 | 92.0 | 93.0 | 94.0 |" in with_latency(page, [slower])


def test_front_page_without_marks_or_without_a_whole_live_run_stays():
    assert with_latency("no marks", read_results(RESULTS)) == "no marks"
    page = FRONT_PAGE.read_text(encoding="utf-8")
    assert with_latency(page, []) == page


def test_front_page_gets_every_ratio_from_the_results_misses_first():
    page = "before\n<!-- ratios:begin -->\nold\n<!-- ratios:end -->\nafter\n"
    assert with_ratios(page, []) == page
    environment = {"date": "2026-11-29T00:00:00", "cores": 2, "cpu": "Processor"}
    checks = [
        {"what": "hop: A / B", "measured": 0.2, "target": 0.25, "comparison": "<=", "unit": "", "met": True},
        {"what": "hop: A / C", "measured": None, "target": 1.5, "comparison": "<=", "unit": "", "met": False},
    ]
    result = {"name": "transport", "quick": False, "skipped": None, "checks": checks, "environment": environment}
    text = with_ratios(page, [result])
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert "1 of 2 targets met" in text
    assert text.index("| hop: A / C | 1.5 | **not measured, missed** |") < text.index("| hop: A / B | 0.25 | 0.2 |")
    assert with_ratios(page, [{**result, "quick": True}]) == page


@pytest.mark.parametrize("scenario", EVALUATED)
def test_front_page_shows_the_evaluation_that_is_on_record(scenario):
    page = FRONT_PAGE.read_text(encoding="utf-8")
    report = json.loads((EVALUATION / f"{scenario}.json").read_text(encoding="utf-8"))
    assert with_evaluation(page, scenario, report) == page, "run python -m benchmarks.report"
    assert all(v["text"] in page for v in report["verdicts"] if v["outcome"] != "met")


def test_front_page_s_evaluation_tells_misses_first_and_leaks_last():
    page = "before\n<!-- evaluation driving:begin -->\nold\n<!-- evaluation driving:end -->\nafter\n"
    verdicts = [
        _verdict("emergency.auroc", "met", {"value": 0.99, "low": 0.98, "high": 1.0}),
        _verdict("tick.p50", "met", {"value": 1.0, "low": 1.0, "high": 1.0}),
        _verdict("probe.retrieval", "missed", {"value": 1.5, "low": 1.4, "high": 1.6}),
        _verdict("emergency.lead", "not measured", None),
    ]
    findings = {"setting": {"date": "2026-11-29"}, "roles": {"emergency": "emergency"}, "leaks": [{"leaks": False}] * 3}
    text = with_evaluation(page, "driving", {"findings": findings, "verdicts": verdicts})
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert "2 of 4 targets met" in text
    shown = [line for line in text.splitlines() if line.startswith("| ")][1:]
    assert shown[:3] == [
        "| Text of probe.retrieval (which) | ≥ 1 | **1.500 [1.400, 1.600], missed** |",
        "| Text of emergency.lead (which) | ≥ 1 | **not measured** |",
        "| Text of emergency.auroc (which) | ≥ 1 | 0.990 [0.980, 1.000] |",
    ]
    assert len(shown) == 4 and shown[3].endswith("| 0 | 0 of 3 |")
    leaking = {**findings, "leaks": [{"leaks": True}, {"leaks": False}]}
    assert "**1 of 2, missed**" in with_evaluation(page, "driving", {"findings": leaking, "verdicts": verdicts})
    assert with_evaluation("no marks", "driving", {"findings": findings, "verdicts": verdicts}) == "no marks"


def _verdict(key, outcome, measured):
    return {"key": key, "outcome": outcome, "measured": measured, "target": "≥ 1", "text": f"Text of {key}", "detail": "which"}
