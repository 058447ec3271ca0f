from __future__ import annotations

import math
from collections.abc import Iterator

import pytest

torch = pytest.importorskip("torch")

from engines.training import losses  # noqa: E402


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_head_loss_ignores_what_weighs_nothing_and_is_0_when_nothing_weighs() -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 3.0], [0.0, 0.0]])
    labels = torch.tensor([0, 0, 1])
    one = losses.head_loss(logits, labels, torch.tensor([1.0, 0.0, 0.0]))
    assert float(one) == pytest.approx(math.log(1 + math.exp(-2)))
    assert float(losses.head_loss(logits, labels, torch.zeros(3))) == 0.0


def test_logits_fitted_under_a_log_ratio_are_right_for_the_natural_shares() -> None:
    # naturally 10% are of class 1; they are drawn until they are half
    logits = torch.zeros(1, 2, requires_grad=True)
    ratio = torch.tensor([math.log(0.5 / 0.9), math.log(0.5 / 0.1)])
    optimizer = torch.optim.SGD([logits], lr=2.0)
    for _ in range(300):
        optimizer.zero_grad()
        losses.head_loss(logits.expand(2, -1), torch.tensor([0, 1]), torch.ones(2), ratio).backward()
        optimizer.step()
    assert torch.softmax(logits, dim=1)[0, 1].item() == pytest.approx(0.1, abs=1e-3)


def test_uncertainty_weighting_is_least_where_the_variance_matches_the_loss() -> None:
    found = torch.tensor([0.3, 2.0])
    variances = torch.log(2 * found).requires_grad_()
    total = losses.uncertainty_weighted(list(found), variances)
    total.backward()
    assert torch.allclose(variances.grad, torch.zeros(2), atol=1e-6)
    assert float(total) == pytest.approx(sum(0.5 + 0.5 * math.log(2 * x) for x in (0.3, 2.0)), abs=1e-5)


def test_pcgrad_removes_exactly_the_conflicting_component() -> None:
    one, other = torch.tensor([1.0, 0.0]), torch.tensor([-1.0, 1.0])
    # each loses its part along the other: (1, 0) -> (1/2, 1/2), (-1, 1) -> (0, 1)
    assert torch.allclose(losses.without_conflicts([one, other], [[1], [0]]), torch.tensor([0.5, 1.5]))
    rest = losses.without_conflicts([one, other], [[1], [0]])
    assert float(rest @ one) >= 0 and float(rest @ other) >= 0


def test_pcgrad_leaves_agreeing_gradients_alone() -> None:
    gradients = [torch.tensor([1.0, 0.2]), torch.tensor([0.3, 1.0]), torch.tensor([0.0, 0.5])]
    assert torch.equal(losses.without_conflicts(gradients, [[1, 2], [2, 0], [0, 1]]), sum(gradients))


def test_info_nce_is_log_n_for_equal_parts_and_near_0_for_parts_that_match() -> None:
    count = 8
    present, apart = torch.ones(count, 2, dtype=torch.bool), ~torch.eye(count, dtype=torch.bool)
    same = torch.nn.functional.normalize(torch.ones(count, 2, 16), dim=2)
    assert float(losses.aligned(same, present, apart)) == pytest.approx(math.log(count), abs=1e-5)
    matching = torch.eye(16)[:count, None].expand(-1, 2, -1)
    assert float(losses.aligned(matching, present, apart)) < 1e-3
    wrong = torch.stack([torch.eye(16)[:count], torch.eye(16)[:count].roll(1, dims=0)], dim=1)
    assert float(losses.aligned(wrong, present, apart)) > 5


def test_info_nce_counts_neither_absent_streams_nor_neighbours_as_negatives() -> None:
    parts = torch.nn.functional.normalize(torch.ones(8, 2, 4), dim=2)
    present = torch.ones(8, 2, dtype=torch.bool)
    present[4:, 1] = False
    apart = ~torch.eye(8, dtype=torch.bool)
    assert float(losses.aligned(parts, present, apart)) == pytest.approx(math.log(4), abs=1e-5)
    apart[0, 1] = apart[1, 0] = apart[2, 3] = apart[3, 2] = False
    assert float(losses.aligned(parts, present, apart)) == pytest.approx(math.log(3), abs=1e-5)
    assert float(losses.aligned(parts, torch.zeros_like(present), apart)) == 0.0


def test_reversal_keeps_the_value_and_flips_the_gradient() -> None:
    value = torch.tensor([1.0, -2.0], requires_grad=True)
    out = losses.reversed_gradient(value, 0.5)
    assert torch.equal(out, value)
    (out * torch.tensor([3.0, 4.0])).sum().backward()
    assert torch.equal(value.grad, torch.tensor([-1.5, -2.0]))


def test_reversal_grows_from_none_to_full() -> None:
    strengths = [losses.reversal_strength(p / 10) for p in range(11)]
    assert strengths[0] == 0.0 and strengths[-1] > 0.999 and strengths == sorted(strengths)


def test_stream_loss_is_log_of_the_streams_for_a_guess_and_weighs_streams_alike() -> None:
    present = torch.ones(6, 3, dtype=torch.bool)
    assert float(losses.stream_loss(torch.zeros(6, 3, 3), present)) == pytest.approx(math.log(3))
    scores = torch.zeros(6, 3, 3)
    scores[:, 2, 0] = 10.0  # the third stream is taken for the first
    present[1:, 2] = False  # and is there only once
    expected = (2 * math.log(3) + math.log(2 + math.exp(10))) / 3
    assert float(losses.stream_loss(scores, present)) == pytest.approx(expected, abs=1e-4)


def test_overlap_is_0_for_uncorrelated_parts_and_1_for_one_value_twice() -> None:
    wave = torch.tensor([1.0, -1.0, 1.0, -1.0])[:, None, None] * 100
    other = torch.tensor([1.0, 1.0, -1.0, -1.0])[:, None, None] * 100
    present = torch.ones(4, 1, dtype=torch.bool)
    assert float(losses.overlap(wave, other, present)) == pytest.approx(0.0, abs=1e-6)
    assert float(losses.overlap(wave, -3 * wave, present)) == pytest.approx(1.0, abs=1e-5)


def test_distribution_gap_sees_a_shift_and_a_spread_but_not_an_order() -> None:
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(200, 3, generator=generator)
    directions = torch.nn.functional.normalize(torch.randn(3, 20, generator=generator), dim=0)
    present = torch.ones(200, 2, dtype=torch.bool)

    def gap(second: torch.Tensor) -> float:
        return float(losses.distribution_gap(torch.stack([first, second], dim=1), present, directions))

    assert gap(first[torch.randperm(200, generator=generator)]) == pytest.approx(0.0, abs=1e-9)
    assert gap(first + 1) > 0.05 and gap(first * 2) > 0.05
    present[:, 1] = False
    assert gap(first + 1) == 0.0


def test_distillation_teaches_the_masked_side_alone() -> None:
    complete = torch.tensor([[2.0, 0.0]], requires_grad=True)
    masked = torch.tensor([[0.0, 0.0]], requires_grad=True)
    losses.distilled(complete, masked).backward()
    assert complete.grad is None
    assert torch.allclose(-masked.grad, torch.softmax(complete.detach(), 1) - 0.5)
    assert float(losses.distilled(complete, complete)) == pytest.approx(0.0, abs=1e-7)


def test_overconfidence_is_the_rise_of_the_top_probability_on_removal_alone() -> None:
    complete = torch.tensor([[0.0, 0.0], [3.0, 0.0]], requires_grad=True)
    masked = torch.tensor([[0.0, 2.0], [0.0, 1.0]], requires_grad=True)
    found = losses.overconfidence(complete, masked)
    assert float(found.detach()) == pytest.approx((1 / (1 + math.exp(-2)) - 0.5) / 2)
    found.backward()
    assert complete.grad is None and bool((masked.grad[1] == 0).all()) and float(masked.grad[0, 1]) > 0
