"""The page's own arithmetic, run where it runs: in the browser."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from tests.browser.browsing import visiting
from tests.browser.stack import Stack

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def run(browser: Browser, stack: Stack) -> Iterator[Run]:
    """Calls an exported function of a module with JSON, and gives JSON back."""
    with visiting(browser, stack.origin) as visitor:
        page = visitor.open("sessions")
        yield partial(_call, page)


def _call(page: Page, module: str, function: str, *arguments: Any) -> Any:
    return page.evaluate(
        """async ([module, name, args]) => {
             const result = (await import(`/js/${module}.js`))[name](...args);
             return result instanceof Map ? [...result] : result;
           }""",
        [module, function, list(arguments)],
    )


def _figures(second: int, live: str, **models: tuple[int, int, int]) -> dict[str, Any]:
    """models: version=(predictions, hits, popularity's hits), all since the gateway began."""
    return {
        "at_ms": second * 1000,
        "live_version": None if live == "none" else live,
        "models": [
            {"version": name, "predictions": n, "hits": hits, "popularity_hits": popular}
            for name, (n, hits, popular) in models.items()
        ],
    }


def test_a_hit_rate_over_the_last_minute_is_the_difference_of_two_counts(run: Run) -> None:
    figures = [
        _figures(0, "none", none=(0, 0, 0)),
        _figures(30, "none", none=(100, 10, 10)),
        _figures(60, "none", none=(200, 40, 40)),
        _figures(90, "a", none=(200, 40, 40), a=(50, 20, 5)),
        _figures(120, "a", none=(200, 40, 40), a=(250, 120, 25)),
    ]
    lines = dict(run("stream", "hitRates", figures))
    assert lines["none"] == [
        [30_000, 0.1],
        [60_000, 0.2],
        [90_000, pytest.approx(35 / 150)],
        [120_000, pytest.approx(25 / 250)],
    ]
    assert lines["a"] == [[90_000, 0.4], [120_000, pytest.approx(120 / 250)]]


def test_too_few_judged_answers_say_nothing(run: Run) -> None:
    figures = [_figures(0, "a", none=(0, 0, 0)), _figures(1, "a", none=(0, 0, 0), a=(39, 39, 39))]
    assert dict(run("stream", "hitRates", figures)) == {"none": []}


def test_a_replaced_models_line_ends_where_it_was_replaced(run: Run) -> None:
    figures = [
        _figures(0, "a", none=(0, 0, 0), a=(0, 0, 0)),
        _figures(10, "a", none=(0, 0, 0), a=(100, 50, 10)),
        _figures(20, "b", none=(0, 0, 0), a=(110, 55, 11), b=(90, 60, 9)),
    ]
    lines = dict(run("stream", "hitRates", figures))
    assert [at for at, _ in lines["a"]] == [10_000]
    assert [at for at, _ in lines["b"]] == [20_000]


@pytest.mark.parametrize("top", [0.0004, 0.07, 0.664, 1, 3, 151.2, 9_999])
def test_an_axis_has_a_few_round_numbers_from_zero_to_above_everything(
    run: Run, top: float
) -> None:
    ticks = run("charts/scale", "ticks", top)
    assert ticks[0] == 0
    assert ticks[-1] >= top
    assert len(ticks) <= 6
    steps = {round(b - a, 9) for a, b in pairwise(ticks)}
    assert len(steps) == 1


def test_labels_are_moved_apart_and_stay_on_the_paper(run: Run) -> None:
    places = run("charts/scale", "apart", [50, 50, 52, 0, 100], 10, 0, 100)
    ordered = sorted(places)
    assert all(b - a >= 10 - 1e-9 for a, b in pairwise(ordered))
    assert ordered[0] >= 0
    assert ordered[-1] <= 100
    assert places.index(max(places)) == 4, "in the order of what they name"


def test_a_block_of_the_live_feed_is_taken_apart_as_the_standard_says(run: Run) -> None:
    assert run("events", "parsed", ": still here") is None
    block = 'id: 7\nevent: figures\ndata: {"a":\ndata:1}'
    assert run("events", "parsed", block) == {"name": "figures", "data": '{"a":\n1}'}
    assert run("events", "parsed", "data:x") == {"name": "message", "data": "x"}


def test_versions_and_titles_are_shortened_for_people(run: Run) -> None:
    assert run("format", "versionName", None) == "statistics"
    assert run("format", "versionName", "my-own-model") == "my-own-model"
    assert run("format", "versionName", "20261124T124121Z-ba08").startswith("ba08 · ")
    assert run("format", "titleParts", "Pair of jeans 'Koi 2' navy") == {
        "noun": "Pair of jeans",
        "model": "Koi 2",
        "colour": "navy",
    }
    assert run("format", "titleParts", None) == {"noun": "", "model": "", "colour": ""}
