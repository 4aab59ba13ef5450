"""The JSON that commands write beside what they print (`--report FILE`)."""

import os
from pathlib import Path
from typing import Any

import msgspec

from stream_app.core.errors import ConfigurationError


def write_report(path: Path, content: Any) -> None:
    """Replace the file in one step, so that a reader never sees half of it.

    content: anything msgspec encodes.  Raises `ConfigurationError` if it cannot be written.
    """
    data = msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n"
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        raise ConfigurationError(
            f"--report {path} cannot be written ({error.strerror or error}): name another file"
        ) from error
