"""Label values stay few for as long as a process lives."""

from collections.abc import Iterable, Mapping
from typing import Final

from prometheus_client import Gauge
from prometheus_client.metrics import MetricWrapperBase

from stream_app.core.records import NO_MODEL

EARLIER_MODEL: Final = "earlier"
"""Label of answers by a model that is neither live, nor candidate, nor the one just replaced."""


class ModelVersionLabels:
    """Keeps the values of the label `model_version` few, however many models a process lives through.

    Kept: `none`, the live version, and one more: the candidate, else the version just replaced, since
    sessions go on judging its answers for a while.  All series of other versions are removed.
    """

    def __init__(self, *metrics: MetricWrapperBase) -> None:
        self._metrics = metrics
        self._live = NO_MODEL
        self._kept = frozenset({NO_MODEL})
        self._used: set[str] = {NO_MODEL}

    def keep(self, live: str | None, candidate: str | None = None) -> None:
        """Another version is live now (None: no model)."""
        version = live or NO_MODEL
        beside = candidate or self._live
        if candidate is None and version == self._live:
            return
        self._live = version
        self._kept = frozenset({NO_MODEL, version, beside})
        for gone in self._used - self._kept - {EARLIER_MODEL}:
            for metric in self._metrics:
                metric.remove_by_labels({"model_version": gone})
        self._used &= {*self._kept, EARLIER_MODEL}

    def value(self, version: str | None) -> str:
        """The label value to count `version` under."""
        version = version or NO_MODEL
        if version not in self._kept:
            version = EARLIER_MODEL
        self._used.add(version)
        return version


def replace_partitions(gauge: Gauge, by_partition: Mapping[int, int]) -> None:
    """Set a gauge with the label `partition`; series of partitions that are not ours any more go away."""
    ours = {str(partition) for partition in by_partition}
    for sample in _samples(gauge):
        if sample not in ours:
            gauge.remove(sample)
    for partition, value in by_partition.items():
        gauge.labels(str(partition)).set(value)


def _samples(gauge: Gauge) -> Iterable[str]:
    return [sample.labels["partition"] for family in gauge.collect() for sample in family.samples]
