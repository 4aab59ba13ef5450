"""How good the statistics' answers are on a real news stream: every click predicted before it is learned from.

    OMP_NUM_THREADS=1 .venv/bin/python -m tests.benchmarks.news_quality ../shared/data/globo/clicks.parquet

Warm-up on three days, judged on the fourth; versions of a few seconds; what a session has seen is left out.
The code is the worker's and the aggregator's: `recommend_batch` and the lists it makes, on `LocalStatistics`.
Each click is judged twice: by the answer that the click before it was given (what a visitor saw), and by a list
made when it comes (what published figures are: the statistics are younger by the time between two clicks).
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import click
import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from stream_app.adapters.memory_sessions import MemorySessions
from stream_app.core.clicks import encode_click
from stream_app.core.lists import AssociatedLists, PopularLists
from stream_app.core.pipeline import ServingRules, recommend_batch
from stream_app.core.records import Click, ItemId
from stream_app.core.session import SessionLimits
from stream_app.core.statistics import SessionClick
from stream_app.core.statistics_recipe import StatisticsRecipe
from stream_app.core.statistics_table import LocalStatistics
from tests.benchmarks.pipeline import MadeUpRecord

LIMITS = SessionLimits(
    idle_gap_minutes=1e6, age_hours_max=1_000, clicks_per_minute_max=65_535, history_len_max=50
)
"""The recorded sessions are taken as they are."""


@dataclass
class Judged:
    """Ranks of the clicks in the answers before them; 0: not there."""

    ranks: list[int] = field(default_factory=list)
    warm: list[bool] = field(default_factory=list)

    def add(self, shown: list[str], item_id: str, known: set[str]) -> None:
        self.ranks.append(shown.index(item_id) + 1 if item_id in shown else 0)
        self.warm.append(item_id in known)

    def line(self, name: str, of: np.ndarray) -> str:
        ranks = np.array(self.ranks)[of]
        hit = ranks > 0
        reciprocal = np.where(hit, 1 / np.maximum(ranks, 1), 0.0)
        return (
            f"{name}: R@20 {hit.mean():.4f} MRR@20 {reciprocal.mean():.4f} ({len(ranks):,} targets)"
        )


def day_ms(day: str) -> int:
    return int(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp() * 1000)


def clicks_of(path: Path, first: int, end: int) -> Iterator[tuple[int, str, str]]:
    table = pq.read_table(path, columns=["session_id", "item_id", "timestamp_ms"])
    times = table["timestamp_ms"]
    table = table.filter(pc.and_(pc.greater_equal(times, first), pc.less(times, end)))
    table = table.sort_by("timestamp_ms")
    yield from zip(
        table["timestamp_ms"].to_pylist(),
        map(str, table["session_id"].to_pylist()),
        map(str, table["item_id"].to_pylist()),
        strict=True,
    )


@click.command()
@click.argument("path", type=click.Path(exists=True, path_type=Path))
@click.option("--first", default="2017-10-10", show_default=True)
@click.option("--test", default="2017-10-13", show_default=True)
@click.option("--end", default="2017-10-14", show_default=True)
@click.option("--version-seconds", default=5.0, show_default=True)
@click.option("--seen/--no-seen", "filter_seen", default=True, help="Leave out what was seen.")
def main(
    path: Path, first: str, test: str, end: str, version_seconds: float, filter_seen: bool
) -> None:
    """Judge the statistics' answers on a click log (Parquet: session_id, item_id, timestamp_ms)."""
    rules = ServingRules(limits=LIMITS, top_k=20, filter_seen=filter_seen)
    recipe = StatisticsRecipe(idle_gap_minutes=1e6, sessions_max=2_000_000)
    local, sessions = LocalStatistics(recipe), MemorySessions()
    view = local.fold(())
    shown: dict[str, list[str]] = {}
    recent: dict[str, list[str]] = {}
    known: set[str] = set()
    as_shown, as_asked = Judged(), Judged()
    test_ms, version_ms = day_ms(test), int(version_seconds * 1000)
    waiting: list[SessionClick] = []
    records: list[MadeUpRecord] = []
    until, offset = 0, 0
    answer_seconds = fold_seconds = 0.0

    def asked_now() -> list[list[str]]:
        """A list for each click's session as it was just before."""
        before = []
        for one in waiting:
            before.append(tuple(recent.get(one.session_id, ())))
            recent.setdefault(one.session_id, []).append(one.item_id or "")
        lists = AssociatedLists(view, before, rules.top_k, seen_max=50)
        popular = PopularLists(view, rules.top_k, seen_max=50)
        found = []
        for row, seen in enumerate(before):
            left_out = seen if filter_seen else None
            items, _ = lists.answer(row, left_out) or popular.answer(left_out)
            found.append([item.item_id for item in items])
        return found

    def close() -> None:
        nonlocal view, answer_seconds, fold_seconds
        judged = waiting[-1].time_ms >= test_ms
        now_lists = asked_now() if judged else [[]] * len(waiting)
        began = time.process_time()
        outcome = recommend_batch(records, sessions, None, view, rules, now_ms=0)
        sessions.put_many(outcome.states)
        answer_seconds += time.process_time() - began
        answers = {a.source.offset: [i.item_id for i in a.items] for a in outcome.recommendations}
        for one, now_list in zip(waiting, now_lists, strict=True):
            before = shown.get(one.session_id)
            assert one.item_id is not None
            if before is not None and one.time_ms >= test_ms:
                as_shown.add(before, one.item_id, known)
                as_asked.add(now_list, one.item_id, known)
            shown[one.session_id] = answers[one.offset]
            if not judged:
                recent.setdefault(one.session_id, []).append(one.item_id)
        known.update(one.item_id for one in waiting if one.item_id)
        began = time.process_time()
        view = local.fold(waiting)
        fold_seconds += time.process_time() - began

    for time_ms, session_id, item_id in clicks_of(path, day_ms(first), day_ms(end)):
        if time_ms >= until and waiting:
            close()
            waiting, records = [], []
        if not waiting:
            until = time_ms + version_ms
        waiting.append(SessionClick(0, offset, session_id, item_id, time_ms, True))
        value = encode_click(
            Click(session_id=session_id, item_id=ItemId(item_id), event_time_ms=time_ms)
        )
        records.append(MadeUpRecord("c", 0, offset, time_ms, b"", value))
        offset += 1
    close()
    for name, judged in (("as shown", as_shown), ("as asked", as_asked)):
        warm = np.array(judged.warm)
        click.echo(judged.line(f"{name}, all ", np.ones(len(warm), dtype=bool)))
        click.echo(judged.line(f"{name}, warm", warm))
    click.echo(
        f"answering {1e6 * answer_seconds / offset:.1f} us/click, counting {1e6 * fold_seconds / offset:.1f}"
    )


if __name__ == "__main__":
    main()
