"""The two hops through Kafka and nothing else: a click in, a made-up answer of an answer's size out.

`python -m tests.benchmarks.bare_path ANSWER_FILE --set ...` stands in a worker's place: its consumer, its
producer, its batches, its commits, on uvloop; nothing decoded, computed or kept.
"""

import asyncio
import signal
from pathlib import Path

import click
import uvloop

from stream_app.adapters.click_feed import TakenClicks
from stream_app.adapters.faust_transport import ClickApp, Message, Sent, base_offsets
from stream_app.cli.options import with_settings
from stream_app.logging_setup import set_up_logging
from stream_app.services.recommendation_loop import PIPELINE_DEPTH, die
from stream_app.services.worker import _faust_options, _or_die, _spare_the_collector
from stream_app.settings import Settings

EVENT_ID = b'"event_id":"'


class BarePath:
    """Two stages: take and send; await the acks and finish."""

    def __init__(self, app: ClickApp, settings: Settings, answer: bytes) -> None:
        self._app, self._settings, self._answer = app, settings, answer
        self._sent: asyncio.Queue[tuple[TakenClicks, Sent]] = asyncio.Queue(PIPELINE_DEPTH)
        self._undelivered = 0
        self._hurry = asyncio.Event()
        self._hurry.set()
        self._batches = 0

    async def send(self) -> None:
        feed, cap = self._app.feed, self._settings.serving.batch_clicks_max
        while True:
            taken = await feed.take(cap, hurry=self._hurry)
            self._batches += 1
            self._undelivered += 1
            self._hurry.clear()
            answers: dict[int, list[Message]] = {}
            for record in taken.records:
                answer = self._answer_to(record.value)
                answers.setdefault(record.partition, []).append((record.key, answer, ()))
            sent: Sent = []
            for partition, messages in answers.items():
                topic = self._settings.topics.recommendations
                sent += await self._app.send(topic, partition, messages)
            await self._sent.put((taken, sent))

    async def finish(self) -> None:
        while True:
            taken, sent = await self._sent.get()
            await base_offsets(sent)
            self._app.feed.finished(taken)
            self._undelivered -= 1
            if not self._undelivered:
                self._hurry.set()
                self._app.feed.wake()

    async def commit(self) -> None:
        """And tell how many batches there were."""
        counter = self._settings.data_dir / "batches"
        while True:
            await asyncio.sleep(self._settings.serving.commit_interval_ms / 1000)
            if not self._app.is_rebalancing:
                await self._app.commit_finished()
            counter.write_text(str(self._batches))

    def _answer_to(self, click: bytes) -> bytes:
        """The load client finds its clicks again by their event id."""
        at = click.find(EVENT_ID)
        if at < 0:
            return self._answer
        begin = at + len(EVENT_ID)
        event_id = click[begin : click.index(b'"', begin)]
        head = b'{"event_id":"%s",' % event_id
        return head + self._answer[len(head) :]


@click.command()
@click.argument("answer_file", type=click.Path(exists=True, path_type=Path))
@with_settings("kafka.bootstrap_servers", "data_dir")
def main(settings: Settings, answer_file: Path) -> None:
    """Answer until SIGTERM."""
    set_up_logging(settings.log_level, process="worker")
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    _spare_the_collector()
    uvloop.run(_run(settings, answer_file.read_bytes()))


async def _run(settings: Settings, answer: bytes) -> None:
    app = ClickApp(
        clicks_topic=settings.topics.clicks,
        on_assigned=_nothing,
        on_lost_clicks=lambda lost: None,
        on_halt=die,
        **_faust_options(settings),
    )
    path = BarePath(app, settings, answer)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await app.start()
    tasks = [
        asyncio.create_task(_or_die(task)) for task in (path.send(), path.finish(), path.commit())
    ]
    await stop.wait()
    await app.stop()
    for task in tasks:
        task.cancel()


async def _nothing(_partitions: set[int]) -> None:
    """There is no state to restore."""


if __name__ == "__main__":
    main()
