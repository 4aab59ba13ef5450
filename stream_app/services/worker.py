"""`nextclick worker`: wires the stream processor together, runs it, and ends it cleanly."""

import asyncio
import contextlib
import gc
import signal
import threading
import uuid
from collections.abc import Coroutine
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import faust
import uvloop

from stream_app.adapters import http_endpoints
from stream_app.adapters.changelog_topic import ChangelogTopic
from stream_app.adapters.click_offsets import LostClicks
from stream_app.adapters.disk_metrics import DiskMetrics
from stream_app.adapters.faust_transport import ClickApp, broker_urls
from stream_app.adapters.instruments import WorkerInstruments, process_registry
from stream_app.adapters.kafka_clients import aio_client_options, broker_errors
from stream_app.adapters.kafka_topics import ensure_topics
from stream_app.adapters.onnx_scorer import OnnxScorer
from stream_app.adapters.releases import ReleaseFollower
from stream_app.adapters.rocksdb_sessions import RocksSessions
from stream_app.adapters.served_topics import ServedTopics
from stream_app.adapters.standby_instruments import StandbyInstruments
from stream_app.adapters.statistics_reader import StatisticsReader
from stream_app.adapters.store_metrics import StoreMetrics
from stream_app.core.errors import ConfigurationError, InvariantError, ServiceAwayError
from stream_app.files.registry import Registry
from stream_app.logging_setup import get_logger
from stream_app.services.answers import LiveAnswers
from stream_app.services.live_model import LiveModel, SwapResult
from stream_app.services.loop_points import AtPoint, nothing_happens
from stream_app.services.recommendation_loop import RecommendationLoop, die
from stream_app.services.session_log import SessionLog
from stream_app.services.standby import Standby
from stream_app.services.topic_watch import (
    TopicWatch,
    refuse_changed_disk,
    refuse_changed_topics,
    served_topics,
)
from stream_app.settings import Settings

HEARTBEATS_PER_SESSION_TIMEOUT: Final = 3.5
PRODUCER_REQUEST_SECONDS: Final = 10.0
"""A connection that has gone silent is given up after so long (Faust's default: 20 minutes)."""
STOP_SECONDS: Final = 25.0
"""So long a stop may take to finish what is in flight; Kubernetes kills after 30 s."""
SETTLE_SECONDS: Final = 30.0
"""So long the first click waits for the live model; then popularity answers until it is there."""

log = get_logger("worker")


def run_worker(settings: Settings, *, at: AtPoint = nothing_happens) -> None:
    """Run until SIGTERM or SIGINT.  at: told of the points it passes, for faults injected by tests.

    Raises `ConfigurationError` or `ServiceAwayError` before the first click is taken; afterwards a
    failed write ends the process with status 70.
    """
    topics = ensure_topics(settings.kafka, settings.topics)
    served = served_topics(settings.topics, topics)
    refuse_changed_topics(settings.kafka, settings.kafka.group_id, settings.topics, served)
    settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    refuse_changed_disk(settings.data_dir, settings.topics, served)
    instruments = WorkerInstruments(process_registry())
    sessions = RocksSessions(settings.data_dir / "sessions", topic_id=served.clicks_id)
    instruments.registry.register(StoreMetrics(sessions))
    instruments.registry.register(DiskMetrics(data_dir=settings.data_dir))
    live_model = LiveModel(
        ReleaseFollower(settings.kafka, settings.topics.releases),
        Registry(settings.registry, settings.data_dir / "models"),
        poll_seconds=settings.serving.releases_poll_seconds,
        on_swap=lambda result, scorer: _count_swap(instruments, result, scorer),
        at=at,
    )
    instruments.release_refused.set_function(lambda: float(live_model.refuses_release))
    statistics = StatisticsReader(settings.kafka, settings.topics.statistics)
    answers = LiveAnswers(live_model, statistics, settings)
    watch = TopicWatch(
        settings.kafka, settings.kafka.group_id, settings.topics, served, on_finding=die
    )
    with contextlib.ExitStack() as stack:
        stack.callback(sessions.close)
        for service in (live_model, statistics, watch):
            service.start()
            stack.callback(service.stop)
        if not answers.wait_until_settled(SETTLE_SECONDS):
            log.warning("starting_unsettled", waited_seconds=SETTLE_SECONDS)
        _spare_the_collector()
        uvloop.run(
            _serve(
                settings,
                sessions,
                answers,
                instruments,
                served,
                dead_letter_partitions=topics[settings.topics.dead_letters].partitions,
                at=at,
            )
        )


async def _serve(
    settings: Settings,
    sessions: RocksSessions,
    answers: LiveAnswers,
    instruments: WorkerInstruments,
    served: ServedTopics,
    *,
    dead_letter_partitions: int,
    at: AtPoint,
) -> None:
    has_its_share = threading.Event()

    async def restore(partitions: set[int]) -> None:
        standby.assign(())  # a copy and a restore must not write to the same partition
        await loop.restore(partitions)
        if loop.owned == partitions:
            has_its_share.set()
        standby.assign(app.standby_partitions - partitions)

    app = ClickApp(
        clicks_topic=settings.topics.clicks,
        on_assigned=restore,
        on_lost_clicks=lambda lost: _tell_lost_clicks(instruments, settings, lost),
        on_halt=die,
        commit_metadata=served.note(),
        **_faust_options(settings),
    )
    changelog = ChangelogTopic(settings.topics.sessions, aio_client_options(settings.kafka))
    copies = StandbyInstruments(instruments.registry)
    standby = Standby(
        changelog, sessions, app.click_ends, on_copied=copies.copied, on_lag=copies.lag
    )
    session_log = SessionLog(
        app,
        changelog,
        sessions,
        topic=settings.topics.sessions,
        at=at,
        on_heal=instruments.healed,
        on_sent=instruments.sessions.sent,
    )
    loop = RecommendationLoop(
        app,
        sessions,
        session_log,
        answers,
        instruments,
        settings,
        dead_letter_partitions=dead_letter_partitions,
        at=at,
    )
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)

    def is_ready() -> tuple[bool, str]:
        if not has_its_share.is_set():
            return False, "no partitions are assigned yet, or their sessions are being restored"
        ready, reason = answers.is_ready()
        if ready and not loop.owned:
            return (
                True,
                "a spare: there are more workers than partitions, and it takes over from another",
            )
        return ready, reason

    endpoints = http_endpoints.serve(
        settings.metrics.host,
        settings.metrics.port,
        registry=instruments.registry,
        is_ready=is_ready,
        is_healthy=loop.is_healthy,
    )
    log.info("worker_started", metrics=f"{endpoints.url}/metrics", data_dir=str(settings.data_dir))
    watching = asyncio.create_task(_or_die(app.watch()))
    with broker_errors(settings.kafka):
        await app.start()
    tasks = [asyncio.create_task(task) for task in loop.tasks()]
    if settings.serving.standby_copies:
        tasks.append(asyncio.create_task(_or_die(standby.run())))
    crashed = asyncio.create_task(app.wait_until_stopped())
    await asyncio.wait(
        (asyncio.create_task(stop.wait()), crashed), return_when=asyncio.FIRST_COMPLETED
    )
    watching.cancel()  # what ends from now on is ended by us
    if app.crash_reason is not None:
        raise InvariantError(f"the stream stopped: {app.crash_reason!r}") from app.crash_reason
    try:
        await asyncio.wait_for(app.stop(), STOP_SECONDS)
    except TimeoutError:
        die(ServiceAwayError("the broker did not let us finish what is in flight; it comes again"))
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks)
    endpoints.close()
    log.info("worker_stopped")


def _spare_the_collector() -> None:
    """What lives by now lives for ever, and clicks make no cycles: look for garbage rarely.

    At the default thresholds the collector took a fifth of the interpreter's time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 50)


async def _or_die(task: Coroutine[Any, Any, None]) -> None:
    """Await a task of the worker; whatever ends it but a cancellation ends the process."""
    try:
        await task
    except asyncio.CancelledError:
        return
    except BaseException as error:  # noqa: BLE001 - a store that cannot be written to serves nobody
        die(error)


def _faust_options(settings: Settings) -> dict[str, Any]:
    scratch = settings.data_dir / "faust"
    scratch.mkdir(exist_ok=True)
    name = settings.kafka.group_instance_id or _instance_id(settings.data_dir)
    options: dict[str, Any] = {
        "id": settings.kafka.group_id,
        "broker": broker_urls(settings.kafka.bootstrap_servers),
        "datadir": str(scratch),
        "broker_client_id": settings.kafka.client_id,
        "broker_session_timeout": settings.kafka.session_timeout_seconds,
        "broker_request_timeout": settings.kafka.session_timeout_seconds + 5,
        "producer_request_timeout": PRODUCER_REQUEST_SECONDS,
        "broker_heartbeat_interval": (
            settings.kafka.session_timeout_seconds / HEARTBEATS_PER_SESSION_TIMEOUT
        ),
        "consumer_group_instance_id": name,
        # Written into each share, and compared when a static member is handed its old one again. Faust's default
        # has the host's name, which a container that is made anew does not keep.
        "canonical_url": f"http://worker/{name}",
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


def _tell_lost_clicks(instruments: WorkerInstruments, settings: Settings, lost: LostClicks) -> None:
    """Count and log them, or raise where the setting says so."""
    if settings.serving.on_lost_clicks == "halt":
        raise ConfigurationError(
            f"{lost}.  serving.on_lost_clicks is `halt`: set it to `continue` to go on without them, and "
            "give the topic a longer retention (retention.ms)"
        )
    instruments.lost_clicks.inc(lost.count)
    log.error(
        "clicks_lost",
        topic=lost.topic,
        partition=lost.partition,
        first_offset=lost.first_offset,
        last_offset=lost.next_offset - 1,
        clicks=lost.count,
        message=f"{lost}: give the topic a longer retention than your longest outage",
    )


def _count_swap(
    instruments: WorkerInstruments, result: SwapResult, scorer: OnnxScorer | None
) -> None:
    if result == "refused":
        instruments.swap_failed("refused")
    elif scorer is None:
        instruments.swapped(None, made_at=None)
        instruments.model.unloaded()
    else:
        made_at = datetime.fromisoformat(scorer.manifest.created_at).timestamp()
        instruments.swapped(scorer.model_version, made_at=made_at)
        instruments.model.live(
            len(scorer.vocabulary),
            bundle_bytes=scorer.bundle_bytes,
            state_bytes=scorer.state_size_bytes,
        )
