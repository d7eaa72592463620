"""A training that is watched on the page while it runs, in a browser."""

import re
import time

from playwright.sync_api import Page

from tests.support.serving.browser import IN_A_BROWSER, opened, tab, until
from tests.support.serving.inprocess import MemoryRegistry, serving, two_versions
from tests.support.serving.policies import BALANCES, FALLS, linear_model
from tests.support.serving.trainings import population, running

pytestmark = IN_A_BROWSER


def test_a_training_that_runs_is_watched_live_and_its_tab_is_offered_while_it_runs(page: Page) -> None:
    registry = two_versions()
    registry.running = [running(f"900 {time.time():.0f}")]
    registry.populations["r"] = population(linear_model(FALLS), linear_model(BALANCES, bias=5))
    with serving(registry, mlflow_url="http://m") as server:
        opened(page, server)
        tab(page, "Watch it learn, now")
        shown = page.locator("#learning-strip figcaption")
        shown.nth(1).wait_for()
        assert re.fullmatch(r"Agent 0\s+falls after \d+ steps\s+learning", shown.first.inner_text())
        assert re.fullmatch(r"Agent 1\s+stands to the end\s+learning", shown.nth(1).inner_text())
        assert page.locator("#training-title").inner_text() == "A training runs: cartpole"
        assert page.locator("#training-run").get_attribute("href") == "http://m/#/experiments/7/runs/r"
        assert page.locator("#training-done").evaluate("(bar) => bar.value") == 0.225
        registry.running = [running(f"1050 {time.time():.0f}")]
        registry.populations["r"] = population(linear_model(BALANCES), updates=1_050)
        until(page, "document.querySelector('#training-said').textContent.startsWith('Update 1,050')")
        until(page, "document.querySelectorAll('#learning-strip figure').length === 1")
        registry.running = []
        until(page, "document.querySelector('#training').hidden && document.querySelector('#tab-learning').hidden")
        page.goto("about:blank")


def test_the_first_training_is_watched_before_anything_plays(page: Page) -> None:
    registry = MemoryRegistry()
    registry.running = [running(f"900 {time.time():.0f}")]
    registry.populations["r"] = population(linear_model(FALLS))
    with serving(registry, ready=False) as server:
        page.goto(server.url, wait_until="domcontentloaded")
        page.locator("#learning-strip figcaption").wait_for()
        assert page.locator("#tabs").is_hidden()
        assert page.locator("#nothing-command").is_hidden()
        page.goto("about:blank")
