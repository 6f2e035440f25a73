"""The web page in a real Chromium, against the real service: keyboard, themes, keys, uploads, widths and contrast."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from browser import CONTRASTS, tab
from playwright.sync_api import Browser, Page, expect
from service_app import running
from web_service import DEMO, DROP, EVIL, OpenTab, cards, searchable

import mmembed
from mmembed import ingest_images, load_encoder, open_store


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with searchable(tmp_path_factory.mktemp("web")) as address:
        yield address


def test_the_lightbox_by_keyboard(page: Page, url: str) -> None:
    """Enter opens it, arrows go on, Tab stays in it, Escape closes it, and focus goes to the card that was shown."""
    page.goto(f"{url}/?q=a+fish&c=images")
    titles = cards(page)
    page.locator(".open").first.focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator(".open").nth(1)).to_be_focused()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_role("heading")).to_have_text(titles[1])
    expect(dialog.locator("dt", has_text="group")).to_be_visible()
    page.keyboard.press("ArrowRight")
    expect(dialog.get_by_role("heading")).to_have_text(titles[2])
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    expect(dialog.get_by_role("heading")).to_have_text(titles[0])
    for _ in range(8):
        page.keyboard.press("Tab")
        assert page.evaluate(
            "document.activeElement === document.body || Boolean(document.activeElement.closest('dialog'))"
        )
    dialog.get_by_role("button", name="Close").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(page.locator(".open").nth(1)).to_be_focused()
    page.keyboard.press("ArrowDown")
    columns = page.locator(".grid").evaluate("grid => getComputedStyle(grid).gridTemplateColumns.split(' ').length")
    expect(page.locator(".open").nth(1 + columns)).to_be_focused()
    page.keyboard.press("Home")
    expect(page.locator(".open").first).to_be_focused()


def test_an_error_of_the_service_is_shown_as_its_sentence(open_tab: OpenTab, url: str) -> None:
    """A collection that there is not gives the service's own sentence in an alert, and no results."""
    with open_tab() as opened:
        opened.page.goto(f"{url}/?q=a+fish&c=imagse")
        expect(opened.page.get_by_role("alert")).to_contain_text("did you mean 'images'?")
        expect(opened.page.locator(".card")).to_have_count(0)
        opened.forgive("404")


def test_payloads_are_text_and_never_html(open_tab: OpenTab, url: str) -> None:
    """A caption, a filter and a nested value full of HTML are shown letter by letter, and nothing of them runs."""
    with open_tab() as opened:
        page = opened.page
        page.goto(f"{url}/?q=a+cow&c=hostile")
        assert cards(page) == [EVIL]
        expect(page.locator("#facets .value").first).to_have_text(EVIL)
        page.locator(".open").click()
        expect(page.locator("#lightbox-title")).to_have_text(EVIL)
        expect(page.locator("#lightbox dl")).to_contain_text(EVIL.replace('"', '\\"'))
        assert page.locator("img[src='x']").count() == 0
        expect(page).to_have_title("a cow – mmembed")
        page.goto(f"{url}/?q={EVIL}&c={EVIL}&like={EVIL}&f.{EVIL}={EVIL}")
        expect(page.get_by_role("alert").locator("p")).to_be_visible()
        assert page.locator("img[src='x']").count() == 0
        opened.forgive("404")


def test_the_theme_is_the_systems_until_chosen(open_tab: OpenTab, url: str) -> None:
    """Dark where the system is dark; the button turns it round, and the choice outlives a reload."""
    ground = "getComputedStyle(document.body).backgroundColor"
    with open_tab(scheme="dark") as dark, open_tab() as light:
        dark.page.goto(url)
        light.page.goto(url)
        night, day = dark.page.evaluate(ground), light.page.evaluate(ground)
        assert night != day
        button = dark.page.get_by_role("button", name="Dark theme")
        expect(button).to_have_attribute("aria-pressed", "true")
        button.click()
        assert dark.page.evaluate(ground) == day
        dark.page.reload()
        assert dark.page.evaluate(ground) == day
        expect(button).to_have_attribute("aria-pressed", "false")


def test_a_key_is_asked_for_once(browser: Browser, tmp_path: Path) -> None:
    """A service with keys: a wrong one is asked again, the right one opens search and thumbnails, and is kept."""
    store, tiny = open_store(f"edge:{tmp_path / 'store.mm'}"), load_encoder("tiny")
    ingest_images(store, "images", [DEMO / "pictograms" / "1f404.png"], encoder=tiny)
    store.close()
    with running(tmp_path, key=("right:search",)) as service, tab(browser, service.url) as opened:
        page = opened.page
        page.goto(service.url)
        dialog = page.get_by_role("dialog")
        dialog.get_by_label("API key").fill("wrong")
        page.keyboard.press("Enter")
        expect(dialog).to_contain_text("not known here")
        dialog.get_by_label("API key").fill("right")
        dialog.get_by_role("button", name="Use this key").click()
        page.fill("#words", "a cow")
        page.press("#words", "Enter")
        assert cards(page) == ["1f404.png"]
        page.wait_for_function("document.querySelector('.picture img').naturalWidth > 0")
        page.reload()
        assert cards(page) == ["1f404.png"]
        expect(dialog).to_be_hidden()
        opened.forgive("401")


def test_images_are_uploaded_into_an_empty_store(browser: Browser, tmp_path: Path) -> None:
    """With nothing indexed the page says how to begin, takes pictures, names the bad ones, and then searches them."""
    bad = tmp_path / "broken.png"
    bad.write_bytes(b"no picture at all")
    names = [DEMO / "pictograms" / name for name in ("1f404.png", "1f34c.png")]
    with running(tmp_path) as service, tab(browser, service.url) as opened:
        page = opened.page
        page.goto(service.url)
        expect(page.get_by_role("heading", name="Nothing is indexed yet")).to_be_visible()
        expect(page.locator("pre")).to_have_text("mmembed index images ~/Pictures")
        page.get_by_label("Choose pictures").set_input_files([*names, bad])
        expect(page.locator(".tile")).to_contain_text("2 pictures")
        expect(page.get_by_role("alert")).to_contain_text("2 pictures indexed")
        expect(page.get_by_role("alert")).to_contain_text("broken.png")
        page.fill("#words", "a banana")
        page.press("#words", "Enter")
        assert cards(page)[0] == "1f34c.png"
        page.wait_for_function("document.querySelector('.picture img').naturalWidth > 0")


@pytest.mark.parametrize("width", [320, 768, 1920])
def test_nothing_is_wider_than_the_screen(open_tab: OpenTab, url: str, width: int) -> None:
    """From 320 pixels up no page scrolls sideways, and on a small screen the filters are folded."""
    with open_tab(width=width) as opened:
        for query in ("", "?q=a+fish&c=images", "?q=kitten&c=documents", "?q=a+cow&c=hostile", "?q=a+cow"):
            opened.page.goto(f"{url}/{query}")
            opened.page.locator(".tile, .card .open").first.wait_for()
            assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
        assert opened.page.locator("#filters").evaluate("filters => filters.open") is (width >= 960)
        opened.page.locator(".open").first.click()
        box = opened.page.get_by_role("dialog").bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_can_be_read(open_tab: OpenTab, url: str, scheme: str) -> None:
    """The contrast of every visible text is at least 4.5 to 1 (WCAG AA) in both themes, on every view."""
    with open_tab(scheme=scheme) as opened:
        page = opened.page
        measured: list[tuple[str, float]] = []
        for query in ("", "?q=a+fish&c=images&f.group=animals", "?q=kitten&c=documents"):
            page.goto(f"{url}/{query}")
            page.locator(".tile, .card .open").first.wait_for()
            measured += page.evaluate(CONTRASTS)
        page.locator(".open").first.click()
        measured += page.evaluate(CONTRASTS)
        page.keyboard.press("Escape")
        moved = page.evaluate_handle(DROP, ["a.txt", [65], "text/plain"])
        page.dispatch_event("main", "drop", {"dataTransfer": moved})
        measured += page.evaluate(CONTRASTS)
    assert len(measured) > 100
    assert [(text, round(ratio, 2)) for text, ratio in measured if ratio < 4.5] == []


def test_every_control_has_a_name_and_a_visible_focus(page: Page, url: str) -> None:
    """Every picture has an alt attribute, every control a name; Tab goes through them in order and each shows it."""
    page.goto(f"{url}/?q=a+fish&c=images")
    cards(page)
    assert page.locator("img:not([alt])").count() == 0
    tree = page.locator("body").aria_snapshot()
    nameless = re.findall(r"^\s*- (?:button|textbox|checkbox|combobox|link|searchbox|img)\s*(?:\[.*\])?:?$", tree, re.M)
    assert nameless == []
    page.goto(f"{url}/?q=a+fish&c=images")
    cards(page)
    seen = []
    for _ in range(14):
        page.keyboard.press("Tab")
        seen.append(
            page.evaluate(
                """() => {
                  const at = document.activeElement;
                  const shown = (element) => {
                    const style = getComputedStyle(element);
                    const ringed = style.boxShadow !== "none" && element.matches(":focus-within");
                    return ringed || style.outlineStyle !== "none";
                  };
                  const name = at.id || at.className || at.type || at.tagName;
                  return [name, shown(at) || shown(at.closest(".box") ?? at)];
                }"""
            )
        )
    assert all(shown for _, shown in seen), seen
    order = [name for name, _ in seen]
    assert order[:7] == ["skip", "brand", "words", "pick", "go", "collection", "less"]
    assert order.index("theme") < order.index("checkbox")


def test_the_page_is_served_with_its_types_and_kept_by_its_etag(url: str) -> None:
    """The page and its files have their types, a policy that allows no other host, and 304 for a known ETag."""
    page = httpx.get(url)
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert "unsafe" not in page.headers["content-security-policy"]
    types = {"js": "text/javascript; charset=utf-8", "css": "text/css; charset=utf-8", "svg": "image/svg+xml"}
    scripts = {path.name for path in (Path(mmembed.__file__).parent / "service" / "web").iterdir()} - {"index.html"}
    for name in scripts:
        answer = httpx.get(f"{url}/static/{name}")
        assert answer.headers["content-type"] == types[name.rpartition(".")[2]]
        assert answer.headers["x-content-type-options"] == "nosniff"
        again = httpx.get(f"{url}/static/{name}", headers={"If-None-Match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
    for name in ("index.html", "..%2Fweb_page.py", "nothing.js", "%2e%2e/state.py"):
        assert httpx.get(f"{url}/static/{name}").status_code == 404
