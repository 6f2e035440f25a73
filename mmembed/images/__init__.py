"""Pictures: any file that a camera or a browser makes -> upright RGB, many at a time and in order."""

from __future__ import annotations

import io
import re
import threading
import warnings
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageFile

from mmembed.errors import ImageTooLarge, UnreadableImage
from mmembed.images.bounds import check_bounds
from mmembed.images.colours import managed, to_rgb
from mmembed.images.formats import as_far_as_it_goes, mended, refuse_misread
from mmembed.types import ImageContent

MAX_PIXELS = 128_000_000
"""Pillow holds 4 bytes a pixel and two copies while it turns a picture: 1 GB at this limit, 1.5 GB with
transparency, for each thread that decodes."""

IMAGE_SUFFIXES = frozenset(
    {".apng", ".avif", ".bmp", ".gif", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".mpo", ".pbm", ".pgm"}
    | {".png", ".pnm", ".ppm", ".qoi", ".tif", ".tiff", ".webp"}
)

# Pillow opens forty formats, some through Ghostscript or parsers that nobody fuzzes. No other is ever tried.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF", "JPEG2000", "PPM", "QOI")
# JPEG 2000 and PPM are decoded under the interpreter's lock: nothing else runs meanwhile
_SLOW_HEADS = (b"P", b"\xff\x4f\xff\x51", b"\x00\x00\x00\x0cjP")
_SLOW_PIXELS = 500_000  # of such a file from a stranger
_PLAIN_BYTES = 64 << 10  # of one in which the numbers are written out

_UPRIGHT = {  # EXIF orientation -> what undoes it
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_warning_filters = threading.Lock()


@dataclass(frozen=True)
class DecodedImage:
    """One decoded picture and what its file says about it."""

    image: Image.Image  # upright RGB, without metadata
    width: int  # of the upright picture
    height: int
    taken_at: str | None  # ISO 8601, with an offset where the camera wrote one
    format: str  # "JPEG", "PNG", ...; "" of one that was in memory
    problem: str = ""  # what is wrong with a picture that could be read all the same


def load_image(source: ImageContent, *, uri: str, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """An image, wherever it is -> upright RGB. See `read_image`."""
    return read_image(source, uri=uri, max_pixels=max_pixels).image


def read_image(source: ImageContent, *, uri: str, max_pixels: int = MAX_PIXELS) -> DecodedImage:
    """A file, its bytes, an image in memory or an array -> upright RGB picture with what EXIF says.

    Colours are brought to sRGB where a profile is embedded, EXIF orientation is applied, transparency is laid on
    white, greys of more than 8 bits are scaled and not clipped, of an animation the first frame is taken. Of a JPEG or
    PNG that ends too soon, but with three quarters of its rows, the rest is white, and `problem` says so.

    Raises:
        ImageTooLarge: more than `max_pixels`; no pixel has been decoded.
        UnreadableImage: not there, not a picture, or a broken one; an array of another shape or type.
    """
    if not isinstance(source, Path | bytes):
        held = _of_array(source, uri) if isinstance(source, np.ndarray) else source
        if not isinstance(held, Image.Image):
            raise UnreadableImage(
                f"{uri}: a {type(held).__name__} is no image: give a path, the bytes of a file, a PIL.Image or an array"
            )
        _check_size(uri, held.size, max_pixels)
        return _upright(held, f"{uri}: cannot be decoded")
    with ExitStack() as stack:
        image = _open(source, uri, max_pixels, stack)
        try:
            return _upright(image, f"{uri}: broken {image.format} picture")
        except UnreadableImage as exc:
            if (partial := _partial(source, uri, max_pixels, str(exc))) is None:
                raise
            return partial


def _partial(source: Path | bytes, uri: str, max_pixels: int, fault: str) -> DecodedImage | None:
    """What there is of a file that ends too soon, None where that is too little."""
    content = source if isinstance(source, bytes) else source.read_bytes()
    with ExitStack() as stack:
        try:
            found = as_far_as_it_goes(lambda ending: _open(content + ending, uri, max_pixels, stack))
        except Exception:  # as below; what is wrong with it has been said
            return None
        if found is None:
            return None
        there, rows = found
        head = _open(content, uri, max_pixels, stack)
        return replace(
            _upright(there, fault),
            format=head.format or "",
            problem=f"{fault}: {rows} of {there.height} rows are shown",
        )


def _of_array(array: npt.NDArray[np.uint8], uri: str) -> Image.Image:
    """`(height, width)` or `(height, width, 1 | 3 | 4)` uint8 -> grey, RGB or RGBA."""
    flat = array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array
    coloured = flat.ndim == 3 and flat.shape[2] in (3, 4)
    if array.dtype != np.uint8 or not array.size or not (flat.ndim == 2 or coloured):
        raise UnreadableImage(
            f"{uri}: an array of {array.dtype} of the shape {array.shape} is no image: give uint8 of (height, width), "
            f"or of (height, width, 1, 3 or 4) for grey, RGB or RGBA"
        )
    return Image.fromarray(flat)


def _upright(image: Image.Image, fault: str) -> DecodedImage:
    """Decode it and turn it; `fault` begins the sentence about one that is broken."""
    try:
        refuse_misread(image)
        with _without_bomb_warning(image.width * image.height):
            image.load()
        exif = _exif(image)  # after load(): TIFF turns itself and drops the tag
        rgb = to_rgb(managed(mended(image)))
    except Exception as exc:  # on broken files Pillow's decoders raise nearly anything
        raise UnreadableImage(f"{fault} ({_reason(exc)})") from exc
    turn = _UPRIGHT.get(exif.get(ExifTags.Base.Orientation, 1))
    upright = rgb if turn is None else rgb.transpose(turn)
    if upright is image:
        upright = image._new(image.im)  # the same pixels without the file: copy() costs half as much as decoding
    upright.info = {}  # an orientation left in here would be applied a second time by whoever saves or turns it
    return DecodedImage(upright, upright.width, upright.height, _taken_at(exif), image.format or "")


def upright_rgb(image: Image.Image) -> Image.Image:
    """An image in memory, of any mode -> upright RGB on white, without metadata: just as `read_image` brings it.

    What every encoder does with what it is given; one that is in order already costs microseconds.

    Raises UnreadableImage for what is no PIL.Image, or cannot be decoded.
    """
    if not isinstance(image, Image.Image):
        raise UnreadableImage(f"a {type(image).__name__} is no image: give a PIL.Image, `load_image` reads files")
    return _upright(image, "a picture cannot be decoded").image


def pixel_size(source: Path | bytes, *, uri: str, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Width and height as the head of the file has them, before anything is decoded or turned upright.

    Raises ImageTooLarge and UnreadableImage as `read_image` does.
    """
    with ExitStack() as stack:
        return _open(source, uri, max_pixels, stack).size


def check_quick(source: Path | bytes, *, uri: str) -> None:
    """For files of strangers: raise UnreadableImage for one beside which nothing runs, a second a million pixels."""
    with ExitStack() as stack:
        head = _head_of(source, uri)
        if not head.startswith(_SLOW_HEADS):
            return
        image = _open(source, uri, MAX_PIXELS, stack)
        if image.format not in ("JPEG2000", "PPM"):
            return
        plain = image.format == "PPM" and head[:2] in (b"P1", b"P2", b"P3")
        size = len(source) if isinstance(source, bytes) else source.stat().st_size
        if image.width * image.height > _SLOW_PIXELS or (plain and size > _PLAIN_BYTES):
            most = f"{_PLAIN_BYTES >> 10} KiB" if plain else f"{_SLOW_PIXELS:,} pixels"
            raise UnreadableImage(
                f"{uri}: {image.width} x {image.height} pixels in {image.format}, of which at most {most} are taken "
                f"from a request: send it as PNG or JPEG"
            )


def _head_of(source: Path | bytes, uri: str) -> bytes:
    if isinstance(source, bytes):
        return source[:32]
    try:
        with source.open("rb") as stream:
            return stream.read(32)
    except OSError as exc:
        raise UnreadableImage(f"{uri}: cannot be read ({exc.strerror or exc})") from exc


def _open(source: Path | bytes, uri: str, max_pixels: int, stack: ExitStack) -> ImageFile.ImageFile:
    """Parse the header. Image.open would do, but for the pixel limit of the whole interpreter that it enforces."""
    stream: IO[bytes]
    try:
        stream = stack.enter_context(io.BytesIO(source) if isinstance(source, bytes) else source.open("rb"))
        head = stream.read(32)
    except OSError as exc:
        raise UnreadableImage(f"{uri}: cannot be read ({exc.strerror or exc})") from exc
    if not head:
        raise UnreadableImage(f"{uri}: the file is empty")
    if size := _webp_size(head):  # Pillow's parser of WebP already allocates the canvas
        _check_size(uri, size, max_pixels)
    Image.init()
    for name in _FORMATS:
        factory, accepts = Image.OPEN[name]
        try:
            if accepts is not None and accepts(head[:16]) is not True:  # a string: known, but not compiled in
                continue
            check_bounds(stream, name, uri)
            stream.seek(0)
            image = factory(stream, uri)
        except UnreadableImage:
            raise
        except Exception as exc:  # as above
            raise UnreadableImage(f"{uri}: broken {name} picture ({_reason(exc)})") from exc
        stack.enter_context(image)
        _check_size(uri, image.size, max_pixels)
        return image
    raise UnreadableImage(f"{uri}: not a picture in any of the formats {', '.join(_FORMATS)}")


def _check_size(uri: str, size: tuple[int, int], max_pixels: int) -> None:
    if size[0] * size[1] > max_pixels:
        raise ImageTooLarge(uri, *size, max_pixels)


def _webp_size(head: bytes) -> tuple[int, int] | None:
    """Width and height from the first 32 bytes of a WebP file, None for any other (RFC 9649, 2.4 to 2.7)."""
    if head[:4] != b"RIFF" or head[8:12] != b"WEBP" or len(head) < 30:
        return None
    if head[12:16] == b"VP8X":
        return int.from_bytes(head[24:27], "little") + 1, int.from_bytes(head[27:30], "little") + 1
    if head[12:16] == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return int.from_bytes(head[26:28], "little") & 0x3FFF, int.from_bytes(head[28:30], "little") & 0x3FFF


@contextmanager
def _without_bomb_warning(pixels: int) -> Generator[None, None, None]:
    """Pillow warns of large TIFFs only while decoding; our own limit has been checked by then.

    Filters belong to the whole interpreter, so they are touched for such pictures only, one at a time.
    """
    limit = Image.MAX_IMAGE_PIXELS
    if limit is None or pixels <= limit:
        yield
        return
    with _warning_filters, warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        yield


def _exif(image: Image.Image) -> Image.Exif:
    try:
        return image.getexif()
    except Exception:  # damaged metadata, sound pixels: the picture counts as upright and undated
        return Image.Exif()


def _taken_at(exif: Image.Exif) -> str | None:
    """EXIF DateTimeOriginal in ISO 8601; None where it is missing or not a date (cameras write zeros)."""
    try:
        tags = exif.get_ifd(ExifTags.IFD.Exif)
    except Exception:  # as above
        return None
    written = str(tags.get(ExifTags.Base.DateTimeOriginal, "")).strip(" \0")
    offset = str(tags.get(ExifTags.Base.OffsetTimeOriginal, "")).strip(" \0")
    try:
        moment = datetime.strptime(written, "%Y:%m:%d %H:%M:%S")
    except ValueError:
        return None
    return moment.isoformat() + (offset if re.fullmatch(r"[+-]\d\d:\d\d|Z", offset) else "")


def _reason(exc: Exception) -> str:
    return " ".join(str(exc).split()) or type(exc).__name__


def thumbnail_webp(image: Image.Image, *, side: int = 256) -> bytes:
    """An RGB picture -> WebP of at most `side` x `side` pixels, same proportions, never enlarged."""
    scale = min(1.0, side / max(image.size))
    if scale < 1:
        width, height = (max(1, round(length * scale)) for length in image.size)
        # A gap of 1 averages whole blocks first: four times as fast as 2, and 49 dB from the exact thumbnail.
        image = image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=1.0)
    out = io.BytesIO()
    image.save(out, "WEBP", quality=80, method=1)  # method 4, the default, takes three times as long
    return out.getvalue()
