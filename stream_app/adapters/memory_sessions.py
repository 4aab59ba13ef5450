"""`SessionStore` over a dict, for offline replay and tests."""

from collections.abc import Sequence

from stream_app.core.session import SessionState


class MemorySessions:
    def __init__(self) -> None:
        self.states: dict[tuple[int, str], SessionState] = {}

    def get_many(self, keys: Sequence[tuple[int, str]]) -> list[SessionState | None]:
        return [self.states.get(key) for key in keys]

    def put_many(self, states: dict[tuple[int, str], SessionState]) -> None:
        """Removed sessions leave nothing behind: who reads a file meets no click twice."""
        for key, state in states.items():
            if state.is_removed:
                self.states.pop(key, None)
            else:
                self.states[key] = state
