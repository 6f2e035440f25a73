"""HTML: the main text of a page, found by trafilatura; of a page that is little else, all of it."""

from __future__ import annotations

import re
from pathlib import Path

import lxml.html
import trafilatura
from lxml import etree

from mmembed.documents.encodings import decode
from mmembed.documents.parts import Document, Section, collapse
from mmembed.documents.plain import read_bytes
from mmembed.documents.tree import parse, read_images, read_sections

_CHARSET = re.compile(rb"charset\s*=\s*[\"']?\s*([\w.:-]+)|<\?xml[^>]*encoding\s*=\s*[\"']([\w.:-]+)", re.IGNORECASE)
_LANGUAGE = re.compile(rb"<html\b[^>]*\slang\s*=\s*[\"']?\s*([\w-]+)", re.IGNORECASE)
_ASIDE = ("nav", "footer", "aside", "header", "form", "a", "script", "style", "noscript", "template", "svg")
_MAIN_SHARE = 0.35  # of what is visible and no menu: with less, trafilatura has taken a part of the page for all of it
_MAIN_TEXT = 250  # characters: less than this and trafilatura has found a stub, or nothing


def read(source: Path | bytes, uri: str, images: bool) -> Document:
    """Boilerplate (menus, footers, advertisements) is left out of the text, not of the pictures."""
    content = read_bytes(source, uri)
    charset = _CHARSET.search(content[:2048])
    declared = (charset[1] or charset[2]).decode("ascii") if charset else None
    language = _LANGUAGE.search(content[:4096])
    decoded = decode(content, uri, declared=declared, language=language[1].decode("latin-1") if language else None)
    html = decoded.text
    tree = parse(html)
    if tree is None:
        return Document(uri, None, ())
    sections = _main_sections(html)
    if sum(len(section.text) for section in sections) < max(1, _MAIN_SHARE * _prose(tree)):
        sections = read_sections(tree)
    found = [*decoded.problems, *(read_images(tree, source, uri) if images else ())]
    headed = next((section.headings[0] for section in sections if section.headings), None)
    return Document.of(uri, _title(tree) or headed, sections, found)


def _title(tree: lxml.html.HtmlElement) -> str:
    """The first title but for those of drawings inside the page: an icon has one too."""
    titles = (title for title in tree.iter("title") if next(title.iterancestors("svg", "math"), None) is None)
    return next((text for title in titles if (text := collapse(title.text_content()))), "")


def _prose(tree: lxml.html.HtmlElement) -> int:
    """Characters of visible text outside of menus, forms and links."""
    length = 0
    steps = etree.iterwalk(tree, events=("start", "end"), tag=None)
    for event, element in steps:
        if event == "end":
            length += len(collapse(element.tail or ""))
        elif element.tag in _ASIDE or element.tag == "head":
            steps.skip_subtree()
        else:
            length += len(collapse(element.text or ""))
    return length


def _main_sections(html: str) -> tuple[Section, ...]:
    """What trafilatura takes for the page's own text, with its headings; () where it is next to nothing."""
    main = trafilatura.extract(
        html,
        output_format="html",
        include_formatting=True,
        include_tables=True,
        include_comments=False,
        favor_recall=True,  # otherwise the headings of a page without <article> are lost
    )
    if not main:
        return ()
    tree = etree.fromstring(main)
    for code in tree.iterfind(".//p/pre"):  # trafilatura has one element for lines of code and a word of it
        code.tag = "code"
    sections = read_sections(tree)
    return sections if sum(len(section.text) for section in sections) >= _MAIN_TEXT else ()
