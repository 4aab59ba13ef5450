"""Ways to damage a RocksDB directory, as disks and careless hands do."""

import os
from collections.abc import Callable
from pathlib import Path


def a_file(directory: Path, pattern: str) -> Path:
    """The largest that matches."""
    return max(directory.glob(pattern), key=lambda path: path.stat().st_size)


def flip_bytes(file: Path, *, at: float, n: int = 16) -> None:
    """Invert some bytes.  at: where, as a share of the file."""
    content = bytearray(file.read_bytes())
    start = min(int(len(content) * at), len(content) - n)
    content[start : start + n] = bytes(byte ^ 0xFF for byte in content[start : start + n])
    file.write_bytes(content)


def truncate(file: Path, size: int) -> None:
    os.truncate(file, size)


def name_nothing(file: Path) -> None:
    file.write_text("MANIFEST-999999\n")


DAMAGE: dict[str, Callable[[Path], None]] = {
    "the end of a table file is garbled": lambda d: flip_bytes(a_file(d, "*.sst"), at=1.0),
    "a table file is cut off": lambda d: truncate(a_file(d, "*.sst"), 1_000),
    "a table file is missing": lambda d: a_file(d, "*.sst").unlink(),
    "the manifest is garbled": lambda d: flip_bytes(a_file(d, "MANIFEST-*"), at=0.1),
    "the manifest is cut off": lambda d: truncate(a_file(d, "MANIFEST-*"), 20),
    "the manifest is missing": lambda d: a_file(d, "MANIFEST-*").unlink(),
    "CURRENT is empty": lambda d: truncate(d / "CURRENT", 0),
    "CURRENT names nothing": lambda d: name_nothing(d / "CURRENT"),
}
"""All of these show when the directory is opened."""
