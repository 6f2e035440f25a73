"""A real browser for the tests of the web page: the Chromium that is there."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request, sync_playwright

__all__ = ["CONTRASTS", "Tab", "chromium", "tab"]

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)

CONTRASTS = """() => {
  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const paint = (colours) => {  // one over the other, as the screen does
    canvas.clearRect(0, 0, 1, 1);
    for (const colour of colours) { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); }
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const light = (rgb) => {
    const [r, g, b] = rgb.map((c) => c / 255).map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const found = [];
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement;
    if (!texts.currentNode.data.trim() || !element.checkVisibility({visibilityProperty: true})) continue;
    if (element.closest("option, noscript, .unseen, :disabled")) continue;
    const grounds = [];
    for (let at = element; at; at = at.parentElement) {
      grounds.unshift(getComputedStyle(at).backgroundColor);
      if (at.matches("dialog")) break;
    }
    const behind = light(paint(["white", ...grounds]));
    const ink = light(paint(["white", ...grounds, getComputedStyle(element).color]));
    const ratio = (Math.max(ink, behind) + 0.05) / (Math.min(ink, behind) + 0.05);
    found.push([texts.currentNode.data.trim().slice(0, 30), ratio]);
  }
  return found;
}"""
"""JavaScript: every visible text of the page with the contrast, from 1 to 21, between it and what is behind it."""


def _path() -> str:
    """Where the browser is; without one a test is skipped, and in CI it fails."""
    found = os.environ.get("MMEMBED_TEST_CHROMIUM") or next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        reason = f"there is no {', '.join(_NAMES)} here: install one, or name it in MMEMBED_TEST_CHROMIUM"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return found


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    path = _path()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=[*_ARGUMENTS])
        try:
            yield browser
        finally:
            browser.close()


class Tab:
    """A page in a context of its own, with whatever it said on its console and asked of other hosts."""

    def __init__(self, context: BrowserContext, url: str) -> None:
        self.url = url
        self.context = context
        self.page: Page = context.new_page()
        self.complaints: list[str] = []
        self.strangers: list[str] = []
        self.page.on("console", self._heard)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", self._asked)

    def _heard(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def _asked(self, request: Request) -> None:
        if not request.url.startswith((self.url + "/", "data:", f"blob:{self.url}/")):
            self.strangers.append(request.url)

    def forgive(self, words: str) -> None:
        """Take back complaints that a test provoked, such as the console's own line for an answer of 401."""
        assert any(words in complaint for complaint in self.complaints), self.complaints
        self.complaints = [complaint for complaint in self.complaints if words not in complaint]


@contextlib.contextmanager
def tab(browser: Browser, url: str, *, width: int = 1280, height: int = 800, scheme: str = "light") -> Iterator[Tab]:
    """A fresh tab; it fails the test where the page complained on its console or asked another host for anything."""
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme="dark" if scheme == "dark" else "light",
        reduced_motion="reduce",
    )
    context.set_default_timeout(8000)
    opened = Tab(context, url)
    try:
        yield opened
    finally:
        context.close()
    assert opened.strangers == []
    assert opened.complaints == []
