"""New items of the simulated shop: how soon they are recommended, with and without what the shop says of them.

    OMP_NUM_THREADS=1 .venv-training/bin/python -m tests.benchmarks.new_items

A full training on the first minutes, then the shop goes on, and the live model is refreshed at an interval of event
time, on a real broker.  Each next click is ranked by the model that was live when its interval began, among all items it knew; one
it did not know is a miss.  Beside it what the generator's own probabilities would have hit on the same clicks: no
model sees the hidden taste and direction of a visitor, so none reaches it.
"""

import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click
import numpy as np
import pyarrow as pa
from prometheus_client import CollectorRegistry

from export.artifact import checkpoint_of
from export.refresh import Refresher
from export.retrain import retrain_once
from models.checkpoint import Checkpoint
from models.evaluate import next_click_ranks
from stream_app.adapters.item_topic import publish_items
from stream_app.adapters.kafka_topics import ensure_topics
from stream_app.adapters.local_kafka import LocalKafka
from stream_app.adapters.retrain_instruments import RefreshInstruments, RetrainInstruments
from stream_app.core.records import VIEW_ITEM
from stream_app.evaluation.sessions import sessions_of_clicks
from stream_app.evaluation.targets import target_positions
from stream_app.files.click_log import ClickLogWriter
from stream_app.files.registry import Registry
from stream_app.shop.behaviour import HiddenState, Transitions
from stream_app.shop.shop import Shop
from tests.benchmarks.fresh_models import LIMITS, archive, settings_of

START_MS: Final = 1_700_000_000_000
MINUTE_MS: Final = 60_000
CUT: Final = 20
AGES: Final = ((0, 1), (1, 2), (2, 5), (5, 10), (10, 1e9))
"""Minutes since an item came onto its shelf; those of the first moment count as old."""
OLD_SHARE: Final = 0.05
"""Of clicks on old items so many are compared with the generator, which is slow."""


@dataclass(slots=True)
class View:
    session_id: str
    item_id: str
    ms: int
    best_hit: bool | None
    """Whether the generator's best twenty held it; None: a session's first view, or not asked."""


class Visitors:
    """The shop's views, and what was the best possible of each."""

    def __init__(self, clicks_per_second: float) -> None:
        self.shop = Shop(
            seed=3, start_ms=START_MS, clicks_per_second=clicks_per_second, on_move=self._on_move
        )
        self._first = {item.item_id for item in self.shop.catalogue.items}
        self._shelved_ms: dict[str, int] = {}
        self._rng = np.random.default_rng(0)
        self._ask = False
        self._best: bool | None = None

    def until(self, ms: int) -> Iterator[View]:
        for click_ in self.shop.clicks_until(ms):
            best, self._best = self._best, None
            if click_.event_type != VIEW_ITEM or not click_.consent:
                continue
            if click_.item_id not in self._first:
                self._shelved_ms.setdefault(click_.item_id, click_.event_time_ms)
            yield View(click_.session_id, click_.item_id, click_.event_time_ms, best)

    def judge_from_now(self) -> None:
        self._ask = True

    def age_minutes(self, view: View) -> float:
        since = self._shelved_ms.get(view.item_id)
        return 1e6 if since is None else (view.ms - since) / MINUTE_MS

    def _on_move(self, tables: Transitions, state: HiddenState, shelf: int) -> None:
        item = self.shop.catalogue.items[shelf].item_id
        self._best = None
        if self._ask and (item not in self._first or self._rng.random() < OLD_SHARE):
            chances = tables.distribution(state)
            self._best = bool((chances >= chances[shelf]).sum() <= CUT)


def table_of(views: list[View]) -> pa.Table:
    return pa.table(
        {
            "session_id": [view.session_id for view in views],
            "item_id": [view.item_id for view in views],
            "event_time_ms": pa.array([view.ms for view in views], pa.int64()),
        }
    )


def ranks_of(model: Checkpoint, views: list[View], from_ms: int) -> dict[tuple[str, int], int]:
    """By item and time of the view, of those from that moment on.  Unknown items: beyond any cut."""
    vocabulary = model.vocabulary
    sessions = sessions_of_clicks(table_of(views), vocabulary, limits=LIMITS)
    ranks = next_click_ranks(model.model(), sessions)
    positions = target_positions(sessions)
    found: dict[tuple[str, int], int] = {}
    for rank, item, ms in zip(
        ranks, sessions.item_indexes[positions], sessions.click_ms[positions], strict=True
    ):
        if ms >= from_ms and item >= 0:
            found[vocabulary.ids[item], int(ms)] = int(rank)
    return found


@click.command()
@click.option("--history", default=30, show_default=True, help="Minutes of the full training.")
@click.option("--minutes", default=30, show_default=True, help="Minutes that are judged.")
@click.option("--every", default=60, show_default=True, help="Seconds between refreshes.")
@click.option("--clicks-per-second", default=200.0, show_default=True)
@click.option("--cold-items-max", default=10_000, show_default=True, help="0: no attributes used.")
@click.option("--boost", default=1.0, show_default=True, help="retrain.cold_item_boost")
@click.option("--replay-share", default=0.3, show_default=True)
@click.option("--learning-rate-factors", type=float, multiple=True, default=(1.0, 0.4))
@click.option("--architecture", type=click.Choice(["gru4rec", "cosine-gru"]), default="gru4rec")
def main(
    history: int,
    minutes: int,
    every: int,
    clicks_per_second: float,
    cold_items_max: int,
    boost: float,
    replay_share: float,
    learning_rate_factors: tuple[float, ...],
    architecture: str,
) -> None:
    """Refresh a model of a shop where new items appear, and rank every next click."""
    visitors = Visitors(clicks_per_second)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nextclick-")))
        kafka = stack.enter_context(LocalKafka(directory / "kafka"))
        settings = settings_of(
            kafka,
            directory,
            {
                "architecture": architecture,
                "cold_items_max": cold_items_max,
                "cold_item_boost": boost,
            },
        )
        changes = {"replay_share": replay_share, "learning_rate_factors": learning_rate_factors}
        refresh = settings.refresh.model_copy(update=changes)
        settings = settings.model_copy(update={"refresh": refresh})
        ensure_topics(settings.kafka, settings.topics)
        writer = ClickLogWriter(settings.click_log)
        offset = 0

        def learn(views: list[View]) -> None:
            nonlocal offset
            archive(writer, offset, table_of(views))
            offset += len(views)

        def describe() -> None:
            publish_items(settings.kafka, settings.topics.items, visitors.shop.take_descriptions())

        begin_ms = START_MS + history * MINUTE_MS
        recent = list(visitors.until(begin_ms))
        describe()
        learn(recent)
        began = time.monotonic()
        full = retrain_once(
            settings, instruments=RetrainInstruments(CollectorRegistry()), say=lambda _: None
        )
        assert full.model_version is not None, full.reason
        click.echo(f"full training: {full.reason}, {time.monotonic() - began:.1f} s")
        registry = Registry(settings.registry, directory / "reader")
        live = checkpoint_of(registry.fetch(full.model_version))
        refresher = Refresher(
            settings, instruments=RefreshInstruments(CollectorRegistry()), say=click.echo
        )
        stack.callback(refresher.close)
        visitors.judge_from_now()
        hits: dict[tuple[float, float], list[tuple[bool, bool | None]]] = defaultdict(list)
        seconds, refused = [], 0
        for from_ms in range(begin_ms, begin_ms + minutes * MINUTE_MS, every * 1000):
            views = list(visitors.until(from_ms + every * 1000))
            describe()
            recent = [view for view in recent if view.ms >= from_ms - 10 * MINUTE_MS] + views
            ranks = ranks_of(live, recent, from_ms)
            for view in views:
                if view.best_hit is None:
                    continue
                age = visitors.age_minutes(view)
                bucket = next(span for span in AGES if span[0] <= age < span[1])
                rank = ranks.get((view.item_id, view.ms), CUT + 1)
                hits[bucket].append((rank <= CUT, view.best_hit))
            learn(views)
            began = time.monotonic()
            outcome = refresher.run()
            seconds.append(time.monotonic() - began)
            if outcome.model_version is not None and outcome.result == "published":
                live = checkpoint_of(registry.fetch(outcome.model_version))
            else:
                refused += 1
                click.echo(f"{outcome.result}: {outcome.reason}")
        click.echo(
            f"{len(seconds)} refreshes, {refused} of them refused, {np.median(seconds):.2f} s median"
        )
        for span in AGES:
            found = np.array(hits[span], dtype=float)
            if len(found):
                mine, best = found.mean(axis=0)
                until = "older" if span[1] > 1e6 else f"to {span[1]:g} min"
                click.echo(
                    f"{span[0]:g} min {until}: hits@20 {mine:.3f}, best possible {best:.3f}, "
                    f"{mine / best:.0%} of it, {len(found):,} next clicks"
                )


if __name__ == "__main__":
    main()
