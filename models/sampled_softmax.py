"""Cross-entropy over sampled items where whole sessions share a batch, with its gradient in closed form."""

from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

EXCLUDED: Final = -1e9
"""Score of what is no candidate: its weight is 0."""


def log_inclusion(
    support: NDArray[np.float64], drawn: NDArray[np.float64], *, clicks: int, n_sample: int
) -> NDArray[np.float32]:
    """log of each candidate's chance to be one, float32 [n]: what its score is lowered by (logQ).

    support, drawn: float64 [n], each candidate's share of all clicks, and its chance at one draw of a
    negative.  A candidate is there because one of the batch's `clicks` or one of `n_sample` draws
    is it: 1 - exp(-expected number).  (Bengio & Senecal 2008; of the union of both sources at once.)
    """
    expected = clicks * support + n_sample * drawn
    log: NDArray[np.float32] = np.log(-np.expm1(-expected)).astype(np.float32)
    return log


@dataclass(frozen=True, slots=True, eq=False)
class OwnItems:
    """Candidates of a row's own session, as (row, candidate) pairs, int64 [m] each, none twice.

    past: clicked so far.  future: clicked later than the target, and neither the target nor in the past.
    repeat: those of the past that are scored in their own way, with `bonus` float32 [m] added.
    """

    past: tuple[Tensor, Tensor]
    future: tuple[Tensor, Tensor]
    repeat: tuple[Tensor, Tensor]
    bonus: Tensor


class Gradients(NamedTuple):
    """Of the *mean* loss of the rows."""

    queries: Tensor
    vectors: Tensor
    bonus: Tensor


def sampled_softmax(
    queries: Tensor, vectors: Tensor, logq: Tensor, targets: Tensor, own: OwnItems
) -> tuple[float, Gradients]:
    """-log softmax of the targets' scores, summed over the rows; and its mean's gradients.

    queries: float32 [rows, dim]; vectors: float32 [n, dim] of the candidates; scores are their products
    less `logq` float32 [n].  targets: int64 [rows], a candidate each.

    When whole sessions share a batch, a row's own items are candidates at every step, and logQ lifts
    them as if they were rare draws, so that a model learns to push down its own session.  Here past ones
    are there for certain and keep their score, also as targets; future ones are left out.

    Scores must stay below some 60 (cosines divided by a temperature do), since no maximum is subtracted.

    The matrix of weights, rows x n, is by far the largest thing here, so it is written once and read
    three times: logQ is a factor per candidate and the softmax's sum one per row, and both are
    multiplied into the small factors of the products instead.
    """
    n_rows = len(queries)
    rows = torch.arange(n_rows)
    scores = queries @ vectors.T
    scores[own.future] = EXCLUDED
    scores[own.past] += logq[own.past[1]]
    scores[own.repeat] += own.bonus
    wanted = scores[rows, targets] - logq[targets]

    weights = scores.exp_()
    lift = torch.exp(-logq)
    total = weights @ lift
    loss = float((total.log() - wanted).sum())
    share = 1.0 / (n_rows * total)

    by_queries = torch.mul(weights @ (vectors * lift[:, None]), share[:, None])
    by_queries.sub_(vectors[targets], alpha=1.0 / n_rows)
    by_vectors = torch.mul(weights.T @ (queries * share[:, None]), lift[:, None])
    by_vectors.index_add_(0, targets, queries, alpha=-1.0 / n_rows)
    row, candidate = own.repeat
    by_bonus = weights[own.repeat] * share[row] * lift[candidate]
    by_bonus.sub_((candidate == targets[row]).to(torch.float32), alpha=1.0 / n_rows)
    return loss, Gradients(queries=by_queries, vectors=by_vectors, bonus=by_bonus)
