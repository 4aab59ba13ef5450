"""What must hold in every state, and what must hold once everything has settled."""

from collections.abc import Callable
from functools import cache

from tests.model.protocol import (
    ABSENT,
    Bounds,
    Entry,
    Record,
    Rules,
    State,
    compacted,
    folded,
    restored,
)

HEALED_MAX = 6
"""Within the tests' bounds nobody needs to heal so often: two workers that mend behind each other do."""


def is_settled(state: State, bounds: Bounds, rules: Rules) -> bool:
    """All clicks committed, nothing in flight, at most the owner runs and has nothing left to do."""
    return (
        state.committed == len(bounds.clicks)
        and not state.in_flight
        and any(worker.is_owner for worker in state.workers)
        and all(
            not worker.runs
            or (
                worker.is_owner
                and not worker.works
                and (worker.expected == state.log_end or not rules.watches_end)
            )
            for worker in state.workers
        )
    )


def promise_check(bounds: Bounds, rules: Rules) -> Callable[[State], str | None]:
    """A function that names the promise a state breaks."""
    clicks = bounds.clicks
    nothing = (ABSENT,) * bounds.sessions
    last_click = [
        [
            max((o for o, c in enumerate(clicks[:upto]) if c.session == session), default=-1)
            for upto in range(len(clicks) + 1)
        ]
        for session in range(bounds.sessions)
    ]

    def is_true(session: int, record: Record) -> bool:
        """The fold of the session's clicks up to the record's offset; or removed, where sessions expire."""
        if record[0] < 0:
            return True
        truth = folded(clicks, session, record[0])
        if not record[1]:
            return not truth[1] or bool(bounds.expiries and record[0] == last_click[session][-1])
        return record == truth

    def lost(session: int, record: Record, committed: int) -> bool:
        """A committed click is neither in the record nor removed by a later one."""
        last = last_click[session][committed]
        return record[0] < last and not (
            record == ABSENT and (not folded(clicks, session, last)[1] or bounds.expiries)
        )

    @cache
    def log_problem(log: tuple[Entry, ...], committed: int) -> str | None:
        for _, session, record in log:
            if not is_true(session, record):
                return f"the changelog holds a state of session {'ab'[session]} that is not the fold of its clicks: {record}"
        restoring, _ = restored(nothing, log, after=-1, rules=rules)
        for session, record in enumerate(restoring):
            erasing = record == ABSENT and any(e[1:] == (session, ABSENT) for e in log)
            if lost(session, record, committed) and not erasing:
                return (
                    f"committed, but a restore gives session {'ab'[session]} without it: {record}"
                )
            if not is_true(session, record):
                return f"a restore gives a wrong state of session {'ab'[session]}: {record}"
        return None

    def final_problem(state: State, sessions: tuple[Record, ...], where: str) -> str | None:
        for session, record in enumerate(sessions):
            truth = folded(clicks, session, len(clicks) - 1)
            if lost(session, record, len(clicks)) or not is_true(session, record):
                return f"all clicks are committed, and {where} session {'ab'[session]} is {record} instead of {truth}"
            if record[1] and not truth[1]:
                return f"all clicks are committed, and {where} the erased session {'ab'[session]} is back: {record}"
        return None

    def problem(state: State) -> str | None:
        if state.answered and state.answered[0] < 0:
            return f"click {~state.answered[0]} is answered with other content than its session's fold gives"
        for offset in range(state.committed):
            if not clicks[offset].erases and offset not in state.answered:
                return f"click {offset} is committed and was never answered"
        if state.healed >= HEALED_MAX:
            return "endless: each worker mends the changelog behind the other"
        found = None
        if not bounds.only_in_the_end:
            found = log_problem(state.log, state.committed)
        if found or not is_settled(state, bounds, rules):
            return found
        whole, _ = restored(nothing, state.log, after=-1, rules=rules)
        log = compacted(state.log, state.log_end)
        after_compaction, _ = restored(nothing, log, after=-1, rules=rules)
        owner = next(worker for worker in state.workers if worker.is_owner)
        return (
            final_problem(state, whole, "restored from the changelog")
            or final_problem(state, after_compaction, "restored after compaction")
            or final_problem(state, owner.disk, "on the owner's disk")
        )

    return problem
