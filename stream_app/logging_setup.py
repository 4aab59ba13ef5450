"""Logs: one JSON line per event on standard error, things that happen to the process, never a click."""

import logging
import sys
from typing import Any

import structlog


def set_up_logging(level: str, *, process: str) -> None:
    """Own the logging of this process, Faust's and the Kafka clients' included.

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
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("nextclick").setLevel(level.upper())


def get_logger(part: str) -> structlog.stdlib.BoundLogger:
    logger: structlog.stdlib.BoundLogger = structlog.get_logger(f"nextclick.{part}")
    return logger
