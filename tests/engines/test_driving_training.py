"""The driving engines' training: its samples are what the runtime would cut, its seeds are guarded, its steps repeat."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (extra `train`)")
pytest.importorskip("scipy", reason="scipy is not installed (extra `sim`)")

from engines.export import default_heads, export_engine  # noqa: E402
from engines.manifest import Training, load_manifest  # noqa: E402
from engines.networks import microphone  # noqa: E402
from engines.networks.fusion import HEADS, STREAMS, Fusion  # noqa: E402
from engines.registry import WEIGHTS  # noqa: E402
from engines.training import driving, driving_data  # noqa: E402
from engines.training.driving_card import write_card  # noqa: E402
from pipeline.messages import AudioBlock, Header, TelemetryBlock  # noqa: E402
from pipeline.scenarios.driving import feeds, sound, world  # noqa: E402
from pipeline.windows import AudioRing, TelemetryRing, WindowSpec  # noqa: E402

BLOCK_NS = 50_000_000


def moment(now: int, **changes: float) -> driving_data._Moment:
    """A reference time without delays."""
    fields = {
        "now": now,
        "frame": now,
        "camera_age_s": 0.0,
        "microphone_age_s": 0.0,
        "telemetry_age_s": 0.0,
        "frozen_telemetry_s": 0.0,
        "silent": False,
    }
    return driving_data._Moment(**(fields | changes))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def drive() -> world.Drive:
    """A short simulated drive."""
    return world.sample_drive(3, 12.0)


def test_sound_windows_are_those_the_runtime_cuts(drive: world.Drive) -> None:
    spec = WindowSpec(
        kind="audio",
        window_ns=microphone.WINDOW_NS,
        hop_ns=microphone.HOP_NS,
        sample_rate_hz=microphone.SAMPLE_RATE_HZ,
        slack_ns=1_000_000_000 // microphone.SAMPLE_RATE_HZ,
    )
    ring, pcm, cut = AudioRing(spec, 0), sound.pcm(drive), {}
    per = BLOCK_NS * microphone.SAMPLE_RATE_HZ // 1_000_000_000
    for seq in range(len(pcm) // per):
        capture_ns = (seq + 1) * BLOCK_NS - 1_000_000_000 // microphone.SAMPLE_RATE_HZ
        header = Header(stream="microphone", seq=seq, capture_ns=capture_ns, receive_ns=capture_ns, span_ns=BLOCK_NS - 62_500)
        cut |= dict(ring.push(AudioBlock(header=header, pcm=pcm[seq * per : (seq + 1) * per])))
    for end_ns in (2_500_000_000, 6_000_000_000):
        window = next(driving_data._sound_windows(drive, [moment(end_ns // BLOCK_NS)]))
        shift = [s for s in (-1, 0, 1) if np.array_equal(np.roll(cut[end_ns], s)[2:-2], window[2:-2])]
        assert shift, "the training window is not the runtime's, give or take one sample"


def test_telemetry_windows_are_those_the_runtime_cuts(drive: world.Drive) -> None:
    spec = driving_data.WINDOW
    ring, cut = TelemetryRing(spec, 0), {}
    times_s, values, valid = feeds.telemetry(drive)
    times_ns = np.round(times_s * 1e9).astype(np.int64)
    for seq, rows in enumerate(np.array_split(np.arange(len(times_ns)), len(times_ns) // 5)):
        last = int(times_ns[rows[-1]])
        header = Header(stream="telemetry", seq=seq, capture_ns=last, receive_ns=last, span_ns=last - int(times_ns[rows[0]]))
        block = TelemetryBlock(header=header, times_ns=times_ns[rows], values=values[rows], valid=valid[rows])
        cut |= {end: (v, ok) for end, v, ok in ring.push(block)}
    for end_ns in (2_500_000_000, 6_000_000_000):
        columns = driving_data._cheap_columns(drive, [moment(end_ns // BLOCK_NS)])
        assert np.array_equal(columns["values"][0], cut[end_ns][0])
        assert np.array_equal(columns["valid"][0], cut[end_ns][1])


def test_labels_are_those_of_now_and_what_is_seen_those_of_the_delivered_frame(drive: world.Drive) -> None:
    now = int(np.flatnonzero(np.diff(drive.action))[0]) + 1
    columns = driving_data._cheap_columns(drive, [moment(now, frame=now - 1, camera_age_s=0.05)])
    assert columns["action"][0] == drive.action[now] != drive.action[now - 1]
    assert columns["age_s"][0][0] == np.float32(0.05)


@pytest.mark.parametrize("seeds", [range(995, 1001), [20261123]])
def test_the_test_split_and_the_shipped_drive_are_refused(seeds: list[int], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="testing only"):
        driving_data.build(tmp_path / "x", seeds, 1, 1, lambda: None)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("drives", [0, 901])
def test_a_number_of_drives_that_reaches_validation_is_refused(drives: int, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="drives"):
        driving.train(tmp_path / "out", drives=drives)
    assert not (tmp_path / "out").exists()


def random_samples(count: int) -> driving_data.SampleSet:
    """Noise in the shape of samples."""
    rng = np.random.default_rng(0)
    limits = {"emergency": 2, "action": 4, "spoken": 2, "said": 13, "seen_obstacle": 4, "seen_source": 9, "heard_source": 9}
    arrays = {}
    for name, (dtype, shape) in driving_data.FIELDS.items():
        if dtype == "uint8":
            top = limits.get(name, 256 if shape else 2)
            arrays[name] = rng.integers(0, top, (count, *shape)).astype(np.uint8)
        else:
            arrays[name] = rng.random((count, *shape)).astype(dtype)
    return driving_data.SampleSet(arrays=arrays)


def test_learning_twice_with_one_seed_gives_the_same_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driving, "BATCH", 8)
    samples = random_samples(16)
    first, second, other = (driving.learn(samples, seed=s, epochs=1, threads=1).state_dict() for s in (5, 5, 6))
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert not all(torch.equal(first[k], other[k]) for k in first)


def test_no_sample_loses_every_stream_and_half_lose_none() -> None:
    taken = driving.drawn_absence(np.random.default_rng(0), 4000)
    assert not taken.all(axis=1).any()
    assert 0.5 < (~taken).all(axis=1).mean() < 0.75
    assert taken.any(axis=0).all()


def test_a_silent_text_stream_is_quiet_and_a_taken_one_is_absent_or_quiet() -> None:
    batch = {"spoken": torch.tensor([0, 1, 1, 1], dtype=torch.uint8)}
    taken = np.zeros((4, 4), bool)
    taken[2:, 3] = True
    taken[1, 0] = True
    states = driving.mask_from_batch(batch, taken).argmax(dim=2)
    assert states.tolist() == [[0, 0, 0, 1], [2, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 2]]


def test_the_card_names_every_file_hash_and_subset(tmp_path: Path) -> None:
    for path in WEIGHTS.joinpath("driving").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    row = {"balanced_accuracy": 0.5, "accuracy": 0.5, "mean_top_probability": 0.5, "ece": 0.1}
    card = write_card(tmp_path, {head: {"1111": row, "1011": row} for head in HEADS}).read_text()
    for path in tmp_path.glob("*.json"):
        assert load_manifest(path).sha256 in card
    assert "camera, telemetry, text" in card
    assert "simulation only" in card


def test_heads_of_the_manifest_follow_the_network(tmp_path: Path) -> None:
    manifest = load_manifest(export_engine("fusion", Fusion(), tmp_path, Training(trained=False), default_heads()))
    assert manifest.streams == STREAMS
    assert {h.name: h.labels for h in manifest.heads} == HEADS
