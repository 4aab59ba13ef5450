"""etcd and kube-apiserver on loopback, and kubectl that talks to them: a cluster without a node."""

import os
import secrets
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from deploy.kubernetes.check.tools import Tools

READY_SECONDS: Final = 180.0
"""It takes 3 s on an idle machine."""


class ClusterError(Exception):
    """The API server did not become ready, or refused something."""


class Kubectl:
    """kubectl with an administrator's token."""

    def __init__(self, program: Path, server: str, token: str, home: Path) -> None:
        self.program = program
        self._options = ["--server", server, "--token", token, "--insecure-skip-tls-verify"]
        self._environment = {**os.environ, "HOME": str(home), "KUBECONFIG": os.devnull}

    def run(self, *arguments: str, given: str | None = None) -> subprocess.CompletedProcess[str]:
        """given: what it reads from its standard input."""
        return subprocess.run(
            [str(self.program), *self._options, *arguments],
            input=given,
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def must(self, *arguments: str, given: str | None = None) -> str:
        """Raises `ClusterError` with what it said if it fails."""
        done = self.run(*arguments, given=given)
        if done.returncode:
            raise ClusterError(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout


@contextmanager
def running_cluster(tools: Tools, folder: Path) -> Iterator[Kubectl]:
    """Ready for requests, and gone afterwards.  folder: empty; logs and the store go there."""
    etcd_port, peer_port, port = _free_ports(3)
    token = secrets.token_hex(16)
    (folder / "tokens.csv").write_text(f"{token},admin,admin,system:masters\n")
    key = folder / "service-account.key"
    key.write_bytes(_private_key())
    etcd = f"http://127.0.0.1:{etcd_port}"
    commands = {
        "etcd": [
            *(str(tools.etcd), "--data-dir", str(folder / "etcd"), "--log-level", "error"),
            *("--listen-client-urls", etcd, "--advertise-client-urls", etcd),
            *("--listen-peer-urls", f"http://127.0.0.1:{peer_port}"),
        ],
        "kube-apiserver": [
            *(str(tools.api_server), "--etcd-servers", etcd, "--cert-dir", str(folder / "pki")),
            *("--bind-address", "127.0.0.1", "--secure-port", str(port)),
            *("--token-auth-file", str(folder / "tokens.csv"), "--authorization-mode", "RBAC"),
            *("--service-account-issuer", "https://kubernetes.default.svc"),
            *(
                "--service-account-key-file",
                str(key),
                "--service-account-signing-key-file",
                str(key),
            ),
            *("--service-cluster-ip-range", "10.96.0.0/16"),
            # As in any cluster that runs a network plugin: what refuses a privileged pod is Pod Security.
            "--allow-privileged=true",
            # Nobody makes the default account of a namespace here: that is a controller's work.
            *("--disable-admission-plugins", "ServiceAccount"),
        ],
    }
    with _processes(commands, folder) as processes:
        kubectl = Kubectl(tools.kubectl, f"https://127.0.0.1:{port}", token, folder)
        _wait_until_ready(kubectl, processes, folder)
        yield kubectl


@contextmanager
def _processes(
    commands: dict[str, list[str]], folder: Path
) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    started: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for name, command in commands.items():
            with (folder / f"{name}.log").open("wb") as log:
                started[name] = subprocess.Popen(command, stdout=log, stderr=log)
        yield started
    finally:
        for process in reversed(started.values()):
            process.terminate()
        for process in reversed(started.values()):
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_until_ready(
    kubectl: Kubectl, processes: dict[str, subprocess.Popen[bytes]], folder: Path
) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while kubectl.run("get", "--raw", "/readyz").returncode:
        for name, process in processes.items():
            if process.poll() is not None or time.monotonic() > deadline:
                tail = (folder / f"{name}.log").read_text(errors="replace")[-2000:]
                raise ClusterError(f"the API server is not ready; {name} says:\n{tail}")
        time.sleep(0.5)


def _free_ports(count: int) -> list[int]:
    holders = [socket.socket() for _ in range(count)]
    try:
        for holder in holders:
            holder.bind(("127.0.0.1", 0))
        return [holder.getsockname()[1] for holder in holders]
    finally:
        for holder in holders:
            holder.close()


def _private_key() -> bytes:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
