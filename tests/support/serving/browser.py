"""Waiting for a page."""

import time

from playwright.sync_api import Page


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
