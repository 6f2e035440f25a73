"""Items that a caller hands over: whether they can be what they say, and what tells one content from another."""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from mmembed.documents import DOCUMENT_SUFFIXES
from mmembed.images import read_image
from mmembed.sources.files import content_hash
from mmembed.sources.folders import printable
from mmembed.types import Failure, ImageContent, Item, Modality

SAID_BY_CALLER = "item"
"""The `source` of an item that says something of its content: it has the last word, as a manifest's line has."""

_INDEXED = {"image": "images", "text": "documents"}


def checked_item(item: Item, modality: Modality) -> Item | Failure:
    """An item as a caller gave it -> as an index run takes it, or what is wrong with it."""
    if fault := _fault(item, modality):
        uri = printable(str(item.uri)) or "an item"
        return Failure(uri, f"{uri}: {fault}")
    said = item.payload or item.caption
    source = item.source or (SAID_BY_CALLER if said else None)
    return replace(item, source=source, id=None if item.id is None else str(uuid.UUID(item.id)))


def _fault(item: Item, modality: Modality) -> str | None:
    if not isinstance(item.uri, str) or not item.uri.strip() or printable(item.uri) != item.uri:
        return "its uri is empty or not valid UTF-8: give it a name"
    if item.modality != modality:
        return f"its modality is {item.modality!r}, and {_INDEXED[modality]} are indexed here: hand it to the other"
    if item.id is not None:
        try:
            uuid.UUID(item.id)
        except (ValueError, AttributeError, TypeError):
            return f"its id {item.id!r} is no UUID: give one such as uuid.uuid5 of its name, or none"
    given = [name for name in ("path", "content", "text") if getattr(item, name) is not None]
    if len(given) != 1:
        return f"its content is one of path, content and text, and it has {' and '.join(given) or 'none of them'}"
    path: object = item.path
    if not isinstance(path, Path | None):
        return f"its path is a {type(path).__name__}: write Path(...) around it"
    return _fault_of_image(item) if modality == "image" else _fault_of_document(item)


def _fault_of_image(item: Item) -> str | None:
    if item.text is not None:
        return "an image has no text: give what is said of it as its caption"
    if item.path is None and not isinstance(item.content, bytes | np.ndarray | Image.Image):
        return f"a {type(item.content).__name__} is no image: give bytes, a PIL.Image or an array of uint8"
    return None


def _fault_of_document(item: Item) -> str | None:
    if item.text is not None:
        return None if isinstance(item.text, str) else f"its text is a {type(item.text).__name__}, not a string"
    if item.path is None and not isinstance(item.content, bytes):
        return f"a {type(item.content).__name__} is no document: give the bytes of a file, or its text"
    name = item.path or Path(item.uri)
    if name.suffix.lower() not in DOCUMENT_SUFFIXES:
        kinds = ", ".join(sorted(DOCUMENT_SUFFIXES))
        return f"{name.name!r} does not say of which kind the document is: let its name end in one of {kinds}"
    return None


def image_content(item: Item) -> ImageContent:
    """What `mmembed.images.read_image` reads of an image."""
    if item.path is not None:
        return item.path
    return b"" if item.content is None else item.content


def item_hash(item: Item) -> str:
    """BLAKE2b of what the item holds, 32 hexadecimal digits; of an image in memory that of its upright RGB pixels.

    Raises UnreadableSource for a file that is not there, UnreadableImage for what cannot be decoded.
    """
    if item.path is not None:
        return content_hash(item.path)
    if item.text is not None:  # which is plain text, while a file's bytes may be Markdown
        return _hash(b"text\0", item.text.encode("utf-8", "surrogatepass"))
    if item.content is None or isinstance(item.content, bytes):
        return _hash(item.content or b"")
    pixels = read_image(item.content, uri=item.uri).image
    return _hash(f"RGB {pixels.width} {pixels.height}\0".encode(), pixels.tobytes())


def _hash(*parts: bytes) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def bytes_held(item: Item | Failure) -> int:
    """About how much memory its content takes while it waits."""
    if isinstance(item, Failure):
        return 0
    content = item.content
    if isinstance(content, Image.Image):
        return content.width * content.height * 4
    return content.nbytes if isinstance(content, np.ndarray) else len(content or item.text or "")
