"""Labels tried on a picture in the web page, in a real Chromium against the real service."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from browser import CONTRASTS, tab
from playwright.sync_api import Browser, Locator, Page, Request, Route, expect
from service_app import running
from web_service import EVIL, OpenTab, searchable

from mmembed import ingest_images, load_encoder, open_store
from mmembed.demo import PICTOGRAMS


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with searchable(tmp_path_factory.mktemp("labels")) as address:
        yield address


def open_first(page: Page, url: str, query: str = "q=a+guitar&c=images") -> Locator:
    """Search, open the first hit, and give the field for labels."""
    page.goto(f"{url}/?{query}")
    page.locator(".card:not(.ghost) .open").first.click()
    return page.get_by_role("textbox", name="Try labels")


def rows(page: Page) -> Locator:
    """The lines of labels, once they are there."""
    return page.locator(".answer:not([aria-busy]) li:not(.none)")


def asked_of(page: Page) -> list[dict[str, Any]]:
    """What the page asks of the service about labels from now on, in order."""
    bodies: list[dict[str, Any]] = []

    def keep(request: Request) -> None:
        if request.url.endswith("/v1/classify"):
            bodies.append(json.loads(request.post_data or "null"))

    page.on("request", keep)
    return bodies


def test_labels_are_tried_live_by_keyboard(page: Page, url: str) -> None:
    """Typed labels are ranked with probability and score as the service has them, one question for one pause."""
    bodies = asked_of(page)
    page.goto(f"{url}/?q=a+guitar&c=images")
    page.locator(".card:not(.ghost) .open").first.focus()
    page.keyboard.press("Enter")
    field = page.get_by_role("textbox", name="Try labels")
    for _ in range(6):
        page.keyboard.press("Tab")
        if field.evaluate("field => field === document.activeElement"):
            break
    expect(field).to_be_focused()
    page.keyboard.type("cat, guitar, , cat,pizza ", delay=5)
    expect(rows(page)).to_have_count(3)
    assert [body["labels"] for body in bodies] == [["cat", "guitar", "pizza"]]
    found = httpx.post(f"{url}/v1/classify", json=bodies[0]).raise_for_status().json()
    assert rows(page).locator(".value").all_inner_texts() == [one["label"] for one in found["labels"]]
    assert rows(page).locator(".n").all_inner_texts() == [f"{one['score']:.3f}" for one in found["labels"]]
    percents = rows(page).locator(".score").all_inner_texts()
    assert re.search(r"\d%|<0\.1%", percents[0])
    widths = [bar.evaluate("bar => parseFloat(bar.style.inlineSize)") for bar in rows(page).locator(".bar i").all()]
    assert widths == pytest.approx([100 * one["probability"] for one in found["labels"]], abs=0.06)
    assert widths == sorted(widths, reverse=True)
    expect(page.locator(".labels [role=status]")).to_have_text(f"best: {found['labels'][0]['label']}")


def test_arrows_move_in_the_field_and_not_to_the_next_hit(page: Page, url: str) -> None:
    """Within the field arrow keys move the caret; elsewhere they go to the next hit, whose labels are then shown."""
    field = open_first(page, url)
    first = page.locator("#lightbox-title").inner_text()
    field.fill("cat, guitar")
    expect(rows(page)).to_have_count(2)
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#lightbox-title")).to_have_text(first)
    scores = rows(page).locator(".n").all_inner_texts()
    page.get_by_role("button", name="Next").click()
    expect(page.locator("#lightbox-title")).not_to_have_text(first)
    expect(rows(page)).to_have_count(2)
    assert rows(page).locator(".n").all_inner_texts() != scores
    expect(field).to_have_value("cat, guitar")
    field.focus()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()


def test_none_of_these_is_said(page: Page, url: str) -> None:
    """Where a background wins the first line says so; without the tick nothing competes, and nothing is said."""
    field = open_first(page, url, "q=a+cat&c=images")
    bodies = asked_of(page)
    field.fill("bicycle, pizza")
    expect(page.locator(".answer li").first).to_have_text("none of these")
    expect(page.locator(".labels [role=status]")).to_have_text("none of these")
    assert bodies[-1]["background"]
    page.get_by_role("checkbox", name="or none of these").uncheck()
    expect(page.locator(".answer .none")).to_have_count(0)
    expect(rows(page)).to_have_count(2)
    assert bodies[-1]["background"] == []


def test_the_newest_question_wins(page: Page, url: str) -> None:
    """An answer that comes late, to labels that were changed since, is never shown."""

    def slow(route: Route) -> None:
        if "slow" in (route.request.post_data or ""):
            held.append(route)
        else:
            route.continue_()

    held: list[Route] = []
    page.route("**/v1/classify", slow)
    field = open_first(page, url)
    with page.expect_request("**/v1/classify"):
        field.fill("slow, cat")
    field.fill("cat, pizza")
    expect(rows(page)).to_have_count(2)
    assert len(held) == 1
    late = {"labels": [{"label": "slow", "score": 1, "probability": 1}], "none_of_these": False, "groups": []}
    held[0].fulfill(json=late)
    page.wait_for_timeout(200)
    assert "slow" not in page.locator(".answer").inner_text()


def test_labels_are_kept_for_the_next_image_and_the_next_visit(page: Page, url: str) -> None:
    """The last labels and the tick outlive a reload; whatever else lies in their place does no harm."""
    field = open_first(page, url)
    field.fill("cat, pizza")
    page.get_by_role("checkbox", name="or none of these").uncheck()
    expect(rows(page)).to_have_count(2)
    field = open_first(page, url, "q=a+pizza&c=images")
    expect(field).to_have_value("cat, pizza")
    expect(page.get_by_role("checkbox", name="or none of these")).not_to_be_checked()
    expect(rows(page)).to_have_count(2)
    for broken in ("{", "7", '{"text": 7}'):
        page.evaluate("broken => localStorage.setItem('mmembed-labels', broken)", broken)
        expect(open_first(page, url)).to_have_value("")


def test_labels_are_text_and_errors_are_one_sentence(open_tab: OpenTab, url: str) -> None:
    """A label full of HTML is shown letter by letter; an error stands in place and goes with the next answer."""
    with open_tab() as opened:
        page = opened.page
        field = open_first(page, url)
        field.fill(f"{EVIL}, cat")
        expect(rows(page)).to_have_count(2)
        expect(rows(page).filter(has_text="onerror")).to_have_count(1)
        page.get_by_role("checkbox", name="or none of these").uncheck()
        field.fill(EVIL)
        expect(page.locator(".answer .failed")).to_contain_text("is the only label")
        expect(rows(page)).to_have_count(0)
        assert page.locator("img[src='x']").count() == 0
        expect(page).to_have_title("a guitar – mmembed")
        field.fill("cat, pizza")
        expect(rows(page)).to_have_count(2)
        expect(page.locator(".answer .failed")).to_have_count(0)
        field.fill("")
        expect(page.locator(".answer > *")).to_have_count(0)
        opened.forgive("400")


def test_passages_have_no_labels(page: Page, url: str) -> None:
    """Only a picture has the corner: a passage of a document opens without it."""
    page.goto(f"{url}/?q=bread&c=documents")
    page.locator(".passage .open").first.click()
    expect(page.get_by_role("dialog")).to_be_visible()
    expect(page.locator("#labels")).to_have_count(0)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_it_fits_and_can_be_read(open_tab: OpenTab, url: str, width: int, scheme: str) -> None:
    """On a phone and a desk, light and dark: nothing runs over the edge, and every text has a contrast of 4.5."""
    with open_tab(width=width, height=844, scheme=scheme) as opened:
        page = opened.page
        field = open_first(page, url)
        field.fill(f"cat, {'a label without end ' * 8}, {'x' * 200}, bicycle, pizza")
        expect(rows(page)).not_to_have_count(0)
        box = page.locator("#lightbox").evaluate("box => [box.scrollWidth, box.clientWidth]")
        assert box[0] <= box[1]
        for element in (field, *rows(page).all()):
            bounds = element.bounding_box()
            assert bounds is not None
            assert bounds["x"] >= 0
            assert bounds["x"] + bounds["width"] <= width
        contrasts = page.evaluate(CONTRASTS)
        assert len(contrasts) > 10
        assert [found for found in contrasts if found[1] < 4.5] == []


def test_a_key_is_sent_along(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Where the service asks for a key, the one that was given is used for labels too."""
    root = tmp_path_factory.mktemp("keyed")
    store = open_store(f"edge:{root / 'store.mm'}")
    ingest_images(store, "images", [PICTOGRAMS / "1f3b8.png"], encoder=load_encoder("tiny"))
    store.close()
    with running(root, key=("secret:search",)) as service, tab(browser, service.url) as opened:
        page = opened.page
        page.add_init_script("sessionStorage.setItem('mmembed-key', 'secret')")
        open_first(page, service.url).fill("cat, guitar")
        expect(rows(page)).not_to_have_count(0)
