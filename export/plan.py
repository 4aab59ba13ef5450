"""What a retraining goes over and where it starts, given the log and the live model."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from export.admission import admitted_items
from export.artifact import checkpoint_of, without_items
from export.window import Division, Window, in_vocabulary_of, to_learn
from models.architectures import network
from models.checkpoint import Checkpoint
from models.config import CosineGRUConfig, GRU4RecConfig, ModelConfig
from stream_app.adapters.onnx_scorer import OnnxScorer
from stream_app.adapters.releases import read_latest
from stream_app.core.errors import BundleError
from stream_app.core.vocabulary import ItemVocabulary
from stream_app.evaluation.sessions import SessionTable
from stream_app.files.registry import Registry
from stream_app.settings import RetrainSettings, Settings

Say = Callable[[str], None]

NETWORKS: Final[Mapping[str, ModelConfig]] = {
    "gru4rec": GRU4RecConfig(
        batch_size=64,
        n_sample=512,
        learning_rate=0.07,
        dropout_embedding=0.4,
        dropout_hidden=0.3,
    ),
    "cosine-gru": CosineGRUConfig(dropout_items=0.4, batch_clicks=480),
}
"""What is trained unless the settings say otherwise, by architecture.  Logs here are small (hours to a
fortnight), so dropout matters most: without it Recall@20 of GRU4Rec falls from .44 to .33 on six minutes of the
simulated shop, and from .66 to .65 on a day and a half of YOOCHOOSE (DESIGN.md, 10)."""


@dataclass(frozen=True, slots=True)
class LiveModel:
    version: str
    directory: Path
    scorer: OnnxScorer
    known_until_ms: int | None
    """Newest click it was trained on."""
    line: tuple[tuple[int, str], ...] = ()
    """Where it is a refreshed one: newest click and version of the full training it goes back to, and of all
    that were refreshed from that, oldest first."""

    @property
    def line_known_until_ms(self) -> int:
        """What is newer was unknown to some model of its line, and so can judge it."""
        return self.line[0][0] if self.line else self.known_until_ms or 0

    def as_of(self, moment_ms: int, registry: Registry) -> "LiveModel":
        """The newest of its line that has learned no click of that moment or later.

        A refreshed model has learned what it would be judged on, minutes after it was clicked: whoever
        is compared with it on that would always lose, and whoever starts from it would have seen it.
        """
        fitting = [version for newest_ms, version in self.line if newest_ms < moment_ms]
        if not fitting or fitting[-1] == self.version:
            return self
        return _read_live_model(fitting[-1], registry)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a training goes over, and where it starts."""

    vocabulary: ItemVocabulary
    sessions: SessionTable
    """Indexes into `vocabulary`."""
    config: ModelConfig
    start: Checkpoint | None
    retired: frozenset[str]
    """Items of the live model that nobody clicked in the whole window, or too few did (`export.admission`)."""


def find_live_model(settings: Settings, registry: Registry, say: Say) -> LiveModel | None:
    """What is live now; None also where its bundle cannot be used (training then starts from scratch)."""
    release = read_latest(settings.kafka, settings.topics.releases)
    if release is None or release.model_version is None:
        return None
    try:
        live = _read_live_model(release.model_version, registry)
        base = live.scorer.manifest.delta
        return live if base is None else replace(live, line=_line(base.base, registry))
    except BundleError as error:
        say(f"the live model cannot be compared with, nor started from: {error}")
        return None


def _read_live_model(version: str, registry: Registry) -> LiveModel:
    directory = registry.fetch(version)
    scorer = OnnxScorer.load(directory)
    return LiveModel(version, directory, scorer, scorer.manifest.training.get("last_event_ms"))


def _line(base: str, registry: Registry) -> tuple[tuple[int, str], ...]:
    manifests = [registry.manifest(version) for version in registry.versions()]
    line = [
        (newest_ms, manifest.model_version)
        for manifest in manifests
        if manifest.model_version == base
        or (manifest.delta is not None and manifest.delta.base == base)
        if (newest_ms := manifest.training.get("last_event_ms")) is not None
    ]
    return tuple(sorted(line))


def plan_training(
    settings: RetrainSettings,
    window: Window,
    division: Division,
    live: LiveModel | None,
    *,
    say: Say,
    from_scratch: bool,
) -> Plan:
    """Vocabulary, sessions, hyper-parameters and starting weights of the next training."""
    config = NETWORKS[settings.architecture].changed(
        units=settings.layer_units, epochs=settings.epochs
    )
    admitted = admitted_items(window, settings)
    start, retired = _start(
        admitted, config, live, say=say, from_scratch=from_scratch or not settings.warm_start
    )
    # Only what was clicked before the cut is learned; an item of the held-out slice alone is new to all.
    support = division.past.support(len(window.vocabulary))
    known = window.vocabulary.index_of
    clicked = [item for item in admitted.ids if support[known[item]]]
    learn = to_learn(
        division.past,
        known_until_ms=live.known_until_ms if live is not None and start is not None else None,
        replay_clicks=settings.replay_clicks,
    )
    vocabulary = start.vocabulary.extended(clicked) if start else ItemVocabulary(clicked)
    return Plan(
        vocabulary=vocabulary,
        sessions=in_vocabulary_of(learn, window.vocabulary, vocabulary),
        config=config.changed(epochs=_warm_epochs(learn.n_clicks, settings)) if start else config,
        start=start,
        retired=retired,
    )


def plan_refit(
    settings: RetrainSettings, window: Window, division: Division, plan: Plan, judged: Checkpoint
) -> Plan:
    """Go on from the model that was judged, over the newest sessions and a spread of old ones.

    The held-out slice is the freshest there is, and in a quiet night it may be hours long: a model that
    never learned it would not even know the items that appeared meanwhile.
    """
    vocabulary = judged.vocabulary.extended(admitted_items(window, settings).ids)
    learn = to_learn(
        window.sessions,
        known_until_ms=division.cut_ms - 1,
        replay_clicks=settings.replay_clicks,
    )
    return Plan(
        vocabulary=vocabulary,
        sessions=in_vocabulary_of(learn, window.vocabulary, vocabulary),
        config=plan.config.changed(epochs=settings.warm_epochs),
        start=judged,
        retired=plan.retired,
    )


def _warm_epochs(clicks: int, settings: RetrainSettings) -> int:
    """As many passes as cost no more than `warm_epochs` over `replay_clicks`: a young log deserves more."""
    affordable = settings.warm_epochs * settings.replay_clicks // max(clicks, 1)
    return max(min(affordable, settings.epochs), settings.warm_epochs)


def _start(
    admitted: ItemVocabulary,
    config: ModelConfig,
    live: LiveModel | None,
    *,
    say: Say,
    from_scratch: bool,
) -> tuple[Checkpoint | None, frozenset[str]]:
    """The live model's checkpoint, less its retired items, if training can go on from it."""
    if live is None:
        return None, frozenset()
    retired = frozenset(live.scorer.vocabulary.ids) - frozenset(admitted.ids)
    if from_scratch:
        return None, retired
    try:
        checkpoint = checkpoint_of(live.directory)
    except BundleError as error:
        say(f"no warm start: {error}")
        return None, retired
    if checkpoint.config.architecture != config.architecture or _shapes(config) != _shapes(
        checkpoint.config
    ):
        say("no warm start: the live model's network has another shape than the settings ask for")
        return None, retired
    return without_items(checkpoint, retired), retired


def _shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Of the weights of a network with one item."""
    return {name: tuple(weight.shape) for name, weight in network(config, 1).weights().items()}
