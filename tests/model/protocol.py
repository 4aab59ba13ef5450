"""What the model check knows: rules that can be kept or broken, bounds, and the state of the world."""

from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

Record = tuple[int, tuple[int, ...]]
"""A session record: last applied offset, and the offsets of the clicks in its state.  Removed: no clicks."""

ABSENT: Final[Record] = (-1, ())
"""Nothing known of a session; as a changelog record, a tombstone that does not say what removed it."""

Entry = tuple[int, int, Record]
"""A record in the changelog: offset there, session, record."""


class Click(NamedTuple):
    """A click of the one partition; its offset is its place in `Bounds.clicks`."""

    session: int
    erases: bool = False


@dataclass(frozen=True, slots=True)
class Rules:
    """The order of effects.  The defaults are the rules; each field can break one of them."""

    on_gap: Literal["exit", "heal"] = "heal"
    """What a worker does whose changelog record was not stored right behind its last one."""
    group: bool = True
    """Write the states of all batches whose answers are acked in one go, the last record per session."""
    watches_end: bool = True
    """Look now and then whether the changelog's end is where our last record was, even when idle."""
    answers_first: bool = True
    """States are written only when all answers of the batch are acked."""
    done_when_logged: bool = True
    """Clicks may be committed only when their changelog records are acked."""
    resends_redelivered: bool = True
    """A redelivered click's record is sent to the changelog again."""
    resends_restored: bool = True
    """A restore sends again what the changelog holds in an older version."""
    notes_after_resend: bool = True
    """The changelog offset that counts as applied moves past older records only once ours are behind them."""
    checks_gaps: bool = True
    verifies_owner: bool = True
    """Before it heals, a worker commits under its generation: refused, it is stale and ends."""
    adopts: Literal["newer", "any", "never"] = "newer"
    """Which foreign records healing takes over; ours are sent again for all others."""
    heals_from: Literal["written", "staged"] = "written"
    """The record that healing sends again: as written, or as computed (its answer may not be acked)."""
    tombstones_carry_offset: bool = True
    absent_counts_as_committed: bool = True
    """Healing: of a session we know nothing of, we know that all committed clicks left nothing."""
    wipes_old_disk: bool = True
    """A disk that last met the changelog before a tombstone that has vanished since is not used."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much may happen."""

    clicks: tuple[Click, ...]
    kills: int = 0
    zombies: int = 0
    """How often the group may give the partition away while its owner still runs."""
    foreign_records: int = 0
    """Copies of older records, written into the changelog by somebody outside the group."""
    compacts: Literal["never", "looked_at", "anything"] = "looked_at"
    """What Kafka compacts.  `looked_at`: at once whatever an owner has seen and mended (that takes seconds,
    `min.compaction.lag.ms` is longer); `anything`: everything, whenever it likes."""
    vanishing: int = 0
    """Tombstones that Kafka drops for good (after `delete.retention.ms`, a day)."""
    sleeps_longer: bool = False
    """Whether a writer may sleep for longer than that, and write then."""
    expiries: int = 0
    only_in_the_end: bool = False
    """Check the changelog only once everything has settled: what comes back may be mended by then."""
    batches_in_flight: int = 2
    batch_clicks: int = 1

    @property
    def sessions(self) -> int:
        return 1 + max(click.session for click in self.clicks)


WAITS, LOGGING, LOGGED = range(3)
"""Stages of a batch: computed; written, and sent to the changelog; stored there."""


class Work(NamedTuple):
    """A batch on its way."""

    stage: int
    owed: tuple[int, ...]
    """Clicks whose answers the broker does not have yet; `~offset`: with other content than the fold gives."""
    records: tuple[tuple[int, Record], ...]
    done: int
    """Clicks before this offset are done with this batch; 0: it was caused by no click."""
    base: int = -1
    """Changelog offset of its first record, once stored."""
    is_resend: bool = False
    """Ours again, behind older records: after a restore, or to heal a gap."""
    is_restore: bool = False


class Worker(NamedTuple):
    is_owner: bool
    """Its generation is the group's.  A running worker that is no owner is a zombie."""
    runs: bool
    position: int
    """The next click it takes."""
    works: tuple[Work, ...]
    disk: tuple[Record, ...]
    noted: int
    """Last changelog offset that its disk counts as applied."""
    expected: int
    """Changelog offset that its next record must get."""
    done: int
    """Clicks before this offset may be committed."""
    heals: bool = False
    """It has found a gap, and the broker took a commit of its generation."""


class Faults(NamedTuple):
    """How many of each may still happen."""

    kills: int
    zombies: int
    foreign_records: int
    vanishing: int
    expiries: int


class State(NamedTuple):
    committed: int
    answered: tuple[int, ...]
    log: tuple[Entry, ...]
    log_end: int
    looked_at: int
    """Changelog offset before which an owner has seen, and mended, everything."""
    vanished: int
    """Offset of the last tombstone that Kafka dropped."""
    healed: int
    """How often workers have mended the changelog behind each other."""
    in_flight: tuple[tuple[tuple[tuple[int, Record], ...], ...], ...]
    """Sends of workers that ended: each a queue that may still arrive, in order."""
    workers: tuple[Worker, Worker]
    faults: Faults


def first_state(bounds: Bounds) -> State:
    """Nothing has happened, nobody runs."""
    worker = Worker(
        is_owner=False,
        runs=False,
        position=0,
        works=(),
        disk=(ABSENT,) * bounds.sessions,
        noted=-1,
        expected=0,
        done=0,
    )
    return State(
        committed=0,
        answered=(),
        log=(),
        log_end=0,
        looked_at=0,
        vanished=-1,
        healed=0,
        in_flight=(),
        workers=(worker, worker),
        faults=Faults(
            bounds.kills,
            bounds.zombies,
            bounds.foreign_records,
            bounds.vanishing,
            bounds.expiries,
        ),
    )


def normal(state: State, bounds: Bounds) -> tuple[State, bool]:
    """One state for all that differ only in what nobody can tell apart.  Says whether workers changed places.

    Workers are sorted: they differ in their names only.  Changelog offsets are numbered anew where
    compaction has left holes: only their order and their equality decide anything.  What may be compacted
    is compacted at once: less can be restored from less.
    """
    if bounds.compacts == "looked_at":
        state = _renumbered(state._replace(log=compacted(state.log, state.looked_at)))
    first, second = state.workers
    if second < first:
        return state._replace(workers=(second, first)), True
    return state, False


def _renumbered(state: State) -> State:
    points = {state.log_end, state.looked_at, state.vanished + 1, 0}
    points.update(entry[0] for entry in state.log)
    for worker in state.workers:
        points.update((worker.noted + 1, worker.expected))
        for work in worker.works:
            if work.stage == LOGGED:
                points.update(range(work.base, work.base + len(work.records) + 1))
    if len(points) == max(points) + 1:
        return state
    new = {point: rank for rank, point in enumerate(sorted(points))}
    return state._replace(
        log=tuple((new[offset], session, record) for offset, session, record in state.log),
        log_end=new[state.log_end],
        looked_at=new[state.looked_at],
        vanished=new[state.vanished + 1] - 1,
        workers=(
            _renumbered_worker(state.workers[0], new),
            _renumbered_worker(state.workers[1], new),
        ),
    )


def _renumbered_worker(worker: Worker, new: dict[int, int]) -> Worker:
    return worker._replace(
        noted=new[worker.noted + 1] - 1,
        expected=new[worker.expected],
        works=tuple(
            work._replace(base=new[work.base]) if work.stage == LOGGED else work
            for work in worker.works
        ),
    )


def folded(clicks: tuple[Click, ...], session: int, upto: int) -> Record:
    """What a session is after the clicks at offsets 0..upto, each applied once: the truth."""
    record = ABSENT
    for offset, click in enumerate(clicks[: upto + 1]):
        if click.session == session:
            record = applied(record, click, offset)
    return record


def applied(record: Record, click: Click, offset: int) -> Record:
    """One click folded in.  The caller leaves out what was applied already."""
    return (offset, () if click.erases else (*record[1], offset))


def restored(
    disk: tuple[Record, ...], log: tuple[Entry, ...], *, after: int, rules: Rules
) -> tuple[tuple[Record, ...], tuple[int, ...]]:
    """The disk after reading the log behind `after`, and the sessions whose last record there is older.

    The record with the higher applied offset wins, the later one among equals.  A tombstone without an
    offset always wins (that is why it needs one).
    """
    sessions = list(disk)
    behind = set()
    for offset, session, record in log:
        if offset <= after:
            continue
        blind = record == ABSENT and not rules.tombstones_carry_offset
        if blind or record[0] >= sessions[session][0]:
            sessions[session] = record
            behind.discard(session)
        else:
            behind.add(session)
    return tuple(sessions), tuple(sorted(behind))


def compacted(log: tuple[Entry, ...], before: int) -> tuple[Entry, ...]:
    """Of the entries at offsets below `before`, only the last of each session stays."""
    last = {session: offset for offset, session, _ in log if offset < before}
    return tuple(e for e in log if e[0] >= before or last[e[1]] == e[0])
