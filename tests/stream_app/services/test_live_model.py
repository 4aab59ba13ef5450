"""Following releases with real bundles in a real registry; only the topic is played."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stream_app.adapters.releases import Release, first_release
from stream_app.core.errors import ServiceAwayError
from stream_app.files.registry import Registry
from stream_app.services.live_model import LiveModel
from tests.bundles import make_bundle
from tests.integration.processes import wait_until


class PlayedTopic:
    """Stands for `ReleaseFollower`: what is put into `coming` arrives at the next poll."""

    def __init__(self) -> None:
        self.coming: list[Release | Exception] = []
        self.caught_up = False

    def poll(self, timeout_seconds: float) -> Release | None:
        self.caught_up = True
        if not self.coming:
            return None
        arrived = self.coming.pop(0)
        if isinstance(arrived, Exception):
            raise arrived
        return arrived

    def close(self) -> None:
        pass


@pytest.fixture
def topic() -> PlayedTopic:
    return PlayedTopic()


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(str(tmp_path / "registry"))


@pytest.fixture
def publish(registry: Registry, tmp_path: Path) -> Callable[..., str]:
    def make(seed: int, *, damaged: bool = False) -> str:
        version = registry.publish(make_bundle(tmp_path / "made", units=8, seed=seed))
        if damaged:
            graph = Path(registry.url) / version / "step.onnx"
            graph.chmod(0o644)
            graph.write_bytes(b"x" + graph.read_bytes()[1:])
        return version

    return make


@pytest.fixture
def swaps() -> list[str]:
    return []


@pytest.fixture
def live(topic: PlayedTopic, registry: Registry, swaps: list[str]) -> Iterator[LiveModel]:
    model = LiveModel(
        topic,  # type: ignore[arg-type]
        registry,
        poll_seconds=0.01,
        on_swap=lambda result, _: swaps.append(result),
    )
    yield model
    model.stop()


def version_of(live: LiveModel) -> str | None:
    return live.scorer.model_version if live.scorer else None


def test_nothing_released_settles_without_a_model(live: LiveModel) -> None:
    assert not live.is_settled
    live.start()
    assert live.wait_until_settled(10)
    assert live.scorer is None


def test_each_release_replaces_the_model_and_none_unloads_it(
    live: LiveModel, topic: PlayedTopic, publish: Callable[..., str], swaps: list[str]
) -> None:
    first = first_release(publish(1), "test")
    topic.coming.append(first)
    live.start()
    assert live.wait_until_settled(10)
    assert version_of(live) == first.model_version
    second = first.promoted(publish(2), "test")
    topic.coming.append(second)
    wait_until("the second is live", lambda: version_of(live) == second.model_version)
    topic.coming.append(second.promoted(None, "test"))
    wait_until("no model is live", lambda: live.scorer is None)
    assert swaps == ["swapped", "swapped", "unloaded"]


def test_a_damaged_bundle_leaves_the_live_model(
    live: LiveModel, topic: PlayedTopic, publish: Callable[..., str], swaps: list[str]
) -> None:
    good = first_release(publish(1), "test")
    topic.coming.append(good)
    live.start()
    live.wait_until_settled(10)
    topic.coming.append(good.promoted(publish(2, damaged=True), "test"))
    wait_until("it was refused", lambda: "refused" in swaps)
    assert version_of(live) == good.model_version


def _renamed(registry: Registry, version: str, **fields: object) -> str:
    """The version under another name, its manifest changed."""
    directory = Path(registry.url) / version
    other = directory.rename(directory.with_name("other"))
    manifest = json.loads((other / "manifest.json").read_text())
    (other / "manifest.json").write_text(json.dumps(manifest | fields))
    return other.name


@pytest.mark.parametrize(
    "fields",
    [{}, {"model_version": "other", "created_at": "yesterday"}],
    ids=["another model under that name", "made at no time"],
)
def test_a_model_that_is_not_what_was_promoted_is_refused(
    live: LiveModel,
    topic: PlayedTopic,
    registry: Registry,
    publish: Callable[..., str],
    swaps: list[str],
    fields: dict[str, object],
) -> None:
    """An answer that names a version under which its model cannot be found is worth nothing."""
    good = first_release(publish(1), "test")
    topic.coming.append(good)
    live.start()
    live.wait_until_settled(10)
    topic.coming.append(good.promoted(_renamed(registry, publish(2), **fields), "test"))
    wait_until("it was looked at", lambda: len(swaps) == 2)
    assert swaps == ["swapped", "refused"]
    assert version_of(live) == good.model_version


def test_a_failure_nobody_foresaw_is_a_refusal_and_is_not_tried_for_ever(
    live: LiveModel,
    topic: PlayedTopic,
    publish: Callable[..., str],
    swaps: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("stream_app.services.live_model.RETRY_SECONDS", 0.01)
    good = first_release(publish(1), "test")
    topic.coming.append(good)
    live.start()
    live.wait_until_settled(10)

    def exhausted(_: object) -> None:
        raise MemoryError("no room for that")

    monkeypatch.setattr("stream_app.services.live_model.OnnxScorer.of", exhausted)
    topic.coming.append(good.promoted(publish(2), "test"))
    wait_until("it was looked at", lambda: len(swaps) == 2)
    monkeypatch.undo()
    third = good.promoted(publish(3), "test")
    topic.coming.append(third)
    wait_until("the third is live", lambda: version_of(live) == third.model_version)
    assert swaps == ["swapped", "refused", "swapped"]


def test_a_worker_that_starts_with_a_damaged_release_takes_the_one_before(
    live: LiveModel, topic: PlayedTopic, publish: Callable[..., str], swaps: list[str]
) -> None:
    """A bad release must not outlive a restart as "no model at all"."""
    good = first_release(publish(1), "test")
    topic.coming.append(good.promoted(publish(2, damaged=True), "test"))
    live.start()
    assert live.wait_until_settled(10)
    assert version_of(live) == good.model_version
    assert swaps == ["refused", "swapped"]
    assert live.refuses_release, "what answers is not what was promoted"


def test_a_broker_or_registry_away_is_asked_again(
    live: LiveModel,
    topic: PlayedTopic,
    publish: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("stream_app.services.live_model.RETRY_SECONDS", 0.01)
    release = first_release(publish(1), "test")
    topic.coming += [ServiceAwayError("away"), release]
    live.start()
    wait_until("it is live", lambda: version_of(live) == release.model_version)
