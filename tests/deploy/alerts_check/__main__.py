"""`make alerts-check`: see each alert fire for real, and none when nothing is wrong.  Writes build/alerts.json."""

import json
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import click

from tests.deploy.alerts_check.faults import FAULTS, Fault
from tests.deploy.alerts_check.monitoring import SCRAPE_SECONDS, missing_programs
from tests.deploy.alerts_check.rules import REPOSITORY, alerts
from tests.deploy.alerts_check.services import TRAINING_PYTHON
from tests.deploy.alerts_check.stack import Stack

RESULTS: Final = REPOSITORY / "build" / "alerts.json"
FACTOR: Final = 30.0
FIRING_SECONDS_MAX: Final = 60.0
WAIT_SECONDS: Final = 180.0
"""So long an alert is waited for, so that a late one is told by how much."""
RESOLVED_WITHIN_SECONDS: Final = 300.0


@dataclass
class Seen:
    """What became of one alert."""

    alert: str
    fault: str = ""
    seconds_to_firing: float | None = None
    """From the fault to `firing` in Prometheus."""
    seconds_to_receiver: float | None = None
    """From the fault to the webhook."""
    seconds_to_resolved: float | None = None
    """From the end of the fault to the webhook's being told so."""
    silent_in_quiet_run: bool | None = None
    summary: str = ""
    """As the receiver read it."""
    skipped: str = ""

    @property
    def is_good(self) -> bool:
        return bool(self.skipped) or (
            self.silent_in_quiet_run is not False
            and self.seconds_to_resolved is not None
            and max(_late(self.seconds_to_firing), _late(self.seconds_to_receiver))
            <= FIRING_SECONDS_MAX
        )


def _late(seconds: float | None) -> float:
    return float("inf") if seconds is None else seconds


@click.command()
@click.option(
    "--quiet-minutes", default=3.0, show_default=True, help="How long nothing is done first."
)
@click.option("--only", default="", help="Alerts, comma-separated; `none`: the quiet run alone.")
@click.option("--clicks-per-second", default=150.0, show_default=True)
@click.option("--out", default=RESULTS, type=click.Path(path_type=Path), show_default=True)
def main(quiet_minutes: float, only: str, clicks_per_second: float, out: Path) -> None:
    """Run everything, wait, then break one thing after the other.

    \b
    Example:
      python -m tests.deploy.alerts_check --quiet-minutes 30 --only none
    """
    why_not = missing_programs() or (
        "" if TRAINING_PYTHON.exists() else "torch is missing: make training-env"
    )
    if why_not:
        raise click.UsageError(why_not)
    faults = picked(only)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    with tempfile.TemporaryDirectory(prefix="nextclick-alerts-") as directory:
        check = Check(out, quiet_minutes)
        with Stack(Path(directory), factor=FACTOR, clicks_per_second=clicks_per_second) as stack:
            check.run(stack, faults)
    sys.exit(0 if check.is_good else 1)


def picked(only: str) -> Sequence[Fault]:
    """The faults of these alerts, all where none is named."""
    if not only:
        return FAULTS
    names = set() if only == "none" else set(only.split(","))
    unknown = names - {alert.name for alert in alerts()}
    if unknown:
        raise click.UsageError(f"no such alert: {sorted(unknown)}")
    return [fault for fault in FAULTS if names & set(fault.alerts)]


class Check:
    """Runs, tells as it goes, and keeps what was seen in a file: an interrupted run leaves it."""

    def __init__(self, out: Path, quiet_minutes: float) -> None:
        self._out, self._quiet_minutes = out, quiet_minutes
        self.seen = {alert.name: Seen(alert.name) for alert in alerts()}
        self._broken: list[str] = []
        self._asked: set[str] = set()

    @property
    def is_good(self) -> bool:
        silent = all(seen.silent_in_quiet_run is not False for seen in self.seen.values())
        return not self._broken and silent and all(self.seen[a].is_good for a in self._asked)

    def run(self, stack: Stack, faults: Sequence[Fault]) -> None:
        took = stack.wait_until("the first model answers", lambda: stack.live_version is not None)
        stack.wait_until_calm()
        click.echo(
            f"the stack is up, its first model came {took:.0f} s after the last service was started"
        )
        self._quiet(stack)
        for fault in faults:
            self._asked |= set(fault.alerts)
            try:
                self._one(stack, fault)
            except Exception as error:  # noqa: BLE001 - the others are worth seeing too
                self._broken.append(f"{fault.name}: {type(error).__name__}: {str(error)[:1_000]}")
                click.echo(f"{fault.name}: broke off: {str(error)[:1_000]}")
            self._write()

    def _quiet(self, stack: Stack) -> None:
        began, told = time.time(), len(stack.receiver.notices)
        stack.run_for(60 * self._quiet_minutes)
        fired = stack.monitoring.fired_since(began)
        fired |= {
            n.alert: fired.get(n.alert, 0) for n in stack.receiver.notices[told:] if n.is_firing
        }
        for name, seen in self.seen.items():
            seen.silent_in_quiet_run = name not in fired
        click.echo(
            f"{self._quiet_minutes:g} quiet minutes: "
            + (
                ", ".join(f"{name} fired for {seconds:.0f} s" for name, seconds in fired.items())
                or "no alert"
            )
        )
        self._write()

    def _one(self, stack: Stack, fault: Fault) -> None:
        if fault.needs_small_disk and stack.disk is None:
            for name in fault.alerts:
                self.seen[name].skipped = stack.why_no_small_disk
                click.echo(f"{name:<32} skipped: {stack.why_no_small_disk}")
            return
        stack.wait_until_calm()
        fault.prepare(stack)
        told, began = len(stack.receiver.notices), time.monotonic()
        try:
            with fault.during(stack):
                self._watch(stack, fault, began, told)
            self._wait_for_the_end(stack, fault)
        finally:
            fault.afterwards(stack)
        for name in fault.alerts:
            click.echo(line(self.seen[name]))

    def _watch(self, stack: Stack, fault: Fault, began: float, told: int) -> None:
        """Wait until all alerts of the fault fire and have arrived, and note when."""
        waiting = [self.seen[name] for name in fault.alerts]
        for seen in waiting:
            seen.fault = fault.name

        def all_seen() -> bool:
            firing = stack.monitoring.firing()
            for seen in waiting:
                if seen.seconds_to_firing is None and seen.alert in firing:
                    seen.seconds_to_firing = round(time.monotonic() - began, 1)
                for notice in stack.receiver.notices[told:]:
                    if notice.alert == seen.alert and notice.is_firing and not seen.summary:
                        seen.summary = notice.summary
                        seen.seconds_to_receiver = round(notice.at - began, 1)
            return all(seen.seconds_to_firing and seen.seconds_to_receiver for seen in waiting)

        stack.wait_until(f"{', '.join(fault.alerts)} fires and arrives", all_seen, WAIT_SECONDS)

    def _wait_for_the_end(self, stack: Stack, fault: Fault) -> None:
        """Wait until the receiver is told that each alert is over."""
        ended = time.monotonic()
        told = len(stack.receiver.notices)

        def all_over() -> bool:
            over = {n.alert: n.at for n in stack.receiver.notices[told:] if not n.is_firing}
            for name in fault.alerts:
                if name in over and name not in stack.monitoring.firing():
                    self.seen[name].seconds_to_resolved = round(over[name] - ended, 1)
            return all(self.seen[name].seconds_to_resolved is not None for name in fault.alerts)

        stack.wait_until(f"{', '.join(fault.alerts)} ends", all_over, RESOLVED_WITHIN_SECONDS)

    def _write(self) -> None:
        self._out.parent.mkdir(parents=True, exist_ok=True)
        self._out.write_text(json.dumps(self.report(), indent=1) + "\n")

    def report(self) -> dict[str, Any]:
        return {
            "profile": {
                "scrape_seconds": SCRAPE_SECONDS,
                "evaluation_seconds": SCRAPE_SECONDS,
                "durations_divided_by": FACTOR,
            },
            "quiet_minutes": self._quiet_minutes,
            "firing_seconds_limit": FIRING_SECONDS_MAX,
            "alerts": [asdict(seen) for seen in self.seen.values()],
            "broken": self._broken,
        }


def line(seen: Seen) -> str:
    return (
        f"{seen.alert:<32} firing after {seen.seconds_to_firing} s, told after "
        f"{seen.seconds_to_receiver} s, over after {seen.seconds_to_resolved} s: {seen.summary}"
    )


if __name__ == "__main__":
    main()
