"""The numbers counted beside the worker are the worker's own, in whatever order records are fetched."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from stream_app.core.pipeline import Judgement
from tests.stream_app.tools.numbers import ITEMS, TOPICS, Record, click, numbers, run_worker

clicks = st.one_of(
    st.builds(
        click,
        st.sampled_from("xyz"),
        st.sampled_from([*ITEMS, "new"]),
        st.integers(0, 200),
        event_type=st.sampled_from(["view_item"] * 6 + ["purchase", "erase"]),
        event_id=st.one_of(st.none(), st.sampled_from("12345678")),
        consent=st.sampled_from([True] * 8 + [False]),
    ),
    st.just(b"{"),
)


@given(
    st.lists(st.tuples(st.integers(0, 1), clicks), max_size=60),
    st.lists(st.integers(1, 20), min_size=4, max_size=4),
    st.randoms(),
)
def test_judges_and_counts_what_the_pipeline_judges_and_counts(
    log: list[tuple[int, bytes]], batches: list[int], random: Any
) -> None:
    offsets = [0, 0]
    records = []
    for partition, value in log:
        records.append(Record(TOPICS.clicks, partition, offsets[partition], value))
        offsets[partition] += 1
    judgements, answers, letters, outcomes = run_worker(records, batches)

    live = numbers()
    # Each partition of each topic is a queue; which one is fetched next is anybody's guess.
    queues = [[r for r in records if r.partition == p] for p in (0, 1)]
    queues += [[r for r in answers if r.partition == p] for p in (0, 1)]
    queues.append(list(letters))
    while any(queues):
        queue = random.choice([q for q in queues if q])
        size = random.randint(1, len(queue))
        live.take(queue[:size], now=1.0)
        del queue[:size]
    live.finish()

    counted = {version: quality.live for version, quality in live.versions.items()}
    assert {v: j for v, j in counted.items() if j.predictions} == judgements
    assert live.produced == len(log)
    assert live.recommended == outcomes["recommended"]
    assert live.dead_lettered == outcomes["dead_lettered"] == live.outcomes["dead_lettered"]
    ignored = {k: n for k, n in outcomes.items() if k.startswith("ignored_")}
    assert {f"ignored_{reason}": n for reason, n in live.ignored.items()} == ignored
    assert live.unaccounted == 0


def test_a_click_answered_twice_counts_once_and_its_later_answer_is_the_one_judged() -> None:
    first = [Record("clicks", 0, 0, click("x", "a", 0)), Record("clicks", 0, 1, click("x", "c", 1))]
    _, by_popularity, _, _ = run_worker(first[:1], [])
    _, by_model, _, _ = run_worker(first, [0, 0, 0, 0])
    live = numbers()
    live.take([first[0], *by_popularity], now=1.0)
    live.take([first[1], *by_model], now=2.0)
    assert live.recommended == 2
    assert live.repeated_answers == 1
    assert live.versions["none"].live.predictions == 0
    assert live.versions["m2"].live == Judgement(1, 1, 1 / 2)  # after a come b, c, d


def test_a_lost_answer_shows_as_unaccounted() -> None:
    log = [Record("clicks", 0, i, click("x", "a", i)) for i in range(3)]
    _, answers, _, _ = run_worker(log, [])
    live = numbers()
    live.take([*log, answers[0], answers[2]], now=1.0)
    live.finish()
    assert live.unaccounted == 1


def test_popularity_beside_a_model_is_judged_on_the_same_clicks() -> None:
    log = [Record("clicks", 0, i, click(f"s{i}", "a", i)) for i in range(150)]
    log += [Record("clicks", 0, 150, click("s149", "a", 151))]
    _, answers, _, _ = run_worker(log, [0, 0, 0, 0])
    live = numbers()
    live.take([*log, *answers], now=1.0)
    quality = live.versions["m2"]
    assert quality.live == Judgement(1, 0, 0.0)
    assert quality.popularity == Judgement(1, 1, 1.0)


def test_the_click_rate_is_of_whole_seconds() -> None:
    live = numbers()
    for second in range(5):
        records = [Record("clicks", 0, second * 40 + i, b"{") for i in range(40)]
        live.take(records, now=second + 0.5)
    live.take([], now=5.1)
    assert live.clicks_per_second(now=5.1) == 40.0


def test_names_come_from_the_clicks_and_anything_else_in_properties_is_passed_over() -> None:
    log = [
        Record("clicks", 0, 0, click("x", "a", 0, properties={"title": "Tent 'Fjord' red"})),
        Record("clicks", 0, 1, click("x", "b", 1, properties={"title": 7})),
        Record("clicks", 0, 2, click("x", "c", 2, properties=[1, 2])),
    ]
    _, answers, _, _ = run_worker(log, [])
    live = numbers()
    live.take([*log, *answers], now=1.0)
    names = [live.title_of(item) for item in "abc"]
    assert names == ["Tent 'Fjord' red", "b", "c"]
