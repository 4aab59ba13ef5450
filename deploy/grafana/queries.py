"""Pieces of PromQL that panels are put together from.

Every selector is narrowed by the dashboard's variables `job` and `instance`.  Counters are looked at over
`$__rate_interval` where what counts is the moment, and over `$window`, which the reader chooses, where a
share needs many clicks to mean anything.
"""

from typing import Final

CHOSEN: Final = 'job=~"$job",instance=~"$instance"'
MOMENT: Final = "$__rate_interval"
WINDOW: Final = "$window"


def series(metric: str, labels: str = "") -> str:
    """The series of a metric of the chosen processes.  labels: more matchers, as in PromQL."""
    return f"{metric}{{{','.join(filter(None, (labels, CHOSEN)))}}}"


def rate(metric: str, labels: str = "", *, over: str = MOMENT) -> str:
    """Per second."""
    return f"rate({series(metric, labels)}[{over}])"


def grown(metric: str, labels: str = "", *, over: str = WINDOW) -> str:
    """How much a counter grew in the window."""
    return f"increase({series(metric, labels)}[{over}])"


def total(what: str, *by: str) -> str:
    """Summed over the chosen processes, by labels."""
    return f"sum by ({', '.join(by)}) ({what})" if by else f"sum({what})"


def largest(what: str, *by: str) -> str:
    return f"max by ({', '.join(by)}) ({what})" if by else f"max({what})"


def share(part: str, whole: str) -> str:
    """`part` of `whole`, where there is any: no point is drawn rather than 0/0."""
    return f"{part} / ({whole} > 0)"


def share_of_many(part: str, whole: str, *, at_least: int) -> str:
    """`part` of `whole`, where that is enough for the share to say something."""
    return f"{part} / ({whole} >= {at_least})"


def share_of_all(parts: str, whole: str) -> str:
    """Each of `parts`, which have labels, of `whole`, which has none."""
    return f"{parts} / on () group_left () ({whole} > 0)"


def quantile(q: float, histogram: str, *by: str, labels: str = "", over: str = MOMENT) -> str:
    """Of a histogram, by labels; as exact as its buckets are narrow.  labels: see `series`."""
    counts = total(rate(f"{histogram}_bucket", labels, over=over), "le", *by)
    return f"histogram_quantile({q:g}, {counts})"


def mean(histogram: str, *by: str, over: str = MOMENT) -> str:
    """Of a histogram, by labels."""
    return share(
        total(rate(f"{histogram}_sum", over=over), *by),
        total(rate(f"{histogram}_count", over=over), *by),
    )
