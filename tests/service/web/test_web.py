"""The web page in a real Chromium, against the real service: searching by every way there is."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import httpx
import pytest
from playwright.sync_api import Page, Route, expect
from web_service import DEMO, DROP, OpenTab, cards, searchable

QUOTED = '50% & more? a "fish"'


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with searchable(tmp_path_factory.mktemp("web")) as address:
        yield address


def hit_names(url: str, collection: str, **query: object) -> list[str]:
    answer = httpx.post(f"{url}/v1/search/{collection}", json={"limit": 24, **query}).json()
    return [hit["name"] for hit in answer["hits"]]


def test_words_find_images_with_their_probabilities(page: Page, url: str) -> None:
    """Words typed into the box give the service's hits in order, each with a bar, a percentage and an alt text."""
    page.goto(url)
    page.keyboard.press("Tab")
    page.keyboard.press("/")
    expect(page.get_by_label("Words to search for")).to_be_focused()
    page.get_by_label("in", exact=True).select_option("images")
    page.fill("#words", "a fish")
    page.press("#words", "Enter")
    titles = cards(page)
    assert titles == hit_names(url, "images", text="a fish")
    assert len(titles) == 24
    assert re.fullmatch(r"probability\s+(\d[\d.]*|<0\.1|>99)%", page.locator(".score").first.inner_text())
    widths = page.locator(".bar i").evaluate_all("bars => bars.map(bar => bar.getBoundingClientRect().width)")
    assert widths == sorted(widths, reverse=True)
    assert widths[0] > widths[-1]
    assert page.locator(".picture img").first.get_attribute("alt") == titles[0]
    expect(page.get_by_role("status").first).to_contain_text("24 results, and more")
    page.wait_for_function("document.querySelector('.picture img').naturalWidth > 0")


def test_load_more_adds_the_next_page(page: Page, url: str) -> None:
    """Load more appends the next 24 hits, none twice, and puts the focus on the first of them."""
    page.goto(f"{url}/?q=a+fish&c=images")
    assert len(cards(page)) == 24
    page.get_by_role("button", name="Load more").click()
    expect(page.locator(".picture")).to_have_count(48)
    titles = cards(page)
    assert len(set(titles)) == 48
    expect(page.locator(".open").nth(24)).to_be_focused()


@pytest.mark.parametrize("way", ["pick", "drop", "paste"])
def test_a_image_is_picked_dropped_or_pasted(page: Page, url: str, way: str) -> None:
    """A picture finds itself first however it comes into the box, and is shown there with a way to remove it."""
    path = DEMO / "pictograms" / "1f404.png"
    page.goto(f"{url}/?c=images")
    expect(page.locator("#collection")).to_have_value("images")
    if way == "pick":
        page.set_input_files("#file", path)
    else:
        moved = page.evaluate_handle(DROP, ["cow.png", list(path.read_bytes()), "image/png"])
        if way == "drop":
            page.dispatch_event("main", "dragover", {"dataTransfer": moved})
            expect(page.locator("#veil")).to_be_visible()
            page.dispatch_event("main", "drop", {"dataTransfer": moved})
            expect(page.locator("#veil")).to_be_hidden()
        else:
            page.evaluate("moved => document.dispatchEvent(new ClipboardEvent('paste', {clipboardData: moved}))", moved)
    assert cards(page)[0] == "cow.png"
    expect(page.locator("#chip img")).to_have_attribute("alt", "The picture to search with")
    assert "picture" not in page.url
    page.get_by_role("button", name="Remove the picture").click()
    expect(page.locator("#chip")).to_be_hidden()


def test_words_and_a_image_together(page: Page, url: str) -> None:
    """A picture and words are sent as one query, whose answer is the service's own."""
    path = DEMO / "pictograms" / "1f404.png"
    page.goto(f"{url}/?c=images")
    page.set_input_files("#file", path)
    alone = cards(page)
    page.fill("#words", "a fruit on a tree")
    page.get_by_role("button", name="Search", exact=True).click()
    expect(page).to_have_title("a fruit on a tree – mmembed")
    with path.open("rb") as file:
        query = json.dumps({"text": "a fruit on a tree", "limit": 24})
        answer = httpx.post(f"{url}/v1/search/images", files={"image": file}, data={"query": query}).json()
    assert cards(page) == [hit["name"] for hit in answer["hits"]] != alone


def test_what_was_dropped_and_is_no_image_is_told(page: Page, url: str) -> None:
    """A text file that is dropped gives a sentence and no request."""
    page.goto(url)
    moved = page.evaluate_handle(DROP, ["a.txt", [65], "text/plain"])
    page.dispatch_event("main", "drop", {"dataTransfer": moved})
    expect(page.get_by_role("alert")).to_contain_text("no picture")
    expect(page.locator("#found")).to_be_hidden()


def test_more_like_this(page: Page, url: str) -> None:
    """More like this searches by the point's id, its URL can be shared, and back gives the search before."""
    page.goto(f"{url}/?q=a+fish&c=images")
    before = cards(page)
    page.get_by_role("button", name=f"More like {before[2]}").click()
    expect(page.locator("#chip")).to_contain_text(before[2])
    likes = cards(page)
    assert before[2] not in likes
    shared = page.url
    assert "like=" in shared
    page.go_back()
    expect(page.locator("#words")).to_have_value("a fish")
    assert cards(page) == before
    page.goto(shared)
    assert cards(page) == likes


def test_less_of(page: Page, url: str) -> None:
    """What is to be left out is subtracted, as the service does it."""
    page.goto(f"{url}/?q=an+animal&c=images")
    cards(page)
    page.get_by_label("less of").fill("a fish")
    page.keyboard.press("Enter")
    page.wait_for_url("**less=a+fish**")
    expect(page.locator("#results")).not_to_have_attribute("aria-busy", "true")
    assert cards(page) == hit_names(url, "images", text="an animal", minus=[{"text": "a fish"}])


def test_filters_come_from_the_payload(page: Page, url: str) -> None:
    """Ticked values of a key are alternatives, keys add up, the URL holds both with their types, back takes one off."""
    page.goto(f"{url}/?q=red&c=images")
    cards(page)
    page.get_by_role("checkbox", name=re.compile("^food")).check()
    page.wait_for_url("**f.group=food**")
    page.get_by_role("checkbox", name=re.compile("^true")).check()
    page.wait_for_url("**f.lucky=true**")
    expect(page.locator("#filtered")).to_have_text(" (2)")
    expect(page.locator("#results")).not_to_have_attribute("aria-busy", "true")
    must = [{"key": "group", "match": {"value": "food"}}, {"key": "lucky", "match": {"value": True}}]
    wanted = hit_names(url, "images", text="red", filter={"must": must})
    assert cards(page) == wanted
    page.go_back()
    expect(page.locator("#filtered")).to_have_text(" (1)")
    expect(page.get_by_role("checkbox", name=re.compile("^true"))).not_to_be_checked()
    page.reload()
    expect(page.get_by_role("checkbox", name=re.compile("^food"))).to_be_checked()
    expect(page.locator("#results:not([aria-busy]) .card:not(.ghost)").first).to_be_visible()
    assert cards(page) == hit_names(url, "images", text="red", filter={"must": must[:1]})


def test_documents_show_the_passage_with_its_words_marked(page: Page, url: str) -> None:
    """A passage is a card with its title, and marks the words of the query in every form, but not its 'in' and 'a'."""
    page.goto(f"{url}/?q=an+owl+hunting+in+a+garden&c=documents")
    assert "Living with animals" in cards(page)
    card = page.locator(".passage", has_text="Owls hunt")
    assert {word.lower() for word in card.locator("mark").all_inner_texts()} == {"owls", "hunt"}
    card.get_by_role("button", name="Living with animals", exact=True).click()
    expect(page.locator("#lightbox .text")).to_contain_text("Owls hunt by hearing")
    assert {word.lower() for word in page.locator("#lightbox mark").all_inner_texts()} == {"owls", "hunt"}


def test_everything_is_searched_at_once(page: Page, url: str) -> None:
    """Over all collections pictures and passages stand in two parts, and a collection that was left out says why."""
    page.goto(f"{url}/?q=a+cow")
    cards(page)
    expect(page.get_by_role("heading", name="Pictures")).to_be_visible()
    expect(page.get_by_role("heading", name="Passages")).to_be_visible()
    page.set_input_files("#file", DEMO / "pictograms" / "1f404.png")
    expect(page.locator("#skipped")).to_be_visible()
    page.locator("#skipped summary").click()
    expect(page.locator("#skipped li")).to_contain_text("notes")


def test_a_shared_url_gives_the_same_page(open_tab: OpenTab, url: str) -> None:
    """Another browser that opens the URL sees the same words, collection, filters and results."""
    with open_tab() as mine, open_tab() as theirs:
        mine.page.goto(f"{url}/?c=images")
        mine.page.fill("#words", QUOTED)
        mine.page.press("#words", "Enter")
        cards(mine.page)
        mine.page.get_by_role("checkbox", name=re.compile("^animals")).check()
        mine.page.wait_for_url("**f.group=animals**")
        expect(mine.page.locator("#results")).not_to_have_attribute("aria-busy", "true")
        theirs.page.goto(mine.page.url)
        assert cards(theirs.page) == cards(mine.page)
        expect(theirs.page.locator("#words")).to_have_value(QUOTED)
        expect(theirs.page.locator("#collection")).to_have_value("images")


def test_an_old_answer_never_overwrites_a_newer(page: Page, url: str) -> None:
    """A search that is answered late, after the next one, is dropped."""
    held: list[Route] = []

    def hold(route: Route) -> None:
        if '"text":"slow"' in (route.request.post_data or ""):
            held.append(route)
        else:
            route.continue_()

    page.route("**/v1/search/images", hold)
    page.goto(f"{url}/?c=images")
    for words in ("slow", "a fish"):
        with page.expect_request("**/v1/search/images"):
            page.fill("#words", words)
            page.press("#words", "Enter")
    fast = cards(page)
    assert len(held) == 1
    held[0].fulfill(json={"hits": [], "seconds": 0.1})
    page.wait_for_timeout(100)
    assert cards(page) == fast == hit_names(url, "images", text="a fish")


def test_nothing_found_says_what_to_try(page: Page, url: str) -> None:
    """A filter of a shared URL that no point passes gives a sentence, stays ticked, and comes off by its box."""
    page.goto(f"{url}/?q=a+fish&c=images&f.group=machines")
    expect(page.locator("#count")).to_have_text("Nothing found: try with fewer filters.")
    page.get_by_role("checkbox", name="machines").click()
    assert cards(page) == hit_names(url, "images", text="a fish")
    assert "machines" not in page.url


def test_back_closes_the_lightbox(page: Page, url: str) -> None:
    """Back closes what is open and leaves the results; closed by hand or left by "more like this", it is no step."""
    page.goto(url)
    page.fill("#words", "a fish")
    page.press("#words", "Enter")
    before = cards(page)
    dialog = page.get_by_role("dialog")
    page.locator(".open").nth(1).click()
    expect(dialog).to_be_visible()
    page.go_back()
    expect(dialog).to_be_hidden()
    assert cards(page) == before
    page.locator(".open").first.click()
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    page.wait_for_function("!history.state.lightbox")
    page.locator(".open").first.click()
    dialog.get_by_role("button", name="More like").click()
    page.wait_for_url("**like=**")
    page.go_back()
    expect(page.locator("#words")).to_have_value("a fish")
    page.go_back()
    expect(page.locator("#words")).to_have_value("")


def test_of_two_dropped_images_the_first_is_taken(page: Page, url: str) -> None:
    """Two pictures dropped at once: the first is searched with, and the page says that it was one of two."""
    page.goto(f"{url}/?c=images")
    moved = page.evaluate_handle(DROP, ["cow.png", list((DEMO / "pictograms" / "1f404.png").read_bytes()), "image/png"])
    page.evaluate("moved => moved.items.add(new File([], 'second.png', {type: 'image/png'}))", moved)
    page.dispatch_event("main", "drop", {"dataTransfer": moved})
    assert cards(page)[0] == "cow.png"
    expect(page.get_by_role("alert")).to_have_text(
        "2 pictures were dropped: this is the search with the first, cow.png."
    )
