"""From the moment a click was due to the receipt of its answer, and what a batch costs on the way."""

from collections.abc import Iterator
from statistics import median
from typing import Final

from tests.benchmarks.bed import Bed
from tests.benchmarks.figures import Figure, median_figure
from tests.benchmarks.limits import Limits
from tests.benchmarks.runs import LoadRun, run_loads

GOALS_MS: Final = {200: 5.0, 1_000: 10.0}
"""p99 by clicks/s, 10,000 items."""
TIMES_BARE_GOAL: Final = 2.0
BATCH_CPU_GOAL_MS: Final = 1.0
LARGE: Final = 50_000


def figures(bed: Bed, limits: Limits) -> Iterator[Figure]:
    """Everything on this machine, wherever the system puts it; no aggregator runs beside it."""
    with bed.stream(bed.n_items, bed.bundle(bed.n_items)) as stream, stream.worker() as worker:
        loads = run_loads(stream, worker)
    for rate, runs in loads.items():
        bare = limits.bare_loads[rate]
        yield from _percentiles(bed.n_items, rate, runs, bare, GOALS_MS[rate])
        name = f"p99 at {rate}/s, {bed.n_items:,} items, in times of the bare path's"
        goal = TIMES_BARE_GOAL if rate == max(loads) else None
        times = median(run.ms[99.0] for run in runs) / median(run.ms[99.0] for run in bare)
        yield Figure(name, times, "times", goal)
        yield median_figure(
            f"CPU of a batch at {rate}/s",
            [run.batch_cpu_ms for run in runs],
            "ms",
            BATCH_CPU_GOAL_MS if rate == min(loads) else None,
            median(run.batch_cpu_ms for run in bare),
            note=f"{median(run.clicks_per_batch for run in runs):.1f} clicks in a batch",
        )
    if not bed.short:
        with bed.stream(LARGE, bed.bundle(LARGE)) as stream, stream.worker() as worker:
            runs = run_loads(stream, worker, rates=(1_000,))[1_000]
        yield from _percentiles(LARGE, 1_000, runs, limits.bare_loads[1_000], None)


def _percentiles(
    n_items: int, rate: int, runs: list[LoadRun], bare: list[LoadRun], p99_goal: float | None
) -> Iterator[Figure]:
    for percent in runs[0].ms:
        yield median_figure(
            f"latency at {rate}/s, {n_items:,} items, p{percent:g}",
            [run.ms[percent] for run in runs],
            "ms",
            p99_goal if percent == 99.0 else None,
            median(run.ms[percent] for run in bare),
        )
