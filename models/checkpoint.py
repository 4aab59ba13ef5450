"""A trained model as a directory: weights, hyper-parameters, vocabulary.  Never a pickled object."""

import os
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from models.architectures import network
from models.config import ModelConfig, config_from_json
from models.network import SessionModel
from stream_app.core.errors import BundleError
from stream_app.core.metrics import RankingQuality
from stream_app.core.records import UNREADABLE
from stream_app.core.vocabulary import ItemVocabulary

WEIGHTS: Final = "weights.safetensors"
OPTIMISER: Final = "optimiser.safetensors"
CONFIG: Final = "config.json"
VOCABULARY: Final = "vocabulary.json"
TRAINING: Final = "training.json"
CURVES: Final = "learning_curves.png"
"""For people; whoever trains may leave it there."""
_FILES: Final = (WEIGHTS, OPTIMISER, CONFIG, VOCABULARY, TRAINING, CURVES)


class TrainingRecord(msgspec.Struct, frozen=True, kw_only=True):
    """`training.json`: how far a training came, and on what."""

    epochs_done: int = 0
    epoch_losses: tuple[float, ...] = ()
    """Mean loss per next click, epoch by epoch."""
    epoch_seconds: tuple[float, ...] = ()
    events: int = 0
    """Next clicks of one epoch."""
    data_fingerprint: str = ""
    """Names the sessions trained on; a resumed training refuses others."""
    start_fingerprint: str = ""
    """Names the weights a warm start began from."""
    epoch_recalls: tuple[float, ...] = ()
    """Recall@20 on the validation part after each epoch, where there was one."""
    epoch_mrrs: tuple[float, ...] = ()
    """MRR@20 likewise."""

    @property
    def best_epoch(self) -> int:
        """The epoch (from 1) after which Recall@20 + MRR@20 was highest; 0: nothing was validated."""
        values = [
            recall + mrr for recall, mrr in zip(self.epoch_recalls, self.epoch_mrrs, strict=True)
        ]
        return values.index(max(values)) + 1 if values else 0

    @property
    def epochs_since_best(self) -> int:
        return self.epochs_done - self.best_epoch if self.best_epoch else 0

    def after_epoch(
        self, loss: float, seconds: float, quality: RankingQuality | None
    ) -> "TrainingRecord":
        measured = () if quality is None else (quality,)
        return msgspec.structs.replace(
            self,
            epochs_done=self.epochs_done + 1,
            epoch_losses=(*self.epoch_losses, loss),
            epoch_seconds=(*self.epoch_seconds, seconds),
            epoch_recalls=(*self.epoch_recalls, *(q.recall_20 for q in measured)),
            epoch_mrrs=(*self.epoch_mrrs, *(q.mrr_20 for q in measured)),
        )


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """weights: by parameter name, float32; optimiser: accumulators and velocities, {} if not kept."""

    config: ModelConfig
    vocabulary: ItemVocabulary
    weights: dict[str, Tensor]
    optimiser: dict[str, Tensor] = field(default_factory=dict)
    record: TrainingRecord = field(default_factory=TrainingRecord)

    @property
    def item_tables(self) -> frozenset[str]:
        """Names of the weights with a row per item."""
        return network(self.config, 1).item_tables & self.weights.keys()

    def model(self) -> SessionModel:
        """The network with these weights (copied), in evaluation mode, without gradients.

        Raises `BundleError` if a weight is missing or has the wrong shape.
        """
        model = network(self.config, len(self.vocabulary))
        try:
            model.load_state_dict(self.weights)
        except RuntimeError as error:
            raise BundleError(f"the weights do not fit the hyper-parameters: {error}") from error
        return model.requires_grad_(False).eval()


def save_checkpoint(checkpoint: Checkpoint, directory: Path) -> None:
    """Write a checkpoint so that the directory holds all of it or, after a crash, none of it.

    Files go to a temporary directory beside it, are synced, and one rename publishes them.  An older
    checkpoint at that place is renamed to `<name>.previous` first and deleted last, so that at every
    moment one of the two is complete; `load_checkpoint` knows both names.
    """
    directory = directory.absolute()
    directory.parent.mkdir(parents=True, exist_ok=True)
    _refuse_foreign(directory)
    temporary = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    try:
        save_file(_contiguous(checkpoint.weights), temporary / WEIGHTS)
        if checkpoint.optimiser:
            save_file(_contiguous(checkpoint.optimiser), temporary / OPTIMISER)
        (temporary / CONFIG).write_bytes(checkpoint.config.to_json())
        (temporary / VOCABULARY).write_bytes(checkpoint.vocabulary.to_json())
        (temporary / TRAINING).write_bytes(msgspec.json.encode(checkpoint.record))
        for file in temporary.iterdir():
            _sync(file)
        _sync(temporary)
        temporary.chmod(0o755)  # mkdtemp makes it ours alone
        previous = _previous(directory)
        if directory.exists():
            shutil.rmtree(previous, ignore_errors=True)
            directory.rename(previous)
        temporary.rename(directory)
        _sync(directory.parent)
        shutil.rmtree(previous, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def load_checkpoint(directory: Path) -> Checkpoint:
    """Raises `BundleError` naming the file that is missing or unreadable."""
    directory = directory.absolute()
    if not (directory / CONFIG).is_file() and (_previous(directory) / CONFIG).is_file():
        directory = _previous(directory)
    try:
        weights = load_file(directory / WEIGHTS)
        optimiser: dict[str, Tensor] = {}
        if (directory / OPTIMISER).is_file():
            optimiser = load_file(directory / OPTIMISER)
        record = msgspec.json.decode((directory / TRAINING).read_bytes(), type=TrainingRecord)
        checkpoint = Checkpoint(
            config=config_from_json((directory / CONFIG).read_bytes()),
            vocabulary=ItemVocabulary.from_json((directory / VOCABULARY).read_bytes()),
            weights=weights,
            optimiser=optimiser,
            record=record,
        )
    except (OSError, SafetensorError, *UNREADABLE) as error:
        raise BundleError(
            f"{directory} holds no readable checkpoint: {error}; train it again with "
            "nextclick train --data FILE --out DIRECTORY"
        ) from error
    n_items = len(weights["item_vectors"]) if "item_vectors" in weights else -1
    if n_items != len(checkpoint.vocabulary):
        raise BundleError(
            f"{directory}: the vocabulary has {len(checkpoint.vocabulary)} items, "
            f"the weights {n_items}: it was not written by one training"
        )
    return checkpoint


def all_finite(tensors: dict[str, Tensor]) -> bool:
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values())


def _refuse_foreign(directory: Path) -> None:
    """Replacing a directory deletes it, so it must be a checkpoint or empty."""
    if directory.is_dir():
        foreign = sorted({path.name for path in directory.iterdir()} - set(_FILES))
        if foreign:
            raise BundleError(
                f"{directory} holds other files ({', '.join(foreign[:3])}): "
                "choose an empty or new directory for the checkpoint"
            )
    elif directory.exists():
        raise BundleError(f"{directory} is a file: choose a directory for the checkpoint")


def _previous(directory: Path) -> Path:
    return directory.with_name(f"{directory.name}.previous")


def _contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().contiguous() for name, tensor in tensors.items()}


def _sync(path: Path) -> None:
    descriptor: Any = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
