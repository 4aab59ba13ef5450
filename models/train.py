"""Training: the loop, readable top to bottom.  How a network learns from a step is its learner's matter."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from models.architectures import learner, network
from models.checkpoint import Checkpoint, TrainingRecord
from models.config import GRU4RecConfig, ModelConfig
from models.evaluate import evaluate_model
from models.network import Learner, SessionModel
from models.progress import ProgressCallback, TrainingClock
from models.resume import (
    load_best,
    load_latest,
    save_epoch,
    sessions_fingerprint,
    weights_fingerprint,
)
from models.together import ALONE, Together
from models.torch_setup import torch_set_up
from stream_app.core.errors import ConfigurationError, NextclickError
from stream_app.core.vocabulary import ItemVocabulary
from stream_app.evaluation.sessions import SessionTable


class TrainingDivergedError(NextclickError):
    """The loss is no finite number any more.  The message says what to lower; nothing was saved."""


@dataclass(frozen=True, eq=False)
class TrainingResult:
    checkpoint: Checkpoint
    events: int
    """Next clicks learned from in this run."""
    seconds: float
    stopped: bool
    """`should_stop` ended it early; the checkpoint holds what was learned until then."""

    @property
    def events_per_second(self) -> float:
        return self.events / self.seconds if self.seconds else 0.0


def train(
    sessions: SessionTable,
    vocabulary: ItemVocabulary,
    config: ModelConfig,
    *,
    start: Checkpoint | None = None,
    reset_accumulators: bool = False,
    item_vectors: NDArray[np.float32] | None = None,
    validation: SessionTable | None = None,
    patience: int | None = None,
    resume_directory: Path | None = None,
    progress: ProgressCallback | None = None,
    should_stop: Callable[[], bool] | None = None,
    threads: int = 1,
    together: Together = ALONE,
) -> TrainingResult:
    """Learn next clicks from sessions; same arguments, same weights bit for bit.

    sessions: indexes into `vocabulary`; clicks on unknown items and one-click sessions are left out.
    start: warm start from these weights.  Its vocabulary must begin `vocabulary`, its network must be
    of the same shape; items it lacks get fresh rows.  Its optimiser's state goes on too (where it
    has one), unless `reset_accumulators`: steps are large again, and it adapts faster.
    item_vectors: what the item table begins with from scratch, [n_items, units], of item2vec say; brought
    to the size that random ones have.
    validation: ranked after every epoch; the best epoch's weights (Recall@20 + MRR@20) are what is
    returned.  patience: stop after so many epochs in a row that were no better; None: never.
    resume_directory: each finished epoch is saved there, and a later call with the same arguments
    goes on from it, and ends with the weights of a training that was never interrupted.  The caller
    deletes it in the end.
    should_stop: asked after every step.
    threads: torch's while it trains.  Another number sums in another order: other last bits.
    together: the processes that train it; all are called with the same arguments and return the same
    weights, and the first one alone saves epochs and reports progress.

    Raises `ConfigurationError` (nothing to learn from; a start or resume directory that does not
    fit) and `TrainingDivergedError`.
    """
    sessions = sessions.known_only().at_least(2)
    if sessions.n_sessions == 0:
        raise ConfigurationError(
            "there is no session of two clicks or more to train on: "
            "check the column mapping and the time range"
        )
    model = starting_network(config, vocabulary, start)
    if item_vectors is not None and start is None:
        _begin_with(model, item_vectors)
    teacher = learner(model, sessions, together)
    if start is not None and not reset_accumulators:
        teacher.load_optimiser_state(start.optimiser)
    record = TrainingRecord(
        events=sessions.n_targets,
        data_fingerprint=sessions_fingerprint(sessions, vocabulary),
        start_fingerprint=weights_fingerprint(start),
    )
    best: Checkpoint | None = None
    if resume_directory is not None:
        record = load_latest(resume_directory, config, record, teacher)
        best = load_best(resume_directory, record)
    clock = TrainingClock(
        epochs=config.epochs,
        epochs_done=record.epochs_done,
        events_per_epoch=sessions.n_targets,
        report=progress if together.is_first else None,
    )
    stopped = False
    with torch_set_up(threads=threads, half_products=config.precision == "bfloat16"):
        for epoch in range(record.epochs_done, config.epochs):
            if patience is not None and record.epochs_since_best > patience:
                break
            clock.epoch_begins()
            for events, loss in _steps(teacher, epoch, together):
                if not math.isfinite(loss):
                    raise _diverged(config, epoch)
                clock.learned(epoch, events, loss)
                if should_stop is not None and should_stop():
                    stopped = True
                    break
            if stopped:
                break
            mean_loss, seconds = clock.epoch_ends(epoch)
            quality = None if validation is None else evaluate_model(model, validation)
            record = record.after_epoch(mean_loss, seconds, quality)
            now = _checkpoint(teacher, vocabulary, record)
            if quality is not None and record.epochs_since_best == 0:
                best = _copied(now)
            if resume_directory is not None and together.is_first:
                save_epoch(now, resume_directory)
    last = _checkpoint(teacher, vocabulary, record)
    return TrainingResult(
        checkpoint=last if best is None else replace(best, record=record),
        events=clock.events,
        seconds=clock.seconds,
        stopped=stopped,
    )


def _steps(teacher: Learner, epoch: int, together: Together) -> Iterator[tuple[int, float]]:
    """Next clicks and loss of each step, of all processes; those that are done early go along."""
    mine = teacher.epoch(epoch)
    while True:
        step = next(mine, None)
        if not together.anyone_has_more(step is not None):
            return
        if step is None:
            teacher.idle_step()
        events, loss = together.sum(*(step() if step is not None else (0, 0.0)))
        yield int(events), loss


def starting_network(
    config: ModelConfig, vocabulary: ItemVocabulary, start: Checkpoint | None
) -> SessionModel:
    """A freshly initialised network, or that of `start` with rows added for the new items."""
    model = network(config, len(vocabulary))
    model.initialise(torch.Generator().manual_seed(config.seed))
    if start is None:
        return model
    known = start.vocabulary.ids
    if vocabulary.ids[: len(known)] != known:
        raise ConfigurationError(
            "warm start: the vocabulary must begin with the start model's items, in their order; "
            "extend the start model's vocabulary, or train from scratch"
        )
    for name, weight in model.weights().items():
        old = start.weights.get(name)
        n_rows = len(known) if name in model.item_tables else len(weight)
        if old is None or old.shape != (n_rows, *weight.shape[1:]):
            raise ConfigurationError(
                "warm start: the start model's network has another shape "
                f"({name}: {None if old is None else tuple(old.shape)}): "
                "use its architecture and sizes, or train from scratch"
            )
        weight[:n_rows].copy_(old)
    return model


def _begin_with(model: SessionModel, vectors: NDArray[np.float32]) -> None:
    """Rows of zeros (items that item2vec does not know) keep their random start."""
    table = model.weights()["item_vectors"]
    given = torch.from_numpy(np.ascontiguousarray(vectors, dtype=np.float32))
    if given.shape != table.shape:
        raise ConfigurationError(
            f"item vectors of shape {tuple(given.shape)} cannot start a table of {tuple(table.shape)}: "
            "train them with as many numbers as the network has units"
        )
    known = given.any(dim=1)
    scale = table.square().mean().sqrt() / given[known].square().mean().sqrt().clamp(min=1e-12)
    table[known] = given[known] * scale


def _checkpoint(teacher: Learner, vocabulary: ItemVocabulary, record: TrainingRecord) -> Checkpoint:
    return Checkpoint(
        config=teacher.model.config,
        vocabulary=vocabulary,
        weights=teacher.model.weights(),
        optimiser=teacher.optimiser_state(),
        record=record,
    )


def _copied(checkpoint: Checkpoint) -> Checkpoint:
    """The tensors as they are now; those of a training go on changing."""
    return replace(
        checkpoint,
        weights={name: tensor.clone() for name, tensor in checkpoint.weights.items()},
        optimiser={name: tensor.clone() for name, tensor in checkpoint.optimiser.items()},
    )


def _diverged(config: ModelConfig, epoch: int) -> TrainingDivergedError:
    rates = {
        name: getattr(config, name)
        for name in ("learning_rate", "momentum")
        if hasattr(config, name)
    }
    if isinstance(config, GRU4RecConfig) and config.loss == "bpr-max":
        rates["bpreg"] = config.bpreg
    return TrainingDivergedError(
        f"the loss became NaN or infinite in epoch {epoch + 1}: lower "
        + " or ".join(f"{name} (now {rate:g})" for name, rate in rates.items())
    )
