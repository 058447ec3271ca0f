from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

from engines.export import OPSET, PARITY, session_from_model  # noqa: E402
from engines.networks.early import GRID, grid_from_steps  # noqa: E402
from engines.networks.gate import GateFusion  # noqa: E402
from engines.networks.late import LateFusion  # noqa: E402
from engines.networks.layout import FusionLayout  # noqa: E402
from engines.networks.variant import BUDGET, TOLERANCE, Flat, FusionNetwork, fitted, parameter_count  # noqa: E402
from engines.networks.variants import INTERMEDIATE, LATE, VARIANTS  # noqa: E402

CLASSES = {"emergency": ("none", "approaching"), "collision": ("clear", "imminent"), "action": ("keep", "slow", "yield", "stop")}
ALARMS = {"alarm": ("false", "true"), "apnea": ("breathing", "apnea"), "fall": ("none", "fallen")}
FOUR = ("camera", "microphone", "telemetry", "text")


def _layout(streams: tuple[str, ...], counts: tuple[int, ...], heads: dict[str, tuple[str, ...]], entries: int) -> FusionLayout:
    return FusionLayout(streams=streams, token_counts=counts, heads=heads, memory_entries=entries, memory_step_s=1.0)


LAYOUTS = {
    "driving": _layout(FOUR, (6, 4, 2, 2), CLASSES, 4),
    "patient": _layout(FOUR, (4, 4, 8, 2), ALARMS, 6),
    "three": _layout(FOUR[:3], (8, 8, 8), ALARMS, 4),
    "two": _layout(FOUR[:2], (2, 2), {"answer": ("no", "yes")}, 0),
}
SHAPES = {"camera": (5, 192), "microphone": (11, 40), "telemetry": (20, 14), "text": (1, 32)}


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@cache
def _network(name: str, layout: str = "driving") -> FusionNetwork:
    torch.manual_seed(3)
    return VARIANTS[name](LAYOUTS[layout], SHAPES).train(False)


def _inputs(network: FusionNetwork, batch: int = 3, seed: int = 0) -> list[Any]:
    """Streams, ages, mask, memory, its ages and mask; each row has each state somewhere."""
    layout, generator = network.layout, torch.Generator().manual_seed(seed)
    shapes = [SHAPES[s] for s in layout.streams] if network.reads == "low_level" else [(n, 64) for n in layout.token_counts]
    streams = [torch.randn(batch, *shape, generator=generator) for shape in shapes]
    state = torch.arange(batch * len(shapes)).reshape(batch, -1) % 3
    entries = layout.memory_entries
    there = (torch.arange(entries) < entries - 1).float().expand(batch, -1)
    memory = torch.rand(batch, entries, 64, generator=generator) * 2 - 1
    ages = torch.rand(batch, entries, generator=generator) * 4
    return [streams, torch.rand(batch, len(shapes), generator=generator), torch.eye(3)[state], memory, ages, there]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_keeps_the_budget_and_gives_the_layouts_shapes(name: str, layout: str) -> None:
    network = _network(name, layout)
    assert abs(parameter_count(network) - BUDGET) <= TOLERANCE * BUDGET
    with torch.inference_mode():
        logits, token = network(*_inputs(network))
    assert [tuple(x.shape) for x in logits] == [(3, len(labels)) for labels in LAYOUTS[layout].heads.values()]
    assert token.shape == (3, 64) and bool((token.abs() <= 1).all())


def test_a_seed_gives_the_same_weights_whatever_sizes_were_tried_for_the_budget() -> None:
    searched = _network("gate").state_dict()
    torch.manual_seed(3)
    direct = GateFusion(LAYOUTS["driving"], searched["vectors.layers.0.bias"].shape[0]).state_dict()
    assert searched.keys() == direct.keys() and all(torch.equal(searched[k], v) for k, v in direct.items())


def test_a_budget_that_no_size_meets_is_refused() -> None:
    with pytest.raises(ValueError, match="parameters"):
        fitted(lambda size: torch.nn.Linear(size, 1), range(1, 50))


@pytest.mark.parametrize("name", VARIANTS)
def test_what_a_missing_stream_and_an_empty_memory_entry_hold_has_no_influence(name: str) -> None:
    network = _network(name)
    inputs = _inputs(network)
    changed = _inputs(network)
    for index, stream in enumerate(changed[0]):
        gone = changed[2][:, index, 0] < 0.5
        assert bool(gone.any())
        stream[gone] = torch.randn_like(stream[gone]) * 50
        changed[1][gone, index] = 33.0
    changed[3][:, -1], changed[4][:, -1] = 7.0, 50.0
    with torch.inference_mode():
        (logits, token), (others, other) = network(*inputs), network(*changed)
    assert torch.equal(token, other) and all(torch.equal(a, b) for a, b in zip(logits, others, strict=True))


@pytest.mark.parametrize("name", VARIANTS)
def test_state_age_content_and_memory_each_change_the_outcome(name: str) -> None:
    network = _network(name)
    inputs = _inputs(network)
    inputs[2] = torch.eye(3)[torch.zeros(3, 4, dtype=torch.long)]
    with torch.inference_mode():
        before = torch.cat(network(*inputs)[0], dim=1)
        for index in range(6):
            changed = list(inputs)
            if index == 0:
                changed[0] = [x + torch.randn_like(x) for x in inputs[0]]
            elif index == 2:
                changed[2] = inputs[2].roll(1, dims=2)  # all quiet instead of present
            elif index == 5:
                changed[5] = 1 - inputs[5]
            else:
                changed[index] = inputs[index] + 0.5
            after = torch.cat(network(*changed)[0], dim=1)
            assert not torch.allclose(before, after, atol=1e-6), f"input {index}"
        quiet, absent = list(inputs), list(inputs)
        quiet[2], absent[2] = inputs[2].roll(1, dims=2), inputs[2].roll(2, dims=2)
        assert not torch.equal(network(*quiet)[1], network(*absent)[1])


@pytest.mark.parametrize("name", VARIANTS)
def test_the_memory_token_depends_on_the_instant_alone(name: str) -> None:
    network = _network(name)
    inputs = _inputs(network)
    changed = [*inputs[:3], inputs[3] * 0.1, inputs[4] + 9, 1 - inputs[5]]
    with torch.inference_mode():
        (before, token), (after, same) = network(*inputs), network(*changed)
        _, other = network([x + 1 for x in inputs[0]], *inputs[1:])
    assert torch.equal(token, same) and not torch.allclose(token, other)
    assert not torch.allclose(torch.cat(before, 1), torch.cat(after, 1))


@pytest.mark.parametrize("name", LATE)
def test_late_fusion_is_additive_over_streams_with_their_memories_and_intermediate_is_not(name: str) -> None:
    def interaction(network: FusionNetwork) -> float:
        """Mixed difference of the head's additive quantity when camera and microphone each change, now and in the memory."""
        inputs = _inputs(network)
        inputs[2] = torch.eye(3)[torch.zeros(3, 4, dtype=torch.long)]
        other = _inputs(network, seed=1)
        with torch.inference_mode():
            made = {}
            for camera in (0, 1):
                for microphone in (0, 1):
                    picked = [(inputs, other)[c][0][i] for i, c in enumerate((camera, microphone, 0, 0))]
                    token = network.perceive(picked, inputs[1], inputs[2]).memory_token
                    memory = token[:, None].expand(-1, 4, -1)
                    logits = network(picked, inputs[1], inputs[2], memory, inputs[4], inputs[5])[0][0]
                    made[camera, microphone] = torch.exp(logits) if name == "late_mean" else logits
        return float((made[0, 0] - made[0, 1] - made[1, 0] + made[1, 1]).abs().max())

    assert interaction(_network(name)) < 1e-5
    assert all(interaction(_network(other)) > 1e-4 for other in INTERMEDIATE)


def test_late_mean_is_the_mean_of_the_present_and_the_prior_where_there_is_none() -> None:
    network = _network("late_mean")
    assert isinstance(network, LateFusion)
    streams, age, _, *memory = _inputs(network, batch=2)
    mask = torch.eye(3)[torch.tensor([[0, 2, 0, 2], [2, 2, 1, 2]])]
    prior = torch.softmax(network.prior[0].detach(), 0)
    with torch.inference_mode():
        seen = network.perceive(streams, age, mask)
        alone = torch.softmax(network.unimodal_logits(seen.state, *memory)[0], dim=2)
        found = torch.exp(network.decide(seen.state, *memory)[0])
    assert torch.allclose(found[0], (alone[0, 0] + alone[0, 2]) / 2, atol=1e-6)
    assert torch.allclose(found[1], prior, atol=1e-6) and not torch.allclose(found[0], prior, atol=1e-3)


@pytest.mark.parametrize("steps", [1, 2, 5, GRID, 50])
def test_a_ramp_stays_a_ramp_on_the_common_grid(steps: int) -> None:
    ramp = torch.linspace(0.0, 1.0, steps) if steps > 1 else torch.zeros(1)
    expected = torch.linspace(0.0, 1.0, GRID) if steps > 1 else torch.zeros(GRID)
    assert torch.allclose(grid_from_steps(steps) @ ramp, expected, atol=1e-6)
    assert torch.allclose(grid_from_steps(steps).sum(dim=1), torch.ones(GRID))


class _Unbatched(torch.nn.Module):
    def __init__(self, network: FusionNetwork) -> None:
        super().__init__()
        self.network = Flat(network)

    def forward(self, *inputs: Any) -> Any:
        return tuple(x[0] for x in self.network(*(x[None] for x in inputs)))


@pytest.mark.parametrize("name", VARIANTS)
def test_the_exported_graph_computes_what_torch_does(name: str) -> None:
    network = _network(name)
    streams, *rest = _inputs(network, batch=2)
    buffer = io.BytesIO()
    names = [*(f"{s}_tokens" for s in FOUR), "age_s", "mask", "memory", "memory_age_s", "memory_mask"]
    rows = [tuple(x[row] for x in (*streams, *rest)) for row in (0, 1)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(_Unbatched(network), rows[0], buffer, input_names=names, opset_version=OPSET, dynamo=False)
    session = session_from_model(onnx.load_from_string(buffer.getvalue()))
    for row in rows:  # the second row has other states: nothing of the first may be frozen into the graph
        with torch.inference_mode():
            wanted = _Unbatched(network)(*row)
        found = session.run(None, dict(zip(names, (x.numpy() for x in row), strict=True)))
        for expected, got in zip((w.numpy() for w in wanted), found, strict=True):
            assert np.abs(expected - got).max() <= PARITY * np.abs(expected).max()
