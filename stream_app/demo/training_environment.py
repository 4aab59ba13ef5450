"""Where the demo's trainings run: an environment with torch, found or made while the stream runs on."""

import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from stream_app.demo.children import Child, Children

CHILD: Final = "training-environment"
DISK_BYTES: Final = 7 * 1024**3
"""torch with its CUDA parts takes about 5 GB, and as much as 2 while it is unpacked."""
_UNFINISHED: Final = ".nextclick-unfinished"
"""Stands in an environment from before the first step until after the last one."""
_NEEDED: Final = ("torch", "onnxscript", "matplotlib", "export", "stream_app")
_CHECK: Final = (
    "import importlib.util as u, sys; "
    f"sys.exit(any(u.find_spec(name) is None for name in {_NEEDED!r}))"
)
_CERTIFICATES: Final = (("/etc/ssl/certs", "*.crt"), ("/etc/pki/tls/certs", "*.crt"))


def default_directory(data_root: Path) -> Path:
    """`.venv-training` where there is one or a checkout to make it in, else inside `data_root`."""
    here = Path.cwd() / ".venv-training"
    if here.is_dir() or checkout() == Path.cwd():
        return here
    return data_root / "training-env"


def checkout() -> Path | None:
    """The source tree this package runs from; None where it was installed as a wheel."""
    root = Path(__file__).resolve().parents[2]
    project = root / "pyproject.toml"
    if project.is_file() and 'name = "nextclick"' in project.read_text():
        return root
    return None


class TrainingEnvironment:
    """Found at once, or made step by step: `start`, then `tick` until `python` or `failure` is there."""

    def __init__(self, directory: Path, children: Children, log_file: Path) -> None:
        self.directory, self._children, self._log_file = directory, children, log_file
        self.python: Path | None = None
        """Interpreter to train with, once it is ready."""
        self.failure: str | None = None
        """Why there will be none."""
        self.seconds = 0.0
        """How long making it took."""
        self._steps: list[tuple[str, list[str]]] = []
        self._running: Child | None = None
        self._label = ""
        self._began = time.monotonic()

    @property
    def is_pending(self) -> bool:
        return self.python is None and self.failure is None

    @property
    def status(self) -> str:
        """`installing torch (43 s)`; empty once it is settled."""
        if not self.is_pending:
            return ""
        return f"{self._label} ({time.monotonic() - self._began:.0f} s)"

    def start(self) -> None:
        """Find an environment, or begin to make one."""
        self._began = time.monotonic()
        if _can_train_here():
            self.python = Path(sys.executable)
        elif _is_ready(self.directory):
            self.python = _python_of(self.directory)
        else:
            self._begin()

    def tick(self) -> None:
        """Go on with the next step if the last one is done."""
        if not self.is_pending:
            return
        if self._running is not None:
            status = self._running.poll()
            if status is None:
                return
            self._children.stop(CHILD)
            if status != 0:
                self.failure = f"{self._label} failed:\n{self._running.last_lines(6)}"
                return
        if self._steps:
            self._label, command = self._steps.pop(0)
            self._running = self._children.start(
                CHILD, command, self._log_file, env=_installer_environment(), nice=True
            )
            return
        (self.directory / _UNFINISHED).unlink(missing_ok=True)
        self.seconds = time.monotonic() - self._began
        if _is_ready(self.directory):
            self.python = _python_of(self.directory)
        else:
            self.failure = f"{self.directory} was made, but torch cannot be imported there"

    def _begin(self) -> None:
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(self.directory).free
            if free < DISK_BYTES:
                self.failure = (
                    f"torch needs about {DISK_BYTES / 1e9:.0f} GB in {self.directory}, and "
                    f"{free / 1e9:.1f} GB are free: make room, or name a directory elsewhere with "
                    "--training-env"
                )
                return
            (self.directory / _UNFINISHED).touch()
        except OSError as error:
            self.failure = f"{self.directory} cannot be written ({error.strerror})"
            return
        self._steps = _steps(self.directory)


def _steps(directory: Path) -> list[tuple[str, list[str]]]:
    """What makes the environment, in order: what is being done, and the command."""
    python = _python_of(directory)
    steps: list[tuple[str, list[str]]] = []
    if not python.exists():
        make = [sys.executable, "-m", "venv", "--clear", str(directory)]
        steps.append(("making an environment for torch", make))
    uv = _uv()
    if uv is None:
        uv = python.with_name("uv")
        install_uv = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "uv"]
        steps.append(("installing an installer", install_uv))
    install = [str(uv), "pip", "install", "--python", str(python)]
    root = checkout()
    if root is None:
        return [*steps, ("installing torch", [*install, *_published(), "torch==2.13.*"])]
    pins = root / "requirements" / "training.txt"
    if not pins.is_file():
        return [*steps, ("installing torch", [*install, "-e", f"{root}[training]"])]
    return [
        *steps,
        ("installing torch", [*install, "-r", str(pins)]),
        ("installing nextclick beside torch", [*install, "--no-deps", "-e", str(root)]),
    ]


def _published() -> Sequence[str]:
    """This very nextclick with its training part: from where it was installed from, or by version."""
    distribution = importlib.metadata.distribution("nextclick")
    with suppress(ValueError, KeyError, TypeError):
        origin = json.loads(distribution.read_text("direct_url.json") or "")["url"]
        return [f"nextclick[training] @ {origin}"]
    return [f"nextclick[training]=={distribution.version}"]


def _uv() -> Path | None:
    beside = Path(sys.executable).with_name("uv")
    if beside.is_file():
        return beside
    found = shutil.which("uv")
    return Path(found) if found else None


def _installer_environment() -> Mapping[str, str]:
    """Trust what the machine trusts, as pip does: many networks have an authority of their own."""
    env = dict(os.environ)
    if any(list(Path(place).glob(pattern)) for place, pattern in _CERTIFICATES):
        env.setdefault("UV_SYSTEM_CERTS", "true")
    return env


def _python_of(directory: Path) -> Path:
    return directory / "bin" / "python"


def _can_train_here() -> bool:
    return all(importlib.util.find_spec(name) is not None for name in _NEEDED)


def _is_ready(directory: Path) -> bool:
    python = _python_of(directory)
    if not python.exists() or (directory / _UNFINISHED).exists():
        return False
    # From elsewhere: in a checkout, packages of the working directory would be found that are not
    # installed there.
    finished = subprocess.run(
        [python, "-c", _CHECK], capture_output=True, check=False, cwd=directory
    )
    return finished.returncode == 0
