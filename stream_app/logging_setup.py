"""Logs: one JSON line per event on standard error, things that happen to the process, never a click.

Two things no line may hold: a secret, and the id of a visitor.  Both are kept out here, on the way to the
stream, so that whoever writes a log call need not think of it.
"""

import json
import logging
import re
import sys
import threading
from collections.abc import MutableMapping
from hashlib import blake2b
from types import TracebackType
from typing import Any, Final

import structlog

PERSONAL_KEYS: Final = frozenset(
    {"session_id", "visitor_id", "user_id", "session_ids", "visitor_ids", "user_ids"}
)
"""Fields whose values (a string, or several) are written as their `pseudonym`."""
HIDDEN: Final = "***"

_SECRET_LENGTH_MIN: Final = 4
"""A shorter one would blot out half of every line, and protects nothing anyway."""
_USER_IN_URL: Final = re.compile(r"(?<=://)[^/@\s\"']*:[^/@\s\"']*@")

_secrets: set[str] = set()


def pseudonym(personal_id: str) -> str:
    """What a log says instead of a session's, visitor's or user's id: 12 hexadecimal digits.

    BLAKE2b of its UTF-8, without a key: processes agree with each other, and an operator who is asked
    about a visitor finds the visitor's lines.  It hides ids that cannot be guessed; a shop whose ids are
    1, 2, 3 ... has to guard its logs as well.

    >>> pseudonym("visitor-4711")
    'ab8e4d9c77fa'
    """
    return blake2b(personal_id.encode(errors="surrogatepass"), digest_size=6).hexdigest()


def keep_secret(secret: str) -> None:
    """From now on `secret` is in no log line and in no crash report, wherever it might come from."""
    if len(secret) >= _SECRET_LENGTH_MIN:
        _secrets.add(secret)


def without_secrets(text: str) -> str:
    """The text with every known secret, and every user and password of a URL, blotted out."""
    for secret in sorted(_secrets, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
        text = text.replace(json.dumps(secret)[1:-1], HIDDEN)
    return _USER_IN_URL.sub(f"{HIDDEN}@", text)


def set_up_logging(level: str, *, process: str) -> None:
    """Own the logging of this process, Faust's and the Kafka clients' included, and its crash reports.

    Libraries speak from `warning` up: at `info` they would say a line per rebalance step.
    """

    def name_process(
        _logger: Any, _method: str, event: structlog.typing.EventDict
    ) -> structlog.typing.EventDict:
        event.setdefault("process", process)  # context variables would not reach other threads
        return event

    shared: list[structlog.typing.Processor] = [
        name_process,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _hide_persons,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                structlog.processors.JSONRenderer(),
                _hide_secrets,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("nextclick").setLevel(level.upper())
    sys.excepthook = _report_crash
    threading.excepthook = _report_thread_crash


def get_logger(part: str) -> structlog.stdlib.BoundLogger:
    logger: structlog.stdlib.BoundLogger = structlog.get_logger(f"nextclick.{part}")
    return logger


def _hide_persons(
    _logger: Any, _method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    for key in PERSONAL_KEYS & event.keys():
        value = event[key]
        if isinstance(value, str):
            event[key] = pseudonym(value)
        elif value is not None:
            event[key] = [pseudonym(str(each)) for each in value]
    return event


def _hide_secrets(_logger: Any, _method: str, line: str | MutableMapping[str, Any]) -> str:
    assert isinstance(line, str), "rendered before"
    return without_secrets(line)


def _report_crash(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """An exception that nobody caught, as a log line like any other; Ctrl-C stays what it is."""
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
    else:
        get_logger("crash").critical("crashed", exc_info=(kind, error, trace))


def _report_thread_crash(failure: threading.ExceptHookArgs) -> None:
    if failure.exc_value is not None and not issubclass(failure.exc_type, SystemExit):
        _report_crash(failure.exc_type, failure.exc_value, failure.exc_traceback)
