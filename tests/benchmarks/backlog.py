"""Clicks that wait: how many a worker answers per second, and what one costs it."""

from collections.abc import Iterator
from typing import Final

from stream_app.core.manifest import ModelManifest
from stream_app.files.bundle import open_bundle
from tests.benchmarks.bed import Bed
from tests.benchmarks.figures import Figure, median_figure
from tests.benchmarks.limits import Limits
from tests.benchmarks.runs import run_backlog

GOALS: Final = {10_000: 20_000, 50_000: 9_000, 200_000: 4_000}
CLICKS: Final = {10_000: 100_000, 50_000: 50_000, 200_000: 20_000}
RECALL_GOAL: Final = 0.999


def figures(bed: Bed, limits: Limits) -> Iterator[Figure]:
    """One worker on one core, by catalogue."""
    for n_items in bed.catalogues:
        bundle = bed.bundle(n_items)
        clicks = bed.clicks(CLICKS.get(n_items, 0))
        with bed.stream(n_items, bundle) as stream, stream.worker() as worker:
            runs = [run_backlog(stream, worker, clicks) for _ in range(bed.repeats)]
            with_event_ids = run_backlog(stream, worker, clicks, event_ids=True)
        name = f"backlog, {n_items:,} items"
        limit = limits.clicks_per_second(n_items)
        rates = [run.clicks_per_second for run in runs]
        yield median_figure(name, rates, "clicks/s", GOALS.get(n_items), limit)
        cost = [run.cpu_us for run in runs]
        yield median_figure(f"{name}: CPU of the worker", cost, "us/click", None, 1e6 / limit)
        with_ids = with_event_ids.cpu_us
        yield Figure(f"{name}: the same, clicks with event ids", with_ids, "us/click")
        yield recall_figure(name, open_bundle(bundle).manifest)


def recall_figure(name: str, manifest: ModelManifest) -> Figure:
    """What the export measured of the graph that was served."""
    scoring = manifest.scoring
    return Figure(
        f"{name}: recall of the top 20 against exact",
        scoring.recall_20,
        "share",
        RECALL_GOAL,
        note=f"{scoring.method}, on {scoring.states} states after {scoring.measured_on}",
    )
