"""What the live view looks like: nothing cut off at 80x24, nothing that steers the terminal."""

import io
import json

import pytest
from rich.console import Console

from stream_app.core.pipeline import Judgement
from stream_app.tools import live_view
from stream_app.tools.live_numbers import SeenClick, VersionQuality
from stream_app.tools.plain_text import printable
from tests.stream_app.tools.numbers import Record, answered_by_popularity, click, numbers

VERSION = "20261124T111132Z-3f2"


def console(width: int = 80, height: int = 24) -> Console:
    return Console(file=io.StringIO(), width=width, height=height, force_terminal=True)


def busy_numbers() -> live_view.LiveNumbers:
    live = numbers()
    live.versions["none"] = VersionQuality(
        0.0, 12_000, Judgement(10_472, 1_162, 300.0), Judgement(10_472, 943, 250.0)
    )
    for number in range(5):
        live.versions[f"{VERSION}{number}"] = VersionQuality(
            0.0, 9_000, Judgement(8_916, 2_687, 700.0), Judgement(8_916, 1_029, 300.0)
        )
    for number in range(20):
        live.recent.append(
            SeenClick(f"s{number}", f"item {number}", VERSION, number % 3, tuple("abc"), "none", 7)
        )
    live.titles.update({f"item {n}": "An item with a very long name " * 4 for n in range(20)})
    live.titles.update({name: f"The item called {name} in the colour of slate" for name in "abc"})
    return live


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40), (100, 16)])
def test_the_picture_fits_the_terminal(width: int, height: int) -> None:
    screen, live = console(width, height), busy_numbers()
    sample = live_view.ClickSample()
    news = ["a line of news that is far longer than any terminal is wide " * 3] * 3
    for now in range(10):
        picture = live_view.picture(
            "title", "facts", live, sample, console=screen, now=now, best=0.66, news=news
        )
    lines = screen.render_lines(picture, screen.options, pad=False)
    text = ["".join(segment.text for segment in line) for line in lines]
    assert len(text) <= height
    assert max(map(len, text)) <= width
    assert "best possible" in "\n".join(text)
    assert text[-1].startswith("a line of news")


def test_the_table_compares_each_model_with_popularity_and_with_the_best() -> None:
    screen = console()
    screen.print(live_view.quality_table(busy_numbers(), best=0.6028))
    rows = [line.split() for line in screen.file.getvalue().splitlines()]  # type: ignore[attr-defined]
    assert rows[1][:4] == ["statistics", "10,472", "11.1", "%"]
    assert rows[1][-4:] == ["9.0", "%", "18", "%"], "popularity beside what answers without a model"
    assert rows[2][:4] == [f"{VERSION}2", "8,916", "30.1", "%"], "the newest three models"
    assert rows[2][-4:] == ["11.5", "%", "50", "%"]


def test_a_stream_that_was_never_answered_without_a_model_still_shows_what_popularity_would_have() -> (
    None
):
    live = busy_numbers()
    assert "hit rate@20: statistics 11.1 %" in live_view.status_line(live, 1.0, best=None)
    del live.versions["none"]
    line = live_view.status_line(live, 1.0, best=None)
    assert f"hit rate@20: popularity 11.5 %, {VERSION}4 30.1 %" in line
    screen = console()
    screen.print(live_view.quality_table(live, best=None))
    rows = [line.split() for line in screen.file.getvalue().splitlines()]  # type: ignore[attr-defined]
    assert rows[1][0] == "popularity"
    assert rows[1].count("%") == 1, "not beside itself"


def test_before_the_first_answer_it_is_the_statistics_turn() -> None:
    screen = console()
    screen.print(live_view.quality_table(numbers(), best=None))
    rows = [line.split() for line in screen.file.getvalue().splitlines()]  # type: ignore[attr-defined]
    assert rows[1][:2] == ["statistics", "0"]


def test_names_cannot_steer_the_terminal() -> None:
    assert printable("ten\x1b[2Jt\r\n\x9b\u202e") == "ten·[2Jt····"
    live = numbers()
    title = {"title": "evil \x1b]0;pwned\x07"}
    records = [Record("clicks", 0, 0, click("x", "\x1b[31m", 0, properties=title))]
    live.take([*records, *answered_by_popularity(records)], now=1.0)
    screen = console()
    screen.print(live_view.picture(
        "t", "f", live, live_view.ClickSample(), console=screen, now=1.0
    ))  # fmt: skip
    shown = screen.file.getvalue()  # type: ignore[attr-defined]
    assert "\x1b]0" not in shown
    assert "evil ·]0;pwned·" in shown


def test_without_a_terminal_a_line_is_said_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(live_view.time, "monotonic", lambda: clock[0])
    out = io.StringIO()
    plain = Console(file=out, width=20)
    with live_view.Display(
        plain, lambda: "picture", lambda: "a line [bold] that is not cut"
    ) as show:
        for second in (1, 6, 7, 11):
            clock[0] = 100.0 + second
            show.tick()
        show.say("news")
    assert out.getvalue().splitlines() == ["a line [bold] that is not cut"] * 2 + ["news"]


def test_sampled_clicks_stay_long_enough_to_be_read() -> None:
    live, sample = busy_numbers(), live_view.ClickSample()
    first = sample.look(live, now=0.0)
    for number in range(5):
        live.recent.append(SeenClick(f"n{number}", "item 1", VERSION, 1, (), "none", 1))
        sample.look(live, now=0.01 * number)
    full = sample.look(live, now=0.1)
    live.recent.append(SeenClick("last", "item 1", VERSION, 1, (), "none", 1))
    assert sample.look(live, now=0.2) == full
    assert sample.look(live, now=5.0)[0].session_id == "last"
    assert len(first) == 1


def test_a_bar_is_drawn_in_eighths() -> None:
    assert live_view.bar(0.5, 4) == "██"
    assert live_view.bar(0.3, 4) == "█▎"
    assert live_view.bar(7.0, 2) == "██"
    assert json.dumps(live_view.bar(-1.0, 2)) == '""'
