"""`nextclick broker`: a real Kafka on this machine."""

import signal
from pathlib import Path
from types import FrameType

import click

from stream_app.adapters.local_kafka import DEFAULT_PORT, LocalKafka
from stream_app.adapters.running_broker import find_running, stop_running
from stream_app.core.errors import ServiceAwayError

_TERMINATED = 128 + signal.SIGTERM

_data_dir = click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("nextclick-data/kafka"),
    show_default=True,
    help="Where the broker keeps its topics, its log and its pid file.",
)


@click.group()
def broker() -> None:
    """A real Apache Kafka on this machine; no Docker, no Java needed.

    \b
    Example:
      nextclick broker start
      nextclick topics create
      nextclick broker stop
    """


@broker.command()
@_data_dir
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=DEFAULT_PORT,
    show_default=True,
    help="Port to listen on (127.0.0.1 only); 0 takes a free one.",
)
@click.option("--foreground", is_flag=True, help="Stay, and stop the broker on Ctrl-C.")
def start(data_dir: Path, port: int, foreground: bool) -> None:
    """Start a broker and wait until it answers.

    The first start on a machine fetches Kafka from Maven Central (25-35 s, 45 MB); later ones take
    one to two seconds and no network.

    \b
    Example:
      nextclick broker start --port 9092 --data-dir /var/lib/nextclick/kafka
    """
    kafka = LocalKafka(data_dir, port=port, detached=not foreground, say=_say)
    if foreground:
        _run_until_stopped(kafka)
        return
    kafka.start()
    _say_ready(kafka)
    click.echo(f"stop it with: nextclick broker stop --data-dir {data_dir}")
    if not kafka.warm_start_is_ready():
        _say("preparing a faster next start, once (about 10 s; Ctrl-C skips it, the broker stays)")
        try:
            kafka.prepare_warm_start()
        except KeyboardInterrupt:
            click.echo("skipped", err=True)


@broker.command()
@_data_dir
def stop(data_dir: Path) -> None:
    """Stop the broker that runs on this data directory; its topics stay.

    \b
    Example:
      nextclick broker stop
    """
    stopped = stop_running(data_dir)
    if stopped is None:
        click.echo(f"no broker runs on {data_dir}")
    else:
        click.echo(f"broker at {stopped.bootstrap_servers} (pid {stopped.pid}) stopped")


@broker.command()
@_data_dir
def status(data_dir: Path) -> None:
    """Say whether a broker runs on this data directory, and where (exit 69 if none does).

    \b
    Example:
      nextclick broker status
    """
    running = find_running(data_dir)
    if running is None:
        raise ServiceAwayError(
            f"no broker runs on {data_dir}: start one with `nextclick broker start"
            f" --data-dir {data_dir}`"
        )
    click.echo(
        f"broker runs at {running.bootstrap_servers} (pid {running.pid}, data in {data_dir})"
    )


def _run_until_stopped(kafka: LocalKafka) -> None:
    """Until Ctrl-C, SIGTERM, or `nextclick broker stop` from elsewhere."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    signal.signal(signal.SIGINT, interrupt)  # a shell's background job would ignore it
    try:
        kafka.start()
        _say_ready(kafka)
        exit_status = kafka.wait()
    except KeyboardInterrupt:
        exit_status = _TERMINATED
    finally:
        kafka.stop()
    if exit_status != _TERMINATED:
        raise ServiceAwayError(f"the broker ended with status {exit_status}: see {kafka.log_file}")
    click.echo("broker stopped")


def _say_ready(kafka: LocalKafka) -> None:
    click.echo(
        f"broker ready at {kafka.bootstrap_servers} (pid {kafka.pid}, data in {kafka.data_dir})"
    )


def _say(text: str) -> None:
    click.echo(text, err=True)
