# ruff: noqa: E402 - torch is looked for first
"""Adam by rows, held to PyTorch's own."""

import pytest

torch = pytest.importorskip("torch", reason="needs the training environment")

from models.adam import RowAdam


def test_it_steps_as_pytorchs_adam_does() -> None:
    generator = torch.Generator().manual_seed(1)
    ours = {"w": torch.randn(4, 3, generator=generator)}
    theirs = ours["w"].clone().requires_grad_()
    reference = torch.optim.Adam([theirs], lr=0.1)
    adam = RowAdam(ours)
    for step in range(5):
        gradient = torch.randn(4, 3, generator=generator)
        rate = 0.1 / (step + 1)
        reference.param_groups[0]["lr"] = rate
        theirs.grad = gradient.clone()
        reference.step()
        adam.begin_step()
        adam.step("w", gradient, rate)
        torch.testing.assert_close(ours["w"], theirs.detach())


def test_rows_step_as_a_whole_tensor_does_and_the_others_stay() -> None:
    start = torch.arange(12.0).reshape(4, 3)
    by_rows, whole = RowAdam({"w": start.clone()}), RowAdam({"w": start[[3, 1]].clone()})
    weights = by_rows.state()
    for gradient in (torch.ones(2, 3), torch.full((2, 3), -0.5)):
        for adam in (by_rows, whole):
            adam.begin_step()
        by_rows.step_rows("w", torch.tensor([3, 1]), gradient.clone(), 0.1)
        whole.step("w", gradient.clone(), 0.1)
    torch.testing.assert_close(by_rows.state()["mean.w"][[3, 1]], whole.state()["mean.w"])
    assert not weights["mean.w"][[0, 2]].any()


def test_a_loaded_state_goes_on_as_if_it_never_stopped() -> None:
    one = {"w": torch.ones(3, 2)}
    other = {"w": torch.ones(3, 2)}
    first, second = RowAdam(one), RowAdam(other)
    gradients = [torch.full((3, 2), value) for value in (0.3, -0.2, 0.9)]
    for gradient in gradients[:2]:
        for adam in (first, second):
            adam.begin_step()
            adam.step("w", gradient.clone(), 0.1)
    resumed = RowAdam(other)
    resumed.load_state({name: tensor.clone() for name, tensor in second.state().items()})
    for adam in (first, resumed):
        adam.begin_step()
        adam.step("w", gradients[2].clone(), 0.1)
    assert torch.equal(one["w"], other["w"])


def test_a_shorter_table_fills_the_first_rows() -> None:
    adam = RowAdam({"w": torch.ones(3, 2)})
    adam.load_state({"steps": torch.tensor([4.0]), "mean.w": torch.ones(2, 2)})
    assert adam.steps == 4
    assert adam.state()["mean.w"].tolist() == [[1, 1], [1, 1], [0, 0]]
