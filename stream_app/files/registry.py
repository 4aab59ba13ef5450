"""The registry: a directory (or a URL of an object store) of model bundles, one directory a version.

A version is there once its manifest is.  Local directories are published by one rename; elsewhere
the manifest is uploaded last and removed first.  Which version is *live* is not said here, but on
the releases topic.
"""

import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, Final

import fsspec

from stream_app.core.errors import BundleError, ConfigurationError
from stream_app.core.manifest import MANIFEST_FILE, ModelManifest
from stream_app.files.bundle import (
    Bundle,
    cannot_write,
    fsync_directory,
    is_file_name,
    open_bundle,
    read_manifest,
)
from stream_app.files.bundle_limits import FILE_BYTES_MAX

REPORTS: Final = "reports"
"""Directory of the training reports inside a registry; no version may be called so."""

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
        """A version, on this machine, every file verified.  Raises `BundleError`."""
        if self._local is not None:
            self.manifest(version)
            return open_bundle(self._local / version)
        directory = self._cache / _checked(version)
        if self._cache_is_public:
            _require_ours(self._cache)
        if directory.exists():
            try:
                return open_bundle(directory)
            except BundleError:  # the cache is damaged: fetch it again
                shutil.rmtree(directory)
        self._download(version, directory)
        return open_bundle(directory)

    def fetch(self, version: str) -> Path:
        """Directory of a version on this machine, verified; downloaded where the registry is remote."""
        return self.open(version).directory

    def publish(self, bundle_directory: Path) -> str:
        """Verify a bundle and make it a version; only the files its manifest names are taken.

        Raises `BundleError` if it fails a check, `ConfigurationError` if the registry cannot be written
        to or has the version already.
        """
        bundle = open_bundle(bundle_directory)
        version = _checked(bundle.manifest.model_version)
        if version in self.versions():
            raise ConfigurationError(f"registry {self.url} has version {version} already")
        names = (*sorted(bundle.manifest.files), MANIFEST_FILE)
        try:
            if self._local is not None:
                _publish_locally(bundle_directory, self._local / version, names)
            else:
                for name in names:  # the manifest last
                    self._files.pipe_file(
                        self._at(version, name), (bundle_directory / name).read_bytes()
                    )
        except OSError as error:
            raise cannot_write(f"registry {self.url}", error) from error
        return version

    def delete(self, version: str) -> None:
        """Remove a version; that it is not the live one is the caller's business."""
        if version not in self.versions():
            raise self._unknown(version)
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

    def _download(self, version: str, directory: Path) -> None:
        manifest = self.manifest(version)
        try:
            self._cache.mkdir(parents=True, exist_ok=True, mode=0o700)
            with tempfile.TemporaryDirectory(dir=self._cache, prefix=".download-") as scratch:
                arriving = Path(scratch) / "bundle"
                arriving.mkdir()
                for name in (*manifest.files, MANIFEST_FILE):
                    if not is_file_name(name):
                        raise BundleError(
                            f"version {version} names the file {name[:80]!r}: refused"
                        )
                    with self._reading():
                        data = self._files.cat_file(
                            self._at(version, name), start=0, end=FILE_BYTES_MAX
                        )
                    (arriving / name).write_bytes(data)
                arriving.rename(directory)
        except FileNotFoundError as error:
            raise BundleError(
                f"version {version} in {self.url} is incomplete ({error}): publish it again"
            ) from error
        except OSError as error:
            raise cannot_write(self._cache, error) from error

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


def _publish_locally(source: Path, target: Path, names: tuple[str, ...]) -> None:
    temporary = target.with_name(f".{target.name}.partial-{os.getpid()}")
    temporary.mkdir(parents=True)
    try:
        for name in names:
            with (source / name).open("rb") as old, (temporary / name).open("xb") as new:
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
