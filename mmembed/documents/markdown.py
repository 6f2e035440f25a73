"""Markdown (CommonMark with tables), rendered to HTML and read from there, embedded HTML and all."""

from __future__ import annotations

import re
from pathlib import Path

from markdown_it import MarkdownIt

from mmembed.documents.parts import Document
from mmembed.documents.plain import read_text
from mmembed.documents.tree import parse, read_images, read_sections

# YAML between --- (Jekyll) or TOML between +++ (Hugo), at the very beginning
_FRONT_MATTER = re.compile(r"\A(---|\+\+\+)[ \t]*\n(.*?\n)??\1[ \t]*(?:\n|\Z)", re.DOTALL)
_TITLE = re.compile(r"^title[ \t]*[:=][ \t]*(.+?)[ \t]*$", re.MULTILINE)


def read(source: Path | bytes, uri: str, images: bool) -> Document:
    """Addresses of links, markup and comments are left out, their text and code blocks are kept.

    The title is that of the front matter, or else the first heading of the first level.
    """
    decoded = read_text(source, uri)
    text = decoded.text
    front = _FRONT_MATTER.match(text)
    named = _TITLE.search(front[2] or "") if front else None
    tree = parse(MarkdownIt("commonmark").enable("table").render(text[front.end() :] if front else text))
    if tree is None:
        return Document(uri, None, ())
    found = [*decoded.problems, *(read_images(tree, source, uri) if images else ())]
    heading = tree.find(".//h1")
    headed = heading.text_content().strip() if heading is not None else None
    title = named[1].strip("\"'") if named else None
    return Document.of(uri, title or headed, read_sections(tree), found)
