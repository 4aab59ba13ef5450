"""`nextclick demo`: the whole system on this machine, from an empty directory to a trained model live."""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import psutil
from rich.console import Console

from stream_app.adapters.kafka_topics import ensure_topics
from stream_app.adapters.local_kafka import LocalKafka
from stream_app.adapters.stream_reader import StreamReader, uncommitted
from stream_app.core.errors import InvariantError, NextclickError, ServiceAwayError
from stream_app.core.records import NO_MODEL
from stream_app.demo import services as names
from stream_app.demo.children import Children
from stream_app.demo.options import DemoOptions
from stream_app.demo.recorded_log import RecordedLog, divide_log
from stream_app.demo.services import Services
from stream_app.demo.summary import DemoFacts, best_possible, demo_report, print_summary
from stream_app.demo.training_environment import CHILD as INSTALLER
from stream_app.demo.training_environment import TrainingEnvironment, default_directory
from stream_app.demo.training_log import TrainingLog
from stream_app.demo.workspace import DATA_ROOT, Workspace
from stream_app.files.click_files import detect_format
from stream_app.settings import Settings
from stream_app.tools import live_view
from stream_app.tools.live_numbers import LiveNumbers
from stream_app.tools.reports import write_report
from stream_app.tools.watch import live_numbers

NEWS_SHOWN: Final = 3
READY_SECONDS: Final = 60.0
DRAIN_SECONDS: Final = 30.0
"""Without progress for so long, the worker's backlog at the end is given up."""
_LOOK_SECONDS: Final = 0.3
"""How often to ask the broker how far the worker is, and the simulator's file for news."""


@dataclass
class Requests:
    """What the user asked for meanwhile; set from signal handlers."""

    stop: threading.Event = field(default_factory=threading.Event)
    hurry: threading.Event = field(default_factory=threading.Event)
    """Asked a second time: do not wait for what is still on its way."""

    def ask(self) -> None:
        (self.hurry if self.stop.is_set() else self.stop).set()


def run_demo(
    options: DemoOptions, settings: Settings, console: Console, requests: Requests
) -> None:
    """Run until asked to stop, until `options.seconds` are over, or until the recorded log is.

    Whatever happens, no process is left.  Raises `ServiceAwayError` where a part that everything
    needs has failed, `InvariantError` where a click got lost.
    """
    if options.data is not None and options.format is None:
        detect_format(options.data)  # before anything is fetched or started for it
    workspace = Workspace(options.data_dir, keep=options.keep)
    try:
        with Children() as children:
            Demo(options, settings, console, requests, workspace, children).run()
    except NextclickError:
        live_view.say(console, f"logs: {workspace.logs}")
        raise
    left = workspace.clean_up()
    if left:
        live_view.say(console, left)


class Demo:
    def __init__(
        self,
        options: DemoOptions,
        settings: Settings,
        console: Console,
        requests: Requests,
        workspace: Workspace,
        children: Children,
    ) -> None:
        self._options, self._base_settings = options, settings
        self._console, self._requests = console, requests
        self._workspace, self._children = workspace, children
        own_start = psutil.Process().create_time()
        # The monotonic moment at which the command began, and that at which this program did.
        self._program_began = time.monotonic() - (time.time() - own_start)
        earlier = own_start - (options.started_at or own_start)
        self._began = self._program_began - max(earlier, 0.0)
        self._environment = TrainingEnvironment(
            options.training_env or default_directory(DATA_ROOT),
            children,
            workspace.log(INSTALLER),
        )
        self._services = Services(workspace, children, options, self._tell)
        self._training_log = TrainingLog(workspace.log(names.RETRAIN))
        self._news: deque[str] = deque(maxlen=NEWS_SHOWN)
        self._environment_told = False
        self._retraining_began = False
        self._refreshing_began = False
        self._versions_told = 0
        self._page_told = False
        self._best: float | None = None
        self._look_again = 0.0
        self._streamed_since: float | None = None
        self._streamed_seconds = 0.0
        self._phase = ""
        # Made once the broker is there:
        self._broker: LocalKafka
        self._settings: Settings
        self._numbers: LiveNumbers
        self._reader: StreamReader
        self._display: live_view.Display | None = None

    # -- the course of a demo -------------------------------------------------------------------------

    def run(self) -> None:
        """Everything, in order; the summary and the report come last."""
        broker = LocalKafka(self._workspace.broker, say=self._tell)
        self._broker = broker
        self._tell("starting Apache Kafka")
        try:
            if not self._in_background(broker.start):
                self._tell("ended before anything was streamed")
                return
            self._settings = self._workspace.settings(
                self._base_settings,
                broker.bootstrap_servers,
                sessions_min=_sessions_min(self._options.clicks_per_second),
            )
            self._numbers = live_numbers(self._settings)
            # Not before: where both have to be fetched, the first answer is what people wait for.
            self._environment.start()
            self._stream()
        finally:
            self._children.stop(INSTALLER, names.RETRAIN, names.REFRESH, names.TRAFFIC)
            self._children.stop(names.GATEWAY, names.WORKER, names.STATISTICS, names.ARCHIVE)
            broker.stop()
        self._sum_up()

    def _stream(self) -> None:
        topics = self._settings.topics
        ensure_topics(self._settings.kafka, topics)
        self._services.start_serving(self._settings.gateway)
        followed = (topics.clicks, topics.recommendations, topics.dead_letters)
        sample = live_view.ClickSample()
        display = live_view.Display(
            self._console,
            lambda: live_view.picture(
                f"nextclick demo  {self._clock()}  {self._services.page if self._page_told else ''}",
                self._facts(),
                self._numbers,
                sample,
                console=self._console,
                now=time.monotonic(),
                best=self._best,
                news=self._news,
            ),
            lambda: (
                f"{self._elapsed():4.0f} s  {self._facts()}  "
                + live_view.status_line(self._numbers, time.monotonic(), best=self._best)
            ),
        )
        reader = StreamReader(self._settings.kafka, followed, from_beginning=True)
        with reader, display:
            self._reader, self._display = reader, display
            try:
                self._until_the_end()
            finally:
                self._display = None

    def _until_the_end(self) -> None:
        self._phase = "starting the worker"
        if not self._wait_for(self._services.worker_is_ready, READY_SECONDS):
            return
        recorded = self._learn_history() if self._options.data else None
        if self._is_over():
            return
        self._services.start_traffic(recorded)
        self._streamed_since = time.monotonic()
        self._phase = ""
        while not self._is_over() and not self._services.traffic_is_over:
            self._tick()
        self._phase = "ending: the worker answers what is left"
        self._services.stop(names.TRAFFIC)
        self._streamed_seconds = time.monotonic() - self._streamed_since
        self._services.stop(names.RETRAIN, names.REFRESH, INSTALLER)
        self._drain()

    def _learn_history(self) -> RecordedLog | None:
        """The log's first days into the click log, and a first training on them."""
        options = self._options
        assert options.data is not None
        self._phase = f"reading {options.data.name}"
        divided: list[RecordedLog] = []

        def divide() -> None:
            assert options.data is not None
            divided.append(
                divide_log(
                    options.data,
                    format=options.format,
                    columns=options.columns,
                    first_day=options.first_day,
                    train_days=options.train_days,
                    stream_days=options.stream_days,
                    click_log=self._settings.click_log,
                )
            )

        if not self._in_background(divide):
            return None
        [recorded] = divided
        self._tell(
            f"{recorded.history_clicks:,} clicks to learn from, then {recorded.stream_clicks:,} streamed"
        )
        self._phase = "a first training before the stream begins"
        if recorded.history_clicks:
            self._wait_for(self._first_training_is_over, None)
        return recorded

    def _first_training_is_over(self) -> bool:
        if self._environment.failure is not None or self._services.problems:
            return True
        return self._training_log.is_settled

    def _drain(self) -> None:
        """Until the worker has committed every click, and we have read everything it answered."""
        kafka, topics = self._settings.kafka, self._settings.topics
        left, progress_at = -1, time.monotonic()
        while not self._requests.hurry.is_set():
            before, left = left, uncommitted(kafka, topics.clicks, kafka.group_id)
            if left == 0:
                break
            if left != before:
                progress_at = time.monotonic()
            if time.monotonic() - progress_at > DRAIN_SECONDS:
                raise ServiceAwayError(f"the worker leaves {left:,} clicks unanswered: see its log")
            self._tick()
        while not self._reader.is_at_end() and not self._requests.hurry.is_set():
            self._tick()
        self._numbers.finish()
        self._numbers.swap_gaps.settle(time.monotonic(), at_once=True)
        self._look_at_traffic_report()

    # -- every moment ---------------------------------------------------------------------------------

    def _tick(self) -> None:
        """Take in what is new, look after everything that runs, show it."""
        now = time.monotonic()
        self._numbers.take(self._reader.poll(0.1), now)
        self._look_after_training()
        self._services.look_after()
        if self._broker.wait(0) is not None:
            raise ServiceAwayError(f"the broker ended by itself: see {self._broker.log_file}")
        self._tell_new_versions()
        if now >= self._look_again:
            self._look_again = now + _LOOK_SECONDS
            self._look_at_traffic_report()
            self._tell_of_the_page()
        if self._display is not None:
            self._display.tick()

    def _look_after_training(self) -> None:
        environment = self._environment
        environment.tick()
        if not environment.is_pending and not self._environment_told:
            self._environment_told = True
            if environment.failure is not None:
                self._tell(f"no trainings, the statistics go on answering: {environment.failure}")
            elif environment.seconds:
                self._tell(f"torch is there after {environment.seconds:.0f} s")
        if environment.python is None:
            return
        if not self._retraining_began and not self._is_over():
            self._retraining_began = True
            self._services.start_retraining(environment.python)
        for line in self._training_log.news():
            self._tell(line)
        if self._training_log.published and not self._refreshing_began and not self._is_over():
            self._refreshing_began = True
            if self._options.refresh_every_seconds is not None:
                self._services.start_refreshing(environment.python)

    def _tell_new_versions(self) -> None:
        for version in list(self._numbers.versions)[self._versions_told :]:
            self._versions_told += 1
            if version != NO_MODEL:
                self._tell(f"model {version} answers")

    def _tell_of_the_page(self) -> None:
        if not self._page_told and self._services.page_is_ready():
            self._page_told = True
            self._tell(f"to click and to look: {self._services.page}")

    def _look_at_traffic_report(self) -> None:
        self._best = best_possible(self._workspace.traffic_report) or self._best

    def _wait_for(self, holds: Callable[[], bool], seconds: float | None) -> bool:
        """Tick until it holds; False where the demo is over before.  Raises `ServiceAwayError` if it
        does not hold in time."""
        deadline = None if seconds is None else time.monotonic() + seconds
        while not holds():
            if self._is_over():
                return False
            if deadline is not None and time.monotonic() > deadline:
                raise ServiceAwayError(
                    f"{self._phase} took more than {seconds:.0f} s: see the logs"
                )
            self._tick()
        return True

    def _in_background(self, work: Callable[[], None]) -> bool:
        """Do something slow while everything else goes on; False where the demo is over before.

        The thread ends with us if the user does not want to wait.
        """
        failures: list[BaseException] = []

        def guarded() -> None:
            try:
                work()
            except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
                failures.append(error)

        thread = threading.Thread(target=guarded, daemon=True)
        thread.start()
        while thread.is_alive():
            if self._is_over():
                return False
            if self._display is not None:
                self._tick()
            else:
                thread.join(0.1)
        if failures:
            raise failures[0]
        return True

    def _is_over(self) -> bool:
        limit = self._options.seconds
        late = limit is not None and time.monotonic() - self._program_began >= limit
        return late or self._requests.stop.is_set()

    # -- what is said ---------------------------------------------------------------------------------

    def _elapsed(self) -> float:
        return time.monotonic() - self._began

    def _clock(self) -> str:
        minutes, seconds = divmod(int(self._elapsed()), 60)
        return f"{minutes}:{seconds:02}"

    def _tell(self, text: str) -> None:
        first, *more = text.splitlines()
        self._news.append(f"{self._elapsed():4.0f} s  {first}")
        if self._display is None:
            live_view.say(self._console, f"{self._elapsed():4.0f} s  {text}")
        else:
            self._display.say("\n".join((self._news[-1], *more)))

    def _facts(self) -> str:
        if self._phase:
            parts = [self._phase]
        else:
            newest = next(reversed(self._numbers.versions), NO_MODEL)
            parts = ["statistics answer" if newest == NO_MODEL else "the model answers"]
        if self._environment.is_pending:
            parts.append(self._environment.status)
        elif self._retraining_began and self._services.is_running(names.RETRAIN):
            parts.append(self._training_log.status)
        return "; ".join(parts)

    def _sum_up(self) -> None:
        numbers = self._numbers
        facts = DemoFacts(
            seconds=self._elapsed(),
            first_recommendation=self._since_start(numbers.first_answer_at),
            first_model=self._since_start(numbers.first_model_at),
            streamed_seconds=self._streamed_seconds,
            best=self._best,
            restarts=self._services.restarts,
            data=str(self._options.data) if self._options.data else None,
        )
        live_view.say(self._console, "")
        print_summary(self._console, numbers, facts, self._services.problems)
        if self._options.report is not None:
            write_report(self._options.report, demo_report(numbers, facts))
        if numbers.unaccounted and not self._requests.hurry.is_set():
            raise InvariantError(
                f"{numbers.unaccounted:,} clicks are unaccounted for: neither answered, nor "
                "dead-lettered, nor ignored for a reason"
            )

    def _since_start(self, moment: float | None) -> float | None:
        return None if moment is None else moment - self._began


def _sessions_min(clicks_per_second: float) -> int:
    """About 80 seconds' worth of the simulated shop, and no more than a good first model needs.

    Measured on it: from 1,700 clicks GRU4Rec is no better than popularity, from 14,000 nearly three
    times as good.
    """
    return round(min(max(10 * clicks_per_second, 200), 1_500))
