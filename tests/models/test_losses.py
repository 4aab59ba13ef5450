# ruff: noqa: E402 - torch is looked for first
"""Both losses against their formulas, written down here a second time, slowly."""

import math

import pytest

torch = pytest.importorskip("torch", reason="needs the training environment")

from models.losses import bpr_max, cross_entropy


def random_scores(batch: int, n_sample: int, *, spread: float = 3.0) -> "torch.Tensor":
    generator = torch.Generator().manual_seed(batch * 100 + n_sample)
    scores = torch.randn(batch, batch + n_sample, generator=generator, dtype=torch.float64)
    return scores * spread


def cross_entropy_by_hand(scores: "torch.Tensor") -> "torch.Tensor":
    rows = [torch.log_softmax(row, dim=0)[i] for i, row in enumerate(scores)]
    return -torch.stack(rows).sum()


def bpr_max_by_hand(scores: "torch.Tensor", elu_param: float, bpreg: float) -> "torch.Tensor":
    """1706.03847, equation 10, one row and one negative at a time."""
    total = torch.zeros((), dtype=scores.dtype)
    for i, row in enumerate(scores):
        s = torch.nn.functional.elu(row, elu_param) if elu_param > 0 else row
        negatives = [j for j in range(len(row)) if j != i]
        w = torch.softmax(s[negatives], dim=0)
        likelihood = sum(w[k] * torch.sigmoid(s[i] - s[j]) for k, j in enumerate(negatives))
        penalty = sum(w[k] * s[j] ** 2 for k, j in enumerate(negatives))
        total = total - torch.log(likelihood) + bpreg * penalty
    return total


@pytest.mark.parametrize(("batch", "n_sample"), [(1, 1), (2, 0), (3, 5), (6, 20)])
def test_cross_entropy_and_its_gradient_are_those_of_automatic_differentiation(
    batch: int, n_sample: int
) -> None:
    scores = random_scores(batch, n_sample).requires_grad_()
    expected = cross_entropy_by_hand(scores)
    expected.backward()

    loss, gradient = cross_entropy(scores.detach().clone())

    torch.testing.assert_close(loss, expected.detach())
    torch.testing.assert_close(gradient, scores.grad)


@pytest.mark.parametrize("elu_param", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("bpreg", [0.0, 1.95])
@pytest.mark.parametrize(("batch", "n_sample"), [(1, 1), (2, 0), (3, 5), (6, 20)])
def test_bpr_max_and_its_gradient_are_those_of_automatic_differentiation(
    batch: int, n_sample: int, bpreg: float, elu_param: float
) -> None:
    scores = random_scores(batch, n_sample, spread=1.5).requires_grad_()
    expected = bpr_max_by_hand(scores, elu_param, bpreg)
    expected.backward()

    loss, gradient = bpr_max(scores.detach().clone(), elu_param=elu_param, bpreg=bpreg)

    torch.testing.assert_close(loss, expected.detach())
    torch.testing.assert_close(gradient, scores.grad)


def test_cross_entropy_of_equal_scores_is_the_logarithm_of_their_number() -> None:
    loss, _ = cross_entropy(torch.zeros(2, 8))
    assert float(loss) == pytest.approx(2 * math.log(8))


def test_bpr_max_with_one_negative_is_bpr_and_a_penalty_by_hand() -> None:
    """One negative has weight 1: -log sigmoid(2 - 0.5) + 0.3 * 0.25 for each of two rows."""
    loss, _ = bpr_max(torch.tensor([[2.0, 0.5], [0.5, 2.0]]), elu_param=0.0, bpreg=0.3)
    one_row = -math.log(1 / (1 + math.exp(-1.5))) + 0.3 * 0.25
    assert float(loss) == pytest.approx(2 * one_row)


def test_the_targets_own_column_is_no_negative_in_bpr_max() -> None:
    """A target far ahead leaves the softmax weights to its negatives, so the penalty stays theirs."""
    scores = torch.tensor([[50.0, 0.0, 0.0]])
    loss, gradient = bpr_max(scores.clone(), elu_param=0.0, bpreg=1.0)
    assert float(loss) == pytest.approx(0.0, abs=1e-6)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("size", [1e4, -1e4])
def test_extreme_scores_give_finite_gradients(size: float) -> None:
    scores = random_scores(4, 8).float() + size * torch.eye(4, 12)
    for loss, gradient in (
        cross_entropy(scores.clone()),
        bpr_max(scores.clone(), elu_param=0.5, bpreg=1.0),
    ):
        assert torch.isfinite(loss)
        assert torch.isfinite(gradient).all()


def test_a_row_without_negatives_teaches_nothing() -> None:
    """The end of an epoch with n_sample 0: one session is left, alone in its batch."""
    for loss, gradient in (
        cross_entropy(torch.tensor([[3.0]])),
        bpr_max(torch.tensor([[3.0]]), elu_param=0.5, bpreg=1.0),
    ):
        assert float(loss) == 0
        assert not gradient.any()
