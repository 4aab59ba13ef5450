"""Keeps a worker running as a process manager does in production."""

import threading
from types import TracebackType
from typing import Final, Self

from tests.chaos.lab import Stream, Worker

PAUSE_SECONDS: Final = 1.0
"""Between an end and the next start, as `RestartSec` or a back-off would."""
POLL_SECONDS: Final = 0.1


class Supervisor:
    """Starts worker `n` of a stream again whenever it ends.  A context manager.

    After the block the worker that runs is left running; nobody watches it any more.
    """

    def __init__(self, stream: Stream, n: int = 0) -> None:
        self._stream, self._n = stream, n
        self.ends: list[str] = []
        """Of those that ended, in order: the exit status, and why as far as their logs say."""
        self.worker: Worker = stream.start_worker(n)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="supervisor", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(POLL_SECONDS):
            if not self.worker.is_alive:
                self.ends.append(self._last_words())
                self._stop.wait(PAUSE_SECONDS)
                self.worker = self._stream.start_worker(self._n)

    def _last_words(self) -> str:
        status = self.worker.process.wait()
        said = self.worker.events("worker_ends")
        why = f"{said[-1]['kind']}: {said[-1]['error']}" if said else self.worker.log[-200:]
        return f"{status} ({why[:200].strip()})"
