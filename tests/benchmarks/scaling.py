"""One, two and three workers on these cores: no measure of speed, but proof that state follows partitions."""

from dataclasses import dataclass
from typing import Final

from tests.benchmarks.bed import Bed
from tests.chaos.lab import PATIENCE_SECONDS, Lab, Stream
from tests.integration.processes import wait_until

PARTITIONS: Final = 6
CLICKS: Final = 20_000
SESSIONS: Final = 2_000


@dataclass(frozen=True)
class Scaling:
    """A backlog shared by so many workers; the sessions are those of the phases before."""

    workers: int
    partitions_each: list[int]
    clicks_per_second: float
    sessions_differing: int
    """From the offline replay of all clicks of all phases, in the changelog or in a worker's RocksDB."""
    answers_wrong: int
    """Missing, or not the replay's."""


def measure_scaling(bed: Bed) -> list[Scaling]:
    """Workers join one by one; each time all sessions go on where they were, on other workers."""
    phases = []
    with (
        Lab(bed.new_directory("lab"), bootstrap_servers=bed.bootstrap_servers) as lab,
        lab.stream(partitions=PARTITIONS, sessions=SESSIONS) as stream,
    ):
        for workers in (1, 2) if bed.short else (1, 2, 3):
            stream.start_worker(workers)
            partitions_each = _wait_until_shared(stream)
            phases.append((partitions_each, _backlog(stream, bed.clicks(CLICKS))))
        verdict = stream.judge()
    wrong = verdict.lost + verdict.differing + verdict.failures
    return [Scaling(len(each), each, rate, verdict.doubled, wrong) for each, rate in phases]


def _wait_until_shared(stream: Stream) -> list[int]:
    """Until every worker has partitions, and nobody those of another; how many each."""

    def shares() -> list[int]:
        sets = [worker.partitions for worker in stream.workers]
        counts = [len(partitions) for partitions in sets]
        whole = sum(counts) == PARTITIONS == len(set().union(*sets))
        return counts if whole and all(counts) else []

    counts: list[int] = wait_until("the partitions are shared", shares, PATIENCE_SECONDS)
    return counts


def _backlog(stream: Stream, clicks: int) -> float:
    for worker in stream.workers:
        worker.pause()
    before = len(stream.answers.times_ms())
    stream.produce(clicks)
    for worker in stream.workers:
        worker.resume()
    stream.wait_until_settled()
    stream.answers.wait_until_read()
    times = stream.answers.times_ms()[before:]
    return 1000 * len(times) / max(1, times[-1] - times[0])
