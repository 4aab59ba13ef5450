"""What a ranker is asked: which item follows, at chosen positions of sessions."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from stream_app.core.errors import ClickFileError
from stream_app.core.vocabulary import ItemVocabulary
from stream_app.evaluation.sessions import SessionTable, item_indexes
from stream_app.evaluation.targets import target_positions


@dataclass(frozen=True, slots=True, eq=False)
class NextClicks:
    """Sessions, and the positions in them whose item is to be predicted from what came before.

    positions: int64 [n_targets], rising, into `sessions.item_indexes`; never a session's first click.
    """

    sessions: SessionTable
    positions: NDArray[np.int64]

    @property
    def n_targets(self) -> int:
        return len(self.positions)

    @property
    def targets(self) -> NDArray[np.int64]:
        """Item index of each, int64 [n_targets]; -1: not in the vocabulary."""
        return self.sessions.item_indexes[self.positions]

    @property
    def session_numbers(self) -> NDArray[np.int64]:
        """The session that each target belongs to, int64 [n_targets]."""
        return np.searchsorted(self.sessions.session_starts, self.positions, side="right") - 1

    def newest(self, n_targets: int) -> "NextClicks":
        """The last of the sessions that hold at most so many targets together; all if that is enough."""
        numbers = self.session_numbers
        if len(numbers) <= n_targets:
            return self
        first = int(numbers[-n_targets - 1]) + 1
        shift = self.sessions.session_starts[first]
        kept = self.sessions.select(np.arange(first, self.sessions.n_sessions))
        return NextClicks(kept, self.positions[numbers >= first] - shift)


def all_next_clicks(sessions: SessionTable) -> NextClicks:
    """Every position from a session's second."""
    return NextClicks(sessions, target_positions(sessions))


def read_pairs(path: Path, vocabulary: ItemVocabulary) -> NextClicks:
    """The (prefix, label) pairs of a Parquet file, as the literature's benchmarks store their test part.

    Columns: prefix, a list of item ids (numbers or strings), oldest first; label, the item that
    follows.  Each prefix is a session's beginning, from an empty state.  Raises `ClickFileError`.
    """
    try:
        table = pq.read_table(path, columns=["prefix", "label"])
    except FileNotFoundError as error:
        raise ClickFileError(f"{path} does not exist") from error
    except (OSError, pa.ArrowException) as error:
        raise ClickFileError(
            f"{path} holds no pairs (Parquet: prefix, a list of item ids, and label): {error}"
        ) from error
    prefix, label = table["prefix"].combine_chunks(), table["label"].combine_chunks()
    if not (pa.types.is_list(prefix.type) or pa.types.is_large_list(prefix.type)):
        raise ClickFileError(f"{path}: column prefix holds {prefix.type}, it must hold lists")
    lengths = np.asarray(pc.fill_null(pc.list_value_length(prefix), 0)).astype(np.int64)
    if len(lengths) == 0 or lengths.min() == 0:
        raise ClickFileError(f"{path} has no pairs, or one with an empty prefix")
    clicked = item_indexes(pa.table({"item_id": prefix.flatten()}), vocabulary)
    followed = item_indexes(pa.table({"item_id": label}), vocabulary)
    ends = np.cumsum(lengths)
    prefixes = [
        clicked[end - length : end].tolist() for end, length in zip(ends, lengths, strict=True)
    ]
    return next_clicks_of_pairs(prefixes, followed.tolist())


def next_clicks_of_pairs(prefixes: Sequence[Sequence[int]], labels: Sequence[int]) -> NextClicks:
    """Pairs of item indexes as sessions, those of one session joined; same pairs, same lists, less work.

    A pair belongs to the session of the one before it in the file when it is a shorter beginning of
    it.  (What is joined needs no second look: a list depends on the prefix alone.)
    """
    items: list[int] = []
    starts, positions = [0], []
    session: list[int] = []
    shortest = 0
    for prefix, label in zip(prefixes, labels, strict=True):
        n = len(prefix)
        if n < shortest and session[:n] == list(prefix) and session[n] == label:
            positions.append(starts[-2] + n)
        else:
            session = [*prefix, label]
            items += session
            starts.append(len(items))
            positions.append(starts[-2] + n)
        shortest = n
    lengths = np.diff(starts)
    table = SessionTable(
        np.array(items, dtype=np.int64),
        np.array(starts, dtype=np.int64),
        np.repeat(np.arange(len(lengths), dtype=np.int64), lengths),
    )
    return NextClicks(table, np.sort(np.array(positions, dtype=np.int64)))
