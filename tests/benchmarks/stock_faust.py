"""Faust as delivered, with a Table: what a worker would be without a consumer and a store of its own.

`python -m tests.benchmarks.stock_faust ANSWER_FILE --set ...`: an agent that gets and sets the session's
400 bytes (RocksDB and changelog are Faust's) and sends a made-up answer; no model.
"""

import asyncio
import signal
from pathlib import Path
from typing import Any

import click
import faust

from stream_app.adapters.faust_transport import broker_urls
from stream_app.cli.options import with_settings
from stream_app.logging_setup import set_up_logging
from stream_app.settings import Settings

STATE = bytes(400)


@click.command()
@click.argument("answer_file", type=click.Path(exists=True, path_type=Path))
@with_settings("kafka.bootstrap_servers", "data_dir")
def main(settings: Settings, answer_file: Path) -> None:
    """Answer until SIGTERM."""
    set_up_logging(settings.log_level, process="worker")
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    asyncio.run(_run(settings, answer_file.read_bytes()))


async def _run(settings: Settings, answer: bytes) -> None:
    raw: dict[str, Any] = {"key_type": bytes, "value_type": bytes}
    app = faust.App(
        settings.kafka.group_id,
        broker=broker_urls(settings.kafka.bootstrap_servers),
        datadir=str(settings.data_dir),
        store="rocksdb://?driver=rocksdict",
        topic_partitions=settings.topics.partitions,
        topic_disable_leader=True,
        web_enabled=False,
        autodiscover=False,
        worker_redirect_stdouts=False,
    )
    answers = app.topic(settings.topics.recommendations, **raw)
    clicks = app.topic(settings.topics.clicks, **raw)
    sessions = app.Table("sessions", partitions=settings.topics.partitions, **raw)

    @app.agent(clicks)  # type: ignore[untyped-decorator] # Faust has no types for us
    async def answer_each(stream: Any) -> None:
        async for event in stream.events():
            state = sessions.get(event.key)
            sessions[event.key] = STATE if state is None else state
            await answers.send(key=event.key, value=answer)

    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await app.start()
    await stop.wait()
    await app.stop()


if __name__ == "__main__":
    main()
