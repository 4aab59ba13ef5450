"""The playground, clicked through: a click goes through Kafka, and its answer is what the page shows."""

from collections.abc import Callable

from playwright.sync_api import expect

from tests.browser.browsing import Visitor
from tests.browser.stack import FIRST_MODEL, HOSTILE_TITLE, Stack
from tests.integration.processes import wait_until

LISTED = 20


def test_each_click_is_answered_by_the_model_and_the_page_shows_that_very_list(
    visit: Callable[..., Visitor], stack: Stack
) -> None:
    visitor = visit()
    page = visitor.open_shop()
    expect(page.locator(".next-empty")).to_be_visible()
    visitor.click_item(1)
    first = visitor.listed()
    assert len(first) == LISTED
    visitor.click_item(4)
    second = visitor.listed()
    assert second != first

    answer = stack.ask(f"/v1/sessions/{visitor.session_id}/recommendations")["recommendation"]
    assert [item["item_id"] for item in answer["items"]] == second
    chip = page.locator(".next-facts .chip")
    expect(chip).to_have_attribute("title", answer["model_version"])
    expect(page.locator(".next-latency").first).to_contain_text("ms")


def test_a_click_on_what_was_shown_is_marked_with_its_rank_and_the_gateway_agrees(
    visit: Callable[..., Visitor], stack: Stack
) -> None:
    visitor = visit()
    page = visitor.open_shop()
    visitor.click_item(0)
    expect(page.locator(".step-verdict").last).to_contain_text("first")
    visitor.click_recommended(3)
    expect(page.locator(".step.is-hit")).to_have_count(1)
    expect(page.locator(".step-verdict").last).to_contain_text("shown at 3")
    expect(page.locator(".trail-score")).to_contain_text("1 of 1")

    def judged() -> list[int]:
        told = stack.ask(f"/v1/sessions/{visitor.session_id}")["clicks"]
        return [click["judged"]["rank"] for click in told if click["judged"]]

    wait_until("both clicks are judged", judged)
    assert judged() == [3]


def test_items_of_the_shop_that_are_on_the_list_carry_their_rank(
    visit: Callable[..., Visitor],
) -> None:
    visitor = visit()
    page = visitor.open_shop()
    page.locator(".more").click()
    page.locator(".more").click()
    visitor.click_item(2)
    ranks = {item: str(rank) for rank, item in enumerate(visitor.listed(), 1)}
    marked = page.locator(".card.is-shown")
    assert marked.count() > 0
    for card in marked.all():
        badge = card.locator(".badge").inner_text().split()[-1]
        assert badge == ranks[card.get_attribute("data-id") or ""]


def test_movements_on_the_list_are_the_difference_of_two_lists(
    visit: Callable[..., Visitor],
) -> None:
    visitor = visit()
    page = visitor.open_shop()
    visitor.click_item(0)
    before = visitor.listed()
    visitor.click_item(5)
    after = visitor.listed()
    for rank, (item, row) in enumerate(
        zip(after, page.locator(".next-list li").all(), strict=True), 1
    ):
        move = row.locator(".move").inner_text().split()
        if item not in before:
            assert move == ["new"]
        else:
            steps = before.index(item) + 1 - rank
            assert move[-1] == ("stays" if steps == 0 else str(abs(steps)))


def test_the_shop_is_narrowed_by_department_category_and_words(
    visit: Callable[..., Visitor], stack: Stack
) -> None:
    visitor = visit()
    page = visitor.open_shop()
    categories = {
        item["item_id"]: item["category"] for item in stack.ask("/v1/items?limit=500")["items"]
    }

    def shown() -> set[str]:
        ids = page.locator(".card").evaluate_all("cards => cards.map((card) => card.dataset.id)")
        return {categories[item] for item in ids}

    page.get_by_role("button", name="Kitchen", exact=True).click()
    assert {category.split(" > ")[0] for category in shown()} == {"Kitchen"}
    page.get_by_role("button", name="Teapot", exact=True).click()
    assert shown() == {"Kitchen > Teapot"}
    page.get_by_role("button", name="Everything").click()
    page.get_by_label("Search the shop").fill("frying")
    assert shown() == {"Kitchen > Frying pan"}
    page.get_by_label("Search the shop").fill("no such thing")
    expect(page.locator(".card")).to_have_count(0)
    expect(page.locator(".found")).to_contain_text("Nothing here is called")


def test_a_reload_goes_on_with_the_same_visit_and_somebody_new_begins_another(
    visit: Callable[..., Visitor],
) -> None:
    visitor = visit()
    page = visitor.open_shop()
    visitor.click_item(0)
    visitor.click_recommended(2)
    session_id, listed = visitor.session_id, visitor.listed()
    page.reload()
    expect(page.locator(".step")).to_have_count(2)
    assert visitor.session_id == session_id
    assert visitor.listed() == listed
    page.get_by_role("button", name="Be somebody new").click()
    expect(page.locator(".step")).to_have_count(0)
    assert visitor.session_id != session_id


def test_a_title_that_looks_like_markup_is_shown_as_text(visit: Callable[..., Visitor]) -> None:
    visitor = visit()
    page = visitor.open_shop()
    page.get_by_label("Search the shop").fill("onerror")
    card = page.locator(".card")
    expect(card).to_have_count(1)
    expect(card).to_contain_text(HOSTILE_TITLE)
    assert card.locator("img, b").count() == 0
    visitor.click_item(0)
    expect(page.locator(".step")).to_have_attribute("title", f"{HOSTILE_TITLE}: first")


def test_a_visit_is_seen_by_everybody_who_looks_at_the_live_model(
    visit: Callable[..., Visitor], stack: Stack
) -> None:
    """The model that answers is the one that the releases topic names."""
    assert stack.ask("/v1/models")["live"]["model_version"] == FIRST_MODEL
    visitor = visit()
    page = visitor.open_shop()
    visitor.click_item(0)
    expect(page.locator(".next-facts .chip")).to_have_attribute("title", FIRST_MODEL)
