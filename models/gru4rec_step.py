"""One step of training: a session-parallel batch in, weights changed, the loss out."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.dropout import keep_scale
from models.gru4rec import GRU4Rec
from models.losses import bpr_max, cross_entropy
from models.optimiser import MomentumAdagrad

_ITEM_VECTORS = "item_vectors"
_ITEM_BIAS = "item_bias"


class TrainingStep:
    """Holds what the steps of a training share.

    Only the rows of the item tables that a step touches take part in it: they are gathered,
    and their gradients go back row by row, so a step's cost does not grow with the catalogue.  The
    recurrent layers are left to automatic differentiation; scores and loss, where the time goes, have
    their gradients written out.
    """

    def __init__(
        self, model: GRU4Rec, optimiser: MomentumAdagrad, support: NDArray[np.int64]
    ) -> None:
        """support: clicks on each item, int64 [n_items]; for the logQ correction."""
        self._config = model.config
        self._model = model
        self._optimiser = optimiser
        self._dense = {
            name: weight
            for name, weight in model.named_parameters()
            if name.startswith(("input_weight", "hidden_weight", "input_bias", "hidden_bias"))
        }
        self._tables = {
            name: weight.detach()
            for name, weight in model.named_parameters()
            if name not in self._dense
        }
        log_support = np.log(np.maximum(support, 1))
        logq = self._config.logq if self._config.loss == "cross-entropy" else 0.0
        self._logq_in_batch = torch.from_numpy((logq * log_support).astype(np.float32))
        self._logq_sampled = self._logq_in_batch * self._config.sample_alpha
        self._has_logq = logq > 0

    def __call__(
        self,
        inputs: Tensor,
        targets: Tensor,
        negatives: Tensor,
        hidden: list[Tensor],
        dropout: np.random.Generator,
    ) -> tuple[float, list[Tensor]]:
        """inputs, targets: int64 [batch]; negatives: int64 [n_sample]; hidden: [batch, units] each.

        Returns the loss, summed over the rows, and the new hidden states, detached: no gradient
        crosses a step.  Dropout is in them, and the session carries it on.
        """
        config, model, batch = self._config, self._model, len(inputs)
        candidates = torch.cat((targets, negatives))
        input_rows = self._tables[model.input_table].index_select(0, inputs).requires_grad_()
        output_rows = self._tables[_ITEM_VECTORS].index_select(0, candidates)
        output_bias = self._tables[_ITEM_BIAS].index_select(0, candidates)

        embedded = input_rows
        if config.dropout_embedding > 0:
            embedded = embedded * keep_scale(embedded.shape, config.dropout_embedding, dropout)
        kept = None
        if config.dropout_hidden > 0:
            kept = [keep_scale(h.shape, config.dropout_hidden, dropout) for h in hidden]
        hidden = model.advance(embedded, hidden, kept)
        query = hidden[-1].detach()
        if self._has_logq:
            output_bias.sub_(self._logq(targets, negatives))
        scores = torch.addmm(output_bias, query, output_rows.T)  # [batch, batch + n_sample]

        loss, by_scores = self._loss(scores)
        # The nominal batch: a batch that shrinks at the end does not take larger steps per row.
        by_scores.div_(config.batch_size)
        torch.autograd.backward(hidden[-1], by_scores @ output_rows)
        by_rows = torch.empty(batch + len(candidates), config.units)
        torch.mm(by_scores.T, query, out=by_rows[batch:])
        self._update(inputs, candidates, input_rows, by_rows, by_scores.sum(dim=0))
        return float(loss), [state.detach() for state in hidden]

    def _loss(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        config = self._config
        if config.loss == "cross-entropy":
            return cross_entropy(scores)
        return bpr_max(scores, elu_param=config.elu_param, bpreg=config.bpreg)

    def _logq(self, targets: Tensor, negatives: Tensor) -> Tensor:
        return torch.cat(
            (
                self._logq_in_batch.index_select(0, targets),
                self._logq_sampled.index_select(0, negatives),
            )
        )

    @torch.no_grad()
    def _update(
        self,
        inputs: Tensor,
        candidates: Tensor,
        input_rows: Tensor,
        by_rows: Tensor,
        by_bias: Tensor,
    ) -> None:
        """by_rows: [batch + candidates, units], the candidates' gradients; room for the inputs' before."""
        optimiser, table = self._optimiser, self._model.input_table
        for name, weight in self._dense.items():
            optimiser.step(name, _gradient(weight))
            weight.grad = None
        batch = len(inputs)
        if table == _ITEM_VECTORS:
            by_rows[:batch].copy_(_gradient(input_rows))
            optimiser.step_rows(_ITEM_VECTORS, torch.cat((inputs, candidates)), by_rows)
        else:
            optimiser.step_rows(table, inputs, _gradient(input_rows))
            optimiser.step_rows(_ITEM_VECTORS, candidates, by_rows[batch:])
        optimiser.step_rows(_ITEM_BIAS, candidates, by_bias)

    @torch.no_grad()
    def idle(self) -> None:
        """The updates of `_update` in their order, with nothing of our own in them."""
        optimiser, table, units = self._optimiser, self._model.input_table, self._config.units
        for name, weight in self._dense.items():
            optimiser.step(name, torch.zeros_like(weight))
        nothing = torch.empty(0, dtype=torch.int64)
        if table != _ITEM_VECTORS:
            optimiser.step_rows(table, nothing, torch.empty(0, *self._tables[table].shape[1:]))
        optimiser.step_rows(_ITEM_VECTORS, nothing, torch.empty(0, units))
        optimiser.step_rows(_ITEM_BIAS, nothing, torch.empty(0))


def _gradient(tensor: Tensor) -> Tensor:
    assert tensor.grad is not None, "every leaf takes part in the scores"
    return tensor.grad
