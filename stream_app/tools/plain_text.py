"""Text that came from outside, made fit for a terminal."""

from datetime import UTC, datetime


def printable(text: str, width: int | None = None) -> str:
    """Without control characters (an item id must not steer the terminal), cut to `width`.

    >>> printable("tent\\x1b[2J", 7)
    'tent·[…'
    """
    clean = "".join(c if c.isprintable() else "·" for c in text)
    return clean if width is None or len(clean) <= width else clean[: width - 1] + "…"


def printable_lines(text: str) -> str:
    """`printable`, line by line.

    >>> printable_lines("no such file\\x1b[2J\\n  look")
    'no such file·[2J\\n  look'
    """
    return "\n".join(map(printable, text.split("\n")))


def moment(ms: int) -> str:
    """`2026-11-24 11:12:13.456 UTC`; a time that no calendar knows stays a number.

    >>> moment(2**62)
    '4611686018427387904 ms'
    """
    try:
        when = datetime.fromtimestamp(ms / 1000, tz=UTC)
    except (OverflowError, ValueError, OSError):
        return f"{ms} ms"
    return f"{when:%Y-%m-%d %H:%M:%S}.{ms % 1000:03} UTC"
