"""What kinds of click files there are, how one is told from another, and which column is which."""

import csv
import gzip
import io
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Literal, cast, get_args

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from stream_app.core.errors import ClickFileError, ConfigurationError
from stream_app.core.records import UNREADABLE

ClickFormat = Literal[
    "jsonl", "csv", "tsv", "parquet", "retailrocket", "yoochoose", "diginetica", "otto", "sequences"
]
FORMATS: Final[tuple[ClickFormat, ...]] = get_args(ClickFormat)

HEAD_BYTES: Final = 1 << 16
_GZIP_MAGIC: Final = b"\x1f\x8b"
_UTF16_MARKS: Final = (b"\xff\xfe", b"\xfe\xff")
_YOOCHOOSE_LINE: Final = re.compile(r"\d+,\d{4}-\d\d-\d\dT[\d:.]+Z,\d+,[^,]*(,[^,]*)?")

TARGETS: Final = (
    "session_id",
    "visitor_id",
    "item_id",
    "event_time",
    "event_type",
    "event_id",
    "user_id",
)
"""What a column can be mapped to."""

_AUTOMATIC: Final[dict[str, tuple[str, ...]]] = {
    # Compared in lower case without "_", "-" and " "; the first that the file has is taken.
    # Logs that know visitors or users only are keyed by them: the idle gap splits sessions later.
    "session_id": ("sessionid", "usersession", "session", "visitorid", "visitor", "userid", "user"),
    "item_id": ("itemid", "item", "productid", "product", "articleid", "aid", "sku"),
    "event_time": ("eventtimems", "eventtime", "timestampms", "timestamp", "time", "ts"),
    "event_type": ("eventtype", "event", "type", "action"),
    "event_id": ("eventid",),
    "user_id": ("userid", "user"),
}
_REQUIRED: Final = ("session_id", "item_id", "event_time")


@dataclass(frozen=True, slots=True)
class ColumnPlan:
    """Which column of a file holds what; None: the file has none."""

    session_id: str
    item_id: str
    event_time: str
    event_type: str | None = None
    event_id: str | None = None
    user_id: str | None = None

    def names(self) -> list[str]:
        """Columns to read, each once."""
        wanted = (getattr(self, target) for target in self.__dataclass_fields__)
        return list(dict.fromkeys(name for name in wanted if name is not None))


def file_error(
    path: Path, what: str, *, line: int | None = None, column: str | None = None, unit: str = "line"
) -> ClickFileError:
    """line: from 1 (for Parquet, the row: `unit`)."""
    where = str(path)
    if line is not None:
        where += f", {unit} {line}"
    if column is not None:
        where += f", column {column}"
    return ClickFileError(f"{where}: {what}")


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what the operating system and gzip say of a file into `ClickFileError`."""
    try:
        yield
    except FileNotFoundError as error:
        raise file_error(path, "there is no such file: check the path") from error
    except IsADirectoryError as error:
        raise file_error(path, "is a directory: name one file in it") from error
    except PermissionError as error:
        raise file_error(path, "may not be read by this user: check its permissions") from error
    except EOFError as error:
        raise file_error(path, "the compressed data ends early: copy the file again") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise file_error(path, f"is damaged gzip: {error}; copy the file again") from error
    except OSError as error:
        raise file_error(path, f"cannot be read: {error.strerror or error}") from error
    except pa.ArrowException as error:
        raise file_error(path, f"is damaged: {error}; copy it again") from error


def open_bytes(path: Path) -> BinaryIO:
    """The file's bytes, unpacked where it is gzip (told by its first bytes, not by its name)."""
    raw = path.open("rb")
    magic = raw.read(2)
    raw.seek(0)
    if magic == _GZIP_MAGIC:
        return cast(BinaryIO, io.BufferedReader(_ClosingGzip(raw), 1 << 18))
    return raw


class _ClosingGzip(gzip.GzipFile):
    """A gzip reader that also closes the file below it."""

    def __init__(self, raw: BinaryIO) -> None:
        self._raw = raw
        super().__init__(fileobj=raw, mode="rb")

    def close(self) -> None:
        super().close()
        self._raw.close()


def first_line(path: Path) -> str:
    """The first line as text, without its end.  Raises for an empty file and for what is no UTF-8."""
    with reading(path), open_bytes(path) as stream:
        head = stream.read(HEAD_BYTES)
    if not head.strip():
        raise file_error(path, "is empty")
    if head[:2] in _UTF16_MARKS:
        raise file_error(path, "is UTF-16: save it as UTF-8", line=1)
    line = head.removeprefix(b"\xef\xbb\xbf").splitlines()[0]
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        if len(line) >= HEAD_BYTES - 4:  # a very long line may be cut within a character
            return line.decode("utf-8", "ignore")
        raise file_error(
            path, f"byte {error.start + 1} is not UTF-8: save the file as UTF-8", line=1
        ) from error


def is_parquet(path: Path) -> bool:
    with reading(path), path.open("rb") as stream:
        return stream.read(4) == b"PAR1"


def parquet_names(path: Path) -> list[str]:
    with reading(path):
        return list(open_parquet(path).schema_arrow.names)


def open_parquet(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except OSError:
        raise
    except Exception as error:  # Arrow raises several unrelated types for bad bytes
        raise file_error(path, f"is damaged or cut-off Parquet ({error}): copy it again") from error


def detect_format(path: str | Path) -> ClickFormat:
    """Tell the format by the first bytes of the file, never by its name; gzip is looked into.

    Raises `ClickFileError` where the file is missing, empty, not UTF-8 or like no known format.
    """
    path = Path(path)
    if is_parquet(path):
        names = {_plain(name) for name in parquet_names(path)}
        return "sequences" if _is_sequence_header(names) else "parquet"
    line = first_line(path)
    if line.lstrip().startswith("["):
        raise file_error(path, "is one JSON array: write one JSON object a line instead", line=1)
    if line.lstrip().startswith("{"):
        return "otto" if _is_otto(line) else "jsonl"
    if _YOOCHOOSE_LINE.fullmatch(line):
        return "yoochoose"
    names = {_plain(name) for name in split_header(line)}
    if {"sessionid", "itemid", "timeframe", "eventdate"} <= names:
        return "diginetica"
    if {"timestamp", "visitorid", "event", "itemid"} <= names:
        return "retailrocket"
    if len(names) < 2:
        raise file_error(
            path,
            f"is like none of the known formats ({', '.join(FORMATS)}): it begins with {line[:60]!r}",
            line=1,
        )
    return "tsv" if delimiter_of(line) == "\t" else "csv"


def is_sequences(path: str | Path) -> bool:
    """Whether the file is a benchmark of ordered sessions without a clock."""
    path = Path(path)
    return is_parquet(path) and detect_format(path) == "sequences"


def known_format(path: Path, named: str | None) -> ClickFormat:
    """The format somebody named, or the one the file shows."""
    if named is None:
        return detect_format(path)
    if named not in FORMATS:
        raise ClickFileError(f"unknown format {named!r}: write one of {', '.join(FORMATS)}")
    if (named in ("parquet", "sequences")) != is_parquet(path):
        raise file_error(
            path, f"is no {named}: leave the format out, or name {detect_format(path)}"
        )
    return named


def delimiter_of(line: str) -> str:
    """The separator that the header holds most of."""
    return max("\t;|,", key=line.count)


def split_header(line: str) -> list[str]:
    return [name.strip() for name in next(csv.reader([line], delimiter=delimiter_of(line)))]


def parse_columns(text: str | None) -> dict[str, str]:
    """A column mapping as users write it; empty for None and "".  Raises `ConfigurationError`.

    >>> parse_columns("session_id=visitor, item_id=sku")
    {'session_id': 'visitor', 'item_id': 'sku'}
    """
    mapping = {}
    for part in text.split(",") if text else ():
        target, equals, name = (word.strip() for word in part.partition("="))
        if not (equals and target and name):
            raise ConfigurationError(
                f"--columns {part.strip()!r}: write OURS=COLUMN pairs, e.g. "
                "session_id=visitor,item_id=sku,event_time=ts"
            )
        mapping[target] = name
    return mapping


def plan_columns(path: Path, names: Sequence[str], mapping: Mapping[str, str] | None) -> ColumnPlan:
    """Which column is which: as `mapping` says (target -> column), else by its name.

    Raises `ClickFileError` that names the columns there are.
    """
    there = f"; the file has the columns {', '.join(names)}"
    chosen: dict[str, str] = {}
    for target, name in (mapping or {}).items():
        if target not in TARGETS:
            raise ClickFileError(
                f"a column cannot be mapped to {target!r}: write one of {', '.join(TARGETS)}, "
                "e.g. session_id=visitor,item_id=sku,event_time=ts"
            )
        if name not in names:
            raise file_error(path, f"there is no column {name!r} to take {target} from{there}")
        chosen["session_id" if target == "visitor_id" else target] = name
    by_plain_name = {_plain(name): name for name in reversed(names)}
    for target, candidates in _AUTOMATIC.items():
        found = [by_plain_name[name] for name in candidates if name in by_plain_name]
        if found:
            chosen.setdefault(target, found[0])
    missing = [target for target in _REQUIRED if target not in chosen]
    if missing:
        example = ",".join(f"{target}=COLUMN" for target in missing)
        raise file_error(
            path, f"no column is called like {' or '.join(missing)}: say which is, {example}{there}"
        )
    return ColumnPlan(**chosen)


def _plain(name: str) -> str:
    return re.sub(r"[ _-]", "", name).lower()


def _is_sequence_header(plain_names: set[str]) -> bool:
    times = set(_AUTOMATIC["event_time"])
    return {"sessionid", "itemid", "position"} <= plain_names and not times & plain_names


def _is_otto(line: str) -> bool:
    if re.match(r'\s*\{\s*"session"\s*:\s*\d+\s*,\s*"events"\s*:', line):
        return True
    try:
        first = msgspec.json.decode(line)
    except UNREADABLE:
        return False
    return isinstance(first, dict) and "events" in first and "session" in first
