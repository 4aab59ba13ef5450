"""How GRU4Rec learns: session-parallel batches, one event of each session per step."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from models.gru4rec import GRU4Rec
from models.gru4rec_step import TrainingStep
from models.negatives import NegativeSampler, sampling_weights
from models.optimiser import MomentumAdagrad
from models.session_parallel import Step, session_parallel
from stream_app.evaluation.sessions import SessionTable


class GRU4RecLearner:
    """Implements `models.network.Learner`."""

    def __init__(self, model: GRU4Rec, sessions: SessionTable) -> None:
        self.model = model
        self._config = model.config
        self._sessions = sessions
        self._optimiser = MomentumAdagrad(
            model.weights(),
            learning_rate=model.config.learning_rate,
            momentum=model.config.momentum,
        )
        support = sessions.support(model.n_items)
        self._weights = sampling_weights(support, model.config.sample_alpha)
        self._learn = TrainingStep(model, self._optimiser, support)

    def epoch(self, number: int) -> Iterator[tuple[int, float]]:
        config = self._config
        negatives = NegativeSampler(self._weights, np.random.default_rng((config.seed, number)))
        dropout = np.random.default_rng((config.seed, number, 1))
        hidden: list[Tensor] = []
        for step in session_parallel(self._sessions, config.batch_size):
            loss, hidden = self._learn(
                torch.from_numpy(step.inputs),
                torch.from_numpy(step.targets),
                torch.from_numpy(negatives.draw(config.n_sample)),
                self._carried(hidden, step),
                dropout,
            )
            yield len(step.inputs), loss

    def optimiser_state(self) -> dict[str, Tensor]:
        return self._optimiser.state()

    def load_optimiser_state(self, state: dict[str, Tensor]) -> None:
        self._optimiser.load_state(state)

    def _carried(self, hidden: list[Tensor], step: Step) -> list[Tensor]:
        """Each slot's hidden state before the step: carried on, or zero where a session starts."""
        config = self._config
        if not hidden:
            return [torch.zeros(len(step.inputs), config.units) for _ in range(config.layers)]
        if step.kept is not None:
            kept = torch.from_numpy(step.kept)
            hidden = [state.index_select(0, kept) for state in hidden]
        if len(step.fresh):
            fresh = torch.from_numpy(step.fresh)
            hidden = [state.index_fill(0, fresh, 0.0) for state in hidden]
        return hidden
