"""The demo: what it prints is what it found, and its page stands alone."""

from __future__ import annotations

import base64
import re
from html import unescape
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

import mmembed
from mmembed.demo import DOCUMENTS, PICTOGRAMS, run_demo
from mmembed.documents import DOCUMENT_SUFFIXES
from mmembed.errors import SettingsError

KINDS = (
    "text to image: sad cat",
    "text to image: rain cloud",
    "image to image: pictograms like this one",
    "text and image: this cat, plus guitar, minus sad",
    "image to text: passages about what this shows",
    "text to text: how long does a cake stay in the oven?",
    "hybrid (dense and BM25, fused): who gives way to a ferry",
)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path]:
    """The lines of a run over an Edge folder, and the page it wrote."""
    root = tmp_path_factory.mktemp("demo")
    page = root / "demo.html"
    return list(run_demo(page, store=f"edge:{root / 'store.mm'}")), page


def hits_of(lines: list[str]) -> dict[str, list[str]]:
    """search -> its lines of hits."""
    found: dict[str, list[str]] = {}
    for line in lines:
        if line in KINDS:
            found[line] = []
        elif line.startswith("   ") and found and "refused" not in line:
            found[list(found)[-1]].append(line)
    return found


def test_every_search_is_shown_with_its_hits(demo: tuple[list[str], Path]) -> None:
    """Seven searches, each with as many hits as were asked for, and the clear ones find what they name."""
    lines, page = demo
    found = hits_of(lines)
    assert tuple(found) == KINDS
    assert [len(hits) for hits in found.values()] == [6, 6, 6, 6, 3, 3, 3]
    assert found[KINDS[0]][0].endswith("crying cat")
    assert found[KINDS[2]][0].split()[0] == "1.0000"
    assert "kitchen.md" in found[KINDS[5]][0]
    assert "travel.html" in found[KINDS[6]][0]
    assert lines[0].startswith(f"images: {len(list(PICTOGRAMS.glob('*.png')))} pictograms embedded, 0 unchanged in ")
    documents = [path for path in DOCUMENTS.iterdir() if path.suffix in DOCUMENT_SUFFIXES]
    assert lines[1].startswith(f"documents: {len(documents)} embedded, 0 unchanged in ")
    assert lines[-1] == f"contact sheet: {page}"


def test_the_wrong_encoder_is_refused(demo: tuple[list[str], Path]) -> None:
    """The refusal is the error's own sentence, in the lines and on the page."""
    lines, page = demo
    (refusal,) = [line.removeprefix("   refused: ") for line in lines if "refused" in line]
    assert refusal.startswith("vector 'image' of collection 'demo_images' was made by tiny, not by fake?dim=256")
    assert refusal in unescape(page.read_text(encoding="utf-8"))


def test_the_numbers_are_computed(demo: tuple[list[str], Path], tmp_path: Path) -> None:
    """Another kind of store gives the same hits with the same scores."""
    lines, _ = demo
    again = list(run_demo(tmp_path / "again.html", store=":memory:"))
    first, second = hits_of(lines), hits_of(again)
    assert list(first) == list(second)
    for kind in KINDS:
        for one, other in zip(first[kind], second[kind], strict=True):
            assert one.split()[1:] == other.split()[1:]
            assert float(one.split()[0]) == pytest.approx(float(other.split()[0]), abs=2e-4)


def test_the_page_stands_alone(demo: tuple[list[str], Path]) -> None:
    """Its pictures are inside it and decode; it names no file of this machine and loads nothing."""
    _, page = demo
    html = page.read_text(encoding="utf-8")
    sources = re.findall(r'<img [^>]*src="([^"]*)"', html)
    assert len(sources) == 24 + 3  # hits, and the pictures that were asked with
    for source in sources:
        head, _, content = source.partition(",")
        assert head == "data:image/png;base64"
        with Image.open(BytesIO(base64.b64decode(content, validate=True))) as image:
            image.load()
            assert image.size == (72, 72)
    assert not re.findall(r'(?:src|href)="(?!data:image/png;base64,|https://creativecommons\.org/)', html)
    assert "<script" not in html
    for path in (page.parent, Path(mmembed.__file__).parent, Path.home()):
        assert str(path) + "/" not in html


def test_the_page_shows_what_the_lines_say(demo: tuple[list[str], Path]) -> None:
    """Every search, and the score of each of its hits, is on the page."""
    lines, page = demo
    text = unescape(re.sub(r"<[^>]+>", " ", page.read_text(encoding="utf-8")))
    for kind, hits in hits_of(lines).items():
        name, _, asked = kind.partition(": ")
        assert name in text
        assert asked in text
        for hit in hits:
            score, *_ = hit.split()
            assert score in text
            assert not hit.endswith(": ")


def test_a_page_that_cannot_be_written(tmp_path: Path) -> None:
    """Refused before anything is indexed."""
    for output in (tmp_path, tmp_path / "missing" / "demo.html"):
        with pytest.raises(SettingsError, match="name a file in a folder that exists"):
            next(run_demo(output, store=f"edge:{tmp_path / 'store.mm'}"))
    assert list(tmp_path.iterdir()) == []
