"""RocksDB in memory: what was written survives its process, unless the disk is lost."""

from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

from stream_app.adapters import rocksdb_sessions


class MemoryBatch:
    """Twin of `rocksdict.WriteBatch`: writes of one step, all or none."""

    def __init__(self, raw_mode: bool = True) -> None:
        self.steps: list[tuple[str, bytes, bytes]] = []

    def put(self, key: bytes, value: bytes) -> None:
        self.steps.append(("put", key, value))

    def delete(self, key: bytes) -> None:
        self.steps.append(("delete", key, b""))

    def delete_range(self, start: bytes, end: bytes) -> None:
        self.steps.append(("delete_range", start, end))


class MemoryDisk:
    """Twin of `RocksDisk`.  Directories with the same name are the same disk."""

    quarantined = None
    contents: dict[str, dict[bytes, bytes]] = {}  # noqa: RUF012 - emptied by `memory_disks`

    def __init__(self, directory: Path) -> None:
        self._content = self.contents.setdefault(str(directory), {})

    def get(self, key: bytes) -> bytes | None:
        return self._content.get(key)

    def get_many(self, keys: list[bytes]) -> list[bytes | None]:
        return [self._content.get(key) for key in keys]

    def write(self, batch: MemoryBatch) -> None:
        content = self._content
        for step, key, value in batch.steps:
            if step == "put":
                content[key] = value
            elif step == "delete":
                content.pop(key, None)
            else:
                for other in [k for k in content if key <= k < value]:
                    del content[other]

    def entries(self, start: bytes, prefix: bytes, n: int) -> list[tuple[bytes, bytes]]:
        keys = sorted(self._content)
        at = bisect_left(keys, start)
        return [(k, self._content[k]) for k in keys[at : at + n] if k.startswith(prefix)]

    def close(self) -> None:
        """Nothing is held."""


@contextmanager
def memory_disks() -> Iterator[None]:
    """Within it `RocksSessions` stores in memory; the disks are gone afterwards."""
    with (
        patch.object(rocksdb_sessions, "RocksDisk", MemoryDisk),
        patch.object(rocksdb_sessions, "Batch", MemoryBatch),
    ):
        MemoryDisk.contents.clear()
        try:
            yield
        finally:
            MemoryDisk.contents.clear()
