"""Files that would take far longer to decode than their size in pixels says: found before they are decoded."""

from __future__ import annotations

import re
from typing import IO

from mmembed.errors import UnreadableImage

_MOST_SCANS = 100  # of a JPEG: libjpeg goes over the whole picture once a scan, and a scan may be 75 bytes
_MOST_MARKERS = 20_000  # in one with so many scans
_MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])", re.DOTALL)  # but for those within a scan
_PPM_HEAD_BYTES = 64 << 10  # Pillow reads it byte by byte


def check_bounds(stream: IO[bytes], name: str, uri: str) -> None:
    """Raise UnreadableImage for a file whose size says nothing of the time that it takes; reads it whole."""
    stream.seek(0)
    if name == "PPM":
        head = stream.read(_PPM_HEAD_BYTES)
        if len(head) == _PPM_HEAD_BYTES and len(re.sub(rb"#[^\r\n]*[\r\n]?", b" ", head).split(None, 4)) < 4:
            raise UnreadableImage(f"{uri}: broken PPM picture (its head is longer than {_PPM_HEAD_BYTES >> 10} KiB)")
    elif name == "JPEG" and _has_too_many_scans(stream.read()):
        raise UnreadableImage(f"{uri}: a JPEG of more than {_MOST_SCANS} scans: save it again, as any program does")


def _has_too_many_scans(content: bytes) -> bool:
    """Whether more scans than any program writes stand before the end of the picture; what follows does not count."""
    if content.count(b"\xff\xda") <= _MOST_SCANS:
        return False
    at, scans, markers = 2, 0, 0
    while (found := _MARKER.search(content, at)) and found[1] != b"\xd9":
        markers += 1
        scans += found[1] == b"\xda"
        if scans > _MOST_SCANS or markers > _MOST_MARKERS:
            return True
        at = found.end()
        if found[1] not in (b"\x01", b"\xd8"):
            at += max(2, int.from_bytes(content[at : at + 2], "big"))
    return False
