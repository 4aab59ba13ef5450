"""item2vec: item vectors from which items appear together (Barkan & Koenigstein 2016, 1603.04259).

word2vec's skip-gram and CBOW with negative sampling (Mikolov et al. 2013, 1310.4546, equation 4), with
sessions as sentences.  Where we differ: a batch's pairs share their negatives, so that a step is three
matrix products instead of thousands of small ones; and Adagrad takes the place of the falling
learning rate, because a row's summed gradient grows with how often the batch holds its item.
"""

from collections.abc import Iterator
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.config import Item2VecConfig
from models.negatives import NegativeSampler, sampling_weights
from models.optimiser import MomentumAdagrad
from models.torch_setup import torch_set_up
from stream_app.evaluation.sessions import SessionTable

CLICKS_PER_BLOCK: Final = 1 << 19
"""Pairs are made of so many clicks at a time: memory stays bounded however long the log is."""


@torch.no_grad()
def train_item2vec(
    sessions: SessionTable,
    n_items: int,
    config: Item2VecConfig | None = None,
    *,
    start: NDArray[np.float32] | None = None,
    threads: int = 1,
) -> NDArray[np.float32]:
    """A vector per item, float32 [n_items, dim]; items that are together have a high cosine.

    sessions: unknown items (-1) are left out.  start: vectors to go on from, float32 [m, dim] with
    m <= n_items; further rows start at random.  Items without a click keep their start.  The same
    arguments give the same vectors, bit for bit.
    """
    config = config or Item2VecConfig()
    rng = np.random.default_rng(config.seed)
    bound = 0.5 / config.dim
    first = rng.uniform(-bound, bound, (n_items, config.dim)).astype(np.float32)
    if start is not None:
        first[: len(start)] = start
    weights = {"items": torch.from_numpy(first), "contexts": torch.zeros(n_items, config.dim)}
    optimiser = MomentumAdagrad(weights, learning_rate=config.learning_rate, momentum=0.0)
    sessions = sessions.known_only()
    support = sessions.support(n_items)
    # Unlike GRU4Rec's, absent items are no negatives: their vectors should stay as they are.
    weight = np.where(support > 0, sampling_weights(support, config.sample_alpha), 0.0)
    if not weight.any():
        return first
    negatives = NegativeSampler(weight, rng)
    batches = _skip_gram_batches if config.architecture == "skip-gram" else _cbow_batches
    with torch_set_up(threads=threads):
        for _ in range(config.epochs):
            for given, mask, wanted in batches(sessions, support, config, rng):
                drawn = torch.from_numpy(negatives.draw(config.n_sample))
                _learn(weights, optimiser, given, mask, wanted, drawn, config.negative_weight)
    return weights["items"].numpy()


def _learn(
    weights: dict[str, Tensor],
    optimiser: MomentumAdagrad,
    given: Tensor,
    mask: Tensor | None,
    wanted: Tensor,
    negatives: Tensor,
    negative_weight: float,
) -> None:
    """One step up -log sigmoid(g.w) - (k / n) sum_n log sigmoid(-g.n) over a batch.

    given: int64 [batch] (skip-gram: one item) or [batch, 2 window] with `mask` float32 of the same
    shape (CBOW: the mean of those); wanted: int64 [batch]; negatives: int64 [n_sample].
    """
    table = weights["items"]
    if mask is None:
        vectors = table.index_select(0, given)
    else:
        share = mask / mask.sum(dim=1, keepdim=True)
        rows = table.index_select(0, given.reshape(-1)).view(*given.shape, -1)
        vectors = (rows * share[:, :, None]).sum(dim=1)
    contexts = weights["contexts"].index_select(0, wanted)
    sampled = weights["contexts"].index_select(0, negatives)

    pull = torch.sigmoid((vectors * contexts).sum(dim=1)).sub_(1.0)[:, None]  # [batch, 1]
    push = torch.sigmoid(vectors @ sampled.T).mul_(negative_weight / len(negatives))
    by_vectors = pull * contexts + push @ sampled
    by_contexts = torch.cat((pull * vectors, push.T @ vectors))
    optimiser.step_rows("contexts", torch.cat((wanted, negatives)), by_contexts)
    if mask is None:
        optimiser.step_rows("items", given, by_vectors)
        return
    used = mask.reshape(-1).nonzero().squeeze(1)
    spread = (by_vectors[:, None, :] * share[:, :, None]).flatten(0, 1).index_select(0, used)
    optimiser.step_rows("items", given.reshape(-1).index_select(0, used), spread)


_Batch = tuple[Tensor, Tensor | None, Tensor]


def _skip_gram_batches(
    sessions: SessionTable,
    support: NDArray[np.int64],
    config: Item2VecConfig,
    rng: np.random.Generator,
) -> Iterator[_Batch]:
    """(item, context item) pairs in random order."""
    for items, session in _blocks(sessions, support, config, rng):
        reach = rng.integers(1, config.window + 1, len(items))
        given, wanted = [], []
        for distance in range(1, config.window + 1):
            together = session[distance:] == session[:-distance]
            earlier, later = items[:-distance], items[distance:]
            for centre, context, near in (
                (earlier, later, reach[:-distance]),
                (later, earlier, reach[distance:]),
            ):
                chosen = together & (near >= distance)
                given.append(centre[chosen])
                wanted.append(context[chosen])
        yield from _shuffled(np.concatenate(given), None, np.concatenate(wanted), config, rng)


def _cbow_batches(
    sessions: SessionTable,
    support: NDArray[np.int64],
    config: Item2VecConfig,
    rng: np.random.Generator,
) -> Iterator[_Batch]:
    """(items around a click, a mask over them, the click's item), in random order."""
    offsets = np.array([d for d in range(-config.window, config.window + 1) if d != 0])
    for items, session in _blocks(sessions, support, config, rng):
        reach = rng.integers(1, config.window + 1, len(items))
        around = np.arange(len(items))[:, None] + offsets  # [n, 2 window]
        inside = (around >= 0) & (around < len(items))
        around = np.where(inside, around, 0)
        mask = inside & (session[around] == session[:, None]) & (np.abs(offsets) <= reach[:, None])
        some = mask.any(axis=1)
        yield from _shuffled(
            items[around[some]], mask[some].astype(np.float32), items[some], config, rng
        )


def _blocks(
    sessions: SessionTable,
    support: NDArray[np.int64],
    config: Item2VecConfig,
    rng: np.random.Generator,
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Items and session numbers of the clicks that sub-sampling leaves, block by block.

    Frequent items are dropped with probability 1 - sqrt(t / f) - t / f (word2vec.c), f their share of
    clicks; what is left of a session moves together.
    """
    share = support / support.sum()
    kept_share = np.ones(len(support))
    frequent = share > config.subsample
    if config.subsample > 0:
        ratio = config.subsample / share[frequent]
        kept_share[frequent] = np.minimum(np.sqrt(ratio) + ratio, 1.0)
    starts = sessions.session_starts
    first = 0
    while first < sessions.n_sessions:
        last = int(np.searchsorted(starts, starts[first] + CLICKS_PER_BLOCK, side="right")) - 1
        last = max(last, first + 1)
        items = sessions.item_indexes[starts[first] : starts[last]]
        session = np.repeat(np.arange(first, last), np.diff(starts[first : last + 1]))
        kept = rng.random(len(items)) < kept_share[items]
        yield items[kept], session[kept]
        first = last


def _shuffled(
    given: NDArray[np.int64],
    mask: NDArray[np.float32] | None,
    wanted: NDArray[np.int64],
    config: Item2VecConfig,
    rng: np.random.Generator,
) -> Iterator[_Batch]:
    order = rng.permutation(len(wanted))
    for first in range(0, len(order), config.batch_size):
        chosen = order[first : first + config.batch_size]
        yield (
            torch.from_numpy(given[chosen]),
            None if mask is None else torch.from_numpy(mask[chosen]),
            torch.from_numpy(wanted[chosen]),
        )
