"""How far a training is: the numbers, and how they are shown."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

REPORT_SECONDS: Final = 0.5
"""Progress is reported about so often."""


@dataclass(frozen=True, slots=True)
class TrainingProgress:
    epoch: int
    """From 1."""
    epochs: int
    events_done: int
    """Next clicks learned from, all epochs; those of a resumed training's earlier run included."""
    events_total: int
    loss: float
    """Mean per next click since the epoch began."""
    events_per_second: float
    """In this run."""
    seconds_left: float
    epoch_finished: bool


ProgressCallback = Callable[[TrainingProgress], None]


class TrainingClock:
    """Counts events, measures time, and reports now and then."""

    def __init__(
        self,
        *,
        epochs: int,
        epochs_done: int,
        events_per_epoch: int,
        report: ProgressCallback | None,
    ) -> None:
        self._epochs = epochs
        self._events_before = epochs_done * events_per_epoch
        self._events_total = epochs * events_per_epoch
        self._report = report
        self._started = self._epoch_started = time.perf_counter()
        self._next_report = self._started + REPORT_SECONDS
        self._epoch_events = 0
        self._loss_sum = 0.0
        self.events = 0
        """Next clicks learned from in this run."""

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._started

    def epoch_begins(self) -> None:
        self._epoch_started = time.perf_counter()
        self._epoch_events, self._loss_sum = 0, 0.0

    def learned(self, epoch: int, n_events: int, loss: float) -> None:
        """After each step: its next clicks and the sum of their losses."""
        self.events += n_events
        self._epoch_events += n_events
        self._loss_sum += loss
        if self._report is not None and time.perf_counter() >= self._next_report:
            self._tell(epoch, epoch_finished=False)

    def epoch_ends(self, epoch: int) -> tuple[float, float]:
        """Mean loss per next click, and seconds, of this epoch."""
        if self._report is not None:
            self._tell(epoch, epoch_finished=True)
        mean = self._loss_sum / max(self._epoch_events, 1)
        return mean, time.perf_counter() - self._epoch_started

    def _tell(self, epoch: int, *, epoch_finished: bool) -> None:
        assert self._report is not None
        done = self._events_before + self.events
        rate = self.events / max(self.seconds, 1e-9)
        self._next_report = time.perf_counter() + REPORT_SECONDS
        self._report(
            TrainingProgress(
                epoch=epoch + 1,
                epochs=self._epochs,
                events_done=done,
                events_total=self._events_total,
                loss=self._loss_sum / max(self._epoch_events, 1),
                events_per_second=rate,
                seconds_left=(self._events_total - done) / max(rate, 1e-9),
                epoch_finished=epoch_finished,
            )
        )
