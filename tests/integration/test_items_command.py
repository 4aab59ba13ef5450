"""`nextclick items` on a real broker."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from stream_app.cli.items import items
from stream_app.core.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

    from stream_app.settings import TopicSettings
    from tests.integration.conftest import TestKafka


@pytest.fixture
def flags(kafka: TestKafka, topics: TopicSettings) -> list[str]:
    return [
        *("--kafka-bootstrap-servers", kafka.bootstrap_servers),
        *("--set", f"topics.items={topics.items}"),
    ]


def called(*arguments: str) -> str:
    return CliRunner().invoke(items, list(arguments), catch_exceptions=False).output


def test_a_catalogue_is_published_shown_and_withdrawn(flags: list[str], tmp_path: Path) -> None:
    file = tmp_path / "items.jsonl"
    file.write_text(
        '{"item_id": "sku-1", "title": "Rain jacket", "category": "Clothing > Jackets", "price": 59.9,'
        ' "attributes": {"colour": ["red", "sand"]}}\n\n{"item_id": 2, "title": "Tent"}\n'
    )
    assert "2 items described" in called("publish", str(file), *flags)
    shown = called("show", "sku-1", *flags)
    assert "title      Rain jacket" in shown
    assert "category   Clothing > Jackets" in shown
    assert "price      59.9" in shown
    assert "colour     red" in shown
    assert "1 item withdrawn" in called("withdraw", "2", *flags)
    assert "1 item described" in called("show", *flags)
    with pytest.raises(ConfigurationError, match="nothing is said of 2"):
        called("show", "2", *flags)


def test_a_bad_line_is_named_and_nothing_is_sent(flags: list[str], tmp_path: Path) -> None:
    file = tmp_path / "items.jsonl"
    file.write_text('{"item_id": "a"}\n{"item_id": "b", "price": "cheap"}\n')
    with pytest.raises(ConfigurationError, match=r"line 2: price 'cheap'.*BadPrice"):
        called("publish", str(file), *flags)
    assert "0 items described" in called("show", *flags)
