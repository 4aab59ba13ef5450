"""An answer from the topic, in the form in which people look at it."""

from collections.abc import Callable
from typing import Final

import msgspec

from stream_app.core.records import Recommendation
from stream_app.gateway.records import NamedItem, ShownAnswer

_decode: Final = msgspec.json.Decoder(Recommendation).decode


def shown_answer(
    raw: bytes, title_of: Callable[[str], str | None], items_max: int | None = None
) -> ShownAnswer | None:
    """The first `items_max` items with their names; None for bytes that are no answer after all."""
    try:
        answer = _decode(raw)
    except msgspec.DecodeError:
        return None
    return ShownAnswer(
        model_version=answer.model_version,
        fallback=answer.fallback,
        latency_ms=answer.latency_ms,
        items=[NamedItem(i.item_id, title_of(i.item_id)) for i in answer.items[:items_max]],
    )
