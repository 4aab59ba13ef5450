"""How to reach the user's Kafka: options for both client libraries, and their errors in our words.

Three processes speak to Kafka through kafka-python (threads), the worker through aiokafka.  Both get
the same facts from one place, and both fail with the same message when no broker is there.
"""

import logging
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache, wraps
from pathlib import Path
from typing import Any, Final, Protocol

from stream_app.core.errors import ConfigurationError, NextclickError, ServiceAwayError

CONNECT_TIMEOUT_MS: Final = 5_000
"""So long we wait for any broker at start.  One that is there answers within milliseconds."""
REQUEST_TIMEOUT_MS: Final = 15_000
RECONNECT_BACKOFF_MAX_MS: Final = 1_000
"""kafka-python's own 30 s would leave a process waiting for half a minute after a broker is back."""


class KafkaConnection(Protocol):
    """What must be known to connect; `settings.kafka` is one."""

    @property
    def bootstrap_servers(self) -> str: ...
    @property
    def security_protocol(self) -> str: ...
    @property
    def sasl_mechanism(self) -> str: ...
    @property
    def sasl_username(self) -> str: ...
    @property
    def sasl_password(self) -> str: ...
    @property
    def ssl_cafile(self) -> Path | None: ...
    @property
    def ssl_certfile(self) -> Path | None: ...
    @property
    def ssl_keyfile(self) -> Path | None: ...
    @property
    def client_id(self) -> str: ...


def python_client_options(kafka: KafkaConnection) -> dict[str, Any]:
    """Keyword arguments for any client of kafka-python (admin, consumer, producer).

    Raises `ConfigurationError` if a certificate file cannot be used or a SASL user is missing.
    """
    quicken_kafka_python()
    return {
        **_common_options(kafka),
        "bootstrap_timeout_ms": CONNECT_TIMEOUT_MS,
        "reconnect_backoff_max_ms": RECONNECT_BACKOFF_MAX_MS,
        "kafka_client": _tidy_client(),
    }


@cache
def quicken_kafka_python() -> None:
    """Let kafka-python compute checksums in C, as aiokafka does.

    Its own CRC-32C is Python, 0.4 us a byte: half a millisecond for each item of the statistics, on either
    side, and a third of what it takes to read a click.
    """
    from aiokafka.record.util import calc_crc32c  # noqa: PLC0415 - whoever asks imports kafka anyway
    from kafka.record import default_records  # noqa: PLC0415

    default_records.calc_crc32c = calc_crc32c


@cache
def _tidy_client() -> type[Any]:
    """kafka-python's network client, closed where it could not connect.

    3.0.12 leaves a thread and four sockets behind for every consumer or admin client that finds no
    broker; a worker that asks every two seconds would run out of files within the hour.
    """
    from kafka.net.compat import KafkaNetClient  # noqa: PLC0415 - whoever asks imports kafka anyway

    class TidyClient(KafkaNetClient):  # type: ignore[misc]
        def __init__(self, **configs: Any) -> None:
            super().__init__(**configs)
            connect = self._manager.bootstrap

            def connect_or_close(*arguments: Any, **options: Any) -> None:
                try:
                    connect(*arguments, **options)
                except BaseException:
                    self.close()
                    raise

            self._manager.bootstrap = connect_or_close

    return TidyClient


def aio_client_options(kafka: KafkaConnection) -> dict[str, Any]:
    """Keyword arguments for any client of aiokafka; same errors."""
    mend_aiokafka()
    return _common_options(kafka)


@cache
def mend_aiokafka() -> None:
    """Let aiokafka's connections take uvloop's word for a connection that is gone.

    Writing to a transport that was reset a moment ago is an OSError or nothing with asyncio, and a
    RuntimeError with uvloop.  aiokafka 0.14 expects only the former: the latter ends the task that fetches,
    and its consumer reads nothing more, without a word.
    """
    from aiokafka.conn import AIOKafkaConnection, CloseReason  # noqa: PLC0415 - as above
    from aiokafka.errors import KafkaConnectionError, KafkaError  # noqa: PLC0415

    def mended(write: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(write)
        def write_or_break(connection: Any, *arguments: Any, **options: Any) -> Any:
            try:
                return write(connection, *arguments, **options)
            except KafkaError:  # which is a RuntimeError too
                raise
            except RuntimeError as error:
                connection.close(reason=CloseReason.CONNECTION_BROKEN)
                raise KafkaConnectionError(f"connection broken: {error}") from error

        return write_or_break

    for name in ("send", "_send_sasl_token"):
        setattr(AIOKafkaConnection, name, mended(getattr(AIOKafkaConnection, name)))


def _common_options(kafka: KafkaConnection) -> dict[str, Any]:
    options: dict[str, Any] = {
        "bootstrap_servers": _servers(kafka.bootstrap_servers),
        "client_id": kafka.client_id,
        "security_protocol": kafka.security_protocol,
        "request_timeout_ms": REQUEST_TIMEOUT_MS,
    }
    if kafka.security_protocol in ("SSL", "SASL_SSL"):
        options["ssl_context"] = _ssl_context(kafka)
    if kafka.security_protocol.startswith("SASL_"):
        if not kafka.sasl_username or not kafka.sasl_password:
            raise ConfigurationError(
                f"kafka.security_protocol is {kafka.security_protocol}, but no user and password are "
                "set: set NEXTCLICK_KAFKA__SASL_USERNAME and NEXTCLICK_KAFKA__SASL_PASSWORD, or "
                "kafka.sasl_password_file"
            )
        options["sasl_mechanism"] = kafka.sasl_mechanism
        options["sasl_plain_username"] = kafka.sasl_username
        options["sasl_plain_password"] = kafka.sasl_password
    return options


def _servers(text: str) -> list[str]:
    servers = [server.strip() for server in text.split(",") if server.strip()]
    if not servers:
        raise ConfigurationError(
            "kafka.bootstrap_servers is empty: write host:port, e.g. localhost:9092"
        )
    for server in servers:
        host, colon, port = server.rpartition(":")
        if colon and not (host and port.isdecimal() and 0 < int(port) < 65536):
            raise ConfigurationError(
                f"kafka.bootstrap_servers: {server!r} is not host:port, e.g. localhost:9092"
            )
    return servers


def _ssl_context(kafka: KafkaConnection) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(
            cafile=str(kafka.ssl_cafile) if kafka.ssl_cafile else None
        )
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(f"kafka.ssl_cafile {kafka.ssl_cafile}: {error}") from error
    if kafka.ssl_certfile:
        try:
            context.load_cert_chain(
                str(kafka.ssl_certfile), str(kafka.ssl_keyfile) if kafka.ssl_keyfile else None
            )
        except (OSError, ssl.SSLError) as error:
            raise ConfigurationError(
                f"kafka.ssl_certfile {kafka.ssl_certfile}, kafka.ssl_keyfile {kafka.ssl_keyfile}: {error}"
            ) from error
    return context


_AWAY: Final = frozenset(
    {
        "KafkaConnectionError",
        "KafkaTimeoutError",
        "NodeNotReadyError",
        "RequestTimedOutError",
        "BrokerNotAvailableError",
        "NetworkExceptionError",
        "MetadataEmptyBrokerList",
        "StaleMetadata",
        "KafkaUnavailableError",
        "CoordinatorNotAvailableError",
        "GroupCoordinatorNotAvailableError",
        "LeaderNotAvailableError",
    }
)
_AUTHENTICATION: Final = frozenset(
    {
        "SaslAuthenticationFailedError",
        "SaslAuthenticationFailed",
        "AuthenticationFailedError",
        "UnsupportedSaslMechanismError",
        "IllegalSaslStateError",
    }
)
_AUTHORIZATION: Final = frozenset(
    {
        "AuthorizationError",
        "TopicAuthorizationFailedError",
        "GroupAuthorizationFailedError",
        "ClusterAuthorizationFailedError",
        "TransactionalIdAuthorizationFailedError",
    }
)


class _Silence(logging.Handler):
    """Holds back what the client libraries log while at least one thread is inside, and listens.

    kafka-python reports everything as "unable to bootstrap"; only its log says why.
    """

    def __init__(self) -> None:
        super().__init__()
        self._guard = threading.Lock()
        self._inside = 0
        self.refused = self.hung_up = self.untrusted = self.wants_certificate = False
        """What was heard since the first thread came in."""

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        self.refused = self.refused or any(name in text for name in _AUTHENTICATION)
        self.untrusted = self.untrusted or "CERTIFICATE_VERIFY_FAILED" in text
        self.wants_certificate = self.wants_certificate or any(
            alert in text for alert in ("ALERT_CERTIFICATE_REQUIRED", "ALERT_BAD_CERTIFICATE")
        )
        self.hung_up = self.hung_up or "socket disconnected" in text or "Handshake failed" in text

    def __enter__(self) -> None:
        with self._guard:
            if self._inside == 0:
                self.refused = self.hung_up = self.untrusted = self.wants_certificate = False
                for logger in map(logging.getLogger, ("kafka", "aiokafka")):
                    logger.addHandler(self)
                    logger.propagate = False
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._guard:
            self._inside -= 1
            if self._inside == 0:
                for logger in map(logging.getLogger, ("kafka", "aiokafka")):
                    logger.removeHandler(self)
                    logger.propagate = True


_silence: Final = _Silence()


def clients_held_back() -> AbstractContextManager[None]:
    """Hold back both clients' log lines inside the block, in any number of threads."""
    return _silence


@contextmanager
def broker_errors(kafka: KafkaConnection, *, quiet: bool = True) -> Iterator[None]:
    """Turn either client's connection, timeout and permission errors into `ServiceAwayError`.

    quiet: hold back the clients' own log lines inside the block; they say what the error says, a
    dozen times.  Errors that are no matter of reachability pass through untouched.
    """
    with _silence if quiet else nullcontext():
        try:
            yield
        except NextclickError:
            raise
        except Exception as error:
            message = explain(kafka, error)
            if message is None:
                raise
            raise ServiceAwayError(message) from error


def explain(kafka: KafkaConnection, error: BaseException) -> str | None:
    """What happened and what to do about it, if `error` says that the broker cannot be used.

    Judged by class name, so that neither client library is imported for the other's sake.
    """
    names = _client_error_names(error)
    where, text = kafka.bootstrap_servers, str(error)
    if names & _AUTHENTICATION:
        return _refused(kafka)
    if names & _AUTHORIZATION:
        return (
            f"the broker at {where} does not permit this ({text}): give user "
            f"{kafka.sasl_username or 'ANONYMOUS'} the permission, or use another user"
        )
    if "bootstrap" in text.lower() or isinstance(error, ConnectionError):
        return _no_connection(kafka)
    if names & _AWAY or isinstance(error, TimeoutError):
        return (
            f"the broker at {where} did not answer in time ({text or type(error).__name__}): see "
            "whether it runs (`nextclick broker status`) and whether its advertised address can be "
            "reached from here"
        )
    return None


def _no_connection(kafka: KafkaConnection) -> str:
    where = kafka.bootstrap_servers
    if _silence.untrusted:
        return (
            f"the certificate of the broker at {where} is signed by nobody we trust, or for another name: "
            "set kafka.ssl_cafile to the certificate of its authority (PEM)"
        )
    if _silence.wants_certificate:
        return (
            f"the broker at {where} wants a certificate of us that it trusts: set kafka.ssl_certfile and "
            "kafka.ssl_keyfile (PEM)"
        )
    # A broker that does not like a password often hangs up before it says so.
    if _silence.refused or (_silence.hung_up and kafka.security_protocol.startswith("SASL")):
        return _refused(kafka)
    if _silence.hung_up:
        return (
            f"what listens at {where} hung up on us: see that it is a Kafka broker that speaks "
            f"{kafka.security_protocol} (kafka.security_protocol), and check kafka.ssl_cafile"
        )
    return (
        f"no broker answers at {where}: start one with `nextclick broker start`, or set "
        "kafka.bootstrap_servers"
    )


def _refused(kafka: KafkaConnection) -> str:
    return (
        f"the broker at {kafka.bootstrap_servers} refused our credentials: check kafka.sasl_username, "
        "kafka.sasl_mechanism and NEXTCLICK_KAFKA__SASL_PASSWORD"
    )


def _client_error_names(error: BaseException) -> set[str]:
    return {
        cls.__name__
        for cls in type(error).__mro__
        if cls.__module__.partition(".")[0] in ("kafka", "aiokafka")
    }
