import base64
import re
import shutil
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from gymnasium.envs.classic_control.cartpole import CartPoleEnv
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from dqn.environments.world import World
from serving.episodes.limits import Push
from serving.episodes.recording import to_html
from serving.episodes.replay import record
from serving.episodes.simulation import Simulation
from serving.policy import OnnxPolicy
from tests.support.serving.browser import becomes, until
from tests.support.serving.inprocess import MODEL, MemoryRegistry, Serving, serving, two_versions
from tests.support.serving.milestones import FILES
from tests.support.serving.policies import ACROBOT, BALANCES, PROPERTIES, SWINGS, linear_model

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium (.ci/run does)"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    errors: list[str] = []
    page = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme="light")
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    yield page
    page.close()
    assert [error for error in errors if "WebSocket" not in error] == []


@pytest.fixture
def shown(page: Page) -> Iterator[Serving]:
    """A champion that balances and a challenger that falls, in a show of this test's own that plays by the clock."""
    with serving() as running:
        yield running
        page.goto("about:blank")  # or losing the server would be an error on the page


@pytest.fixture
def stepped(page: Page) -> Iterator[Serving]:
    """The same, step by step."""
    with serving(stepped=True) as running:
        yield running
        page.goto("about:blank")


def until_true(page: Page, condition: Callable[[], bool], seconds: float = 60) -> None:
    """Wait for something on the server's side, while the page goes on."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        page.wait_for_timeout(10)


def opened(page: Page, server: Serving) -> Page:
    page.goto(server.url, wait_until="domcontentloaded")
    until(page, "window.page?.frames > 0")
    return page


def stepped_to(page: Page, server: Serving, steps: int) -> None:
    """Take steps one by one, each of which the page has drawn before the next one is taken."""
    for _ in range(steps):
        seen = page.evaluate("page.frames")
        server.step()
        until(page, f"page.frames > {seen} && !page.dirty")


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


def test_keys_pause_step_and_change_speed(page: Page, stepped: Serving) -> None:
    opened(page, stepped)
    stepped_to(page, stepped, 2)
    page.keyboard.press(" ")
    until(page, "page.status.paused")
    before = page.evaluate("page.frame.k")
    stepped.step(5)
    page.keyboard.press(".")
    show = stepped.app.live.stage.main if stepped.app.live else None
    assert show
    until_true(page, lambda: show._single)
    stepped.step(5)
    until(page, f"page.frame.k === {before} + 1")
    page.get_by_role("radio", name=re.compile("^2.$")).click()
    until(page, "page.status.speed === 2")
    page.get_by_role("radio", name=re.compile("^1.$")).click()
    page.locator("#seed").fill("123")
    page.keyboard.press("Enter")
    until_true(page, lambda: show._restart)
    stepped.step(1)
    page.get_by_role("button", name="Play space").click()
    until(page, "!page.status.paused && page.status.seed === 123 && page.status.speed === 1")


def test_keys_do_what_they_are_for_and_only_there(page: Page, stepped: Serving) -> None:
    opened(page, stepped)
    page.evaluate("""() => {
        page.sent = [];
        const send = page.socket.send.bind(page.socket);
        page.socket.send = (text) => { page.sent.push(JSON.parse(text).do); send(text); };
    }""")
    for repeat in ("false", "true", "true"):  # R, held
        event = f"new KeyboardEvent('keydown', {{key: 'r', repeat: {repeat}, bubbles: true}})"
        page.evaluate(f"document.body.dispatchEvent({event})")
    assert page.evaluate("page.sent") == ["reset"]
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
def test_an_ending_is_called_what_it_was(page: Page, stepped: Serving, state: tuple[float, ...], ending: str) -> None:
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


def test_what_it_sees_is_shown_where_it_is_asked_for(page: Page, stepped: Serving) -> None:
    opened(page, stepped)
    stepped.step(30)
    rows = {"inputs": [{"name": "observation", "shape": [4, 4], "datatype": "FP32", "data": [0.0, 0.0, 0.3, 0.0] * 4}]}
    assert stepped.post(f"/v2/models/{MODEL}/infer", json=rows).status_code == 200
    assert page.locator("#inputs-sources").is_hidden()
    page.locator("#inputs > summary").click()
    page.locator("#inputs-sources section").nth(1).wait_for()
    shown, requests = page.locator("#inputs-sources section").all()
    assert "In the show: " in shown.inner_text()
    assert re.search(r"In requests: 4 observations\s+100% outside", requests.inner_text())
    assert "Actions: left 0%, right 100%" in requests.inner_text()
    assert shown.locator(".inputs-entry").count() == 4


def test_the_world_is_broken_by_a_word_and_by_a_slider_and_put_right_again(page: Page, shown: Serving) -> None:
    opened(page, shown)
    page.get_by_role("button", name="Reverse the motor").click()
    until(page, "page.status.world.force_mag === -10")
    until(page, "document.querySelector('#world-force_mag').value === '-10'")
    page.get_by_role("button", name="Strong motor").click()
    until(page, "page.status.world.force_mag === -30")
    page.get_by_role("button", name="Bend the sensor by 5°").click()
    until(page, "Math.abs(page.frame.b[0]?.[2] - page.frame.s[0][2] - 0.0873) < 1e-3")
    page.locator("#world-words ~ details summary").click()
    page.locator("#world-gravity").fill("15")
    until(page, "page.status.world.gravity === 15")
    page.get_by_role("button", name="Bend the sensor by 5°").click()
    until(page, "!page.status.world.sensor_bias")
    page.get_by_role("button", name="Put it right again").click()
    until(page, "JSON.stringify([page.status.world, page.status.changed]) === '[{},{}]'")
    assert page.locator("#world-words [aria-pressed=true]").count() == 0


def test_a_drift_is_said_and_the_adaptation_can_be_followed(page: Page, shown: Serving) -> None:
    opened(page, shown)
    assert page.locator("#loop").is_hidden()
    page.get_by_role("button", name="Reverse the motor").click()
    until(page, "document.querySelector('#loop-title').textContent === 'Drift: the motor answers the other way'")
    assert page.locator("#loop-timeline strong").all_inner_texts() == ["Changed", "Noticed"]
    assert "make stack" in page.locator("#loop-alone").inner_text()
    drift = shown.get("/api/adaptation").json()["drift"]["id"]

    def report(stage: str, **more: object) -> None:
        assert shown.post("/api/adaptation", json={"drift": drift, "stage": stage, **more}).status_code == 200

    report("started", text="eager-otter", links={"flow run": "http://127.0.0.1:4200/runs/1"})
    report("training", progress=0.25)
    until(page, "document.querySelector('#loop-timeline progress')?.value === 0.25")
    assert page.locator("#loop-timeline a").get_attribute("href") == "http://127.0.0.1:4200/runs/1"
    assert re.match(r"\+\d+(\.\d)? s", page.locator("#loop-timeline .after").last.inner_text())
    report("recovered", text="<b>500</b>")
    until(page, "document.querySelector('#loop-title').textContent.startsWith('Healed. The motor answers')")
    assert page.locator("#loop-timeline li.good .text").inner_text() == "<b>500</b>"


def test_compare_shows_two_versions_under_one_seed(page: Page, shown: Serving) -> None:
    opened(page, shown)
    page.locator("#first").select_option("champion")
    page.locator("#second").select_option("2")
    page.get_by_role("button", name="Compare").click()
    until(page, "page.frame?.s.length === 2")
    assert page.url.endswith("/?compare=champion,2")
    page.goto(page.url, wait_until="domcontentloaded")  # as somebody who was sent the link
    until(page, "page.frame?.s.length === 2")
    until(page, "page.frame.o[1] && !page.frame.o[0]")  # the challenger falls, the champion does not
    assert page.locator(".player .version").all_inner_texts() == ["Version 1", "Version 2"]
    assert page.locator(".player .aliases").all_inner_texts() == ["champion", "challenger"]
    page.get_by_role("button", name="One alone").click()
    until(page, "page.frame?.s.length === 1 && page.status.players.length === 1")


def test_the_preference_is_drawn_true_to_its_axis(page: Page, stepped: Serving) -> None:
    opened(page, stepped)
    stepped_to(page, stepped, 5)
    said, ends, share, gap, action = page.evaluate(
        """() => {
            const meter = document.querySelector(".preference");
            const bar = meter.querySelector(".bar").getBoundingClientRect();
            const filled = meter.querySelector("i").getBoundingClientRect();
            const left = filled.left < bar.left + bar.width / 2 - 1;
            const ends = [...meter.querySelectorAll(".axis span")].map((end) => Number(end.textContent));
            const [first, second] = page.frame.q[0];
            const share = (left ? -1 : 1) * filled.width / (bar.width / 2);
            return [document.querySelector(".action").textContent, ends, share, second - first, page.frame.a[0]];
        }"""
    )
    assert ends[0] == ends[2] > 0
    assert ends[1] == 0
    assert share * ends[2] == pytest.approx(gap, abs=ends[2] / 100)
    words, amount = said.rsplit(" ", 1)
    assert words == f"prefers {['left', 'right'][action]} by"
    assert float(amount) == pytest.approx(abs(gap), rel=0.1)


def test_what_a_q_value_is_can_be_asked(page: Page, shown: Serving) -> None:
    opened(page, shown)
    assert page.locator("#about-q").is_hidden()
    page.get_by_role("button", name="What is a Q-value?").click()
    assert page.locator("#about-q").is_visible()
    page.keyboard.press("Escape")
    assert page.locator("#about-q").is_hidden()


def test_the_challenge_counts_pushes_and_shares_the_episode(page: Page, shown: Serving) -> None:
    opened(page, shown)
    for _ in range(5):  # a busy machine may press when the episode is over
        page.keyboard.press("r")
        until(page, "page.frame.k > 5 && page.frame.k < 60 && !page.status.pushes.length")
        page.keyboard.press("ArrowRight")
        if becomes(page, "document.querySelector('#challenge-spent').textContent === '60 N'", 10):
            break
    until(page, "document.querySelector('#challenge-survived').textContent === '60 N'")
    page.locator("#strength").fill("200")
    page.locator("#push-left").click()
    until(page, "document.querySelector('#challenge-result').textContent.startsWith('Down with 260 N')")
    assert page.locator("#challenge-best").inner_text() == "260 N"
    link = str(page.locator("#challenge-link").get_attribute("href"))
    seed, steps = page.evaluate("[page.status.seed, page.frame.k]")
    assert re.search(rf"\?seed={seed}&version=1&pushes=\d+%3A60%2C\d+%3A-200$", link)
    page.goto(link, wait_until="domcontentloaded")
    page.wait_for_url("**/api/episodes/*.html")
    assert f"seed {seed}: return {steps}" in page.title()


def test_how_it_learned_is_shown_milestone_by_milestone(page: Page) -> None:
    registry = two_versions()
    registry.files_of_learning = FILES
    with serving(registry) as server:
        opened(page, server)
        page.get_by_text("See it learn").click()
        text = page.locator("#milestone-text")
        text.filter(has_text=re.compile(r"^Untrained: falls after \d+ steps; mean return 9.5$")).wait_for()
        until(page, "document.querySelector('#learning-picture').width >= 600")
        page.locator("#milestone").press("End")
        text.filter(has_text=re.compile("^The version that plays: stands to the end$")).wait_for()
        page.locator("#milestone").press("ArrowLeft")
        text.filter(has_text=re.compile("^After 300 updates: .*mean return 480$")).wait_for()
        page.goto("about:blank")


def test_gymnasiums_pixels_can_be_watched(page: Page, shown: Serving) -> None:
    opened(page, shown)
    page.keyboard.press("g")
    until(page, "document.querySelector('.pixels').naturalWidth === 600")
    page.keyboard.press("g")
    page.wait_for_selector("canvas.picture", state="visible")


def test_a_replay_is_kept_and_plays_offline(page: Page, shown: Serving, champion: OnnxPolicy, tmp_path: Path) -> None:
    opened(page, shown)
    page.get_by_role("button", name="Play and keep").click()
    page.locator("#replays li", has_text=re.compile(r"Version 1, seed 0: return \d+")).wait_for()
    replay = record(champion, model="m", version="1", seed=1, pushes=[Push(step=9, force=60)])
    (tmp_path / "replay.html").write_bytes(to_html(replay))
    page.context.set_offline(True)
    page.goto((tmp_path / "replay.html").as_uri(), wait_until="domcontentloaded")
    until(page, "Number(document.querySelector('#step').textContent) > 20")
    page.context.set_offline(False)


def test_it_fits_a_phone_and_works_by_keyboard(browser: Browser, shown: Serving) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 844}, color_scheme="dark")
    opened(page, shown)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    seen = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        seen.add(page.evaluate("document.activeElement.id"))
    assert {"push-left", "push-right", "pause", "step", "seed", "word-reverse", "first", "keep"} <= seen
    page.close()


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
        """async ([state, length]) => {
            const { drawCartPole } = await import("/static/cartpole.js");
            const canvas = document.createElement("canvas");
            drawCartPole(canvas, state, { length });
            return canvas.toDataURL("image/png");
        }""",
        [list(state), length],
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
        """async () => {
            const { drawCartPole } = await import("/static/cartpole.js");
            const canvas = document.createElement("canvas");
            drawCartPole(canvas, [0, 0, 0, 0], { length: 2 });
            const pixels = canvas.getContext("2d").getImageData(300, 0, 1, 400).data;
            const brown = (row) => pixels[4 * row] === 202;
            return [[...Array(10).keys()].some(brown), [...Array(30).keys()].some(brown)];
        }"""
    )
    assert (above, tip) == (False, True)


def test_a_lost_server_is_said_and_found_again(browser: Browser) -> None:
    page = browser.new_page()
    with serving() as server:
        opened(page, server)
        port = int(server.url.rsplit(":", 1)[1])
    until(page, "document.querySelector('#link').dataset.state === 'gone'")
    with serving(port=port):
        until(page, "document.querySelector('#link').dataset.state === 'live'")
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


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (None, "60", "Down with 60 N: your best so far."),
        ("100", "60", "Down with 60 N: your best so far."),
        ("60", "60", "Down with 60 N."),
        ("40", "40", "Down with 60 N."),
    ],
)
def test_a_record_is_the_least_that_felled_it(
    page: Page, stepped: Serving, before: str | None, after: str, said: str
) -> None:
    opened(page, stepped)
    found = page.evaluate(
        """async (before) => {
            const { Challenge } = await import("/static/challenge.js");
            const key = "felled m 1";
            if (before) localStorage.setItem(key, before);
            const status = { model: "m", players: [{ version: "1" }], changes: [], seed: 1 };
            const frame = { e: 99, k: 9, o: [true], r: [9], s: [[0, 0, 0.3, 0]] };
            new Challenge({}).take(frame, { ...status, pushes: [{ step: 2, force: -60 }] });
            const best = document.querySelector("#challenge-best").textContent;
            const found = [localStorage.getItem(key), document.querySelector("#challenge-result").textContent, best];
            localStorage.removeItem(key);
            return found;
        }""",
        before,
    )
    assert found == [after, said, f"{after} N"]


def test_of_what_a_moving_slider_asks_for_only_the_latest_is_sent(page: Page, stepped: Serving) -> None:
    opened(page, stepped)
    sent = page.evaluate(
        """async () => {
            const { WorldPanel } = await import("/static/world.js");
            const sent = [], answers = [];
            const api = (path, { body }) => {
                sent.push(JSON.parse(body));
                return new Promise((answer) => answers.push(answer));
            };
            const panel = new WorldPanel({ api, toast() {} });
            const slider = document.querySelector("#world-length");
            const move = (value) => {
                slider.value = value;
                slider.dispatchEvent(new Event("input"));
            };
            [0.6, 0.7, 0.8].forEach(move);
            const first = sent.length;
            answers.shift()();
            while (answers.length === 0) await new Promise((next) => setTimeout(next));
            answers.shift()();
            while (panel.busy) await new Promise((next) => setTimeout(next));
            return [first, ...sent.map(({ length }) => length)];
        }"""
    )
    assert sent == [1, 0.6, 0.8]


@pytest.mark.parametrize(
    ("url", "linked"),
    [
        ("https://a/b", True),
        ("http://a", True),
        ("javascript:alert(1)", False),
        ("ftp://a", False),
        ("data:text/html,x", False),
        (" https:a", False),
    ],
)
def test_only_addresses_of_the_web_are_linked_in_the_timeline(
    page: Page, stepped: Serving, url: str, linked: bool
) -> None:
    opened(page, stepped)
    links = page.evaluate(
        """async (url) => {
            const loop = await import("/static/loop.js");
            const panel = Object.values(loop).find((each) => each.prototype?.item);
            const entry = { stage: "started", name: "Started", text: "", at: 1, links: { run: url } };
            const item = panel.prototype.item.call({ entries: [] }, entry);
            return [...item.querySelectorAll("a")].map((link) => link.getAttribute("href"));
        }""",
        url,
    )
    assert links == ([url] if linked else [])
