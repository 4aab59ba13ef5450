"""A GRU whose scores are cosines, and which looks again at the last few clicked items."""

import math
from typing import ClassVar, Final

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, pad

from models.config import CosineGRUConfig
from models.network import SessionModel, parameter
from stream_app.core.manifest import StateTensor

QUERY_LENGTH: Final = 4.0
"""Of every query, so that its numbers use most of -1..1, where the export's integer products look first.
Scores are the same whatever it is: the item vectors are divided by it."""


class CosineGRU(SessionModel):
    """Scores are cosines of a query and the items' vectors, divided by a temperature.

    With h the GRU's state, x(j) the vector of the item clicked j clicks ago (its newest click, if it was
    clicked more often) and j below `history_items`:

        query = P h + a x(0) + b sum_j w_j x(j),  w_j = exp(l_j) v . sigmoid(Q h + K x(j) + c)
        score(i) = cos(query, x_i) / temperature + [i was clicked j clicks ago] (r_j + s . h)

    Cosine scores are as in NISER (Gupta et al. 2019, 1909.04276), the sum over clicks is NARM's local
    encoder (Li et al. 2017, 1711.04725, equation 8) with a weight per lag, and the last term learns how
    likely it is that a clicked item is clicked again, as the repeat mode of RepeatNet (Ren et al. 2019,
    1812.02646) does.  A session's state is h in half precision and the indexes of the last items.
    """

    item_tables: ClassVar[frozenset[str]] = frozenset({"item_vectors"})
    config: CosineGRUConfig

    def __init__(self, config: CosineGRUConfig, n_items: int) -> None:
        super().__init__()
        self.config = config
        self.n_items = n_items
        units, lags = config.units, config.history_items
        self.item_vectors = parameter(n_items, units)
        self.gru = nn.GRU(units, units)
        self.from_hidden = parameter(units, units)
        self.from_last = parameter(1)
        self.from_history = parameter(1)
        self.attention_hidden = parameter(units, units)
        self.attention_bias = parameter(units)
        self.attention_item = parameter(units, units)
        self.attention_out = parameter(units)
        self.lag_bias = parameter(lags)
        self.repeat_lag = parameter(lags)
        self.repeat_hidden = parameter(units)

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Uniform in +-1 / sqrt(units), as PyTorch's GRU is; h passes through, repeats get nothing."""
        bound = 1.0 / math.sqrt(self.config.units)
        zero = {"attention_bias", "lag_bias", "repeat_lag", "repeat_hidden"}
        for name, weight in self.named_parameters():
            if name in zero:
                weight.zero_()
            else:
                weight.uniform_(-bound, bound, generator=generator)
        self.from_hidden.copy_(torch.eye(self.config.units))
        self.from_last.fill_(0.5)
        self.from_history.fill_(0.5)

    def walk(self, vectors: Tensor, newest: Tensor) -> tuple[Tensor, Tensor]:
        """Whole sessions at once: after each click its query (of any length), and what repeats get.

        vectors: of the clicked items, [clicks, batch, units], padded at the end.
        newest: float32 [lags, clicks, batch], 1 where the click so many clicks ago was the item's newest.
        Returns [clicks, batch, units], and [lags, clicks, batch] (of meaning where `newest` is 1).
        """
        hidden, _ = self.gru(vectors)
        asked = hidden @ self.attention_hidden.T + self.attention_bias
        keys = vectors @ self.attention_item.T
        n_clicks = len(vectors)
        history = torch.zeros_like(vectors)
        for lag in range(len(newest)):
            until = n_clicks - lag
            weights = self._attention(asked[lag:], keys[:until]) * torch.exp(self.lag_bias[lag])
            part = (weights * newest[lag, lag:])[..., None] * vectors[:until]
            history = history + pad(part, (0, 0, 0, 0, lag, 0))
        repeats = self.repeat_lag[: len(newest), None, None] + hidden @ self.repeat_hidden
        return self._query(hidden, vectors, history), repeats

    def step(self, item: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        hidden, recent = states
        _, after = self.gru(self.item_vectors[item][None], hidden.to(torch.float32)[None])
        clicked = (item + 1).to(recent.dtype)[:, None]
        earlier = torch.where(recent == clicked, 0.0, recent)[:, :-1]
        return after[0].to(hidden.dtype), torch.cat((clicked, earlier), dim=1)

    def state_tensors(self) -> tuple[StateTensor, ...]:
        """`recent`: 1 + the indexes of the last items, newest first; 0 where there is none, or a newer click."""
        return (
            StateTensor(name="hidden", shape=(self.config.units,), dtype="float16"),
            StateTensor(name="recent", shape=(self.config.history_items,), dtype="float32"),
        )

    def query(self, *states: Tensor) -> Tensor:
        """Of length `QUERY_LENGTH`."""
        hidden, recent = states[0].to(torch.float32), states[1].to(torch.int64)
        known = (recent > 0).to(torch.float32)
        vectors = self.item_vectors[(recent - 1).clamp(min=0)]  # [batch, lags, units]
        asked = hidden @ self.attention_hidden.T + self.attention_bias
        weights = self._attention(asked[:, None], vectors @ self.attention_item.T)
        weights = weights * torch.exp(self.lag_bias) * known
        history = (weights[..., None] * vectors).sum(dim=1)
        query = self._query(hidden, vectors[:, 0], history)
        return QUERY_LENGTH * normalize(query, dim=1)

    def add_repeats(self, scores: Tensor, *states: Tensor) -> Tensor:
        hidden, recent = states[0].to(torch.float32), states[1].to(torch.int64)
        bonus = self.repeat_lag + (hidden @ self.repeat_hidden)[:, None]
        bonus = torch.where(recent > 0, bonus, 0.0)
        return scores.scatter_add_(1, (recent - 1).clamp(min=0), bonus)

    def output_matrix(self) -> Tensor:
        scale = 1.0 / (self.config.temperature * QUERY_LENGTH)
        return scale * normalize(self.item_vectors.detach(), dim=1)

    def output_bias(self) -> Tensor:
        return torch.zeros(self.n_items)

    def _attention(self, asked: Tensor, keys: Tensor) -> Tensor:
        return torch.sigmoid(asked + keys) @ self.attention_out

    def _query(self, hidden: Tensor, last: Tensor, history: Tensor) -> Tensor:
        from_clicks = self.from_last * last + self.from_history * history
        return hidden @ self.from_hidden.T + from_clicks
