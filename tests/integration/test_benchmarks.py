"""`make bench` runs from end to end; what it measures on the way is no business of a test."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.integration.processes import REPOSITORY

PARTS = {
    "limits": {
        "bare path through Kafka, backlog": "clicks/s",
        "bare path at 1000/s, p99": "ms",
        "stock Faust with a Table, backlog": "clicks/s",
        "scoring alone, 5,000 items": "us/click",
    },
    "backlog": {
        "backlog, 5,000 items": "clicks/s",
        "backlog, 5,000 items: recall of the top 20 against exact": "share",
    },
    "latency": {
        "latency at 200/s, 5,000 items, p99": "ms",
        "latency at 1000/s, 5,000 items, p99.9": "ms",
        "CPU of a batch at 200/s": "ms",
    },
    "gateway": {
        "gateway, 500 clicks/s with waiting answers, p99": "ms",
        "gateway, 500 clicks/s with waiting answers: callers that got no answer": "callers",
    },
    "scoring": {"score 5,000 items, int8, batch 256": "us/click"},
    "two-stages": {
        "one stage and statistics, 5,000 items, batch 64": "us/click",
        "two stages, 5,000 items, batch 64": "us/click",
    },
    "restore": {"restore": "records/s", "RocksDB, 200 keys: get + put": "us/key"},
}


@pytest.fixture(scope="module")
def figures(kafka: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    out: Path = tmp_path_factory.mktemp("bench") / "bench.json"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tests.benchmarks", "--short", "--only", ",".join(PARTS)),
            *("--out", str(out)),
        ],
        cwd=REPOSITORY,
        env={**os.environ, "TEST_KAFKA": kafka.bootstrap_servers},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "commit" in done.stdout
    return {row["name"]: row for row in json.loads(out.read_text())}


def test_every_figure_is_there_and_finite(figures: dict[str, dict[str, Any]]) -> None:
    for expected in PARTS.values():
        for name, unit in expected.items():
            assert figures[name]["unit"] == unit
    for row in figures.values():
        assert math.isfinite(row["value"]), row


def test_figures_that_have_a_limit_show_it_from_the_same_run(
    figures: dict[str, dict[str, Any]],
) -> None:
    bare = figures["bare path at 1000/s, p99"]["value"]
    assert figures["latency at 1000/s, 5,000 items, p99"]["limit"] == bare
    assert figures["backlog, 5,000 items"]["limit"] > 0
    assert figures["restore"]["limit"] > 0
