"""The site of `make site`: every page opens without an error, none asks for anything outside, and agents learn."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import numpy as np
import onnx
import pytest
from playwright.sync_api import Page

from dqn.cards.layers import read_layers
from dqn.evaluation.returns import episodic_returns
from serving.policy import OnnxPolicy
from tests.dqn.cards.test_card import exported
from tests.support.serving.browser import IN_A_BROWSER, until
from tests.support.serving.policies import BALANCES

pytestmark = IN_A_BROWSER

ROOT: Final = Path(__file__).parents[2]
SECONDS: Final = 200


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("site")
    model = directory / "policy.onnx"
    model.write_bytes(exported("CartPole-v1", hidden=(), gains=BALANCES))
    command = (sys.executable, ROOT / "docs/site/make_site.py", "--model", model, "--output", directory / "pages")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "open it in a browser" in done.stdout
    return directory / "pages"


def test_every_page_opens_and_every_link_leads_to_a_file(lonely: Page, site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert {"index.html", "champion.html", "README.html"} <= {path.name for path in pages}
    assert len(pages) >= 12
    for path in pages:
        lonely.goto(path.as_uri(), wait_until="load")
        assert lonely.title()
        broken = "[...document.images].filter((image) => !image.naturalWidth).map((image) => image.src)"
        assert lonely.evaluate(broken) == [], path
        links = lonely.evaluate("[...document.links].map((link) => link.getAttribute('href'))")
        for link in {link.partition("#")[0] for link in links if not re.match(r"\w+:", link)} - {""}:
            assert (path.parent / link).exists(), f"{path.name} links to {link}"
        assert lonely.evaluate("document.documentElement.scrollWidth <= innerWidth"), path
        lonely.set_viewport_size({"width": 390, "height": 844})
        assert lonely.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{path} on a phone"
        lonely.set_viewport_size({"width": 1280, "height": 800})
    lonely.goto("about:blank")


def test_agents_learn_and_one_is_taken_home(lonely: Page, site: Path, tmp_path: Path) -> None:
    page = lonely
    page.goto((site / "index.html").as_uri(), wait_until="domcontentloaded")
    assert page.locator(".agent").count() == 16
    page.locator("#knob-agents").fill("2")
    page.locator("#knob-seed").fill("5")
    assert "train again" in page.locator("#hint").inner_text()
    page.get_by_role("button", name="Train again").click()
    assert page.locator(".agent").count() == 2
    assert len(page.locator("#happening p").all()) == 5
    assert "Each of the 2 agents has a network of 1,282 numbers" in page.locator("#happening").inner_text()
    until(page, "ended > 0", SECONDS)
    assert page.locator(".agent.solved").count() == 2
    assert page.locator("#accepted").inner_text() == "2 of 2 accepted"
    page.locator(".agent").nth(1).click()
    assert page.locator("#chosen").inner_text() == "Agent 1: push it, break its world"
    until(page, "document.querySelector('.returns li') !== null")
    page.locator(".agent").nth(0).click()
    assert page.locator(".returns li").count() == 0, "returns of another agent"
    assert page.locator(".note", has_text="No episode has ended yet.").count() == 1
    page.locator(".agent").nth(1).click()
    page.locator("#knob-seed").fill("6")  # for the next training
    with page.expect_download() as taken:
        page.get_by_role("button", name="as policy.onnx").click()
    model = Path(taken.value.path()).read_bytes()
    assert taken.value.suggested_filename == "policy.onnx"
    onnx.checker.check_model(onnx.load_model_from_string(model), full_check=True)
    policy, layers = OnnxPolicy.load(model), read_layers(model)
    assert layers is not None
    assert layers.sizes == [4, 32, 32, 2]
    properties = {each.key: each.value for each in onnx.load_model_from_string(model).metadata_props}
    assert (properties["seed"], properties["agent"]) == ("5", "1")
    seen = np.random.default_rng(0).normal(size=(200, 4)).astype(np.float32)
    in_the_page = page.evaluate("rows => rows.map(row => [...qValues(population[1].policy, row)])", seen.tolist())
    np.testing.assert_allclose(policy.q_values(seen), in_the_page, rtol=1e-5, atol=1e-5)
    returns = episodic_returns(policy.act, "CartPole-v1", num_episodes=100, seed=0)
    assert returns.mean() > 490, "an accepted agent balances in unseen episodes of Gymnasium too"
    with page.expect_download() as taken:
        page.get_by_role("button", name="Take it home as a page").click()
    taken.value.save_as(tmp_path / "policy.html")
    page.goto((tmp_path / "policy.html").as_uri(), wait_until="domcontentloaded")
    until(page, "shown.episode().steps > 10")
    assert page.locator("h1").inner_text() == "CartPole-v1, agent 1 of the lab"
    assert "It was accepted" in page.locator(".about").inner_text()
    again = page.evaluate("rows => rows.map(row => [...qValues(policy, row)])", seen.tolist())
    assert again == in_the_page


def test_the_server_plays_what_was_taken_home(lonely: Page, site: Path, tmp_path: Path) -> None:
    lonely.goto((site / "index.html").as_uri(), wait_until="domcontentloaded")
    until(lonely, "population[0].numbers !== null", SECONDS)
    model = tmp_path / "policy.onnx"
    model.write_bytes(bytes(lonely.evaluate("[...policyFile()]")))
    lonely.goto("about:blank")
    video = tmp_path / "episode.gif"
    command = (sys.executable, "-m", "serving", "record", "--model", model, "--out", video, "--seed", "3")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert video.read_bytes().startswith(b"GIF")
