"""`nextclick items`: what the shop says of its items, so that new ones can be recommended unclicked."""

from collections.abc import Iterator
from pathlib import Path

import click

from stream_app.adapters.item_topic import DescribedItem, publish_items
from stream_app.cli.options import with_settings
from stream_app.core.errors import ConfigurationError
from stream_app.core.records import ItemId
from stream_app.settings import Settings
from stream_app.tools import items as tools
from stream_app.tools.plain_text import moment, printable


@click.group()
def items() -> None:
    """Describe items, so that those nobody has clicked yet can be recommended.

    \b
    Example:
      nextclick items publish catalogue.jsonl
      nextclick items show sku-4711
    """


@items.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@with_settings("kafka.bootstrap_servers")
def publish(settings: Settings, file: Path) -> None:
    """Send a catalogue to the items topic: JSON lines with item_id and title, category, price, attributes.

    Sending it again changes nothing.  A line that cannot be read stops it before anything is sent.

    \b
    Example:
      echo '{"item_id": "sku-1", "title": "Rain jacket, red", "category": "Clothing > Jackets"}' > new.jsonl
      nextclick items publish new.jsonl
    """
    count = tools.publish_file(settings, file)
    click.echo(f"{_items(count)} described in {settings.topics.items}")


@items.command()
@click.argument("item_ids", nargs=-1, required=True)
@with_settings("kafka.bootstrap_servers")
def withdraw(settings: Settings, item_ids: tuple[str, ...]) -> None:
    """Take back what was said of items: a full training leaves those out that nobody clicked.

    \b
    Example:
      nextclick items withdraw sku-4711 sku-4712
    """
    gone = [ItemId(item_id) for item_id in item_ids]
    publish_items(settings.kafka, settings.topics.items, (), withdrawn=gone)
    click.echo(f"{_items(len(gone))} withdrawn from {settings.topics.items}")


@items.command()
@click.argument("item_id", required=False)
@with_settings("kafka.bootstrap_servers")
def show(settings: Settings, item_id: str | None) -> None:
    """Say what the topic says of ITEM_ID; without one, how many items it describes and what it refuses.

    \b
    Example:
      nextclick items show sku-4711
      nextclick items show
    """
    known = tools.read_topic(settings)
    if item_id is not None:
        found = known.items.get(ItemId(item_id))
        if found is None:
            raise ConfigurationError(
                f"nothing is said of {printable(item_id)} in {settings.topics.items}, which describes "
                f"{len(known.items):,} items: `nextclick items publish FILE` sends a catalogue"
            )
        for line in _described(found):
            click.echo(line)
        return
    click.echo(f"{_items(len(known.items))} described in {settings.topics.items}")
    if known.refusals:
        click.echo(f"{known.refusals:,} records cannot be read; the newest:")
        for refusal in known.newest_refusals:
            click.echo(
                f"  partition {refusal.partition}, offset {refusal.offset}: "
                f"{printable(refusal.message)} ({refusal.kind})"
            )


def _items(count: int) -> str:
    return f"{count:,} item{'s' if count != 1 else ''}"


def _described(found: DescribedItem) -> Iterator[str]:
    item = found.attributes
    yield f"item       {printable(item.item_id)}"
    yield f"described  {moment(found.told_ms)}"
    yield f"title      {printable(item.title) or 'none'}"
    yield f"category   {printable(' > '.join(item.category)) or 'none'}"
    if item.price is not None:
        yield f"price      {item.price:g}"
    for name, value in item.attributes:
        yield f"{printable(name):<10} {printable(str(value))}"
