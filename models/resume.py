"""Going on after a kill: one directory per finished epoch; the newest and the best are kept."""

import hashlib
import re
import shutil
from pathlib import Path
from typing import Final

import torch

from models.checkpoint import Checkpoint, TrainingRecord, load_checkpoint, save_checkpoint
from models.config import ModelConfig
from models.network import Learner
from stream_app.core.errors import ConfigurationError
from stream_app.core.vocabulary import ItemVocabulary
from stream_app.evaluation.sessions import SessionTable

_EPOCH: Final = re.compile(r"epoch-(\d+)")


def save_epoch(checkpoint: Checkpoint, directory: Path) -> None:
    """Save what a continued training needs, then forget the epochs before, but for the best one."""
    record = checkpoint.record
    save_checkpoint(checkpoint, directory / f"epoch-{record.epochs_done}")
    for epoch, path in _epochs(directory):
        if epoch < record.epochs_done and epoch != record.best_epoch:
            shutil.rmtree(path)


def load_best(directory: Path, record: TrainingRecord) -> Checkpoint | None:
    """The best epoch so far; None where nothing was validated."""
    if not record.best_epoch:
        return None
    return load_checkpoint(directory / f"epoch-{record.best_epoch}")


def load_latest(
    directory: Path,
    config: ModelConfig,
    record: TrainingRecord,
    learner: Learner,
) -> TrainingRecord:
    """Load the newest epoch into the learner; the record says how far it came.

    An empty or missing directory changes nothing.  Raises `ConfigurationError` if it belongs to
    another training (more epochs of the same are welcome).
    """
    found = _epochs(directory)
    if not found:
        return record
    checkpoint = load_checkpoint(found[-1][1])
    theirs = checkpoint.record
    if (
        checkpoint.config.changed(epochs=1) != config.changed(epochs=1)
        or theirs.data_fingerprint != record.data_fingerprint
        or theirs.start_fingerprint != record.start_fingerprint
    ):
        raise ConfigurationError(
            f"{directory} holds an unfinished training of other data or hyper-parameters: "
            "give the same again, or delete the directory"
        )
    with torch.no_grad():
        for name, weight in learner.model.weights().items():
            weight.copy_(checkpoint.weights[name])
    learner.load_optimiser_state(checkpoint.optimiser)
    return theirs


def sessions_fingerprint(sessions: SessionTable, vocabulary: ItemVocabulary) -> str:
    digest = hashlib.sha256(vocabulary.sha256.encode())
    digest.update(sessions.item_indexes.tobytes())
    digest.update(sessions.session_starts.tobytes())
    return digest.hexdigest()


def weights_fingerprint(checkpoint: Checkpoint | None) -> str:
    if checkpoint is None:
        return ""
    digest = hashlib.sha256(checkpoint.vocabulary.sha256.encode())
    for name in sorted(checkpoint.weights):
        digest.update(checkpoint.weights[name].numpy().tobytes())
    return digest.hexdigest()


def _epochs(directory: Path) -> list[tuple[int, Path]]:
    if not directory.is_dir():
        return []
    matches = ((_EPOCH.fullmatch(path.name), path) for path in directory.iterdir())
    return sorted((int(match[1]), path) for match, path in matches if match)
