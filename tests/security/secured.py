"""A real broker with locked doors, and the ways through them: SCRAM over TLS, and certificates both ways."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kafka.admin import ScramMechanism, UserScramCredentialUpsertion

from stream_app.adapters.kafka_topics import admin_client
from stream_app.adapters.local_kafka import HOST, LocalKafka
from stream_app.settings import KafkaSettings
from tests.chaos.cluster import free_ports
from tests.security.certificates import Authority

USER = "shop"
PASSWORD = 'pass "word" 4711'


@dataclass(frozen=True)
class SecuredKafka:
    sasl: KafkaSettings
    """SCRAM-SHA-512 over TLS; the password lies in a file."""
    mutual: KafkaSettings
    """TLS with a certificate of our own."""
    stranger: Path
    """A certificate authority that signed nothing here."""
    broker_pid: int


@contextmanager
def secured_kafka(directory: Path) -> Iterator[SecuredKafka]:
    """The plain listener is the broker's own: it makes the user, and tests do not use it otherwise."""
    authority = Authority(directory, "authority")
    certificate, key = authority.issue("broker")
    keystore = directory / "broker.pem"
    keystore.touch(mode=0o600)
    keystore.write_bytes(key.read_bytes() + certificate.read_bytes())
    plain, sasl, mutual, controller = free_ports(4)
    doors = f"PLAINTEXT://{HOST}:{plain},SASL_SSL://{HOST}:{sasl},MUTUAL://{HOST}:{mutual}"
    settings = {
        "listeners": f"{doors},CONTROLLER://{HOST}:{controller}",
        "advertised.listeners": doors,
        "controller.quorum.voters": f"1@{HOST}:{controller}",
        "listener.security.protocol.map": (
            "PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL,MUTUAL:SSL,CONTROLLER:PLAINTEXT"
        ),
        "inter.broker.listener.name": "PLAINTEXT",
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(keystore),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(authority.certificate),
        "listener.name.mutual.ssl.client.auth": "required",
        "sasl.enabled.mechanisms": "SCRAM-SHA-512",
        "listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config": (
            "org.apache.kafka.common.security.scram.ScramLoginModule required;"
        ),
    }
    own_certificate, own_key = authority.issue("worker")
    password_file = directory / "password"
    password_file.touch(mode=0o600)
    password_file.write_text(PASSWORD)
    with LocalKafka(directory / "broker", port=plain, settings=settings) as broker:
        with admin_client(KafkaSettings(bootstrap_servers=broker.bootstrap_servers)) as admin:
            admin.alter_user_scram_credentials(
                [UserScramCredentialUpsertion(USER, ScramMechanism.SCRAM_SHA_512, PASSWORD)]
            )
        yield SecuredKafka(
            KafkaSettings(
                bootstrap_servers=f"{HOST}:{sasl}",
                security_protocol="SASL_SSL",
                sasl_mechanism="SCRAM-SHA-512",
                sasl_username=USER,
                sasl_password_file=password_file,
                ssl_cafile=authority.certificate,
            ),
            KafkaSettings(
                bootstrap_servers=f"{HOST}:{mutual}",
                security_protocol="SSL",
                ssl_cafile=authority.certificate,
                ssl_certfile=own_certificate,
                ssl_keyfile=own_key,
            ),
            Authority(directory, "stranger").certificate,
            broker.pid,
        )
