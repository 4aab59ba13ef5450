"""How much room there is on the disks that a process writes to, as metrics, looked up when somebody asks."""

import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector


class DiskMetrics(Collector):
    """Register it with the process's registry."""

    def __init__(self, **directories: str | Path) -> None:
        """directories: by the setting that names them.  A URL of an object store has no room to tell of."""
        self._directories = {
            setting: Path(directory)
            for setting, directory in directories.items()
            if "://" not in str(directory)
        }

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Nothing of a directory that is not there yet."""
        free = GaugeMetricFamily(
            "nextclick_disk_free_bytes",
            "Room left on the disk under a directory, by the setting that names it. Falling towards 0: "
            "enlarge the disk, or remove what is not needed; a full one ends the process.",
            labels=["directory"],
        )
        size = GaugeMetricFamily(
            "nextclick_disk_size_bytes",
            "Size of the disk under a directory: what nextclick_disk_free_bytes is a part of.",
            labels=["directory"],
        )
        for setting, directory in self._directories.items():
            with suppress(OSError):
                usage = shutil.disk_usage(directory)
                free.add_metric([setting], usage.free)
                size.add_metric([setting], usage.used + usage.free)
        yield free
        yield size
