# ruff: noqa: E402 - torch is looked for first
"""Momentum-Adagrad against its formula on the dense matrix, in float64 numpy."""

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch", reason="needs the training environment")

from models.optimiser import MomentumAdagrad

RATE, EPSILON = 0.05, 1e-6


class Reference:
    """Row by row; duplicates summed, untouched rows left alone."""

    def __init__(self, weight: NDArray[np.float64], momentum: float) -> None:
        self.weight = weight.astype(np.float64)
        self.accumulator = np.zeros_like(self.weight)
        self.velocity = np.zeros_like(self.weight)
        self.momentum = momentum

    def step(self, rows: NDArray[np.int64], gradient: NDArray[np.float64]) -> None:
        for row in sorted(set(rows.tolist())):
            g = gradient[rows == row].astype(np.float64).sum(axis=0)
            self.accumulator[row] += g**2
            scaled = g / np.sqrt(self.accumulator[row] + EPSILON)
            self.velocity[row] = self.momentum * self.velocity[row] - RATE * scaled
            self.weight[row] += self.velocity[row]


@pytest.mark.parametrize("momentum", [0.0, 0.4])
@pytest.mark.parametrize("shape", [(7, 3), (7,)])
def test_row_steps_are_those_of_the_formula_with_duplicates_summed_first(
    momentum: float, shape: tuple[int, ...]
) -> None:
    rng = np.random.default_rng(0)
    weight = torch.tensor(rng.normal(size=shape), dtype=torch.float32)
    reference = Reference(weight.numpy().copy(), momentum)
    optimiser = MomentumAdagrad({"w": weight}, learning_rate=RATE, momentum=momentum)
    for _ in range(20):
        rows = rng.integers(0, 6, size=9)  # row 6 is never touched
        gradient = rng.normal(size=(9, *shape[1:])).astype(np.float32)
        reference.step(rows, gradient)
        optimiser.step_rows("w", torch.from_numpy(rows), torch.from_numpy(gradient.copy()))
    np.testing.assert_allclose(weight.numpy(), reference.weight, rtol=2e-5, atol=2e-6)
    np.testing.assert_allclose(
        optimiser.accumulators["w"].numpy(), reference.accumulator, rtol=2e-5, atol=1e-6
    )
    assert np.array_equal(weight.numpy()[6], reference.weight[6].astype(np.float32))


@pytest.mark.parametrize("momentum", [0.0, 0.4])
def test_whole_tensor_steps_are_row_steps_on_every_row(momentum: float) -> None:
    rng = np.random.default_rng(1)
    weight = torch.tensor(rng.normal(size=(4, 5)), dtype=torch.float32)
    reference = Reference(weight.numpy().copy(), momentum)
    optimiser = MomentumAdagrad({"w": weight}, learning_rate=RATE, momentum=momentum)
    for _ in range(10):
        gradient = rng.normal(size=(4, 5)).astype(np.float32)
        reference.step(np.arange(4), gradient)
        optimiser.step("w", torch.from_numpy(gradient.copy()))
    np.testing.assert_allclose(weight.numpy(), reference.weight, rtol=2e-5, atol=2e-6)


def test_epsilon_is_inside_the_root() -> None:
    """g = 1e-4: 1e-4 / sqrt(1e-8 + 1e-6) is about .0995; outside the root it would be about 1."""
    weight = torch.zeros(1)
    optimiser = MomentumAdagrad({"w": weight}, learning_rate=1.0, momentum=0.0)
    optimiser.step("w", torch.tensor([1e-4]))
    assert float(weight) == pytest.approx(-0.09950, rel=1e-3)


def test_a_saved_state_goes_on_and_new_rows_start_from_zero() -> None:
    weight = torch.zeros(2, 3)
    optimiser = MomentumAdagrad({"w": weight}, learning_rate=RATE, momentum=0.3)
    optimiser.step("w", torch.ones(2, 3))
    longer = MomentumAdagrad({"w": torch.zeros(4, 3)}, learning_rate=RATE, momentum=0.3)
    longer.load_state(optimiser.state())
    assert longer.accumulators["w"].tolist() == [[1.0] * 3] * 2 + [[0.0] * 3] * 2
    assert torch.equal(longer.velocities["w"][:2], optimiser.velocities["w"])
    assert not longer.velocities["w"][2:].any()
