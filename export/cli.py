"""The commands that need PyTorch: train, export, retrain, refresh.  None is imported before it runs."""

import re
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Final, Generic, TypeVar

import click
import msgspec

from models.options import TrainingOptions, require_torch, training_options
from stream_app.cli.options import with_settings
from stream_app.core.errors import ConfigurationError
from stream_app.logging_setup import get_logger, set_up_logging
from stream_app.settings import Settings

if TYPE_CHECKING:
    from export.run import Job, RunOutcome
    from stream_app.adapters.retrain_instruments import RefreshInstruments, RetrainInstruments

_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([smhd]?)")
_SECONDS: Final = {"": 1, "s": 1, "m": 60, "h": 3_600, "d": 86_400}

log = get_logger("retrain")


@click.command()
@training_options
def train(options: TrainingOptions) -> None:
    """Train a network on a click file of any known format; leave a servable bundle in --out.

    What is held out, the newest sessions or the file's own test part, is ranked beside popularity and a
    tuned item-kNN.  Several processes train together under torchrun.

    \b
    Example:
      nextclick train --data clicks.parquet --out models/first --model cosine-gru
      torchrun --nproc-per-node 2 -m stream_app train --data clicks.parquet --out models/first
      nextclick evaluate --bundle models/first --data clicks.parquet
    """
    require_torch()
    from export.training import train_and_export  # noqa: PLC0415 - torch is loaded when needed

    scorer = train_and_export(options)
    if scorer is not None:
        click.echo(f"bundle {scorer.model_version} is in {options.checkpoint_directory}")


@click.command()
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    required=True,
    help="What `nextclick train --out` left.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="Directory to make; must not exist.",
)
@click.option(
    "--approximate",
    is_flag=True,
    help="Score 300,000 items or more by clusters: faster, some of a list missing (says how much).",
)
def export(checkpoint: Path, out: Path, approximate: bool) -> None:
    """Make the bundle (ONNX, verified against torch) of a trained checkpoint.

    \b
    Example:
      nextclick export --checkpoint models/first --out registry/first
    """
    require_torch()
    from export.training import export_checkpoint  # noqa: PLC0415 - torch is loaded when needed

    scorer = export_checkpoint(checkpoint, out, approximate_scoring=approximate)
    scoring = scorer.manifest.scoring
    click.echo(
        f"bundle {scorer.model_version} is in {out}; scoring {scoring.method}, lists "
        f"{scoring.recall_20:.2%} of the exact best 20"
    )


@click.command()
@with_settings(
    "kafka.bootstrap_servers", "registry", "click_log", "data_dir", "metrics.port", "metrics.host"
)
@click.option("--once", is_flag=True, help="One run, then end.")
@click.option("--every", metavar="DURATION", help="Go on for ever: 60s, 15m, 6h, 1d.")
@click.option(
    "--report", type=click.Path(path_type=Path), help="Write the (last) run's outcome as JSON."
)
def retrain(settings: Settings, once: bool, every: str | None, report: Path | None) -> None:
    """Train on the newest clicks, judge against the live model, and publish what is better.

    Reads the click log, holds out the newest sessions, starts from the live model's weights, compares
    with the live model and popularity, and lets through only what is no worse.  A report of each run is
    kept in the registry under `reports/VERSION/`.  Killed at any moment, it leaves nothing half done.

    \b
    Example:
      nextclick retrain --once
      nextclick retrain --every 15m --set retrain.window_days=7
    """
    _check_rhythm(once, every)
    require_torch()
    from stream_app.adapters.retrain_instruments import RetrainInstruments  # noqa: PLC0415

    _start(_Job("retrain", RetrainInstruments, _retrainings), settings, once, every, report)


@click.command()
@with_settings(
    "kafka.bootstrap_servers", "registry", "click_log", "data_dir", "metrics.port", "metrics.host"
)
@click.option("--once", is_flag=True, help="One run, then end.")
@click.option("--every", metavar="DURATION", help="Go on for ever: 60s, 5m, 15m.")
@click.option(
    "--report", type=click.Path(path_type=Path), help="Write the (last) run's outcome as JSON."
)
def refresh(settings: Settings, once: bool, every: str | None, report: Path | None) -> None:
    """Let the live model learn the clicks since it was trained, and release what changed.

    Between two full trainings (`nextclick retrain`): reads what is new in the click log, fine-tunes the live
    model on it and on some older sessions, lets new items into the vocabulary, judges the outcome on the
    newest clicks against the live model and the last full training, and publishes the changed rows.
    Workers apply them within seconds.

    \b
    Example:
      nextclick refresh --every 5m
    """
    _check_rhythm(once, every)
    require_torch()
    from stream_app.adapters.retrain_instruments import RefreshInstruments  # noqa: PLC0415

    _start(_Job("refresh", RefreshInstruments, _refreshes), settings, once, every, report)


def _check_rhythm(once: bool, every: str | None) -> None:
    if once == (every is not None):
        raise click.UsageError("say either --once or --every DURATION")
    if every is not None:
        duration_seconds(every)


def duration_seconds(text: str) -> float:
    """`90`, `60s`, `15m`, `6h`, `1d`.  Raises `ConfigurationError` for anything else."""
    match = _DURATION.fullmatch(text.strip().lower())
    if match is None or float(match[1]) <= 0:
        raise ConfigurationError(f"--every {text}: write a duration such as 60s, 15m, 6h or 1d")
    return float(match[1]) * _SECONDS[match[2]]


_Instruments = TypeVar("_Instruments", bound="RetrainInstruments")


@dataclass(frozen=True)
class _Job(Generic[_Instruments]):
    """What `retrain` and `refresh` do, as far as a process around it has to know."""

    name: "Job"
    instruments: "type[_Instruments]"
    runner: (
        "Callable[[Settings, _Instruments], AbstractContextManager[Callable[[bool], RunOutcome]]]"
    )


def _start(
    job: _Job[_Instruments], settings: Settings, once: bool, every: str | None, report: Path | None
) -> None:
    set_up_logging(settings.log_level, process=job.name)
    with _ends_on_sigterm():
        if once:
            _run_once(job, settings, report)
        else:
            _run_for_ever(job, settings, duration_seconds(every or ""), report)


def _run_once(job: _Job[_Instruments], settings: Settings, report: Path | None) -> None:
    from prometheus_client import CollectorRegistry  # noqa: PLC0415 - heavy, and not for --help

    with job.runner(settings, job.instruments(CollectorRegistry())) as run:
        _finished(job, run(False), report)


def _run_for_ever(
    job: _Job[_Instruments], settings: Settings, every_seconds: float, report: Path | None
) -> None:
    from export.periodic import retrain_for_ever  # noqa: PLC0415 - heavy, and not for --help
    from stream_app.adapters.disk_metrics import DiskMetrics  # noqa: PLC0415
    from stream_app.adapters.http_endpoints import serve  # noqa: PLC0415
    from stream_app.adapters.instruments import process_registry  # noqa: PLC0415

    registry = process_registry()
    registry.register(DiskMetrics(registry=settings.registry, data_dir=settings.data_dir))
    instruments = job.instruments(registry)
    health = _Health()

    def done(outcome: "RunOutcome | None") -> None:
        health.last_run_failed = outcome is None
        if outcome is not None and not health.says_again(outcome):
            _finished(job, outcome, report)

    with ExitStack() as stack:
        run = stack.enter_context(job.runner(settings, instruments))
        endpoints = serve(
            settings.metrics.host,
            settings.metrics.port,
            registry=registry,
            is_ready=health.is_ready,
        )
        stack.callback(endpoints.close)
        log.info(f"{job.name}_started", every_seconds=every_seconds, metrics_url=endpoints.url)
        try:
            retrain_for_ever(run, every_seconds=every_seconds, instruments=instruments, done=done)
        except KeyboardInterrupt:
            log.info(f"{job.name}_stopped")  # the usual end of a service


class _Health:
    """Whether the last run could do its work; and what was said already."""

    def __init__(self) -> None:
        self.last_run_failed: bool | None = None
        self._said = ""

    def is_ready(self) -> tuple[bool, str]:
        if self.last_run_failed is None:
            return False, "the first run is not finished"
        return not self.last_run_failed, "the last run failed: see the log" if (
            self.last_run_failed
        ) else "the last run ended well"

    def says_again(self, outcome: "RunOutcome") -> bool:
        """Waiting for sessions, every two seconds: news only when the number has changed."""
        said, self._said = self._said, f"{outcome.result}: {outcome.reason}"
        return outcome.result == "waiting" and said == self._said


@contextmanager
def _retrainings(
    settings: Settings, instruments: "RetrainInstruments"
) -> "Iterator[Callable[[bool], RunOutcome]]":
    from export.retrain import retrain_once  # noqa: PLC0415 - torch is loaded when needed
    from models.progress_view import show_progress  # noqa: PLC0415

    def run(from_scratch: bool) -> "RunOutcome":
        with show_progress() as progress:
            return retrain_once(
                settings,
                instruments=instruments,
                say=_say,
                progress=progress,
                from_scratch=from_scratch,
            )

    yield run


@contextmanager
def _refreshes(
    settings: Settings, instruments: "RefreshInstruments"
) -> "Iterator[Callable[[bool], RunOutcome]]":
    from export.refresh import Refresher  # noqa: PLC0415 - torch is loaded when needed

    refresher = Refresher(settings, instruments=instruments, say=_say)
    try:
        yield refresher.run
    finally:
        refresher.close()


def _finished(job: _Job[_Instruments], outcome: "RunOutcome", report: Path | None) -> None:
    fields = {"result": outcome.result, "reason": outcome.reason, "sessions": outcome.sessions}
    log.info(f"{job.name}_finished", model_version=outcome.model_version, **fields)
    words = {
        "published": f"model {outcome.model_version} is live: {outcome.reason}",
        "gated": f"model {outcome.model_version or ''} was refused: {outcome.reason}",
        "waiting": f"nothing trained: {outcome.reason}",
    }
    _say(words[outcome.result])
    if outcome.report_path:
        _say(f"report: {outcome.report_path}")
    if report is not None:
        report.parent.mkdir(parents=True, exist_ok=True)
        report.write_bytes(msgspec.json.format(msgspec.json.encode(outcome), indent=2))


def _say(text: str) -> None:
    click.echo(text)


@contextmanager
def _ends_on_sigterm() -> Iterator[None]:
    """SIGTERM is how supervisors say Ctrl-C."""

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
