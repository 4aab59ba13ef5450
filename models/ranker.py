"""The second stage: a small network that orders candidates by what is known of each."""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import relu

from models.torch_setup import torch_set_up

Floats = NDArray[np.float32]


class RankerConfig(msgspec.Struct, frozen=True, kw_only=True):
    units: int = 64
    learning_rate: float = 3e-3
    batch_lists: int = 64
    epochs: int = 8
    """At least; more, up to 40, until there were `steps_min` steps."""
    steps_min: int = 400
    weight_decay: float = 1e-5
    seed: int = 42


@dataclass(frozen=True, slots=True, eq=False)
class RankedLists:
    """What a ranker learns from: lists of candidates of which one was clicked next.

    features: float32 [n, n_features] of all candidates, list after list; starts: int64 [n_lists + 1];
    clicked: int64 [n_lists], the row (of `features`) that was clicked next.
    """

    features: Floats
    starts: NDArray[np.int64]
    clicked: NDArray[np.int64]

    @property
    def n_lists(self) -> int:
        return len(self.clicked)


@dataclass(frozen=True, slots=True, eq=False)
class Ranker:
    """Two layers over standardised features and a straight way past them; see
    `export.ranker_graph.RankerWeights` for the shapes."""

    mean: Floats
    deviation: Floats
    hidden: Floats
    hidden_bias: Floats
    out: Floats
    skip: Floats
    epoch_losses: Sequence[float]


def train_ranker(
    lists: RankedLists, config: RankerConfig | None = None, *, farthest: float, threads: int = 1
) -> Ranker:
    """Learn which candidate is clicked next: -log softmax over each list (ListNet's top-one loss, Cao et al. 2007).

    farthest: standardised features are cut at so many standard deviations, as serving cuts them.  The
    same arguments give the same weights, bit for bit.
    """
    config = config or RankerConfig()
    generator = torch.Generator().manual_seed(config.seed)
    rng = np.random.default_rng(config.seed)
    mean = lists.features.mean(axis=0, dtype=np.float64).astype(np.float32)
    deviation = lists.features.std(axis=0, dtype=np.float64).astype(np.float32)
    deviation[deviation < 1e-6] = 1.0
    n_features = lists.features.shape[1]
    bound = (6.0 / (n_features + config.units)) ** 0.5
    hidden = torch.empty(n_features, config.units).uniform_(-bound, bound, generator=generator)
    out = torch.empty(config.units).uniform_(-bound, bound, generator=generator)
    weights = [hidden, torch.zeros(config.units), out, torch.zeros(n_features)]
    for weight in weights:
        weight.requires_grad_()
    adam = torch.optim.AdamW(weights, lr=config.learning_rate, weight_decay=config.weight_decay)
    losses = []
    steps_per_epoch = -(-lists.n_lists // config.batch_lists)
    epochs = max(config.epochs, min(40, -(-config.steps_min // steps_per_epoch)))
    steps = epochs * steps_per_epoch
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(adam, max(steps, 1))
    with torch_set_up(threads=threads):
        for _ in range(epochs):
            total = 0.0
            order = rng.permutation(lists.n_lists)
            for first in range(0, len(order), config.batch_lists):
                chosen = order[first : first + config.batch_lists]
                features, sizes, clicked = _batch(lists, chosen)
                standard = torch.from_numpy((features - mean) / deviation)
                scores = _scores(standard.clamp_(-farthest, farthest), *weights)
                loss = _listwise_loss(scores, sizes, clicked)
                adam.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                adam.step()
                falling.step()
                total += float(loss.detach()) * len(chosen)
            losses.append(total / lists.n_lists)
    matrix, bias, last, skip = (weight.detach().numpy() for weight in weights)
    return Ranker(mean, deviation, matrix, bias, last, skip, losses)


def _scores(features: Tensor, hidden: Tensor, bias: Tensor, out: Tensor, skip: Tensor) -> Tensor:
    return relu(features @ hidden + bias) @ out + features @ skip


def _batch(
    lists: RankedLists, chosen: NDArray[np.int64]
) -> tuple[Floats, NDArray[np.int64], NDArray[np.int64]]:
    """Features of some lists one after the other, the lists' sizes, and the clicked rows."""
    starts = lists.starts[chosen]
    sizes = lists.starts[chosen + 1] - starts
    begins = np.cumsum(sizes) - sizes
    rows = np.arange(sizes.sum()) + np.repeat(starts - begins, sizes)
    return lists.features[rows], sizes, lists.clicked[chosen] - starts + begins


def _listwise_loss(scores: Tensor, sizes: NDArray[np.int64], clicked: NDArray[np.int64]) -> Tensor:
    """Mean over the lists of -log softmax(scores of the list)[clicked]."""
    padded = torch.full((len(sizes), int(sizes.max())), -torch.inf)
    row = np.repeat(np.arange(len(sizes)), sizes)
    place = np.arange(len(row)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    padded = padded.index_put((torch.from_numpy(row), torch.from_numpy(place)), scores)
    own = scores[torch.from_numpy(clicked)]
    return (torch.logsumexp(padded, dim=1) - own).mean()
