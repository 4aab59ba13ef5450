"""What one retraining works with: its tools, its scratch directory, and how it ended."""

import fcntl
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec

from export.plan import Say
from export.report import RunReport
from models.progress import ProgressCallback
from stream_app.adapters.retrain_instruments import RetrainInstruments
from stream_app.core.errors import ConfigurationError
from stream_app.core.metrics import RankingQuality
from stream_app.files.registry import Registry
from stream_app.settings import Settings

Job = Literal["retrain", "refresh"]
Result = Literal["published", "gated", "waiting"]


class Refreshed(msgspec.Struct, frozen=True, kw_only=True):
    """What a refresh released."""

    base: str
    """The full training that the delta is on."""
    new_clicks: int
    learned_clicks: int
    """Old ones, learned again, included."""
    new_items: int
    unclicked_items: int
    """Known by what the shop says of them alone."""
    delta_bytes: int
    quality: dict[str, RankingQuality]
    """By contender, on the newest of the new clicks, before the candidate had learned them."""
    step_seconds: dict[str, float]


class RunOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """How a run ended; `waiting` and `gated` are no faults."""

    result: Result
    reason: str
    model_version: str | None = None
    sessions: int = 0
    """Sessions of two clicks or more in the window."""
    before_first_model: bool = False
    """No model is live yet."""
    report: RunReport | None = None
    report_path: str | None = None
    refreshed: Refreshed | None = None
    """Of a refresh that was released."""


@dataclass(slots=True)
class Run:
    """The tools of one run."""

    settings: Settings
    registry: Registry
    scratch: Path
    instruments: RetrainInstruments
    say: Say
    progress: ProgressCallback | None
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        with self.instruments.step(name):
            yield
        self.seconds[name] = round(time.perf_counter() - began, 3)


@contextmanager
def scratch_directory(settings: Settings, job: Job) -> Iterator[Path]:
    """A directory of this run's own: emptied of what a killed run left, and again afterwards.

    Raises `ConfigurationError` if it cannot be written to, or another run of the job holds it.
    """
    directory = settings.data_dir / job
    lock: Any = None
    try:
        settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = (settings.data_dir / f"{job}.lock").open("w")
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir()
    except OSError as error:
        busy = isinstance(error, BlockingIOError)
        if lock is not None:
            lock.close()
        raise ConfigurationError(
            f"another {job} is at work in {settings.data_dir}: wait for it, or give each its own "
            "--data-dir"
            if busy
            else f"cannot write to {directory}: {error.strerror}.  Set another --data-dir"
        ) from error
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        lock.close()
