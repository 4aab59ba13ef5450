"""What item2vec is worth: its neighbours as a recommender, by length of session, and as a start for the networks.

    OMP_NUM_THREADS=1 .venv-training/bin/python -m tests.benchmarks.item2vec \
        ../shared/data/yoochoose1_64_seq/sequences.parquet --model cosine-gru --epochs 3

The newest tenth of the training sessions is held out; nothing here looks at a test part.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click
import msgspec
import numpy as np
from numpy.typing import NDArray

from models.config import ARCHITECTURES, Item2VecConfig
from models.evaluate import next_click_ranks
from models.item2vec import train_item2vec
from models.train import train
from models.training_run import load_training_data
from stream_app.core.metrics import quality_of_ranks
from stream_app.evaluation.item2vec_neighbours import Item2VecConfig as RankerConfig
from stream_app.evaluation.item2vec_neighbours import Item2VecRanker
from stream_app.evaluation.judge import ranks_and_lists
from stream_app.evaluation.next_clicks import all_next_clicks
from stream_app.evaluation.rankers import ItemKNNRanker, Ranker
from stream_app.evaluation.sessions import SessionTable
from stream_app.evaluation.tuning import tune_item2vec, tune_item_knn

HELD_OUT: Final = 0.1
TARGETS_MAX: Final = 20_000
LENGTHS: Final = ((1, 1), (2, 2), (3, 4), (5, 10**9))
LAST_ITEM: Final = RankerConfig(decay=1e-9, seen_weight=0.0)
"""Nearest to the last item alone, what was clicked already left out."""


class _File(msgspec.Struct):
    """As much of `TrainingOptions` as reading a file of sequences asks for."""

    data: Path


def told(name: str, ranks: NDArray[np.int64], clicks: NDArray[np.int64]) -> str:
    """A row of the table: all targets, then by how many clicks the answer knew."""
    parts = [_pair(ranks)]
    parts += [_pair(ranks[(clicks >= low) & (clicks <= high)]) for low, high in LENGTHS]
    return f"{name:<40}" + "  ".join(parts)


def _pair(ranks: NDArray[np.int64]) -> str:
    quality = quality_of_ranks(ranks)
    return f"{quality.recall_20:.4f}/{quality.mrr_20:.4f}"


def rankers(past: SessionTable, n_items: int, epochs: int) -> Iterator[tuple[str, Ranker]]:
    known = past.support(n_items) > 0
    for architecture in ("skip-gram", "cbow"):
        for window in (2, 5):
            config = Item2VecConfig(architecture=architecture, window=window, epochs=epochs)
            vectors = train_item2vec(past, n_items, config)
            name = f"{architecture}, window {window}"
            yield f"{name}: last item's neighbours", Item2VecRanker(vectors, known, LAST_ITEM)
            best = tune_item2vec(past, vectors, known)
            yield f"{name}: tuned", Item2VecRanker(vectors, known, best)
    yield "item-kNN, tuned", ItemKNNRanker(past, n_items, tune_item_knn(past, n_items))


@click.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True))
@click.option("--model", type=click.Choice(sorted(ARCHITECTURES)), default="cosine-gru")
@click.option("--epochs", default=3, show_default=True, help="Of the network.")
@click.option("--item2vec-epochs", default=5, show_default=True)
def main(file: Path, model: str, epochs: int, item2vec_epochs: int) -> None:
    """Neighbours, and start vectors, on a file of benchmark sequences."""
    data = load_training_data(_File(file))  # type: ignore[arg-type]
    n_items = len(data.vocabulary)
    past, held_out = data.train.at_least(2).split_newest(HELD_OUT)
    held_out = held_out.at_least(2)
    asked = all_next_clicks(held_out).newest(TARGETS_MAX)
    clicks = asked.positions - asked.sessions.session_starts[:-1][asked.session_numbers]
    click.echo(
        f"{past.n_clicks:,} clicks learned, {asked.n_targets:,} next clicks judged; R@20/MRR@20 of all, and after "
        "1, 2, 3 to 4, 5 and more clicks"
    )
    for name, ranker in rankers(past, n_items, item2vec_epochs):
        ranks, _, _ = ranks_and_lists(ranker, asked, np.zeros(n_items, dtype=np.int64))
        click.echo(told(name, ranks, clicks))
    config = ARCHITECTURES[model]().changed(epochs=epochs)
    units = int(getattr(config, "units"))  # noqa: B009 - every network has them
    start = train_item2vec(past, n_items, Item2VecConfig(dim=units, epochs=item2vec_epochs))
    for name, vectors in (("random start", None), ("item2vec start", start)):
        result = train(past, data.vocabulary, config, item_vectors=vectors, validation=held_out)
        record = result.checkpoint.record
        ranks = next_click_ranks(result.checkpoint.model(), held_out)
        recalls = " ".join(f"{recall:.4f}" for recall in record.epoch_recalls)
        all_clicks = all_next_clicks(held_out)
        after = (
            all_clicks.positions
            - all_clicks.sessions.session_starts[:-1][all_clicks.session_numbers]
        )
        click.echo(told(f"{model}, {name}", ranks, after) + f"  R@20 by epoch {recalls}")


if __name__ == "__main__":
    main()
