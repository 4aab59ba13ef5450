"""A worker with everything on: two stages, past sessions and statistics, beside the same worker with the model alone."""

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median
from typing import Final

from tests.benchmarks.bed import Bed
from tests.benchmarks.figures import Figure, median_figure
from tests.benchmarks.limits import Limits
from tests.benchmarks.runs import BacklogRun, LoadRun, run_backlog, run_loads

COUNTED: Final = 50_000
"""Clicks that the statistics know."""
CLICKS: Final = 30_000


@dataclass(frozen=True)
class _Measured:
    backlogs: list[BacklogRun]
    loads: dict[int, list[LoadRun]]


def figures(bed: Bed, _: Limits) -> Iterator[Figure]:
    """One worker; the second figure of a pair is the model alone, in the same run."""
    alone, both = (_measured(bed, ranked=ranked) for ranked in (False, True))
    name = f"everything on, {bed.n_items:,} items"
    yield median_figure(
        f"{name}: backlog",
        [run.clicks_per_second for run in both.backlogs],
        "clicks/s",
        None,
        median(run.clicks_per_second for run in alone.backlogs),
    )
    yield median_figure(
        f"{name}: CPU of the worker",
        [run.cpu_us for run in both.backlogs],
        "us/click",
        None,
        median(run.cpu_us for run in alone.backlogs),
    )
    for rate, runs in both.loads.items():
        for percent in (50.0, 99.0):
            yield median_figure(
                f"{name}: latency at {rate}/s, p{percent:g}",
                [run.ms[percent] for run in runs],
                "ms",
                None,
                median(run.ms[percent] for run in alone.loads[rate]),
            )


def _measured(bed: Bed, *, ranked: bool) -> _Measured:
    bundle = bed.bundle(bed.n_items, ranked=ranked)
    with (
        bed.stream(bed.n_items, bundle, warm_up_clicks=COUNTED) as stream,
        stream.worker() as worker,
    ):
        backlogs = [run_backlog(stream, worker, bed.clicks(CLICKS)) for _ in range(bed.repeats)]
        return _Measured(backlogs, run_loads(stream, worker))
