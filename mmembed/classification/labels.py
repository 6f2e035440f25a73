"""What a picture may show: labels, the texts that mean them, their hierarchy, and what competes with all of them."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmembed.classification.templates import SIMPLE_7, is_template
from mmembed.errors import InvalidLabels


@dataclass(frozen=True)
class Label:
    """One class. Texts are NFC with single spaces, whatever was given.

    Raises InvalidLabels where its name, one of its texts or a parent is empty.
    """

    name: str
    texts: tuple[str, ...] = ()  # what goes into the templates; none: the name
    parents: tuple[str, ...] = ()  # from the root down: ("animal", "pet")

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", clean(self.name, "a label"))
        object.__setattr__(self, "texts", tuple(clean(t, f"a text of label {self.name!r}") for t in self.texts))
        object.__setattr__(self, "parents", tuple(clean(p, f"a parent of label {self.name!r}") for p in self.parents))

    @property
    def terms(self) -> tuple[str, ...]:
        """The texts that go into the templates, at least one."""
        return self.texts or (self.name,)

    @property
    def path(self) -> str:
        """`"animal > pet > cat"`."""
        return " > ".join((*self.parents, self.name))


@dataclass(frozen=True)
class Labels:
    """A closed set of classes, how they are put into words, and the background they stand out from.

    Raises InvalidLabels for no label, two equal ones, a text of the background that is also one of a label,
    or a template without a place for the label.
    """

    labels: tuple[Label, ...]
    templates: tuple[str, ...] = SIMPLE_7
    background: tuple[str, ...] = ()  # texts that mean "none of these"; they go into the same templates

    def __post_init__(self) -> None:
        object.__setattr__(self, "background", tuple(clean(text, "a background text") for text in self.background))
        if not self.labels:
            raise InvalidLabels("no label was given: name what the pictures may show, such as cat,dog")
        if (twice := _first_twice(self.names)) is not None:
            raise InvalidLabels(f"label {twice!r} was given twice: two classes need two names")
        taken = {text for label in self.labels for text in (label.name, *label.terms)}
        if (twice := _first_twice(self.background)) is not None:
            raise InvalidLabels(f"background {twice!r} was given twice: name it once")
        if both := [text for text in self.background if text in taken]:
            raise InvalidLabels(f"{both[0]!r} is a label and background too: a picture cannot be it and none of these")
        if not self.templates:
            raise InvalidLabels("no template was given: '{}' alone takes labels as they stand")
        if missing := [template for template in self.templates if not is_template(template)]:
            raise InvalidLabels(f"template {missing[0]!r} has no place for the label: write {{}} where it goes")

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(label.name for label in self.labels)

    @property
    def is_hierarchy(self) -> bool:
        return any(label.parents for label in self.labels)

    @property
    def key(self) -> str:
        """64 hexadecimal digits: equal where each label is scored alike, in whatever order labels stand."""
        labels = sorted([label.name, *sorted(label.terms)] for label in self.labels)
        whole = [labels, sorted(self.templates), sorted(self.background)]
        return hashlib.sha256(json.dumps(whole).encode()).hexdigest()


def labels_of(
    labels: Labels | Sequence[str | Label],
    *,
    templates: Sequence[str] | None = None,
    background: Sequence[str] | None = None,
) -> Labels:
    """Names, taken as they stand -> Labels; templates and background replace those of Labels. Raises InvalidLabels."""
    for what, value in (("labels", labels), ("templates", templates), ("background", background)):
        if isinstance(value, str):
            raise InvalidLabels(f"{what} is a list, not the one text {value!r}: write [{value!r}]")
    if not isinstance(labels, Labels):
        labels = Labels(tuple(entry if isinstance(entry, Label) else Label(entry) for entry in labels))
    return Labels(
        labels.labels,
        templates=labels.templates if templates is None else tuple(templates),
        background=labels.background if background is None else tuple(background),
    )


def clean(text: str, what: str) -> str:
    """NFC, white space as single spaces. Raises InvalidLabels where nothing is left, or what is no text."""
    if not isinstance(text, str):
        raise InvalidLabels(f"{what} is {text!r}, not a text")
    cleaned = " ".join(unicodedata.normalize("NFC", text).split())
    if not cleaned:
        raise InvalidLabels(f"{what} is empty: leave it out or give it a name")
    if not cleaned.isascii() and any("\ud800" <= character <= "\udfff" for character in cleaned):
        raise InvalidLabels(f"{what} holds half a character (a lone surrogate): write it in UTF-8")
    return cleaned


def _first_twice(texts: Iterable[str]) -> str | None:
    return next((text for text, count in Counter(texts).items() if count > 1), None)


def parse_labels(text: str) -> Labels:
    """`"cat,dog"`, each as a line of a labels file: `"animal > cat, animal > dog | puppy"`. Raises InvalidLabels."""
    return Labels(tuple(_line(entry) for entry in text.split(",")))


def read_labels(file: Path) -> Labels:
    """A text file (one label a line) or a .json file -> Labels, with the default templates and no background.

    A line is `cat`, with groups before it (`animal > pet > cat`), with several texts that mean it
    (`cat | kitten | tomcat`: the first is its name), or both. Empty lines are passed over.
    JSON is a list of labels, or an object of groups that may be nested; a label is a text or
    `{"name": "cat", "texts": ["cat", "kitten"]}`.

    Raises InvalidLabels for a file that cannot be read, or what Labels refuses.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
        if file.suffix.lower() == ".json":
            return Labels(tuple(_nested(json.loads(text), ())))
        if lines := [line for line in text.split("\n") if line.strip()]:  # not at what else Unicode calls a line
            return Labels(tuple(map(_line, lines)))
    except InvalidLabels as exc:
        raise InvalidLabels(f"labels {str(file)!r}: {exc}") from exc
    except OSError as exc:
        raise InvalidLabels(f"labels {str(file)!r} cannot be read ({exc.strerror}): name a text or JSON file") from exc
    except (ValueError, RecursionError) as exc:
        raise InvalidLabels(f"labels {str(file)!r} are neither UTF-8 text nor JSON ({exc}): correct the file") from exc
    raise InvalidLabels(f"labels {str(file)!r} hold no line: write one label a line")


def _line(line: str) -> Label:
    *parents, terms = line.split(">")
    texts = tuple(terms.split("|"))
    return Label(texts[0], texts=texts if len(texts) > 1 else (), parents=tuple(parents))


def _nested(node: Any, parents: tuple[str, ...]) -> Iterator[Label]:
    """Labels below one node of a JSON file: a text, a label with texts, a list, or an object of groups."""
    if isinstance(node, str):
        yield Label(node, parents=parents)
    elif isinstance(node, list):
        for entry in node:
            yield from _nested(entry, parents)
    elif isinstance(node, dict) and isinstance(name := node.get("name"), str):
        if unknown := node.keys() - {"name", "texts"}:
            raise InvalidLabels(f"label {name!r} has {sorted(unknown)[0]!r}: a label has a name and texts alone")
        texts = node.get("texts", [])
        if not isinstance(texts, list):
            raise InvalidLabels(f"texts of label {name!r} are {json.dumps(texts)}, not a list: write [...]")
        yield Label(name, texts=tuple(texts), parents=parents)
    elif isinstance(node, dict):
        for group, below in node.items():
            yield from _nested(below, (*parents, group))
    else:
        raise InvalidLabels(f"{json.dumps(node)} is not a label: a label is a text, or an object with name and texts")
