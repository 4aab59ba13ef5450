"""Adagrad with momentum as GRU4Rec uses it: rows that a step does not touch stay untouched."""

from typing import Final

import numpy as np
import torch
from torch import Tensor

from models.together import ALONE, Together

EPSILON: Final = 1e-6
"""Inside the root (`torch.optim.Adagrad` adds it outside, which learns visibly otherwise here)."""

_CACHE_ELEMENTS: Final = 1 << 17
"""Rows are updated so many numbers at a time (512 KiB): the half dozen passes over them stay in cache."""


class MomentumAdagrad:
    """acc += g^2;  v = momentum v - learning_rate g / sqrt(acc + 1e-6);  weight += v.

    Accumulators start at 0, so a weight's first step has the size of the learning rate.  For item
    tables all three lines apply to the touched rows only, velocity included.
    weights: tensors by name, changed in place.
    """

    def __init__(
        self,
        weights: dict[str, Tensor],
        *,
        learning_rate: float,
        momentum: float,
        together: Together = ALONE,
    ) -> None:
        self.learning_rate = learning_rate
        self.momentum = momentum
        self._together = together
        self._weights = weights
        self.accumulators = {name: torch.zeros_like(w) for name, w in weights.items()}
        self.velocities = (
            {name: torch.zeros_like(w) for name, w in weights.items()} if momentum else {}
        )
        self._scratch = np.empty(max((len(w) for w in weights.values()), default=0), np.int64)

    def step(self, name: str, gradient: Tensor) -> None:
        """A whole tensor.  gradient: the weight's shape; overwritten."""
        gradient = self._together.mean(gradient)
        velocities = self.velocities.get(name)
        at_once = self._rows_at_once(gradient)
        for first in range(0, len(gradient), at_once):
            rows = slice(first, first + at_once)
            part = gradient[rows]
            accumulator = self.accumulators[name][rows].addcmul_(part, part)
            part.div_((accumulator + EPSILON).sqrt_()).mul_(-self.learning_rate)
            if velocities is not None:
                part = velocities[rows].mul_(self.momentum).add_(part)
            self._weights[name][rows].add_(part)

    def step_rows(self, name: str, rows: Tensor, gradient: Tensor) -> None:
        """Some rows of a table.  rows: int64 [m], may repeat; gradient: [m, ...]; overwritten.

        Gradients of a repeated row are summed first, then squared: one step per row.
        """
        rows, gradient = self._together.gathered(rows, gradient)
        once = self._sum_repeated(rows, gradient)
        for chunk in torch.split(once, self._rows_at_once(gradient)):
            self._step_distinct(name, rows.index_select(0, chunk), gradient.index_select(0, chunk))

    def _step_distinct(self, name: str, rows: Tensor, gradient: Tensor) -> None:
        table = self.accumulators[name]
        accumulator = table.index_select(0, rows).addcmul_(gradient, gradient)
        table.index_copy_(0, rows, accumulator)
        gradient.div_(accumulator.add_(EPSILON).sqrt_()).mul_(-self.learning_rate)
        if self.momentum:
            table = self.velocities[name]
            gradient.add_(table.index_select(0, rows), alpha=self.momentum)
            table.index_copy_(0, rows, gradient)
        self._weights[name].index_add_(0, rows, gradient)

    @staticmethod
    def _rows_at_once(gradient: Tensor) -> int:
        return max(_CACHE_ELEMENTS * len(gradient) // max(gradient.numel(), 1), 1)

    def _sum_repeated(self, rows: Tensor, gradient: Tensor) -> Tensor:
        """Positions at which each row stands for itself, with the sum of all its gradients there.

        Every row's last occurrence is taken: cheaper than sorting, and only repeated ones are added.
        """
        numbers = rows.numpy()
        order = np.arange(len(numbers))
        self._scratch[numbers] = order
        representative = self._scratch[numbers]
        stands = representative == order
        repeated = np.flatnonzero(~stands)
        if len(repeated):
            gradient.index_add_(
                0,
                torch.from_numpy(representative[repeated]),
                gradient.index_select(0, torch.from_numpy(repeated)),
            )
        return torch.from_numpy(np.flatnonzero(stands))

    def state(self) -> dict[str, Tensor]:
        """Everything a continued training needs, by name."""
        return {f"accumulator.{n}": t for n, t in self.accumulators.items()} | {
            f"velocity.{n}": t for n, t in self.velocities.items()
        }

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Copy a saved state in.  Tables may have fewer rows than ours: new rows start from 0."""
        for name, ours in self.state().items():
            theirs = state.get(name)
            if theirs is None:
                continue
            ours.zero_()
            if theirs.shape == ours.shape:
                ours.copy_(theirs)
            else:
                ours[: len(theirs)].copy_(theirs)
