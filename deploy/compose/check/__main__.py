"""`make compose-check`: the stack brought up for real and put through its paces.  Writes build/compose.json.

Everything but Grafana runs: Docker in a daemon of its own, stand-ins for images that cannot be pulled
(`standins.py`), our own images built from their Dockerfiles.  Needs root on Debian 12, 15 GB of disk
(torch), and, once, a network.
"""

import os
import shutil
import subprocess
import time
from pathlib import Path

import click

from deploy.compose.check import measures, overrides, scenes
from deploy.compose.check.machine import Docker, install_packages, run
from deploy.compose.check.report import Report
from deploy.compose.check.scenes import Scene
from deploy.compose.check.stack import PORTS, Stack
from deploy.compose.check.standins import make_standins
from deploy.compose.check.stream import Stream
from stream_app.adapters.kafka_distribution import cache_directory
from stream_app.core.errors import NextclickError
from stream_app.settings import KafkaSettings

ROOT = Path(__file__).parents[3]
PARTS = ("stack", "own-kafka", "tls")
QUIET_SECONDS = 30.0
BUSY = 500
BUSY_SECONDS = 60.0
SETTINGS = {
    # Days of a shop within minutes.
    "RETRAIN_EVERY": "45s",
    "NEXTCLICK_ARCHIVE__FLUSH_SECONDS": "5",
    "NEXTCLICK_RETRAIN__SESSIONS_MIN": "100",
}


@click.command()
@click.option(
    "--work",
    default=cache_directory() / "compose-check",
    type=click.Path(path_type=Path),
    show_default=True,
)
@click.option(
    "--out", default=ROOT / "build/compose.json", type=click.Path(path_type=Path), show_default=True
)
@click.option("--only", type=click.Choice(PARTS), multiple=True, help="Only these parts.")
@click.option("--here", is_flag=True, help="Try the working tree instead of a fresh clone of HEAD.")
@click.option(
    "--clean", is_flag=True, help="Remove images and stand-ins of earlier checks, then end."
)
def main(work: Path, out: Path, only: tuple[str, ...], here: bool, clean: bool) -> None:
    """Bring the stack up for real: clicks in, answers out, kills, a retraining, down and up again.

    \b
    Example:
      python -m deploy.compose.check --only tls --here
    """
    try:
        if clean:
            shutil.rmtree(work, ignore_errors=True)
            return
        install_packages()
        work.mkdir(parents=True, exist_ok=True)
        with Docker(work) as docker:
            check(docker, work, Report(out), only or PARTS, here=here)
    except NextclickError as error:
        raise click.ClickException(str(error)) from error


def check(
    docker: Docker, work: Path, report: Report, parts: tuple[str, ...], *, here: bool
) -> None:
    checkout = fresh_checkout(work, report, here=here)
    # Whatever else runs here, every time below is with it.
    report.add("cores of the machine", os.cpu_count() or 0, "cores")
    report.add("processes that ran or waited before the check", os.getloadavg()[1], "processes")
    standins = make_standins(docker, work, checkout / "docker-compose.yml")
    for image, holds in standins.items():
        report.say(f"{image} stands for: {holds.replace('_', ' ')}")
    stack = Stack(docker, checkout)
    began = time.monotonic()
    stack.compose("build", timeout=7_200)
    report.add("building our two images", time.monotonic() - began, "s")
    scratch = work / "scratch"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    stream = Stream(KafkaSettings(bootstrap_servers=f"127.0.0.1:{PORTS['KAFKA_PORT']}"))
    if "stack" in parts:
        whole_stack(Scene(stack, stream, report, scratch))
    if "own-kafka" in parts:
        overrides.own_kafka(stack, report, scratch)
    if "tls" in parts:
        overrides.tls(stack, report, scratch)
    report.say(f"all is well; figures are in {report.file}")


def fresh_checkout(work: Path, report: Report, *, here: bool) -> Path:
    """A clone, or a copy of the working tree's files; with the settings of the check in its .env."""
    checkout = work / "checkout"
    shutil.rmtree(checkout, ignore_errors=True)
    if here:
        listed = run("git", "-C", ROOT, "ls-files", "-co", "--exclude-standard").splitlines()
        for name in listed:
            if (ROOT / name).is_file():
                (checkout / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, checkout / name)
    else:
        run("git", "clone", "--quiet", ROOT, checkout)
    commit = run("git", "-C", ROOT, "rev-parse", "--short", "HEAD").strip()
    report.say(f"trying {'the working tree on ' if here else ''}commit {commit}")
    (checkout / ".env").write_text("".join(f"{name}={value}\n" for name, value in SETTINGS.items()))
    return checkout


def whole_stack(scene: Scene) -> None:
    try:
        measures.image_sizes(scene)
        scenes.come_up(scene)
        scenes.is_locked_down(scene)
        scenes.scrapes_everything(scene)
        scenes.page_answers(scene)
        time.sleep(QUIET_SECONDS)
        measures.memory(scene, "at rest")
        scenes.shop_opens(scene, 50)
        scenes.retraining_swaps_the_model(scene)
        scenes.workers_share(scene, 3)
        scenes.worker_killed_and_back(scene)
        scenes.shop_closes(scene)
        scenes.down_and_up_loses_nothing(scene)
        scenes.shop_opens(scene, BUSY)
        measures.latencies(scene, BUSY, BUSY_SECONDS)
        measures.memory(scene, f"at {BUSY} clicks/s")
        scenes.shop_closes(scene)
        scenes.nothing_was_lost(scene)
        measures.start_times(scene)
    except (NextclickError, subprocess.SubprocessError):
        click.echo(scene.stack.compose("logs", "--no-color", "--tail", "30"), err=True)
        raise
    finally:
        scenes.simulating(scene, 1).down("--volumes")


if __name__ == "__main__":
    main()
