"""A scenario's training: its seeds are guarded, its steps repeat, and an interrupted one goes on to the same engines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (extra `train`)")
pytest.importorskip("scipy", reason="scipy is not installed (extra `sim`)")

from engines.manifest import load_manifest  # noqa: E402
from engines.networks.driving import DRIVING  # noqa: E402
from engines.registry import WEIGHTS  # noqa: E402
from engines.training import driving, encoding, scenario  # noqa: E402
from engines.training.caching import CacheJob  # noqa: E402
from engines.training.card import put_evaluation, write_card  # noqa: E402
from engines.training.driving_world import DrivingWorld  # noqa: E402
from engines.training.moments import MomentSet, fields  # noqa: E402

WORLD = DrivingWorld()


@pytest.mark.parametrize("seeds", [(995, 1001), (20261123,), (20261122,), (5000,)])
def test_seeds_of_the_test_and_the_shipped_run_are_refused(seeds: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="testing only"):
        scenario.TrainingPlan(train=(CacheJob(seeds=seeds, duration_s=1.0, tick_s=0.1),))


def test_more_runs_than_there_are_before_the_test_are_refused() -> None:
    with pytest.raises(ValueError, match="testing only"):
        scenario.TrainingPlan(runs=1001)


def random_moments(count: int) -> MomentSet:
    """Noise in the shape of moments."""
    rng = np.random.default_rng(0)
    limits = {f"label.{head}": len(labels) for head, labels in WORLD.design.heads.items()}
    limits |= {f"clue.{name}": clue.size for name, clue in WORLD.clues.items()} | {"valid": 2, "spoken": 2}
    arrays = {}
    for name, (dtype, shape) in fields(WORLD).items():
        if dtype == "uint8":
            arrays[name] = rng.integers(0, limits.get(name, 256), (count, *shape)).astype(np.uint8)
        else:
            arrays[name] = rng.random((count, *shape)).astype(dtype)
    return MomentSet(arrays=arrays)


def test_learning_encoders_twice_with_one_seed_gives_the_same_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "BATCH", 8)
    moments = random_moments(16)
    made = [encoding.learn_encoders(WORLD, moments, seed=s, epochs=1, threads=1).state_dict() for s in (5, 5, 6)]
    assert all(torch.equal(made[0][k], made[1][k]) for k in made[0])
    assert not all(torch.equal(made[0][k], made[2][k]) for k in made[0])


def test_interrupted_learning_goes_on_to_the_same_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(encoding, "BATCH", 8)
    monkeypatch.setattr(encoding, "SAVE_EVERY", 1)
    moments, state = random_moments(24), tmp_path / "state"
    whole = encoding.learn_encoders(WORLD, moments, seed=5, epochs=1, threads=1).state_dict()

    def interrupt(step: int) -> None:
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encoding.learn_encoders(WORLD, moments, seed=5, epochs=1, threads=1, on_step=interrupt, state_path=state)
    steps: list[int] = []
    on = encoding.learn_encoders(WORLD, moments, seed=5, epochs=1, threads=1, on_step=steps.append, state_path=state)
    assert steps == [3]
    assert all(torch.equal(whole[k], found) for k, found in on.state_dict().items())
    with pytest.raises(RuntimeError, match="remove the file"):
        encoding.learn_encoders(WORLD, moments, seed=6, epochs=1, threads=1, state_path=state)


def test_no_moment_loses_every_stream_and_half_lose_none() -> None:
    taken = encoding.drawn_absence(np.random.default_rng(0), 4000)
    assert not taken.all(axis=1).any()
    assert 0.5 < (~taken).all(axis=1).mean() < 0.75
    assert taken.any(axis=0).all()


def test_a_silent_text_stream_is_quiet_and_a_taken_one_is_absent_or_quiet() -> None:
    batch = {"spoken": torch.tensor([0, 1, 1, 1], dtype=torch.uint8)}
    taken = np.zeros((4, 4), bool)
    taken[2:, 3] = True
    taken[1, 0] = True
    states = encoding.mask_from_batch(batch, taken).argmax(dim=2)
    assert states.tolist() == [[0, 0, 0, 1], [2, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 2]]


@pytest.mark.timeout(300)
def test_a_little_training_ends_with_engines_that_load_and_leaves_nothing_behind(tmp_path: Path) -> None:
    pytest.importorskip("panda3d.core", reason="panda3d is not installed (extra `sim`)")
    plan = scenario.quick(driving.PLAN)
    outcome = driving.train(tmp_path / "weights", plan=plan, show_progress=False)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["weights"]
    fusion = load_manifest(outcome.folder / "fusion.json")
    assert {h.name: h.labels for h in fusion.heads} == dict(DRIVING.heads)
    assert fusion.memory_step_ns == DRIVING.memory_step_ns
    assert set(fusion.heads[0].calibration_by_mask) == set(fusion.heads[0].thresholds_by_mask) and len(outcome.figures) == 3
    assert "2000" in fusion.training.train_seeds


def test_the_card_names_every_file_hash_and_subset_and_takes_an_evaluation(tmp_path: Path) -> None:
    for path in WEIGHTS.joinpath("driving").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    row = {"balanced_accuracy": 0.5, "accuracy": 0.5, "mean_top_probability": 0.5, "ece": 0.1}
    card = write_card(tmp_path, DRIVING, {head: {"1111": row, "1011": row} for head in DRIVING.heads})
    for path in tmp_path.glob("*.json"):
        assert load_manifest(path).sha256 in card.read_text()
    assert "camera, telemetry, text" in card.read_text() and "simulation only" in card.read_text()
    put_evaluation(card, "measured")
    put_evaluation(card, "measured again")
    assert card.read_text().count("measured") == 1 and "Not evaluated" not in card.read_text()
