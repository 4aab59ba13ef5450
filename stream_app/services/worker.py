"""`nextclick worker`: wires the stream processor together, runs it, and ends it cleanly."""

import asyncio
import contextlib
import signal
import uuid
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import faust

from stream_app.adapters import http_endpoints
from stream_app.adapters.changelog import Changelog
from stream_app.adapters.faust_transport import ClickApp, broker_urls
from stream_app.adapters.instruments import WorkerInstruments, process_registry
from stream_app.adapters.kafka_clients import aio_client_options
from stream_app.adapters.kafka_topics import ensure_topics
from stream_app.adapters.onnx_scorer import OnnxScorer
from stream_app.adapters.releases import ReleaseFollower
from stream_app.adapters.rocksdb_sessions import RocksSessions
from stream_app.adapters.statistics_reader import StatisticsReader
from stream_app.core.errors import InvariantError
from stream_app.files.registry import Registry
from stream_app.logging_setup import get_logger
from stream_app.services.answers import LiveAnswers
from stream_app.services.live_model import LiveModel, SwapResult
from stream_app.services.recommendation_loop import RecommendationLoop
from stream_app.settings import Settings

SESSION_TIMEOUT_SECONDS: Final = 10.0
HEARTBEAT_SECONDS: Final = 3.0
"""A worker that dies is missed after the session timeout; static membership lets it return before."""
SETTLE_SECONDS: Final = 30.0
"""So long the first click waits for the live model; then popularity answers until it is there."""

log = get_logger("worker")


def run_worker(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT.

    Raises `ConfigurationError` or `ServiceAwayError` before the first click is taken; afterwards a
    failed write ends the process with status 70.
    """
    topics = ensure_topics(settings.kafka, settings.topics)
    settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    instruments = WorkerInstruments(process_registry())
    sessions = RocksSessions(
        settings.data_dir / "sessions", topic_id=topics[settings.topics.clicks].topic_id
    )
    live_model = LiveModel(
        ReleaseFollower(settings.kafka, settings.topics.releases),
        Registry(settings.registry, settings.data_dir / "models"),
        poll_seconds=settings.serving.releases_poll_seconds,
        on_swap=lambda result, scorer: _count_swap(instruments, result, scorer),
    )
    statistics = StatisticsReader(settings.kafka, settings.topics.statistics)
    answers = LiveAnswers(live_model, statistics, settings)
    with contextlib.ExitStack() as stack:
        stack.callback(sessions.close)
        for service in (live_model, statistics):
            service.start()
            stack.callback(service.stop)
        if not answers.wait_until_settled(SETTLE_SECONDS):
            log.warning("starting_unsettled", waited_seconds=SETTLE_SECONDS)
        asyncio.run(
            _serve(
                settings,
                sessions,
                answers,
                instruments,
                dead_letter_partitions=topics[settings.topics.dead_letters].partitions,
            )
        )


async def _serve(
    settings: Settings,
    sessions: RocksSessions,
    answers: LiveAnswers,
    instruments: WorkerInstruments,
    *,
    dead_letter_partitions: int,
) -> None:
    async def restore(partitions: set[int]) -> None:
        await loop.restore(partitions)

    app = ClickApp(
        clicks_topic=settings.topics.clicks, on_assigned=restore, **_faust_options(settings)
    )
    changelog = Changelog(settings.topics.sessions, sessions, aio_client_options(settings.kafka))
    loop = RecommendationLoop(
        app,
        sessions,
        changelog,
        answers,
        instruments,
        settings,
        dead_letter_partitions=dead_letter_partitions,
    )
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)

    def is_ready() -> tuple[bool, str]:
        if not loop.owned:
            return (
                False,
                "no partitions are assigned (yet, or there are more workers than partitions)",
            )
        return answers.is_ready()

    endpoints = http_endpoints.serve(
        settings.metrics.host,
        settings.metrics.port,
        registry=instruments.registry,
        is_ready=is_ready,
        is_healthy=loop.is_healthy,
    )
    log.info("worker_started", metrics=f"{endpoints.url}/metrics", data_dir=str(settings.data_dir))
    await app.start()
    tasks = [asyncio.create_task(task) for task in loop.tasks()]
    crashed = asyncio.create_task(app.wait_until_stopped())
    await asyncio.wait(
        (asyncio.create_task(stop.wait()), crashed), return_when=asyncio.FIRST_COMPLETED
    )
    if app.crash_reason is not None:
        raise InvariantError(f"the stream stopped: {app.crash_reason!r}") from app.crash_reason
    await app.stop()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks)
    endpoints.close()
    log.info("worker_stopped")


def _faust_options(settings: Settings) -> dict[str, Any]:
    scratch = settings.data_dir / "faust"
    scratch.mkdir(exist_ok=True)
    options: dict[str, Any] = {
        "id": settings.kafka.group_id,
        "broker": broker_urls(settings.kafka.bootstrap_servers),
        "datadir": str(scratch),
        "broker_client_id": settings.kafka.client_id,
        "broker_session_timeout": SESSION_TIMEOUT_SECONDS,
        "broker_heartbeat_interval": HEARTBEAT_SECONDS,
        "consumer_group_instance_id": _instance_id(settings.data_dir),
    }
    credentials = _credentials(settings)
    if credentials is not None:
        options["broker_credentials"] = credentials
    return options


def _credentials(settings: Settings) -> Any:
    kafka = settings.kafka
    ssl_context = aio_client_options(kafka).get("ssl_context")
    if kafka.security_protocol.startswith("SASL_"):
        return faust.SASLCredentials(
            username=kafka.sasl_username,
            password=kafka.sasl_password,
            mechanism=kafka.sasl_mechanism,
            ssl_context=ssl_context,
        )
    return faust.SSLCredentials(ssl_context) if ssl_context is not None else None


def _instance_id(data_dir: Path) -> str:
    """Name of this worker in its group, kept in its data directory.

    A worker that comes back under its name gets its partitions back at once, without a rebalance.
    """
    file = data_dir / "instance-id"
    if not file.exists():
        file.write_text(f"worker-{uuid.uuid4().hex[:12]}\n")
    return file.read_text().strip()


def _count_swap(
    instruments: WorkerInstruments, result: SwapResult, scorer: OnnxScorer | None
) -> None:
    if result == "refused":
        instruments.swap_failed("refused")
    elif scorer is None:
        instruments.swapped(None, made_at=None)
    else:
        made_at = datetime.fromisoformat(scorer.manifest.created_at).timestamp()
        instruments.swapped(scorer.model_version, made_at=made_at)
