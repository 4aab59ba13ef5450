"""The rankers of an evaluation, each tuned on the end of the training part."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from stream_app.adapters.onnx_scorer import OnnxScorer
from stream_app.core.errors import ConfigurationError
from stream_app.core.second_stage import SecondStages
from stream_app.core.statistics_recipe import StatisticsRecipe
from stream_app.core.vocabulary import ItemVocabulary
from stream_app.evaluation.blend import BlendRanker
from stream_app.evaluation.bundle_ranker import BundleRanker
from stream_app.evaluation.item2vec_neighbours import Item2VecRanker
from stream_app.evaluation.rankers import (
    ItemKNNRanker,
    PopularityRanker,
    Ranker,
    RecentPopularityRanker,
)
from stream_app.evaluation.session_knn import SessionKNNRanker
from stream_app.evaluation.sessions import SessionTable, with_made_up_clock
from stream_app.evaluation.tuning import (
    tune_item2vec,
    tune_item_knn,
    tune_recent_popularity,
    tune_session_knn,
)
from stream_app.evaluation.two_stages import TwoStageRanker, statistics_of
from stream_app.files.bundle import open_bundle

RANKERS: Final = (
    "popularity",
    "recent-popularity",
    "item-knn",
    "session-knn",
    "item2vec",
    "bundle",
    "two-stages",
    "blend",
)
"""What `--rankers` chooses from."""
TWO_STAGES: Final = ", two stages"
"""Added to the name of a bundle."""


@dataclass(frozen=True, eq=False)
class LoadedBundle:
    directory: Path
    name: str
    """Its architecture; with the directory where several of one architecture are judged."""
    scorer: OnnxScorer
    item2vec: NDArray[np.float32]


@dataclass(eq=False)
class LineUp:
    """Makes the rankers one after another, so that only one of them is in memory with its index."""

    vocabulary: ItemVocabulary
    train: SessionTable
    clicks: SessionTable | None
    """Everything clicked, before and during the test, where there is a clock."""
    bundles: Sequence[LoadedBundle]
    recipe: StatisticsRecipe
    """How a second stage's statistics are counted."""
    history_max: int
    """Last items of a session that a worker remembers."""
    blend_weights: Sequence[float] = (0.5,)
    parameters: dict[str, Any] = field(default_factory=dict)
    """What tuning chose, by ranker; filled in as the rankers are made."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Rankers that could not be made, and why."""

    def rankers(self, chosen: Sequence[str]) -> Iterator[Ranker]:
        """Those of `chosen` that can be made; the others are noted in `skipped`."""
        unknown = sorted(set(chosen) - set(RANKERS))
        if unknown:
            raise ConfigurationError(
                f"no such ranker: {', '.join(unknown)}; there are {', '.join(RANKERS)}"
            )
        makers = {
            "popularity": self._popularity,
            "recent-popularity": self._recent_popularity,
            "item-knn": self._item_knn,
            "item2vec": self._item2vec,
        }
        for name, make in makers.items():
            if name in chosen:
                yield from make()
        yield from self._models_and_session_knn(chosen)

    def _models_and_session_knn(self, chosen: Sequence[str]) -> Iterator[Ranker]:
        """Together, as a blend needs both."""
        for name in ("bundle", "two-stages", "blend"):
            if name in chosen and not self.bundles:
                self.skipped[name] = "no --bundle was given"
        knn = None
        blends = "blend" in chosen and bool(self.bundles)
        if ("session-knn" in chosen or blends) and self._learns("session-knn"):
            knn = self._session_knn()
            if "session-knn" in chosen:
                yield knn
        for bundle in self.bundles:
            model = BundleRanker(bundle.scorer, self.vocabulary, name=bundle.name)
            if "bundle" in chosen:
                yield model
            if "two-stages" in chosen:
                yield from self._two_stages(model, bundle)
            if blends and knn is not None:
                for weight in self.blend_weights:
                    yield BlendRanker(model, knn, weight=weight)

    def _two_stages(self, model: BundleRanker, bundle: LoadedBundle) -> Iterator[Ranker]:
        """Statistics of the training part, as they stand when it is over."""
        name = f"{bundle.name}{TWO_STAGES}"
        if bundle.scorer.ranker is None:
            self.skipped[name] = "the bundle has no second stage"
        elif self._learns(name):
            clocked = self.train if self.clicks is not None else with_made_up_clock(self.train)
            statistics = statistics_of(clocked, self.vocabulary, self.recipe)
            stages = SecondStages.of(bundle.scorer, statistics)
            if stages is None:
                self.skipped[name] = (
                    "its second stage was learned from statistics counted otherwise (settings statistics.*), "
                    "or by another nextclick: train it again"
                )
                return
            yield TwoStageRanker(
                model, stages, self.vocabulary, history_max=self.history_max, name=name
            )

    def _learns(self, name: str) -> bool:
        if self.train.n_clicks == 0:
            self.skipped[name] = "the file has no training part to learn from"
        return self.train.n_clicks > 0

    def _popularity(self) -> Iterator[Ranker]:
        if self._learns("popularity"):
            yield PopularityRanker(self.train, len(self.vocabulary))

    def _item_knn(self) -> Iterator[Ranker]:
        if self._learns("item-knn"):
            config = tune_item_knn(self.train, len(self.vocabulary))
            self.parameters["item-knn"] = msgspec.to_builtins(config)
            yield ItemKNNRanker(self.train, len(self.vocabulary), config)

    def _session_knn(self) -> SessionKNNRanker:
        n_items = len(self.vocabulary)
        config = tune_session_knn(self.train, n_items, has_clock=self.clicks is not None)
        self.parameters["session-knn"] = msgspec.to_builtins(config)
        return SessionKNNRanker(self.train, n_items, config)

    def _recent_popularity(self) -> Iterator[Ranker]:
        if self.clicks is None:
            self.skipped["recent-popularity"] = "the file has no clock"
        elif self._learns("recent-popularity"):
            half_life_ms = tune_recent_popularity(self.train, len(self.vocabulary))
            self.parameters["recent-popularity"] = {"half_life_minutes": half_life_ms / 60_000}
            yield RecentPopularityRanker(
                self.clicks, len(self.vocabulary), half_life_ms=half_life_ms
            )

    def _item2vec(self) -> Iterator[Ranker]:
        if not self.bundles:
            self.skipped["item2vec"] = "the vectors are a bundle's, and no --bundle was given"
            return
        bundle = self.bundles[0]
        vectors = np.zeros((len(self.vocabulary), bundle.item2vec.shape[1]), dtype=np.float32)
        rows = [self.vocabulary.index_of[item] for item in bundle.scorer.vocabulary.ids]
        vectors[rows] = bundle.item2vec
        known = np.zeros(len(vectors), dtype=bool)
        known[rows] = True
        config = tune_item2vec(self.train, vectors, known)
        self.parameters["item2vec"] = msgspec.to_builtins(config)
        yield Item2VecRanker(vectors, known, config)


def load_bundles(directories: Sequence[Path]) -> list[LoadedBundle]:
    """Verified and probed.  Raises `BundleError`."""
    opened = [open_bundle(directory) for directory in directories]
    architectures = [bundle.manifest.architecture for bundle in opened]
    return [
        LoadedBundle(
            directory=directory,
            name=name if architectures.count(name) == 1 else f"{name} ({directory.name})",
            scorer=OnnxScorer.of(bundle),
            item2vec=bundle.item2vec,
        )
        for directory, bundle, name in zip(directories, opened, architectures, strict=True)
    ]
