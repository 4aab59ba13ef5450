"""Reference of the metrics: what each process shows on `/metrics`, read from the instruments themselves."""

import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric

from stream_app.adapters.disk_metrics import DiskMetrics
from stream_app.adapters.rocksdb_sessions import RocksSessions
from stream_app.adapters.store_metrics import StoreMetrics
from tests.reference.source import code, table

PACKAGE = Path(__file__).parents[2] / "stream_app"

HEAD = """
Every process has `/metrics`, `/healthz` and `/readyz` on `metrics.port` of `metrics.host` ([settings](settings.md)), by default
on loopback and a free port that it logs. Durations are in seconds, sizes in bytes, counters end in `_total`; a
histogram `NAME` is scraped as `NAME_bucket`, `NAME_sum` and `NAME_count`. Labels are few and closed: never a
session, never an item, and at most three model versions at a time (older ones are gathered under `earlier`). Beside them
stand the usual `process_*` and `python_*` metrics. The meaning says what to do when the metric moves.
"""


class Instrument(NamedTuple):
    name: str
    kind: str
    labels: tuple[str, ...]
    meaning: str


def page() -> Iterator[str]:
    """A table per process."""
    yield "# Metrics"
    yield HEAD
    for title, intro, found in every_process():
        yield f"## {title}"
        yield ""
        yield intro
        yield ""
        yield from table(
            ("metric", "kind", "labels", "meaning"),
            (
                (code(i.name), i.kind, ", ".join(map(code, i.labels)), _spelled(i.meaning))
                for i in found
            ),
        )
        yield ""


def every_process() -> Iterator[tuple[str, str, list[Instrument]]]:
    """Title, what it is, and its instruments, for each class of instruments in the package."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for name in re.findall(r"^class (\w+)Instruments\b", path.read_text(), re.MULTILINE):
            module = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
            owner = getattr(import_module(module), f"{name}Instruments")
            intro = " ".join((owner.__doc__ or "").split("\n\n")[0].split())
            yield name, intro, list(_of(owner(CollectorRegistry())))
    yield from _collectors()


def _of(instruments: object) -> Iterator[Instrument]:
    for collector in vars(instruments).values():
        if hasattr(collector, "describe"):
            labels = tuple(getattr(collector, "_labelnames", ()))
            for family in collector.describe():
                yield _instrument(family, labels)


def _collectors() -> Iterator[tuple[str, str, list[Instrument]]]:
    """Those that look their values up when they are asked."""
    with TemporaryDirectory() as directory:
        store = RocksSessions(Path(directory) / "sessions", topic_id=bytes(16))
        found = {
            "Store": ("A worker's session store.", list(StoreMetrics(store).collect())),
            "Disk": (
                "The disks that a process writes to.",
                list(DiskMetrics(data_dir=directory).collect()),
            ),
        }
        store.close()
    for title, (intro, families) in found.items():
        yield title, intro, [_instrument(f, tuple(f._labelnames)) for f in families]


def _instrument(family: Metric, labels: tuple[str, ...]) -> Instrument:
    name = f"{family.name}_total" if family.type == "counter" else family.name
    return Instrument(name, family.type, labels, family.documentation)


def _spelled(text: str) -> str:
    """Angle brackets would be HTML."""
    return re.sub(r"(?<!`)(\w*<\w+>)", r"`\1`", text)
