"""The worker's real loop under thousands of seeds of simulated trouble, judged by an offline replay.

`SEED=17 pytest tests/model/test_simulation.py -k seeds -s` repeats one seed and tells its story;
`SEEDS=20000 pytest ...` runs more than usual.  What a seed does changes with the loop: a seed that found
something is worth noting together with the commit.
"""

import asyncio
import os
from collections import Counter
from typing import Any
from unittest.mock import patch

import pytest

from stream_app.adapters.rocksdb_sessions import RocksSessions
from stream_app.core.pipeline import BatchOutcome, recommend_batch
from stream_app.services import recommendation_loop
from stream_app.services.recommendation_loop import RecommendationLoop
from stream_app.services.session_log import Restored, SessionLog, Unsettled
from tests.model.simulated_worker import Parts
from tests.model.simulation import POINTS, Outcome, simulate

SEEDS = int(os.environ.get("SEEDS", "1600"))
CHUNKS = 4
BROKEN_SEEDS_MAX = 600


def told(outcome: Outcome) -> str:
    again = f"again: SEED={outcome.seed} pytest tests/model/test_simulation.py -k seeds -s"
    return "\n".join((f"seed {outcome.seed}", *outcome.story, *outcome.problems, again))


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_seeds_of_trouble_lose_double_and_revive_nothing(chunk: int) -> None:
    """Kills at every point, disks lost, zombies, rebalances, foreign records, failed sends, erasures, a
    broker that is away."""
    if "SEED" in os.environ:
        outcome = simulate(int(os.environ["SEED"]))
        print(told(outcome))
        assert not outcome.problems
        return
    happened: Counter[str] = Counter()
    n = SEEDS // CHUNKS
    for seed in range(chunk * n, (chunk + 1) * n):
        outcome = simulate(seed)
        happened += outcome.happened
        if outcome.problems:
            pytest.fail(told(outcome), pytrace=False)
    if n < 300:
        return  # too few to ask what has happened
    killed = {
        point for point in POINTS for what in happened if what.startswith(f"killed at {point}")
    }
    assert killed == set(POINTS), "some points of the loop are never met"
    for what in (
        "healed",
        "answered again",
        "frozen for 25 s",
        "ended itself: LostPartitionError",
        "a broker that is away was asked",
    ):
        assert happened[what] >= n / 100, f"{what}: too rare for the runs to mean much"


def test_a_seed_always_tells_the_same_story() -> None:
    for seed in range(5):
        first, second = simulate(seed), simulate(seed)
        assert first.story == second.story
        assert first.happened == second.happened


# -- broken on purpose --------------------------------------------------------------------------------------


class StatesBeforeAnswers(RecommendationLoop):
    """States are written while the answers are still on their way."""

    async def _send_answers(self, outcome: BatchOutcome) -> None:
        self.on_their_way = asyncio.create_task(super()._send_answers(outcome))
        self.on_their_way.add_done_callback(lambda task: task.exception())


class CommitBeforeAcks(RecommendationLoop):
    """Clicks are done as soon as their states are sent."""

    async def _settle(self) -> None:
        while True:
            works, unsettled = await self._written.get()
            for work in works:
                self._stream.feed.finished(work.taken)
            await self._session_log.settle(unsettled)


class NoContiguityCheck(SessionLog):
    async def _check(self, partition: int, base_offset: int) -> None:
        """Whoever has written in between."""


class NothingSentAgainAfterRestore(RocksSessions):
    def restore_chunk(self, *arguments: Any, **options: Any) -> tuple[int, list[str]]:
        written, _ = super().restore_chunk(*arguments, **options)
        return written, []


class NotedBeforeSentAgain(SessionLog):
    """FINDINGS 1: what the changelog has in an older version counts as applied at once."""

    async def _send_stored_again(self, partition: int, session_ids: Any) -> Unsettled:
        if partition in self._next_offset:
            end = self._next_offset[partition]
            self._sessions.set_persisted_offsets({partition: end - 1})
        return await super()._send_stored_again(partition, session_ids)


class AuditedOnce(SessionLog):
    """FINDINGS 6: a healed partition stays marked as one with sends under way."""

    async def _heal(self, partition: int, start: int, end: int) -> None:
        await super()._heal(partition, start, end)
        self._unsettled[partition] += 1


class NoPatience(SessionLog):
    """A restore that meets no broker ends the process."""

    async def restore(self, partitions: Any, *, still_ours: Any) -> Restored:
        restored = Restored()
        await self._restore(set(partitions), restored, still_ours)
        return restored


def without_redelivered(records: Any, store: Any, *arguments: Any, **options: Any) -> BatchOutcome:
    """`recommend_batch`, but sessions that a batch leaves as they are stored are not written again."""
    outcome = recommend_batch(records, store, *arguments, **options)
    for key in list(outcome.states):
        if outcome.states[key] == store.get_many([key])[0]:
            del outcome.states[key]
    return outcome


def found_within(parts: Parts, *problems: str) -> None:
    """One of the seeds must show one of the problems; its story is printed."""
    for seed in range(BROKEN_SEEDS_MAX):
        outcome = simulate(seed, parts)
        if any(problem in found for problem in problems for found in outcome.problems):
            print(told(outcome))
            return
    pytest.fail(f"{BROKEN_SEEDS_MAX} seeds did not notice what is broken")


def test_states_before_answers_are_noticed() -> None:
    found_within(Parts(loop=StatesBeforeAnswers), "never answered")


def test_a_commit_before_the_acks_is_noticed() -> None:
    found_within(Parts(loop=CommitBeforeAcks), "is lost in", "is wrong in", "never answered")


def test_a_missing_contiguity_check_is_noticed() -> None:
    found_within(Parts(session_log=NoContiguityCheck), "compacted changelog")


def test_a_redelivered_click_whose_record_is_not_sent_again_is_noticed() -> None:
    with patch.object(recommendation_loop, "recommend_batch", without_redelivered):
        found_within(Parts(), "is lost in", "is wrong in")


def test_a_restore_that_sends_nothing_again_is_noticed() -> None:
    found_within(Parts(sessions=NothingSentAgainAfterRestore), "compacted changelog")


def test_a_restore_noted_before_it_has_sent_again_is_noticed() -> None:
    found_within(Parts(session_log=NotedBeforeSentAgain), "compacted changelog")


def test_a_partition_that_is_not_audited_any_more_is_noticed() -> None:
    found_within(Parts(session_log=AuditedOnce), "never comes to rest")


def test_a_restore_that_cannot_wait_for_its_broker_is_noticed() -> None:
    found_within(Parts(session_log=NoPatience), "KafkaConnectionError")
