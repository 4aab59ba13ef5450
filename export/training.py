"""`nextclick train` and `nextclick export`: from a file or a checkpoint to a bundle."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from export.artifact import (
    TrainingFacts,
    bundle_content,
    new_model_version,
    popularity_of,
    training_facts,
)
from export.parity import check_parity
from models.checkpoint import Checkpoint, load_checkpoint
from models.config import Item2VecConfig
from models.item2vec import train_item2vec
from models.options import TrainingOptions
from models.training_run import run_training
from stream_app.adapters.onnx_scorer import OnnxScorer
from stream_app.core.errors import BundleError
from stream_app.core.manifest import MANIFEST_FILE
from stream_app.files.bundle import (
    BundleContent,
    open_bundle,
    write_bundle,
    write_bundle_into,
)

CHECKPOINT: Final = "checkpoint"
"""Directory of the checkpoint inside the one that `train --out` names, which itself is a bundle."""
ITEM2VEC_EPOCHS: Final = 5


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
    return _write_and_prove(directory, content, checkpoint, into=True)


def export_checkpoint(
    checkpoint_directory: Path, out: Path, *, approximate_scoring: bool = False
) -> OnnxScorer:
    """Make the bundle of a checkpoint anew as the directory `out`, which must not exist.

    checkpoint_directory: what `nextclick train --out` left, or the `checkpoint` in it.  Item vectors and
    popularity come from the bundle beside the checkpoint; a checkpoint alone does not know them, and
    `BundleError` says so.
    """
    inside = checkpoint_directory / CHECKPOINT
    source = inside if inside.is_dir() else checkpoint_directory
    checkpoint = load_checkpoint(source)
    item2vec, popularity, facts, metrics = _tables_beside(source, checkpoint)
    now = datetime.now(UTC)
    content = bundle_content(
        checkpoint,
        model_version=new_model_version(now, checkpoint),
        created_at=now,
        item2vec=item2vec,
        popularity=popularity,
        training=facts,
        metrics=metrics,
        sessions=None,
        approximate_scoring=approximate_scoring,
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


def _tables_beside(
    source: Path, checkpoint: Checkpoint
) -> tuple[NDArray[np.float32], NDArray[np.float32], TrainingFacts, dict[str, Any]]:
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
    facts = msgspec.convert(bundle.manifest.training, TrainingFacts)
    return bundle.item2vec, bundle.popularity, facts, dict(bundle.manifest.metrics)


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
