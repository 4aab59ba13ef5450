"""Several processes that train one network, as `torchrun` starts them: gradients are shared, weights stay equal."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from stream_app.evaluation.sessions import SessionTable


class Together:
    """What the processes exchange in a step; alone, everything is as it was.

    Each process learns from its own share of the sessions.  Every process takes part in every exchange of
    an epoch, in the same order, until none has anything left (`anyone_has_more`).
    """

    def __init__(self, rank: int = 0, world: int = 1) -> None:
        self.rank, self.world = rank, world

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that prints and saves."""
        return self.rank == 0

    def share(self, sessions: SessionTable) -> SessionTable:
        """Every so manieth session, in their order; as good as all of them, in another rhythm."""
        if self.world == 1:
            return sessions
        return sessions.select(np.arange(self.rank, sessions.n_sessions, self.world))

    def seed(self, *numbers: int) -> tuple[int, ...]:
        """Seeds of this process: negatives and dropout differ from process to process."""
        return numbers if self.world == 1 else (*numbers, 7919 + self.rank)

    def anyone_has_more(self, mine: bool) -> bool:
        if self.world == 1:
            return mine
        left = torch.tensor([float(mine)])
        dist.all_reduce(left)
        return bool(left.item() > 0)

    def sum(self, *numbers: float) -> list[float]:
        """Each number summed over the processes."""
        if self.world == 1:
            return list(numbers)
        tensor = torch.tensor(numbers, dtype=torch.float64)
        dist.all_reduce(tensor)
        return tensor.tolist()

    def mean(self, gradient: Tensor) -> Tensor:
        """The mean gradient of a whole tensor; overwrites it."""
        if self.world > 1:
            dist.all_reduce(gradient)
            gradient.div_(self.world)
        return gradient

    def gathered(self, rows: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """All processes' rows and a mean's share of their gradients, one process after the other.

        rows: int64 [m], may be none; gradient: [m, ...].  A row may come from several processes.
        """
        if self.world == 1:
            return rows, gradient
        counts = [torch.zeros(1, dtype=torch.int64) for _ in range(self.world)]
        dist.all_gather(counts, torch.tensor([len(rows)]))
        most = max(int(count) for count in counts)
        all_rows = self._gather(rows, counts, most)
        all_gradients = self._gather(gradient.div(self.world), counts, most)
        return all_rows, all_gradients

    def _gather(self, tensor: Tensor, counts: list[Tensor], most: int) -> Tensor:
        padded = torch.zeros((most, *tensor.shape[1:]), dtype=tensor.dtype)
        padded[: len(tensor)] = tensor
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded)
        return torch.cat([part[: int(count)] for part, count in zip(parts, counts, strict=True)])


ALONE = Together()


@contextmanager
def joined() -> Iterator[Together]:
    """The group that `torchrun` put this process in; a process of its own without one."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield ALONE
        return
    dist.init_process_group("gloo")
    try:
        yield Together(dist.get_rank(), world)
    finally:
        dist.destroy_process_group()
