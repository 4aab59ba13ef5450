"""An event loop whose time is made up, whose order comes from a seed, and whose processes can be frozen or killed.

Everything a simulated process does runs in a context that names it, so the loop knows whose turn each callback
is: a frozen process' callbacks wait (SIGSTOP), a dead one's are dropped (SIGKILL: no `finally` runs).
"""

import asyncio
import contextvars
import heapq
import inspect
import random
from collections.abc import Callable, Coroutine
from typing import Any

_PROCESS: "contextvars.ContextVar[Process | None]" = contextvars.ContextVar("process", default=None)

CALLBACKS_MAX = 200_000
"""A run needs a few thousand; more means that something spins."""


class Process:
    """What is frozen and killed as one."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_dead = False
        self.is_frozen = False
        self._tasks: list[asyncio.Task[Any]] = []
        self.waiting: list[asyncio.Handle] = []
        """Callbacks that came while it was frozen."""
        self._context = contextvars.Context()
        self._context.run(_PROCESS.set, self)

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine as a task of this process."""
        self._tasks.append(asyncio.get_running_loop().create_task(work, context=self._context))

    def call_later(self, seconds: float, call: Callable[[], None]) -> None:
        asyncio.get_running_loop().call_later(seconds, call, context=self._context)


class SimulatedLoop(asyncio.BaseEventLoop):
    """Time stands still while callbacks run, and jumps to the next timer when none is left."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self._rng = rng
        self._now = 0.0
        self._outside = contextvars.Context()
        self._callbacks = 0
        self._coroutines: list[Any] = []
        self.set_task_factory(self._remembered_task)
        self.set_exception_handler(lambda _loop, context: self._failed(context))
        self.failures: list[str] = []

    def _remembered_task(self, loop: Any, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
        self._coroutines.append(coroutine)
        return asyncio.Task(coroutine, loop=loop, **options)

    def forget_never_started(self) -> None:
        """Tasks of processes killed before they took their first step; Python would complain of them."""
        for coroutine in self._coroutines:
            if inspect.getcoroutinestate(coroutine) == inspect.CORO_CREATED:
                coroutine.close()

    def time(self) -> float:
        return self._now

    def outside(self, seconds: float, call: Callable[[], None]) -> None:
        """Let something happen that no process does: in the network, in the broker."""
        self.call_later(seconds, call, context=self._outside)

    def thaw(self, process: Process) -> None:
        process.is_frozen = False
        self._ready.extend(process.waiting)
        process.waiting.clear()

    def _run_once(self) -> None:
        scheduled, ready = self._scheduled, self._ready
        if not ready:
            if not scheduled:
                raise RuntimeError("everybody waits for something that nobody will do")
            self._now = max(self._now, scheduled[0].when())
        while scheduled and scheduled[0].when() <= self._now:
            timer = heapq.heappop(scheduled)
            timer._scheduled = False
            ready.append(timer)
        if len(ready) > 1:
            ready.rotate(-self._rng.randrange(len(ready)))
        handle = ready.popleft()
        if handle._cancelled:
            return
        process = handle._context.get(_PROCESS)
        if process is not None and process.is_dead:
            return
        if process is not None and process.is_frozen:
            process.waiting.append(handle)
            return
        self._callbacks += 1
        if self._callbacks > CALLBACKS_MAX:
            raise RuntimeError("callbacks without end: something spins")
        handle._run()

    def _failed(self, context: dict[str, Any]) -> None:
        if "was destroyed" not in context["message"]:  # a killed process' tasks are
            self.failures.append(f"{context['message']}: {context.get('exception')!r}")

    # What a loop without sockets has no use for:
    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        pass

    def _write_to_self(self) -> None:
        pass

    def _process_events(self, event_list: Any) -> None:
        pass

    def __del__(self, *_: Any) -> None:
        """Never closed: tasks of killed processes still point here when they are thrown away."""


def run_simulated(
    rng: random.Random, main: Callable[[SimulatedLoop], Coroutine[Any, Any, Any]]
) -> Any:
    """Run a coroutine to its end in a loop of its own."""
    loop = SimulatedLoop(rng)
    try:
        return loop.run_until_complete(main(loop))
    finally:
        loop.forget_never_started()
