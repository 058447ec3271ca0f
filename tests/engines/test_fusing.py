from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from engines.networks.layout import FusionLayout  # noqa: E402
from engines.networks.variant import FusionNetwork  # noqa: E402
from engines.training import fusing  # noqa: E402
from engines.training.drawing import Drawing  # noqa: E402
from engines.training.evaluating.rivals import rivals_of  # noqa: E402
from engines.training.evaluating.sets import EvaluationPlan  # noqa: E402
from engines.training.evaluation.metrics import auroc  # noqa: E402
from engines.training.fusing import predict, train_fusion  # noqa: E402
from engines.training.instants import ABSENT, FOREVER, PRESENT, Ticks, undisturbed  # noqa: E402
from engines.training.objective import FusingOptions  # noqa: E402
from engines.training.probing import modality_probe  # noqa: E402
from engines.training.token_set import TokenSet  # noqa: E402

LAYOUT = FusionLayout(
    streams=("camera", "microphone", "text"),
    token_counts=(2, 2, 1),
    heads={"alarm": ("no", "yes"), "act": ("keep", "slow", "stop")},
    memory_entries=2,
    memory_step_s=0.3,
)
RUNS, TICKS = 12, 100
ALL = (True, True, True)


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _set(seed: int, runs: int = RUNS, ticks: int = TICKS) -> TokenSet:
    """Camera and microphone see mostly one of two slow latents, text both roughly; yes where the latents' signs differ."""
    rng, fixed = np.random.default_rng(seed), np.random.default_rng(99)
    count = runs * ticks
    latent = np.zeros((runs, ticks, 2))
    latent[:, 0] = rng.normal(size=(runs, 2))
    for t in range(1, ticks):
        latent[:, t] = 0.9 * latent[:, t - 1] + 0.436 * rng.normal(size=(runs, 2))
    a, b = latent.reshape(count, 2).T
    tokens, low_level = {}, {}
    vague = rng.normal(size=(2, count))
    seen = {
        "camera": np.stack([a, 0.3 * b + vague[0]], 1),
        "microphone": np.stack([b, 0.3 * a + vague[1]], 1),
        "text": np.round(np.stack([a, b], 1)),
    }
    for stream, tokens_each in zip(LAYOUT.streams, LAYOUT.token_counts, strict=True):
        hidden = np.tanh(seen[stream] @ fixed.normal(size=(2, 32)) + 0.1 * rng.normal(size=(count, 32)))
        tokens[stream] = (
            (hidden @ fixed.normal(size=(32, tokens_each * 64)) / 3).reshape(count, tokens_each, 64).astype(np.float16)
        )
        low_level[stream] = (seen[stream] @ fixed.normal(size=(2, 12))).reshape(count, 4, 3).astype(np.float16)
    state = np.zeros((count, 3), np.uint8)
    state[:, 2] = rng.random(count) < 0.3
    return TokenSet(
        tick_s=0.1,
        seeds=tuple(range(runs)),
        run=np.repeat(np.arange(runs), ticks).astype(np.int32),
        time_s=np.tile(np.arange(ticks) * 0.1, runs).astype(np.float32),
        tokens=tokens,
        low_level=low_level,
        state=state,
        age_s=np.full((count, 3), 0.02, np.float32),
        labels={"alarm": (a * b < 0).astype(np.uint8), "act": np.digitize(a, [-0.5, 1.0]).astype(np.uint8)},
        scored={"alarm": np.abs(a * b) > 0.05, "act": np.ones(count, np.bool_)},
        percepts={},
        decisive=np.full(count, -1, np.int8),
        events=(),
    )


TRAIN, TEST = _set(1), _set(2, runs=6)


@pytest.fixture(scope="module")
def network() -> FusionNetwork:
    return train_fusion(TRAIN, LAYOUT, "low_rank", seed=0, steps=150, options=FusingOptions(batch=64))


def _score(logits: dict[str, Any], head: str = "alarm") -> Any:
    return logits[head][:, 1].astype(np.float64) - logits[head][:, 0]


def test_training_finds_what_needs_two_streams_and_one_stream_does_not(network: FusionNetwork) -> None:
    truth = TEST.labels["alarm"] == 1
    fused = auroc(_score(predict(network, TEST, present=ALL)), truth)
    single = auroc(_score(predict(network, TEST, present=(True, False, False))), truth)
    assert fused > 0.9 and fused > single + 0.08


def test_the_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    first, again, other = (
        train_fusion(TRAIN, LAYOUT, "gate", seed=seed, steps=3, options=FusingOptions(batch=16)).state_dict()
        for seed in (5, 5, 6)
    )
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert not torch.equal(first["front.age.weight"], other["front.age.weight"])


def test_an_interrupted_training_goes_on_to_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fusing, "SAVE_EVERY", 3)
    path, options = tmp_path / "state.pt", FusingOptions(batch=16)

    def interrupt(step: int, loss: float) -> None:
        if step == 5:
            raise KeyboardInterrupt

    whole = train_fusion(TRAIN, LAYOUT, "concat", seed=1, steps=8, options=options).state_dict()
    with pytest.raises(KeyboardInterrupt):
        train_fusion(TRAIN, LAYOUT, "concat", seed=1, steps=8, options=options, on_step=interrupt, state_path=path)
    with pytest.raises(RuntimeError, match="another run"):
        train_fusion(TRAIN, LAYOUT, "concat", seed=2, steps=8, options=options, state_path=path)
    steps: list[int] = []
    resumed = train_fusion(
        TRAIN, LAYOUT, "concat", seed=1, steps=8, options=options, on_step=lambda n, _: steps.append(n), state_path=path
    ).state_dict()
    assert steps == [4, 5, 6, 7, 8] and not path.exists()
    assert all(torch.equal(whole[k], resumed[k]) for k in whole)


@pytest.mark.parametrize(
    ("variant", "options"),
    [
        ("early", FusingOptions()),
        ("late_mean", FusingOptions()),
        ("co_attention", FusingOptions(weighting="pcgrad")),
        ("bottleneck", FusingOptions(weighting="equal", adversary=0.0, alignment=0.0, orthogonality=0.0, unimodal=0.0)),
        ("gate", FusingOptions(tasks=("act",))),
        ("gate", FusingOptions(present=(False, True, False))),
        ("gate", FusingOptions(taken=0.0)),
    ],
)
def test_every_option_trains(variant: str, options: FusingOptions) -> None:
    found: list[float] = []
    train_fusion(
        TRAIN, LAYOUT, variant, seed=0, steps=4, options=replace(options, batch=16), on_step=lambda _, loss: found.append(loss)
    )
    assert len(found) == 4 and np.isfinite(found).all()


def test_a_single_task_model_leaves_the_other_head_as_it_was() -> None:
    torch.manual_seed(0)
    network = train_fusion(
        TRAIN, LAYOUT, "concat", seed=0, steps=6, options=FusingOptions(batch=16, tasks=("act",), weight_decay=0)
    )
    torch.manual_seed(0)
    untrained = fusing.VARIANTS["concat"](LAYOUT, None).state_dict()
    trained = network.state_dict()
    assert torch.allclose(trained["ending.heads.0.weight"], untrained["ending.heads.0.weight"], atol=1e-6)
    assert not torch.allclose(trained["ending.heads.1.weight"], untrained["ending.heads.1.weight"], atol=1e-4)


def test_an_unknown_variant_and_a_set_of_other_streams_are_refused(network: FusionNetwork) -> None:
    with pytest.raises(ValueError, match="variant is 'middle'"):
        train_fusion(TRAIN, LAYOUT, "middle", seed=0, steps=1)
    other = replace(LAYOUT, streams=("camera", "microphone", "radar"))
    with pytest.raises(ValueError, match="radar"):
        train_fusion(TRAIN, other, "gate", seed=0, steps=1)
    with pytest.raises(ValueError, match="radar"):
        predict(network, TEST, present=ALL, delay_s={"radar": 0.1})


def _as_the_runtime_would(network: FusionNetwork, row: int, shift: dict[str, int], present: tuple[bool, ...]) -> Any:
    """One run decided tick by tick up to ``row``, keeping memory entries as the runtime does."""
    start, entries, logits = row - row % TICKS, [], None
    for now in range(start, row + 1):
        age = np.array([[0.02 + 0.1 * shift.get(s, 0) for s in LAYOUT.streams]], np.float32)
        sources = [now - shift.get(s, 0) for s in LAYOUT.streams]
        state = [
            ABSENT if source < start or not there else int(TEST.state[max(source, start), i])
            for i, (source, there) in enumerate(zip(sources, present, strict=True))
        ]
        tokens = [
            torch.from_numpy(np.asarray(TEST.tokens[s][max(source, start)])).float()[None]
            for s, source in zip(LAYOUT.streams, sources, strict=True)
        ]
        memory, ages, mask = torch.zeros(1, 2, 64), torch.zeros(1, 2), torch.zeros(1, 2)
        for place, (when, token) in enumerate(entries[:2]):
            memory[0, place], ages[0, place], mask[0, place] = token[0], (now - when) * 0.1, 1.0
        with torch.inference_mode():
            logits, token = network(tokens, torch.from_numpy(age), torch.eye(3)[torch.tensor([state])], memory, ages, mask)
        if not entries or now - entries[0][0] >= 3:
            entries.insert(0, (now, token))
    return torch.cat(logits, dim=1)[0].numpy()


@pytest.mark.parametrize(("delay", "present"), [({}, ALL), ({"camera": 2}, ALL), ({"microphone": 3}, (True, True, False))])
def test_predictions_are_those_of_a_run_decided_tick_by_tick(
    network: FusionNetwork, delay: dict[str, int], present: tuple[bool, ...]
) -> None:
    found = predict(network, TEST, present=present, delay_s={s: 0.1 * d for s, d in delay.items()}, batch=100)
    for row in (0, 1, 3, 4, 17, TICKS, 2 * TICKS - 1):
        joined = np.concatenate([found["alarm"][row], found["act"][row]])
        assert np.allclose(joined, _as_the_runtime_would(network, row, delay, present), atol=1e-4), row


def test_predicting_some_rows_gives_what_predicting_all_gives_there(network: FusionNetwork) -> None:
    rows = np.array([0, 5, 100, 101, 350, 599])
    some, whole = predict(network, TEST, present=ALL, rows=rows), predict(network, TEST, present=ALL)
    assert all(np.allclose(some[head], whole[head][rows], atol=1e-5) for head in some)


def test_an_absent_stream_has_no_influence_now_or_in_the_memory(network: FusionNetwork) -> None:
    noise = np.random.default_rng(0).normal(size=TEST.tokens["camera"].shape).astype(np.float16)
    changed = replace(TEST, tokens={**TEST.tokens, "camera": noise})
    present = (False, True, True)
    before, after = (predict(network, s, present=present)["alarm"] for s in (TEST, changed))
    assert np.array_equal(before, after)
    assert not np.array_equal(predict(network, changed, present=ALL)["alarm"], predict(network, TEST, present=ALL)["alarm"])


def test_a_frozen_stream_repeats_its_tokens_while_it_sticks_and_is_itself_after(network: FusionNetwork) -> None:
    frozen = predict(network, TEST, present=ALL, frozen={"camera": (4.0, 1.0)})["alarm"]
    normal = predict(network, TEST, present=ALL)["alarm"]
    tokens = np.array(TEST.tokens["camera"])
    place = np.arange(len(TEST)) % TICKS
    stuck = place % 40 < 10
    tokens[stuck] = tokens[(np.arange(len(TEST)) - place % 40)[stuck]]
    expected = predict(network, replace(TEST, tokens={**TEST.tokens, "camera": tokens}), present=ALL)["alarm"]
    assert np.allclose(frozen, expected, atol=1e-5)
    free = place % 40 >= 17  # a memory of two entries, 0.3 s apart, reaches back 0.6 s
    assert np.allclose(frozen[free], normal[free], atol=1e-5) and not np.allclose(frozen[stuck], normal[stuck], atol=1e-2)


def test_a_delay_at_the_start_of_a_run_reads_nothing_of_the_run_before() -> None:
    ticks = Ticks(TEST, LAYOUT, FusionNetwork)
    late = replace(undisturbed(3, 3), delay_ticks=np.array([[2, 0, 0]] * 3))
    read = ticks.read(np.array([TICKS, TICKS + 1, TICKS + 2]), late)
    assert read.mask[:, 0].argmax(dim=1).tolist() == [ABSENT, ABSENT, PRESENT]
    assert np.array_equal(read.inputs[0][2].numpy(), TEST.tokens["camera"][TICKS].astype(np.float32))
    assert read.age_s[:, 0].tolist() == pytest.approx([0.22] * 3)


def test_noise_on_the_tokens_follows_each_value_s_spread_over_the_set() -> None:
    steady = TEST.tokens["camera"].copy()
    steady[:, 0] = 3.0
    spread = Ticks(replace(TEST, tokens={**TEST.tokens, "camera": steady}), LAYOUT, FusionNetwork).spread
    assert [s.shape for s in spread] == [(2, 64), (2, 64), (1, 64)]
    assert (spread[0][0] == 0).all()
    expected = TEST.tokens["camera"][:, 1].astype(np.float32).std(axis=0)
    assert np.allclose(spread[0][1].numpy(), expected, rtol=1e-4)


def test_the_shared_part_is_as_wide_as_the_layout_says() -> None:
    narrow = replace(LAYOUT, shared_width=3)
    network = train_fusion(TRAIN, narrow, "low_rank", seed=0, steps=3, options=FusingOptions(batch=16))
    widths = {layer.out_features for layer in network.front.parts.shared}  # type: ignore[union-attr]
    assert widths == {3}


def test_rivals_are_trained_as_the_shipped_network_but_for_what_their_name_says() -> None:
    plan = EvaluationPlan(jobs={}, fusing=FusingOptions(alignment=2.0))
    found = {rival.name: rival.options for rival in rivals_of(plan, LAYOUT)}
    assert all(options.alignment == 2.0 for options in found.values())
    assert found["ablation as shipped, another seed"] == plan.fusing
    assert found["ablation no adversary"] == replace(plan.fusing, adversary=0.0)


def _drawing(options: FusingOptions) -> Drawing:
    return Drawing(TRAIN, LAYOUT, Ticks(TRAIN, LAYOUT, FusionNetwork), options, seed=3)


def test_drawn_removals_leave_a_stream_and_take_one_and_respect_what_there_is() -> None:
    options = FusingOptions(batch=400, taken=0.9, delayed=0.5, frozen=0.2)
    draw = _drawing(options).draw(0)
    assert draw.masked is not None
    gone = draw.masked.lost_ticks > 0
    assert gone.any(axis=1).all() and not gone.all(axis=1).any() and not (draw.complete.lost_ticks > 0).any()
    assert draw.complete.delay_ticks.max() == 3 and set(np.unique(draw.complete.stuck_ticks)) <= {0, *range(5, 31)}
    assert (draw.masked.lost_ticks == FOREVER).any() and ((draw.masked.lost_ticks > 0) & (draw.masked.lost_ticks < 10)).any()
    limited = _drawing(replace(options, present=(True, True, False))).draw(0)
    assert limited.masked is not None and (limited.complete.lost_ticks[:, 2] == FOREVER).all()
    assert ((limited.masked.lost_ticks[:, :2] > 0).sum(axis=1) == 1).all()
    assert _drawing(replace(options, taken=0.0)).draw(0).masked is None


def test_memory_entries_lie_a_step_apart_and_never_in_the_run_before() -> None:
    draw = _drawing(FusingOptions(batch=2000, forgotten=0.5)).draw(1)
    assert (np.diff(draw.lags, axis=1) == 3).all() and set(np.unique(draw.lags[:, 0])) == {1, 2, 3}
    run = TRAIN.run[draw.rows]
    for place in range(2):
        assert (TRAIN.run[np.maximum(draw.rows - draw.lags[:, place], 0)] == run)[draw.entries[:, place]].all()
    assert {0, 1, 2} == set(draw.entries.sum(axis=1)) and not (draw.entries[:, 1] & ~draw.entries[:, 0]).any()


def test_rare_classes_are_drawn_oftener_and_the_log_ratio_says_how_much() -> None:
    drawing = _drawing(FusingOptions(batch=3000, unscored=1.0))
    labels = drawing.draw(0).target.labels["act"].numpy()
    drawn = np.bincount(labels, minlength=3) / len(labels)
    natural = np.bincount(TRAIN.labels["act"], minlength=3) / len(TRAIN)
    assert drawn[natural.argmin()] > natural.min() * 1.1
    assert np.allclose(np.exp(drawing.log_ratios["act"].numpy()), drawn / natural, rtol=0.12)


def test_the_probe_reads_the_private_part_and_hardly_the_shared(network: FusionNetwork) -> None:
    found = modality_probe(network, TRAIN, TEST, ticks=600)
    open_network = train_fusion(
        TRAIN, LAYOUT, "low_rank", seed=0, steps=60, options=FusingOptions(batch=64, adversary=0.0, alignment=0.0)
    )
    without = modality_probe(open_network, TRAIN, TEST, ticks=600)
    assert found["private_linear"] > 0.9 and found["chance"] == pytest.approx(1 / 3, abs=1e-3)
    assert found["shared_mlp"] < without["shared_mlp"] - 0.15 and found["shared_linear"] < 0.6
    assert found["retrieval_times_chance"] > 1.2
