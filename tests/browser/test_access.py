"""For everybody: by keyboard alone, on a phone, in dark and light, without motion, and from nowhere else."""

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from tests.browser.browsing import PAGES, PHONE, Visitor

CONTRAST_MIN, CONTRAST_OF_LARGE_MIN = 4.5, 3.0
TARGET_MIN = 24
"""CSS pixels that a pointer target measures at least (WCAG 2.2, 2.5.8)."""

FAINT_TEXTS = """([least, leastOfLarge]) => {
  const pixel = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (colour) => {
    pixel.clearRect(0, 0, 1, 1);
    pixel.fillStyle = colour;
    pixel.fillRect(0, 0, 1, 1);
    return [...pixel.getImageData(0, 0, 1, 1).data];
  };
  const luminance = (rgb) => {
    const [r, g, b] = rgb.map((v) => v / 255).map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const over = (top, below) => top.slice(0, 3).map((v, i) => v * top[3] / 255 + below[i] * (1 - top[3] / 255));
  const behind = (element) => {
    const layers = [];
    for (let at = element; at; at = at.parentElement) {
      const colour = rgba(getComputedStyle(at).backgroundColor);
      if (colour[3]) layers.push(colour);
      if (colour[3] === 255) break;
    }
    return layers.reverse().reduce((below, layer) => over(layer, below), [255, 255, 255]);
  };
  const faint = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.textContent.trim();
    const element = walker.currentNode.parentElement;
    if (!text || !element.checkVisibility({ opacityProperty: true, visibilityProperty: true })) continue;
    if (element.closest("script, noscript, .visually-hidden, .skip-link, [disabled]")) continue;
    const style = getComputedStyle(element);
    const ink = element instanceof SVGElement ? style.fill : style.color;
    const ground = behind(element);
    const [a, b] = [luminance(over(rgba(ink), ground)), luminance(ground)].sort((x, y) => y - x);
    const size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    const contrast = (a + 0.05) / (b + 0.05);
    if (contrast < (large ? leastOfLarge : least)) faint.push(`${contrast.toFixed(2)} ${text.slice(0, 40)}`);
  }
  return [faint, walker.root.innerText.length];
}"""

SMALL_TARGETS = """(least) => [...document.querySelectorAll("a, button, input")]
  .filter((element) => element.checkVisibility() && !element.closest(".skip-link, p"))
  .map((element) => [element, element.getBoundingClientRect()])
  .filter(([, box]) => box.width < least || box.height < least)
  .map(([element, box]) => `${element.outerHTML.slice(0, 80)} ${box.width}x${box.height}`)"""


def _settled(visitor: Visitor, name: str) -> Page:
    """A page with something on it; a visitor's own pages after two clicks."""
    if name in {"playground", "sessions"}:
        visitor.open_shop()
        visitor.click_item(0)
        visitor.click_recommended(2)
    if name == "playground":
        return visitor.page
    page = visitor.open(f"sessions/{visitor.session_id}" if name == "sessions" else name)
    ready = {"live": ".by-model", "models": "canvas.map", "sessions": ".moment"}[name]
    page.locator(ready).first.wait_for()
    return page


@pytest.mark.parametrize("name", PAGES)
def test_every_text_can_be_read_in_light_and_in_dark(
    name: str, visit: Callable[..., Visitor]
) -> None:
    page = _settled(visit(reduced_motion="reduce"), name)
    papers = set()
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        papers.add(page.evaluate("getComputedStyle(document.documentElement).backgroundColor"))
        faint, length = page.evaluate(FAINT_TEXTS, [CONTRAST_MIN, CONTRAST_OF_LARGE_MIN])
        assert length > 200, "there is something to read"
        assert faint == [], scheme
    assert len(papers) == 2, "dark is not light"


@pytest.mark.parametrize("name", PAGES)
def test_a_phone_shows_all_of_it_without_scrolling_sideways(
    name: str, visit: Callable[..., Visitor]
) -> None:
    page = _settled(visit(**PHONE), name)
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    assert page.evaluate(SMALL_TARGETS, TARGET_MIN) == []
    bar = page.locator(".tabs").bounding_box()
    assert bar is not None
    assert bar["y"] + bar["height"] == pytest.approx(740, abs=1), "the tabs stay under the thumb"


def test_a_new_list_begins_at_its_first_item_on_a_phone_too(visit: Callable[..., Visitor]) -> None:
    visitor = visit(**PHONE)
    page = visitor.open_shop()
    visitor.click_item(0)
    visitor.click_recommended(8)  # scrolled to
    expect(page.locator(".next-item").first).to_be_in_viewport(ratio=1)


def test_all_of_it_works_by_keyboard_and_one_sees_where_one_is(
    visit: Callable[..., Visitor],
) -> None:
    page = visit().open_shop()

    def press(key: str, until: str, most: int = 80) -> None:
        """Press it until an element matches that has the focus; each one on the way shows that it has."""
        for _ in range(most):
            page.keyboard.press(key)
            outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
            assert outline not in {"none", ""}, page.evaluate("document.activeElement.outerHTML")
            if page.evaluate("(css) => document.activeElement.matches(css)", until):
                return
        raise AssertionError(f"{until} is not reached by {key}")

    press("Tab", ".skip-link", most=1)
    expect(page.locator(".skip-link")).to_be_in_viewport()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    press("Tab", ".card button")
    page.keyboard.press("Enter")
    page.locator(".next-item").first.wait_for()
    expect(page.locator(".card button").first).to_be_focused()
    press("Shift+Tab", ".search")
    page.keyboard.type("teapot")
    press("Tab", ".next-item")
    page.keyboard.press("Space")
    expect(page.locator(".step")).to_have_count(2)
    expect(page.locator(".next.is-waiting")).to_have_count(0)
    assert page.evaluate("document.activeElement.matches('.next-item')"), "one goes on in the list"

    press("Shift+Tab", ".tabs a[href='#/live']", most=200)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Live", exact=True)).to_be_focused()
    page.locator(".by-model").wait_for()
    press("Tab", "svg.plot")
    page.keyboard.press("ArrowLeft")
    expect(page.locator(".tip:not([hidden])")).to_have_count(1)

    press("Shift+Tab", ".tabs a[href='#/models']")
    page.keyboard.press("Enter")
    page.locator("canvas.map").wait_for()
    press("Tab", "canvas.map")
    for key in ("ArrowRight", "ArrowDown", "+", "Enter"):
        page.keyboard.press(key)
        if key == "+":
            page.keyboard.press("ArrowLeft")
    page.locator(".chosen").wait_for()


def test_what_changes_is_said_to_those_who_do_not_see_it(visit: Callable[..., Visitor]) -> None:
    visitor = visit()
    page = visitor.open_shop()
    visitor.click_item(0)
    visitor.click_recommended(1)
    expect(page.locator("[role=status].visually-hidden")).to_contain_text("shown at 1")
    expect(page).to_have_title("Playground · nextclick")
    assert page.locator("main h1").count() == 1
    assert page.locator("button:not([type])").count() == 1, "the token's form"
    for role in ("banner", "navigation", "main"):
        expect(page.get_by_role(role).first).to_be_attached()


def test_nothing_moves_for_those_who_asked_for_no_motion(visit: Callable[..., Visitor]) -> None:
    still = visit(reduced_motion="reduce")
    still.open_shop()
    still.click_item(0)
    still.click_item(3)
    assert still.page.evaluate("document.getAnimations().length") == 0
    still.open("live")
    still.page.locator(".by-model").wait_for()
    assert still.page.evaluate("document.getAnimations().length") == 0


def test_the_colours_that_were_chosen_are_kept(visit: Callable[..., Visitor]) -> None:
    page = visit(color_scheme="light").open_shop()

    def paper() -> str:
        colour: str = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
        return colour

    light = paper()
    button = page.locator("#theme")
    button.click()
    assert paper() == light
    button.click()
    dark = paper()
    assert dark != light
    expect(button).to_have_accessible_name("Colours: dark")
    page.reload()
    assert paper() == dark
    button.click()
    assert paper() == light
