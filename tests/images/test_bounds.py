"""Files that would take very long to decode: JPEGs of many scans, and what Python itself would have to read."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmembed.errors import UnreadableImage
from mmembed.images import check_quick, load_image, pixel_size

SOS = b"\xff\xda"


def jpeg(size: tuple[int, int] = (64, 64), *, progressive: bool = True) -> bytes:
    out = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)
    Image.fromarray(noise).save(out, "JPEG", progressive=progressive)
    return out.getvalue()


def with_scans(n: int, *, progressive: bool = True) -> bytes:
    """The last scan again and again, which libjpeg goes over the whole picture for each time."""
    content = jpeg(progressive=progressive)
    last = content.rindex(SOS)
    return content[:-2] + content[last:-2] * n + content[-2:]


def encoded(size: tuple[int, int], format: str) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, "red").save(out, format)
    return out.getvalue()


def test_scans_are_counted_before_decoding(tmp_path: Path) -> None:
    """A JPEG of more than a hundred scans is refused from memory and from a file, one of fewer is decoded."""
    file = tmp_path / "scans.jpg"
    file.write_bytes(with_scans(200))
    for source in (file, file.read_bytes()):
        with pytest.raises(UnreadableImage, match="more than 100 scans"):
            load_image(source, uri="a.jpg")
        with pytest.raises(UnreadableImage, match="more than 100 scans"):
            pixel_size(source, uri="a.jpg")
    assert load_image(with_scans(20), uri="a.jpg").size == (64, 64)


@pytest.mark.parametrize("content", [jpeg(), jpeg(progressive=False)])
def test_what_only_looks_like_scans_is_none(content: bytes) -> None:
    """What stands in metadata, or behind the picture as a film does, is not counted."""
    noted = content[:2] + b"\xff\xef" + (2 + 400).to_bytes(2, "big") + SOS * 200 + content[2:]
    assert load_image(noted + SOS * 5000, uri="a.jpg").size == (64, 64)


def test_a_head_without_end_is_not_read() -> None:
    """A PPM whose size is not within its first 64 KiB is refused: the decoder reads heads byte by byte."""
    for filling in (b"# nothing\n" * 2_000_000, b" " * 20_000_000, b"#" + b"x" * 20_000_000):
        with pytest.raises(UnreadableImage, match="head is longer than 64 KiB"):
            load_image(b"P6\n" + filling + b"1 1\n255\nabc", uri="a.ppm")
    commented = b"P6\n" + b"# nothing\n" * 100 + b"1 1\n255\nabc"
    assert load_image(commented, uri="a.ppm").getpixel((0, 0)) == (97, 98, 99)


@pytest.mark.parametrize("format", ["JPEG2000", "PPM"])
def test_slow_formats_of_strangers_are_bounded(format: str, tmp_path: Path) -> None:
    """JPEG 2000 and PPM of more than half a million pixels are refused where strangers send them, and nowhere else."""
    file = tmp_path / "large"
    file.write_bytes(encoded((1000, 501), format))
    for source in (file, file.read_bytes()):
        with pytest.raises(UnreadableImage, match="at most 500,000 pixels are taken from a request"):
            check_quick(source, uri="a")
    assert load_image(file, uri="a").size == (1000, 501)
    check_quick(encoded((1000, 500), format), uri="a")
    for other in ("PNG", "JPEG", "WEBP"):
        check_quick(encoded((1000, 1000), other), uri="a")


def test_numbers_written_out_are_bounded() -> None:
    """A PPM in plain text is refused by its bytes: comments between its numbers take minutes."""
    with pytest.raises(UnreadableImage, match="at most 64 KiB are taken"):
        check_quick(b"P3\n1 1\n255\n" + b"#\n" * 40_000 + b"1 1 1", uri="a.ppm")
    check_quick(b"P3\n1 1\n255\n1 1 1", uri="a.ppm")
