"""Opening a page in a browser, and waiting for it."""

import shutil
import time
from collections.abc import Callable

import pytest
from playwright.sync_api import Page

from tests.support.serving.inprocess import Serving

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
IN_A_BROWSER = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium (.ci/run does)"),
]


def becomes(page: Page, expression: str, seconds: float) -> bool:
    """Whether an expression is true in time; playwright's own wait needs eval, which the page's policy forbids."""
    deadline = time.monotonic() + seconds
    while not page.evaluate(expression):
        if time.monotonic() > deadline:
            return False
        page.wait_for_timeout(20)
    return True


def until(page: Page, expression: str, seconds: float = 60) -> None:
    """Wait for an expression to be true."""
    assert becomes(page, expression, seconds), f"{expression} stayed false"


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


def tab(page: Page, name: str) -> None:
    """Choose a tab by its name."""
    page.get_by_role("tab", name=name, exact=True).click()


def stepped_to(page: Page, server: Serving, steps: int) -> None:
    """Take steps one by one, each of which the page has drawn before the next one is taken."""
    for _ in range(steps):
        seen = page.evaluate("page.frames")
        server.step()
        until(page, f"page.frames > {seen} && !page.dirty")
