"""`nextclick models` against a real broker and a registry directory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result

from stream_app.adapters.releases import read_latest
from stream_app.cli.models import models
from stream_app.core.errors import BundleError, ConfigurationError
from stream_app.files.registry import Registry
from tests.bundles import make_bundle

if TYPE_CHECKING:
    from stream_app.settings import TopicSettings
    from tests.integration.conftest import TestKafka


class Shop:
    """A registry of three versions and a releases topic."""

    def __init__(self, kafka: TestKafka, topics: TopicSettings, directory: Path) -> None:
        self.kafka, self.topic = kafka.settings, topics.releases
        self.registry = Registry(str(directory / "registry"))
        self.versions = [
            self.registry.publish(make_bundle(directory, seed=seed)) for seed in (1, 2, 3)
        ]
        self._flags = [
            *("--registry", self.registry.url),
            *("--kafka-bootstrap-servers", kafka.bootstrap_servers),
            *("--set", f"topics.releases={topics.releases}"),
        ]

    def run(self, *arguments: str) -> Result:
        return CliRunner().invoke(
            models, [*arguments, *self._flags], catch_exceptions=False, standalone_mode=False
        )

    @property
    def live(self) -> str | None:
        release = read_latest(self.kafka, self.topic)
        return release.model_version if release else None


@pytest.fixture
def shop(kafka: TestKafka, topics: TopicSettings, tmp_path: Path) -> Shop:
    return Shop(kafka, topics, tmp_path)


def test_promote_and_rollback_move_the_live_pointer(shop: Shop) -> None:
    first, second, _ = shop.versions
    shop.run("promote", first)
    shop.run("promote", second, "--reason", "better")
    assert shop.live == second
    assert f"live: {first}; before: {second}" in shop.run("rollback").output
    assert shop.live == first
    assert "live: no model" in shop.run("promote", "none").output
    assert shop.live is None


def test_list_shows_every_version_and_marks_the_live_one(shop: Shop) -> None:
    shop.run("promote", shop.versions[1])
    lines = shop.run("list").output.splitlines()
    rows = {version: line for line in lines for version in shop.versions if version in line}
    assert list(rows) == shop.versions
    assert ["live" in rows[version] for version in shop.versions] == [False, True, False]


def test_show_prints_the_manifest_of_a_sound_bundle(shop: Shop) -> None:
    manifest: dict[str, Any] = json.loads(shop.run("show", shop.versions[0]).output)
    assert manifest["model_version"] == shop.versions[0]


def test_a_damaged_or_unknown_version_is_not_promoted(shop: Shop) -> None:
    shop.run("promote", shop.versions[0])
    assert shop.registry.directory is not None
    (shop.registry.directory / shop.versions[2] / "score.onnx").write_bytes(b"rubbish")
    with pytest.raises(BundleError, match="SHA-256"):
        shop.run("promote", shop.versions[2])
    with pytest.raises(BundleError, match="no version v99"):
        shop.run("promote", "v99")
    assert shop.live == shop.versions[0]


def test_a_version_that_is_gone_is_not_rolled_back_to(shop: Shop) -> None:
    shop.run("promote", shop.versions[0])
    shop.run("promote", shop.versions[1])
    shop.registry.delete(shop.versions[0])
    with pytest.raises(BundleError, match=f"no version {shop.versions[0]}"):
        shop.run("rollback")
    assert shop.live == shop.versions[1]


def test_without_an_earlier_version_rollback_says_so(shop: Shop) -> None:
    with pytest.raises(ConfigurationError, match="nothing to roll back to"):
        shop.run("rollback")


@pytest.mark.filterwarnings(
    # kafka-python forgets the sockets of a failed first connection; our process ends there anyway.
    "ignore::pytest.PytestUnraisableExceptionWarning"
)
def test_the_list_is_shown_without_a_broker_too(tmp_path: Path) -> None:
    registry = Registry(str(tmp_path / "registry"))
    version = registry.publish(make_bundle(tmp_path))
    result = CliRunner().invoke(
        models,
        ["list", "--registry", registry.url, "--kafka-bootstrap-servers", "127.0.0.1:1"],
        catch_exceptions=False,
    )
    assert version in result.stdout
    assert "which version is live is unknown" in result.stderr
