"""Fresh models between two full trainings: learn the newest clicks every few minutes, release what changed.

A `Refresher` stays in memory, so that a run costs little more than the learning itself: it keeps the live
model's weights and the clicks of the last hours, and reads what is new.  What it releases is a delta on
the last full training (`stream_app.files.bundle_delta`); weights, optimiser and all are in it, so a
refresher that was killed goes on from the live model.
"""

import shutil
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from export.admission import with_new_items
from export.artifact import (
    TrainingFacts,
    bundle_content,
    checkpoint_of,
    new_model_version,
    popularity_of,
)
from export.cold_items import choose_cold_items, place_items, read_descriptions
from export.contenders import BASE, LIVE, as_metrics
from export.fine_tuning import FineTuned, Rival, fine_tune
from export.parity import check_parity
from export.plan import Say
from export.run import Refreshed, Run, RunOutcome, scratch_directory
from export.window import in_vocabulary_of
from models.checkpoint import Checkpoint
from stream_app.adapters.item_topic import ItemCatalogue
from stream_app.adapters.onnx_scorer import OnnxScorer
from stream_app.adapters.releases import ReleasePointer
from stream_app.adapters.retrain_instruments import RefreshInstruments
from stream_app.core.errors import ConfigurationError
from stream_app.core.manifest import SecondStage
from stream_app.core.session_neighbours import PastSessions
from stream_app.core.vocabulary import ItemVocabulary
from stream_app.evaluation.sessions import SessionTable, sessions_of_clicks, vocabulary_of_clicks
from stream_app.files.bundle import BundleContent, open_bundle, write_bundle
from stream_app.files.click_tail import ClickTail
from stream_app.files.registry import Registry
from stream_app.settings import Settings

PARITY_BATCHES: Final = (1, 64)
"""Batches that torch and ONNX Runtime are compared in; the full training tried more, with the same graphs."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class _Model:
    """A model as training goes on from it, and what its bundle holds besides."""

    version: str
    base: str
    """The full training it goes back to; its own version where it is one."""
    checkpoint: Checkpoint
    item2vec: NDArray[np.float32]
    popularity: NDArray[np.float32]
    second_stage: SecondStage | None
    ranker: bytes | None
    past: PastSessions | None
    """What the second stage looks for neighbours in; as old as the full training."""
    training: TrainingFacts

    @property
    def known_until_ms(self) -> int:
        """Newest click it has learned."""
        assert self.training.last_event_ms is not None
        return self.training.last_event_ms


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class _Lesson:
    """What a run learns, and the model it begins with."""

    start: Checkpoint
    """With the vectors of described items that are new to it."""
    item2vec: NDArray[np.float32]
    """Of the items of `start`."""
    vocabulary: ItemVocabulary
    """Begins with the items of `start`."""
    window: SessionTable
    """The sessions of the last hours, as rows of `vocabulary`."""
    unsettled: NDArray[np.int64]
    """Rows of `start` whose places are told by their descriptions: too few clicks to learn a better one."""
    n_unclicked: int
    """Of these, without any click."""


class Refresher:
    """For one thread.  `run` again and again, `close` in the end."""

    def __init__(self, settings: Settings, *, instruments: RefreshInstruments, say: Say) -> None:
        """Raises `ConfigurationError` where the registry cannot be written to, or another training is at
        work in this data directory."""
        self._settings, self._instruments, self._say = settings, instruments, say
        self._registry = Registry(settings.registry, settings.data_dir / "models")
        self._registry.check_writable()
        self._resources = ExitStack()
        self._directory = self._resources.enter_context(scratch_directory(settings, "refresh"))
        self._tail = ClickTail(
            settings.click_log,
            window_hours=settings.refresh.window_hours,
            clicks_max=settings.refresh.clicks_max,
            event_types=settings.serving.event_types,
        )
        self._pointer = ReleasePointer(settings.kafka, settings.topics.releases)
        self._resources.callback(self._pointer.close)
        self._catalogue = ItemCatalogue(settings.kafka, settings.topics.items)
        self._resources.callback(self._catalogue.close)
        self._live: _Model | None = None
        self._base: _Model | None = None

    def close(self) -> None:
        self._resources.close()

    def run(self, from_base: bool = False) -> RunOutcome:
        """Learn what came since the live model, and release it if the gate lets it through.

        from_base: start from the last full training instead, as after a refusal.  Raises
        `ServiceAwayError` without a broker, `ConfigurationError`, `ClickFileError`, `BundleError`,
        `TrainingDivergedError`; registry and pointer are as they were then.
        """
        run = Run(
            self._settings, self._registry, self._directory, self._instruments, self._say, None
        )
        with run.step("read"):
            release = self._pointer.read()
            if release is None or release.model_version is None:
                return RunOutcome(
                    result="waiting",
                    reason="no model is live to refresh: `nextclick retrain` trains the first one",
                    before_first_model=True,
                )
            live, base = self._follow(release.model_version)
            start = base if from_base else live
            lesson = self._prepare(start, base)
        window = lesson.window
        run.instruments.training_sessions.set(window.n_sessions)
        with run.step("train"):
            tuned = fine_tune(
                lesson.start,
                base.checkpoint,
                _rivals(live, base),
                window,
                lesson.vocabulary,
                self._settings.refresh,
                known_until_ms=start.known_until_ms,
                unsettled=lesson.unsettled,
                tolerance=self._settings.retrain.gate_tolerance,
                threads=self._settings.retrain.threads,
                seed=start.known_until_ms % 2**31,
            )
        if isinstance(tuned, str):
            return RunOutcome(result="waiting", reason=tuned, sessions=window.n_sessions)
        run.instruments.judged(tuned.quality, tuned.events / max(tuned.seconds, 1e-9))
        if not tuned.verdict.passed:
            return RunOutcome(
                result="gated", reason="; ".join(tuned.verdict.reasons), sessions=window.n_sessions
            )
        with run.step("export"):
            content, directory = self._export(tuned, start, lesson)
        with run.step("publish"):
            facts = run.registry.publish_delta(directory, base.version)
            shutil.rmtree(directory)
            promoted = self._promote(live.version, content.model_version, tuned)
        if not promoted:
            return RunOutcome(
                result="waiting",
                reason="another model was promoted meanwhile: the next run goes on from that one",
                sessions=window.n_sessions,
            )
        self._live = _refreshed(content, tuned.checkpoint, base.version)
        new_items = len(lesson.vocabulary) - len(start.checkpoint.vocabulary)
        return RunOutcome(
            result="published",
            reason=f"{tuned.new_clicks:,} new clicks and {new_items:,} new items learned at "
            f"{tuned.learning_rate_factor:g} of the learning rate, a delta of "
            f"{facts.size_bytes / 1e6:.1f} MB on {base.version}; {'; '.join(tuned.verdict.reasons)}",
            model_version=content.model_version,
            sessions=window.n_sessions,
            refreshed=Refreshed(
                base=base.version,
                new_clicks=tuned.new_clicks,
                learned_clicks=tuned.clicks,
                new_items=new_items,
                unclicked_items=lesson.n_unclicked,
                delta_bytes=facts.size_bytes,
                quality=tuned.quality,
                step_seconds=run.seconds,
            ),
        )

    def _follow(self, version: str) -> tuple[_Model, _Model]:
        """The live model and the full training it goes back to; read where somebody else published it."""
        if self._live is None or self._live.version != version:
            self._live = _read_model(self._registry, version)
        if self._base is None or self._base.version != self._live.base:
            is_base = self._live.base == version
            self._base = self._live if is_base else _read_model(self._registry, self._live.base)
        return self._live, self._base

    def _prepare(self, start: _Model, base: _Model) -> _Lesson:
        """The clicks of the last hours, and places for items that are new: clicked ones, and described ones."""
        settings, known = self._settings, start.checkpoint.vocabulary
        clicks = self._tail.look()
        seen = vocabulary_of_clicks(clicks, known)
        window = sessions_of_clicks(clicks, seen, limits=settings.session)
        vocabulary = with_new_items(known, window, seen, settings.retrain)
        described = read_descriptions(self._catalogue, settings.retrain, self._say)
        support, settled = window.support(len(seen)), settings.refresh.settled_clicks
        index_of = seen.index_of
        is_new = np.ones(len(known), dtype=bool)
        is_new[: len(base.popularity)] = base.popularity == 0
        placed_before = [
            known.ids[row]
            for row in np.flatnonzero(is_new & (support[: len(known)] < settled))
            if known.ids[row] in described
        ]
        room = settings.retrain.items_max - len(vocabulary)
        cold = choose_cold_items(described, vocabulary, room, settings.retrain, placed_before)
        new = [item for item in vocabulary.ids[len(known) :] if item in described]
        unsettled = placed_before + [item for item in new if support[index_of[item]] < settled]
        checkpoint, item2vec = start.checkpoint, start.item2vec
        if new or cold:
            learned_from = start.popularity.astype(np.float64) * max(start.training.clicks, 1)
            learned_from[[index_of[item] for item in placed_before]] = 0.0
            placed = place_items(
                checkpoint,
                item2vec,
                [*placed_before, *new, *cold],
                described,
                learned_from,
                boost=settings.retrain.cold_item_boost,
                say=self._say,
            )
            checkpoint, item2vec = placed.checkpoint, placed.item2vec
            unsettled += cold
        places = checkpoint.vocabulary.index_of
        unsettled = [item for item in unsettled if item in places]
        n_unclicked = sum(not support[index_of[i]] if i in index_of else True for i in unsettled)
        self._instruments.described_items.set(len(described))
        self._instruments.unclicked_items.set(n_unclicked)
        vocabulary = checkpoint.vocabulary.extended(vocabulary.ids)
        return _Lesson(
            start=checkpoint,
            item2vec=item2vec,
            vocabulary=vocabulary,
            window=in_vocabulary_of(window, seen, vocabulary),
            unsettled=np.array([places[item] for item in unsettled], dtype=np.int64),
            n_unclicked=n_unclicked,
        )

    def _export(
        self, tuned: FineTuned, start: _Model, lesson: _Lesson
    ) -> tuple[BundleContent, Path]:
        """The whole bundle in the scratch directory, proven equal to what was trained."""
        now, window = datetime.now(UTC), lesson.window
        checkpoint, n_items = tuned.checkpoint, len(tuned.checkpoint.vocabulary)
        content = bundle_content(
            checkpoint,
            model_version=new_model_version(now, checkpoint),
            created_at=now,
            item2vec=_extended(lesson.item2vec, n_items),
            popularity=_shifted(start, popularity_of(window, n_items), tuned.new_clicks),
            training=TrainingFacts(
                first_event_ms=start.training.first_event_ms,
                last_event_ms=int(window.click_ms.max()),
                sessions=tuned.sessions,
                clicks=tuned.clicks,
                epochs=self._settings.refresh.epochs,
                seconds=round(tuned.seconds, 3),
                started_from=start.version,
            ),
            metrics=as_metrics(tuned.quality),
            sessions=window,
            approximate_scoring=self._settings.retrain.approximate_scoring,
            placed=frozenset(checkpoint.vocabulary.ids[row] for row in lesson.unsettled),
        )
        content = replace(
            content,
            second_stage=start.second_stage,
            ranker=start.ranker,
            past=start.past,
        )
        directory = self._directory / content.model_version
        write_bundle(directory, content)
        # As the workers will; and what they compute is what was judged.
        check_parity(checkpoint.model(), OnnxScorer.load(directory), batches=PARITY_BATCHES)
        return content, directory

    def _promote(self, live: str, version: str, tuned: FineTuned) -> bool:
        """Move the pointer on from the live model we knew; False where it was moved meanwhile."""
        reason = f"refreshed: {tuned.new_clicks} new clicks; {'; '.join(tuned.verdict.reasons)}"
        current = self._pointer.read()
        if current is None or current.model_version != live:
            return False
        moved = self._pointer.promote(version, reason=reason)
        if moved.previous != live:  # between our two looks
            self._pointer.promote(moved.previous, reason="a refresh had come in between")
            return False
        spare = {live, *moved.history}
        self._registry.prune_deltas(self._settings.refresh.deltas_kept, spare)
        return True


def _rivals(live: _Model, base: _Model) -> dict[str, Rival]:
    rivals = {LIVE: Rival(live.version, live.checkpoint)}
    if base.version != live.version:
        rivals[BASE] = Rival(base.version, base.checkpoint)
    return rivals


def _read_model(registry: Registry, version: str) -> _Model:
    bundle = open_bundle(registry.fetch(version))
    manifest = bundle.manifest
    training = msgspec.convert(manifest.training, TrainingFacts)
    if training.last_event_ms is None:
        raise ConfigurationError(
            f"model {version} was trained on data without a clock, so nothing says what is new since: "
            "let `nextclick retrain` train one on the click log"
        )
    return _Model(
        version=version,
        base=version if manifest.delta is None else manifest.delta.base,
        checkpoint=checkpoint_of(bundle.directory),
        item2vec=bundle.item2vec,
        popularity=bundle.popularity,
        second_stage=manifest.second_stage,
        ranker=bundle.ranker,
        past=bundle.past,
        training=training,
    )


def _refreshed(content: BundleContent, checkpoint: Checkpoint, base: str) -> _Model:
    return _Model(
        version=content.model_version,
        base=base,
        checkpoint=checkpoint,
        item2vec=content.item2vec,
        popularity=content.popularity,
        second_stage=content.second_stage,
        ranker=content.ranker,
        past=content.past,
        training=msgspec.convert(content.training, TrainingFacts),
    )


def _extended(vectors: NDArray[np.float32], n_items: int) -> NDArray[np.float32]:
    """item2vec is learned by full trainings: an item that it has not seen, and that is not described, has no
    neighbours until then."""
    return np.pad(vectors, ((0, n_items - len(vectors)), (0, 0)))


def _shifted(start: _Model, newest: NDArray[np.float32], new_clicks: int) -> NDArray[np.float32]:
    """Shares of the clicks: the model's so far and the window's, by their number of clicks."""
    share = new_clicks / max(new_clicks + start.training.clicks, 1)
    before = np.pad(start.popularity, (0, len(newest) - len(start.popularity)))
    return ((1 - share) * before + share * newest).astype(np.float32)
