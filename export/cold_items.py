"""Items that nobody has clicked yet join a model by what the shop says of them (topic `topics.items`)."""

from collections.abc import Callable, Collection, Container, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from export.content_map import ContentMap
from models.checkpoint import Checkpoint
from stream_app.adapters.item_topic import DescribedItem, ItemCatalogue
from stream_app.core.errors import ConfigurationError
from stream_app.core.records import ItemId
from stream_app.settings import RetrainSettings

TAUGHT_MAX: Final = 20_000
"""Attributes are learned from so many items, the most clicked."""
LEARNED_MIN: Final = 50
"""Fewer items with clicks and attributes are no sample of what attributes say."""

EXPERIENCE: Final = 0.9
"""A placed item moves as slowly as one that so many of all items have learned less than."""

_SQUARES: Final = ("accumulator", "square")
"""What Adagrad and Adam divide by: sums and means of squared gradients."""
_BIAS: Final = "item_bias"
_VECTORS: Final = "item_vectors"
_ITEM2VEC: Final = "item2vec"
Described = Mapping[ItemId, DescribedItem]


@dataclass(frozen=True, slots=True, eq=False)
class Placed:
    """A checkpoint in which items have vectors that their attributes tell."""

    checkpoint: Checkpoint
    """New items at the end of its vocabulary."""
    item2vec: NDArray[np.float32]
    items: tuple[ItemId, ...]
    """Those that were placed."""


def read_descriptions(
    catalogue: ItemCatalogue, settings: RetrainSettings, say: Callable[[str], None]
) -> Described:
    """What is said of the items now; nothing where no unclicked one is wanted, or the topic is missing.

    Without descriptions a training is what it was before there were any, so it goes on.  Raises
    `ServiceAwayError`.
    """
    if not settings.cold_items_max:
        return {}
    try:
        return catalogue.look()
    except ConfigurationError as error:
        say(f"items nobody has clicked stay out: {error}")
        return {}


def choose_cold_items(
    described: Described,
    known: Container[str],
    room: int,
    settings: RetrainSettings,
    placed: Collection[str] = (),
) -> list[ItemId]:
    """Described items that are not `known`, the most recently described first.

    placed: cold items that a model has already.  With them at most `retrain.cold_items_max`, and at most
    `room` more: each costs as much at every answer as one that is clicked.
    """
    wanted = max(min(settings.cold_items_max - len(placed), room), 0)
    newest = reversed(list(described))  # the catalogue keeps the most recently described last
    return list(islice((item for item in newest if item not in known), wanted))


def place_items(
    checkpoint: Checkpoint,
    item2vec: NDArray[np.float32],
    items: Iterable[ItemId],
    described: Described,
    clicks: NDArray[np.float64],
    *,
    boost: float,
    say: Callable[[str], None] = lambda _: None,
) -> Placed:
    """Give described items the vectors that items like them have learned.

    items: those to place; ones that the vocabulary lacks are added, rows of others overwritten.  clicks:
    float64 [n_items], how often each row was learned from; rows clicked at least once teach the rest.
    boost: added to the scores of placed items where the network has a bias for each: the average of its like would hardly
    ever be among the best 20.

    Places none where too few items with clicks are described, or attributes say nothing of vectors.
    """
    places = tuple(dict.fromkeys(item for item in items if item in described))
    ids = checkpoint.vocabulary.ids
    taught = [row for row in np.flatnonzero(clicks > 0).tolist() if ids[row] in described]
    # A regression of so few numbers learns nothing from more.
    taught = sorted(sorted(taught, key=lambda row: -clicks[row])[:TAUGHT_MAX])
    nothing = Placed(checkpoint, item2vec, ())
    if not places or len(taught) < LEARNED_MIN:
        return nothing
    tables = {name: checkpoint.weights[name].numpy() for name in sorted(checkpoint.item_tables)}
    parts = {**tables, _ITEM2VEC: item2vec}
    learned = {name: part.reshape(len(part), -1)[taught] for name, part in parts.items()}
    # Of one size, so that none decides alone how strong the regularisation is.
    sizes = {
        name: max(float(np.sqrt(np.square(part).mean())), 1e-12) for name, part in learned.items()
    }
    content = ContentMap(
        [described[ids[row]].attributes for row in taught],
        np.concatenate([part / sizes[name] for name, part in learned.items()], axis=1),
        clicks[taught],
    )
    if content.explained <= 0:
        say("what the items are said to be tells nothing of their vectors: unclicked ones stay out")
        return nothing
    told = content([described[item].attributes for item in places])
    ends = np.cumsum([part.shape[1] for part in learned.values()])[:-1]
    vectors = {
        name: part * np.float32(sizes[name])
        for name, part in zip(learned, np.split(told, ends, axis=1), strict=True)
    }
    if _BIAS in vectors:
        vectors[_BIAS] += np.float32(boost)
    else:
        vectors[_VECTORS] = _of_length(vectors[_VECTORS], learned[_VECTORS])

    vocabulary = checkpoint.vocabulary.extended(places)
    rows = np.array([vocabulary.index_of[item] for item in places])

    def with_rows(table: NDArray[np.float32], new: NDArray[np.float32]) -> NDArray[np.float32]:
        added = ((0, len(vocabulary) - len(table)), *((0, 0) for _ in table.shape[1:]))
        grown = np.pad(table, added)
        grown[rows] = new.reshape(len(rows), *table.shape[1:])
        return grown

    weights = {
        name: torch.from_numpy(with_rows(table, vectors[name])) for name, table in tables.items()
    }
    return Placed(
        replace(
            checkpoint,
            vocabulary=vocabulary,
            weights={**checkpoint.weights, **weights},
            optimiser=_with_steady_rows(checkpoint, rows, taught, len(vocabulary)),
        ),
        with_rows(item2vec, vectors[_ITEM2VEC]),
        places,
    )


def _of_length(vectors: NDArray[np.float32], like: NDArray[np.float32]) -> NDArray[np.float32]:
    """A regression's answers are shorter than what it learned from; a cosine does not see it, the next state would."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    usual = np.float32(np.median(np.linalg.norm(like, axis=1)))
    stretched: NDArray[np.float32] = vectors * (usual / np.maximum(lengths, np.float32(1e-12)))
    return stretched


def _with_steady_rows(
    checkpoint: Checkpoint, rows: NDArray[np.int64], taught: list[int], n_items: int
) -> dict[str, Tensor]:
    """The optimiser's state, in which placed rows move as slowly as those of much clicked items.

    A row without squared gradients makes its first steps as long as steps can be, and they are those of a
    sampled negative more often than those of a click: its place would be lost within a minute.
    """
    state = dict(checkpoint.optimiser)
    for name, tensor in state.items():
        kind, _, table = name.rpartition(".")
        if table not in checkpoint.item_tables:
            continue
        grown = torch.zeros((n_items, *tensor.shape[1:]), dtype=tensor.dtype)
        grown[: len(tensor)] = tensor
        grown[torch.from_numpy(rows)] = 0.0
        if kind in _SQUARES:
            grown[torch.from_numpy(rows)] = torch.quantile(tensor[taught], EXPERIENCE, dim=0)
        state[name] = grown
    return state
