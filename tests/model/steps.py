"""Small parts of every action: changing a state, and telling of it."""

from collections.abc import Iterable, Iterator

from tests.model.protocol import ABSENT, LOGGING, WAITS, Record, State, Worker
from tests.model.search import Step

Action = tuple[Step, State, bool]
"""Who did what, the state after it, and whether it is a fault (nothing may depend on its happening)."""


def staged(worker: Worker, session: int) -> Record:
    """The newest record computed of a session: what the next click is folded into."""
    for work in reversed(worker.works):
        if work.stage == WAITS:
            for other, record in work.records:
                if other == session:
                    return record
    return worker.disk[session]


def ended(state: State, who: int, worker: Worker, text: str) -> Iterator[Action]:
    """The process is gone, its disk stays; what it had sent may still arrive, in part or not at all."""
    ended = worker._replace(
        is_owner=False, runs=False, works=(), position=0, expected=0, done=0, heals=False
    )
    after = with_worker(state, who, ended)
    sent = [work.records for work in worker.works if work.stage == LOGGING]
    yield step(who, text, after)
    for n in range(1, len(sent) + 1):
        in_flight = tuple(sorted((*state.in_flight, tuple(sent[:n]))))
        yield step(who, f"{text}, {n} sends in flight", after._replace(in_flight=in_flight))


def step(who: int, text: str, state: State, *, is_fault: bool = False) -> Action:
    return Step(who, text), state, is_fault


def with_worker(state: State, who: int, worker: Worker) -> State:
    first, second = state.workers
    return state._replace(workers=(worker, second) if who == 0 else (first, worker))


def spent(state: State, fault: str) -> State:
    left = getattr(state.faults, fault) - 1
    return state._replace(faults=state.faults._replace(**{fault: left}))


def appended(state: State, records: tuple[tuple[int, Record], ...]) -> State:
    entries = tuple(
        (state.log_end + i, session, record) for i, (session, record) in enumerate(records)
    )
    return state._replace(log=(*state.log, *entries), log_end=state.log_end + len(records))


def offsets_shown(offsets: Iterable[int]) -> str:
    return " and ".join(str(max(offset, ~offset)) for offset in offsets)


def session_name(session: int) -> str:
    return "ab"[session]


def shown(records: tuple[tuple[int, Record], ...]) -> str:
    """`a@2[0 2]`: session a, last applied offset 2, clicks 0 and 2 in it."""
    shown = [
        f"{session_name(session)}@{offset}[{' '.join(map(str, clicks))}]"
        for session, (offset, clicks) in records
        if offset >= 0 or clicks
    ]
    removed = [f"{session_name(s)} removed" for s, record in records if record == ABSENT]
    return ", ".join((*shown, *removed)) or "nothing"
