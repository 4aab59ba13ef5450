"""A directory that several processes share, in which each holds a numbered place of its own."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from stream_app.core.errors import ConfigurationError

PLACES_MAX: Final = 1_000


@contextmanager
def own_place(shared: Path) -> Iterator[Path]:
    """The first of `shared/0`, `shared/1`, ... that no living process holds; made if need be.

    Held by a lock that ends with the process, however it ends, so whoever comes back finds its place, or
    that of another who is gone, with all that was left in it.  `shared` must be on this machine: locks
    on network file systems are not to be relied on.  Raises `ConfigurationError` if it cannot be written.
    """
    try:
        shared.mkdir(parents=True, exist_ok=True, mode=0o700)
        place, lock = _take(shared)
    except OSError as error:
        raise ConfigurationError(
            f"shared_data_dir {shared} cannot be used ({error.strerror or error}): make it a directory "
            "that this user may write to"
        ) from error
    try:
        yield place
    finally:
        os.close(lock)


def _take(shared: Path) -> tuple[Path, int]:
    for number in range(PLACES_MAX):
        place = shared / str(number)
        place.mkdir(exist_ok=True, mode=0o700)
        lock = os.open(place / "held", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
        except BaseException:
            os.close(lock)
            raise
        else:
            return place, lock
    raise ConfigurationError(
        f"shared_data_dir {shared}: {PLACES_MAX:,} processes hold a place there already"
    )
