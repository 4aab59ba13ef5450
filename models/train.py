"""Training GRU4Rec: the loop, readable top to bottom."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch import Tensor

from models.checkpoint import Checkpoint, TrainingRecord
from models.config import GRU4RecConfig
from models.gru4rec import ITEM_TABLES, GRU4Rec
from models.negatives import NegativeSampler, sampling_weights
from models.optimiser import MomentumAdagrad
from models.progress import ProgressCallback, TrainingClock
from models.resume import load_latest, save_epoch, sessions_fingerprint, weights_fingerprint
from models.session_parallel import Step, session_parallel
from models.torch_setup import torch_set_up
from models.training_step import TrainingStep
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
    config: GRU4RecConfig,
    *,
    start: Checkpoint | None = None,
    reset_accumulators: bool = False,
    resume_directory: Path | None = None,
    progress: ProgressCallback | None = None,
    should_stop: Callable[[], bool] | None = None,
    threads: int = 1,
) -> TrainingResult:
    """Learn next clicks from sessions, in their order; same arguments, same weights bit for bit.

    sessions: indexes into `vocabulary`; clicks on unknown items and one-click sessions are left out.
    start: warm start from these weights.  Its vocabulary must begin `vocabulary`, its network must be
    of the same shape; items it lacks get fresh rows.  Its Adagrad accumulators go on too (where it
    has them), unless `reset_accumulators`: steps are large again, and it adapts faster.
    resume_directory: each finished epoch is saved there, and a later call with the same arguments
    goes on from it, and ends with the weights of a training that was never interrupted.  The caller
    deletes it in the end.
    should_stop: asked after every step.
    threads: torch's while it trains.  Another number sums in another order: other last bits.

    Raises `ConfigurationError` (nothing to learn from; a start or resume directory that does not
    fit) and `TrainingDivergedError`.
    """
    sessions = sessions.known_only().at_least(2)
    if sessions.n_sessions == 0:
        raise ConfigurationError(
            "there is no session of two clicks or more to train on: "
            "check the column mapping and the time range"
        )
    model, optimiser = starting_point(config, vocabulary, start, reset_accumulators)
    record = TrainingRecord(
        events=sessions.n_targets,
        data_fingerprint=sessions_fingerprint(sessions, vocabulary),
        start_fingerprint=weights_fingerprint(start),
    )
    if resume_directory is not None:
        record = load_latest(resume_directory, config, record, model, optimiser)

    support = sessions.support(len(vocabulary))
    learn = TrainingStep(model, optimiser, support)
    clock = TrainingClock(
        epochs=config.epochs,
        epochs_done=record.epochs_done,
        events_per_epoch=sessions.n_targets,
        report=progress,
    )
    stopped = False
    with torch_set_up(threads=threads, half_products=config.precision == "bfloat16"):
        for epoch in range(record.epochs_done, config.epochs):
            # Each epoch has its own random numbers, so that resuming needs no generator's state.
            negatives = NegativeSampler(
                sampling_weights(support, config.sample_alpha),
                np.random.default_rng((config.seed, epoch)),
            )
            dropout = np.random.default_rng((config.seed, epoch, 1))
            hidden: list[Tensor] = []
            clock.epoch_begins()
            for step in session_parallel(sessions, config.batch_size):
                loss, hidden = learn(
                    torch.from_numpy(step.inputs),
                    torch.from_numpy(step.targets),
                    torch.from_numpy(negatives.draw(config.n_sample)),
                    _carried(hidden, step, config),
                    dropout,
                )
                if not math.isfinite(loss):
                    raise _diverged(config, epoch)
                clock.learned(epoch, len(step.inputs), loss)
                if should_stop is not None and should_stop():
                    stopped = True
                    break
            if stopped:
                break
            mean_loss, seconds = clock.epoch_ends(epoch)
            record = msgspec.structs.replace(
                record,
                epochs_done=epoch + 1,
                epoch_losses=(*record.epoch_losses, mean_loss),
                epoch_seconds=(*record.epoch_seconds, seconds),
            )
            if resume_directory is not None:
                save_epoch(_checkpoint(model, vocabulary, optimiser, record), resume_directory)
    return TrainingResult(
        checkpoint=_checkpoint(model, vocabulary, optimiser, record),
        events=clock.events,
        seconds=clock.seconds,
        stopped=stopped,
    )


def starting_point(
    config: GRU4RecConfig,
    vocabulary: ItemVocabulary,
    start: Checkpoint | None,
    reset_accumulators: bool = False,
) -> tuple[GRU4Rec, MomentumAdagrad]:
    """A freshly initialised network, or that of `start` with rows added for the new items."""
    model = GRU4Rec(config, len(vocabulary))
    model.initialise(torch.Generator().manual_seed(config.seed))
    weights = {name: weight.detach() for name, weight in model.named_parameters()}
    optimiser = MomentumAdagrad(
        weights, learning_rate=config.learning_rate, momentum=config.momentum
    )
    if start is None:
        return model, optimiser
    known = start.vocabulary.ids
    if vocabulary.ids[: len(known)] != known:
        raise ConfigurationError(
            "warm start: the vocabulary must begin with the start model's items, in their order; "
            "extend the start model's vocabulary, or train from scratch"
        )
    for name, weight in weights.items():
        old = start.weights.get(name)
        n_rows = len(known) if name in ITEM_TABLES else len(weight)
        if old is None or old.shape != (n_rows, *weight.shape[1:]):
            raise ConfigurationError(
                "warm start: the start model's network has another shape "
                f"({name}: {None if old is None else tuple(old.shape)}): "
                "use its cell, layers, units and embedding, or train from scratch"
            )
        weight[:n_rows].copy_(old)
    if not reset_accumulators:
        optimiser.load_state(start.optimiser)
    return model, optimiser


def _carried(hidden: list[Tensor], step: Step, config: GRU4RecConfig) -> list[Tensor]:
    """Each slot's hidden state before the step: carried on, or zero where a session starts."""
    if not hidden:
        return [torch.zeros(len(step.inputs), config.units) for _ in range(config.layers)]
    if step.kept is not None:
        kept = torch.from_numpy(step.kept)
        hidden = [state.index_select(0, kept) for state in hidden]
    if len(step.fresh):
        fresh = torch.from_numpy(step.fresh)
        hidden = [state.index_fill(0, fresh, 0.0) for state in hidden]
    return hidden


def _checkpoint(
    model: GRU4Rec,
    vocabulary: ItemVocabulary,
    optimiser: MomentumAdagrad,
    record: TrainingRecord,
) -> Checkpoint:
    return Checkpoint(
        config=model.config,
        vocabulary=vocabulary,
        weights={name: weight.detach() for name, weight in model.named_parameters()},
        optimiser=optimiser.state(),
        record=record,
    )


def _diverged(config: GRU4RecConfig, epoch: int) -> TrainingDivergedError:
    return TrainingDivergedError(
        f"the loss became NaN or infinite in epoch {epoch + 1}: lower learning_rate "
        f"(now {config.learning_rate:g}) or momentum (now {config.momentum:g})"
        + (f", or bpreg (now {config.bpreg:g})" if config.loss == "bpr-max" else "")
    )
