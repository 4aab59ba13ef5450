"""The worker as a process against a real broker: answers, exact states, accounting, crashes, swaps."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from confluent_kafka import Producer

from stream_app.adapters.onnx_scorer import OnnxScorer
from stream_app.adapters.releases import promote
from stream_app.core.codec import decode_state
from stream_app.core.pipeline import ServingRules
from stream_app.core.records import Recommendation
from stream_app.files.registry import Registry
from stream_app.settings import Settings
from tests.bundles import make_bundle
from tests.integration.oracle import answers_by_click, read_topic, replayed, stored_states
from tests.integration.processes import NextclickProcess, get, wait_until

START_MS = 1_700_000_000_000
ITEMS = [f"item-{i}" for i in range(50)]


def made_up_clicks(n: int, *, sessions: int = 40, seed: int = 0) -> list[tuple[str, bytes]]:
    """Session id and JSON of clicks.  All items are known to the models here: what popularity answers
    depends on when the worker met the clicks, so it has no place in a comparison with a replay."""
    rng = random.Random(seed)
    clicks = []
    for i in range(n):
        session_id = f"session-{rng.randrange(sessions)}"
        click = {
            "session_id": session_id,
            "item_id": rng.choice(ITEMS),
            "event_time": START_MS + i * 1000,
            "event_id": f"event-{i}",
        }
        clicks.append((session_id, json.dumps(click).encode()))
    return clicks


def later_clicks(n: int) -> list[tuple[str, bytes]]:
    """A click each of sessions that begin after `made_up_clicks`."""
    session_ids = [f"later-{i}" for i in range(n)]
    return [
        (
            session_id,
            json.dumps(
                {"session_id": session_id, "item_id": ITEMS[0], "event_time": START_MS + 2_000_000}
            ).encode(),
        )
        for session_id in session_ids
    ]


def produce(settings: Settings, clicks: list[tuple[str, bytes]]) -> None:
    producer = Producer({"bootstrap.servers": settings.kafka.bootstrap_servers})
    for session_id, value in clicks:
        producer.produce(settings.topics.clicks, key=session_id.encode(), value=value)
        producer.poll(0)
    assert producer.flush(30) == 0


def publish_model(settings: Settings, tmp_path: Path, *, seed: int = 1) -> OnnxScorer:
    bundle = make_bundle(tmp_path / "made", ids=ITEMS, units=16, seed=seed)
    registry = Registry(settings.registry)
    version = registry.publish(bundle)
    promote(settings.kafka, settings.topics.releases, version, reason="test")
    return OnnxScorer.load(registry.fetch(version))


def all_answered(settings: Settings, n: int) -> dict[tuple[int, int], list[Recommendation]]:
    def answered() -> Any:
        answers = answers_by_click(
            settings.kafka.bootstrap_servers, settings.topics.recommendations
        )
        return answers if len(answers) >= n else None

    answers: dict[tuple[int, int], list[Recommendation]] = wait_until(
        f"{n} clicks answered", answered
    )
    return answers


def content(answer: Recommendation) -> tuple[Any, ...]:
    """What must be the same for the same click; the times may differ."""
    return (answer.session_id, answer.event_id, answer.model_version, answer.fallback, answer.items)


def assert_exact(
    settings: Settings, scorer: OnnxScorer | None, n: int
) -> dict[tuple[int, int], list[Recommendation]]:
    """Every click answered, every answer and every final state as an offline replay of the log gives."""
    answers = all_answered(settings, n)
    clicks = read_topic(settings.kafka.bootstrap_servers, settings.topics.clicks)
    states, expected = replayed(clicks, scorer, ServingRules())
    assert answers.keys() == expected.keys()
    for click, given in answers.items():
        for answer in given:
            assert content(answer) == content(expected[click])

    def stored() -> Any:
        changelog = stored_states(settings.kafka.bootstrap_servers, settings.topics.sessions)
        return changelog if changelog == states else None

    wait_until("the changelog holds the states of an offline replay", stored, 20)
    return answers


def test_every_click_is_answered_by_the_live_model_and_states_are_exact(
    settings: Settings, worker: Callable[..., NextclickProcess], port: int, tmp_path: Path
) -> None:
    scorer = publish_model(settings, tmp_path)
    with worker() as process:
        wait_until("ready", lambda: get(port, "/readyz")[0] == 200)
        produce(settings, made_up_clicks(1500))
        answers = assert_exact(settings, scorer, 1500)
        assert max(map(len, answers.values())) == 1
        metrics = process.metrics(port)
        assert metrics['nextclick_clicks_total{outcome="recommended"}'] == 1500
        judged = f'{{model_version="{scorer.model_version}"}}'
        assert metrics[f"nextclick_live_predictions_total{judged}"] == 1500 - 40
        assert metrics[f"nextclick_live_hits_total{judged}"] > 0
        assert metrics["nextclick_model_items"] == len(scorer.vocabulary)
        assert metrics["nextclick_model_bundle_bytes"] == scorer.bundle_bytes > 10_000
        assert 0 < metrics["nextclick_recommended_items"] <= len(scorer.vocabulary)
        assert metrics["nextclick_rebalances_total"] == 1
        records = metrics["nextclick_changelog_records_total"]
        assert 40 <= records <= 1500
        assert metrics["nextclick_changelog_bytes_total"] > records * scorer.state_size_bytes
        # A sweep does not see what is on its way to the disk as it ends, and on a fast machine that is all of
        # it; sessions that begin after it are counted.
        before = metrics["nextclick_stored_sessions"]
        assert before <= 40
        produce(settings, later_clicks(3))
        wait_until(
            "the later sessions are counted",
            lambda: before + 3 <= process.metrics(port)["nextclick_stored_sessions"] <= 43,
            seconds=20,
        )
        assert process.terminate() == 0
        assert not process.events("worker_ends")


def test_before_any_model_popularity_answers_and_says_so(
    settings: Settings, worker: Callable[..., NextclickProcess]
) -> None:
    with worker():
        produce(settings, made_up_clicks(30))
        answers = all_answered(settings, 30)
    assert {a.fallback for given in answers.values() for a in given} == {"no_model"}
    assert {a.model_version for given in answers.values() for a in given} == {None}


def test_killed_twice_and_once_without_its_disk_the_states_are_exact(
    settings: Settings, worker: Callable[..., NextclickProcess], tmp_path: Path
) -> None:
    """kill -9 in the middle of a replay: nothing lost, nothing applied twice."""
    scorer = publish_model(settings, tmp_path)
    clicks = made_up_clicks(6000, sessions=300)
    topic = settings.topics.recommendations
    for number, upto in enumerate((2000, 4000, 6000)):
        process = worker()
        process.wait_for_event("partitions_assigned")
        produce(settings, clicks[upto - 2000 : upto])
        if upto < 6000:
            wait_until(
                "some of them answered",
                lambda upto=upto: (
                    len(read_topic(settings.kafka.bootstrap_servers, topic)) > upto - 1900
                ),
            )
            process.kill()
            if number == 1:
                settings.data_dir.rename(tmp_path / "lost-disk")
    assert_exact(settings, scorer, 6000)


def test_a_new_model_takes_over_without_losing_a_click(
    settings: Settings, worker: Callable[..., NextclickProcess], port: int, tmp_path: Path
) -> None:
    """After a swap every answer names the new model, and sessions are rebuilt from their recent items."""
    first = publish_model(settings, tmp_path, seed=1)
    clicks = made_up_clicks(2000)
    with worker() as process:
        produce(settings, clicks[:1000])
        all_answered(settings, 1000)
        second = publish_model(settings, tmp_path, seed=2)
        wait_until("the swap", lambda: len(process.events("model_swapped")) == 2)
        produce(settings, clicks[1000:])
        answers = all_answered(settings, 2000)
        rebuilt = process.metrics(port)["nextclick_rebuilt_sessions_total"]
    by_model: dict[str | None, int] = {}
    for given in answers.values():
        for answer in given:
            by_model[answer.model_version] = by_model.get(answer.model_version, 0) + 1
    assert by_model == {first.model_version: 1000, second.model_version: 1000}
    assert 0 < rebuilt <= 40


def test_a_refused_bundle_leaves_the_live_model_in_place(
    settings: Settings, worker: Callable[..., NextclickProcess], port: int, tmp_path: Path
) -> None:
    good = publish_model(settings, tmp_path, seed=1)
    with worker() as process:
        process.wait_for_event("model_swapped")
        registry = Registry(settings.registry)
        version = registry.publish(make_bundle(tmp_path / "bad", ids=ITEMS, units=16, seed=3))
        graph = Path(settings.registry) / version / "score.onnx"
        graph.chmod(0o644)
        graph.write_bytes(graph.read_bytes()[:-20])
        promote(settings.kafka, settings.topics.releases, version, reason="test")
        refused = process.wait_for_event("bundle_refused")
        assert refused["live"] == good.model_version
        assert process.metrics(port)['nextclick_model_swaps_total{result="refused"}'] == 1
        produce(settings, made_up_clicks(50))
        answers = all_answered(settings, 50)
    assert {a.model_version for given in answers.values() for a in given} == {good.model_version}


BAD_CLICKS = {
    "MalformedJson": b'{"session_id": "s", "item_id": ',
    "NotUtf8": b'\xff\xfe{"session_id": "s"}',
    "WrongType": b'{"session_id": "s", "item_id": ["a"], "event_time": 1700000000000}',
    "MissingField": b'{"session_id": "s", "event_time": 1700000000000}',
    "BadEventTime": b'{"session_id": "s", "item_id": "a", "event_time": "9999-12-31T00:00:00Z"}',
    "BadId": b'{"session_id": "s", "item_id": "'
    + b"x" * 900_000
    + b'", "event_time": 1700000000000}',
}


def test_bad_clicks_go_to_the_dead_letters_untouched_and_every_click_is_accounted_for(
    settings: Settings, worker: Callable[..., NextclickProcess], port: int, tmp_path: Path
) -> None:
    publish_model(settings, tmp_path)
    good = made_up_clicks(100)
    duplicate = good[-1]
    cart = json.dumps(
        {"session_id": "s", "item_id": "a", "event_time": START_MS, "event_type": "add_to_cart"}
    ).encode()
    with worker() as process:
        bad = [("bad", value) for value in BAD_CLICKS.values()]
        produce(settings, [*good, *bad, duplicate, ("s", cart)])
        expected = {
            'nextclick_clicks_total{outcome="recommended"}': 100,
            'nextclick_clicks_total{outcome="dead_lettered"}': len(bad),
            'nextclick_clicks_total{outcome="ignored_duplicate"}': 1,
            'nextclick_clicks_total{outcome="ignored_event_type"}': 1,
        }
        wait_until(
            "every click accounted for",
            lambda: expected.items() <= process.metrics(port).items(),
        )
    letters = read_topic(settings.kafka.bootstrap_servers, settings.topics.dead_letters)
    by_error = {dict(letter.headers)["nextclick-error"].decode(): letter for letter in letters}
    assert {error: letter.value for error, letter in by_error.items()} == BAD_CLICKS
    letter = by_error["BadId"]
    headers = dict(letter.headers)
    assert headers["nextclick-original-topic"].decode() == settings.topics.clicks
    assert letter.key == b"bad"
    assert b"512 bytes" in headers["nextclick-message"]


def test_a_wrong_decoder_halts_the_worker_rather_than_divert_everything(
    settings: Settings, worker: Callable[..., NextclickProcess]
) -> None:
    with worker("--set", "serving.dead_letters_in_a_row_max=50") as process:
        produce(settings, [("s", b"<click/>")] * 200)
        assert process.process.wait(timeout=60) == 70
        assert "in a row" in process.events("worker_ends")[0]["error"]


def test_erasing_a_session_removes_its_state_and_leaves_a_tombstone(
    settings: Settings, worker: Callable[..., NextclickProcess], tmp_path: Path
) -> None:
    publish_model(settings, tmp_path)
    erase = json.dumps(
        {"session_id": "session-1", "event_time": START_MS, "event_type": "erase"}
    ).encode()
    with worker():
        produce(settings, made_up_clicks(200))
        all_answered(settings, 200)
        produce(settings, [("session-1", erase)])
        servers, topic = settings.kafka.bootstrap_servers, settings.topics.sessions
        wait_until(
            "the session is gone",
            lambda: "session-1" not in {key[1] for key in stored_states(servers, topic)},
        )
        assert any(r.value is None and r.key == b"session-1" for r in read_topic(servers, topic))


def test_three_workers_share_the_partitions_and_others_take_over_with_exact_states(
    settings: Settings, worker: Callable[..., NextclickProcess], tmp_path: Path
) -> None:
    scorer = publish_model(settings, tmp_path)
    clicks = made_up_clicks(2000, sessions=100)
    workers: list[NextclickProcess] = []

    def shares() -> list[int]:
        """Partitions of the workers by their last word, least first."""
        told = [process.events("partitions_assigned") for process in workers]
        return sorted(len(events[-1]["partitions"]) if events else 0 for events in told)

    for number, even in enumerate(([4], [2, 2], [1, 1, 2])):
        workers.append(worker("--metrics-port", "0", data_dir=tmp_path / str(number)))
        wait_until(f"{number + 1} workers have their shares", lambda even=even: shares() == even)
    produce(settings, clicks[:1000])
    all_answered(settings, 1000)
    workers.pop().kill()
    produce(settings, clicks[1000:])
    wait_until("the others own all partitions", lambda: shares() == [2, 2])
    assert_exact(settings, scorer, 2000)


def test_a_second_worker_on_the_same_data_directory_is_refused(
    settings: Settings, worker: Callable[..., NextclickProcess]
) -> None:
    worker().wait_for_event("worker_started")
    with worker("--metrics-port", "0") as second:
        assert second.process.wait(timeout=30) == 2
        assert "data_dir of its own" in second.log


def test_without_a_broker_the_worker_says_what_to_do(settings: Settings, tmp_path: Path) -> None:
    nowhere = settings.model_copy(
        update={"kafka": settings.kafka.model_copy(update={"bootstrap_servers": "127.0.0.1:1"})}
    )
    with NextclickProcess("worker", nowhere, tmp_path) as process:
        assert process.process.wait(timeout=60) == 69
        assert "nextclick broker start" in process.log


def test_too_few_partitions_are_refused_before_the_first_click(
    settings: Settings, worker: Callable[..., NextclickProcess], make_topics: Any
) -> None:
    narrow = make_topics(partitions=1)
    with worker("--set", f"topics.recommendations={narrow.recommendations}") as process:
        assert process.process.wait(timeout=30) == 2
        assert "they must be equal" in process.log


def test_a_foreign_write_into_the_changelog_is_mended_in_place(
    settings: Settings, worker: Callable[..., NextclickProcess], tmp_path: Path
) -> None:
    """A worker that lost its partition wakes and writes an old record behind the newer ones.

    The owner sees the gap in its own offsets, or none where no click comes, and sends its newer records
    again, since compaction would keep what was written last.
    """
    scorer = publish_model(settings, tmp_path)
    clicks = made_up_clicks(800)
    servers, topic = settings.kafka.bootstrap_servers, settings.topics.sessions
    owner = worker()
    owner.wait_for_event("partitions_assigned")
    for wave in (clicks[:200], clicks[200:400]):  # each leaves a record of every session
        produce(settings, wave)
        all_answered(settings, 200)
    assert_exact(settings, scorer, 400)
    oldest: dict[tuple[int, bytes], bytes] = {}
    for record in read_topic(servers, topic):
        oldest.setdefault((record.partition, record.key), record.value)
    zombie = Producer({"bootstrap.servers": servers})
    for (partition, key), value in oldest.items():
        zombie.produce(topic, key=key, value=value, partition=partition)
    assert zombie.flush(10) == 0

    # One visitor goes on; in the other partitions nothing is written by the owner.
    more = [click for click in clicks[400:] if click[0] == "session-1"]
    produce(settings, more)
    assert_exact(settings, scorer, 400 + len(more))

    def is_mended() -> bool:
        newest = {(r.partition, r.key): r.value for r in read_topic(servers, topic)}
        states = stored_states(servers, topic)
        return {
            (partition, key.decode()): decode_state(value)[0]
            for (partition, key), value in newest.items()
        } == states

    wait_until("what compaction keeps is the newest state of every session", is_mended)
    assert owner.process.poll() is None, owner.log
    healed = sum(event["foreign_records"] for event in owner.events("changelog_healed"))
    assert healed == len(oldest)


def test_answers_of_a_batch_that_are_too_many_for_one_request_are_sent_in_several(
    settings: Settings, worker: Callable[..., NextclickProcess], tmp_path: Path
) -> None:
    """A broker refuses more than a megabyte at once, and would refuse it again after every restart."""
    scorer = publish_model(settings, tmp_path)
    produce(settings, made_up_clicks(4000, sessions=1))  # all in one partition, and waiting
    process = worker("--set", "serving.batch_clicks_max=4000")
    answers = all_answered(settings, 4000)
    assert sum(len(a) for a in answers.values()) == 4000
    assert process.process.poll() is None, process.log
    assert scorer.model_version in {a[-1].model_version for a in answers.values()}
