"""A headless Chromium that opens a file and says what a reader would see, by playwright. Nothing is downloaded: it drives
the Chromium of the machine. Tests that use it skip where there is none, or no playwright.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def find() -> str | None:
    """Where a Chromium is, or None; `CHROMIUM` names one."""
    return os.environ.get("CHROMIUM") or next((path for name in NAMES if (path := shutil.which(name))), None)


def missing() -> str:
    """What there is not that these tests need; "" where all is there."""
    if importlib.util.find_spec("playwright") is None:
        return "no playwright here; pip install playwright"
    return "" if find() is not None else "no Chromium here; install one, or name it with CHROMIUM=PATH"


needs_chromium = pytest.mark.skipif(bool(missing()), reason=missing() or "all is there")


class Page:
    """An open page.

    Attributes:
        page: playwright's own, for clicks and keys.
        problems: errors and warnings of its console, and exceptions.
        requests: addresses that it asked for, itself included.
    """

    def __init__(self, browser: Any) -> None:
        self._browser, self._context = browser, None
        self.problems: list[str] = []
        self.requests: list[str] = []

    def open(self, path: Path, width: int = 1100, height: int = 1400, *, dark: bool = False, at: str = "") -> None:
        """Open a file in a window of that size, without network."""
        if self._context is not None:
            self._context.close()
        self._context = self._browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme="dark" if dark else "light",
            has_touch=width < 600,
            is_mobile=width < 600,
            offline=True,
            accept_downloads=True,
        )
        self.page = self._context.new_page()
        self.problems, self.requests = [], []
        self.page.on("console", lambda said: said.type in ("error", "warning") and self.problems.append(said.text))
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("request", lambda asked: self.requests.append(asked.url))
        self.page.goto(path.resolve().as_uri() + at)

    def ask(self, expression: str) -> Any:
        """The value of a JavaScript expression."""
        return self.page.evaluate(expression)

    @property
    def text(self) -> str:
        """What is visible as text: nothing that CSS hides."""
        return self.ask("document.body.innerText")

    @property
    def overflow(self) -> int:
        """Pixels by which the page is wider than its window."""
        return self.ask("document.documentElement.scrollWidth - document.documentElement.clientWidth")

    def screenshot(self, path: Path) -> None:
        """Write what the window shows."""
        self.page.screenshot(path=path)


@contextlib.contextmanager
def chromium() -> Iterator[Page]:
    """A fresh Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=find(), args=["--no-sandbox", "--disable-dev-shm-usage"])
        try:
            yield Page(browser)
        finally:
            browser.close()
