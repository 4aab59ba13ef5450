"""How the cosine GRU learns: whole sessions at once, Adam, a learning rate that rises and falls."""

import math
from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import embedding, normalize

from models.adam import RowAdam
from models.cosine_gru import CosineGRU
from models.dropout import keep_scale
from models.negatives import NegativeSampler, sampling_weights
from models.network import Step
from models.sampled_softmax import OwnItems, log_inclusion, sampled_softmax
from models.together import ALONE, Together
from models.whole_sessions import SessionBatch, whole_sessions
from stream_app.evaluation.sessions import SessionTable


class CosineGRULearner:
    """Implements `models.network.Learner`."""

    def __init__(
        self, model: CosineGRU, sessions: SessionTable, together: Together = ALONE
    ) -> None:
        self.model = model
        self._config = model.config
        self._together = together
        self._sessions = together.share(sessions)
        self._adam = RowAdam(model.weights(), together=together)
        self._dense = {n: w for n, w in model.named_parameters() if n not in model.item_tables}
        self._rate = 0.0
        support = sessions.support(model.n_items)
        self._sampled = sampling_weights(support, model.config.sample_alpha)
        self._share = support / support.sum()
        self._drawn = self._sampled / self._sampled.sum()
        clicks = np.minimum(self._sessions.lengths - 1, model.config.session_clicks_max).sum()
        self._steps_expected = model.config.epochs * max(
            float(clicks) / model.config.batch_clicks, 1.0
        )

    def epoch(self, number: int) -> Iterator[Step]:
        config = self._config
        rng = np.random.default_rng(self._together.seed(config.seed, number))
        negatives = NegativeSampler(self._sampled, rng)
        batches = whole_sessions(
            self._sessions,
            batch_clicks=config.batch_clicks,
            session_clicks_max=config.session_clicks_max,
            generator=rng,
        )
        done = 0
        for batch in batches:
            self._rate = self._learning_rate(number, done)
            yield partial(self._learn, batch, negatives.draw(config.n_sample), rng)
            done += batch.n_targets

    def optimiser_state(self) -> dict[str, Tensor]:
        return self._adam.state()

    def load_optimiser_state(self, state: dict[str, Tensor]) -> None:
        self._adam.load_state(state)

    def _learning_rate(self, epoch: int, clicks_done: int) -> float:
        """Up in a line, down along half a cosine, by the share of the training that is done."""
        config = self._config
        per_epoch = self._steps_expected / config.epochs
        done = epoch + min(clicks_done / (config.batch_clicks * per_epoch), 1.0)
        share = done / config.epochs
        if share < config.warm_up:
            return config.learning_rate * (share / config.warm_up + 1 / self._steps_expected)
        left = (share - config.warm_up) / max(1 - config.warm_up, 1e-9)
        return config.learning_rate * 0.5 * (1 + math.cos(math.pi * left))

    def _learn(
        self,
        batch: SessionBatch,
        negatives: NDArray[np.int64],
        rng: np.random.Generator,
    ) -> tuple[int, float]:
        """One step; see `models.network.Step`.

        The candidates are the items of the batch and the negatives, each once: the rows of the item
        table that take part.
        """
        config, model = self._config, self.model
        chosen, places = np.unique(
            np.concatenate((batch.items.ravel(), negatives)), return_inverse=True
        )
        candidates = torch.from_numpy(chosen)
        items = torch.from_numpy(places[: batch.items.size].reshape(batch.items.shape))
        table = model.item_vectors.detach().index_select(0, candidates).requires_grad_()
        vectors = embedding(items[:-1], table)
        if config.dropout_items > 0:
            vectors = vectors * keep_scale(vectors.shape, config.dropout_items, rng)
        rows = _Rows(places[: batch.items.size].reshape(batch.items.shape), batch.lengths)
        newest = rows.newest(config.history_items)
        queries, repeats = model.walk(vectors, torch.from_numpy(newest.astype(np.float32)))
        queries = normalize(queries[rows.at], dim=1) / config.temperature
        directions = normalize(table, dim=1)
        lag, row, again = rows.repeats(newest)
        bonus = repeats[lag, rows.at[0][row], rows.at[1][row]]
        logq = log_inclusion(
            self._share[chosen], self._drawn[chosen], clicks=len(rows), n_sample=config.n_sample
        )
        past, future = rows.past_and_future()
        own = OwnItems(past=past, future=future, repeat=(row, again), bonus=bonus.detach())
        loss, gradients = sampled_softmax(
            queries.detach(), directions.detach(), torch.from_numpy(logq), rows.targets, own
        )
        torch.autograd.backward((queries, directions, bonus), gradients)
        assert table.grad is not None
        self._update(candidates, table.grad)
        return len(rows), loss

    @torch.no_grad()
    def _update(self, candidates: Tensor, by_table: Tensor) -> None:
        self._adam.begin_step()
        for name, weight in self._dense.items():
            # A batch of two-click sessions knows nothing of the second lag.
            gradient = torch.zeros_like(weight) if weight.grad is None else weight.grad
            self._adam.step(name, gradient, self._rate)
            weight.grad = None
        self._adam.step_rows("item_vectors", candidates, by_table, self._rate)

    def idle_step(self) -> None:
        self._update(torch.empty(0, dtype=torch.int64), torch.empty(0, self._config.units))


_Pairs = tuple[Tensor, Tensor]


class _Rows:
    """The next clicks of a batch, one row each, and which candidates are of the row's own session."""

    def __init__(self, items: NDArray[np.int64], lengths: NDArray[np.int64]) -> None:
        """items: candidates, [clicks, batch]; lengths: clicks of each session."""
        self._items, self._lengths = items, lengths
        at = np.arange(1, len(items))[:, None]
        self._click, self._session = np.nonzero(at < lengths)
        self.at = torch.from_numpy(self._click), torch.from_numpy(self._session)
        """Click and session of each row."""
        self.targets = torch.from_numpy(items[self._click + 1, self._session])
        self._n_candidates = int(items.max()) + 1

    def __len__(self) -> int:
        return len(self._click)

    def newest(self, lags: int) -> NDArray[np.bool_]:
        """Whether the click so many clicks ago is the newest on its item, [lags, clicks - 1, batch].

        No more lags than there are clicks to look back at.
        """
        items = self._items[:-1]
        newest = np.zeros((min(lags, len(items)), *items.shape), dtype=bool)
        for lag in range(len(newest)):
            newest[lag, lag:] = True
            for newer in range(lag):
                newest[lag, lag:] &= (
                    items[: len(items) - lag] != items[lag - newer : len(items) - newer]
                )
        return newest

    def repeats(self, newest: NDArray[np.bool_]) -> tuple[Tensor, Tensor, Tensor]:
        """(lag, row, candidate) of the items within the lags, each once per row."""
        lag, row = np.nonzero(newest[:, self._click, self._session])
        again = self._items[self._click[row] - lag, self._session[row]]
        return torch.from_numpy(lag), torch.from_numpy(row), torch.from_numpy(again)

    def past_and_future(self) -> tuple[_Pairs, _Pairs]:
        """(row, candidate) of what the session has clicked so far, and of what it clicks after the target.

        The latter without the target itself and without what was clicked already; each pair once.
        """
        n = self._n_candidates
        codes = np.arange(len(self))[:, None] * n + self._items[:, self._session].T
        at, click = np.arange(len(self._items)), self._click[:, None]
        clicked = np.unique(codes[at <= click])
        target = codes[np.arange(len(self)), self._click + 1]
        inside = at < self._lengths[self._session][:, None]
        later = np.unique(codes[(at > click + 1) & inside])
        later = np.setdiff1d(later, np.concatenate((clicked, target)), assume_unique=False)
        return _pairs(clicked, n), _pairs(later, n)


def _pairs(codes: NDArray[np.int64], n_candidates: int) -> _Pairs:
    return torch.from_numpy(codes // n_candidates), torch.from_numpy(codes % n_candidates)
