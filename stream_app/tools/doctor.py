"""`nextclick doctor`: everything that can be checked without a click, each finding with what to do."""

import importlib.util
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

from stream_app.adapters import kafka_topics
from stream_app.adapters.compacted_topic import read_latest as read_newest
from stream_app.adapters.releases import read_latest as read_release
from stream_app.core.errors import (
    BadRecordError,
    ConfigurationError,
    NextclickError,
    ServiceAwayError,
)
from stream_app.core.statistics_records import VERSION_PREFIX, decode_marker
from stream_app.files.registry import Registry
from stream_app.settings import Settings

DISK_FREE_BYTES_MIN: Final = 1024**3
STATISTICS_AGE_SECONDS_MAX: Final = 600.0


class Level(Enum):
    """How bad a finding is."""

    OK = "ok"
    NOTE = "note"
    """Worth knowing; everything works."""
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    about: str
    level: Level
    message: str
    """What was found and, if it is not ok, what to do."""
    exit_status: int = 0


Check = Callable[[Settings], Iterator[Finding]]


def examine(settings: Settings) -> Iterator[Finding]:
    """One finding after another; a check that fails is a finding, and the others still run."""
    yield from _safely("program", _program, settings)
    yield from _safely("data directory", _data_dir, settings)
    yield from _safely("click log", _click_log, settings)
    broker = list(_safely("broker", _broker, settings))
    yield from broker
    yield from _safely("registry", _registry, settings)
    if all(finding.level is not Level.PROBLEM for finding in broker):
        topics = list(_safely("topics", _topics, settings))
        yield from topics
        if all(finding.level is not Level.PROBLEM for finding in topics):
            yield from _safely("live model", _live_model, settings)
            yield from _safely("statistics", _statistics, settings)


def exit_status(findings: list[Finding]) -> int:
    """0 if nothing is wrong; 69 if a service is away, else the status of the first problem."""
    statuses = [f.exit_status for f in findings if f.level is Level.PROBLEM]
    away = ServiceAwayError.exit_status
    return away if away in statuses else next(iter(statuses), 0)


def _safely(about: str, check: Check, settings: Settings) -> Iterator[Finding]:
    try:
        yield from check(settings)
    except NextclickError as error:
        yield Finding(about, Level.PROBLEM, str(error), error.exit_status)


def _program(_settings: Settings) -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    yield Finding("settings", Level.OK, f"all settings are valid (Python {version})")
    if importlib.util.find_spec("torch") is None:
        yield Finding(
            "training",
            Level.NOTE,
            "torch is not installed: fine for serving; `nextclick train` and `retrain` need "
            "`pip install 'nextclick[training]'`",
        )


def _data_dir(settings: Settings) -> Iterator[Finding]:
    yield _directory("data directory", settings.data_dir, "--data-dir")


def _click_log(settings: Settings) -> Iterator[Finding]:
    if "://" in settings.click_log:
        yield Finding(
            "click log", Level.NOTE, f"{settings.click_log} is remote and was not written to"
        )
    else:
        yield _directory("click log", Path(settings.click_log), "--click-log")


def _directory(about: str, path: Path, flag: str) -> Finding:
    """Whether it can be written, or made; nothing is left behind."""
    place = path
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        return _problem(about, f"{path}: {place} is no directory: give another {flag}")
    probe = place / f".nextclick-doctor-{os.getpid()}"
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        return _problem(
            about,
            f"{path} cannot be written ({error.strerror}): change its owner, or give another {flag}",
        )
    free = shutil.disk_usage(place).free
    if free < DISK_FREE_BYTES_MIN:
        return _problem(
            about, f"{path} has {free / 1024**2:.0f} MiB left: free some, or give another {flag}"
        )
    made = "" if path.exists() else " (will be made)"
    return Finding(about, Level.OK, f"{path}{made} is writable, {free / 1024**3:.0f} GiB free")


def _problem(about: str, message: str) -> Finding:
    return Finding(about, Level.PROBLEM, message, ConfigurationError.exit_status)


def _broker(settings: Settings) -> Iterator[Finding]:
    began = time.monotonic()
    with kafka_topics.admin_client(settings.kafka) as admin:
        nodes = admin.describe_cluster()["brokers"]
    took_ms = (time.monotonic() - began) * 1000
    yield Finding(
        "broker",
        Level.OK,
        f"{len(nodes)} broker{'s' if len(nodes) != 1 else ''} at "
        f"{settings.kafka.bootstrap_servers} ({settings.kafka.security_protocol}, {took_ms:.0f} ms)",
    )
    if settings.topics.replication > len(nodes):
        yield _problem(
            "broker",
            f"topics.replication is {settings.topics.replication}, but there are {len(nodes)} brokers: "
            "lower it, or add brokers, before topics are created",
        )


def _topics(settings: Settings) -> Iterator[Finding]:
    problems = kafka_topics.check_topics(settings.kafka, settings.topics)
    for problem in problems:
        how = ": run `nextclick topics create`" if problem.missing else ""
        yield _problem("topics", problem.message + how)
    if not problems:
        count = kafka_topics.partition_count(settings.kafka, settings.topics.clicks)
        yield Finding("topics", Level.OK, f"all are there and fit together ({count} partitions)")


def _registry(settings: Settings) -> Iterator[Finding]:
    registry = Registry(settings.registry)
    if registry.directory is not None:
        yield _directory("registry", registry.directory, "--registry")
    else:
        registry.check_writable()
        yield Finding("registry", Level.OK, f"{settings.registry} is writable")


def _live_model(settings: Settings) -> Iterator[Finding]:
    release = read_release(settings.kafka, settings.topics.releases)
    if release is None or release.model_version is None:
        count = len(Registry(settings.registry).versions())
        yield Finding(
            "live model",
            Level.NOTE,
            f"none of {count} in the registry was released: answers come from popularity; `nextclick retrain --once` trains one",
        )
        return
    bundle = Registry(settings.registry).open(release.model_version)
    yield Finding(
        "live model",
        Level.OK,
        f"{release.model_version} (since {release.released_at}) passes every check, "
        f"{len(bundle.vocabulary)} items",
    )


def _statistics(settings: Settings) -> Iterator[Finding]:
    newest = None
    topic = settings.topics.statistics
    for key, record in read_newest(settings.kafka, topic, committed_only=True).items():
        if key is not None and key.startswith(VERSION_PREFIX):
            newest = record
    if newest is None:
        yield Finding(
            "statistics",
            Level.NOTE,
            "nothing was published yet: run one `nextclick statistics`, or each worker knows the "
            "popularity of its own partitions only",
        )
        return
    try:
        marker = decode_marker(newest.value)
    except BadRecordError as error:
        yield _problem(
            "statistics", f"{error}: delete topic {topic}, popularity then starts afresh"
        )
        return
    age = time.time() - marker.published_at / 1000
    level, more = Level.OK, ""
    if age > STATISTICS_AGE_SECONDS_MAX:
        level = Level.NOTE
        more = "; if clicks come in, `nextclick statistics` is not running"
    yield Finding(
        "statistics",
        level,
        f"version {marker.version} of {marker.items} items, {age:.0f} s old{more}",
    )
