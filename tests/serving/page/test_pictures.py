"""Pictures in a browser: the canvas, frames that Gymnasium renders, and replays."""

import base64
import re
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from gymnasium.envs.classic_control.cartpole import CartPoleEnv
from PIL import Image
from playwright.sync_api import Page

from dqn.environments.world import World
from serving.episodes.limits import Push
from serving.episodes.recording import to_html
from serving.episodes.replay import record
from serving.episodes.simulation import Simulation
from serving.policy import OnnxPolicy
from tests.support.serving.browser import IN_A_BROWSER, opened, tab, until
from tests.support.serving.inprocess import MemoryRegistry, Serving, serving
from tests.support.serving.policies import ACROBOT, SWINGS, linear_model

pytestmark = IN_A_BROWSER
GYMNASIUMS = {
    "background": "#ffffff", "track": "#000000", "cart": "#000000", "pole": "rgb(202 152 101)",
    "axle": "rgb(129 132 203)", "guide": "transparent", "push": "transparent",
}  # fmt: skip


def test_gymnasiums_pixels_can_be_watched(page: Page, shown: Serving) -> None:
    opened(page, shown)
    page.keyboard.press("g")
    until(page, "document.querySelector('.pixels').naturalWidth === 600")
    page.keyboard.press("g")
    page.wait_for_selector("canvas.picture", state="visible")


def test_a_replay_is_kept_and_plays_offline(page: Page, shown: Serving, champion: OnnxPolicy, tmp_path: Path) -> None:
    opened(page, shown)
    tab(page, "Replays")
    page.get_by_role("button", name="Play and keep").click()
    page.locator("#replays li", has_text=re.compile(r"Version 1, seed 0: return \d+")).wait_for()
    replay = record(champion, model="m", version="1", seed=1, pushes=[Push(step=9, force=60)])
    (tmp_path / "replay.html").write_bytes(to_html(replay))
    page.context.set_offline(True)
    page.goto((tmp_path / "replay.html").as_uri(), wait_until="domcontentloaded")
    until(page, "Number(document.querySelector('#step').textContent) > 20")
    page.context.set_offline(False)


def test_another_environment_is_watched_by_gymnasiums_pictures(page: Page) -> None:
    acrobot = linear_model(SWINGS, properties=ACROBOT, actions=3)
    with serving(MemoryRegistry(acrobot, champion="1")) as server:
        opened(page, server)
        until(page, "document.querySelector('.pixels').naturalWidth === 500")
        names = page.locator(".preference .row .name:first-child").all_inner_texts()
        assert names == ["torque -1", "no torque", "torque +1"]
        assert "best" in page.locator(".preference .chosen").inner_text()
        hidden = page.locator("#push-left, #world-words, #compare, #challenge, #pixels").all()
        assert [control.is_visible() for control in hidden] == [False] * 5
        assert "Acrobot-v1 is shown as Gymnasium renders it" in page.locator("#watch-only").inner_text()
        page.keyboard.press("ArrowRight")
        tab(page, "Replays")
        page.get_by_role("button", name="Play and keep").click()
        page.wait_for_selector("#replays li")
        assert page.locator("#toast").is_hidden(), "a key that pushes is no mistake here, it does nothing"
        assert page.locator("#viewers").inner_text() == "1 viewer"
        page.goto(f"{server.url}/{page.locator('#replays a').first.get_attribute('href')}")
        until(page, "Number(document.querySelector('#step').textContent) > 5")
        assert page.evaluate("document.querySelector('#picture').width") == 500
        page.goto("about:blank")  # or losing the server would be an error on the page


@pytest.mark.parametrize("state", [(0.0, 0, 0.0, 0), (1.3, 0, 0.18, 0), (-2.0, 0, -0.2, 0), (0.37, 0, 0.05, 0)])
@pytest.mark.parametrize("length", [0.5, 1.0])
def test_the_canvas_is_gymnasiums_picture(page: Page, shown: Serving, state: tuple[float, ...], length: float) -> None:
    """At most 1 % of the pixels may differ by more than 64 of 255, and none of them deeper than 2 pixels.

    Pygame rounds corners to whole pixels and the canvas does not: edges may lie one pixel apart, shapes may not.
    """
    simulation = Simulation("CartPole-v1", render_mode="rgb_array")
    simulation.reset(0)
    simulation.change(World(length=length))
    assert isinstance(simulation.env.unwrapped, CartPoleEnv)
    simulation.env.unwrapped.state = np.array(state)
    expected = simulation.render().astype(int)
    page.goto(shown.url, wait_until="domcontentloaded")
    data = page.evaluate(
        """async ([state, length, colours]) => {
            const { drawCartPole } = await import("/static/draw/cartpole.js");
            const canvas = document.createElement("canvas");
            drawCartPole(canvas, state, { length, colours });
            return canvas.toDataURL("image/png");
        }""",
        [list(state), length, GYMNASIUMS],
    )
    with Image.open(BytesIO(base64.b64decode(data.split(",")[1]))) as picture:
        drawn = np.asarray(picture.convert("RGB")).astype(int)
    assert drawn.shape == expected.shape
    wrong = np.abs(drawn - expected).max(axis=2) > 64
    assert wrong.mean() < 0.01
    thick = wrong.copy()  # what survives an erosion by two pixels in both directions is no edge
    for axis in (0, 1):
        for _ in range(2):
            thick &= np.roll(thick, 1, axis=axis)
    assert not thick.any()


def test_a_long_pole_stays_in_the_picture(page: Page, shown: Serving) -> None:
    page.goto(shown.url, wait_until="domcontentloaded")
    above, tip = page.evaluate(
        """async (colours) => {
            const { drawCartPole } = await import("/static/draw/cartpole.js");
            const canvas = document.createElement("canvas");
            drawCartPole(canvas, [0, 0, 0, 0], { length: 2, colours });
            const pixels = canvas.getContext("2d").getImageData(300, 0, 1, 400).data;
            const brown = (row) => pixels[4 * row] === 202;
            return [[...Array(10).keys()].some(brown), [...Array(30).keys()].some(brown)];
        }""",
        GYMNASIUMS,
    )
    assert (above, tip) == (False, True)
