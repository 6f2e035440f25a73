"""Colours as a file means them: in sRGB, as browsers show them, and every mode in RGB, transparency on white."""

from __future__ import annotations

import io
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms

_SOURCES = {"RGB": "RGB", "RGBX": "RGB", "RGBA": "RGB", "L": "L", "LA": "L", "CMYK": "CMYK"}
_CLOSE = 2  # of 255: a profile that moves no colour farther is sRGB
_SRGB = ImageCms.createProfile("sRGB")


def managed(image: Image.Image) -> Image.Image:
    """A decoded image whose profile is not sRGB -> one in sRGB, transparency kept; any other as it is.

    Whatever is wrong with a profile (damaged, of another colour space) leaves the image as it is.
    """
    profile = image.info.get("icc_profile")
    if not isinstance(profile, bytes) or image.mode not in {*_SOURCES, "P"}:
        return image
    if image.mode == "P" or (image.has_transparency_data and image.mode in ("RGB", "L")):
        grey = image.mode == "L"
        image = image.convert("LA" if grey else "RGBA" if image.has_transparency_data else "RGB")
    source = _SOURCES[image.mode]
    transform = _transform_from(profile, source)
    if transform is None:
        return image
    colours = image if image.mode == source else image.convert(source)
    shown = ImageCms.applyTransform(colours, transform)
    if shown is not None and image.mode in ("RGBA", "LA"):
        shown.putalpha(image.getchannel("A"))
    return shown or image


@lru_cache(maxsize=16)  # most files of a folder have one of a few
def _transform_from(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """What brings pixels of a mode to sRGB; None where that changes next to nothing, or cannot be told."""
    try:
        transform = ImageCms.buildTransform(ImageCms.ImageCmsProfile(io.BytesIO(profile)), _SRGB, mode, "RGB")
        if mode == "CMYK":
            return transform
        tried = _palette(mode)
        moved = ImageCms.applyTransform(tried, transform)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None
    apart = np.asarray(moved).astype(int) - np.asarray(tried.convert("RGB"))
    return transform if np.abs(apart).max() > _CLOSE else None


def _palette(mode: str) -> Image.Image:
    """Every ninth of each channel, or all greys."""
    if mode == "L":
        return Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    steps = np.linspace(0, 255, 9).astype(np.uint8)
    return Image.fromarray(np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(27, 27, 3))


def to_rgb(image: Image.Image) -> Image.Image:
    """Any mode -> RGB. Before resizing: palettes, bits and transparency do not interpolate."""
    if image.mode.startswith("I;16"):
        grey = np.asarray(image)
        rgb = Image.fromarray(((grey + np.uint32(128)) // 257).astype(np.uint8)).convert("RGB")
        clear = image.info.get("transparency")  # in a 16-bit PNG, the one grey that is see-through
        if isinstance(clear, int):
            rgb.paste("white", mask=Image.fromarray(grey == clear))
        return rgb
    if image.mode in ("I", "F"):
        whites = (65535,) if image.mode == "I" else (1, 255, 65535)
        return Image.fromarray(_scaled(np.asarray(image), whites=whites)).convert("RGB")
    if image.mode in ("La", "RGBa"):  # premultiplied
        image = image.convert("LA" if image.mode == "La" else "RGBA")
    if image.has_transparency_data:
        pixels = image if image.mode == "RGBA" else image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(pixels, mask=pixels)
        return white
    return image if image.mode == "RGB" else image.convert("RGB")


def _scaled(values: npt.NDArray[Any], *, whites: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """Grey values `(height, width)` -> uint8, not clipped.

    White is the first of `whites` that no value exceeds. Where there is none, or values are negative,
    the least value becomes black and the greatest white. Infinities count as these, not-a-number as black.
    """
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    white = next((w for w in whites if low >= 0 and high <= w), None)
    black, span = (low, (high - low) or 1.0) if white is None else (0.0, float(white))
    grey = np.nan_to_num(values.astype(np.float64), copy=False, nan=black, posinf=high, neginf=low)
    grey -= black
    grey *= 255 / span
    return np.rint(grey, out=grey).astype(np.uint8)
