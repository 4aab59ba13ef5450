"""What every network of ours is to the others: to training, evaluation, export and the warm start."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn

from models.config import ModelConfig
from stream_app.core.manifest import StateTensor


class SessionModel(nn.Module, ABC):
    """A next-item model with a state per session: one `step` per click, scores from the state alone.

    scores = add_repeats(query(*states) @ output_matrix().T + output_bias(), *states).
    """

    item_tables: ClassVar[frozenset[str]] = frozenset()
    """Parameters with a row per item.  Told by name: 3 x 100 gates may meet 300 items."""

    config: ModelConfig
    n_items: int

    @abstractmethod
    def initialise(self, generator: torch.Generator) -> None:
        """Fresh weights, decided by the generator alone."""

    @abstractmethod
    def state_tensors(self) -> tuple[StateTensor, ...]:
        """What a session record stores for this model; zeros at a session's start."""

    @abstractmethod
    def step(self, item: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """A session's states after one more click, as they are stored.

        item: int64 [batch]; states: as `state_tensors` declares, batch axis first.  The sums are
        float32, the rounding to the stored dtype is part of the step.
        """

    @abstractmethod
    def query(self, *states: Tensor) -> Tensor:
        """What the item vectors are multiplied with, float32 [batch, dim]."""

    @abstractmethod
    def output_matrix(self) -> Tensor:
        """float32 [n_items, dim]."""

    @abstractmethod
    def output_bias(self) -> Tensor:
        """float32 [n_items]."""

    def start_states(self, batch: int) -> tuple[Tensor, ...]:
        """The states of `batch` sessions that have not begun."""
        return tuple(
            torch.zeros((batch, *tensor.shape), dtype=getattr(torch, tensor.dtype))
            for tensor in self.state_tensors()
        )

    def add_repeats(self, scores: Tensor, *states: Tensor) -> Tensor:  # noqa: ARG002 - most networks have none
        """Add to the scores of a session's own items, in place.  scores: float32 [batch, n_items]."""
        return scores

    def scores(self, *states: Tensor) -> Tensor:
        """Scores of the whole catalogue, float32 [batch, n_items]."""
        scores = torch.addmm(self.output_bias(), self.query(*states), self.output_matrix().T)
        return self.add_repeats(scores, *states)

    def weights(self) -> dict[str, Tensor]:
        """The parameters by name; changing one changes the network."""
        return {name: weight.detach() for name, weight in self.named_parameters()}


Step = Callable[[], tuple[int, float]]
"""Learns from the next batch when called; its next clicks, and the sum of their losses."""


class Learner(Protocol):
    """How one kind of network learns: the part of a training that is its own (`models.train` is the rest)."""

    @property
    def model(self) -> SessionModel: ...

    def epoch(self, number: int) -> Iterator[Step]:
        """One pass over this process's sessions, step by step; each is to be called before the next is taken.

        Random numbers are of the seed and the epoch, so that a resumed training needs no generator's
        state.
        """
        ...

    def idle_step(self) -> None:
        """A step of other processes that this one has no sessions left for: it learns what they learned."""
        ...

    def optimiser_state(self) -> dict[str, Tensor]:
        """Everything a continued training needs besides the weights, by name."""
        ...

    def load_optimiser_state(self, state: dict[str, Tensor]) -> None:
        """Copy a saved state in.  Item tables may have fewer rows than ours: new rows start fresh."""
        ...


def parameter(*shape: int) -> nn.Parameter:
    """Zeros, to be filled by `initialise` or a checkpoint."""
    return nn.Parameter(torch.zeros(*shape))
