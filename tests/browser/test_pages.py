"""Live view, models and sessions, against what the gateway itself tells."""

from collections.abc import Callable
from urllib.parse import quote

from playwright.sync_api import Page, expect

from tests.browser.browsing import Visitor
from tests.browser.stack import (
    FIRST_MODEL,
    HOSTILE_ITEM,
    HOSTILE_TITLE,
    REFUSED_MODEL,
    SECOND_MODEL,
    Stack,
)
from tests.integration.gateways import GatewayThread


def test_the_live_view_shows_the_figures_that_the_gateway_counts(
    visit: Callable[..., Visitor], stack: Stack
) -> None:
    page = visit().open("live")
    expect(page.locator(".tile")).to_have_count(5)
    told = stack.ask("/v1/models")["live"]["model_version"]
    row = page.locator(".by-model tbody tr").filter(has_text=told.split("-")[1])
    expect(row).to_contain_text("live")
    expect(row.locator("strong")).to_contain_text("%")
    answered = int(row.locator("td").first.inner_text().replace(",", ""))
    assert answered >= len({click.session_id for click in stack.clicks})
    expect(page.locator("svg.plot")).to_have_count(3)
    expect(page.locator(".pulse")).to_have_attribute("data-state", "open")


def test_clicks_run_through_the_live_view_and_stand_still_when_paused(
    visit: Callable[..., Visitor], stack: Stack
) -> None:
    page = visit().open("live")
    stack.gateway.click("feed-1", str(stack.clicks[0].item_id), wait=2000)
    expect(page.locator(".feed-row").first).to_contain_text("first click")
    page.get_by_role("button", name="Pause").click()
    rows = page.locator(".feed-row").count()
    for n in range(3):
        stack.gateway.click(f"feed-2-{n}", str(stack.clicks[0].item_id), wait=2000)
    page.wait_for_timeout(1500)
    assert page.locator(".feed-row").count() == rows
    page.get_by_role("button", name="Go on").click()
    expect(page.locator(".feed-row")).to_have_count(rows + 1)


def test_a_click_from_before_the_live_view_was_opened_has_its_name_too(
    visit: Callable[..., Visitor], stack: Stack
) -> None:
    visitor = visit()
    page = visitor.open("sessions")
    item = str(stack.clicks[0].item_id)
    [told] = stack.ask(f"/v1/items?ids={quote(item, safe='')}")["items"]
    stack.gateway.click("named-1", item, wait=2000)
    expect(page.get_by_label("Sessions", exact=True)).to_contain_text("named-1")
    visitor.page.get_by_role("link", name="Live", exact=True).click()
    expect(page.locator(".feed-row").first).to_contain_text(told["title"].split(" '")[0])


def test_a_swap_is_marked_and_the_new_model_answers_before_ones_eyes(
    visit: Callable[..., Visitor], stack: Stack
) -> None:
    live, playground = visit(), visit()
    page = live.open("live")
    expect(page.locator(".tile")).to_have_count(5)
    playground.open_shop()
    stack.swap(SECOND_MODEL)
    try:
        row = page.locator(".by-model tbody tr").filter(has_text=SECOND_MODEL.split("-")[1])
        expect(row).to_contain_text("gap")
        expect(page.locator(".swap")).not_to_have_count(0)
        playground.click_item(0)
        chip = playground.page.locator(".next-facts .chip")
        expect(chip).to_have_attribute("title", SECOND_MODEL)
    finally:
        stack.swap(FIRST_MODEL)


def test_the_models_page_tells_what_the_gate_said_of_each_training(
    visit: Callable[..., Visitor],
) -> None:
    page = visit().open("models")
    rows = page.locator(".trainings li")
    expect(rows).to_have_count(3)
    expect(rows.nth(0)).to_contain_text("refused")
    expect(page.locator("#report-title")).to_contain_text(FIRST_MODEL.split("-")[1])
    expect(page.locator(".verdict-box")).to_contain_text("Recall@20 0.4061, popularity 0.1354")
    rows.nth(0).locator("a").click()
    expect(page.locator(".report")).to_contain_text(REFUSED_MODEL)
    expect(page.locator(".verdict-box.is-refused")).to_contain_text("NaN")


def _hovered(page: Page) -> str:
    """Move over the map until a dot is under the pointer; the name it tells."""
    box = page.locator("canvas.map").bounding_box()
    assert box is not None
    for row in range(8, int(box["height"]), 12):
        for column in range(8, int(box["width"]), 12):
            page.mouse.move(box["x"] + column, box["y"] + row)
            if page.locator(".map-tip").is_visible():
                name: str = page.locator(".map-tip strong").inner_text()
                return name
    raise AssertionError("no dot of the map has a name")


def test_the_map_names_what_is_under_the_pointer_and_shows_its_neighbours(
    visit: Callable[..., Visitor], stack: Stack
) -> None:
    page = visit().open("models")
    page.locator("canvas.map").scroll_into_view_if_needed()
    points = stack.ask("/v1/models/live/map?limit=2000")["points"]
    name = _hovered(page)
    [item] = [point["item_id"] for point in points if point["title"] == name]
    page.mouse.down()
    page.mouse.up()
    expect(page.locator(".chosen h3")).to_contain_text(name)
    told = stack.ask(f"/v1/models/live/neighbours/{quote(item, safe='')}?limit=12")["neighbours"]
    shown = page.locator(".near-list .likeness").all_inner_texts()
    assert shown == [f"{near['similarity']:.2f}" for near in told]
    assert quote(item, safe="") in page.url


def test_an_item_is_found_on_the_map_by_its_name(visit: Callable[..., Visitor]) -> None:
    page = visit().open(f"models/{FIRST_MODEL}")
    page.locator("canvas.map").wait_for()
    page.get_by_label("Find an item on the map").fill(HOSTILE_TITLE)
    page.keyboard.press("Enter")
    expect(page.locator(".chosen h3")).to_contain_text(HOSTILE_TITLE)
    assert quote(HOSTILE_ITEM, safe="") in page.url


def test_a_session_is_told_click_by_click_with_what_it_hit(visit: Callable[..., Visitor]) -> None:
    visitor = visit()
    visitor.open_shop()
    visitor.click_item(0)
    visitor.click_recommended(4)
    visitor.click_item(7)
    page = visitor.page
    page.get_by_role("link", name="See it in full").click()
    expect(page.locator(".moment")).to_have_count(3)
    verdicts = page.locator(".moment .verdict")
    expect(verdicts.nth(0)).to_have_text("first click")
    expect(verdicts.nth(1)).to_contain_text("had been shown at 4")
    ring = page.locator(".moment").nth(0).locator(".shown .is-hit")
    expect(ring).to_have_count(1)
    expect(ring.locator(".shown-rank")).to_have_text("4")
    page.get_by_role("button", name="What the worker has stored of it").click()
    expect(page.get_by_label("What the worker has stored")).to_contain_text("Last offset applied")


def test_a_session_that_nobody_knows_is_said_to_be_unknown_and_why(
    visit: Callable[..., Visitor],
) -> None:
    visitor = visit(may_complain=True)  # a browser notes each 404 on its console
    page = visitor.open("sessions")
    expect(page.locator(".notice")).to_contain_text("Pick a session")
    page.get_by_label("Session id").fill("never/was here?")
    page.get_by_role("button", name="Look up").click()
    expect(page.locator(".notice.is-error")).to_contain_text(
        "No session is called “never/was here?”"
    )
    assert {line for line in visitor.complaints if "404" not in line} == set()


def test_a_token_is_asked_for_until_it_is_right_and_kept_for_the_tab(
    visit: Callable[..., Visitor], stack: Stack
) -> None:
    with GatewayThread(stack.settings, token="correct-horse-battery") as guarded:
        visitor = visit(may_complain=True, origin=f"http://127.0.0.1:{guarded.port}")
        page = visitor.open("playground")
        dialog = page.get_by_role("dialog")
        expect(dialog).to_contain_text("asks for a token")
        page.get_by_label("Token", exact=True).fill("wrong-horse-battery-staple")
        page.keyboard.press("Enter")
        expect(dialog).to_contain_text("not the right one")
        page.get_by_label("Token", exact=True).fill("correct-horse-battery")
        page.keyboard.press("Enter")
        page.locator(".card").first.wait_for()
        page.reload()
        page.locator(".card").first.wait_for()
        expect(dialog).to_be_hidden()
        assert {line for line in visitor.complaints if "401" not in line} == set()


def test_a_gateway_that_goes_away_is_missed_and_found_again(
    visit: Callable[..., Visitor], stack: Stack
) -> None:
    gateway = GatewayThread(stack.settings)
    with gateway:
        visitor = visit(may_complain=True, origin=f"http://127.0.0.1:{gateway.port}")
        page = visitor.open_shop()
        expect(page.locator(".pulse")).to_have_attribute("data-state", "open")
    expect(page.locator(".pulse")).to_contain_text("no connection")
    page.locator(".card button").first.click()
    notice = page.locator(".notice.is-error")
    expect(notice).to_contain_text("does not answer")
    expect(notice).to_contain_text("nextclick gateway")
    again = GatewayThread(stack.settings)
    again.settings = gateway.settings  # on the same port
    again.port = gateway.port
    with again:
        expect(page.locator(".pulse")).to_have_attribute("data-state", "open")
        notice.get_by_role("button", name="Try again").click()
        expect(page.locator(".next-list li")).not_to_have_count(0)
        expect(page.locator(".step")).to_have_count(1)
