"""Text that came from outside, made fit for a terminal."""

from datetime import UTC, datetime


def printable(text: str, width: int | None = None) -> str:
    """Without control characters (an item id must not steer the terminal), cut to `width`.

    >>> printable("tent\\x1b[2J", 7)
    'tent·[…'
    """
    clean = "".join(c if c.isprintable() else "·" for c in text)
    return clean if width is None or len(clean) <= width else clean[: width - 1] + "…"


def moment(ms: int) -> str:
    """`2026-11-24 11:12:13.456 UTC`"""
    when = datetime.fromtimestamp(ms / 1000, tz=UTC)
    return f"{when:%Y-%m-%d %H:%M:%S}.{ms % 1000:03} UTC"
