"""Row 9: the archive killed at random moments and at each step of its writer, and without room."""

import os
import random
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pyarrow.parquet as pq

from stream_app.core.clicks import decode_click
from stream_app.core.errors import BadRecordError
from stream_app.files.click_log import list_files, read_window
from stream_app.settings import ArchiveSettings, Settings
from tests.chaos import evidence
from tests.chaos.archive_process import STEPS
from tests.chaos.inputs import DAY_MS, POISONS, Poisoned, wild_times
from tests.chaos.lab import Lab, Stream
from tests.chaos.row import Finding, Row, Scale
from tests.chaos.traffic import KeyedClick
from tests.integration.processes import NextclickProcess, wait_until

RATE: Final = 400.0
"""Clicks per second."""
RANDOM: Final = "random"
MOMENTS: Final = (RANDOM, *STEPS[1:], STEPS[0])
SAME_GROUP_EVERY: Final = 7
"""So many of the kills leave the group as it is: the next archive waits for the dead one's session to end,
and finds commits.  The others are followed by a new group, which has the files alone to go by."""
DISK_BYTES: Final = 512 * 1024
FILE_BYTES_MAX: Final = 24 * 1024
"""Where no disk of that size can be made, a file beyond this fails.  The log stays below it."""
PATIENCE_SECONDS: Final = 60.0


def run(lab: Lab, scale: Scale) -> Iterator[Finding]:
    yield kills(lab, scale)
    yield full_disk(lab, scale)


def kills(lab: Lab, scale: Scale) -> Finding:
    """kill -9 at random moments and right after each step of a flush, each time under load."""
    count = scale.times(50, 3)
    rng = random.Random(f"archive-{scale.seed}")
    deaths: list[float] = []
    by_moment: Counter[str] = Counter()
    with Archives.of(lab, scale) as archives:
        with archives.stream.load(RATE, archives.clicks):
            for number in range(count):
                moment = MOMENTS[number % len(MOMENTS)]
                if number % SAME_GROUP_EVERY:
                    archives.new_group()
                with archives.start(*kill_flags(moment, rng)) as process:
                    if moment == RANDOM:
                        wait_until("partitions", lambda p=process: p.events("partition_taken"))
                        time.sleep(rng.uniform(0, 0.8))
                        process.kill()
                    else:
                        assert end_of(process) == -9, process.log[-2000:]
                deaths.append(time.time())
                by_moment[moment] += 1
        archives.new_group()
        archives.finish()
        moments = ", ".join(f"{n} at {name}" for name, n in by_moment.items())
        return archives.verdict("kill -9", count, deaths, note=moments)


def kill_flags(moment: str, rng: random.Random) -> tuple[str, ...]:
    return () if moment == RANDOM else ("--kill-at", f"{moment}:{rng.randint(1, 12)}")


def end_of(process: NextclickProcess) -> int | None:
    """Wait until it ends by itself; its exit status, None where it does not end."""
    try:
        return process.process.wait(PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        return None


def full_disk(lab: Lab, scale: Scale) -> Finding:
    """No room: it ends with status 70, says so at the next start, and goes on once there is some."""
    problems = []
    with Archives.of(lab, scale, disk_bytes=DISK_BYTES) as archives:
        with archives.stream.load(RATE, archives.wide_clicks):
            with archives.start(*archives.limit_flags) as process:
                status = end_of(process)
                if status != 70 or "cannot be written" not in process.log:
                    problems.append(f"ended with {status}: {process.log[-500:]}")
            ended = time.time()
            if archives.has_own_disk:
                fill(archives.root)
                with archives.start() as process:
                    status = end_of(process)
                    if status != 69 or "is full" not in process.log:
                        problems.append(f"started without room: {status}: {process.log[-500:]}")
                (archives.root / "filler").unlink()
            archives.make_room()
            archives.new_group()
        archives.finish()
        how = "a disk of its own" if archives.has_own_disk else "a limit on the size of a file"
        return archives.verdict("full disk", 1, [ended], note=how, problems=problems)


def fill(directory: Path) -> None:
    """Take what room is left, to the last byte."""
    with (directory / "filler").open("wb", buffering=0) as file:
        for size in (4096, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue


@dataclass
class Archives:
    """A click log on a disk that may be small, and the archives of one stream that write it."""

    stream: Stream
    root: Path
    clicks: Iterator[KeyedClick]
    has_own_disk: bool
    groups: int = 0

    @classmethod
    @contextmanager
    def of(cls, lab: Lab, scale: Scale, disk_bytes: int | None = None) -> Iterator["Archives"]:
        with ExitStack() as stack:
            stream = stack.enter_context(lab.stream(models=0))
            root = stream.directory / "click-log"
            root.mkdir()
            has_own_disk = disk_bytes is not None and _mounted(root, disk_bytes)
            if has_own_disk:
                stack.callback(subprocess.run, ["umount", str(root)], check=True)
            now_ms = time.time_ns() // 1_000_000
            # Two days, so that a flush writes several files for a partition; some clicks are unusable.
            good = wild_times(str(scale.seed), sessions=60, now_ms=now_ms, jump_ms=-DAY_MS)
            poisoned = Poisoned(good, seed=f"archive-{scale.seed}")
            kinds = [kind for kind in POISONS if kind != "BadId"]
            yield cls(stream, root, poisoned.clicks(kinds, share=0.01), has_own_disk)

    @property
    def wide_clicks(self) -> Iterator[KeyedClick]:
        """The same with half a kilobyte that no compression makes smaller."""
        rng = random.Random("wide")
        for key, value in self.clicks:
            if value.endswith(b'"}'):
                noise = rng.randbytes(256).hex().encode()
                yield key, value[:-1] + b', "properties": "' + noise + b'"}'
            else:
                yield key, value

    @property
    def limit_flags(self) -> tuple[str, ...]:
        return () if self.has_own_disk else ("--file-bytes-max", str(FILE_BYTES_MAX))

    def new_group(self) -> None:
        """The next archive finds no commits, and no member that is dead."""
        self.groups += 1

    def start(self, *flags: str) -> NextclickProcess:
        given = self.stream.settings
        settings: Settings = given.model_copy(
            update={
                "kafka": given.kafka.model_copy(
                    update={"group_id": f"{given.topics.clicks}-{self.groups}"}
                ),
                "click_log": str(self.root),
                "archive": ArchiveSettings(flush_seconds=0.2, flush_clicks=400),
            }
        )
        return NextclickProcess(
            "archive",
            settings,
            self.stream.directory,
            *flags,
            program=("-m", "tests.chaos.archive_process") if flags else (),
        )

    def make_room(self) -> None:
        if self.has_own_disk:
            resized = ["mount", "-o", "remount,size=256m", str(self.root)]
            subprocess.run(resized, check=True)

    def finish(self) -> None:
        """Let an archive that nobody disturbs write what is left."""
        wanted = set(self.expected())
        with self.start() as process:
            wait_until(
                f"all {len(wanted)} clicks in the files: {process.log[-500:]}",
                lambda: wanted <= set(self.places()),
                PATIENCE_SECONDS,
            )
            assert process.terminate() == 0, process.log[-2000:]

    def expected(self) -> dict[tuple[int, int], tuple[str, str, int]]:
        """Session, item and event time of every usable click on the topic, by partition and offset."""
        servers = self.stream.kafka.bootstrap_servers
        found = {}
        for record in evidence.read_topic(servers, self.stream.topics.clicks):
            try:
                click = decode_click(record.value, kafka_timestamp_ms=record.timestamp)
            except BadRecordError:
                continue
            found[record.partition, record.offset] = (
                click.session_id,
                str(click.item_id),
                click.event_time_ms,
            )
        return found

    def places(self) -> list[tuple[int, int]]:
        """Partition and offset of every row of every file that counts, copies included."""
        found: list[tuple[int, int]] = []
        for file in list_files(self.root).complete:
            table = pq.ParquetFile(file.path).read(["partition", "offset"])
            found += zip(table["partition"].to_pylist(), table["offset"].to_pylist(), strict=True)
        return found

    def verdict(
        self,
        name: str,
        runs: int,
        deaths: list[float],
        *,
        note: str,
        problems: list[str] | None = None,
    ) -> Finding:
        """What the project's own reader gives against the topic, click by click."""
        problems = list(problems or ())
        expected = self.expected()
        columns = ["partition", "offset", "session_id", "item_id", "event_time_ms"]
        read: Counter[tuple[int, int]] = Counter()
        for table in read_window(self.root, columns=columns):
            for row in table.to_pylist():
                place = (row["partition"], row["offset"])
                read[place] += 1
                content = (row["session_id"], row["item_id"], row["event_time_ms"])
                if expected.get(place) != content:
                    problems.append(f"click {place} is archived as {content}")
        in_files = Counter(self.places())
        contents = list_files(self.root)
        if contents.incomplete:
            problems.append(f"files of ranges cut short are left: {contents.incomplete[:3]}")
        leftovers = list((self.root / ".incoming").glob("*"))
        if leftovers:
            problems.append(f"temporary files are left: {leftovers[:3]}")
        words = [note, f"{len(expected)} clicks in {len(contents.complete)} files", *problems[:5]]
        return Finding(
            name,
            runs,
            lost=len(expected.keys() - read.keys()),
            doubled=sum(n > 1 for n in in_files.values()) + sum(n > 1 for n in read.values()),
            recovery_seconds=self._recoveries(deaths),
            failures=len(problems),
            note="; ".join(words),
        )

    def _recoveries(self, deaths: list[float]) -> tuple[float, ...]:
        """Seconds from each death to the next file that counts."""
        written = sorted(Path(file.path).stat().st_mtime for file in list_files(self.root).complete)
        return tuple(
            min(at for at in written if at > death) - death
            for death in deaths
            if any(at > death for at in written)
        )


def _mounted(directory: Path, size_bytes: int) -> bool:
    """Whether a disk of that size could be put there; only root may."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        return False
    command = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(directory)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


ROW = Row("archive", "the archive killed, and without room", run)
