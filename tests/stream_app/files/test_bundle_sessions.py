"""`sessions.safetensors`: what was written comes back, and nothing that an index could trip over is read."""

import numpy as np
import pytest
import safetensors.numpy

from stream_app.core.session_neighbours import PastSessions
from stream_app.files import bundle_sessions
from stream_app.files.bundle_sessions import past_sessions_of, sessions_bytes

PAST = PastSessions(np.array([3, 1, 2, 0, 3]), np.array([0, 2, 5]))


def file_of(**tables: object) -> bytes:
    data = safetensors.numpy.load(sessions_bytes(PAST)) | tables
    return safetensors.numpy.save({key: v for key, v in data.items() if v is not None})


def test_they_come_back() -> None:
    found = past_sessions_of(sessions_bytes(PAST), n_items=4)
    assert found.items.tolist() == PAST.items.tolist()
    assert found.starts.tolist() == PAST.starts.tolist()
    assert found.items.dtype == found.starts.dtype == np.int64
    assert found.n_sessions == 2


def test_no_session_at_all_comes_back() -> None:
    nothing = PastSessions(np.zeros(0, dtype=np.int64), np.zeros(1, dtype=np.int64))
    assert past_sessions_of(sessions_bytes(nothing), n_items=4).n_sessions == 0


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"no such file", "no safetensors file"),
        (file_of(items=None), "items is missing"),
        (file_of(starts=np.zeros(1, dtype=np.float32)), r"starts is float32 \[1\]"),
        (file_of(items=np.zeros((2, 2), dtype=np.int32)), r"items is int32 \[2, 2\]"),
        (file_of(starts=np.zeros(0, dtype=np.int32)), "begin and end"),
        (file_of(starts=np.array([0, 4, 2, 5], dtype=np.int32)), "begin and end"),
        (file_of(starts=np.array([0, 6], dtype=np.int32)), "begin and end"),
        (file_of(starts=np.array([1, 5], dtype=np.int32)), "begin and end"),
        (file_of(items=np.array([0, 1, -1, 0, 0], dtype=np.int32)), "none of the 4"),
        (file_of(items=np.array([0, 1, 4, 0, 0], dtype=np.int32)), "none of the 4"),
    ],
)
def test_what_makes_no_sense_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        past_sessions_of(data, n_items=4)


def test_more_than_a_worker_has_memory_for_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle_sessions, "CLICKS_MAX", 4)
    with pytest.raises(ValueError, match="5 clicks, 4 may be indexed"):
        past_sessions_of(sessions_bytes(PAST), n_items=4)
