"""How GRU4Rec learns: session-parallel batches, one event of each session per step."""

from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.gru4rec import GRU4Rec
from models.gru4rec_step import TrainingStep
from models.negatives import NegativeSampler, sampling_weights
from models.network import Step
from models.optimiser import MomentumAdagrad
from models.session_parallel import Batch, session_parallel
from models.together import ALONE, Together
from stream_app.evaluation.sessions import SessionTable


class GRU4RecLearner:
    """Implements `models.network.Learner`."""

    def __init__(self, model: GRU4Rec, sessions: SessionTable, together: Together = ALONE) -> None:
        self.model = model
        self._config = model.config
        self._together = together
        self._sessions = together.share(sessions)
        self._optimiser = MomentumAdagrad(
            model.weights(),
            learning_rate=model.config.learning_rate,
            momentum=model.config.momentum,
            together=together,
        )
        support = sessions.support(model.n_items)
        self._weights = sampling_weights(support, model.config.sample_alpha)
        self._hidden: list[Tensor] = []
        self._learn = TrainingStep(model, self._optimiser, support)

    def epoch(self, number: int) -> Iterator[Step]:
        config = self._config
        negatives = NegativeSampler(
            self._weights, np.random.default_rng(self._together.seed(config.seed, number))
        )
        dropout = np.random.default_rng(self._together.seed(config.seed, number, 1))
        self._hidden = []
        for batch in session_parallel(self._sessions, config.batch_size):
            yield partial(self._step, batch, negatives.draw(config.n_sample), dropout)

    def _step(
        self, batch: Batch, negatives: NDArray[np.int64], dropout: np.random.Generator
    ) -> tuple[int, float]:
        loss, self._hidden = self._learn(
            torch.from_numpy(batch.inputs),
            torch.from_numpy(batch.targets),
            torch.from_numpy(negatives),
            self._carried(batch),
            dropout,
        )
        return len(batch.inputs), loss

    def idle_step(self) -> None:
        self._learn.idle()

    def optimiser_state(self) -> dict[str, Tensor]:
        return self._optimiser.state()

    def load_optimiser_state(self, state: dict[str, Tensor]) -> None:
        self._optimiser.load_state(state)

    def _carried(self, batch: Batch) -> list[Tensor]:
        """Each slot's hidden state before the step: carried on, or zero where a session starts."""
        config, hidden = self._config, self._hidden
        if not hidden:
            return [torch.zeros(len(batch.inputs), config.units) for _ in range(config.layers)]
        if batch.kept is not None:
            kept = torch.from_numpy(batch.kept)
            hidden = [state.index_select(0, kept) for state in hidden]
        if len(batch.fresh):
            fresh = torch.from_numpy(batch.fresh)
            hidden = [state.index_fill(0, fresh, 0.0) for state in hidden]
        return hidden
