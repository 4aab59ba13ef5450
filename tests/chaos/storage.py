"""A worker's disk, small enough to fill."""

import contextlib
import os
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Final, Self

MEGABYTE: Final = 2**20


class SmallDisk:
    """A file system in memory of a few megabytes.  A context manager; needs root."""

    def __init__(self, directory: Path, *, megabytes: int) -> None:
        self.directory, self._megabytes = directory, megabytes

    def __enter__(self) -> Self:
        self.directory.mkdir(parents=True)
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={self._megabytes}m", "tmpfs", self.directory],
            check=True,
            capture_output=True,
        )
        return self

    def __exit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        subprocess.run(["umount", "-l", self.directory], check=True, capture_output=True)

    @property
    def _filler(self) -> Path:
        return self.directory / "in-the-way"

    def fill(self) -> None:
        """Take what is free, to the last page, though others take of it too."""
        with self._filler.open("ab", buffering=0) as file:
            for size in (MEGABYTE, 4096):
                with contextlib.suppress(OSError):
                    while True:
                        file.write(bytes(size))

    def make_room(self) -> None:
        self._filler.unlink()

    @staticmethod
    def why_not(scratch: Path) -> str:
        """Why there can be none here, "" where there can."""
        if os.geteuid() != 0:
            return "mounting a small disk needs root"
        try:
            with SmallDisk(scratch / "probe", megabytes=1):
                return ""
        except (OSError, subprocess.CalledProcessError) as error:
            return f"a small disk cannot be mounted: {error}"
