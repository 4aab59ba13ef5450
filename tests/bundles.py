"""Small hand-made bundles: real graphs with random weights, no torch; scored as a trained one would be."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from export.graphs import Floats, step_graph
from export.gru4rec_graph import GRU4RecWeights, LayerWeights
from export.ranker_graph import RankerWeights, ranker_graph
from export.scoring import choose_scoring, popular_clicks
from stream_app.core.candidates import feature_names
from stream_app.core.manifest import SecondStage
from stream_app.core.session_neighbours import PastSessions
from stream_app.core.statistics_recipe import StatisticsRecipe
from stream_app.core.vocabulary import ItemVocabulary
from stream_app.files.bundle import BundleContent, write_bundle


def random_weights(
    n_items: int = 50,
    units: int = 16,
    seed: int = 0,
    *,
    layers: int = 1,
    cell: Literal["gru", "rnn"] = "gru",
) -> GRU4RecWeights:
    """A network that was never trained; its answers are varied and far from ties."""
    rng = np.random.default_rng(seed)
    gates = 3 if cell == "gru" else 1

    def normal(*shape: int) -> np.ndarray[Any, np.dtype[np.float32]]:
        return rng.normal(size=shape).astype(np.float32)

    return GRU4RecWeights(
        cell=cell,
        item_table=normal(n_items, units),
        layers=tuple(
            LayerWeights(
                hidden=normal(units, gates * units) / units**0.5,
                hidden_bias=normal(gates * units) * 0.1,
                input=normal(units, gates * units) / units**0.5,
                input_bias=normal(gates * units) * 0.1,
            )
            for _ in range(layers)
        ),
        output_matrix=normal(n_items, units),
        output_bias=normal(n_items) * 0.1,
    )


def refreshed(weights: GRU4RecWeights, *, changed: Sequence[int], added: int) -> GRU4RecWeights:
    """The network as a refresh leaves it: some items' rows are others, and some items are new."""

    def rows(table: Floats) -> Floats:
        new = np.concatenate([table, np.full((added, *table.shape[1:]), 0.5, dtype=np.float32)])
        new[list(changed)] *= 0.5
        return new

    return replace(
        weights,
        item_table=rows(weights.item_table),
        output_matrix=rows(weights.output_matrix),
        output_bias=rows(weights.output_bias),
    )


def bundle_content(
    n_items: int = 50,
    units: int = 16,
    seed: int = 0,
    *,
    ids: Sequence[str] | None = None,
    version: str | None = None,
    weights: GRU4RecWeights | None = None,
    ranked: bool = False,
) -> BundleContent:
    """ranked: with a second stage, over statistics as they are counted by default, past sessions, and every seventh item new.
    ids: the vocabulary, `item-0` ... if not given; version: made up from the seed if not given."""
    vocabulary = ItemVocabulary(ids if ids is not None else [f"item-{i}" for i in range(n_items)])
    network = weights or random_weights(len(vocabulary), units, seed)
    rng = np.random.default_rng(seed)
    popularity = rng.dirichlet(np.ones(len(vocabulary))).astype(np.float32)
    step = step_graph(network)
    score, scoring = choose_scoring(
        network, step, popular_clicks(popularity), measured_on="made-up clicks"
    )
    return BundleContent(
        model_version=version or f"20260101T{seed:06d}Z-{seed:04x}",
        created_at="2026-01-01T00:00:00Z",
        architecture="gru4rec",
        state=network.state,
        vocabulary=vocabulary,
        step=step.SerializeToString(),
        score=score.SerializeToString(),
        item2vec=rng.normal(size=(len(vocabulary), 8)).astype(np.float32),
        popularity=popularity,
        weights={"output_matrix": network.output_matrix, "output_bias": network.output_bias},
        hyperparameters={"units": units},
        training={},
        metrics={},
        software={},
        scoring=scoring,
        second_stage=SecondStage(features=feature_names(StatisticsRecipe()), session_items=60)
        if ranked
        else None,
        ranker=ranker_graph(random_ranker(seed)).SerializeToString() if ranked else None,
        placed=np.arange(len(vocabulary)) % 7 == 3 if ranked else None,
        past=random_past(len(vocabulary), seed) if ranked else None,
    )


def random_past(n_items: int, seed: int = 0) -> PastSessions:
    """100,000 sessions at most, of 2 to 6 clicks; a fifth of the items have four fifths of the clicks."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, 7, size=min(10 * n_items, 100_000))
    starts = np.concatenate(([0], np.cumsum(lengths)))
    items = (n_items * rng.random(starts[-1]) ** 7.2).astype(np.int64)
    return PastSessions(items, starts)


def random_ranker(seed: int = 0, units: int = 64) -> RankerWeights:
    """Never trained: it orders candidates by everything that is told of them, in no sensible way."""
    rng = np.random.default_rng(seed)
    n = len(feature_names(StatisticsRecipe()))
    return RankerWeights(
        mean=np.zeros(n, dtype=np.float32),
        deviation=np.full(n, 4, dtype=np.float32),
        hidden=rng.normal(size=(n, units)).astype(np.float32),
        hidden_bias=rng.normal(size=units).astype(np.float32),
        out=rng.normal(size=units).astype(np.float32),
        skip=rng.normal(size=n).astype(np.float32),
    )


def make_bundle(
    parent: Path,
    n_items: int = 50,
    units: int = 16,
    seed: int = 0,
    *,
    ids: Sequence[str] | None = None,
    version: str | None = None,
    weights: GRU4RecWeights | None = None,
    ranked: bool = False,
) -> Path:
    """A bundle directory under `parent`, named by its version.  Different seeds, different models."""
    content = bundle_content(
        n_items, units, seed, ids=ids, version=version, weights=weights, ranked=ranked
    )
    directory = parent / content.model_version
    write_bundle(directory, content)
    return directory
