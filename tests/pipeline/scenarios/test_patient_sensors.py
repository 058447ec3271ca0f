"""The simulated patient's sensors: what they render is what their latents allow. Not a medical device; simulation."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.scenarios.patient import CHANNELS, HEADS, Course, Renderer, pcm, sample_course, telemetry
from pipeline.scenarios.patient.course import ALARMS, BOOL_ARRAYS, GRID_HZ, HIDDEN, MASKED, PLETH, STREAMS
from pipeline.sources.telemetry import packets_of_rows

ROOT = Path(__file__).resolve().parents[3]
HASH_CODE = """
import hashlib
from pipeline.scenarios.patient import Renderer, pcm, sample_course, telemetry
course = sample_course(42, 30.0)
digest = hashlib.sha256(pcm(course).tobytes())
digest.update(telemetry(course)[1].tobytes())
with Renderer() as renderer:
    for index in range(0, 300, 25):
        digest.update(renderer.frame(course, index).tobytes())
print(digest.hexdigest())
"""
CALM: dict[str, Any] = {
    **dict.fromkeys(("hidden", "masked", "covered", "posture", "pleth", "rhythm", "alarm_on", *BOOL_ARRAYS), 0),
    **{"heart_bpm": 75.0, "pulse_bpm": 75.0, "effort": 0.9, "airflow": 0.7, "impedance": 1.0, "cardiac": 0.05},
    **{"spo2": 97.0, "motion_hz": 2.0},
}
HAPPENS: list[dict[str, Any]] = [{"limp": 1}, {"moving": 1}, {"nurse": 1}, {"posture": 1}, {"posture": 2}, {"pleth": 3}]


def _course(seconds: float = 20.0, seed: int = 3, **latents: Any) -> Course:
    """A calm course but for ``latents``, constant over its length."""
    course = sample_course(seed, seconds)
    wanted = {**CALM, **latents}
    arrays = {name: np.full(len(course.times_s), value, getattr(course, name).dtype) for name, value in wanted.items()}
    return replace(course, **arrays)


def _needs(*modules: str) -> None:
    for module in modules:
        pytest.importorskip(module, reason=f"{module} (extra `sim`) is not installed")


def _ecg(**latents: Any) -> np.ndarray:
    _times, values, valid = telemetry(_course(**latents))
    return values[valid[:, 0], 0]


def test_rows_rise_in_time_at_125_hz_mark_what_is_invalid_and_fit_in_packets() -> None:
    _needs("neurokit2")
    course = sample_course(3, 60.0)
    times, values, valid = telemetry(course)
    assert values.shape == valid.shape == (7500, len(CHANNELS)) and values.dtype == np.float32 and valid.dtype == np.bool_
    assert (np.diff(times) > 0).all() and np.isfinite(values).all()
    assert (values[~valid] == 0).all() and 0 < (~valid).mean() < 0.01
    packets = list(packets_of_rows(np.round(times * 1e9).astype(np.int64), values, valid, block_ns=100_000_000))
    assert len(packets) == 600 and all(len(p.chunks[0]) < 4096 for p in packets)


def test_ecg_beats_at_the_shown_rate_and_is_flat_without_a_rhythm() -> None:
    _needs("neurokit2")
    for bpm in (30.0, 75.0, 160.0):
        ecg = _ecg(heart_bpm=bpm, pulse_bpm=bpm, rhythm=0)
        beats = np.sum((ecg[1:] > 0.6 * ecg.max()) & (ecg[:-1] <= 0.6 * ecg.max()))
        assert beats * 3 == pytest.approx(bpm, rel=0.12)
    assert np.abs(_ecg(rhythm=ALARMS.index("asystole"), heart_bpm=0.0)).max() < 0.45 < _ecg().max()


def test_every_ventricular_rhythm_swings_at_its_rate() -> None:
    _needs("neurokit2")
    for rhythm, bpm in ((ALARMS.index("ventricular tachycardia"), 180.0), (ALARMS.index("ventricular flutter"), 300.0)):
        ecg = _ecg(rhythm=rhythm, heart_bpm=bpm)
        spectrum = np.abs(np.fft.rfft(ecg - ecg.mean()))
        hz = np.fft.rfftfreq(len(ecg), 1 / 125)
        assert hz[int(np.argmax(np.where(hz > 1.0, spectrum, 0)))] * 60 == pytest.approx(bpm, rel=0.15)


def test_ecg_is_the_same_whatever_has_caused_it() -> None:
    _needs("neurokit2")
    rhythm = ALARMS.index("ventricular tachycardia")
    real = _course(rhythm=rhythm, heart_bpm=180.0, pleth=PLETH.index("flat"), alarm=1, limp=1)
    imitated = _course(rhythm=rhythm, heart_bpm=180.0, pleth=PLETH.index("flat"), alarm=0, moving=1)
    assert np.array_equal(telemetry(real)[1], telemetry(imitated)[1])


def test_pulse_wave_looks_alike_whether_pulse_or_probe_is_lost() -> None:
    _needs("neurokit2")
    waves = [telemetry(_course(pleth=PLETH.index(state)))[1][:, 1] for state in ("flat", "off")]
    assert np.array_equal(waves[0], waves[1]) and np.ptp(waves[0]) < 0.3
    assert np.ptp(telemetry(_course())[1][:, 1]) > 0.5


def test_numbers_are_whole_and_follow_spo2_and_rate() -> None:
    _needs("neurokit2")
    _times, values, valid = telemetry(_course(spo2=88.0, heart_bpm=140.0))
    spo2, rate = (values[valid[:, column], column] for column in (3, 4))
    assert (spo2 == np.round(spo2)).all() and spo2.mean() == pytest.approx(88.0, abs=0.4)
    assert (rate == np.round(rate)).all() and rate.mean() == pytest.approx(140.0, abs=1.5)


def test_chest_impedance_follows_the_breath_and_keeps_the_heartbeat_without_it() -> None:
    _needs("neurokit2")
    breathing, still, loose = (np.std(telemetry(_course(**k))[1][:, 2]) for k in ({}, {"effort": 0.0}, {"impedance": 0.0}))
    assert breathing > 5 * still and still == pytest.approx(loose, rel=0.05) and still > 0.01


def test_sound_has_the_course_s_length_and_a_part_of_it_is_the_same_as_the_whole() -> None:
    course = sample_course(7, 150.0)
    whole = pcm(course)
    assert whole.dtype == np.int16 and whole.shape == (16_000 * 150,)
    assert np.array_equal(pcm(course, 30.0, 75.0), whole[30 * 16_000 : 75 * 16_000])


@pytest.mark.parametrize("source", ["gasp", "talk", "rustle", "nurse_voice", "cry"])
def test_each_source_is_heard_in_a_quiet_room_and_drowned_by_a_masker(source: str) -> None:
    def level(on: int, masked: int) -> float:
        return float(np.std(pcm(_course(airflow=0.0, masked=masked, **{source: on})).astype(float)))

    assert level(1, 0) > 3 * level(0, 0)
    assert level(1, 2) == level(0, 2) > 1.5 * level(1, 0)


def test_breath_is_heard_and_one_too_quiet_or_a_masked_one_is_not() -> None:
    normal, quiet, none = (np.std(pcm(_course(airflow=a)).astype(float)) for a in (0.7, 0.25, 0.0))
    assert normal > 2 * none and quiet == none
    for masker in MASKED[1:]:
        masked = [pcm(_course(airflow=a, masked=MASKED.index(masker))) for a in (0.7, 0.0)]
        assert np.array_equal(masked[0], masked[1])


def test_thump_is_loud_and_rings_for_less_than_a_second() -> None:
    course = _course(airflow=0.0)
    thump = np.zeros(len(course.times_s), np.bool_)
    thump[50] = True
    struck, calm = pcm(replace(course, thump=thump)).astype(float), pcm(course).astype(float)
    differs = np.flatnonzero(struck != calm)
    assert 5.0 <= differs[0] / 16_000 < 5.1 and differs[-1] / 16_000 < 6.0
    assert np.abs(struck[80_000:84_000]).max() > 5 * np.abs(calm).max()


def _frame(renderer: Renderer, index: int = 33, seed: int = 20, **latents: Any) -> np.ndarray:
    return renderer.frame(_course(5.0, seed=seed, **latents), index).astype(int)


def test_frames_are_the_same_whatever_was_drawn_before() -> None:
    _needs("panda3d.core")
    course, other = sample_course(4, 20.0), sample_course(9, 20.0)
    with Renderer() as renderer:
        first = renderer.frame(course, 100)
        renderer.frame(other, 150)
        renderer.frame(course, 17)
        again = renderer.frame(course, 100)
    with Renderer() as renderer:
        reopened = renderer.frame(course, 100)
    assert first.shape == (120, 160, 3) and first.dtype == np.uint8
    assert np.array_equal(first, again) and np.array_equal(first, reopened)


@pytest.mark.parametrize("kind", HIDDEN[1:])
def test_a_hidden_bed_shows_nothing_of_what_happens_there(kind: str) -> None:
    _needs("panda3d.core")
    hidden = HIDDEN.index(kind)
    with Renderer() as renderer:
        calm = _frame(renderer, hidden=hidden)
        for latents in (
            {"limp": 1},
            {"moving": 1},
            {"nurse": 1},
            {"posture": 2},
            {"posture": 1},
            {"pleth": 3},
            {"breath_phase": 3.0},
        ):
            assert np.array_equal(_frame(renderer, hidden=hidden, **latents), calm)


def test_chest_rises_by_at_least_three_pixels_and_not_under_a_thick_blanket() -> None:
    _needs("panda3d.core")

    def changed(covered: int) -> np.ndarray:
        out, full = (_frame(renderer, covered=covered, breath_phase=phase) for phase in (0.0, np.pi))
        return (np.abs(out - full).max(-1) > 40).sum(axis=1)

    with Renderer() as renderer:
        assert np.sum(changed(0) >= 4) >= 3
        assert changed(1).sum() == 0


@pytest.mark.parametrize(
    "latents",
    [{"limp": 1}, {"moving": 1}, {"nurse": 1}, {"posture": 1}, {"posture": 2}, {"pleth": 3}, {"moving": 1, "covered": 1}],
)
def test_what_happens_at_the_bed_changes_the_picture(latents: dict[str, int]) -> None:
    _needs("panda3d.core")
    covered = latents.get("covered", 0)
    with Renderer() as renderer:
        for seed in (20, 21, 22):
            before = _frame(renderer, seed=seed, covered=covered)
            after = _frame(renderer, seed=seed, **latents)
            assert (np.abs(before - after).max(-1) > 30).sum() > 20


def test_simulated_log_holds_every_stream_and_the_truth(tmp_path: Path) -> None:
    _needs("panda3d.core", "neurokit2", "av")
    from pipeline.config import load_scenario, scenario_folder
    from pipeline.logs.reader import LogReader
    from pipeline.scenarios.patient.simulate import simulate

    scenario = load_scenario(scenario_folder("patient"))
    paths = [tmp_path / "first.mcap", tmp_path / "again.mcap"]
    for path in paths:
        simulate(path, scenario, seed=1, duration_s=4.0)
    first, again = (path.read_bytes() for path in paths)
    assert hashlib.sha256(first).digest() == hashlib.sha256(again).digest()
    log = LogReader(paths[0])
    assert [stream for stream in log.streams] == list(STREAMS)
    assert all(info.simulated and info.origin == "simulated course, seed 1" for info in log.streams.values())
    truth = list(log.truth())
    assert len(truth) == 40 and all(set(HEADS) <= set(row) for row in truth)


def test_all_sensors_have_one_hash_in_two_processes() -> None:
    _needs("panda3d.core", "neurokit2")
    hashes = {
        subprocess.run([sys.executable, "-c", HASH_CODE], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    }
    assert len(hashes) == 1 and len(hashes.pop().strip()) == hashlib.sha256().digest_size * 2


def test_a_step_of_the_course_is_a_frame() -> None:
    from pipeline.scenarios.patient.scene import FRAME_RATE_HZ

    assert FRAME_RATE_HZ == GRID_HZ
