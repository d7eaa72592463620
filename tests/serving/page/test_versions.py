"""What became of the versions, on the page, in a browser."""

from playwright.sync_api import Page

from tests.support.serving.browser import IN_A_BROWSER, opened, tab, until
from tests.support.serving.inprocess import Serving

pytestmark = IN_A_BROWSER


def test_versions_and_changes_are_told_in_one_timeline_that_links_comparisons(page: Page, shown: Serving) -> None:
    opened(page, shown)
    tab(page, "Versions")
    until(page, "document.querySelectorAll('#history li').length === 3")
    assert sorted(page.locator("#history strong").all_inner_texts()) == [
        "Version 1 (champion) was registered",
        "Version 1 plays",
        "Version 2 (challenger) was registered",
    ]
    page.get_by_role("button", name="Reverse the motor").click()
    until(page, "document.querySelectorAll('#history li').length === 5")
    named = page.locator("#history strong").all_inner_texts()
    assert set(named[:2]) == {"A change of the world was noticed", "The world was changed"}
    page.get_by_role("link", name="compare: Version 2 (challenger) was registered").click()
    until(page, "window.page?.frame?.s.length === 2")
    assert page.url.endswith("/?compare=champion,2")
