"""A browser, its page, and servers that the page is opened from."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.support.serving.browser import CHROMIUM
from tests.support.serving.inprocess import Serving, serving


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
