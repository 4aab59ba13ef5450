"""Ranking quality of a model on held-out sessions: whole catalogue, every position from the second."""

from collections.abc import Iterator
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.checkpoint import Checkpoint
from models.network import SessionModel
from stream_app.core.metrics import RankingQuality
from stream_app.evaluation.sessions import SessionTable
from stream_app.evaluation.targets import MISS, quality_with_cold, target_positions

SCORE_BYTES_MAX: Final = 64 << 20
"""Size of the score matrix held at a time; as many sessions as fit are ranked together."""
SESSIONS_MAX: Final = 512


def evaluate_checkpoint(checkpoint: Checkpoint, sessions: SessionTable) -> RankingQuality:
    """Recall and MRR of a checkpoint; `sessions` are indexes into its vocabulary."""
    return evaluate_model(checkpoint.model(), sessions)


def evaluate_model(model: SessionModel, sessions: SessionTable) -> RankingQuality:
    """Recall@5/10/20 and MRR@20 over every click from a session's second.

    States start at zero and are rounded as serving stores them; ties count against us
    (`core.metrics.conservative_ranks`).  Targets outside the vocabulary (-1) are misses, and
    reported as `cold_targets`; a click on such an item leaves the state as it is, as online.
    """
    return quality_with_cold(next_click_ranks(model, sessions), sessions)


@torch.inference_mode()
def next_click_ranks(model: SessionModel, sessions: SessionTable) -> NDArray[np.int64]:
    """Conservative rank of every next click, int64 [n_targets], in table order; `MISS` if cold."""
    matrix, bias = model.output_matrix(), model.output_bias()
    ranks = np.full(sessions.n_clicks, MISS, dtype=np.int64)
    row_bytes = 4 * model.n_items
    n_together = int(np.clip(SCORE_BYTES_MAX // row_bytes, 1, SESSIONS_MAX))
    scratch = torch.empty(n_together, model.n_items)
    for rows, states in _sessions_step_by_step(model, sessions, n_together):
        target = sessions.item_indexes[rows]
        warm = np.flatnonzero(target >= 0)
        if len(warm):
            asked = tuple(state[torch.from_numpy(warm)] for state in states)
            scores = torch.addmm(bias, model.query(*asked), matrix.T, out=scratch[: len(warm)])
            scores = model.add_repeats(scores, *asked)
            ranks[rows[warm]] = _conservative_ranks(scores, torch.from_numpy(target[warm]))
    return ranks[target_positions(sessions)]


def _sessions_step_by_step(
    model: SessionModel, sessions: SessionTable, n_together: int
) -> Iterator[tuple[NDArray[np.int64], tuple[Tensor, ...]]]:
    """(rows of `item_indexes` to predict, states before them), longest sessions first.

    Sessions of similar length are advanced together; those that end drop off the end of the batch.
    """
    lengths = sessions.lengths
    by_length = np.argsort(-lengths, kind="stable")
    by_length = by_length[lengths[by_length] >= 2]
    for first in range(0, len(by_length), n_together):
        chunk = by_length[first : first + n_together]
        starts, length = sessions.session_starts[chunk], lengths[chunk]
        states = model.start_states(len(chunk))
        for position in range(int(length[0]) - 1):
            alive = int(np.searchsorted(-length, -(position + 1), side="left"))
            states = tuple(state[:alive] for state in states)
            clicked = sessions.item_indexes[starts[:alive] + position]
            states = _stepped(model, clicked, states)
            yield starts[:alive] + position + 1, states


def _stepped(
    model: SessionModel, clicked: NDArray[np.int64], states: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    known = clicked >= 0
    after = model.step(torch.from_numpy(np.maximum(clicked, 0)), *states)
    if known.all():
        return after
    mask = torch.from_numpy(known)[:, None]
    return tuple(torch.where(mask, new, old) for new, old in zip(after, states, strict=True))


def _conservative_ranks(scores: Tensor, target: Tensor) -> NDArray[np.int64]:
    """As `core.metrics.conservative_ranks`, without leaving torch."""
    own = scores.gather(1, target[:, None])
    ranks: NDArray[np.int64] = (scores >= own).sum(dim=1).numpy()
    # A NaN anywhere makes the row's sum NaN; so may infinities, which no sound model gives either.
    return np.where(np.isnan(scores.sum(dim=1).numpy()), scores.shape[1] + 1, ranks)
