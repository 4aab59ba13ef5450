"""A certificate authority, the broker's certificate and a password for deploy/compose/tls.yml.

python -m deploy.compose.certificates DIRECTORY
"""

import os
import secrets
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import Final

import click
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

USER: Final = "nextclick"
BROKER_UID: Final = 1000
"""User of the Kafka image."""
NEXTCLICK_UID: Final = 10_001
"""User of our images."""
HOSTS: Final = ("kafka", "localhost")
DAYS: Final = 825
"""As long as a certificate may live that browsers and Java accept everywhere."""


@click.command()
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False))
@click.option("--host", "hosts", multiple=True, help="Another name the broker is called by.")
def main(directory: Path, hosts: tuple[str, ...]) -> None:
    """Write authority.pem, broker.pem, jaas.conf and password; none is overwritten.

    \b
    Example:
      python -m deploy.compose.certificates deploy/compose/secrets --host kafka.shop.example
    """
    for file in make_secrets(directory, (*HOSTS, *hosts)):
        click.echo(f"{file}: mode {file.stat().st_mode & 0o777:04o}")
    if os.geteuid() != 0:
        click.echo(
            f"Only root can give files to the containers' users, so {directory} itself is closed to others"
            " instead; nextclick warns of it at start."
        )


def make_secrets(directory: Path, hosts: tuple[str, ...]) -> list[Path]:
    """The four files.  Raises `click.UsageError` if one is there already."""
    authority_key = ec.generate_private_key(ec.SECP256R1())
    authority = _certificate("nextclick authority", authority_key, None, authority_key, ())
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = _certificate("kafka", key, authority, authority_key, hosts)
    password = secrets.token_urlsafe(24)
    module = "org.apache.kafka.common.security.plain.PlainLoginModule"
    # The broker also speaks to itself by it, hence the first two; every user_NAME may log in.
    jaas = (
        f"KafkaServer {{\n  {module} required\n"
        f'  username="{USER}" password="{password}"\n  user_{USER}="{password}";\n}};\n'
    )
    files = {
        "authority.pem": (_pem(authority), NEXTCLICK_UID, 0o644),
        "broker.pem": (_key_pem(key) + _pem(certificate), BROKER_UID, 0o600),
        "jaas.conf": (jaas, BROKER_UID, 0o600),
        "password": (f"{password}\n", NEXTCLICK_UID, 0o600),
    }
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    for name in files:
        if (directory / name).exists():
            raise click.UsageError(
                f"{directory / name} is there already: remove it, or name another directory"
            )
    directory.chmod(0o700)
    return [_write(directory / name, *content) for name, content in files.items()]


def _write(file: Path, text: str, uid: int, mode: int) -> Path:
    file.touch(0o600, exist_ok=False)
    file.write_text(text)
    if os.geteuid() == 0:
        os.chown(file, uid, uid)
        file.chmod(mode)
    else:
        file.chmod(0o644)
    return file


def _certificate(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Certificate | None,
    issuer_key: ec.EllipticCurvePrivateKey,
    hosts: tuple[str, ...],
) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=DAYS))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()),
            critical=False,
        )
    )
    if hosts:
        names: list[x509.GeneralName] = [x509.DNSName(host) for host in hosts]
        names.append(x509.IPAddress(IPv4Address("127.0.0.1")))
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    else:
        builder = builder.add_extension(
            x509.KeyUsage(
                digital_signature=False,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                key_cert_sign=True,
                crl_sign=True,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
    return builder.sign(issuer_key, hashes.SHA256())


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()


if __name__ == "__main__":
    main()
