"""The page for everybody: names, contrast, landmarks, focus and touch, as axe-core and WCAG 2.2 AA ask for them."""

import time
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, ViewportSize

from tests.support.serving.browser import IN_A_BROWSER, opened, until
from tests.support.serving.inprocess import Serving, serving, two_versions
from tests.support.serving.milestones import FILES
from tests.support.serving.policies import BALANCES, FALLS, linear_model
from tests.support.serving.trainings import population, running

pytestmark = IN_A_BROWSER
LAPTOP: ViewportSize = {"width": 1280, "height": 800}
PHONE: ViewportSize = {"width": 390, "height": 844}
VIEWS = [(LAPTOP, "light"), (LAPTOP, "dark"), (PHONE, "light"), (PHONE, "dark")]


@pytest.fixture(scope="module")
def learned() -> Iterator[Serving]:
    """A server whose page has every tab."""
    registry = two_versions()
    registry.files_of_learning = FILES
    registry.running = [running(f"900 {time.time() + 10_000:.0f}")]  # for as long as these tests take
    registry.populations["r"] = population(*[linear_model(FALLS)] * 15, linear_model(BALANCES))
    with serving(registry) as server:
        yield server


@pytest.fixture(params=VIEWS, ids=lambda view: f"{view[0]['width']}-{view[1]}")
def viewed(browser: Browser, learned: Serving, request: pytest.FixtureRequest) -> Iterator[Page]:
    viewport, scheme = request.param
    page = browser.new_page(viewport=viewport, color_scheme=scheme)
    opened(page, learned)
    until(page, "!document.querySelector('#tab-learning').hidden")
    yield page
    page.close()


def in_every_tab(page: Page, expression: str) -> dict[str, object]:
    """The value of an expression while each tab is shown."""
    found = {}
    for tab in page.get_by_role("tab").all():
        tab.click()
        page.wait_for_timeout(50)
        found[tab.inner_text()] = page.evaluate(expression)
    assert len(found) == 6
    return found


CONTROLS = "[...document.querySelectorAll('a[href], button, input, select')].filter((e) => e.checkVisibility())"
COLOURS = """
    const channel = (c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4);
    const parsed = (text) => text.match(/[\\d.]+/g).map(Number);
    const luminance = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
    const contrast = (a, b) => {
        const [low, high] = [luminance(a), luminance(b)].sort((x, y) => x - y);
        return (high + 0.05) / (low + 0.05);
    };
    const behind = (element) => {
        for (let each = element; each; each = each.parentElement) {
            const colour = parsed(getComputedStyle(each).backgroundColor);
            if (colour.length === 3 || colour[3] > 0) return colour;
        }
        return [255, 255, 255];
    };
"""


def test_every_control_has_a_name_in_the_accessibility_tree(viewed: Page) -> None:
    for tab in viewed.get_by_role("tab").all():
        tab.click()
        session = viewed.context.new_cdp_session(viewed)
        nodes = session.send("Accessibility.getFullAXTree")["nodes"]
        kinds = {"button", "slider", "textbox", "combobox", "checkbox", "radio", "link", "tab", "tabpanel", "image"}
        shown = [node for node in nodes if not node.get("ignored") and node["role"]["value"] in kinds]
        assert len(shown) > 30 if tab.inner_text() == "Time and physics" else len(shown) > 15
        assert [node["role"]["value"] for node in shown if not node.get("name", {}).get("value")] == []


def test_text_has_a_contrast_of_four_and_a_half_and_borders_of_three(viewed: Page) -> None:
    weak = in_every_tab(
        viewed,
        "(() => {" + COLOURS + "const found = [];"
        """
        for (const element of document.querySelectorAll("body *")) {
            if (!element.checkVisibility() || element.closest(":disabled, .hidden, .skip, .fell")) continue;
            const style = getComputedStyle(element);
            const written = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
            const pale = written && contrast(parsed(style.color), behind(element)) < 4.5;
            const others = "[role=tab], [type=range], [type=checkbox], [type=radio]";
            const bordered = element.matches(`:is(button, select, input):not(${others})`);
            const around = behind(element.parentElement);
            const seen = Math.max(contrast(behind(element), around), contrast(parsed(style.borderTopColor), around));
            if (pale || (bordered && seen < 3)) found.push(element.outerHTML.slice(0, 90));
        }
        return found;
    })()""",
    )
    assert {name: found for name, found in weak.items() if found} == {}


def test_there_is_one_main_and_one_heading_and_everything_is_in_a_landmark(viewed: Page) -> None:
    assert viewed.locator("main").count() == viewed.locator("h1").count() == 1
    assert viewed.evaluate("document.documentElement.lang") == "en"
    outside = viewed.evaluate(
        """[...document.querySelectorAll("body *")].filter((element) => element.checkVisibility()
            && [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim())
            && !element.closest("header, main, footer, [role=alert], [role=status], .skip, noscript"))
            .map((element) => element.outerHTML.slice(0, 90))"""
    )
    assert outside == []
    ids = viewed.evaluate("[...document.querySelectorAll('[id]')].map(({ id }) => id)")
    assert len(ids) == len(set(ids))


def test_the_focus_is_seen_and_goes_down_the_page(browser: Browser, learned: Serving) -> None:
    page = browser.new_page(viewport=LAPTOP, reduced_motion="reduce")
    opened(page, learned)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    order = []
    for _ in range(30):
        page.keyboard.press("Tab")
        name, outline, visible = page.evaluate(
            """() => {
                const element = document.activeElement;
                const drawn = element.matches(".segments input") ? element.nextElementSibling : element;
                const { outlineStyle, outlineWidth } = getComputedStyle(drawn);
                const { top, bottom } = element.getBoundingClientRect();
                const seen = bottom > 0 && top < innerHeight;
                return [element.id || element.textContent, `${outlineStyle} ${outlineWidth}`, seen];
            }"""
        )
        if page.evaluate("document.activeElement === document.body"):
            break
        assert (name, outline, visible) == (name, "solid 3px", True)
        order.append(name)
    first = ["hold", "back", "now", "full", "push-left", "strength", "push-right", "challenge-restart", "word-reverse"]
    assert [name for name in order if name in first] == first
    page.close()


def test_the_pole_and_what_can_be_done_to_it_are_above_the_fold(viewed: Page) -> None:
    height = viewed.viewport_size["height"]  # type: ignore[index]
    for part in ("canvas.picture", "#hold", "#back", "#push-left", "#push-right", "#word-reverse", "#world-right"):
        box = viewed.locator(part).bounding_box()
        assert box
        assert box["y"] >= 0
        assert box["y"] + box["height"] <= height, part
    if height == PHONE["height"]:
        viewed.locator("#tab-controls").click()
        viewed.locator("#world-gravity").scroll_into_view_if_needed()
        for part in ("canvas.picture", "#push-left"):
            box = viewed.locator(part).bounding_box()
            assert box
            assert 0 <= box["y"] <= box["y"] + box["height"] <= height, f"{part} stays while the page is scrolled"


def test_targets_on_a_phone_have_44_pixels(browser: Browser, learned: Serving) -> None:
    page = browser.new_page(viewport=PHONE)
    opened(page, learned)
    learned.post("/api/episodes", json={"seed": 3})
    page.reload(wait_until="domcontentloaded")
    until(page, "document.querySelectorAll('#replays a').length && !document.querySelector('#tab-learning').hidden")
    small = in_every_tab(
        page,
        f"{CONTROLS}.filter((e) => !e.matches('.skip')).map((e) => [e.id || e.textContent, e.getBoundingClientRect()])"
        ".filter(([, { width, height }]) => width < 44 || height < 43.5)"
        ".map(([name, { width, height }]) => `${name} ${width} ${height}`)",
    )
    assert {name: found for name, found in small.items() if found} == {}
    page.close()


def test_the_scripts_of_the_page_stay_small(browser: Browser, learned: Serving) -> None:
    page = browser.new_page()
    sizes: dict[str, int] = {}
    page.on("response", lambda answer: sizes.update({answer.url: len(answer.body())}) if ".js" in answer.url else None)
    opened(page, learned)
    assert len(sizes) > 10
    assert sum(sizes.values()) <= 60_000
    page.close()
