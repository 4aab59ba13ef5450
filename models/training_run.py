"""A training from a click file, with figures beside the baselines: `nextclick train` less its flags."""

import shutil
import time
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from models.checkpoint import CURVES, Checkpoint, save_checkpoint
from models.config import Item2VecConfig
from models.curves import learning_curves
from models.evaluate import evaluate_checkpoint
from models.item2vec import train_item2vec
from models.options import TrainingOptions
from models.progress_view import show_progress
from models.together import Together, joined
from models.train import TrainingResult, train
from stream_app.core.errors import ClickFileError
from stream_app.core.metrics import RankingQuality
from stream_app.core.vocabulary import ItemVocabulary
from stream_app.evaluation.baselines import evaluate_item_knn, evaluate_popularity, tune_item_knn
from stream_app.evaluation.sessions import (
    SessionTable,
    sessions_of_clicks,
    sessions_of_sequences,
    vocabulary_of_clicks,
    vocabulary_of_sequences,
)
from stream_app.files.click_files import is_sequences, read_sequences, read_table

DAY_MS = 86_400_000


@dataclass(frozen=True, eq=False)
class TrainingData:
    """One file, divided in time.  The vocabulary holds the training part's items."""

    vocabulary: ItemVocabulary
    train: SessionTable
    test: SessionTable
    has_clock: bool
    """False: benchmark sequences, whose `click_ms` are session numbers."""


@dataclass(frozen=True, eq=False)
class TrainingOutcome:
    checkpoint: Checkpoint
    data: TrainingData
    training: TrainingResult
    quality: dict[str, RankingQuality]
    """By ranker: the model by its architecture, popularity, item-knn.  Empty where nothing was held out."""
    report: dict[str, Any] = field(default_factory=dict)
    """What `--report` writes."""


def run_training(
    options: TrainingOptions, console: Console | None = None
) -> TrainingOutcome | None:
    """Read, divide, train, save the checkpoint, evaluate, print, and write the report.

    Of several processes that `torchrun` started all train, and the first does the rest: the others get
    None.  Raises `ClickFileError`, `ConfigurationError`, `TrainingDivergedError`.
    """
    console = console or Console()
    started = time.perf_counter()
    data = load_training_data(options)
    with joined() as together:
        training = _train(options, data, together, console)
        if not together.is_first:
            return None
    save_checkpoint(training.checkpoint, options.checkpoint_directory)
    record = training.checkpoint.record
    (options.checkpoint_directory / CURVES).write_bytes(learning_curves(record))
    shutil.rmtree(options.resume_directory, ignore_errors=True)

    evaluating = time.perf_counter()
    quality = compare(training.checkpoint, data)
    report = {
        "data": str(options.data),
        "targets": data.test.n_targets,
        "models": [
            {"name": name, **msgspec.to_builtins(figures)} for name, figures in quality.items()
        ],
        "events_per_second": training.events_per_second,
        "seconds": time.perf_counter() - started,
        "training_seconds": training.seconds,
        "evaluation_seconds": time.perf_counter() - evaluating,
        "train_sessions": data.train.n_sessions,
        "train_clicks": data.train.n_clicks,
        "items": len(data.vocabulary),
        "epoch_losses": record.epoch_losses,
        "epoch_recalls": record.epoch_recalls,
        "epoch_mrrs": record.epoch_mrrs,
        "hyperparameters": msgspec.to_builtins(options.config),
    }
    _print_quality(console, quality, training)
    if options.report is not None:
        options.report.parent.mkdir(parents=True, exist_ok=True)
        options.report.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2))
    return TrainingOutcome(training.checkpoint, data, training, quality, report)


def _train(
    options: TrainingOptions, data: TrainingData, together: Together, console: Console
) -> TrainingResult:
    if not together.is_first:
        console.quiet = True
    _say(
        console,
        f"{options.data.name}: {data.train.n_sessions:,} sessions, {data.train.n_clicks:,} clicks, "
        f"{len(data.vocabulary):,} items to learn from; {data.test.n_targets:,} next clicks held out",
    )
    if not options.resume and together.is_first:
        shutil.rmtree(options.resume_directory, ignore_errors=True)
    together.sum(0.0)  # nobody looks before it is gone
    learned, validation = _divide(data.train, options.validation_share)
    with show_progress(Console(stderr=True, quiet=not together.is_first)) as progress:
        return train(
            learned,
            data.vocabulary,
            options.config,
            item_vectors=_item_vectors(options, learned, data),
            validation=validation,
            patience=options.patience,
            resume_directory=options.resume_directory,
            progress=progress,
            threads=options.threads,
            together=together,
        )


def load_training_data(options: TrainingOptions) -> TrainingData:
    """The file's sessions, divided at a moment: what came before is learned, what starts later tests.

    Benchmark sequences are divided by their `split` column.
    """
    if is_sequences(options.data):
        sequences = read_sequences(options.data)
        vocabulary = vocabulary_of_sequences(sequences)
        return TrainingData(
            vocabulary,
            sessions_of_sequences(sequences, vocabulary, split="train"),
            sessions_of_sequences(sequences, vocabulary, split="test").at_least(2),
            has_clock=False,
        )
    clicks = _clicks(options)
    if options.holdout_days is not None:
        cut_ms = int(pc.max(clicks["event_time_ms"]).as_py() - options.holdout_days * DAY_MS)
    else:
        cut_ms = _start_of_newest(clicks, options)
    before = clicks.filter(pc.less(clicks["event_time_ms"], cut_ms))
    vocabulary = vocabulary_of_clicks(before)
    sessions = sessions_of_clicks(clicks, vocabulary, limits=options.limits)
    train_part, test_part = sessions.split_at(cut_ms)
    return TrainingData(vocabulary, train_part, test_part.at_least(2), has_clock=True)


def _item_vectors(
    options: TrainingOptions, learned: SessionTable, data: TrainingData
) -> NDArray[np.float32] | None:
    if not options.item2vec_start:
        return None
    units = int(getattr(options.config, "units"))  # noqa: B009 - every network has them
    item2vec = Item2VecConfig(dim=units, seed=options.config.seed)
    return train_item2vec(learned, len(data.vocabulary), item2vec, threads=options.threads)


def _divide(
    sessions: SessionTable, validation_share: float | None
) -> tuple[SessionTable, SessionTable | None]:
    if validation_share is None:
        return sessions, None
    learned, validation = sessions.at_least(2).split_newest(validation_share)
    return learned, validation.at_least(2)


def compare(checkpoint: Checkpoint, data: TrainingData) -> dict[str, RankingQuality]:
    """The model and what it has to beat, on the held-out part."""
    if data.test.n_targets == 0:
        return {}
    n_items = len(data.vocabulary)
    knn = tune_item_knn(data.train, n_items)
    return {
        checkpoint.config.architecture: evaluate_checkpoint(checkpoint, data.test),
        "item-knn": evaluate_item_knn(data.train, data.test, n_items, knn),
        "popularity": evaluate_popularity(data.train, data.test, n_items),
    }


def _clicks(options: TrainingOptions) -> pa.Table:
    clicks = read_table(options.data, format=options.format, columns=options.columns or None)
    types = pa.array(options.event_types)
    chosen = clicks.filter(pc.is_in(clicks["event_type"], value_set=types))
    if len(chosen) == 0:
        found = ", ".join(sorted(pc.unique(clicks["event_type"]).to_pylist())[:8])
        raise ClickFileError(
            f"{options.data} holds no event of type {' or '.join(options.event_types)}, "
            f"but {found}: say which are clicks with --event-type"
        )
    return chosen


def _start_of_newest(clicks: pa.Table, options: TrainingOptions) -> int:
    sessions = sessions_of_clicks(clicks, ItemVocabulary(()), limits=options.limits).at_least(2)
    if sessions.n_sessions == 0:
        raise ClickFileError(
            f"{options.data} holds no session of two clicks or more: check which column is the session"
        )
    return sessions.start_of_newest(options.test_share)


def _print_quality(
    console: Console, quality: dict[str, RankingQuality], training: TrainingResult
) -> None:
    _say(
        console,
        f"trained on {training.events:,} next clicks in {training.seconds:,.1f} s, "
        f"{training.events_per_second:,.0f} events/s",
    )
    if not quality:
        _say(console, "nothing was held out, so there is nothing to rank")
        return
    some = next(iter(quality.values()))
    cold = f", {some.cold_targets:,} of them on items never trained on" if some.cold_targets else ""
    _say(console, f"ranked {some.targets:,} held-out next clicks against every item{cold}:")
    table = Table(box=None, pad_edge=False)
    table.add_column("model")
    for heading in ("Recall@5", "Recall@10", "Recall@20", "MRR@20"):
        table.add_column(heading, justify="right")
    for name, q in quality.items():
        row = (q.recall_5, q.recall_10, q.recall_20, q.mrr_20)
        table.add_row(name, *(f"{figure:.4f}" for figure in row))
    console.print(table)


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, soft_wrap=True)
