"""The secrets for the stack's own Kafka: they fit together, and nobody else reads them."""

import re
import ssl
from pathlib import Path

import pytest
from click import UsageError
from click.testing import CliRunner

from deploy.compose import certificates
from deploy.compose.certificates import main, make_secrets


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("secrets") / "made"
    make_secrets(made, ("kafka", "localhost"))
    return made


def shake_hands(directory: Path, called: str) -> None:
    """A TLS handshake with the broker's certificate, in memory.  Raises `ssl.SSLError` if refused."""
    broker = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    broker.load_cert_chain(directory / "broker.pem")
    client = ssl.create_default_context(cafile=directory / "authority.pem")
    to_broker, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(to_client, to_broker, server_hostname=called)
    theirs = broker.wrap_bio(to_broker, to_client, server_side=True)
    waiting = [ours, theirs]
    while waiting:
        for side in list(waiting):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            waiting.remove(side)


@pytest.mark.parametrize("name", ["kafka", "localhost", "127.0.0.1"])
def test_the_authority_vouches_for_the_broker_under_each_of_its_names(
    directory: Path, name: str
) -> None:
    shake_hands(directory, name)


def test_another_name_is_refused(directory: Path) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(directory, "elsewhere")


def test_the_broker_knows_the_user_by_the_password(directory: Path) -> None:
    password = (directory / "password").read_text().strip()
    assert len(password) >= 32
    assert f'user_nextclick="{password}"' in (directory / "jaas.conf").read_text()


def test_each_file_is_open_to_its_container_only(directory: Path) -> None:
    """Root gives each to its user; anybody else can only close the directory."""
    assert directory.stat().st_mode & 0o077 == 0
    if certificates.os.geteuid() == 0:
        owners = {
            file.name: (file.stat().st_uid, file.stat().st_mode & 0o777)
            for file in directory.iterdir()
        }
        assert owners == {
            "authority.pem": (10_001, 0o644),
            "broker.pem": (1_000, 0o600),
            "jaas.conf": (1_000, 0o600),
            "password": (10_001, 0o600),
        }


def test_nothing_is_overwritten(directory: Path) -> None:
    before = (directory / "password").read_text()
    with pytest.raises(UsageError, match="there already"):
        make_secrets(directory, ("kafka",))
    assert (directory / "password").read_text() == before


def test_the_command_says_what_it_wrote(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, [str(tmp_path / "made"), "--host", "kafka.shop.example"])
    assert result.exit_code == 0
    assert re.findall(r"made/(\S+):", result.output) == [
        "authority.pem",
        "broker.pem",
        "jaas.conf",
        "password",
    ]
    shake_hands(tmp_path / "made", "kafka.shop.example")
