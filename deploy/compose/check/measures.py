"""Image sizes, start times, memory of every container: what an operator plans with."""

import socket
import time
import urllib.error
import urllib.request
from datetime import datetime

from deploy.compose.check.scenes import Scene
from deploy.compose.check.stack import Container, wait_for

MEGABYTE = 1024**2
METRICS_PORT = 9100
START_SECONDS = 180.0
OUR_IMAGES = ("nextclick-serving:0.1.0", "nextclick-training:0.1.0")
STARTED_ALONE = ("kafka", "worker", "statistics", "archive", "gateway", "retrain", "refresh")


def image_sizes(scene: Scene) -> None:
    for image in OUR_IMAGES:
        size = scene.stack.docker.docker("image", "inspect", "--format", "{{.Size}}", image)
        scene.report.add(f"image {image.partition(':')[0]}", int(size) / MEGABYTE, "MB")


def start_times(scene: Scene) -> None:
    """Each container by itself, the others running: from its start to ready."""
    for service in STARTED_ALONE:
        scene.report.add(f"{service}: from its start to ready", start_seconds(scene, service), "s")


def start_seconds(scene: Scene, service: str) -> float:
    """Restart one container; return once Docker, too, calls it healthy."""
    again = scene.stack.containers(service)[0].id
    scene.stack.docker.docker("restart", "--time", "60", again)

    def now() -> Container:
        return next(c for c in scene.stack.containers(service) if c.id == again)

    # Asked on the container's own address: Docker's probes come only every few seconds.
    container = now()
    wait_for(f"{service} is ready", lambda: _is_ready(container), seconds=START_SECONDS, every=0.05)
    seconds = time.time() - _epoch_seconds(container.started_at)
    wait_for(f"{service} is healthy", lambda: now().health == "healthy", seconds=START_SECONDS)
    return seconds


def _epoch_seconds(docker_time: str) -> float:
    """Docker writes nanoseconds, which Python does not read."""
    return datetime.fromisoformat(docker_time.partition(".")[0] + "+00:00").timestamp() + float(
        "0." + docker_time.rstrip("Z").partition(".")[2]
    )


def _is_ready(container: Container) -> bool:
    if container.service == "kafka":
        with socket.create_connection((container.address, 9092), 1):
            return True
    try:
        with urllib.request.urlopen(f"http://{container.address}:{METRICS_PORT}/readyz", timeout=2):
            return True
    except urllib.error.HTTPError:
        return False


def memory(scene: Scene, when: str) -> None:
    """As `docker stats` counts it: without what the file cache could give back."""
    for container in scene.stack.containers():
        if container.process:
            used = _memory_bytes(scene, container) / MEGABYTE
            scene.report.add(f"{container.name.split('-', 2)[2]}: memory {when}", used, "MB")


def _memory_bytes(scene: Scene, container: Container) -> float:
    said = scene.stack.docker.docker(
        "stats", "--no-stream", "--format", "{{.MemUsage}}", container.id
    )
    number = said.split("/")[0].strip()
    units = {"GiB": 1024**3, "MiB": 1024**2, "KiB": 1024, "kB": 1000, "B": 1}
    unit = next(name for name in units if number.endswith(name))
    return float(number.removesuffix(unit)) * units[unit]


def latencies(scene: Scene, clicks_per_second: int, seconds: float) -> None:
    """What answers say of themselves, while so many clicks come."""
    found = sorted(answer["latency_ms"] for answer in scene.stream.answers(seconds))
    scene.report.add(f"at {clicks_per_second} clicks/s: answers", len(found) / seconds, "answers/s")
    for name, share in (("p50", 0.5), ("p99", 0.99)):
        at = found[min(int(len(found) * share), len(found) - 1)]
        scene.report.add(f"at {clicks_per_second} clicks/s: click to answer, {name}", at, "ms")
