"""`nextclick train` and `nextclick export`: from a file or a checkpoint to a bundle."""

import math
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import msgspec
import numpy as np
from rich.console import Console

from export.artifact import (
    TrainingFacts,
    bundle_content,
    new_model_version,
    popularity_of,
    training_facts,
)
from export.parity import check_parity
from export.second_stage import LiveFrom, SecondStageOutcome, make_second_stage
from export.window import Window, in_vocabulary_of
from models.checkpoint import Checkpoint, load_checkpoint
from models.config import Item2VecConfig
from models.item2vec import train_item2vec
from models.options import TrainingOptions
from models.progress_view import show_progress
from models.train import train
from models.training_run import TrainingData, run_training
from stream_app.adapters.onnx_scorer import OnnxScorer
from stream_app.core.errors import BundleError
from stream_app.core.manifest import MANIFEST_FILE
from stream_app.core.pipeline import ServingRules
from stream_app.core.statistics_recipe import StatisticsRecipe
from stream_app.core.vocabulary import ItemVocabulary
from stream_app.evaluation.session_knn import past_sessions
from stream_app.evaluation.sessions import with_made_up_clock
from stream_app.files.bundle import (
    Bundle,
    BundleContent,
    open_bundle,
    write_bundle,
    write_bundle_into,
)

CHECKPOINT: Final = "checkpoint"
"""Directory of the checkpoint inside the one that `train --out` names, which itself is a bundle."""
ITEM2VEC_EPOCHS: Final = 5
SECOND_STAGE_SHARE: Final = 0.1
"""Newest training sessions that a ranker learns from."""
SESSION_CLICKS_MAX: Final = 1_000_000
"""As `retrain.session_clicks_max`."""
VERSION_SECONDS: Final = 10.0
"""Between versions of the statistics that a ranker learns from."""


def train_and_export(options: TrainingOptions, console: Console | None = None) -> OnnxScorer | None:
    """Train on a file; leave a servable bundle in the directory, and the checkpoint inside it.

    options.checkpoint_directory: the directory as the user named it.  None in all but the first of the
    processes of `torchrun`.  Raises as `run_training`, and `BundleError` if torch and ONNX Runtime disagree.
    """
    directory = options.checkpoint_directory
    _refuse_other_content(directory)
    outcome = run_training(
        replace(options, checkpoint_directory=directory / CHECKPOINT), console=console
    )
    if outcome is None:
        return None
    checkpoint, sessions = outcome.checkpoint, outcome.data.train
    second = _second_stage(outcome.data, options, console) if options.second_stage else None
    n_items, now = len(checkpoint.vocabulary), datetime.now(UTC)
    content = bundle_content(
        checkpoint,
        model_version=new_model_version(now, checkpoint),
        created_at=now,
        item2vec=train_item2vec(
            sessions, n_items, Item2VecConfig(epochs=ITEM2VEC_EPOCHS), threads=options.threads
        ),
        popularity=popularity_of(sessions, n_items),
        training=training_facts(
            sessions,
            epochs=options.config.epochs,
            seconds=outcome.training.seconds,
            has_clock=outcome.data.has_clock,
        ),
        metrics={
            "candidate" if name == checkpoint.config.architecture else name: msgspec.to_builtins(
                figures
            )
            for name, figures in outcome.quality.items()
        },
        sessions=sessions,
    )
    if second is not None:
        content = replace(
            content,
            second_stage=second.stage,
            ranker=second.ranker,
            past=past_sessions(sessions, SESSION_CLICKS_MAX),
            metrics={**content.metrics, "second_stage": msgspec.to_builtins(second.report)},
        )
    return _write_and_prove(directory, content, checkpoint, into=True)


def _second_stage(
    data: TrainingData, options: TrainingOptions, console: Console | None
) -> SecondStageOutcome | None:
    """A ranker of the newest training sessions, over a model of the older ones: what the model of all of them
    learned by heart would be trusted too much.

    A file without a clock counts statistics at a session a second, and they stand still while the ranker
    learns, as they will in `nextclick evaluate --pairs`.
    """
    sessions = data.train if data.has_clock else with_made_up_clock(data.train)
    cut_ms = sessions.start_of_newest(SECOND_STAGE_SHARE)
    past, _ = sessions.split_at(cut_ms)
    clicked = np.flatnonzero(past.support(len(data.vocabulary)))
    vocabulary = ItemVocabulary(data.vocabulary.ids[item] for item in clicked)
    past = in_vocabulary_of(past, data.vocabulary, vocabulary)
    with show_progress(console or Console(stderr=True)) as progress:
        training = train(
            past, vocabulary, options.config, progress=progress, threads=options.threads
        )
    checkpoint, now = training.checkpoint, datetime.now(UTC)
    content = bundle_content(
        checkpoint,
        model_version=new_model_version(now, checkpoint),
        created_at=now,
        item2vec=train_item2vec(
            past, len(vocabulary), Item2VecConfig(epochs=ITEM2VEC_EPOCHS), threads=options.threads
        ),
        popularity=popularity_of(past, len(vocabulary)),
        training=training_facts(past, epochs=options.config.epochs, seconds=training.seconds),
        metrics={},
        sessions=past,
    )
    with TemporaryDirectory(prefix="nextclick-") as scratch:
        directory = Path(scratch) / content.model_version
        write_bundle(directory, content)
        second = make_second_stage(
            Window(data.vocabulary, sessions, int(sessions.click_ms.max())),
            [LiveFrom(cut_ms, OnnxScorer.load(directory), content.item2vec)],
            past_sessions(past, SESSION_CLICKS_MAX),
            StatisticsRecipe(),
            ServingRules(limits=options.limits),
            from_ms=cut_ms,
            version_seconds=VERSION_SECONDS if data.has_clock else math.inf,
            threads=options.threads,
        )
    say = (console or Console()).print
    if second is None:
        say("no second stage: too few sessions to learn one", highlight=False)
    else:
        one, two = second.report.one_stage, second.report.two_stages
        say(
            f"second stage, on the newest training sessions: Recall@20 {one.recall_20:.4f} -> "
            f"{two.recall_20:.4f}, MRR@20 {one.mrr_20:.4f} -> {two.mrr_20:.4f}",
            highlight=False,
        )
    return second


def export_checkpoint(
    checkpoint_directory: Path, out: Path, *, approximate_scoring: bool = False
) -> OnnxScorer:
    """Make the bundle of a checkpoint anew as the directory `out`, which must not exist.

    checkpoint_directory: what `nextclick train --out` left, or the `checkpoint` in it.  Item vectors and
    popularity come from the bundle beside the checkpoint, and a second stage where it has one; a checkpoint
    alone does not know them, and `BundleError` says so.
    """
    inside = checkpoint_directory / CHECKPOINT
    source = inside if inside.is_dir() else checkpoint_directory
    checkpoint = load_checkpoint(source)
    beside = _bundle_beside(source, checkpoint)
    now = datetime.now(UTC)
    content = bundle_content(
        checkpoint,
        model_version=new_model_version(now, checkpoint),
        created_at=now,
        item2vec=beside.item2vec,
        popularity=beside.popularity,
        training=msgspec.convert(beside.manifest.training, TrainingFacts),
        metrics=dict(beside.manifest.metrics),
        sessions=None,
        approximate_scoring=approximate_scoring,
    )
    content = replace(
        content, second_stage=beside.manifest.second_stage, ranker=beside.ranker, past=beside.past
    )
    return _write_and_prove(out, content, checkpoint, into=False)


def _write_and_prove(
    directory: Path, content: BundleContent, checkpoint: Checkpoint, *, into: bool
) -> OnnxScorer:
    if into:
        write_bundle_into(directory, content)
    else:
        write_bundle(directory, content)
    scorer = OnnxScorer.load(directory)
    try:
        check_parity(checkpoint.model(), scorer)
    except BundleError:
        (directory / MANIFEST_FILE).unlink()  # without it, it is no bundle
        raise
    return scorer


def _bundle_beside(source: Path, checkpoint: Checkpoint) -> Bundle:
    try:
        bundle = open_bundle(source.parent)
    except BundleError as error:
        raise BundleError(
            f"{source} holds a checkpoint but there is no bundle around it to take item vectors and "
            f"popularity from ({error}).  Train with `nextclick train --data FILE --out DIR`, which "
            "leaves both"
        ) from error
    if bundle.vocabulary.sha256 != checkpoint.vocabulary.sha256:
        raise BundleError(
            f"the checkpoint in {source} and the bundle around it have different vocabularies: they are "
            "of two trainings.  Train again into an empty directory"
        )
    return bundle


def _refuse_other_content(directory: Path) -> None:
    """Writing over an older training is what people want; over their thesis, it is not."""
    if directory.is_file():
        raise BundleError(f"{directory} is a file: name a directory with --out")
    if directory.is_dir():
        ours = {CHECKPOINT, f"{CHECKPOINT}.unfinished", f"{CHECKPOINT}.previous"}
        visible = {path.name for path in directory.iterdir() if not path.name.startswith(".")}
        if visible and not visible & (ours | {MANIFEST_FILE}):
            raise BundleError(
                f"{directory} holds other files ({', '.join(sorted(visible)[:3])}): name an empty or new "
                "directory with --out"
            )
