"""One contract for a directory and for a remote store (fsspec's memory:// stands in for it)."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import msgspec
import numpy as np
import pytest

from stream_app.core.errors import BundleError, ConfigurationError
from stream_app.files import registry as registries
from stream_app.files.bundle import open_bundle, remove_leftovers
from stream_app.files.registry import Registry
from tests.bundles import make_bundle, random_weights, refreshed


@pytest.fixture(params=["directory", "file-url", "memory"])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Registry]:
    urls = {
        "directory": str(tmp_path / "registry"),
        "file-url": f"file://{tmp_path}/registry",
        "memory": "memory://models/shop",
    }
    yield Registry(urls[request.param], tmp_path / "cache")
    fsspec.filesystem("memory").store.clear()


def test_a_published_bundle_comes_back(registry: Registry, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path, seed=1)
    version = registry.publish(bundle)
    assert registry.versions() == [version]
    assert registry.manifest(version) == open_bundle(bundle).manifest
    fetched = registry.fetch(version)
    assert open_bundle(fetched).step == open_bundle(bundle).step
    assert registry.fetch(version) == fetched


def test_versions_come_oldest_first(registry: Registry, tmp_path: Path) -> None:
    assert registry.versions() == []
    for seed in (3, 1, 2):
        registry.publish(make_bundle(tmp_path, seed=seed))
    assert registry.versions() == sorted(registry.versions())
    assert len(registry.versions()) == 3


def test_a_version_is_published_once(registry: Registry, tmp_path: Path) -> None:
    registry.publish(make_bundle(tmp_path, seed=1))
    with pytest.raises(ConfigurationError, match=r"has version .* already"):
        registry.publish(make_bundle(tmp_path / "again", seed=1))


def test_a_damaged_bundle_is_never_published(registry: Registry, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path)
    (bundle / "step.onnx").write_bytes(b"rubbish")
    with pytest.raises(BundleError, match="SHA-256"):
        registry.publish(bundle)
    assert registry.versions() == []


def test_only_the_files_of_the_manifest_are_published(registry: Registry, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path)
    (bundle / "checkpoint.bin").write_bytes(b"large")
    fetched = registry.fetch(registry.publish(bundle))
    assert not (fetched / "checkpoint.bin").exists()


@pytest.mark.parametrize("call", ["manifest", "fetch", "delete"])
def test_an_unknown_version_is_told_the_known_ones(
    registry: Registry, tmp_path: Path, call: str
) -> None:
    known = registry.publish(make_bundle(tmp_path))
    with pytest.raises(BundleError, match=f"no version 20300101.*: it has {known}"):
        getattr(registry, call)("20300101T000000Z-0000")


@pytest.mark.parametrize("version", ["", "..", "../secrets", "a/b", "reports", ".hidden"])
def test_what_is_no_version_leads_nowhere(registry: Registry, version: str) -> None:
    with pytest.raises(BundleError, match=r"no model version|no version"):
        registry.manifest(version)
    with pytest.raises(BundleError, match=r"no model version|no version"):
        registry.fetch(version)


def test_a_deleted_version_is_gone(registry: Registry, tmp_path: Path) -> None:
    kept = registry.publish(make_bundle(tmp_path, seed=1))
    gone = registry.publish(make_bundle(tmp_path, seed=2))
    registry.delete(gone)
    assert registry.versions() == [kept]


def refreshed_bundle(parent: Path, version: str, changed: int = 1) -> Path:
    weights = refreshed(random_weights(60), changed=range(changed), added=2)
    return make_bundle(parent, 62, weights=weights, version=version)


def test_a_refreshed_model_is_made_whole_again(registry: Registry, tmp_path: Path) -> None:
    base = registry.publish(make_bundle(tmp_path, 60, weights=random_weights(60), version="1-base"))
    new = refreshed_bundle(tmp_path, "2-new")
    facts = registry.publish_delta(new, base)
    assert registry.versions() == [base, "2-new"]
    bundle = registry.open("2-new")
    assert {name: (bundle.directory / name).read_bytes() for name in bundle.manifest.files} == {
        name: (new / name).read_bytes() for name in bundle.manifest.files
    }
    assert bundle.manifest == msgspec.structs.replace(open_bundle(new).manifest, delta=facts)
    assert registry.fetch("2-new") == bundle.directory


@pytest.mark.parametrize("version", ["1-base", "2-new"])
def test_what_a_model_says_of_its_items_is_read_without_writing_anything(
    registry: Registry, tmp_path: Path, version: str
) -> None:
    """The gateway runs where nothing can be written but a small /tmp."""
    base = registry.publish(make_bundle(tmp_path, 60, weights=random_weights(60), version="1-base"))
    registry.publish_delta(refreshed_bundle(tmp_path, "2-new"), base)
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)
    items = registry.items(version)
    assert not (tmp_path / "cache").exists()
    bundle = open_bundle(tmp_path / version)
    assert items.vocabulary.ids == bundle.vocabulary.ids
    assert np.array_equal(items.item2vec, bundle.item2vec)
    assert np.array_equal(items.popularity, bundle.popularity)


@pytest.mark.parametrize("file", ["items.safetensors", "vocabulary.json"])
def test_items_that_were_damaged_are_refused(tmp_path: Path, file: str) -> None:
    registry = Registry(str(tmp_path / "registry"), tmp_path / "cache")
    base = registry.publish(make_bundle(tmp_path))
    path = tmp_path / "registry" / base / file
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(BundleError, match="SHA-256"):
        registry.items(base)
    path.unlink()
    with pytest.raises(BundleError, match="incomplete"):
        registry.items(base)


def test_the_registry_holds_only_what_differs(tmp_path: Path) -> None:
    registry = Registry(str(tmp_path / "registry"), tmp_path / "cache")
    base = registry.publish(make_bundle(tmp_path, 60, weights=random_weights(60), version="1-base"))
    facts = registry.publish_delta(refreshed_bundle(tmp_path, "2-new"), base)
    kept = {path.name: path.stat().st_size for path in (tmp_path / "registry" / "2-new").iterdir()}
    assert set(kept) == {"manifest.json", "delta.bin"}
    assert kept["delta.bin"] == facts.size_bytes


def test_a_delta_is_of_a_whole_model(registry: Registry, tmp_path: Path) -> None:
    base = registry.publish(make_bundle(tmp_path, 60, weights=random_weights(60), version="1-base"))
    registry.publish_delta(refreshed_bundle(tmp_path, "2-new"), base)
    with pytest.raises(BundleError, match="a delta itself"):
        registry.publish_delta(refreshed_bundle(tmp_path, "3-newer"), "2-new")
    with pytest.raises(BundleError, match="no version"):
        registry.publish_delta(refreshed_bundle(tmp_path, "4-newer"), "0-gone")
    assert registry.versions() == [base, "2-new"]


def test_a_base_stays_while_it_is_needed(registry: Registry, tmp_path: Path) -> None:
    base = registry.publish(make_bundle(tmp_path, 60, weights=random_weights(60), version="1-base"))
    registry.publish_delta(refreshed_bundle(tmp_path, "2-new"), base)
    with pytest.raises(ConfigurationError, match="1 refreshed models"):
        registry.delete(base)
    registry.delete("2-new")
    registry.delete(base)
    assert registry.versions() == []


def test_old_deltas_are_pruned(registry: Registry, tmp_path: Path) -> None:
    base = registry.publish(make_bundle(tmp_path, 60, weights=random_weights(60), version="1-base"))
    for n in range(2, 7):
        registry.publish_delta(refreshed_bundle(tmp_path, f"{n}-new", changed=n), base)
    assert registry.prune_deltas(2, spare={"3-new"}) == ["2-new", "4-new"]
    assert registry.prune_deltas(9, spare=()) == []
    assert registry.versions() == [base, "3-new", "5-new", "6-new"]


def test_few_refreshed_models_stay_whole_on_a_machine(tmp_path: Path) -> None:
    registry = Registry(str(tmp_path / "registry"), tmp_path / "cache")
    base = registry.publish(make_bundle(tmp_path, 60, weights=random_weights(60), version="1-base"))
    for n in range(2, 9):
        registry.publish_delta(refreshed_bundle(tmp_path, f"{n}-new", changed=n), base)
        registry.fetch(f"{n}-new")
    kept = sorted(path.name for path in (tmp_path / "cache").iterdir())
    assert kept == ["5-new", "6-new", "7-new", "8-new"]
    assert open_bundle(registry.fetch("2-new")).manifest.model_version == "2-new"


def test_what_a_killed_process_left_in_the_cache_goes_after_an_hour(tmp_path: Path) -> None:
    registry = Registry("memory://leftovers", tmp_path / "cache")
    for name in ("old", "new"):
        (tmp_path / "cache" / f".download-{name}" / "bundle").mkdir(parents=True)
    os.utime(tmp_path / "cache" / ".download-old", (0, 0))
    registry.fetch(registry.publish(make_bundle(tmp_path)))
    assert [p.name for p in (tmp_path / "cache").glob(".download-*")] == [".download-new"]
    fsspec.filesystem("memory").store.clear()


@pytest.mark.parametrize("file", ["delta.bin", "manifest.json"])
def test_a_damaged_delta_is_refused(tmp_path: Path, file: str) -> None:
    registry = Registry(str(tmp_path / "registry"), tmp_path / "cache")
    base = registry.publish(make_bundle(tmp_path, 60, weights=random_weights(60), version="1-base"))
    registry.publish_delta(refreshed_bundle(tmp_path, "2-new"), base)
    path = tmp_path / "registry" / "2-new" / file
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(BundleError, match=r"SHA-256|unreadable"):
        registry.fetch("2-new")


def test_a_delta_whose_base_was_changed_is_refused(tmp_path: Path) -> None:
    """Every file is right by itself, but they do not belong together."""
    registry = Registry(str(tmp_path / "registry"), tmp_path / "cache")
    base = registry.publish(make_bundle(tmp_path, 60, weights=random_weights(60), version="1-base"))
    registry.publish_delta(refreshed_bundle(tmp_path, "2-new"), base)
    shutil.rmtree(tmp_path / "registry" / base)
    registry.publish(make_bundle(tmp_path / "other", 60, seed=5, version=base))
    with pytest.raises(BundleError, match="SHA-256"):
        registry.fetch("2-new")


def test_reports_are_no_versions(registry: Registry, tmp_path: Path) -> None:
    version = registry.publish(make_bundle(tmp_path))
    where = registry.write_report(version, "report.md", b"# well done")
    assert where.endswith(f"reports/{version}/report.md")
    assert registry.versions() == [version]


def test_a_damaged_cache_is_fetched_again(tmp_path: Path) -> None:
    registry = Registry("memory://cached", tmp_path / "cache")
    version = registry.publish(make_bundle(tmp_path))
    fetched = registry.fetch(version)
    (fetched / "score.onnx").write_bytes(b"rubbish")
    assert open_bundle(registry.fetch(version)).manifest.model_version == version
    fsspec.filesystem("memory").store.clear()


def test_an_upload_that_was_cut_off_is_no_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever upload fails, readers see nothing, and publishing again succeeds."""
    registry = Registry("memory://cut-off", tmp_path / "cache")
    bundle = make_bundle(tmp_path)
    real = registry._files.pipe_file
    for survived in range(6):
        uploads = iter(range(100))

        def fails(
            path: str, value: bytes, uploads: Any = uploads, survived: int = survived
        ) -> None:
            if next(uploads) == survived:
                raise OSError("connection lost")
            real(path, value)

        monkeypatch.setattr(registry._files, "pipe_file", fails)
        with pytest.raises(ConfigurationError, match="connection lost"):
            registry.publish(bundle)
        assert registry.versions() == []
    monkeypatch.setattr(registry._files, "pipe_file", real)
    registry.fetch(registry.publish(bundle))
    fsspec.filesystem("memory").store.clear()


def test_a_publisher_killed_on_the_way_leaves_no_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry(str(tmp_path / "registry"))
    bundle = make_bundle(tmp_path)

    def killed(_descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(registries.os, "fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        registry.publish(bundle)
    monkeypatch.undo()
    assert registry.versions() == []
    assert len(remove_leftovers(tmp_path / "registry")) == 1
    registry.publish(bundle)


def test_a_registry_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "registry").write_text("a file is in the way")
    registry = Registry(str(tmp_path / "registry" / "models"))
    for write in (registry.check_writable, lambda: registry.publish(make_bundle(tmp_path))):
        with pytest.raises(ConfigurationError, match=r"cannot write to registry .*--registry"):
            write()


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_a_read_only_registry_is_named(tmp_path: Path) -> None:
    (tmp_path / "registry").mkdir(mode=0o500)
    with pytest.raises(ConfigurationError, match="Permission denied"):
        Registry(str(tmp_path / "registry")).check_writable()


def test_a_writable_registry_is_left_as_it_was(registry: Registry) -> None:
    registry.check_writable()
    assert registry.versions() == []


@pytest.mark.parametrize("url", ["nonsense://models", "abfs://models"])
def test_a_url_without_a_driver_says_what_to_install(url: str) -> None:
    with pytest.raises(ConfigurationError, match="driver"):
        Registry(url)
