"""The panels beside the picture, in a browser."""

import re

import pytest
from playwright.sync_api import Page

from tests.support.serving.browser import IN_A_BROWSER, becomes, opened, stepped_to, tab, until
from tests.support.serving.inprocess import MODEL, Serving, serving, two_versions
from tests.support.serving.milestones import FILES

pytestmark = IN_A_BROWSER


def test_the_inputs_panel_shows_what_the_policy_was_given(page: Page, stepped: Serving) -> None:
    opened(page, stepped)
    stepped.step(30)
    rows = {"inputs": [{"name": "observation", "shape": [4, 4], "datatype": "FP32", "data": [0.0, 0.0, 0.3, 0.0] * 4}]}
    assert stepped.post(f"/v2/models/{MODEL}/infer", json=rows).status_code == 200
    assert page.locator("#inputs-sources").is_hidden()
    tab(page, "What it sees")
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
    page.get_by_role("button", name="Sensor off by 5°").click()
    until(page, "Math.abs(page.frame.b[0]?.[2] - page.frame.s[0][2] - 0.0873) < 1e-3")
    tab(page, "Time and physics")
    page.locator("#world-gravity").fill("15")
    until(page, "page.status.world.gravity === 15")
    page.get_by_role("button", name="Sensor off by 5°").click()
    until(page, "!page.status.world.sensor_bias")
    page.get_by_role("button", name="Put it right again").click()
    until(page, "JSON.stringify([page.status.world, page.status.changed]) === '[{},{}]'")
    assert page.locator("#world-words [aria-pressed=true]").count() == 0


def test_a_drift_and_the_stages_of_its_adaptation_are_shown(page: Page, shown: Serving) -> None:
    opened(page, shown)
    assert page.locator("#loop-title").inner_text() == "All is as it was trained for"
    before = page.locator("#push-left").bounding_box(), page.locator("#word-reverse").bounding_box()
    page.get_by_role("button", name="Reverse the motor").click()
    until(page, "document.querySelector('#loop-title').textContent === 'Noticed: the motor answers the other way'")
    assert page.locator("#loop-timeline strong").all_inner_texts() == ["The world was changed", "The server noticed"]
    assert "make stack" in page.locator("#loop-hint").inner_text()
    until(
        page,
        """document.querySelector('#loop-undoing').textContent.startsWith("Playing with the motor's sign undone")""",
    )
    drift = shown.get("/api/adaptation").json()["drift"]["id"]

    def report(stage: str, **more: object) -> None:
        assert shown.post("/api/adaptation", json={"drift": drift, "stage": stage, **more}).status_code == 200

    report("started", text="eager-otter", links={"flow run": "http://127.0.0.1:4200/runs/1"})
    report("training", progress=0.25)
    until(page, "document.querySelector('#loop-timeline progress')?.value === 0.25")
    assert page.locator("#loop-timeline a").get_attribute("href") == "http://127.0.0.1:4200/runs/1"
    assert re.match(r"\+\d+(\.\d)? s", page.locator("#loop-timeline .after").last.inner_text())
    report("recovered", text="<b>500</b>", world={"force_mag": -10})
    until(page, "document.querySelector('#loop-title').textContent.startsWith('Healed. The motor answers')")
    assert page.locator("#loop-timeline li.good .text").inner_text() == "<b>500</b>"
    after = page.locator("#push-left").bounding_box(), page.locator("#word-reverse").bounding_box()
    assert after == before, "nothing moves under the pointer"


def test_compare_shows_two_versions_under_one_seed(page: Page, shown: Serving) -> None:
    opened(page, shown)
    tab(page, "Versions")
    page.locator("#first").select_option("champion")
    page.locator("#second").select_option("2")
    page.get_by_role("button", name="Compare").click()
    until(page, "page.frame?.s.length === 2")
    assert page.url.endswith("/?compare=champion,2")
    page.goto(page.url, wait_until="domcontentloaded")  # the link opens the same comparison
    until(page, "page.frame?.s.length === 2")
    until(page, "page.frame.o[1] && !page.frame.o[0]")  # the challenger falls, the champion does not
    assert page.locator(".player .version").all_inner_texts() == ["Version 1", "Version 2"]
    assert page.locator(".player .aliases").all_inner_texts() == ["champion", "challenger"]
    tab(page, "Versions")
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


def test_an_action_that_is_not_allowed_has_no_bar_and_no_line(page: Page, shown: Serving) -> None:
    opened(page, shown)
    rows, said, single, lines, end = page.evaluate(
        """async () => {
            const { axisOf, Preference, sample } = await import("./static/draw/charts.js");
            const root = document.createElement("div");
            const preference = new Preference(root, ["a", "b", "c"]);
            const least = -3.4028234663852886e38;
            const said = preference.show([1, least, 3], 2, 2);
            const rows = [...root.querySelectorAll(".row")].map((row) =>
                [row.querySelector("i").style.transform, row.lastChild.textContent]);
            const single = preference.show([least, least, 3], 2, 2);
            const samples = [sample([1, least, 3]), sample([1, least])];
            return [rows, said, single, samples.map(({ lines }) => lines), axisOf(samples)];
        }"""
    )
    assert rows == [["scaleX(1)", "\u22122"], ["scaleX(0)", "not allowed"], ["scaleX(0)", "best"]]
    assert (said, single) == ("prefers c by 2", "only c is allowed")
    assert (lines, end) == ([[-2, None, 0], [None]], 2)


def test_q_values_and_returns_are_explained_where_they_are_shown(page: Page, shown: Serving) -> None:
    opened(page, shown)
    tab(page, "What it thinks")
    assert "s estimate of the future reward if it takes an action now" in page.locator("#thoughts").inner_text()
    assert "A return is the sum of an episode" in page.locator("#thoughts").inner_text()
    box = page.locator("#thoughts").bounding_box()
    picture = page.locator("canvas.picture").bounding_box()
    assert box
    assert picture
    assert box["y"] >= picture["y"] + picture["height"], "help does not cover the cart"


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
    page.keyboard.press("r")
    until(page, "page.frame.k < 60 && !page.status.pushes.length")
    assert page.locator("#challenge-link").is_visible(), "result and link stay"
    assert page.locator("#challenge-best a").get_attribute("href") == link
    page.goto(link, wait_until="domcontentloaded")
    page.wait_for_url("**/api/episodes/*.html")
    assert f"seed {seed}: return {steps}" in page.title()


def test_learning_is_shown_milestone_by_milestone(page: Page) -> None:
    registry = two_versions()
    registry.files_of_learning = FILES
    with serving(registry) as server:
        opened(page, server)
        tab(page, "See it learn")
        shown = page.locator("#learning-strip figcaption")
        shown.nth(2).get_by_text("stands to the end").wait_for()
        first, second, last = shown.all_inner_texts()
        assert re.fullmatch(r"Untrained\s+falls after \d+ steps\s+mean return 9.5", first)
        assert re.fullmatch(r"After 300 updates\s+(falls after \d+ steps|stands to the end)\s+mean return 480", second)
        assert re.fullmatch(r"The version that plays\s+stands to the end\s*", last)
        until(page, "document.querySelectorAll('#learning-strip .fell').length === 1")
        assert page.locator("#learning-strip figure").first.get_attribute("class") == "fell"
        page.goto("about:blank")


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (None, "60", "Down with 60 N: your best so far."),
        ("100", "60", "Down with 60 N: your best so far."),
        ("60", "60", "Down with 60 N."),
        ("40", "40", "Down with 60 N."),
    ],
)
def test_the_best_result_is_the_smallest_force_that_felled_the_pole(
    page: Page, stepped: Serving, before: str | None, after: str, said: str
) -> None:
    opened(page, stepped)
    found = page.evaluate(
        """async (before) => {
            const { Challenge } = await import("/static/panels/challenge.js");
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


def test_only_the_latest_value_of_a_moving_slider_is_sent(page: Page, stepped: Serving) -> None:
    opened(page, stepped)
    sent = page.evaluate(
        """async () => {
            const { WorldPanel } = await import("/static/panels/world.js");
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
            const { line } = await import("/static/panels/loop.js");
            const item = line({ name: "Started", text: "", kind: "", progress: null, links: { run: url } });
            return [...item.querySelectorAll("a")].map((link) => link.getAttribute("href"));
        }""",
        url,
    )
    assert links == ([url] if linked else [])
