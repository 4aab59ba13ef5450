"""Row 8: models swapped under load, with kills in the middle; bundles that must be refused."""

import itertools
import random
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from kafka import KafkaProducer

from stream_app.adapters.kafka_clients import python_client_options
from stream_app.adapters.releases import LIVE_KEY, promote
from stream_app.services.loop_points import LoopPoint
from tests.bundles import make_bundle
from tests.chaos.bad_bundles import BAD_BUNDLES
from tests.chaos.lab import Lab, Stream, Worker
from tests.chaos.row import Finding, Row, Scale
from tests.chaos.traffic import ITEMS
from tests.integration.processes import wait_until

RATE: Final = 150.0
"""Clicks per second."""
GOAL_SECONDS: Final = 10.0
"""From promoting a bad bundle to its refusal in the metric: the goal that a note is made of."""
REFUSED: Final = 'nextclick_model_swaps_total{result="refused"}'
SWAPPED: Final = 'nextclick_model_swaps_total{result="live"}'
MIXING_SECONDS: Final = 2.0
MIXING_SECONDS_MAX: Final = 30.0


def run(lab: Lab, scale: Scale) -> Iterator[Finding]:
    yield hot_swaps(lab, scale)
    yield refused_bundles(lab, scale)


def hot_swaps(lab: Lab, scale: Scale) -> Finding:
    """Two models take turns under load; one swap is met by a kill from outside, one dies between
    loading the model and making it live."""
    swaps = scale.times(50, 6)
    killed_at, dies_at = swaps // 3, 2 * swaps // 3
    rng = random.Random(f"swaps-{scale.seed}")
    recovery: list[float] = []
    with lab.stream(models=2) as stream:
        versions = stream.registry.versions()
        worker = stream.start_worker()
        worker.wait_until_serving()
        outages: list[tuple[float, float]] = []
        with stream.load(RATE):
            calm_from_ms = time.time() * 1000
            time.sleep(scale.times(10, 2))
            swapped_from_ms = time.time() * 1000
            for number in range(swaps):
                loads = len(worker.events("model_swapped"))
                version = versions[number % 2]
                promote(stream.kafka, stream.topics.releases, version, reason="chaos")
                if number in (killed_at, dies_at):
                    if number == killed_at:
                        time.sleep(rng.uniform(0, 0.15))
                        worker.kill()
                    else:
                        assert worker.wait_for_end() == -9, worker.log[-2000:]
                    ended_ms = worker.ended_ms
                    # The first model it loads is one pass, each swap another.
                    passes = dies_at - number + 1
                    flags = (f"{LoopPoint.SWAPPING}:{passes}",) if number == killed_at else ()
                    worker = stream.start_worker(0, *(("--kill-at", *flags) if flags else ()))
                    recovery.append(stream.wait_for_answer_after(ended_ms))
                    outages.append((ended_ms, ended_ms + recovery[-1] * 1000))
                else:
                    wait_for_load(worker, loads)
                time.sleep(rng.uniform(0, 0.2))
            until_ms = time.time() * 1000
        stream.wait_until_settled()
        times = stream.answers.times_ms()
        calm = longest_gap(times, calm_from_ms, swapped_from_ms, [])
        swapping = longest_gap(times, swapped_from_ms, until_ms, outages)
        named = {a.model_version for answers in stream.answers.answers.values() for a in answers}
        finding = stream.verdict(
            "hot swap under load, a kill in the middle",
            swaps,
            recovery_seconds=recovery,
            note=f"longest gap between answers {swapping:.0f} ms while swapping, {calm:.0f} ms before; "
            f"kills: {len(outages)}",
        )
    if named != set(versions):
        finding = failed(finding, f"answers name {named}, promoted were {versions}")
    return finding


def wait_for_load(worker: Worker, before: int) -> None:
    """Wait until it has loaded one more model than that."""
    wait_until(
        f"a swap: {worker.log[-1000:]}", lambda: len(worker.events("model_swapped")) > before
    )


def longest_gap(
    times_ms: list[int], from_ms: float, until_ms: float, without: list[tuple[float, float]]
) -> float:
    """Milliseconds: the longest pause between answers that lies within, apart from the outages."""
    return max(
        (
            float(after - before)
            for before, after in itertools.pairwise(times_ms)
            if from_ms <= before
            and after <= until_ms
            and not any(before <= end and after >= start for start, end in without)
        ),
        default=0.0,
    )


def refused_bundles(lab: Lab, scale: Scale) -> Finding:
    """Each bad bundle is promoted under load: the live model goes on, and the metric shows the refusal."""
    del scale  # each of them takes a second
    seconds: dict[str, float] = {}
    problems: list[str] = []
    with lab.stream() as stream:
        (good,) = stream.registry.versions()
        worker = stream.start_worker()
        worker.wait_until_serving()
        with stream.load(RATE):
            for number, (name, bad) in enumerate(BAD_BUNDLES.items()):
                version = publish(stream, 100 + number)
                bad.damage(Path(stream.registry.url) / version)
                seconds[name] = refusal(stream, worker, version)
                told = told_of(worker, version)
                if told["live"] != good:
                    problems.append(f"{name}: live was {told['live']}, not {good}")
                if bad.said not in told["error"]:
                    problems.append(f"{name}: refused for another reason: {told['error']}")
            live_until_ms = time.time() * 1000
            problems += replaced_while_it_is_read(stream, worker)
            last = publish(stream, 999)
            promote(stream.kafka, stream.topics.releases, last, reason="chaos")
            wait_until(
                "a good one", lambda: worker.events("model_swapped")[-1]["model_version"] == last
            )
            write_unreadable_release(stream)
            worker.wait_for_event("release_unreadable")
        if not worker.is_alive:
            problems.append(f"the worker ended: {worker.log[-500:]}")
        stream.wait_until_settled()
        stream.answers.wait_until_read()
        others = {
            answer.model_version
            for answers in stream.answers.answers.values()
            for answer in answers
            if answer.timestamp_ms < live_until_ms
        } - {good}
        if others:
            problems.append(f"answered by {others} while {good} was live")
        slow = [name for name, took in seconds.items() if took > GOAL_SECONDS]
        note = f"visible in the metric after {max(seconds.values()):.2f} s at most"
        if slow:
            note += f", above {GOAL_SECONDS:.0f} s: {', '.join(slow)}"
        finding = stream.verdict(
            "refused bundles", len(seconds), recovery_seconds=seconds.values(), note=note
        )
    return failed(finding, *problems)


def publish(stream: Stream, seed: int) -> str:
    """Another model in the registry, not promoted."""
    made = make_bundle(stream.directory / "made", ids=ITEMS, units=16, seed=seed)
    return stream.registry.publish(made)


def refusal(stream: Stream, worker: Worker, version: str) -> float:
    """Promote; seconds until the metric counts a refusal."""
    before = worker.samples.get(REFUSED, 0)
    began = time.monotonic()
    promote(stream.kafka, stream.topics.releases, version, reason="chaos")
    wait_until(
        f"the refusal of {version}: {worker.log[-1000:]}",
        lambda: worker.samples.get(REFUSED, 0) > before,
    )
    return time.monotonic() - began


def told_of(worker: Worker, version: str) -> dict[str, Any]:
    """What the log says of a refused version; it comes right after the metric."""

    def found() -> list[dict[str, Any]]:
        refused = worker.events("bundle_refused")
        return [event for event in refused if event["model_version"] == version]

    events: list[dict[str, Any]] = wait_until(f"{version} in the log", found)
    return events[-1]


def write_unreadable_release(stream: Stream) -> None:
    """What somebody wrote by hand moves nothing."""
    producer = KafkaProducer(**python_client_options(stream.kafka))
    producer.send(stream.topics.releases, key=LIVE_KEY, value=b"the new one, please").get(10)
    producer.close()


def replaced_while_it_is_read(stream: Stream, worker: Worker) -> list[str]:
    """Two bundles trade their directories all the time while one of them is promoted again and again.

    Whichever is met, or pieces of both: what is served is the one that was named, whole.  The verdict
    compares the answers with it.
    """
    directories = [Path(stream.registry.url) / publish(stream, seed) for seed in (501, 502)]
    aside = directories[0].with_name("aside")
    stop = threading.Event()

    def trade() -> None:
        while not stop.is_set():
            directories[0].rename(aside)
            directories[1].rename(directories[0])
            aside.rename(directories[1])

    trader = threading.Thread(target=trade, name="trader", daemon=True)
    before = worker.samples

    def looked_at() -> float:
        return sum(worker.samples.get(name, 0) - before.get(name, 0) for name in (REFUSED, SWAPPED))

    trader.start()
    began = time.monotonic()
    turns = 0
    # Longer on a machine too busy for the worker to have looked at one.
    while (seconds := time.monotonic() - began) < MIXING_SECONDS or (
        not looked_at() and seconds < MIXING_SECONDS_MAX
    ):
        promote(stream.kafka, stream.topics.releases, directories[turns % 2].name, reason="chaos")
        turns += 1
    stop.set()
    trader.join()
    # An odd number of trades leaves each under the other's name.
    if not _is_called(directories[0]):
        directories[0].rename(aside)
        directories[1].rename(directories[0])
        aside.rename(directories[1])
    return [] if looked_at() else [f"none of {turns} promotions was looked at"]


def _is_called(directory: Path) -> bool:
    return directory.name in (directory / "manifest.json").read_text()


def failed(finding: Finding, *problems: str) -> Finding:
    """With further failures, the first of them in words."""
    return replace(
        finding,
        failures=finding.failures + len(problems),
        note="; ".join([finding.note, *problems[:5]]),
    )


ROW = Row("swaps", "models swapped under load, and bundles refused", run)
