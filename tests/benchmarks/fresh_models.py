"""What fresh models are worth on a news day, and what they cost: the refresh job on a real log and a real broker.

    OMP_NUM_THREADS=1 .venv-training/bin/python -m tests.benchmarks.fresh_models \
        ../shared/data/globo/clicks.parquet --day 2017-10-10 --every 15m

A full training on the two days before noon, then the day's clicks are archived interval by interval.  Each next
click is ranked by the model that was live when its interval began, among all items it knew; one that it did not
know is a miss.  The full training, never refreshed, is ranked on the same clicks.

--two-stages: the whole product on the same clicks.  The full training learns a second stage, and the prequential
protocol (`nextclick evaluate --protocol prequential`) replays the day through the worker's own code, each answer
by the model that was live, over statistics 10 s old at most.
"""

import tempfile
import threading
import time
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, get_args

import click
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry

from export.artifact import checkpoint_of
from export.cli import duration_seconds
from export.refresh import Refresher
from export.retrain import retrain_once
from export.run import RunOutcome
from models.checkpoint import Checkpoint
from models.evaluate import next_click_ranks
from stream_app.adapters.kafka_topics import ensure_topics
from stream_app.adapters.local_kafka import LocalKafka
from stream_app.adapters.onnx_scorer import OnnxScorer
from stream_app.adapters.releases import ReleaseFollower
from stream_app.adapters.retrain_instruments import RefreshInstruments, RetrainInstruments
from stream_app.core.metrics import quality_of_ranks
from stream_app.core.session import SessionLimits
from stream_app.evaluation.prequential import (
    AnsweredAt,
    ClickStream,
    ModelAt,
    always,
    prequential,
)
from stream_app.evaluation.sessions import (
    UNKNOWN,
    SessionTable,
    sessions_of_clicks,
    vocabulary_of_clicks,
)
from stream_app.evaluation.stream_statistics import CoOccurrence
from stream_app.evaluation.targets import target_positions
from stream_app.files.click_log import LOG_COLUMNS, ClickLogWriter
from stream_app.files.registry import Registry
from stream_app.services.live_model import LiveModel
from stream_app.settings import (
    KafkaSettings,
    RefreshSettings,
    RetrainSettings,
    ServingSettings,
    Settings,
    StatisticsSettings,
    serving_rules,
    statistics_recipe,
)

HOUR_MS: Final = 3_600_000
HISTORY_HOURS: Final = 48
NEWS_STATISTICS: Final = StatisticsSettings(
    pair_half_lives_minutes=(20.0, 360.0), pair_weights=(0.7, 0.3)
)
"""As `nextclick evaluate --tune` finds them for this log."""
LIMITS: Final = SessionLimits(idle_gap_minutes=1e6, age_hours_max=1_000)
"""The recorded sessions are taken as they are."""


class Follower:
    """The worker's part: follows the releases, and notes when each model was ready to answer."""

    def __init__(self, settings: Settings, directory: Path) -> None:
        self.swapped_at: dict[str, float] = {}
        self._new = threading.Condition()
        self._live = LiveModel(
            ReleaseFollower(settings.kafka, settings.topics.releases),
            Registry(settings.registry, directory),
            poll_seconds=settings.serving.releases_poll_seconds,
            on_swap=self._note,
        )
        self._live.start()

    def _note(self, result: str, scorer: Any) -> None:
        assert result == "swapped", result
        with self._new:
            self.swapped_at[scorer.model_version] = time.monotonic()
            self._new.notify_all()

    def when(self, version: str) -> float:
        with self._new:
            assert self._new.wait_for(lambda: version in self.swapped_at, timeout=120)
        return self.swapped_at[version]

    def close(self) -> None:
        self._live.stop()


class Clicks:
    """A recorded log, sorted by time."""

    def __init__(self, file: Path) -> None:
        table = pq.read_table(file)
        self._table = pa.table(
            {
                "session_id": pc.cast(table["session_id"], pa.string()),
                "item_id": pc.cast(table["item_id"], pa.string()),
                "event_time_ms": pc.cast(table["timestamp_ms"], pa.int64()),
            }
        )
        self._ms = self._table["event_time_ms"].to_numpy()

    def last_ones(self) -> frozenset[tuple[str, int]]:
        """Item and time of the last click of every session of two or more."""
        sessions = self._table["session_id"].combine_chunks().dictionary_encode()
        codes = np.asarray(sessions.indices)
        order = np.lexsort((self._ms, codes))
        is_last = np.diff(codes[order], append=-1) != 0
        is_first = np.diff(codes[order], prepend=-1) != 0
        rows = pa.array(order[is_last & ~is_first])
        items, ms = self._table["item_id"].take(rows), self._table["event_time_ms"].take(rows)
        return frozenset(zip(items.to_pylist(), ms.to_pylist(), strict=True))

    def between(self, from_ms: int, until_ms: int) -> tuple[int, pa.Table]:
        """Number of the first, and the clicks."""
        first, last = np.searchsorted(self._ms, (from_ms, until_ms)).tolist()
        return first, self._table.slice(first, last - first)


def archive(writer: ClickLogWriter, first: int, clicks: pa.Table) -> None:
    n = len(clicks)
    given = {name: clicks[name] for name in clicks.column_names}
    made = {
        "topic": pa.array(["clicks"] * n),
        "partition": pa.array(np.zeros(n, dtype=np.int32)),
        "offset": pa.array(np.arange(first, first + n)),
        "kafka_timestamp_ms": clicks["event_time_ms"],
        "event_type": pa.array(["view_item"] * n),
        "consent": pa.array([True] * n),
    }
    columns = [(given | made).get(field.name, pa.nulls(n, field.type)) for field in LOG_COLUMNS]
    table = pa.table(columns, names=LOG_COLUMNS.names).cast(LOG_COLUMNS)
    writer.write_range("clicks", 0, first, first + n - 1, table)


def ranks_of(
    model: Checkpoint,
    sessions: SessionTable,
    ids: tuple[str, ...],
    from_ms: int,
    chosen: frozenset[tuple[str, int]] | None,
) -> NDArray[np.int64]:
    """Of the next clicks from that moment on; chosen: item and time of the only ones that count."""
    index_of = model.vocabulary.index_of
    rows = np.array([index_of.get(item, UNKNOWN) for item in ids], dtype=np.int64)
    known = replace(sessions, item_indexes=rows[sessions.item_indexes])
    ranks = next_click_ranks(model.model(), known)
    positions = target_positions(sessions)
    counts = sessions.click_ms[positions] >= from_ms
    if chosen is not None:
        clicked = zip(
            sessions.item_indexes[positions].tolist(),
            sessions.click_ms[positions].tolist(),
            strict=True,
        )
        counts &= [(ids[item], ms) in chosen for item, ms in clicked]
    result: NDArray[np.int64] = ranks[counts]
    return result


def quality(ranks: list[NDArray[np.int64]]) -> str:
    found = quality_of_ranks(np.concatenate(ranks))
    return f"{found.recall_20:.4f} / {found.mrr_20:.4f} / {found.ndcg_20:.4f}"


def settings_of(kafka: LocalKafka, directory: Path, changes: dict[str, Any]) -> Settings:
    return Settings(
        kafka=KafkaSettings(bootstrap_servers=kafka.bootstrap_servers),
        registry=str(directory / "registry"),
        click_log=str(directory / "log"),
        data_dir=directory / "data",
        session=LIMITS,
        retrain=RetrainSettings(**changes),
        statistics=NEWS_STATISTICS,
        serving=ServingSettings(filter_seen=True),
    )


@click.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True))
@click.option("--day", default="2017-10-10", show_default=True)
@click.option("--from-hour", default=12, show_default=True)
@click.option("--hours", default=6.0, show_default=True)
@click.option("--every", default="15m", show_default=True)
@click.option("--architecture", type=click.Choice(["gru4rec", "cosine-gru"]), default="gru4rec")
@click.option("--learning-rate-factors", type=float, multiple=True, default=(1.0, 0.4))
@click.option("--last-clicks", is_flag=True, help="Judge the last click of each session only.")
@click.option("--two-stages", is_flag=True, help="The whole product, prequential.")
@click.option("--holdout-clicks", default=20_000, show_default=True, help="For the second stage.")
@click.option("--epochs", default=2, show_default=True, help="Of the full training.")
def main(
    file: Path,
    day: str,
    from_hour: int,
    hours: float,
    every: str,
    architecture: str,
    learning_rate_factors: tuple[float, ...],
    last_clicks: bool,
    two_stages: bool,
    holdout_clicks: int,
    epochs: int,
) -> None:
    """Refresh a model through a news day, and rank every next click by what was live."""
    clicks, interval_ms = Clicks(file), int(duration_seconds(every) * 1000)
    noon_ms = int(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp() * 1000)
    noon_ms += from_hour * HOUR_MS
    chosen = clicks.last_ones() if last_clicks else None
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nextclick-")))
        kafka = stack.enter_context(LocalKafka(directory / "kafka"))
        changes = {
            "architecture": architecture,
            "epochs": epochs,
            "second_stage": two_stages,
            "holdout_clicks_max": holdout_clicks,
        }
        settings = settings_of(kafka, directory, changes)
        refresh = RefreshSettings(learning_rate_factors=learning_rate_factors)
        settings = settings.model_copy(update={"refresh": refresh})
        ensure_topics(settings.kafka, settings.topics)
        writer = ClickLogWriter(settings.click_log)
        archive(writer, *clicks.between(noon_ms - HISTORY_HOURS * HOUR_MS, noon_ms))
        began = time.monotonic()
        full = retrain_once(
            settings, instruments=RetrainInstruments(CollectorRegistry()), say=lambda _: None
        )
        assert full.model_version is not None, full.reason
        click.echo(f"full training: {full.reason}, {time.monotonic() - began:.1f} s")
        follower = Follower(settings, directory / "worker")
        stack.callback(follower.close)
        follower.when(full.model_version)
        refresher = Refresher(
            settings, instruments=RefreshInstruments(CollectorRegistry()), say=lambda _: None
        )
        stack.callback(refresher.close)
        registry = Registry(settings.registry, directory / "reader")
        base = live = checkpoint_of(registry.fetch(full.model_version))
        ranks: dict[str, list[NDArray[np.int64]]] = {"refreshed": [], "full training": []}
        costs: list[tuple[RunOutcome, float, float]] = []
        live_from = [(noon_ms, OnnxScorer.load(registry.fetch(full.model_version)))]
        for from_ms in range(noon_ms, noon_ms + int(hours * HOUR_MS), interval_ms):
            until_ms = from_ms + interval_ms
            _, around = clicks.between(from_ms - HOUR_MS, until_ms)
            vocabulary = vocabulary_of_clicks(around)
            sessions = sessions_of_clicks(around, vocabulary, limits=LIMITS)
            for name, model in (("refreshed", live), ("full training", base)):
                ranks[name].append(ranks_of(model, sessions, vocabulary.ids, from_ms, chosen))
            archive(writer, *clicks.between(from_ms, until_ms))
            began = time.monotonic()
            outcome = refresher.run()
            ended = time.monotonic()
            if outcome.result == "published":
                assert outcome.model_version is not None
                swapped = follower.when(outcome.model_version)
                costs.append((outcome, ended - began, swapped - ended))
                directory_of_live = registry.fetch(outcome.model_version)
                live = checkpoint_of(directory_of_live)
                if two_stages:
                    live_from.append((until_ms, OnnxScorer.load(directory_of_live)))
            else:
                click.echo(f"{outcome.result}: {outcome.reason}")
        for line in told(ranks, costs):
            click.echo(line)
        if two_stages:
            _, replayed = clicks.between(noon_ms - HISTORY_HOURS * HOUR_MS, until_ms)
            for line in told_of_two_stages(replayed, settings, noon_ms, live_from):
                click.echo(line)


def told(
    ranks: dict[str, list[NDArray[np.int64]]], costs: list[tuple[RunOutcome, float, float]]
) -> Iterator[str]:
    n = sum(map(len, ranks["refreshed"]))
    for name, found in ranks.items():
        yield f"{name}: R@20 / MRR@20 / NDCG@20 {quality(found)} of {n:,} next clicks"
    refreshed = [outcome.refreshed for outcome, _, _ in costs if outcome.refreshed is not None]
    seconds = np.array([(run, swap) for _, run, swap in costs])
    steps = {
        step: np.median([each.step_seconds[step] for each in refreshed])
        for step in refreshed[0].step_seconds
    }
    yield f"{len(costs)} refreshes, median and longest: run {_spread(seconds[:, 0])} s, until a worker answers with it {_spread(seconds[:, 1])} s more"
    yield "of a run: " + ", ".join(f"{step} {value:.2f} s" for step, value in steps.items())
    yield (
        f"new clicks {np.median([e.new_clicks for e in refreshed]):,.0f}, learned clicks "
        f"{np.median([e.learned_clicks for e in refreshed]):,.0f}, new items "
        f"{np.median([e.new_items for e in refreshed]):,.0f}, delta "
        f"{_spread(np.array([e.delta_bytes for e in refreshed]) / 1e6)} MB"
    )


def told_of_two_stages(
    clicks: pa.Table,
    settings: Settings,
    from_ms: int,
    live_from: list[tuple[int, OnnxScorer]],
) -> Iterator[str]:
    rules = serving_rules(settings)
    stream = ClickStream(clicks, rules, from_ms=from_ms)
    moments = [ms for ms, _ in live_from]
    models: dict[str, ModelAt] = {
        "co-occurrence": always(None),
        "two stages, never refreshed": always(live_from[0][1]),
        "two stages, refreshed": lambda ms: live_from[bisect_right(moments, max(ms, from_ms)) - 1][
            1
        ],
    }
    for answered_at in get_args(AnsweredAt):
        for name, model_at in models.items():
            began = time.thread_time()
            row = prequential(
                stream,
                CoOccurrence(statistics_recipe(settings)),
                model_at,
                rules,
                name=name,
                answered_at=answered_at,
            )
            q, us = row.quality, 1e6 * (time.thread_time() - began) / row.quality.targets
            ages = ", ".join(f"{a.age} {a.recall_20:.3f}" for a in row.by_age)
            yield (
                f"{name}, answered at the {answered_at}: warm {q.warm_recall_20:.4f} / "
                f"{q.warm_mrr_20:.4f}, all {q.recall_20:.4f} / {q.mrr_20:.4f} of {q.targets:,}; R@20 by age of "
                f"the item: {ages}; {us:.0f} us a target"
            )


def _spread(values: NDArray[np.float64]) -> str:
    return f"{np.median(values):.2f} / {values.max():.2f}"


if __name__ == "__main__":
    main()
