"""The order of effects, with everything that can happen in between.

One partition, two workers, one broker.  An action is what happens at once as far as anybody else can see:
a kill between "RocksDB written" and "changelog sent" is a kill after a send whose packet was lost, so
the two are one action and the packet's fate another.
"""

from collections.abc import Iterator

from tests.model.promises import is_settled, promise_check
from tests.model.protocol import (
    ABSENT,
    LOGGED,
    LOGGING,
    WAITS,
    Bounds,
    Record,
    Rules,
    State,
    Work,
    Worker,
    applied,
    compacted,
    first_state,
    folded,
    normal,
    restored,
)
from tests.model.search import Model
from tests.model.steps import (
    Action,
    appended,
    ended,
    offsets_shown,
    session_name,
    shown,
    spent,
    staged,
    step,
    with_worker,
)

NETWORK = -1


def order_of_effects(rules: Rules, bounds: Bounds) -> Model[State]:
    """The model of these rules within these bounds, for `explore`."""
    return Model(
        first=first_state(bounds),
        successors=_World(rules, bounds).actions,
        normal=lambda state: normal(state, bounds),
        is_settled=lambda state: is_settled(state, bounds, rules),
        problem=promise_check(bounds, rules),
    )


class _World:
    def __init__(self, rules: Rules, bounds: Bounds) -> None:
        self.rules, self.bounds = rules, bounds

    def actions(self, state: State) -> Iterator[Action]:
        for who, worker in enumerate(state.workers):
            if self._is_alone(state, who):
                taken = list(self._take(state, who, worker))
                if taken:
                    yield from taken
                    return
        for who, worker in enumerate(state.workers):
            if not worker.runs:
                yield from self._start(state, who, worker)
            elif worker.heals:
                yield self._heal(state, who, worker)
                yield from self._kill(state, who, worker)
            else:
                yield from self._take(state, who, worker)
                yield from self._expire(state, who, worker)
                yield from self._deliver(state, who, worker)
                yield from self._settle(state, who, worker)
                yield from self._commit(state, who, worker)
                yield from self._kill(state, who, worker)
        yield from self._network(state)
        yield from self._broker(state)

    def _is_alone(self, state: State, who: int) -> bool:
        """Whether a worker may as well take its clicks at once, whatever else can happen.

        Nobody else writes, so it will meet no record that it could adopt, and what it computes does not
        depend on when; a kill forgets what was taken.  Only the order among such independent actions is
        left out of the search (a partial order reduction).
        """
        worker, other = state.workers[who], state.workers[1 - who]
        return (
            worker.runs
            and not worker.heals
            and not other.runs
            and not state.in_flight
            and not state.faults.foreign_records
            and not state.faults.expiries
            and self.rules.verifies_owner
        )

    # -- take, deliver --------------------------------------------------------------------------------

    def _take(self, state: State, who: int, worker: Worker) -> Iterator[Action]:
        """Take clicks and fold them.  Not before what a restore sends again is settled."""
        clicks, works = self.bounds.clicks, worker.works
        if len(works) >= self.bounds.batches_in_flight or any(w.is_restore for w in works):
            return
        most = min(self.bounds.batch_clicks, len(clicks) - worker.position)
        for n in range(1, most + 1):
            offsets = range(worker.position, worker.position + n)
            records: dict[int, Record] = {}
            owed: list[int] = []
            for offset in offsets:
                click = clicks[offset]
                before = records.get(click.session) or staged(worker, click.session)
                if offset <= before[0]:
                    if self.rules.resends_redelivered:
                        records.setdefault(click.session, before)
                    continue
                after = applied(before, click, offset)
                if not click.erases:
                    right = after == folded(clicks, click.session, offset)
                    owed.append(offset if right else ~offset)
                elif not self.rules.tombstones_carry_offset:
                    after = ABSENT
                records[click.session] = after
            work = Work(WAITS, tuple(owed), tuple(sorted(records.items())), offsets[-1] + 1)
            text = f"takes click {offsets_shown(offsets)}"
            yield step(
                who,
                text if owed else f"{text}: nothing to answer, state {shown(work.records)}",
                with_worker(
                    state,
                    who,
                    worker._replace(works=(*works, work), position=offsets[-1] + 1),
                ),
            )

    def _expire(self, state: State, who: int, worker: Worker) -> Iterator[Action]:
        """Remove a session that gets no more clicks (its silence is longer than any gap)."""
        if not state.faults.expiries or len(worker.works) >= self.bounds.batches_in_flight:
            return
        for session in range(self.bounds.sessions):
            known = staged(worker, session)
            later = self.bounds.clicks[known[0] + 1 :]
            if not known[1] or any(click.session == session for click in later):
                continue
            tombstone = (known[0], ()) if self.rules.tombstones_carry_offset else ABSENT
            work = Work(WAITS, (), ((session, tombstone),), 0)
            after = with_worker(state, who, worker._replace(works=(*worker.works, work)))
            yield step(
                who, f"lets session {session_name(session)} expire", spent(after, "expiries")
            )

    def _deliver(self, state: State, who: int, worker: Worker) -> Iterator[Action]:
        """Send answers; await their acks; write the states to RocksDB and send them to the changelog."""
        works = worker.works
        at = next((i for i, work in enumerate(works) if work.stage == WAITS), len(works))
        for i, work in enumerate(works):
            if work.owed:
                if i == at or self.rules.group or not self.rules.answers_first:
                    acked = (*works[:i], work._replace(owed=()), *works[i + 1 :])
                    after = with_worker(state, who, worker._replace(works=acked))
                    answered = tuple(sorted({*state.answered, *work.owed}))
                    text = f"has answers of click {offsets_shown(work.owed)} stored and acked"
                    yield step(who, text, after._replace(answered=answered))
                break
        for ready in range(at, len(works)):
            if works[ready].owed and self.rules.answers_first:
                break
            yield self._write(state, who, worker, at, ready + 1)
            if not self.rules.group:
                break

    def _write(self, state: State, who: int, worker: Worker, start: int, stop: int) -> Action:
        """RocksDB and changelog: batches `start`..`stop`, the last record of each session once."""
        group = worker.works[start:stop]
        records: dict[int, Record] = {}
        for work in group:
            records.update(work.records)
        disk = list(worker.disk)
        for session, record in records.items():
            disk[session] = record
        merged = Work(
            LOGGING,
            tuple(offset for work in group for offset in work.owed),
            tuple(sorted(records.items())),
            max(work.done for work in group),
        )
        worker = worker._replace(
            disk=tuple(disk), works=(*worker.works[:start], merged, *worker.works[stop:])
        )
        if not self.rules.done_when_logged:
            worker = worker._replace(done=max(worker.done, merged.done))
        text = f"writes {shown(merged.records)} to RocksDB and sends it to the changelog"
        if not records:
            text = "has no states to write"
            logged = merged._replace(stage=LOGGED, base=worker.expected)
            worker = worker._replace(
                works=(*worker.works[:start], logged, *worker.works[start + 1 :])
            )
        return step(who, text, with_worker(state, who, worker))

    # -- changelog acks, gaps, commits ----------------------------------------------------------------

    def _settle(self, state: State, who: int, worker: Worker) -> Iterator[Action]:
        """The changelog's ack: was our record stored right behind our last one?"""
        if worker.works:
            work = worker.works[0]
            if work.stage != LOGGED or work.owed:
                return
            gap = work.records and work.base != worker.expected
            if gap and self.rules.checks_gaps:
                yield from self._meet_gap(state, who, worker)
            else:
                yield self._settled(state, who, worker)
        elif self.rules.watches_end and worker.expected != state.log_end:
            yield from self._meet_gap(state, who, worker)

    def _settled(self, state: State, who: int, worker: Worker) -> Action:
        work, *rest = worker.works
        mending = self.rules.notes_after_resend and any(other.is_resend for other in rest)
        if work.records:
            worker = worker._replace(expected=work.base + len(work.records))
            if not mending:
                worker = worker._replace(noted=worker.expected - 1)
        worker = worker._replace(works=tuple(rest), done=max(worker.done, work.done))
        state = with_worker(state, who, worker)
        if worker.is_owner and not any(other.is_resend for other in rest):
            state = state._replace(looked_at=max(state.looked_at, worker.expected))
        return step(who, "has the changelog's ack: the batch is done", state)

    def _meet_gap(self, state: State, who: int, worker: Worker) -> Iterator[Action]:
        text = "finds a foreign record in the changelog"
        if self.rules.on_gap == "exit":
            yield from ended(state, who, worker, f"{text} and ends")
        elif worker.is_owner or not self.rules.verifies_owner:
            text += ", and its generation may commit" if self.rules.verifies_owner else ""
            yield step(who, text, with_worker(state, who, worker._replace(heals=True)))
        else:
            yield from ended(state, who, worker, f"{text}; its commit is refused, so it ends")

    def _heal(self, state: State, who: int, worker: Worker) -> Action:
        """Read the gap again, and write ours behind what is older there; only then are clicks done."""
        works = list(worker.works)
        head = works.pop(0) if works and works[0].stage == LOGGED else None
        end = head.base if head else state.log_end
        disk, records = list(worker.disk), {}
        for offset, session, foreign in state.log:
            if not worker.expected <= offset < end:
                continue
            ours = worker.disk[session]
            known = ours[0]
            if ours == ABSENT and self.rules.absent_counts_as_committed:
                known = worker.done - 1
            newer = foreign[0] > max(known, disk[session][0])
            if self.rules.adopts == "any" or (self.rules.adopts == "newer" and newer):
                disk[session] = foreign
            records[session] = disk[session]
            if records[session] == ABSENT and self.rules.tombstones_carry_offset:
                records[session] = (known, ())
        if self.rules.heals_from == "staged":
            records = {session: staged(worker, session) for session in records}
        done = head.done if head else 0
        at = 0
        while at < len(works) and works[at].stage >= LOGGING:
            done = max(done, works[at].done)
            works[at] = works[at]._replace(done=0)
            at += 1
        works.insert(at, Work(LOGGING, (), tuple(sorted(records.items())), done, is_resend=True))
        worker = worker._replace(
            heals=False,
            disk=tuple(disk),
            expected=head.base + len(head.records) if head else state.log_end,
            works=tuple(works),
        )
        text = f"reads the gap and sends {shown(tuple(records.items()))} behind it"
        return step(who, text, with_worker(state._replace(healed=state.healed + 1), who, worker))

    def _commit(self, state: State, who: int, worker: Worker) -> Iterator[Action]:
        """Commit what is done.  A stale generation is refused, and its worker ends."""
        if worker.is_owner:
            if worker.done > state.committed:
                text = f"commits up to click {worker.done - 1}"
                yield step(who, text, state._replace(committed=worker.done))
        elif worker.done > state.committed:
            yield from ended(state, who, worker, "is refused its commit and ends")
        elif not worker.works:
            yield from ended(state, who, worker, "learns that it is no owner any more")

    # -- start, kill ----------------------------------------------------------------------------------

    def _start(self, state: State, who: int, worker: Worker) -> Iterator[Action]:
        """Get the partition: from nobody, or from a worker that runs on without knowing."""
        other = state.workers[1 - who]
        if other.runs and other.is_owner:
            if not state.faults.zombies:
                return
            state = spent(with_worker(state, 1 - who, other._replace(is_owner=False)), "zombies")
        if self.rules.wipes_old_disk and worker.noted < state.vanished:
            worker = worker._replace(disk=(ABSENT,) * self.bounds.sessions, noted=-1)
        yield self._restore(state, who, worker)
        if state.faults.kills:
            for stop in sorted(
                {offset for offset, _, _ in state.log[:-1] if offset > worker.noted}
            ):
                yield self._restore_in_part(state, who, worker, stop)

    def _restore(self, state: State, who: int, worker: Worker) -> Action:
        disk, behind = restored(worker.disk, state.log, after=worker.noted, rules=self.rules)
        works: tuple[Work, ...] = ()
        if behind and self.rules.resends_restored:
            records = tuple((session, disk[session]) for session in behind)
            works = (Work(LOGGING, (), records, 0, is_resend=True, is_restore=True),)
        else:
            state = state._replace(looked_at=state.log_end)
        if not works or not self.rules.notes_after_resend:
            worker = worker._replace(noted=state.log_end - 1)
        started = Worker(
            is_owner=True,
            runs=True,
            position=state.committed,
            works=works,
            disk=disk,
            noted=worker.noted,
            expected=state.log_end,
            done=state.committed,
        )
        text = f"gets the partition from click {state.committed} on and restores {shown(tuple(enumerate(disk)))}"
        if works:
            text += f"; sends {shown(works[0].records)} again"
        return step(who, text, with_worker(state, who, started))

    def _restore_in_part(self, state: State, who: int, worker: Worker, stop: int) -> Action:
        """Killed in mid-restore, after the chunk that ends at changelog offset `stop`."""
        part = tuple(entry for entry in state.log if entry[0] <= stop)
        disk, behind = restored(worker.disk, part, after=worker.noted, rules=self.rules)
        noted = stop if not (behind and self.rules.notes_after_resend) else worker.noted
        worker = worker._replace(disk=disk, noted=noted, is_owner=False)
        text = f"gets the partition and is killed in its restore after changelog offset {stop}"
        return step(who, text, spent(with_worker(state, who, worker), "kills"), is_fault=True)

    def _kill(self, state: State, who: int, worker: Worker) -> Iterator[Action]:
        if not state.faults.kills:
            return
        for ending, after, _ in ended(spent(state, "kills"), who, worker, "is killed"):
            yield ending, after, True
            gone = after.workers[who]._replace(disk=(ABSENT,) * self.bounds.sessions, noted=-1)
            text = f"{ending.what}, its disk lost"
            yield step(who, text, with_worker(after, who, gone), is_fault=True)

    # -- network, broker ------------------------------------------------------------------------------

    def _network(self, state: State) -> Iterator[Action]:
        """What was sent to the changelog is stored: in order per worker, also after its end."""
        for who, worker in enumerate(state.workers):
            for i, work in enumerate(worker.works):
                if work.stage == LOGGING:
                    stored = work._replace(stage=LOGGED, base=state.log_end)
                    works = (*worker.works[:i], stored, *worker.works[i + 1 :])
                    after = appended(state, work.records)
                    after = with_worker(after, who, worker._replace(works=works))
                    text = f"its {shown(work.records)} is stored in the changelog"
                    yield step(who, text, after)
                    break
        for i, (records, *later) in enumerate(state.in_flight):
            others = (*state.in_flight[:i], *state.in_flight[i + 1 :])
            queues = sorted((*others, tuple(later)) if later else others)
            after = appended(state, records)._replace(in_flight=tuple(queues))
            text = f"{shown(records)} of an ended worker is stored in the changelog"
            yield step(NETWORK, text, after)

    def _broker(self, state: State) -> Iterator[Action]:
        """Foreign records, compaction, and tombstones that vanish."""
        faults = state.faults
        if faults.foreign_records:
            for session, record in sorted({(session, record) for _, session, record in state.log}):
                after = spent(appended(state, ((session, record),)), "foreign_records")
                text = f"somebody writes an old {shown(((session, record),))} into the changelog"
                yield step(NETWORK, text, after, is_fault=True)
        anything = self.bounds.compacts == "anything"
        before = state.log_end if anything else state.looked_at
        if anything:
            log = compacted(state.log, before)
            if log != state.log:
                text = "Kafka compacts the changelog"
                yield step(NETWORK, text, state._replace(log=log), is_fault=True)
        awake = not state.in_flight and all(w.is_owner or not w.runs for w in state.workers)
        if faults.vanishing and (self.bounds.sleeps_longer or (awake and before == state.log_end)):
            for offset, session, record in state.log:
                is_old = offset < before and (anything or record[0] < state.committed)
                first = next(other for other, owner, _ in state.log if owner == session)
                if not record[1] and is_old and first == offset:
                    log = tuple(entry for entry in state.log if entry[0] != offset)
                    after = state._replace(log=log, vanished=max(state.vanished, offset))
                    text = f"the tombstone of session {session_name(session)} vanishes from the changelog"
                    yield step(NETWORK, text, spent(after, "vanishing"), is_fault=True)
            for who, worker in enumerate(state.workers):
                kept = tuple(
                    ABSENT if not record[1] and record[0] < state.committed else record
                    for record in worker.disk
                )
                if worker.runs and worker.is_owner and kept != worker.disk:
                    after = with_worker(state, who, worker._replace(disk=kept))
                    yield step(who, "forgets old tombstones", after, is_fault=True)
