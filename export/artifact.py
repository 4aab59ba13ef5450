"""A checkpoint and what was measured of it -> what goes into a bundle; and back, for a warm start."""

import hashlib
import platform
from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from export.graphs import step_graph
from export.scoring import choose_scoring, clicks_of, popular_clicks
from export.to_onnx import network_weights
from models.checkpoint import Checkpoint
from models.config import ARCHITECTURES, config_of
from stream_app.core.errors import BundleError
from stream_app.core.vocabulary import ItemVocabulary
from stream_app.evaluation.sessions import SessionTable
from stream_app.files.bundle import BundleContent, open_bundle, read_weights

_OPTIMISER: Final = "optimiser/"
"""Prefix of the optimiser's tensors among the weights."""
_PACKAGES: Final = ("nextclick", "torch", "onnx", "onnxruntime", "numpy")


class TrainingFacts(msgspec.Struct, frozen=True, kw_only=True):
    """`training` of a manifest: on what, for how long, from where."""

    first_event_ms: int | None
    """Event time of the first click learned from; None in data without a clock."""
    last_event_ms: int | None
    sessions: int
    clicks: int
    epochs: int
    seconds: float
    started_from: str | None = None
    """Version whose weights it began with; None: from scratch."""


def bundle_content(
    checkpoint: Checkpoint,
    *,
    model_version: str,
    created_at: datetime,
    item2vec: NDArray[np.float32],
    popularity: NDArray[np.float32],
    training: TrainingFacts | Mapping[str, Any],
    metrics: Mapping[str, Any],
    sessions: SessionTable | None,
    approximate_scoring: bool = False,
    placed: Collection[str] = (),
) -> BundleContent:
    """Export the checkpoint's network; the weights and the optimiser's state go along for the next training.

    sessions: whose states the scoring graph is measured on; None: clicks drawn by popularity.
    approximate_scoring: see `export.scoring.choose_scoring`.
    placed: items whose rows their descriptions told.
    """
    model = checkpoint.model()
    network = network_weights(model)
    step = step_graph(network)
    score, scoring = choose_scoring(
        network,
        step,
        popular_clicks(popularity) if sessions is None else clicks_of(sessions),
        measured_on="clicks drawn by popularity" if sessions is None else "sessions",
        approximate=approximate_scoring,
    )
    optimiser = {f"{_OPTIMISER}{name}": tensor for name, tensor in checkpoint.optimiser.items()}
    return BundleContent(
        model_version=model_version,
        created_at=_rfc3339(created_at),
        architecture=checkpoint.config.architecture,
        state=model.state_tensors(),
        vocabulary=checkpoint.vocabulary,
        step=step.SerializeToString(),
        score=score.SerializeToString(),
        item2vec=item2vec,
        popularity=popularity,
        weights={
            name: tensor.detach().numpy()
            for name, tensor in {**checkpoint.weights, **optimiser}.items()
        },
        hyperparameters=msgspec.to_builtins(checkpoint.config),
        training=msgspec.to_builtins(training),
        metrics=metrics,
        software=software_versions(),
        scoring=scoring,
        placed=np.array([item in placed for item in checkpoint.vocabulary.ids], dtype=bool),
    )


def checkpoint_of(directory: Path) -> Checkpoint:
    """The checkpoint inside a bundle, to go on training from.

    Raises `BundleError` if it fails a check or is of another architecture.
    """
    bundle = open_bundle(directory)
    architecture = bundle.manifest.architecture
    if architecture not in ARCHITECTURES:
        raise BundleError(
            f"{directory} holds a model of the architecture {architecture}; training can go on from "
            f"{' or '.join(ARCHITECTURES)} only: train from scratch (--set retrain.warm_start=false)"
        )
    tensors = {name: torch.from_numpy(array) for name, array in read_weights(directory).items()}
    return Checkpoint(
        config=config_of({"architecture": architecture, **bundle.manifest.hyperparameters}),
        vocabulary=bundle.vocabulary,
        weights={k: v for k, v in tensors.items() if not k.startswith(_OPTIMISER)},
        optimiser={
            k.removeprefix(_OPTIMISER): v for k, v in tensors.items() if k.startswith(_OPTIMISER)
        },
    )


def without_items(start: Checkpoint, gone: Collection[str]) -> Checkpoint:
    """A checkpoint without the rows of some items, in the weights and in the optimiser's state."""
    if not gone:
        return start
    ids = start.vocabulary.ids
    rows = [row for row, item in enumerate(ids) if item not in gone]
    tables = start.item_tables

    def pruned(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {
            name: tensor[rows] if name.rpartition(".")[2] in tables else tensor
            for name, tensor in tensors.items()
        }

    return replace(
        start,
        vocabulary=ItemVocabulary(ids[row] for row in rows),
        weights=pruned(start.weights),
        optimiser=pruned(start.optimiser),
    )


def popularity_of(sessions: SessionTable, n_items: int) -> NDArray[np.float32]:
    """Each item's share of the clicks, float32 [n_items]; they sum to 1 unless there are none."""
    support = sessions.support(n_items)
    shares: NDArray[np.float32] = (support / max(support.sum(), 1)).astype(np.float32)
    return shares


def training_facts(
    sessions: SessionTable,
    *,
    epochs: int,
    seconds: float,
    has_clock: bool = True,
    started_from: str | None = None,
) -> TrainingFacts:
    clock = has_clock and sessions.n_clicks > 0
    return TrainingFacts(
        first_event_ms=int(sessions.click_ms.min()) if clock else None,
        last_event_ms=int(sessions.click_ms.max()) if clock else None,
        sessions=sessions.n_sessions,
        clicks=sessions.n_clicks,
        epochs=epochs,
        seconds=round(seconds, 3),
        started_from=started_from,
    )


def new_model_version(created_at: datetime, checkpoint: Checkpoint) -> str:
    """`<UTC time>-<4 hex digits of the weights>`: sorts by time, and two of one second differ."""
    digest = hashlib.sha256(checkpoint.vocabulary.to_json())
    for name in sorted(checkpoint.weights):
        digest.update(checkpoint.weights[name].detach().numpy().tobytes())
    return f"{created_at.astimezone(UTC):%Y%m%dT%H%M%SZ}-{digest.hexdigest()[:4]}"


def software_versions() -> dict[str, str]:
    """What the model was made with, for whoever has to make it again."""
    return {"python": platform.python_version(), **{name: installed(name) for name in _PACKAGES}}


def _rfc3339(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
