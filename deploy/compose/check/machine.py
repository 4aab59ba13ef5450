"""A Docker of our own on this machine: packages by apt, a private daemon, its data where we say."""

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from stream_app.core.errors import ConfigurationError, ServiceAwayError

PACKAGES: Final = {"dockerd": "docker.io", "iptables": "iptables"}
"""What the check needs, and the Debian packages that hold it."""
PLUGINS: Final = ("docker-compose", "docker-buildx")
"""Debian 12 has neither in a version that knows today's compose files; the next release has."""
NEXT_RELEASE: Final = "trixie"
PACKAGES_SECONDS: Final = 3_600.0
START_SECONDS: Final = 600.0
STOP_SECONDS: Final = 600.0


def run(*command: str | Path, timeout: float = 600, **options: object) -> str:
    """Standard output of a command.  Raises `ServiceAwayError` with its last words if it fails."""
    words = [str(word) for word in command]
    try:
        done = subprocess.run(  # type: ignore[call-overload]
            words, capture_output=True, text=True, timeout=timeout, check=False, **options
        )
    except subprocess.TimeoutExpired as error:
        raise ServiceAwayError(f"{' '.join(words)} took more than {timeout:.0f} s") from error
    if done.returncode:
        last = "\n".join((done.stdout + done.stderr).splitlines()[-25:])
        raise ServiceAwayError(f"{' '.join(words)} ended with {done.returncode}:\n{last}")
    return str(done.stdout)


def install_packages() -> None:
    """Whatever is missing, by apt.  Raises `ConfigurationError` where that needs another user."""
    missing = [package for program, package in PACKAGES.items() if not shutil.which(program)]
    if missing:
        if os.geteuid() != 0:
            raise ConfigurationError(
                f"as root: apt-get install -y --no-install-recommends {' '.join(missing)}"
            )
        run("apt-get", "update", "-q")
        run("apt-get", "install", "-y", "-q", "--no-install-recommends", *missing)
    if os.geteuid() != 0:
        raise ConfigurationError("a Docker daemon needs root: run the check as root")


class Packages:
    """Debian packages of any suite, unpacked into a directory and never installed: no script of theirs runs."""

    def __init__(self, work: Path, suite: str) -> None:
        self._work = work / "apt" / suite
        self._suite = suite
        self._options = [
            f"-oDir::Etc::SourceList={self._work}/sources.list",
            "-oDir::Etc::SourceParts=-",
            f"-oDir::State={self._work}/state",
            f"-oDir::State::Status={self._work}/nothing-installed",
            f"-oDir::Cache={self._work}/cache",
            "-oAPT::Install-Recommends=false",
            "-oAPT::Sandbox::User=root",
        ]

    def unpack(self, into: Path, *names: str, with_dependencies: bool = False) -> None:
        """Into a directory that may hold something; symbolic links to directories in it are followed."""
        archives = self._work / "cache/archives"
        for part in (archives / "partial", self._work / "state/lists/partial"):
            part.mkdir(parents=True, exist_ok=True)
        (self._work / "nothing-installed").touch()
        (self._work / "sources.list").write_text(
            f"deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] {mirror()} {self._suite} main\n"
        )
        for old in archives.glob("*.deb"):
            old.unlink()
        run("apt-get", *self._options, "-q", "update", timeout=PACKAGES_SECONDS)
        how = ("install", "-y", "--download-only") if with_dependencies else ("download",)
        run("apt-get", *self._options, "-q", *how, *names, cwd=archives, timeout=PACKAGES_SECONDS)
        into.mkdir(parents=True, exist_ok=True)
        for archive in sorted(archives.glob("*.deb")):
            run("dpkg-deb", "--extract", archive, into)


def mirror() -> str:
    """Where this machine has its Debian packages from."""
    for file in sorted(Path("/etc/apt").glob("**/*")):
        if file.suffix in {".sources", ".list"} and file.is_file():
            for line in file.read_text().splitlines():
                found = re.match(r"(?:URIs:|deb(?: \[.*\])?)\s+(\S+/debian/?)(?:\s|$)", line)
                if found:
                    return found[1]
    raise ConfigurationError("no Debian package source is configured on this machine")


class Docker:
    """A daemon on a socket of its own; with-block.  Nothing of the machine's own Docker is touched."""

    def __init__(self, work: Path) -> None:
        self._work = work
        self._socket = work / "docker.sock"
        self._plugins = work / "client" / "cli-plugins"
        self._daemon: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        if self._answers():
            raise ServiceAwayError(
                f"a daemon runs on {self._socket} already: another check, or one that was killed"
            )
        self._fetch_plugins()
        forward = run("iptables", "-S", "FORWARD").split()[2]
        log = (self._work / "dockerd.log").open("ab")
        self._daemon = subprocess.Popen(
            [
                "dockerd",
                *("--data-root", str(self._work / "data"), "--exec-root", str(self._work / "exec")),
                *("--pidfile", str(self._work / "dockerd.pid"), "-H", f"unix://{self._socket}"),
                *("--storage-driver", "overlay2", "--cgroup-parent", "nextclick-check"),
            ],
            stdout=log,
            stderr=log,
        )
        log.close()
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self._daemon.poll() is None:
            if self._answers():
                # The daemon closes the machine to all other routed traffic; others may need it.
                run("iptables", "-P", "FORWARD", forward)
                return self
            time.sleep(0.3)
        self._stop()
        raise ServiceAwayError(f"dockerd did not start: see {self._work / 'dockerd.log'}")

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._stop()

    def _answers(self) -> bool:
        try:
            self.docker("version", timeout=60)
        except ServiceAwayError:
            return False
        return True

    def _stop(self) -> None:
        if self._daemon is not None:
            self._daemon.send_signal(signal.SIGTERM)
            self._daemon.wait(STOP_SECONDS)

    def _fetch_plugins(self) -> None:
        self._plugins.mkdir(parents=True, exist_ok=True)
        if len(list(self._plugins.iterdir())) == len(PLUGINS):
            return
        unpacked = self._work / "plugins"
        Packages(self._work, NEXT_RELEASE).unpack(unpacked, *PLUGINS)
        for name in PLUGINS:
            (found,) = unpacked.rglob(f"cli-plugins/{name}")
            link = self._plugins / name
            link.unlink(missing_ok=True)
            link.symlink_to(found)

    @property
    def environment(self) -> dict[str, str]:
        """For any docker command: our socket, our plugins, BuildKit."""
        return {
            **os.environ,
            "DOCKER_HOST": f"unix://{self._socket}",
            "DOCKER_CONFIG": str(self._plugins.parent),
            "DOCKER_BUILDKIT": "1",
            "BUILDKIT_PROGRESS": "plain",
        }

    def docker(
        self,
        *arguments: str | Path,
        timeout: float = 3_600,
        variables: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> str:
        # Some machines have another `docker` before Debian's on the path.
        return run(
            "/usr/bin/docker",
            *arguments,
            timeout=timeout,
            env={**self.environment, **(variables or {})},
            cwd=cwd,
        )

    def has_image(self, name: str) -> bool:
        return bool(self.docker("image", "ls", "--quiet", name).strip())

    def import_root(
        self, root: Path, name: str, changes: Sequence[str], *, without: Sequence[str]
    ) -> None:
        """A directory tree as an image of one layer."""
        excluded = [f"--exclude=./{path}" for path in without]
        with subprocess.Popen(
            ["tar", "-C", str(root), *excluded, "-c", "."], stdout=subprocess.PIPE
        ) as tar:
            asked = [word for change in changes for word in ("-c", change)]
            run(
                "/usr/bin/docker",
                "import",
                *asked,
                "-",
                name,
                stdin=tar.stdout,
                env=self.environment,
            )
