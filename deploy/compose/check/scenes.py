"""What is tried with the whole stack, in order; each scene leaves it running for the next."""

import json
import os
import signal
import threading
import time
import urllib.request
from collections import Counter
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from kafka.errors import KafkaError

from deploy.compose.check.report import Report
from deploy.compose.check.stack import PORTS, Container, Stack, wait_for
from deploy.compose.check.stream import TOPICS, Stream, archived_clicks
from stream_app.adapters.stream_reader import uncommitted
from stream_app.core.errors import NextclickError

SERVING: Final = ("worker", "statistics", "archive", "retrain", "refresh", "gateway")
FIRST_ANSWER_SECONDS: Final = 300.0
CATCH_UP_SECONDS: Final = 120.0
MODEL_SECONDS: Final = 600.0
REBALANCE_SECONDS: Final = 120.0
PARTITIONS: Final = range(TOPICS.partitions)


@dataclass(frozen=True, slots=True)
class Scene:
    """The stack, its stream, and where to write what is found."""

    stack: Stack
    stream: Stream
    report: Report
    scratch: Path


def first_answer(scene: Scene, session_id: str) -> Future[float]:
    """Beside `up`: click as soon as anybody takes the click; seconds until the first answer is there."""
    began = time.monotonic()
    answered: Future[float] = Future()

    def ask() -> Any:
        try:
            click = scene.stream.click(session_id, "sku-1")
            return scene.stream.answer_to(click, FIRST_ANSWER_SECONDS)
        except (KafkaError, NextclickError, OSError, AssertionError):
            return None  # no broker, or no topics, yet

    def watch() -> None:
        try:
            wait_for("an answer to a click", ask, seconds=FIRST_ANSWER_SECONDS, every=0.2)
            answered.set_result(time.monotonic() - began)
        except BaseException as error:  # noqa: BLE001 - raised again by whoever asks for the result
            answered.set_exception(error)

    # A daemon, so that a stack that does not come up is told at once.
    threading.Thread(target=watch, name="first-answer", daemon=True).start()
    return answered


def come_up(scene: Scene) -> None:
    """Images are there; from nothing to everything healthy, with one click answered meanwhile."""
    began = time.monotonic()
    answered = first_answer(scene, "first-visitor")
    scene.stack.up()
    scene.report.add("from `up` to everything healthy", time.monotonic() - began, "s")
    scene.report.add("from `up` to the first answer", answered.result(), "s")
    jobs = {c.service for c in scene.stack.containers() if not c.process}
    scene.report.sure(
        "all but the job that made the topics runs", holds=jobs == {"topics"}, found=jobs
    )


def is_locked_down(scene: Scene) -> None:
    """As the containers are, not as the file says."""
    for container in scene.stack.containers():
        if container.process:
            status = Path(f"/proc/{container.process}/status").read_text()
            facts = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
            name = container.service
            held = int(facts["CapEff"], 16), int(facts["CapBnd"], 16)
            scene.report.sure(
                f"{name}: no root, no capability, no new privileges, no write outside its volumes",
                holds=facts["Uid"].split()[0] != "0"
                and held == (0, 0)
                and facts["NoNewPrivs"].strip() == "1"
                and _root_is_read_only(container.process),
                found=f"uid {facts['Uid'].split()[0]}",
            )


def _root_is_read_only(process: int) -> bool:
    mounts = Path(f"/proc/{process}/mounts").read_text().splitlines()
    root = next(line.split() for line in reversed(mounts) if line.split()[1] == "/")
    return "ro" in root[3].split(",")


def scrapes_everything(scene: Scene) -> None:
    def missing() -> set[str] | None:
        up = {row["metric"]["job"] for row in scene.stack.ask("up == 1")}
        wanted = {f"nextclick-{name}" for name in SERVING} | {"prometheus", "alertmanager"}
        return {"none"} if wanted <= up else None

    wait_for("Prometheus reaches every process", missing, seconds=60)
    scene.report.sure("Prometheus reaches every process", holds=True)


def page_answers(scene: Scene) -> None:
    """The page's own files, and a click over HTTP that comes back with its answer."""
    address = f"http://127.0.0.1:{PORTS['GATEWAY_PORT']}"
    with urllib.request.urlopen(address, timeout=10) as page:
        scene.report.sure("the page is served", holds=b"<!doctype html" in page.read().lower())
    click = {"session_id": "browser", "item_id": "sku-1", "event_time": round(time.time() * 1000)}
    asked = urllib.request.Request(  # noqa: S310 - loopback
        f"{address}/v1/clicks?wait=5000",
        data=json.dumps(click).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(asked, timeout=20) as answered:  # noqa: S310 - loopback
        answer = json.load(answered)
    scene.report.sure("a click over HTTP is answered", holds=answer, found=sorted(answer))


def shop_opens(scene: Scene, clicks_per_second: int) -> None:
    """The profile `simulate`: visitors click."""
    workers = len(scene.stack.containers("worker"))  # `up` without a scale would leave one
    simulating(scene, clicks_per_second).up("--scale", f"worker={workers}")
    before = scene.stream.counts()[TOPICS.recommendations]
    wait_for(
        "the shop's visitors are answered",
        lambda: scene.stream.counts()[TOPICS.recommendations] > before + 100,
        seconds=60,
    )
    scene.report.say(
        f"the simulated shop clicks {clicks_per_second} times a second, and is answered"
    )


def simulating(scene: Scene, clicks_per_second: int) -> Stack:
    rate = {"SIMULATE_CLICKS_PER_SECOND": str(clicks_per_second)}
    variables = {**scene.stack.variables, **rate}
    return replace(scene.stack, profiles=("simulate",), variables=variables)


def shop_closes(scene: Scene) -> None:
    """No more clicks, and all there were are answered."""
    scene.stack.docker.docker("stop", *(c.id for c in simulating(scene, 1).containers("simulate")))
    caught_up(scene)


def caught_up(scene: Scene) -> None:
    wait_for(
        "the workers have answered everything",
        lambda: uncommitted(scene.stream.kafka, TOPICS.clicks, scene.stream.kafka.group_id) == 0,
        seconds=CATCH_UP_SECONDS,
    )


def retraining_swaps_the_model(scene: Scene, versions_wanted: int = 2) -> None:
    """A model trained in its container answers in the worker's, then the next one."""
    began, seen = time.monotonic(), Counter[str]()
    last_ms, gap_ms = None, 0
    for answer in scene.stream.answers(MODEL_SECONDS):
        version = answer["model_version"]
        if version and version not in seen and len(seen) < versions_wanted:
            scene.report.say(f"model {version} answers after {time.monotonic() - began:.0f} s")
        if version:
            seen[version] += 1
        if last_ms is not None:
            gap_ms = max(gap_ms, answer["answered_ms"] - last_ms)
        last_ms = answer["answered_ms"]
        if len(seen) >= versions_wanted and min(seen.values()) > 50:
            break
    scene.report.sure(
        f"{versions_wanted} retrained models took over, one after the other",
        holds=len(seen) >= versions_wanted,
        found=dict(seen),
    )
    scene.report.add("longest gap between two answers meanwhile", gap_ms / 1000, "s")


def workers_share(scene: Scene, count: int) -> None:
    """`--scale worker=N`: every partition has one owner, every worker a place of its own."""
    scene.stack.up("--no-recreate", "--scale", f"worker={count}")
    owners = wait_for(
        f"{count} workers own all partitions between them",
        lambda: _owners_if_settled(scene, count),
        seconds=REBALANCE_SECONDS,
    )
    scene.report.sure(f"{count} workers share the partitions", holds=True, found=owners)
    places = _places(scene)
    scene.report.sure(
        "each has a directory and a name of its own", holds=len(places) == count, found=places
    )


def _owners_if_settled(scene: Scene, count: int) -> dict[str, list[int]] | None:
    """Partitions by worker, or None while some have no owner or two."""
    owners: dict[str, list[int]] = {}
    for row in scene.stack.ask("nextclick_consumer_lag_clicks"):
        owners.setdefault(row["metric"]["instance"], []).append(int(row["metric"]["partition"]))
    owned = sorted(partition for partitions in owners.values() for partition in partitions)
    return owners if len(owners) == count and owned == list(PARTITIONS) else None


def _places(scene: Scene) -> dict[str, str]:
    """Name in the group by numbered directory."""
    files = scene.stack.volume("workers").glob("*/instance-id")
    return {file.parent.name: file.read_text().strip() for file in sorted(files)}


def worker_killed_and_back(scene: Scene) -> None:
    """SIGKILL from outside, as the kernel does it to whoever takes too much memory."""
    victim = scene.stack.containers("worker")[0]
    places = _places(scene)
    began = time.monotonic()
    os.kill(victim.process, signal.SIGKILL)
    back = wait_for("Docker starts it again", lambda: _restarted(scene, victim), seconds=60)
    wait_for(
        "it is healthy again",
        lambda: (
            next(c for c in scene.stack.containers("worker") if c.id == back.id).health == "healthy"
        ),
        seconds=REBALANCE_SECONDS,
    )
    scene.report.add("from a worker's kill to healthy again", time.monotonic() - began, "s")
    scene.report.sure("it took its directory and its name again", holds=_places(scene) == places)


def _restarted(scene: Scene, victim: Container) -> Container | None:
    found = next(c for c in scene.stack.containers("worker") if c.id == victim.id)
    return found if found.process not in (0, victim.process) else None


def down_and_up_loses_nothing(scene: Scene) -> None:
    """Every record, session, name and sample is there again, and a visitor's session goes on."""
    clicks_before = _clicks_of(scene, "first-visitor")
    counts, sessions = scene.stream.counts(), scene.stream.sessions(scene.scratch / "before.jsonl")
    places, models = _places(scene), _files(scene.stack.volume("registry"))
    scraped_ms = round(time.time() * 1000)
    scene.stack.down()
    began = time.monotonic()
    scene.stack.up("--scale", f"worker={len(places)}")
    scene.report.add("from `up` to healthy, on full volumes", time.monotonic() - began, "s")
    again = scene.stream.counts()
    scene.report.sure("every record is there again", holds=again == counts, found=again)
    same = scene.stream.sessions(scene.scratch / "after.jsonl") == sessions
    scene.report.sure("every session is there again", holds=same, found=len(sessions))
    scene.report.sure(
        "the same names in the group", holds=_places(scene) == places, found=len(places)
    )
    scene.report.sure(
        "every model file is there again", holds=models <= _files(scene.stack.volume("registry"))
    )
    old = scene.stack.ask(f"nextclick_clicks_total @ {scraped_ms / 1000 - 30:.0f}")
    scene.report.sure("Prometheus remembers", holds=old, found=f"{len(old)} series")
    click = scene.stream.click("first-visitor", "sku-2")
    answer = wait_for("an answer after it", lambda: scene.stream.answer_to(click, 30), seconds=60)
    caught_up(scene)
    now = _clicks_of(scene, "first-visitor")
    scene.report.sure(
        "a session goes on where it was", holds=now == clicks_before + 1, found=f"{now} clicks"
    )
    scene.report.sure(
        "answered by a model", holds=answer["model_version"], found=answer["model_version"]
    )


def _clicks_of(scene: Scene, session_id: str) -> int:
    return int(scene.stream.sessions(scene.scratch / "one.jsonl")[session_id]["clicks"])


def _files(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}


def nothing_was_lost(scene: Scene) -> None:
    """Every click against its answer computed anew, and against the click log."""
    check = scene.stream.verdict(scene.stack.volume("registry"), scene.scratch / "models")
    found = dict(check.differences)
    scene.report.sure(
        "every click has its answer", holds=not found.get("not answered"), found=check.clicks
    )
    scene.report.add("answers on the topic", check.answers, "answers")
    scene.report.add("answers repeated after kills and moves", check.repeated_answers, "answers")
    scene.report.add("answers the same when computed anew", check.identical_share * 100, "%")
    scene.report.sure(
        "no answer differs in items or scores",
        holds=not {"items", "scores"} & found.keys(),
        found=found,
    )
    archived = wait_for("the archive wrote all", lambda: _archived(scene, check.clicks), seconds=90)
    doubled = sum(count > 1 for count in archived.values())
    scene.report.sure(
        "every click is in the click log once", holds=not doubled, found=len(archived)
    )


def _archived(scene: Scene, clicks: int) -> Counter[tuple[int, int]] | None:
    found = archived_clicks(scene.stack.volume("click-log"))
    return found if len(found) == clicks else None
