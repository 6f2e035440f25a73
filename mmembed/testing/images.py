"""The pictures that encoders are tried with: made here, of integers only, so that they are the same everywhere."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image

_SIZES = ((64, 48), (48, 64), (200, 200), (17, 31), (96, 12))
_EXTREME_SIZES = ((1, 1), (1, 1000), (3000, 8))
_SIDES = (24, 16)  # of the pictures in files
_COLOUR = (200, 30, 60)


@dataclass(frozen=True)
class ImageFile:
    """A file, and the upright RGB picture that it holds."""

    name: str
    content: bytes
    shows: Image.Image


def images() -> dict[str, Image.Image]:
    """ "64x48" -> an RGB picture of that size; no two are alike."""
    return {f"{w}x{h}": Image.fromarray(_scene(w, h, seed)) for seed, (w, h) in enumerate(_SIZES)}


def extreme_images() -> dict[str, Image.Image]:
    """The same of sizes that are rare, but that every folder of a website has."""
    return {f"{w}x{h}": Image.fromarray(_scene(w, h, 1)) for w, h in _EXTREME_SIZES}


def unconverted_images() -> dict[str, tuple[Image.Image, Image.Image]]:
    """Mode -> a picture as Pillow opens it, and the upright RGB picture that it shows on a white page."""
    odd: dict[str, tuple[Image.Image, Image.Image]] = {}
    for file in sample_files():
        image: Image.Image = Image.open(io.BytesIO(file.content))
        if ExifTags.Base.Orientation in image.getexif():
            odd[f"{image.mode}, turned by EXIF"] = (image, file.shows)
        elif image.mode != "RGB":
            odd[image.mode] = (image, file.shows)
    return odd


def sample_files() -> list[ImageFile]:
    """A file of every mode that Pillow writes, with what each must look like on a white page."""
    rgb = _scene(*_SIDES, 1)
    grey = np.ascontiguousarray(rgb[:, :, 0])
    solid = np.arange(grey.size).reshape(grey.shape) % 5 > 1  # elsewhere the transparent ones show the page
    bits, alpha = grey > 127, np.where(solid, 255, 0).astype(np.uint8)
    cmyk = np.dstack([255 - rgb, np.zeros_like(grey)])
    palette, sideways = _palette(solid), _jpeg(rgb, orientation=6)
    coloured, plain = Image.fromarray(rgb), Image.fromarray(grey)
    one_colour = Image.new("RGB", _SIDES, _COLOUR)
    turned = _rgb(np.rot90(np.asarray(Image.open(io.BytesIO(sideways))), -1))  # to the right, and without its EXIF
    return [
        ImageFile("PNG, RGB", _bytes(coloured, "PNG"), coloured),
        ImageFile("PNG, 1", _bytes(Image.fromarray(bits), "PNG"), _rgb(np.where(bits, 255, 0))),
        ImageFile("PNG, L", _bytes(plain, "PNG"), _rgb(grey)),
        ImageFile("PNG, LA", _bytes(Image.fromarray(np.dstack([grey, alpha])), "PNG"), _on_white(_rgb(grey), solid)),
        ImageFile("PNG, RGBA", _bytes(Image.fromarray(np.dstack([rgb, alpha])), "PNG"), _on_white(coloured, solid)),
        ImageFile("PNG, P", _bytes(palette, "PNG", transparency=0), _on_white(one_colour, solid)),
        ImageFile("GIF, P", _bytes(palette, "GIF", transparency=0), _on_white(one_colour, solid)),
        ImageFile("PNG, I;16", _bytes(Image.fromarray(grey.astype(np.uint16) * 257), "PNG"), _rgb(grey)),
        ImageFile("TIFF, F", _bytes(Image.fromarray(grey.astype(np.float32) / 255), "TIFF"), _rgb(grey)),
        ImageFile("TIFF, CMYK", _bytes(Image.fromarray(cmyk, "CMYK"), "TIFF"), coloured),
        ImageFile("WebP, RGB", _bytes(coloured, "WEBP", lossless=True), coloured),
        ImageFile("JPEG lying on its side", sideways, turned),
    ]


def broken_files() -> dict[str, bytes]:
    """Name -> content of files that are no pictures, or no longer."""
    png, jpeg = _bytes(Image.fromarray(_scene(64, 64, 3)), "PNG"), _jpeg(_scene(64, 64, 3), orientation=1)
    return {
        "an empty file": b"",
        "a text file": b"this is not a picture",
        "a truncated PNG": png[: len(png) // 2],
        "a truncated JPEG": jpeg[: len(jpeg) // 3],
        "a damaged PNG": png[:60] + bytes(byte ^ 0x5A for byte in png[60:]),
    }


def _scene(width: int, height: int, seed: int) -> npt.NDArray[np.uint8]:
    """`(height, width, 3)`: two ramps and a chequerboard, in an order of channels that follows the seed."""
    y, x = np.mgrid[0:height, 0:width]
    across, down = x * 255 // max(width - 1, 1), y * 255 // max(height - 1, 1)
    board = np.where((4 * x // width + 4 * y // height + seed) % 2, 230, 40)
    return np.roll(np.dstack([across, down, board]), seed, axis=2).astype(np.uint8)


def _palette(solid: npt.NDArray[np.bool_]) -> Image.Image:
    """Two colours of a palette, the first of which is meant to be see-through."""
    image = Image.fromarray(solid.astype(np.uint8), "P")
    image.putpalette([10, 20, 30, *_COLOUR])
    return image


def _rgb(values: npt.NDArray[np.integer]) -> Image.Image:
    """`(height, width)` greys or `(height, width, 3)`."""
    whole = values if values.ndim == 3 else np.dstack([values] * 3)
    return Image.fromarray(whole.astype(np.uint8))


def _on_white(image: Image.Image, solid: npt.NDArray[np.bool_]) -> Image.Image:
    return _rgb(np.where(solid[:, :, None], np.asarray(image), 255))


def _bytes(image: Image.Image, format: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def _jpeg(rgb: npt.NDArray[np.uint8], *, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return _bytes(Image.fromarray(rgb), "JPEG", exif=exif, quality=95)
