"""Adam that leaves the rows alone that a step does not touch."""

import torch
from torch import Tensor

from models.together import ALONE, Together

BETA_1 = 0.9
BETA_2 = 0.999
EPSILON = 1e-8


class RowAdam:
    """Adam (Kingma & Ba 2015, 1412.6980) on whole tensors, and on the touched rows of item tables.

    An untouched row's moments do not decay: an item clicked once a day is not slower to learn for the steps
    between.  The bias correction counts the training's steps.
    weights: tensors by name, changed in place.
    """

    def __init__(self, weights: dict[str, Tensor], *, together: Together = ALONE) -> None:
        self._weights = weights
        self._together = together
        self._means = {name: torch.zeros_like(w) for name, w in weights.items()}
        self._squares = {name: torch.zeros_like(w) for name, w in weights.items()}
        self._steps = torch.zeros(1)

    @property
    def steps(self) -> int:
        """Steps so far."""
        return int(self._steps)

    def begin_step(self) -> None:
        """Once before the tensors of a step."""
        self._steps += 1

    def step(self, name: str, gradient: Tensor, learning_rate: float) -> None:
        """A whole tensor.  gradient: the weight's shape."""
        gradient = self._together.mean(gradient)
        mean = self._means[name].lerp_(gradient, 1 - BETA_1)
        square = self._squares[name].mul_(BETA_2).addcmul_(gradient, gradient, value=1 - BETA_2)
        self._weights[name].sub_(self._change(mean, square, learning_rate))

    def step_rows(self, name: str, rows: Tensor, gradient: Tensor, learning_rate: float) -> None:
        """Some rows of a table.  rows: int64 [m], each once; gradient: [m, ...]."""
        rows, gradient = self._of_all(rows, gradient)
        means, squares, table = self._means[name], self._squares[name], self._weights[name]
        mean = means.index_select(0, rows).lerp_(gradient, 1 - BETA_1)
        square = squares.index_select(0, rows).mul_(BETA_2)
        square.addcmul_(gradient, gradient, value=1 - BETA_2)
        means.index_copy_(0, rows, mean)
        squares.index_copy_(0, rows, square)
        table.index_add_(0, rows, self._change(mean, square, learning_rate), alpha=-1)

    def state(self) -> dict[str, Tensor]:
        """Everything a continued training needs, by name."""
        return {
            "steps": self._steps,
            **{f"mean.{name}": tensor for name, tensor in self._means.items()},
            **{f"square.{name}": tensor for name, tensor in self._squares.items()},
        }

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Copy a saved state in.  Tables may have fewer rows than ours: new rows start from 0."""
        for name, ours in self.state().items():
            theirs = state.get(name)
            if theirs is not None:
                ours.zero_()
                ours[: len(theirs)].copy_(theirs)

    def _of_all(self, rows: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """The rows of all processes, each once, with the sum of its gradients."""
        if self._together.world == 1:
            return rows, gradient
        rows, gradient = self._together.gathered(rows, gradient)
        once, place = torch.unique(rows, return_inverse=True)
        summed = torch.zeros((len(once), *gradient.shape[1:]))
        return once, summed.index_add_(0, place, gradient)

    def _change(self, mean: Tensor, square: Tensor, learning_rate: float) -> Tensor:
        steps = self.steps
        root = (square / (1 - BETA_2**steps)).sqrt_().add_(EPSILON)
        return mean.div(root).mul_(learning_rate / (1 - BETA_1**steps))
