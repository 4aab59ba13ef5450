"""A real broker as a child process: Apache Kafka in KRaft mode, one node, on loopback only.

The demo, the tests and `nextclick broker` use this same code.  What it is for: a laptop, a test, a
small machine.  It keeps one copy of everything; for anything that must survive a disk, point
kafka.bootstrap_servers at a real cluster.
"""

import base64
import logging
import os
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Self

import psutil
from kafka import KafkaConsumer, KafkaProducer
from kafka.admin import KafkaAdminClient
from kafka.errors import KafkaError

from stream_app.adapters.kafka_clients import clients_held_back
from stream_app.adapters.kafka_distribution import (
    BASE_FLAGS,
    QUICK_FLAGS,
    Distribution,
    Say,
    build_warm_start,
    distribution,
    warm_start_file,
    warm_start_flags,
)
from stream_app.adapters.running_broker import (
    STOP_TIMEOUT_SECONDS,
    find_running,
    forget,
    remember,
)
from stream_app.core.errors import ConfigurationError, ServiceAwayError

HOST: Final = "127.0.0.1"
DEFAULT_PORT: Final = 9092
START_TIMEOUT_SECONDS: Final = 60.0
WARM_START_TIMEOUT_SECONDS: Final = 120.0
"""The JVM writes the cache while it stops: 8 s, and several times that on a busy machine."""
LOG_FILE: Final = "broker.log"

_SIGNALLED: Final = 128
"""Exit statuses above this: ended by a signal, a crash of the JVM among them."""
RETENTION_BYTES_PER_PARTITION: Final = 2 * 1024**3

_GUARD: Final = """
exec 3<&0
"$@" </dev/null 3<&- &
java=$!
( cat <&3 >/dev/null; kill -TERM $java 2>/dev/null ) &
guard=$!
exec 3<&-
wait $java
status=$?
kill -TERM -- $guard 2>/dev/null
exit $status
"""
"""Runs the broker and ends it when our end of the pipe closes, however we ended: a killed test or
demo leaves nothing running.  SIGTERM on the broker itself ends the guard as well."""


class LocalKafka:
    """One broker over one data directory.  A context manager; several may run at once.

    port: 0 takes a free one.  settings: more lines for server.properties.  quick: JVM flags for a
    fast start and little memory, instead of the JVM's defaults.  detached: the broker survives this
    process (`nextclick broker start`); otherwise it ends with us, even if we are killed.
    cluster_id: where several nodes are to be one cluster (`settings` name the others), the same for all.
    client_options: what the ready check needs to connect where `settings` ask for credentials.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        port: int = 0,
        settings: Mapping[str, str] | None = None,
        quick: bool = True,
        detached: bool = False,
        cluster_id: str = "",
        client_options: Mapping[str, Any] | None = None,
        say: Say = lambda _: None,
    ) -> None:
        self.data_dir = data_dir.absolute()
        self.log_file = self.data_dir / LOG_FILE
        self._wanted_port = port
        self._port = port
        self._extra = dict(settings or {})
        self._flags = (*BASE_FLAGS, *(QUICK_FLAGS if quick else ()))
        self._detached = detached
        self._cluster_id = cluster_id or new_cluster_id()
        self._client_options = dict(client_options or {})
        self._say = say
        self._process: subprocess.Popen[bytes] | None = None
        self._kafka: Distribution | None = None

    @property
    def bootstrap_servers(self) -> str:
        """`127.0.0.1:port`; known once started."""
        return f"{HOST}:{self._port}"

    @property
    def pid(self) -> int:
        """Process id of the Java process itself."""
        assert self._process is not None, "not started"
        if self._detached:
            return self._process.pid
        children = psutil.Process(self._process.pid).children()
        return next(child.pid for child in children if child.name().startswith("java"))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, *, extra_flags: tuple[str, ...] | None = None) -> None:
        """Format the data directory if it is new, start, and wait until metadata is answered.

        Raises `ConfigurationError` (port taken, directory unusable or in use) or `ServiceAwayError`
        (nothing to run, or it ended or hung: with its last log lines).
        """
        assert self._process is None, "already started"
        running = find_running(self.data_dir)
        if running is not None:
            raise ConfigurationError(
                f"a broker already runs on {self.data_dir} (pid {running.pid}, "
                f"{running.bootstrap_servers}): use it, stop it with `nextclick broker stop "
                f"--data-dir {self.data_dir}`, or give another --data-dir"
            )
        try:
            # It holds every click, and settings may name a password.
            self.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.log_file.touch()
        except OSError as error:
            raise ConfigurationError(
                f"the broker's data directory {self.data_dir} cannot be written "
                f"({error.strerror}): give another --data-dir"
            ) from error
        self._kafka = distribution(self._say)
        cache = warm_start_file(self._kafka, self._flags)
        flags = warm_start_flags(cache) if extra_flags is None else extra_flags
        self._launch_surely(flags, cache)

    def stop(self, *, patience_seconds: float = STOP_TIMEOUT_SECONDS) -> None:
        """SIGTERM, and wait until it is gone; it takes about 0.5 s.  Safe to call twice."""
        process, self._process = self._process, None
        if process is None:
            return
        if self._detached:
            process.terminate()
        elif process.stdin is not None:
            process.stdin.close()
        try:
            process.wait(patience_seconds)
        except subprocess.TimeoutExpired:
            _kill_group(process)
        forget(self.data_dir)

    def kill(self) -> None:
        """SIGKILL: what a power cut does to it.  `start` again on the same data afterwards."""
        process, self._process = self._process, None
        if process is not None:
            _kill_group(process)
            if process.stdin is not None:
                process.stdin.close()
            forget(self.data_dir)

    def wait(self, timeout_seconds: float | None = None) -> int | None:
        """Wait until the broker ends by itself; its exit status, None if it still runs."""
        assert self._process is not None, "not started"
        try:
            return self._process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            return None

    def warm_start_is_ready(self) -> bool:
        kafka = self._kafka or distribution(self._say)
        return warm_start_file(kafka, self._flags).is_file()

    def prepare_warm_start(self) -> bool:
        """Make the cache that lets the next start take half the time (about 8 s, once per user)."""
        kafka = self._kafka or distribution(self._say)
        cache = warm_start_file(kafka, self._flags)
        if cache.is_file():
            return True

        def training_run(flags: tuple[str, ...]) -> None:
            with tempfile.TemporaryDirectory(prefix="nextclick-kafka-") as scratch:
                trainee = LocalKafka(Path(scratch), settings=self._extra)
                trainee._flags = self._flags
                try:
                    trainee.start(extra_flags=flags)
                    _exercise(trainee.bootstrap_servers)
                finally:
                    trainee.stop(patience_seconds=WARM_START_TIMEOUT_SECONDS)

        try:
            return build_warm_start(cache, training_run)
        except (ServiceAwayError, KafkaError, OSError) as error:
            logging.getLogger("nextclick.local_kafka").info("no warm-start cache: %s", error)
            return False

    def _launch_surely(self, flags: tuple[str, ...], cache: Path) -> None:
        """Launch; again if a free port was taken meanwhile, or if the JVM crashed on the cache."""
        for attempt in range(3):
            # Started again, it is found where it was before.
            self._port = self._port_for(attempt)
            self._check_port()
            try:
                self._launch(flags)
                break
            except ServiceAwayError as error:
                crashed = self._process is not None and (self._process.poll() or 0) > _SIGNALLED
                self.kill()
                lost_port = "Address already in use" in str(error) and not self._wanted_port
                crashed = crashed and not lost_port
                if attempt == 2 or not (lost_port or (crashed and flags)):
                    raise
                if crashed:
                    flags = ()
                    cache.unlink(missing_ok=True)
            except BaseException:
                self.kill()
                raise
        if flags and "Unable to map shared spaces" in self._log_text():
            # The JVM went on without it; the next `prepare_warm_start` makes a sound one.
            cache.unlink(missing_ok=True)

    def _port_for(self, attempt: int) -> int:
        if self._wanted_port:
            return self._wanted_port
        return self._port if self._port and attempt == 0 else _free_port()

    def _launch(self, flags: tuple[str, ...]) -> None:
        kafka = self._kafka
        assert kafka is not None
        properties = self._write_properties()
        flags = (*self._flags, *flags)
        if not (self.data_dir / "log" / "meta.properties").is_file():
            self._format(kafka, properties, flags)
        command = kafka.command("kafka.Kafka", str(properties), flags=flags)
        if not self._detached:
            command = ["/bin/sh", "-c", _GUARD, "nextclick-broker", *command]
        with self.log_file.open("wb") as log:
            # Its own session: Ctrl-C in our terminal is ours to handle, in our order.
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL if self._detached else subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.data_dir,
                start_new_session=True,
            )
        self._wait_until_ready(self._process)
        remember(self.data_dir, self.pid, self.bootstrap_servers)

    def _format(self, kafka: Distribution, properties: Path, flags: tuple[str, ...]) -> None:
        quiet = tuple(flag for flag in flags if not flag.startswith("-XX:AOTCacheOutput"))
        arguments = ("format", f"--cluster-id={self._cluster_id}", "--config", str(properties))
        try:
            outcome = subprocess.run(
                kafka.command("kafka.tools.StorageTool", *arguments, flags=quiet),
                capture_output=True,
                text=True,
                check=False,
                timeout=START_TIMEOUT_SECONDS,
            )
        except subprocess.TimeoutExpired as error:
            raise ServiceAwayError(
                f"Kafka had not prepared {self.data_dir} after {START_TIMEOUT_SECONDS:.0f} s.  "
                "Is the machine busy, or the disk slow?  Try again"
            ) from error
        if outcome.returncode != 0:
            raise ServiceAwayError(
                f"Kafka could not prepare {self.data_dir}:\n"
                f"{_last_lines(outcome.stdout + outcome.stderr)}"
            )

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while time.monotonic() < deadline:
            status = process.poll()
            if status is not None:
                raise ServiceAwayError(
                    f"the broker ended with status {status}; the end of {self.log_file}:\n"
                    f"{_last_lines(self._log_text())}"
                )
            if _answers(self.bootstrap_servers, self._client_options):
                return
            time.sleep(0.05)
        raise ServiceAwayError(
            f"the broker was not ready after {START_TIMEOUT_SECONDS:.0f} s; the end of "
            f"{self.log_file}:\n{_last_lines(self._log_text())}"
        )

    def _write_properties(self) -> Path:
        controller_port = _free_port()
        settings = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@{HOST}:{controller_port}",
            "listeners": f"PLAINTEXT://{HOST}:{self._port},CONTROLLER://{HOST}:{controller_port}",
            "advertised.listeners": f"PLAINTEXT://{self.bootstrap_servers}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "controller.listener.names": "CONTROLLER",
            "log.dirs": str(self.data_dir / "log"),
            "auto.create.topics.enable": "false",
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "4",
            # A group that rests for a week would begin anew, or send dead letters twice.
            "offsets.retention.minutes": str(10 * 366 * 24 * 60),
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "transaction.state.log.num.partitions": "4",
            "share.coordinator.state.topic.replication.factor": "1",
            "share.coordinator.state.topic.min.isr": "1",
            "group.initial.rebalance.delay.ms": "0",
            # After a kill -9 the node waits until its former self has timed out; 9 s by default.
            "broker.heartbeat.interval.ms": "500",
            "broker.session.timeout.ms": "3000",
            "num.network.threads": "2",
            "num.io.threads": "4",
            "log.cleaner.dedupe.buffer.size": str(16 * 1024**2),
            # Replayed logs may carry times of long ago as Kafka timestamps; retention by time would
            # delete them at once, so the disk is bounded by size instead.
            "log.retention.ms": "-1",
            "log.retention.bytes": str(RETENTION_BYTES_PER_PARTITION),
            "log.segment.bytes": str(256 * 1024**2),
            **self._extra,
        }
        # Java properties: a backslash escapes, so it must be doubled; a space needs nothing.
        lines = [f"{name}={value}".replace("\\", "\\\\") for name, value in settings.items()]
        path = self.data_dir / "server.properties"
        path.touch(mode=0o600)
        path.write_text("\n".join(lines) + "\n")
        return path

    def _check_port(self) -> None:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, self._port))
            except OSError as error:
                raise ConfigurationError(
                    f"port {self._port} cannot be used ({error.strerror}): something listens there "
                    "already; give another --port, or --port 0 for a free one"
                ) from error

    def _log_text(self) -> str:
        try:
            return self.log_file.read_text(errors="replace")
        except OSError:
            return ""


def new_cluster_id() -> str:
    """A random cluster id in Kafka's own form: 16 bytes, URL-safe base64, 22 characters."""
    return base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")


def _answers(bootstrap_servers: str, options: Mapping[str, Any]) -> bool:
    """Whether a broker answers a metadata request there, with itself as a live node."""
    host, _, port = bootstrap_servers.rpartition(":")
    with (
        suppress(OSError, KafkaError),
        socket.create_connection((host, int(port)), timeout=1),
        clients_held_back(),
    ):
        admin = KafkaAdminClient(
            bootstrap_servers=bootstrap_servers,
            bootstrap_timeout_ms=2_000,
            reconnect_backoff_max_ms=100,
            **options,
        )
        try:
            return len(admin.describe_cluster()["brokers"]) > 0
        finally:
            admin.close()
    return False


def _exercise(bootstrap_servers: str) -> None:
    """What the broker will be asked for later, so that the cache holds the classes it takes."""
    admin = KafkaAdminClient(bootstrap_servers=bootstrap_servers)
    admin.create_topics({"warm": {"num_partitions": 1, "replication_factor": 1}})
    producer = KafkaProducer(bootstrap_servers=bootstrap_servers, transactional_id="warm")
    producer.init_transactions()
    producer.begin_transaction()
    producer.send("warm", b"click").get(timeout=10)
    producer.commit_transaction()
    producer.close()
    consumer = KafkaConsumer(
        "warm", bootstrap_servers=bootstrap_servers, group_id="warm", auto_offset_reset="earliest"
    )
    consumer.poll(timeout_ms=5_000)
    consumer.commit()
    consumer.close()
    admin.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    members: list[psutil.Process] = []
    with suppress(psutil.NoSuchProcess):
        members = psutil.Process(process.pid).children(recursive=True)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    psutil.wait_procs(members, timeout=5)


def _last_lines(text: str, count: int = 15) -> str:
    """Without stack frames: what matters is what was thrown."""
    lines = [line for line in text.strip().splitlines() if not line.startswith("\tat ")]
    return "\n".join(lines[-count:]) or "(nothing)"
