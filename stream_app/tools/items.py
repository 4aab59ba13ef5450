"""`nextclick items`: a catalogue from a file into the items topic, and what the topic says of an item."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from stream_app.adapters.item_topic import DescribedItem, ItemCatalogue, Refusal, publish_items
from stream_app.core.errors import BadRecordError, ConfigurationError
from stream_app.core.item_attributes import VALUE_BYTES_MAX, ItemAttributes, decode_item
from stream_app.core.records import ItemId
from stream_app.settings import Settings


def read_item_file(file: Path) -> Iterator[ItemAttributes]:
    """The items of a file of JSON lines.

    Raises `ConfigurationError` naming file and line for the first that cannot be read.
    """
    try:
        with file.open("rb") as stream:
            number = 0
            # A line that never ends is not read whole.
            while line := stream.readline(VALUE_BYTES_MAX + 2):
                number += 1
                if not line.strip():
                    continue
                try:
                    yield decode_item(None, line.rstrip(b"\r\n"))
                except BadRecordError as error:
                    raise ConfigurationError(
                        f"{file}, line {number}: {error} ({error.kind})"
                    ) from error
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be read: {error.strerror or error}") from error


def publish_file(settings: Settings, file: Path) -> int:
    """Describe every item of the file; returns how many.  All lines are read before the first is sent.

    Raises `ConfigurationError`, `ServiceAwayError`.
    """
    for _ in read_item_file(file):
        pass
    return publish_items(settings.kafka, settings.topics.items, read_item_file(file))


class Known(NamedTuple):
    """What the topic says."""

    items: dict[ItemId, DescribedItem]
    refusals: int
    newest_refusals: list[Refusal]


def read_topic(settings: Settings) -> Known:
    """Raises `ConfigurationError` without the topic, `ServiceAwayError` without a broker."""
    with closing(ItemCatalogue(settings.kafka, settings.topics.items)) as catalogue:
        return Known(dict(catalogue.look()), catalogue.refusals, catalogue.newest_refusals)
