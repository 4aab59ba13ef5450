"""The model's way through the sessions of a batch: as few calls as there are clicks in the longest one."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stream_app.core.ports import Scorer, StateRows


@dataclass(slots=True)
class Track:
    """The model's way through one session in this batch: where it starts, and the items it steps over."""

    start: bytes
    """Model state before the batch; empty: a fresh one."""
    item_indexes: list[int]
    row: int = 0

    @property
    def knows_something(self) -> bool:
        return bool(self.start) or bool(self.item_indexes)


def states_along(asked: Sequence[tuple[Track, int]], scorer: Scorer) -> StateRows:
    """Model state after so many steps of a track, a row for each that is asked: uint8 [n, state_size_bytes].

    Round r steps every session that has an r-th item, all in one call.  Sessions with most items come
    first, so that those still active are always the first rows.
    """
    tracks = list({id(track): track for track, _ in asked}.values())
    if len(tracks) == len(asked) and all(len(t.item_indexes) == 1 for t in tracks):
        return _step_once(tracks, scorer)
    tracks.sort(key=lambda track: -len(track.item_indexes))
    for row, track in enumerate(tracks):
        track.row = row
    states = _start_states(tracks, scorer).copy()

    wanted: dict[int, list[tuple[int, int]]] = {}
    for position, (track, steps_done) in enumerate(asked):
        wanted.setdefault(steps_done, []).append((position, track.row))
    rows: StateRows = np.empty((len(asked), scorer.state_size_bytes), dtype=np.uint8)

    def collect(steps_done: int) -> None:
        if steps_done in wanted:
            positions, from_rows = zip(*wanted[steps_done], strict=True)
            rows[list(positions)] = states[list(from_rows)]

    collect(0)
    active = len(tracks)
    for step in range(len(tracks[0].item_indexes)):
        while len(tracks[active - 1].item_indexes) <= step:
            active -= 1
        items = np.array([track.item_indexes[step] for track in tracks[:active]], dtype=np.int64)
        states[:active] = scorer.step(states[:active], items)
        collect(step + 1)
    return rows


def _step_once(tracks: list[Track], scorer: Scorer) -> StateRows:
    """The same where each answer has a session of its own with one new item: most batches."""
    items = np.array([track.item_indexes[0] for track in tracks], dtype=np.int64)
    return scorer.step(_start_states(tracks, scorer), items)


def _start_states(tracks: list[Track], scorer: Scorer) -> StateRows:
    """Read-only: uint8 [n_tracks, state_size_bytes]."""
    size = scorer.state_size_bytes
    fresh = bytes(size)
    joined = b"".join([track.start or fresh for track in tracks])
    return np.frombuffer(joined, dtype=np.uint8).reshape(len(tracks), size)
