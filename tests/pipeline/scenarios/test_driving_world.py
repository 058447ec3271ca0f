"""The simulated driving world: labels, latents and every rendered sensor."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from pipeline.scenarios.driving import ACTIONS, SOURCES, Drive, arrivals, pcm, sample_drive, telemetry, text_lines
from pipeline.scenarios.driving.drive import FAMILIAR_SIREN_KINDS, FRAME_RATE_HZ, SLOW_TTC_S, STOP_TTC_S, Conditions
from pipeline.scenarios.driving.percepts import COLUMNS, MEMORY_S, percepts
from pipeline.scenarios.driving.scene import Renderer

ROOT = Path(__file__).resolve().parents[3]
HASH_CODE = """
import hashlib
from pipeline.scenarios.driving import Renderer, pcm, sample_drive
drive = sample_drive(42, 12.0)
digest = hashlib.sha256(pcm(drive).tobytes())
with Renderer() as renderer:
    for index in range(0, 240, 40):
        digest.update(renderer.frame(drive, index).tobytes())
print(digest.hexdigest())
"""


@pytest.fixture(scope="module")
def drives() -> list[Drive]:
    return [sample_drive(seed, 60.0) for seed in range(40)]


def _runs(action: np.ndarray) -> list[tuple[int, float]]:
    """(action, seconds) of every run but the first and the last, which the drive's ends cut."""
    edges = np.flatnonzero(np.diff(action)) + 1
    return [(int(action[a]), (b - a) / FRAME_RATE_HZ) for a, b in pairwise(edges.tolist())]


def _dispatch_names_ours(drive: Drive, start_s: float) -> bool:
    """Whether a line that came within 0.7 s before ``start_s`` says that somebody is on our carriageway."""
    return any(start_s - 0.7 <= time_s <= start_s and "your carriageway" in line for time_s, line in text_lines(drive))


def test_same_seed_gives_the_same_latents_and_another_seed_others() -> None:
    first, again, other = sample_drive(5, 20.0), sample_drive(5, 20.0), sample_drive(6, 20.0)
    assert np.array_equal(first.action, again.action) and np.array_equal(first.siren_y_m, again.siren_y_m, equal_nan=True)
    assert first.episodes == again.episodes
    assert not np.array_equal(first.speed_mps, other.speed_mps)


def test_camera_grid_is_20_hz_and_latents_are_read_only() -> None:
    drive = sample_drive(1, 30.0)
    assert drive.frame_times_s.shape == drive.action.shape == (600,)
    assert np.array_equal(drive.frame_times_s, np.arange(600) / 20)
    with pytest.raises(ValueError, match="read-only"):
        drive.action[0] = 1


@pytest.mark.parametrize("duration_s", [0.0, -1.0, 1e6, float("nan")])
def test_impossible_duration_is_refused_by_name(duration_s: float) -> None:
    with pytest.raises(ValueError, match="duration_s"):
        sample_drive(0, duration_s)


def test_every_action_occurs_in_most_minutes_and_a_third_to_a_half_of_the_time_demands_one(drives: list[Drive]) -> None:
    assert np.mean([len(set(drive.action.tolist())) == len(ACTIONS) for drive in drives]) >= 0.8
    assert 0.3 <= np.mean([np.mean(drive.action != 0) for drive in drives]) <= 0.5


def test_demanding_actions_last_more_than_a_second(drives: list[Drive]) -> None:
    runs = [run for drive in drives for run in _runs(drive.action)]
    assert min(seconds for action, seconds in runs if action != 0) >= 1.3


def test_emergency_only_while_we_move_and_a_siren_vehicle_nears_on_our_carriageway(drives: list[Drive]) -> None:
    ours = [SOURCES.index("behind"), SOURCES.index("ahead")]
    for drive in drives:
        on = drive.emergency == 1
        assert np.isin(drive.siren_source[on], ours).all()
        assert (drive.speed_mps[on] > 1.0).all() and (drive.siren_audible[on] > 0).all()
        nearing = np.diff(np.abs(drive.siren_y_m)) < 0
        assert nearing[on[:-1] & on[1:]].all()


def test_siren_is_faded_in_within_half_a_second_of_onset_and_dispatch_has_spoken(drives: list[Drive]) -> None:
    spoken = []
    for drive in drives:
        for onset in np.flatnonzero(np.diff(drive.emergency.astype(int)) == 1) + 1:
            assert drive.siren_audible[min(int(onset) + 10, len(drive.emergency) - 1)] > 0.9
            spoken.append(_dispatch_names_ours(drive, onset / FRAME_RATE_HZ))
    assert len(spoken) > 30
    assert 0.7 <= np.mean(spoken) <= 0.98  # stale or wrong about 15% of the time


def test_light_bar_is_hidden_about_40_percent_of_the_time(drives: list[Drive]) -> None:
    visible = np.concatenate([drive.siren_visible[drive.emergency == 1] for drive in drives])
    assert 0.4 <= np.mean(visible) <= 0.8


def test_every_decoy_occurs(drives: list[Drive]) -> None:
    seen = {int(source) for drive in drives for source in np.unique(drive.siren_source)}
    assert seen == set(range(len(SOURCES)))
    standing = [np.any((d.siren_source == 1) & (d.speed_mps < 0.5) & (d.emergency == 0)) for d in drives]
    assert any(standing)


def test_stop_and_slow_agree_with_unbraked_time_to_collision_at_constant_speed(drives: list[Drive]) -> None:
    checked = 0
    for drive in drives:
        steady = drive.obstacle_visible & (drive.speed_mps > 2.0) & (np.abs(drive.accel_mps2) < 0.01) & ~drive.zone
        ttc = drive.obstacle_m[steady] / drive.speed_mps[steady]
        action = drive.action[steady]
        assert (action[ttc < STOP_TTC_S - 0.01] == ACTIONS.index("stop")).all()
        between = (ttc > STOP_TTC_S + 0.01) & (ttc < SLOW_TTC_S - 0.01)
        assert (action[between] == ACTIONS.index("slow")).all()
        assert (action[ttc > SLOW_TTC_S + 0.01] == ACTIONS.index("keep")).all()
        checked += len(action)
    assert checked > 1000


def test_sound_has_the_drive_s_length_and_is_louder_with_a_near_siren() -> None:
    drive = next(d for d in map(lambda s: sample_drive(s, 60.0), range(20)) if (d.emergency == 1).sum() > 100)
    sound = pcm(drive)
    assert sound.dtype == np.int16 and sound.shape == (16_000 * 60,)
    blocks = sound.reshape(1200, 800).astype(float)
    level = np.sqrt((blocks**2).mean(1))
    near = (drive.emergency == 1) & (np.abs(drive.siren_y_m) < 30.0)
    assert level[near].mean() > 2 * level[drive.siren_audible == 0].mean()


def test_approaching_siren_sounds_higher_than_the_same_receding() -> None:
    from pipeline.scenarios.driving.sound import SOUND_MPS, _phase

    seconds = np.arange(16_000) / 16_000
    pitch = [np.ptp(_phase("hi-lo", seconds - (80 + rate * seconds) / SOUND_MPS, 0.0)) for rate in (-15.0, 15.0)]
    assert pitch[0] / pitch[1] == pytest.approx((SOUND_MPS + 15) / (SOUND_MPS - 15), rel=0.02)


def test_telemetry_rises_in_time_tells_the_speed_and_marks_what_is_invalid() -> None:
    drive = sample_drive(3, 60.0)
    times, values, valid = telemetry(drive)
    assert values.dtype == np.float32 and values.shape == valid.shape == (len(times), 8)
    assert (np.diff(times) > 0).all() and 95 <= len(times) / 60 <= 105
    assert np.isfinite(values).all() and (values[~valid] == 0).all() and 0 < (~valid).mean() < 0.01
    speed = np.interp(times, drive.frame_times_s, drive.speed_mps)
    assert np.abs(values[:, 0] - speed)[valid[:, 0]].max() < 0.4


def test_text_is_sparse_sorted_and_short() -> None:
    for seed in range(5):
        lines = text_lines(sample_drive(seed, 60.0))
        times = [time_s for time_s, _ in lines]
        assert times == sorted(times) and times[0] >= 0 and times[-1] < 60.0
        assert 2.0 <= 60.0 / len(lines) <= 10.0
        assert all(line.isprintable() and len(line) < 200 and "{" not in line for _, line in lines)


def test_arrivals_are_small_and_samples_are_lost_only_in_the_gaps() -> None:
    drive = sample_drive(3, 600.0)
    late = arrivals(drive)
    for stream, gaps in late.gaps_s.items():
        delays = late.delays_s(stream, drive.frame_times_s)
        assert np.array_equal(delays, late.delays_s(stream, drive.frame_times_s), equal_nan=True)
        heard = delays[~np.isnan(delays)]
        assert heard.min() >= 0.001 and heard.max() <= 0.008
        lost = sum(np.sum((drive.frame_times_s >= a) & (drive.frame_times_s < b)) for a, b in gaps)
        assert lost == np.isnan(delays).sum() or lost > np.isnan(delays).sum()  # gaps may overlap
        assert all(0.3 <= b - a <= 3.0 for a, b in gaps)


def test_drawing_keeps_nothing_of_the_frames_before() -> None:
    """Subprocess: another test's renderer in this process would be counted too."""
    pytest.importorskip("panda3d.core", reason="panda3d (extra `sim`) is not installed")
    code = """
from panda3d.core import TransformState
from pipeline.scenarios.driving import Renderer, sample_drive
drive = sample_drive(42, 20.0)
with Renderer() as renderer:
    counts = []
    for index in range(240):
        renderer.frame(drive, index)
        counts.append(TransformState.get_num_states())
print(counts[-1] - counts[60])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert int(done.stdout) < 100


def test_frames_are_the_same_whatever_was_drawn_before() -> None:
    pytest.importorskip("panda3d.core", reason="panda3d (extra `sim`) is not installed")
    drive, other = sample_drive(4, 20.0), sample_drive(9, 20.0)
    with Renderer() as renderer:
        first = renderer.frame(drive, 100)
        renderer.frame(other, 300)
        renderer.frame(drive, 17)
        again = renderer.frame(drive, 100)
    with Renderer() as renderer:
        reopened = renderer.frame(drive, 100)
    assert first.shape == (192, 320, 3) and first.dtype == np.uint8 and first.std() > 10
    assert np.array_equal(first, again) and np.array_equal(first, reopened)


def test_mirror_shows_the_flashing_light_of_a_vehicle_behind() -> None:
    pytest.importorskip("panda3d.core", reason="panda3d (extra `sim`) is not installed")
    with Renderer() as renderer:
        for seed in range(40):
            drive = sample_drive(seed, 60.0)
            seen = (drive.siren_source == 1) & drive.siren_visible & (np.abs(drive.siren_y_m + 45.0) < 10.0)
            if seen.any():
                index = int(np.flatnonzero(seen)[0])
                break
        mirror = renderer.frame(drive, index)[:40, 96:224].astype(int)
    red = (mirror[..., 0] - mirror[..., 1:].max(-1)).max()
    blue = (mirror[..., 2] - mirror[..., :2].max(-1)).max()
    assert max(red, blue) > 60


def test_frames_and_sound_have_one_hash_in_two_processes() -> None:
    pytest.importorskip("panda3d.core", reason="panda3d (extra `sim`) is not installed")
    hashes = {
        subprocess.run([sys.executable, "-c", HASH_CODE], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    }
    assert len(hashes) == 1 and len(hashes.pop().strip()) == hashlib.sha256().digest_size * 2


def test_everyday_drives_have_about_as_many_encounters_an_hour_as_they_say() -> None:
    everyday = [sample_drive(seed, 600.0, Conditions(script="everyday")) for seed in range(60)]
    noted = sum(sum(e.kind in ("siren", "lights", "text") for e in drive.episodes) for drive in everyday)
    assert 16 <= noted / 10.0 <= 30
    assert 0.005 < np.mean([drive.emergency.mean() for drive in everyday]) < 0.06


def test_trucks_and_standing_tell_nothing_of_whether_somebody_comes(drives: list[Drive]) -> None:
    trucks: dict[bool, list[float]] = {True: [], False: []}
    for drive in drives:
        behind = np.isfinite(drive.truck_behind_m)
        comes = drive.siren_source == SOURCES.index("behind")
        calm = (drive.siren_source == 0) & (drive.obstacle == 0)
        trucks[True].append(behind[comes].mean() if comes.any() else np.nan)
        trucks[False].append(behind[calm].mean() if calm.any() else np.nan)
    assert abs(np.nanmean(trucks[True]) - np.nanmean(trucks[False])) < 0.12


def test_dispatch_misleads_about_15_percent_of_the_time() -> None:
    wrong = [
        e.said != e.source and not (e.source == SOURCES.index("radio") and e.said == 0)
        for seed in range(300)
        for e in sample_drive(seed, 60.0).episodes
        if e.kind in ("siren", "lights", "text")
    ]
    assert 0.12 <= np.mean(wrong) <= 0.2


def test_an_unfamiliar_siren_never_sounds_unless_asked_for(drives: list[Drive]) -> None:
    assert max(int(drive.siren_kind.max()) for drive in drives) < FAMILIAR_SIREN_KINDS
    asked = sample_drive(1, 60.0, Conditions(siren_kinds=(3,)))
    assert set(asked.siren_kind[asked.siren_audible > 0].tolist()) == {3}


def test_percepts_hide_what_the_sensor_cannot_perceive(drives: list[Drive]) -> None:
    for drive in drives[:10]:
        frames = np.arange(0, len(drive.frame_times_s), 7)
        found = percepts(drive, frames)
        hidden = ~drive.siren_visible[frames]
        assert not found["camera"][0][hidden][:, :6].any()
        silent = drive.siren_audible[frames] == 0
        assert not found["microphone"][0][silent][:, :4].any()
        assert all(np.isfinite(clean).all() and len(spread) == clean.shape[1] for clean, spread in found.values())


def test_percepts_say_how_long_a_siren_has_sounded_and_the_speed_been_even(drives: list[Drive]) -> None:
    for drive in drives[:10]:
        frames = np.arange(len(drive.frame_times_s))
        found = {s: dict(zip(COLUMNS[s], clean.T, strict=True)) for s, (clean, _) in percepts(drive, frames).items()}
        sounded = found["microphone"]["s siren"]
        assert not sounded[drive.siren_audible == 0].any()
        starts = np.flatnonzero(np.diff((drive.siren_audible > 0).astype(int)) == 1) + 1
        np.testing.assert_allclose(sounded[starts], 1 / FRAME_RATE_HZ)
        assert sounded.max() <= MEMORY_S
        even = found["telemetry"]["s m/s2 even"]
        braking = np.abs(np.diff(drive.accel_mps2)) > 1.0
        assert (even[1:][braking] <= 1 / FRAME_RATE_HZ).all()
        fastest, nears = found["camera"]["greatest m/s towards it"], found["camera"]["m/s towards obstacle"]
        assert (fastest >= nears).all()
        assert not fastest[~drive.obstacle_visible].any()
