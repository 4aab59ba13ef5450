"""The registry: a directory (or a URL of an object store) of model bundles, one directory a version.

A version is there once its manifest is.  Local directories are published by one rename; elsewhere
the manifest is uploaded last and removed first.  A refreshed model is kept as a manifest and a delta on
a whole version, and made whole on the machine that reads it.  Which version is *live* is not said here,
but on the releases topic.
"""

import contextlib
import hashlib
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, Final

import fsspec
import msgspec

from stream_app.core.errors import BundleError, ConfigurationError
from stream_app.core.manifest import (
    DELTA_FILE,
    ITEMS_FILE,
    MANIFEST_FILE,
    VOCABULARY_FILE,
    DeltaOf,
    ModelManifest,
)
from stream_app.files.bundle import (
    Bundle,
    Items,
    cannot_write,
    fsync_directory,
    is_file_name,
    open_bundle,
    read_items,
    read_manifest,
)
from stream_app.files.bundle_delta import apply_delta, make_delta
from stream_app.files.bundle_limits import FILE_BYTES_MAX, read_bounded

REPORTS: Final = "reports"
"""Directory of the training reports inside a registry; no version may be called so."""

WHOLE_KEPT: Final = 4
"""Refreshed models that stay made whole on a machine: the live one, the one before, and some for a look back."""

STALE_SECONDS: Final = 3_600.0
"""Nobody takes so long to fetch a model."""
_ARRIVING: Final = ".download-"

_VERSION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")


class Registry:
    """Bundles by version.  Any number of readers; one publisher of a given version."""

    def __init__(self, url: str, cache_dir: Path | None = None) -> None:
        """url: a directory, or anything fsspec understands (`s3://bucket/models`).

        cache_dir: where bundles of a remote registry are kept; a temporary directory per user if not
        given.  Raises `ConfigurationError` where the URL's driver is missing.
        """
        self.url = url
        try:
            self._files, root = fsspec.url_to_fs(url)
        except (ValueError, ImportError) as error:
            raise ConfigurationError(
                f"registry {url!r} cannot be opened: {error}.  Write a directory, or a URL that fsspec "
                "knows, and install its driver (s3:// needs `pip install s3fs`)"
            ) from error
        self._local = Path(root) if "file" in _protocols(self._files) else None
        self._root = PurePosixPath(root)
        self._cache = cache_dir or Path(tempfile.gettempdir()) / f"nextclick-models-{os.getuid()}"
        self._cache_is_public = cache_dir is None

    def versions(self) -> list[str]:
        """Published versions, oldest first (their names sort by time)."""
        with self._reading():
            if not self._files.exists(str(self._root)):
                return []
            found = self._files.glob(str(self._root / "*" / MANIFEST_FILE))
        names = (PurePosixPath(path).parent.name for path in found)
        return sorted(name for name in names if name != REPORTS and _VERSION.fullmatch(name))

    def manifest(self, version: str) -> ModelManifest:
        """What a version says of itself.  Raises `BundleError` naming the known ones if it is not there."""
        try:
            if self._local is not None:
                return read_manifest(self._local / _checked(version))
            with self._reading():
                return ModelManifest.from_json(
                    self._files.cat_file(self._at(version, MANIFEST_FILE))
                )
        except (BundleError, FileNotFoundError) as error:
            if version not in self.versions():
                raise self._unknown(version) from error
            raise

    def open(self, version: str) -> Bundle:
        """A version, whole and on this machine, every file verified.  Raises `BundleError`."""
        if self._local is not None and self.manifest(version).delta is None:
            return open_bundle(self._local / version)
        directory = self._cache / _checked(version)
        if self._cache_is_public:
            _require_ours(self._cache)
        if directory.exists():
            try:
                return open_bundle(directory)
            except BundleError:  # the cache is damaged: fetch it again
                shutil.rmtree(directory, ignore_errors=True)
        self._make_whole_here(version, directory)
        return open_bundle(directory)

    def fetch(self, version: str) -> Path:
        """Directory of a version on this machine, verified; downloaded where the registry is remote."""
        return self.open(version).directory

    def items(self, version: str) -> Items:
        """What a version says of its items: two of its files, read into memory and verified, whatever it is
        kept as.  Raises `BundleError`."""
        manifest = self.manifest(version)
        try:
            files = self._files_of(version, manifest, (VOCABULARY_FILE, ITEMS_FILE))
        except (FileNotFoundError, OSError) as error:
            raise BundleError(
                f"version {version} in {self.url} is incomplete ({error}): publish it again"
            ) from error
        return read_items(manifest, files[VOCABULARY_FILE], files[ITEMS_FILE])

    def publish(self, bundle_directory: Path) -> str:
        """Verify a bundle and make it a version; only the files its manifest names are taken.

        Raises `BundleError` if it fails a check, `ConfigurationError` if the registry cannot be written
        to or has the version already.
        """
        bundle = open_bundle(bundle_directory)
        version = self._new_version(bundle.manifest)
        names = (*sorted(bundle.manifest.files), MANIFEST_FILE)
        self._put(version, {name: bundle_directory / name for name in names})
        return version

    def publish_delta(self, bundle_directory: Path, base: str) -> DeltaOf:
        """Publish a bundle as what differs from the whole version `base`; much smaller where it is a base
        with some changed rows.

        What is published was made whole again and compared first.  Raises as `publish`, and `BundleError`
        where `base` is a delta itself.
        """
        bundle = open_bundle(bundle_directory)
        version = self._new_version(bundle.manifest)
        if self.manifest(base).delta is not None:
            raise BundleError(f"version {base} is a delta itself: name the version it is based on")
        base_directory = self.fetch(base)
        old = {name: read_bounded(base_directory / name) for name in self.manifest(base).files}
        new = {name: read_bounded(bundle_directory / name) for name in bundle.manifest.files}
        delta = make_delta(old, new)
        if {**old, **dict(apply_delta(lambda name: old.get(name, b""), delta))} != new:
            raise BundleError(
                f"{bundle_directory} cannot be told by what differs from version {base}: publish it whole"
            )
        facts = DeltaOf(base=base, sha256=hashlib.sha256(delta).hexdigest(), size_bytes=len(delta))
        manifest = msgspec.structs.replace(bundle.manifest, delta=facts)
        self._put(version, {DELTA_FILE: delta, MANIFEST_FILE: manifest.to_json()})
        return facts

    def prune_deltas(self, keep: int, spare: Collection[str]) -> list[str]:
        """Delete the deltas that are not among the newest `keep` versions nor in `spare`; returns which."""
        older = self.versions()[:-keep]
        gone = [v for v in older if v not in spare and self.manifest(v).delta is not None]
        for version in gone:
            self.delete(version)
        return gone

    def delete(self, version: str) -> None:
        """Remove a version; that it is not the live one is the caller's business.

        Raises `ConfigurationError` while others are kept as what differs from it.
        """
        versions = self.versions()
        if version not in versions:
            raise self._unknown(version)
        is_whole = self.manifest(version).delta is None
        deltas = (self.manifest(other).delta for other in versions if is_whole)
        n_deltas = sum(delta is not None and delta.base == version for delta in deltas)
        if n_deltas:
            raise ConfigurationError(
                f"{n_deltas} refreshed models are kept as what differs from version {version}: delete them "
                "first"
            )
        try:
            self._files.rm_file(self._at(version, MANIFEST_FILE))
            self._files.rm(str(self._root / version), recursive=True)
        except FileNotFoundError:
            pass  # stores without directories have nothing left after the last file
        except OSError as error:
            raise cannot_write(f"registry {self.url}", error) from error

    def write_report(self, version: str, name: str, data: bytes) -> str:
        """Keep a file of a training run in `reports/<version>/`; returns where."""
        path = str(self._root / REPORTS / _checked(version) / name)
        try:
            self._files.makedirs(str(PurePosixPath(path).parent), exist_ok=True)
            self._files.pipe_file(path, data)
        except OSError as error:
            raise cannot_write(f"registry {self.url}", error) from error
        return path

    def read_reports(self, name: str, newest: int) -> list[bytes]:
        """A file of the training reports, newest first, of the `newest` runs that left it."""
        with self._reading():
            if not self._files.exists(str(self._root / REPORTS)):
                return []
            paths = sorted(self._files.glob(str(self._root / REPORTS / "*" / name)), reverse=True)
            return [
                self._files.cat_file(path, start=0, end=FILE_BYTES_MAX) for path in paths[:newest]
            ]

    def check_writable(self) -> None:
        """Raise `ConfigurationError` unless a file can be written and removed again."""
        path = str(self._root / f".writable-{os.getpid()}")
        try:
            self._files.makedirs(str(self._root), exist_ok=True)
            self._files.pipe_file(path, b"")
            self._files.rm_file(path)
        except OSError as error:
            raise cannot_write(f"registry {self.url}", error) from error

    @property
    def directory(self) -> Path | None:
        """The registry's own directory, None where it is remote."""
        return self._local

    def _new_version(self, manifest: ModelManifest) -> str:
        version = _checked(manifest.model_version)
        if version in self.versions():
            raise ConfigurationError(f"registry {self.url} has version {version} already")
        return version

    def _put(self, version: str, files: Mapping[str, Path | bytes]) -> None:
        """The manifest is the last of the files."""
        try:
            if self._local is not None:
                _publish_locally(self._local / version, files)
                return
            for name, content in files.items():
                data = content if isinstance(content, bytes) else content.read_bytes()
                self._files.pipe_file(self._at(version, name), data)
        except OSError as error:
            raise cannot_write(f"registry {self.url}", error) from error

    def _make_whole_here(self, version: str, directory: Path) -> None:
        """All files of a version into a directory of the cache, which appears at once."""
        manifest = self.manifest(version)
        for name in manifest.files:
            if not is_file_name(name):
                raise BundleError(f"version {version} names the file {name[:80]!r}: refused")
        try:
            self._cache.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._remove_stale()
            with tempfile.TemporaryDirectory(dir=self._cache, prefix=_ARRIVING) as scratch:
                arriving = Path(scratch) / "bundle"
                arriving.mkdir()
                if manifest.delta is None:
                    for name in manifest.files:
                        (arriving / name).write_bytes(self._read(version, name))
                else:
                    self._apply(version, manifest, manifest.delta, arriving)
                (arriving / MANIFEST_FILE).write_bytes(self._read(version, MANIFEST_FILE))
                with contextlib.suppress(OSError):  # somebody else was faster
                    arriving.rename(directory)
            if manifest.delta is not None:
                self._forget_older(version)
        except FileNotFoundError as error:
            raise BundleError(
                f"version {version} in {self.url} is incomplete ({error}): publish it again"
            ) from error
        except OSError as error:
            raise cannot_write(self._cache, error) from error

    def _remove_stale(self) -> None:
        """What a killed process had half here."""
        for path in self._cache.glob(f"{_ARRIVING}*"):
            with contextlib.suppress(OSError):  # somebody else was faster
                if time.time() - path.stat().st_mtime > STALE_SECONDS:
                    shutil.rmtree(path, ignore_errors=True)

    def _apply(self, version: str, manifest: ModelManifest, delta: DeltaOf, into: Path) -> None:
        self._whole_manifest(delta.base, version)
        base, data = self.fetch(delta.base), self._read_delta(version, delta)

        def of_base(name: str) -> bytes:
            if not is_file_name(name) or not (base / name).exists():
                return b""
            return read_bounded(base / name)

        changed = dict(apply_delta(of_base, data))
        for name in manifest.files:
            (into / name).write_bytes(changed[name] if name in changed else of_base(name))

    def _files_of(
        self, version: str, manifest: ModelManifest, names: Collection[str]
    ) -> dict[str, bytes]:
        """Some of a version's files, in memory."""
        if manifest.delta is None:
            return {name: self._read(version, name) for name in names}
        base = manifest.delta.base
        files = self._files_of(base, self._whole_manifest(base, version), names)
        delta = self._read_delta(version, manifest.delta)
        return files | dict(apply_delta(lambda name: files.get(name, b""), delta, only=names))

    def _whole_manifest(self, base: str, version: str) -> ModelManifest:
        manifest = self.manifest(base)
        if manifest.delta is not None:
            raise BundleError(f"version {version} is a delta of {base}, which is one itself")
        return manifest

    def _read_delta(self, version: str, delta: DeltaOf) -> bytes:
        data = self._read(version, DELTA_FILE)
        if hashlib.sha256(data).hexdigest() != delta.sha256:
            raise BundleError(
                f"{DELTA_FILE} of version {version} does not have the SHA-256 of its manifest: promote "
                "another version, the next refresh makes a new one"
            )
        return data

    def _forget_older(self, version: str) -> None:
        """Refreshed models made whole here earlier; they can be made again."""
        made = sorted(path for path in self._cache.iterdir() if _VERSION.fullmatch(path.name))
        deltas = [path for path in made if path.name != version and _is_delta(path)]
        kept = 1 if self._cache_is_public else WHOLE_KEPT  # /tmp may be small
        for path in deltas[: max(len(deltas) + 1 - kept, 0)]:
            shutil.rmtree(path, ignore_errors=True)

    def _read(self, version: str, name: str) -> bytes:
        """Raises `FileNotFoundError` where it is not there."""
        if self._local is not None:
            return read_bounded(self._local / _checked(version) / name)
        with self._reading():
            data: bytes = self._files.cat_file(self._at(version, name), start=0, end=FILE_BYTES_MAX)
        return data

    def _at(self, version: str, name: str) -> str:
        return str(self._root / _checked(version) / name)

    def _unknown(self, version: str) -> BundleError:
        known = self.versions()
        there = f"it has {', '.join(known[-5:])}" if known else "it is empty"
        return BundleError(f"registry {self.url} has no version {version}: {there}")

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as error:
            raise ConfigurationError(
                f"registry {self.url} cannot be read: {error.strerror or error}.  Check the address and "
                "the permissions (--registry, NEXTCLICK_REGISTRY)"
            ) from error


def _require_ours(cache: Path) -> None:
    """In a directory that everybody writes to, somebody else may have been there first with his models."""
    try:
        found = cache.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise ConfigurationError(
            f"{cache}, where models of a remote registry are kept, is not ours alone: remove it, or set "
            "TMPDIR to a directory of your own"
        )


def _is_delta(directory: Path) -> bool:
    try:
        return read_manifest(directory).delta is not None
    except BundleError:
        return False


def _publish_locally(target: Path, files: Mapping[str, Path | bytes]) -> None:
    temporary = target.with_name(f".{target.name}.partial-{os.getpid()}")
    temporary.mkdir(parents=True)
    try:
        for name, content in files.items():
            with (temporary / name).open("xb") as new:
                if isinstance(content, bytes):
                    new.write(content)
                else:
                    with content.open("rb") as old:
                        shutil.copyfileobj(old, new)
                new.flush()
                os.fsync(new.fileno())
        fsync_directory(temporary)
        temporary.rename(target)
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    fsync_directory(target.parent)


def _checked(version: str) -> str:
    if not _VERSION.fullmatch(version) or version == REPORTS:
        raise BundleError(
            f"{version!r} is no model version; they look like 20261124T111132Z-3f2a "
            "(`nextclick models list` shows them)"
        )
    return version


def _protocols(files: Any) -> tuple[str, ...]:
    protocol = files.protocol
    return (protocol,) if isinstance(protocol, str) else tuple(protocol)
