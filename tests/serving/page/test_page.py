"""The page in a browser: its picture of the show, its keys, and connecting to a server."""

import re
from pathlib import Path

import numpy as np
import pytest
from gymnasium.envs.classic_control.cartpole import CartPoleEnv
from playwright.sync_api import Browser, Page

from tests.support.serving.browser import IN_A_BROWSER, opened, stepped_to, tab, until, until_true
from tests.support.serving.inprocess import MODEL, MemoryRegistry, Serving, serving
from tests.support.serving.policies import BALANCES, PROPERTIES, linear_model

pytestmark = IN_A_BROWSER


def test_every_step_is_shown(page: Page, stepped: Serving) -> None:
    opened(page, stepped)
    episode, first = page.evaluate("[page.frame.e, page.frame.k]")
    stepped_to(page, stepped, 8)
    assert page.evaluate("[page.frame.e, page.frame.k]") == [episode, first + 8]
    assert page.locator(".readouts .step").inner_text() == str(first + 8)
    assert page.locator(".readouts .return").inner_text() == str(first + 8)


def test_a_push_moves_the_pole(page: Page, stepped: Serving) -> None:
    opened(page, stepped)
    stepped_to(page, stepped, 3)
    step, before = page.evaluate("[page.frame.k, page.frame.s[0][1]]")
    page.keyboard.press("ArrowRight")
    show = stepped.app.live.stage.main if stepped.app.live else None
    assert show
    until_true(page, lambda: show._push == 60)
    stepped_to(page, stepped, 1)
    until(page, "page.status.pushes.length === 1")
    assert page.evaluate("page.status.pushes[0]") == {"step": step, "force": 60}
    assert page.evaluate("page.frame.s[0][1]") - before > 0.6, "60 N on 1.1 kg for 0.02 s, and an action of 10 N"


def test_a_click_beside_the_cart_pushes_from_there(page: Page, stepped: Serving) -> None:
    opened(page, stepped)
    stepped_to(page, stepped, 2)
    show = stepped.app.live.stage.main if stepped.app.live else None
    assert show
    picture = page.locator("canvas.picture").bounding_box()
    assert picture
    for share, force in ((0.25, 60), (0.75, -60)):
        page.locator("canvas.picture").click(position={"x": share * picture["width"], "y": picture["height"] / 2})
        until_true(page, lambda force=force: show._push == force)  # type: ignore[misc]
        stepped_to(page, stepped, 1)


def test_keys_pause_step_and_change_speed(page: Page, stepped: Serving) -> None:
    opened(page, stepped)
    stepped_to(page, stepped, 2)
    page.keyboard.press("p")
    until(page, "page.status.paused")
    before = page.evaluate("page.frame.k")
    stepped.step(5)
    page.keyboard.press(".")
    show = stepped.app.live.stage.main if stepped.app.live else None
    assert show
    until_true(page, lambda: show._single)
    stepped.step(5)
    until(page, f"page.frame.k === {before} + 1")
    tab(page, "Time and physics")
    page.get_by_role("radio", name=re.compile("^2.$")).click()
    until(page, "page.status.speed === 2")
    page.get_by_role("radio", name=re.compile("^1.$")).click()
    page.locator("#seed").fill("123")
    page.keyboard.press("Enter")
    until_true(page, lambda: show._restart)
    stepped.step(1)
    page.get_by_role("button", name="Play for everybody P").click()
    until(page, "!page.status.paused && page.status.seed === 123 && page.status.speed === 1")


def test_keys_work_outside_of_controls_and_only_while_shortcuts_are_on(page: Page, stepped: Serving) -> None:
    opened(page, stepped)
    page.evaluate("""() => {
        page.sent = [];
        const { socket } = page.link;
        const send = socket.send.bind(socket);
        socket.send = (text) => { page.sent.push(JSON.parse(text).do); send(text); };
    }""")
    for repeat in ("false", "true", "true"):  # R, held
        event = f"new KeyboardEvent('keydown', {{key: 'r', repeat: {repeat}, bubbles: true}})"
        page.evaluate(f"document.body.dispatchEvent({event})")
    assert page.evaluate("page.sent") == ["reset"]
    tab(page, "Time and physics")
    page.get_by_role("radio", name=re.compile("^1.$")).focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate("page.sent") == ["reset", "speed"], "an arrow chooses in a group, it does not push"
    page.locator("#shortcuts").uncheck()
    page.locator("h1").click()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("r")
    assert page.evaluate("page.sent") == ["reset", "speed"]


@pytest.mark.parametrize(
    ("state", "ending"), [((2.39, 3.0, 0.0, 0.0), "Left the track"), ((0.0, 0.0, 0.2, 3.0), "Fell")]
)
def test_the_end_of_an_episode_is_named(page: Page, stepped: Serving, state: tuple[float, ...], ending: str) -> None:
    opened(page, stepped)
    stepped_to(page, stepped, 2)
    assert stepped.app.live
    cartpole = stepped.app.live.stage.main.players[0].simulation.env.unwrapped
    assert isinstance(cartpole, CartPoleEnv)
    cartpole.state = np.array(state)
    steps = page.evaluate("page.frame.k")
    stepped_to(page, stepped, 1)
    assert page.locator(".ending").inner_text() == f"{ending} after {steps + 1} steps"


def test_colours_are_looked_up_once(page: Page, stepped: Serving) -> None:
    opened(page, stepped)
    stepped_to(page, stepped, 3)
    page.evaluate("""() => {
        page.looked = 0;
        const look = window.getComputedStyle;
        window.getComputedStyle = (...of) => { page.looked += 1; return look(...of); };
    }""")
    stepped_to(page, stepped, 10)
    assert page.evaluate("page.looked") == 0


def test_it_fits_a_phone_and_works_by_keyboard(browser: Browser, shown: Serving) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 844}, color_scheme="dark")
    opened(page, shown)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    seen = set()
    for _ in range(7):  # more than there are tabs
        for _ in range(40):
            page.keyboard.press("Tab")
            seen.add(page.evaluate("document.activeElement.id"))
        page.locator("[role=tab][aria-selected=true]").focus()
        page.keyboard.press("ArrowRight")
        seen.add(page.evaluate("document.activeElement.id"))
    assert {"hold", "back", "push-left", "push-right", "word-reverse", "challenge-restart"} <= seen
    assert {"pause", "step", "seed", "first", "keep", "shortcuts", "world-gravity"} <= seen
    assert "tab-controls" in seen
    page.close()


def test_a_lost_connection_is_shown_and_restored(browser: Browser) -> None:
    page = browser.new_page()
    with serving() as server:
        opened(page, server)
        port = int(server.url.rsplit(":", 1)[1])
    until(page, "document.querySelector('#link').dataset.state === 'gone'")
    page.mouse.wheel(0, 2000)
    assert page.locator("#gone").bounding_box()["y"] == 0, "it is seen wherever the page is scrolled to"  # type: ignore[index]
    for control in ("#push-left", "#word-reverse", "#challenge-restart"):
        assert page.locator(control).is_disabled()
    frames = page.evaluate("page.frames")
    with serving(port=port):
        until(page, f"page.frames > {frames} && document.querySelector('#link').dataset.state === 'live'")
        assert page.locator("#gone").is_hidden()
        assert page.locator("#push-left").is_enabled()
        page.close()


def test_the_show_begins_when_a_champion_is_promoted(
    browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # without the Makefile
    page = browser.new_page()
    registry = MemoryRegistry(linear_model(BALANCES))
    with serving(registry, ready=False) as server:
        until_true(page, lambda: "no alias 'champion'" in server.models.notice)
        assert server.get("/v2/health/live").status_code == 200
        assert server.get("/v2/health/ready").status_code == 503
        page.goto(server.url, wait_until="domcontentloaded")
        page.wait_for_selector("#nothing", state="visible")
        assert page.locator("#nothing-command").inner_text() == "python -m flows train"
        assert page.locator("#notice").is_hidden(), "what is wrong is said once"
        registry.aliases["champion"] = "1"
        until(page, "window.page?.frames > 5")
        assert page.locator("#nothing").is_hidden()
        assert page.locator("#compare").is_hidden(), "there is one version, and nothing to compare it with"
        assert server.get("/v2/health/ready").status_code == 200
        assert server.get(f"/v2/models/{MODEL}/versions/champion").json()["name"] == MODEL
        page.close()


def test_an_episode_that_lasts_as_long_as_its_environment_lets_it_has_not_fallen(page: Page) -> None:
    short = linear_model(BALANCES, properties=PROPERTIES | {"env_id": "CartPole-v0"})
    with serving(MemoryRegistry(short, champion="1"), stepped=True) as server:
        opened(page, server)
        page.keyboard.press("ArrowRight")
        stepped_to(page, server, 2)
        server.step(198)
        until(page, "page.frame.o[0] && !page.dirty")
        assert page.evaluate("page.frame.r[0]") == 200
        assert page.locator(".ending").inner_text() == "Balanced to the end"
        assert page.locator("#challenge-result").inner_text() == "It stood to the end and took 60 N."
        page.goto("about:blank")


def test_a_file_that_is_refused_advises_no_training(browser: Browser) -> None:
    page, registry = browser.new_page(), MemoryRegistry(b"no model", champion="1")
    registry.name = "broken"
    with serving(registry, ready=False) as server:
        until_true(page, lambda: "was refused" in server.models.notice)
        page.goto(server.url, wait_until="domcontentloaded")
        page.wait_for_selector("#nothing", state="visible")
        assert "not a loadable ONNX model" in page.locator("#nothing").inner_text()
        assert page.locator("#nothing-advice").is_hidden()
        page.close()
