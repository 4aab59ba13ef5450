"""What the registry and the releases topic know: models, reports, neighbours and maps of items.

The registry may be slow (an object store), so it is read in threads, and little of it is kept.
"""

import asyncio
import threading
import time
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from stream_app.adapters.releases import Release, ReleaseFollower
from stream_app.core.errors import BundleError, ConfigurationError, ServiceAwayError
from stream_app.core.manifest import ModelManifest
from stream_app.core.records import UNREADABLE
from stream_app.core.vocabulary import ItemVocabulary
from stream_app.files.registry import Registry
from stream_app.gateway.item_map import item_map
from stream_app.gateway.records import LiveRelease, ModelFacts, ModelsAnswer
from stream_app.logging_setup import get_logger

MODELS_MAX: Final = 50
LIST_SECONDS: Final = 3.0
"""A list is as old as this at most: every open page asks for it."""
SPACES_MAX: Final = 2
"""Models whose vectors are kept: the live one, and one to compare with."""
RETRY_SECONDS: Final = 5.0

log = get_logger("gateway")

T = TypeVar("T")
Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class ItemSpace:
    """The items of a model: who is near whom, and who is popular."""

    model_version: str
    vocabulary: ItemVocabulary
    vectors: Floats
    """[n_items, dim], of length 1; zeros where an item has none."""
    popularity: Floats
    """[n_items]"""

    def neighbours(self, item_index: int, limit: int) -> list[tuple[str, float]]:
        """Items by falling cosine, the item itself left out."""
        similarity = self.vectors @ self.vectors[item_index]
        similarity[item_index] = -np.inf
        best = np.argsort(-similarity, kind="stable")[:limit]
        return [(self.vocabulary.ids[i], float(similarity[i])) for i in best if i != item_index]

    def most_popular(self, limit: int) -> NDArray[np.int64]:
        """Item indexes, most popular first."""
        return np.argsort(-self.popularity, kind="stable")[:limit]


class ModelRoom:
    """`start` begins to follow the releases in a thread; everything else is for the event loop."""

    def __init__(self, registry_url: str, follower: ReleaseFollower) -> None:
        self._registry = Registry(registry_url)
        self._follower = follower
        self._release: Release | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="releases", daemon=True)
        self._busy = asyncio.Lock()
        self._spaces: OrderedDict[str, ItemSpace] = OrderedDict()
        self._maps: OrderedDict[tuple[str, int], Floats] = OrderedDict()
        self._listed: tuple[float, list[ModelManifest], list[dict[str, Any]]] | None = None

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(RETRY_SECONDS)

    def live_version(self) -> str | None:
        return self._release.model_version if self._release else None

    async def listed(self) -> ModelsAnswer:
        """Raises `ConfigurationError` where the registry cannot be read."""
        async with self._busy:
            if self._listed is None or time.monotonic() - self._listed[0] > LIST_SECONDS:
                manifests, reports = await asyncio.to_thread(_read_lists, self._registry)
                self._listed = (time.monotonic(), manifests, reports)
            _, manifests, reports = self._listed
        release, live = self._release, self.live_version()
        return ModelsAnswer(
            live=msgspec.convert(release, LiveRelease, from_attributes=True) if release else None,
            models=[_facts(manifest, live) for manifest in manifests],
            reports=reports,
        )

    async def space(self, version: str) -> ItemSpace:
        """Raises `BundleError` for a version that is not there or damaged."""
        async with self._busy:
            space = self._spaces.get(version)
            if space is None:
                space = await asyncio.to_thread(_read_space, self._registry, version)
            _keep(self._spaces, version, space, SPACES_MAX)
            return space

    async def map_of(self, space: ItemSpace, limit: int) -> Floats:
        """Where its most popular items lie on a map: float32 [limit or fewer, 2], 0..1."""
        key = (space.model_version, limit)
        async with self._busy:
            places = self._maps.get(key)
            if places is None:
                vectors = space.vectors[space.most_popular(limit)]
                places = await asyncio.to_thread(item_map, vectors)
            _keep(self._maps, key, places, 2 * SPACES_MAX)
            return places

    def _follow(self) -> None:
        while not self._stop.is_set():
            try:
                self._release = self._follower.poll(1.0) or self._release
            except (ServiceAwayError, ConfigurationError) as error:
                log.warning("releases_unknown", error=str(error), retry_seconds=RETRY_SECONDS)
                self._stop.wait(RETRY_SECONDS)
        with suppress(ServiceAwayError):  # nobody to take leave of
            self._follower.close()


def _keep(cache: OrderedDict[Any, T], key: Any, value: T, count: int) -> None:
    cache[key] = value
    cache.move_to_end(key)
    if len(cache) > count:
        cache.popitem(last=False)


def _read_lists(registry: Registry) -> tuple[list[ModelManifest], list[dict[str, Any]]]:
    manifests = []
    for version in registry.versions()[::-1][:MODELS_MAX]:
        try:
            manifests.append(registry.manifest(version))
        except BundleError as error:
            log.warning("manifest_unreadable", model_version=version, error=str(error))
    reports = []
    for data in registry.read_reports("report.json", MODELS_MAX):
        try:
            reports.append(msgspec.json.decode(data, type=dict[str, Any]))
        except UNREADABLE as error:
            log.warning("report_unreadable", error=str(error))
    return manifests, reports


def _facts(manifest: ModelManifest, live: str | None) -> ModelFacts:
    return ModelFacts(
        model_version=manifest.model_version,
        is_live=manifest.model_version == live,
        created_at=manifest.created_at,
        architecture=manifest.architecture,
        n_items=manifest.n_items,
        state_bytes=manifest.state_size_bytes,
        hyperparameters=manifest.hyperparameters,
        training=manifest.training,
        metrics=manifest.metrics,
        scoring=msgspec.to_builtins(manifest.scoring),
        software=manifest.software,
    )


def _read_space(registry: Registry, version: str) -> ItemSpace:
    items = registry.items(version)
    lengths = np.linalg.norm(items.item2vec, axis=1, keepdims=True)
    vectors = items.item2vec / np.where(lengths > 0, lengths, np.float32(1))
    return ItemSpace(version, items.vocabulary, vectors.astype(np.float32), items.popularity)
