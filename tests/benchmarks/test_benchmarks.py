"""What the tables say follows from what was measured, and what was written is read back the same."""

from pathlib import Path

import pytest

from tests.benchmarks import report, sizing
from tests.benchmarks.bed import made_up_clicks
from tests.benchmarks.figures import Figure, median_figure
from tests.benchmarks.publish import with_block
from tests.benchmarks.runs import rate
from tests.benchmarks.scaling import Scaling


@pytest.mark.parametrize(
    ("value", "unit", "goal", "met"),
    [
        (21_000, "clicks/s", 20_000, True),
        (19_000, "clicks/s", 20_000, False),
        (9.0, "ms", 10.0, True),
        (11.0, "ms", 10.0, False),
        (0.998, "share", 0.999, False),
        (1.0, "ms", None, None),
    ],
)
def test_more_clicks_and_fewer_milliseconds_meet_a_goal(
    value: float, unit: str, goal: float | None, met: bool | None
) -> None:
    assert Figure("a", value, unit, goal).is_met is met


def test_repeated_runs_show_their_median_and_spread() -> None:
    figure = median_figure("a", [3.0, 1.0, 9.0], "ms")
    assert (figure.value, figure.spread) == (3.0, (1.0, 9.0))


def test_answers_of_the_first_moment_begin_the_clock_and_do_not_count() -> None:
    assert rate([1000, 1000, 1500, 2000]) == 2.0


def test_figures_are_read_back_as_they_were_written(tmp_path: Path) -> None:
    figures = [
        Figure("a", 1.5, "ms", 2.0, 0.5, (1.0, 2.0), "a note"),
        Figure("b", 0.0, "clicks/s"),
    ]
    report.write(tmp_path / "bench.json", figures, "this machine")
    rows = report.read(tmp_path / "bench.json")
    assert rows == (figures, "this machine")


def test_workers_are_planned_for_half_of_what_they_can_do_and_never_alone() -> None:
    assert sizing.workers_for(1_000, one_does=20_000) == 2
    assert sizing.workers_for(100_000, one_does=20_000) == 10
    assert sizing.workers_for(100_001, one_does=20_000) == 11


@pytest.mark.parametrize(("workers", "partitions"), [(2, 4), (10, 32), (16, 32), (17, 64)])
def test_partitions_are_a_power_of_two_with_two_or_more_for_each_worker(
    workers: int, partitions: int
) -> None:
    assert sizing.partitions_for(workers) == partitions


def test_sizing_is_read_back_as_it_was_written_and_tells_measured_from_computed(
    tmp_path: Path,
) -> None:
    made = sizing.Sizing(
        [sizing.Capacity(10_000, 100, 20_000.0, 50.0, 1_000, 9.5)],
        [sizing.Memory(100, 400.0, 350.0, 200.0, measured=True)],
        [sizing.Installation(100_000, 10_000, 10, 32, 150.0)],
        [Scaling(2, [3, 3], 5_000.0, 0, 0)],
    )
    sizing.write(tmp_path / "sizing.json", made, "this machine")
    assert sizing.read(tmp_path / "sizing.json") == (made, "this machine")
    text = "\n".join(sizing.markdown(made))
    measured, computed = text.split("**Computed**")
    assert "| 10,000 | 100 | 20,000 |" in measured
    assert "| 100,000 | 10,000 | 10 | 32 |" in computed


def test_made_up_visitors_click_five_times_each_and_no_click_comes_twice() -> None:
    clicks = list(made_up_clicks(0, 50_000, 100)) + list(made_up_clicks(50_000, 10, 100))
    by_session: dict[bytes, int] = {}
    for key, _ in clicks[:50_000]:
        by_session[key] = by_session.get(key, 0) + 1
    assert set(by_session.values()) == {5}
    assert len({value for _, value in clicks}) == len(clicks)


def test_only_the_block_between_its_marks_is_replaced() -> None:
    begin, end = (
        "<!-- x: written by `python -m tests.benchmarks.publish` -->",
        "<!-- end x -->",
    )
    text = f"before {begin} old {end} after"
    assert with_block(text, "x", iter(["new"])) == f"before {begin}\n\nnew\n\n{end} after"
    with pytest.raises(SystemExit, match="no block `x`"):
        with_block("nothing", "x", iter(["new"]))
