"""Clicks over HTTP whose callers wait for the answers: how long, how many in vain, and where the time goes."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Self

import psutil

from tests.benchmarks.bed import Bed, Stream
from tests.benchmarks.cores import cpu_seconds
from tests.benchmarks.figures import Figure, median_figure
from tests.benchmarks.limits import Limits
from tests.integration.gateways import free_port
from tests.integration.processes import NextclickProcess, wait_until

RATE: Final = 500
SECONDS: Final = 20.0
CONNECTIONS: Final = 50
_SUMS: Final = {
    "request": 'nextclick_gateway_request_duration_seconds_sum{route="/v1/clicks"}',
    "store": "nextclick_gateway_store_seconds_sum",
    "wait": "nextclick_gateway_wait_seconds_sum",
}


def figures(bed: Bed, _: Limits) -> Iterator[Figure]:
    """A worker, a gateway and their callers, all processes wherever the system puts them."""
    clicks = bed.clicks(int(RATE * SECONDS))
    with (
        bed.stream(bed.n_items, bed.bundle(bed.n_items)) as stream,
        stream.worker(),
        _Gateway(stream) as gateway,
    ):
        at_rest = gateway.memory_mb()
        runs = [gateway.measured(clicks, seed) for seed in range(bed.repeats)]
        loaded = gateway.memory_mb()
    name = f"gateway, {RATE} clicks/s with waiting answers"
    for percent in ("50.0", "99.0", "99.9"):
        values = [run["ms"][percent] for run in runs]
        yield median_figure(f"{name}, p{float(percent):g}", values, "ms")
    failed = sum(clicks - run["statuses"].get("200", 0) for run in runs)
    yield Figure(f"{name}: callers that got no answer", failed, "callers", goal=0)
    for part, text in (
        ("store", "until Kafka has the click on all replicas, mean"),
        ("wait", "from then until its answer was read, mean"),
        ("request", "the whole request inside the gateway, mean"),
    ):
        yield median_figure(f"{name}: {text}", [run[part] for run in runs], "ms")
    yield median_figure(f"{name}: CPU of the gateway", [run["cpu_us"] for run in runs], "us/click")
    yield Figure("gateway: memory at rest", at_rest, "MB")
    yield Figure(f"{name}: memory after {clicks * len(runs):,} clicks", loaded, "MB")


class _Gateway(NextclickProcess):
    def __init__(self, stream: Stream) -> None:
        self._port, self._stream = free_port(), stream
        super().__init__(
            *("gateway", stream.settings, stream.directory, "--port", str(self._port)),
            *("--set", "gateway.requests_per_second_max=0"),
        )

    def __enter__(self) -> Self:
        self.wait_for_event("gateway_serves", 120)
        wait_until("it serves", lambda: self.metrics(self._port))
        return self

    def memory_mb(self) -> float:
        return psutil.Process(self.process.pid).memory_info().rss / 1e6

    def measured(self, clicks: int, seed: int) -> dict[str, Any]:
        """One run of the callers; times of its parts in ms, CPU in microseconds a click."""
        sums, cpu = self._sums(), cpu_seconds(self.process.pid)
        options = {
            "port": self._port,
            "clicks": clicks,
            "clicks_per_second": RATE,
            "connections": CONNECTIONS,
            "sessions": RATE * 5,
            "seed": seed,
            "n_items": min(self._stream.n_items, 2_000),
        }
        client = Path(__file__).with_name("gateway_load.py")
        done = subprocess.run(
            [sys.executable, str(client), json.dumps(options)],
            check=False,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        run: dict[str, Any] = json.loads(done.stdout)
        run["cpu_us"] = 1e6 * (cpu_seconds(self.process.pid) - cpu) / clicks
        after = self._sums()
        return run | {part: 1000 * (after[part] - sums[part]) / clicks for part in sums}

    def _sums(self) -> dict[str, float]:
        metrics = self.metrics(self._port)
        return {part: metrics.get(name, 0.0) for part, name in _SUMS.items()}
