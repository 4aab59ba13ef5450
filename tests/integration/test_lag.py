"""What the worker says of clicks that still wait."""

import signal
from collections.abc import Callable

from stream_app.adapters.click_feed import ROOM_CLICKS
from stream_app.settings import Settings
from tests.integration.processes import NextclickProcess, wait_until
from tests.integration.test_worker import made_up_clicks, produce

WAITING = 20_000
LATER = 6_000


def test_a_worker_that_is_far_behind_and_fetches_nothing_sees_its_lag_grow(
    settings: Settings, worker: Callable[..., NextclickProcess], port: int
) -> None:
    produce(
        settings, made_up_clicks(WAITING, sessions=1)
    )  # one partition, so that one fetch says all
    process = worker("--set", "serving.batch_clicks_max=1")

    def metric(name: str) -> float:
        return process.metrics(port).get(name, 0.0)

    def waiting() -> float:
        return metric("nextclick_waiting_clicks")

    wait_until("more waits than is fetched ahead", lambda: waiting() > ROOM_CLICKS)
    process.process.send_signal(signal.SIGSTOP)
    produce(settings, made_up_clicks(LATER, sessions=1, seed=1))
    process.process.send_signal(signal.SIGCONT)
    fetched = waiting()

    def lag() -> float:
        names = [name for name in process.metrics(port) if "consumer_lag_clicks{" in name]
        return sum(metric(name) for name in names)

    wait_until("the new clicks are told", lambda: lag() > WAITING)
    assert waiting() <= fetched, "it has fetched since, and knows from there"
    assert process.terminate() == 0
