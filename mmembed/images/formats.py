"""What Pillow reads otherwise than others show it, format by format, and files that end too soon."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import numpy as np
from PIL import GifImagePlugin, Image, ImageFile, TiffImagePlugin, TiffTags

_ENOUGH = 0.75  # of the rows
_PARTIAL = ("JPEG", "PNG")
_HELD_BACK = 32  # rows that libjpeg keeps until it has seen what follows: two of its blocks
_SOS, _SOF2, _EOI = b"\xff\xda", b"\xff\xc2", b"\xff\xd9"  # a scan, a progressive frame, the end of a JPEG
_TAGS = {tag.name: number for number, tag in TiffTags.TAGS_V2.items()}
_PLANAR, _BITS, _COLOURS = (_TAGS[name] for name in ("PlanarConfiguration", "BitsPerSample", "ColorMap"))


def refuse_misread(image: Image.Image) -> None:
    """Raise ValueError for what Pillow would decode to noise: 16-bit channels that lie one after another."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        bits = image.tag_v2.get(_BITS, (8,))
        if image.tag_v2.get(_PLANAR) == 2 and len(bits) > 1 and max(bits) > 8:
            raise ValueError("its channels of 16 bits lie one after another: save it with interleaved channels")


def mended(image: Image.Image) -> Image.Image:
    """A decoded image, put right where Pillow reads it otherwise than it is meant.

    The colours of a TIFF's palette are 16-bit numbers, and 8-bit ones in files of some scanners: libtiff tells them by
    none being above 255. What a GIF's first frame does not cover of the screen is transparent.
    """
    if isinstance(image, TiffImagePlugin.TiffImageFile) and image.mode == "P":
        colours = image.tag_v2.get(_COLOURS, ())
        if colours and 0 < max(colours) <= 255:
            image.putpalette(np.array(colours, dtype=np.uint8).reshape(3, -1).T.tobytes())
    covered = image.dispose_extent if isinstance(image, GifImagePlugin.GifImageFile) else None
    if covered is not None and covered != (0, 0, *image.size):
        screen = Image.new("RGBA", image.size, (0, 0, 0, 0))
        screen.paste(image.convert("RGBA").crop(covered), covered[:2])
        return screen
    return image


def as_far_as_it_goes(open_again: Callable[[bytes], ImageFile.ImageFile]) -> tuple[Image.Image, int] | None:
    """A JPEG or PNG that ends too soon -> what there is of it, on white, and how many rows that is.

    None where less than three quarters of the rows are there. `open_again` opens the file anew with some bytes added to
    its end.
    """
    head = open_again(b"")
    if head.format not in _PARTIAL:
        return None
    if _has_a_second_scan(head):
        return _decoded_on(open_again(_EOI), 0), head.height
    on_black, on_white = (_decoded_on(open_again(b""), fill) for fill in (0, 255))
    missing = np.asarray(on_black) != np.asarray(on_white)  # what the decoder did not touch
    rows = int(np.argmax(missing.reshape(len(missing), -1).any(axis=1))) if missing.any() else head.height
    if rows < _ENOUGH * head.height:
        return None
    if head.format == "JPEG" and head.height - rows <= _HELD_BACK:  # it may lack nothing but its end
        return _decoded_on(open_again(_EOI), 0), head.height
    there = on_black.convert("RGBA") if head.mode == "P" else on_black
    white: int | tuple[int, ...] = {"CMYK": 0, "I;16": 65535, "I": 65535}.get(head.mode, 255)
    bands = len(there.getbands())
    there.im.paste(white if bands == 1 else (white,) * bands, (0, rows, *head.size))
    return there, rows


def _has_a_second_scan(image: ImageFile.ImageFile) -> bool:
    """Whether it is a progressive JPEG of which all rows are there, if coarsely: libjpeg shows none before the end."""
    if image.format != "JPEG" or not image.info.get("progressive") or image.fp is None:
        return False
    image.fp.seek(0)
    content = image.fp.read()
    return content.count(_SOS, max(content.rfind(_SOF2), 0)) > 1


def _decoded_on(image: ImageFile.ImageFile, fill: int) -> Image.Image:
    ImageFile.ImageFile.load_prepare(image)  # the pixels, which decoding goes on with
    bands = len(image.getbands())
    image.im.paste(fill if bands == 1 else (fill,) * bands, (0, 0, *image.size))
    with contextlib.suppress(OSError, SyntaxError, ValueError):  # which it raised before
        image.load()
    decoded = Image.Image()._new(image.im)
    decoded.info = image.info
    if image.mode == "P":
        decoded.palette = image.palette
    return decoded
