"""Options for both client libraries, and what a user reads when the broker cannot be used."""

import asyncio
import gc
import inspect
import logging
import socket
import threading

import psutil
import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.record import util as aiokafka_records
from kafka import KafkaConsumer, KafkaProducer
from kafka.admin import KafkaAdminClient
from kafka.errors import KafkaTimeoutError, TopicAuthorizationFailedError
from kafka.record import default_records
from kafka.record import util as kafka_records
from kafka.record.memory_records import MemoryRecords, MemoryRecordsBuilder

from stream_app.adapters import kafka_clients
from stream_app.adapters.kafka_clients import (
    aio_client_options,
    broker_errors,
    python_client_options,
)
from stream_app.core.errors import ConfigurationError, ServiceAwayError
from stream_app.settings import KafkaSettings

SECRET = "hunter2-and-more"


def sasl(**more) -> KafkaSettings:
    return KafkaSettings(
        **{
            "security_protocol": "SASL_PLAINTEXT",
            "sasl_username": "shop",
            "sasl_password": SECRET,
            **more,
        }
    )


def test_servers_are_split_and_blanks_forgiven():
    kafka = KafkaSettings(bootstrap_servers=" a:9092, b:9093,")
    assert python_client_options(kafka)["bootstrap_servers"] == ["a:9092", "b:9093"]
    assert aio_client_options(kafka)["bootstrap_servers"] == ["a:9092", "b:9093"]


@pytest.mark.parametrize("servers", ["", " , ", "host:", ":9092", "host:port", "host:70000"])
def test_servers_that_are_none_are_refused_with_the_setting_to_mend(servers):
    with pytest.raises(ConfigurationError, match="bootstrap_servers"):
        python_client_options(KafkaSettings(bootstrap_servers=servers))


@pytest.mark.parametrize("client", [KafkaAdminClient, KafkaConsumer, KafkaProducer])
def test_every_client_of_kafka_python_knows_the_options(client):
    assert set(python_client_options(sasl())) <= set(client.DEFAULT_CONFIG)


def test_aiokafka_knows_the_options():
    assert set(aio_client_options(sasl())) <= set(inspect.signature(AIOKafkaConsumer).parameters)


def test_sasl_without_a_password_says_where_to_put_it():
    with pytest.raises(ConfigurationError, match="NEXTCLICK_KAFKA__SASL_PASSWORD"):
        python_client_options(sasl(sasl_password=""))


def test_a_certificate_file_that_is_not_there_is_named(tmp_path):
    kafka = KafkaSettings(security_protocol="SSL", ssl_cafile=tmp_path / "ca.pem")
    with pytest.raises(ConfigurationError, match=r"kafka.ssl_cafile .*ca.pem"):
        python_client_options(kafka)
    kafka = KafkaSettings(security_protocol="SSL", ssl_certfile=tmp_path / "own.pem")
    with pytest.raises(ConfigurationError, match=r"kafka.ssl_certfile .*own.pem"):
        aio_client_options(kafka)


def test_tls_checks_the_brokers_name_and_certificate():
    context = aio_client_options(KafkaSettings(security_protocol="SSL"))["ssl_context"]
    assert context.check_hostname
    assert context.verify_mode.name == "CERT_REQUIRED"


@pytest.fixture
def patience_of_half_a_second(monkeypatch):
    monkeypatch.setattr(kafka_clients, "CONNECT_TIMEOUT_MS", 500)


@pytest.mark.parametrize("client", [KafkaAdminClient, KafkaConsumer, KafkaProducer])
def test_nobody_there_is_one_message_soon_and_the_clients_chatter_is_held_back(
    client, patience_of_half_a_second, caplog
):
    kafka = KafkaSettings(bootstrap_servers="127.0.0.1:1")
    with pytest.raises(ServiceAwayError) as away, broker_errors(kafka):
        client(**python_client_options(kafka))
    assert str(away.value) == (
        "no broker answers at 127.0.0.1:1: start one with `nextclick broker start`, or set "
        "kafka.bootstrap_servers"
    )
    assert [record for record in caplog.records if record.name.startswith("kafka")] == []


@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")  # kafka-python's own
def test_a_host_that_accepts_and_never_answers_is_nobody_too(patience_of_half_a_second):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        kafka = KafkaSettings(bootstrap_servers=f"127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(ServiceAwayError, match="no broker answers"), broker_errors(kafka):
            KafkaAdminClient(**python_client_options(kafka))
    gc.collect()


def test_aiokafka_gives_the_same_message():
    kafka = KafkaSettings(bootstrap_servers="127.0.0.1:1")

    async def connect() -> None:
        consumer = AIOKafkaConsumer(**aio_client_options(kafka))
        try:
            await consumer.start()
        finally:
            await consumer.stop()

    with (
        pytest.raises(ServiceAwayError, match=r"no broker answers at 127.0.0.1:1: start one"),
        broker_errors(kafka),
    ):
        asyncio.run(connect())


def test_a_secret_is_in_no_message_and_no_repr(patience_of_half_a_second):
    kafka = sasl(bootstrap_servers="127.0.0.1:1")
    assert SECRET not in repr(kafka)
    with pytest.raises(ServiceAwayError) as away, broker_errors(kafka):
        KafkaAdminClient(**python_client_options(kafka))
    assert SECRET not in str(away.value)


def test_no_permission_and_no_answer_in_time_are_told_apart():
    kafka = sasl()
    with pytest.raises(ServiceAwayError, match="does not permit"), broker_errors(kafka):
        raise TopicAuthorizationFailedError("clicks")
    with pytest.raises(ServiceAwayError, match="did not answer in time"), broker_errors(kafka):
        raise KafkaTimeoutError("flush")


def test_other_errors_pass_through():
    with pytest.raises(ZeroDivisionError), broker_errors(KafkaSettings()):
        raise ZeroDivisionError


def test_the_clients_loggers_speak_again_when_the_last_thread_leaves(caplog):
    logger = logging.getLogger("kafka.client")
    inside, leave = threading.Barrier(2), threading.Event()

    def stay() -> None:
        with broker_errors(KafkaSettings()):
            inside.wait()
            leave.wait()

    thread = threading.Thread(target=stay)
    with broker_errors(KafkaSettings()):
        thread.start()
        inside.wait()
    logger.warning("held back")
    leave.set()
    thread.join()
    logger.warning("heard")
    assert [record.message for record in caplog.records] == ["heard"]


def test_asking_in_vain_leaves_no_thread_and_no_socket_behind(monkeypatch):
    monkeypatch.setattr(kafka_clients, "CONNECT_TIMEOUT_MS", 50)
    kafka = KafkaSettings(bootstrap_servers="127.0.0.1:1")

    def ask() -> tuple[int, int]:
        for client in (KafkaAdminClient, KafkaConsumer, KafkaProducer):
            with pytest.raises(ServiceAwayError), broker_errors(kafka):
                client(**python_client_options(kafka))
        gc.collect()
        return threading.active_count(), psutil.Process().num_fds()

    ask()
    before = ask()
    for _ in range(3):
        after = ask()
    assert after[0] <= before[0]
    assert after[1] <= before[1] + 3  # collected a little later, or belonging to another test


def test_kafka_pythons_checksums_are_computed_in_c_and_right():
    """RFC 3720, section B.4; kafka-python gives views of a buffer."""
    python_client_options(KafkaSettings())
    for data in (b"123456789", bytearray(b"123456789"), memoryview(bytearray(b"-123456789"))[1:]):
        assert default_records.calc_crc32c(data) == 0xE3069283
    assert default_records.calc_crc32c(bytes(32)) == 0x8A9136AA
    assert default_records.calc_crc32c is aiokafka_records.calc_crc32c
    assert aiokafka_records.calc_crc32c is not aiokafka_records.calc_crc32c_py


def test_a_batch_of_kafka_python_is_what_it_was_with_its_own_checksum():
    python_client_options(KafkaSettings())
    builder = MemoryRecordsBuilder(2, 0, 10_000)
    builder.append(timestamp=1, key=b"item/a", value=b"\x02" * 1_000, headers=[])
    builder.close()
    batch = MemoryRecords(builder.buffer()).next_batch()
    assert batch.validate_crc()
    assert kafka_records.crc32c_py(memoryview(builder.buffer())[21:]) == batch.crc
