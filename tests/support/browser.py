"""Chromium without a window, and the page at /ui in it."""

import importlib.util
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from tests.support.waiting import LIMIT_SECONDS

_PROGRAM: Final = "chromium"

PHONE: Final = {"width": 390, "height": 844}
DESK: Final = {"width": 1100, "height": 800}


def missing() -> list[str]:
    """Return what the machine lacks for tests with a browser."""
    lacking = [] if shutil.which(_PROGRAM) else [_PROGRAM]
    if importlib.util.find_spec("playwright") is None:
        lacking.append("playwright (make browser)")
    return lacking


@contextmanager
def chromium() -> Iterator[Any]:
    """Start Debian's Chromium; yields a Browser of playwright's."""
    from playwright.sync_api import sync_playwright

    # Its sandbox is not for root, and what it is shown here is ours.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which(_PROGRAM), args=arguments)
        try:
            yield browser
        finally:
            browser.close()


class UiPage:
    """The page at /ui, in a window of its own."""

    def __init__(
        self, browser: Any, address: str, *, with_clock: bool = False, **options: Any
    ) -> None:
        """``options`` are those of playwright's new_page(). ``with_clock``: the test sets it."""
        self.page = browser.new_page(**{"viewport": DESK} | options)
        self.page.set_default_timeout(LIMIT_SECONDS * 1000)
        self.said: list[str] = []
        """What the browser wrote to its console: errors, and what the page's policy forbids."""
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        if with_clock:
            self.page.clock.install()
        self.page.goto(f"http://{address}/ui")

    def rows(self, source: str) -> Any:
        """The rows of a table."""
        return self.page.locator(f"#table-{source} tbody tr")

    def cells(self, source: str) -> list[list[str]]:
        """The texts of the rows of a table."""
        cells = "rows => rows.map(row => [...row.cells].map(cell => cell.innerText))"
        found: list[list[str]] = self.rows(source).evaluate_all(cells)
        return found

    def close(self) -> None:
        """Close the window."""
        self.page.close()
