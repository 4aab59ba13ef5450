"""The room on disks, as /metrics shows it."""

import shutil
from pathlib import Path

from prometheus_client import CollectorRegistry

from stream_app.adapters.disk_metrics import DiskMetrics


def shown(registry: CollectorRegistry) -> dict[tuple[str, str], float]:
    return {
        (sample.name, sample.labels["directory"]): sample.value
        for family in registry.collect()
        for sample in family.samples
    }


def test_free_and_size_are_told_by_the_setting_that_names_the_directory(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    registry.register(DiskMetrics(data_dir=tmp_path, registry=str(tmp_path)))
    samples = shown(registry)
    usage = shutil.disk_usage(tmp_path)
    assert samples.keys() == {
        (f"nextclick_disk_{what}_bytes", directory)
        for what in ("free", "size")
        for directory in ("data_dir", "registry")
    }
    size = samples["nextclick_disk_size_bytes", "data_dir"]
    assert 0 < samples["nextclick_disk_free_bytes", "data_dir"] <= size <= usage.total


def test_an_object_store_and_a_directory_to_be_made_show_nothing_and_harm_nothing(
    tmp_path: Path,
) -> None:
    registry = CollectorRegistry()
    later = tmp_path / "click-log"
    registry.register(DiskMetrics(registry="s3://models/nextclick", click_log=later))
    assert shown(registry) == {}
    later.mkdir()
    assert len(shown(registry)) == 2
