from tests.support.browsing import browser, lonely

__all__ = ["browser", "lonely"]
