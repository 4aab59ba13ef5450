"""The broker we start ourselves: it is real, it is alone on its data, and it leaves nothing running."""

import os
import signal
import socket
import subprocess
import sys
import textwrap
import time

import psutil
import pytest
from kafka import KafkaProducer

from stream_app.adapters import kafka_topics
from stream_app.adapters.compacted_topic import CompactedTopic
from stream_app.adapters.kafka_clients import broker_errors, python_client_options
from stream_app.adapters.local_kafka import LocalKafka
from stream_app.adapters.running_broker import find_running
from stream_app.core.errors import ConfigurationError, ServiceAwayError
from stream_app.settings import KafkaSettings, TopicSettings

from .processes import wait_until


def nextclick(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "stream_app", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def settings_of(broker: LocalKafka) -> KafkaSettings:
    return KafkaSettings(bootstrap_servers=broker.bootstrap_servers)


@pytest.fixture(scope="module", autouse=True)
def kafka_can_be_had(kafka):
    """The session's broker has fetched Kafka, or these tests are skipped with it."""


def test_what_it_holds_survives_a_kill_and_it_comes_back_where_it_was(tmp_path):
    broker = LocalKafka(tmp_path / "kafka")
    broker.start()
    try:
        kafka, topics = settings_of(broker), TopicSettings(partitions=1)
        kafka_topics.create_topics(kafka, topics)
        producer = KafkaProducer(**python_client_options(kafka))
        # A click of 2014, with its own time as Kafka timestamp, as a replayed log may have it.
        producer.send(topics.clicks, b"kept", timestamp_ms=1_396_000_000_000).get(timeout=10)
        producer.close()
        address = broker.bootstrap_servers

        broker.kill()
        assert find_running(tmp_path / "kafka") is None
        broker.start()

        assert broker.bootstrap_servers == address
        with CompactedTopic(kafka, topics.clicks) as reader:
            kept = [record.value for records in reader.read_to_end() for record in records]
        assert kept == [b"kept"]
        pid = broker.pid
    finally:
        broker.stop()
    assert not psutil.pid_exists(pid)


def test_two_run_at_once_and_each_data_directory_has_one(tmp_path):
    with LocalKafka(tmp_path / "a") as first, LocalKafka(tmp_path / "b") as second:
        assert first.bootstrap_servers != second.bootstrap_servers
        assert find_running(tmp_path / "a").bootstrap_servers == first.bootstrap_servers
        with pytest.raises(ConfigurationError, match="a broker already runs on"):
            LocalKafka(tmp_path / "a").start()
        addresses = {
            connection.laddr.ip
            for broker in (first, second)
            for connection in psutil.Process(broker.pid).net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN
        }
        assert {address.removeprefix("::ffff:") for address in addresses} == {"127.0.0.1"}
    assert find_running(tmp_path / "a") is None


def test_a_taken_port_says_which_flag_to_use(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError, match=f"port {port} cannot be used.*--port"):
            LocalKafka(tmp_path, port=port).start()


def test_a_data_directory_that_cannot_be_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="cannot be written"):
        LocalKafka(tmp_path / "file" / "kafka").start()


def test_a_broker_that_does_not_start_shows_the_end_of_its_log(tmp_path):
    broken = LocalKafka(tmp_path, settings={"log.retention.ms": "for ever"})
    with pytest.raises(ServiceAwayError, match="for ever"):
        broken.start()


def test_it_ends_when_the_process_that_started_it_is_killed(tmp_path):
    script = textwrap.dedent(
        f"""
        import pathlib, time
        from stream_app.adapters.local_kafka import LocalKafka
        broker = LocalKafka(pathlib.Path({str(tmp_path)!r}))
        broker.start()
        print(broker.pid, flush=True)
        time.sleep(60)
        """
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    pid = int(parent.stdout.readline())
    assert psutil.pid_exists(pid)
    parent.kill()
    parent.communicate()
    wait_until("the broker to end", lambda: not psutil.pid_exists(pid), 20)


def test_a_wrong_password_is_told_from_a_broker_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr("stream_app.adapters.kafka_clients.CONNECT_TIMEOUT_MS", 1500)
    jaas = (
        "org.apache.kafka.common.security.plain.PlainLoginModule required "
        'username="shop" password="right" user_shop="right";'
    )
    broker = LocalKafka(
        tmp_path,
        settings={
            "listener.security.protocol.map": "PLAINTEXT:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT",
            "sasl.enabled.mechanisms": "PLAIN",
            "sasl.mechanism.inter.broker.protocol": "PLAIN",
            "listener.name.plaintext.plain.sasl.jaas.config": jaas,
        },
        client_options={
            "security_protocol": "SASL_PLAINTEXT",
            "sasl_mechanism": "PLAIN",
            "sasl_plain_username": "shop",
            "sasl_plain_password": "right",
        },
    )
    with broker:
        right = KafkaSettings(
            bootstrap_servers=broker.bootstrap_servers,
            security_protocol="SASL_PLAINTEXT",
            sasl_username="shop",
            sasl_password="right",
        )
        assert kafka_topics.topic_facts(right, "none") == {}
        wrong = right.model_copy(update={"sasl_password": "wrong-secret"})
        with pytest.raises(ServiceAwayError) as refused, broker_errors(wrong):
            kafka_topics.topic_facts(wrong, "none")
        assert "refused our credentials" in str(refused.value)
        assert "wrong-secret" not in str(refused.value)
        nobody = KafkaSettings(bootstrap_servers=broker.bootstrap_servers)
        with pytest.raises(ServiceAwayError, match=r"hung up .* that speaks PLAINTEXT"):
            kafka_topics.topic_facts(nobody, "none")


def test_the_command_starts_in_the_background_says_where_and_stops(tmp_path):
    where = ("--data-dir", str(tmp_path))
    started = nextclick("broker", "start", "--port", "0", *where)
    assert started.returncode == 0, started.stderr
    try:
        running = find_running(tmp_path)
        assert f"broker ready at {running.bootstrap_servers} (pid {running.pid}" in started.stdout
        status = nextclick("broker", "status", *where)
        assert (status.returncode, str(running.pid) in status.stdout) == (0, True)
        assert nextclick("broker", "start", *where).returncode == 2
    finally:
        stopped = nextclick("broker", "stop", *where)
    assert (stopped.returncode, "stopped" in stopped.stdout) == (0, True)
    assert not psutil.pid_exists(running.pid)
    status = nextclick("broker", "status", *where)
    assert (status.returncode, "nextclick broker start" in status.stderr) == (69, True)
    assert nextclick("broker", "stop", *where).returncode == 0


def test_in_the_foreground_it_ends_cleanly_with_ctrl_c(tmp_path):
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "stream_app", "broker", "start", "--foreground"),
            *("--port", "0", "--data-dir", str(tmp_path)),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert "broker ready" in process.stdout.readline()
    pid = find_running(tmp_path).pid
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=30)
    assert (process.returncode, output) == (0, "broker stopped\n")
    assert not psutil.pid_exists(pid)


def test_the_warm_start_cache_is_made_once_and_makes_a_sound_start(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    broker = LocalKafka(tmp_path / "kafka")
    assert broker.prepare_warm_start()
    (cache,) = (tmp_path / "cache").rglob("*.aot")
    made = cache.stat().st_mtime_ns
    assert broker.prepare_warm_start()
    assert cache.stat().st_mtime_ns == made
    with broker:
        assert str(cache) in " ".join(psutil.Process(broker.pid).cmdline())

    # A cache cut short by a full disk: the broker starts without it, and it is made again next time.
    cache.write_bytes(cache.read_bytes()[:1_000_000])
    with LocalKafka(tmp_path / "kafka"):
        assert not cache.exists()


def test_a_pid_file_of_a_process_that_is_somebody_elses_is_not_believed(tmp_path):
    (tmp_path / "broker.pid").write_text(
        f'{{"pid": {os.getpid()}, "create_time": {time.time()}, "bootstrap_servers": "x:1"}}'
    )
    assert find_running(tmp_path) is None
    assert "no broker runs" in nextclick("broker", "stop", "--data-dir", str(tmp_path)).stdout
