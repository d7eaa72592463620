"""A viewer's own view: its pause, the last 30 seconds, reduced motion, a locked server, a server that restarts."""

import pytest
from playwright.sync_api import Browser, Page

from tests.support.serving.browser import IN_A_BROWSER, opened, stepped_to, tab, until
from tests.support.serving.inprocess import MemoryRegistry, Serving, serving
from tests.support.serving.policies import ACROBOT, SWINGS, linear_model

pytestmark = IN_A_BROWSER
STEP = "Number(document.querySelector('.readouts .step').textContent)"


def test_a_viewers_pause_stops_its_picture_and_not_the_show(page: Page, stepped: Serving) -> None:
    opened(page, stepped)
    stepped_to(page, stepped, 5)
    first = page.evaluate("page.frame.k")
    page.keyboard.press(" ")
    stepped_to(page, stepped, 20)
    assert page.evaluate(STEP) == first
    assert page.evaluate("[page.frame.k, page.status.paused]") == [first + 20, False], "the show goes on"
    page.locator("#back").press("ArrowRight")
    until(page, f"{STEP} === {first + 1}")
    page.locator("#hold").click()
    stepped_to(page, stepped, 1)
    until(page, f"{STEP} === {first + 2}", 10)
    assert page.locator("#behind").inner_text().endswith(" s ago"), "it plays on from there"
    page.get_by_role("button", name="Live").click()
    until(page, f"{STEP} === {first + 21}")
    assert page.locator("#now").is_disabled()


def test_the_last_thirty_seconds_can_be_seen_again_and_a_push_is_made_live(page: Page, stepped: Serving) -> None:
    opened(page, stepped)
    stepped_to(page, stepped, 30)
    last = page.evaluate("page.frame.k")
    page.locator("#back").fill("-12")
    until(page, f"{STEP} === {last - 12}")
    assert page.locator("#back").get_attribute("aria-valuetext") == page.locator("#behind").inner_text()
    page.locator("#push-right").click()
    until(page, f"{STEP} === {last}")
    kept = page.evaluate(
        """async () => {
            const { OwnTime } = await import("/static/panels/time.js");
            const time = new OwnTime({ changed() {} });
            const now = performance.now.bind(performance);
            const ends = [];
            for (const seconds of [0, 10, 20, 31, 45]) {
                performance.now = () => 1e6 + 1000 * seconds;
                time.take({ e: 1, k: seconds });
                ends.push(time.frames.map(({ k }) => k));
            }
            performance.now = now;
            return ends.slice(-2);
        }"""
    )
    assert kept == [[10, 20, 31], [20, 31, 45]]


def test_a_pushs_arrow_ends_with_its_episode(page: Page, stepped: Serving) -> None:
    opened(page, stepped)
    drawn = page.evaluate(
        """async () => {
            const { lately } = await import("/static/draw/cartpole.js");
            const pushes = [{ step: 3, force: 60 }];
            return [lately(pushes, 3), lately(pushes, 4), lately(pushes, 15), lately(pushes, 16), lately([], 4)];
        }"""
    )
    assert drawn == [0, 60, 60, 0, 0]
    stepped_to(page, stepped, 3)
    page.keyboard.press("ArrowRight")
    page.keyboard.press("r")
    until(page, "page.status.episode >= 1")
    stepped_to(page, stepped, 3)
    recent = page.evaluate("[...new Set(page.time.recent(300).map(({ e }) => e))]")
    assert recent == [page.evaluate("page.frame.e")], "what is drawn is of one episode"


def test_less_motion_is_shown_where_it_is_asked_for(browser: Browser, shown: Serving) -> None:
    page = browser.new_page(reduced_motion="reduce")
    opened(page, shown)
    until(page, "page.frames > 20")
    first = page.evaluate(STEP)
    until(page, "page.frames > 40")
    assert page.evaluate(STEP) == first
    page.get_by_role("button", name="Play", exact=True).first.click()
    until(page, f"{STEP} > {first}")
    page.close()


def test_a_locked_server_says_so_and_its_token_unlocks(browser: Browser) -> None:
    page = browser.new_page()
    with serving(token="right") as server:
        opened(page, server)
        page.get_by_text("This server is locked").wait_for()
        assert page.locator("#push-left").is_disabled()
        assert page.locator("#word-reverse").is_disabled()
        page.locator("#token").fill("wrong")
        page.get_by_role("button", name="Unlock").click()
        page.locator("#toast", has_text="needs the server's token").wait_for()
        assert page.locator("#push-left").is_disabled()
        page.locator("#token").fill("right")
        page.get_by_role("button", name="Unlock").click()
        page.locator("#toast", has_text="Unlocked").wait_for()
        assert page.locator("#token-form").is_hidden()
        page.locator("#push-left").click()
        until(page, "page.status.pushes.length === 1")
        page.reload(wait_until="domcontentloaded")
        until(page, "page.status && page.authorized")
        assert page.locator("#token-form").is_hidden(), "the token is remembered while the tab is open"
        page.close()


@pytest.mark.parametrize("mode", ["pixels", "compare", "another environment", "locked"])
def test_every_mode_goes_on_after_the_server_restarts(browser: Browser, mode: str) -> None:
    def registry() -> MemoryRegistry | None:
        other = linear_model(SWINGS, properties=ACROBOT, actions=3)
        return MemoryRegistry(other, champion="1") if mode == "another environment" else None

    token = "right" if mode == "locked" else None
    page = browser.new_page()
    with serving(registry(), token=token) as server:
        opened(page, server)
        port = int(server.url.rsplit(":", 1)[1])
        if mode == "compare":
            page.goto(f"{server.url}/?compare=champion,challenger", wait_until="domcontentloaded")
            until(page, "window.page?.frame?.s.length === 2")
        if mode == "pixels":
            page.keyboard.press("g")
        if mode in ("pixels", "another environment"):
            until(page, "document.querySelector('.pixels').naturalWidth > 0")
        if mode == "locked":
            page.locator("#token").fill("right")
            page.get_by_role("button", name="Unlock").click()
            until(page, "page.authorized")
    until(page, "document.querySelector('#link').dataset.state === 'gone'")
    frames, streams = page.evaluate("[page.frames, page.streams]")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    with serving(registry(), port=port, token=token):
        until(page, f"page.frames > {frames + 5} && page.streams === {streams} + 1")
        assert page.evaluate("page.frame.s.length") == (2 if mode == "compare" else 1)
        if mode in ("pixels", "another environment"):
            until(page, "document.querySelector('.pixels').naturalWidth > 0")
            assert any("live.mjpeg" in url for url in asked), "the stream of pictures is asked for anew"
        if mode == "locked":
            until(page, "page.authorized && !document.querySelector('#push-left').disabled")
        page.close()


def test_the_page_works_where_storage_is_denied(browser: Browser, shown: Serving) -> None:
    page = browser.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.add_init_script(
        """for (const name of ["localStorage", "sessionStorage"]) {
            Object.defineProperty(window, name, { get() { throw new DOMException("denied", "SecurityError"); } });
        }"""
    )
    opened(page, shown)
    until(page, "page.frames > 10")
    assert page.locator("#challenge-best").inner_text() == "\N{EN DASH}"
    assert errors == []
    page.close()


def test_compared_players_have_the_same_scales(page: Page, shown: Serving) -> None:
    page.goto(f"{shown.url}/?compare=champion,2", wait_until="domcontentloaded")
    until(page, "window.page?.frame?.s.length === 2")
    tab(page, "What it thinks")
    until(page, "page.frame.k > 5 && document.querySelectorAll('.preference .axis').length === 2")
    page.wait_for_timeout(100)
    ends = page.evaluate("[...document.querySelectorAll('.preference .axis')].map((axis) => axis.textContent)")
    assert ends[0] == ends[1] != "00"


def test_the_server_tells_what_it_undoes_in_the_panel_of_what_happened(page: Page, stepped: Serving) -> None:
    opened(page, stepped)
    said = page.evaluate(
        """async () => {
            const { LoopPanel } = await import("/static/panels/loop.js");
            const loop = { title: "", state: "calm", entries: [], hint: "", trouble: "", now: Date.now() / 1000 };
            const panel = new LoopPanel();
            const place = document.querySelector("#loop-undoing");
            const shown = [];
            for (const undoing of [undefined, { text: "playing with the motor's sign undone", rehearsed: 500 }, null]) {
                panel.show({ loop: { ...loop, undoing } });
                shown.push(place.checkVisibility() && place.textContent);
            }
            return shown;
        }"""
    )
    assert said == [False, "playing with the motor's sign undone", False]


def test_a_browser_gets_a_page_where_there_is_nothing_and_a_way_back(browser: Browser, shown: Serving) -> None:
    page = browser.new_page()
    answer = page.request.get(f"{shown.url}/api/episodes/0123456789abcdef.html")
    assert (answer.status, answer.json()["error"][:16]) == (404, "there is no repl")
    page.goto(f"{shown.url}/api/episodes/0123456789abcdef.html", wait_until="domcontentloaded")
    assert page.locator("h1").inner_text() == "There is nothing here"
    assert "a server keeps its newest 50, and" in page.locator("main").inner_text()
    page.get_by_role("link", name="To the live page").click()
    until(page, "window.page?.frames > 0")
    assert page.url == f"{shown.url}/"
    replay = shown.post("/api/episodes", json={"seed": 1}).json()
    page.goto(f"{shown.url}{replay['files']['html']}", wait_until="domcontentloaded")
    page.get_by_role("link", name="To the live pole").click()
    until(page, "window.page?.frames > 0")
    page.close()
