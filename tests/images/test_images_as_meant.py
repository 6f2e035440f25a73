"""Colours, palettes, frames and ends of files: pictures as browsers show them, where Pillow alone reads others."""

from __future__ import annotations

import io
import struct
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms

from mmembed.encoders.registry import load_encoder
from mmembed.errors import UnreadableImage
from mmembed.images import read_image, upright_rgb
from mmembed.ingest import ingest_images
from mmembed.stores import open_store

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


def profile(gamma: float = 2.2, *, swapped: bool = False, grey: bool = False) -> bytes:
    """A matrix profile (ICC.1:2001-04): sRGB's primaries, red and green exchanged if `swapped`, and a plain gamma."""
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)
    xyz = {"r": (0.43607, 0.22249, 0.01392), "g": (0.38515, 0.71687, 0.09708), "b": (0.14307, 0.06061, 0.7141)}
    if swapped:
        xyz["r"], xyz["g"] = xyz["g"], xyz["r"]

    def place(numbers: tuple[float, ...]) -> bytes:
        return b"XYZ " + bytes(4) + b"".join(struct.pack(">i", round(number * 65536)) for number in numbers)

    white = (0.9642, 1.0, 0.8249)
    text = b"desc" + bytes(4) + struct.pack(">I", 2) + b"x\0" + bytes(78)
    tags = [(b"desc", text), (b"wtpt", place(white)), (b"cprt", b"text" + bytes(4) + b"x\0\0\0")]
    if grey:
        tags += [(b"kTRC", curve)]
    else:
        tags += [(f"{c}XYZ".encode(), place(xyz[c])) for c in "rgb"] + [(f"{c}TRC".encode(), curve) for c in "rgb"]
    table, body, start = b"", b"", 132 + 12 * len(tags)
    for name, content in tags:
        content = content.ljust(-(-len(content) // 4) * 4, b"\0")
        table += name + struct.pack(">II", start + len(body), len(content))
        body += content
    size = start + len(body)
    head = struct.pack(">I4sI4s4s4s", size, b"lcms", 0x02100000, b"mntr", b"GRAY" if grey else b"RGB ", b"XYZ ")
    head = head.ljust(36, b"\0") + b"acsp"
    head = head.ljust(68, b"\0") + place(white)[8:]
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def saved(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def scene(width: int = 64, height: int = 48) -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def shown(content: bytes) -> np.ndarray[Any, Any]:
    return np.asarray(read_image(content, uri="a").image).astype(int)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("icc", [profile(1.0), profile(2.2, swapped=True)], ids=["linear", "swapped"])
def test_colours_are_managed_to_srgb(format: str, icc: bytes) -> None:
    """With a profile that is not sRGB a picture is what littleCMS makes of it, in memory as well as in a file."""
    plain = saved(scene(), format, **({"quality": 95} if format in ("JPEG", "WEBP") else {}))
    content = saved(scene(), format, icc_profile=icc, **({"quality": 95} if format in ("JPEG", "WEBP") else {}))
    decoded = Image.open(io.BytesIO(plain)).convert("RGB")
    right = np.asarray(ImageCms.profileToProfile(decoded, io.BytesIO(icc), SRGB, outputMode="RGB")).astype(int)
    assert np.abs(shown(content) - right).max() <= 1
    assert np.abs(shown(plain) - right).mean() > 20
    assert np.array_equal(np.asarray(upright_rgb(Image.open(io.BytesIO(content)))), shown(content))


def test_a_profile_of_srgb_changes_nothing() -> None:
    """Of a picture in sRGB, and of one with a broken profile or one of another colour space, every pixel stays."""
    plain = shown(saved(scene()))
    for icc in (SRGB.tobytes(), b"no profile", profile()[:200], profile(grey=True)):
        assert np.array_equal(shown(saved(scene(), icc_profile=icc)), plain)


def test_transparency_and_orientation_come_after_the_profile() -> None:
    """Alpha is not managed, white behind it stays white, and the picture is upright; palettes and greys are managed."""
    pixels = np.dstack([np.asarray(scene()), np.where(np.arange(64) < 32, 0, 255)[None].repeat(48, 0)]).astype(np.uint8)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    made = shown(saved(Image.fromarray(pixels), icc_profile=profile(1.0), exif=exif))
    assert made.shape == (64, 48, 3)
    assert (made[:32] == 255).all()
    opaque = shown(saved(scene(), icc_profile=profile(1.0), exif=exif))
    assert np.array_equal(made[32:], opaque[32:])
    palette = scene().quantize(16)
    assert (
        np.abs(
            shown(saved(palette, icc_profile=profile(1.0)))
            - shown(saved(palette.convert("RGB"), icc_profile=profile(1.0)))
        ).max()
        <= 1
    )
    grey = shown(saved(Image.new("L", (4, 4), 55), icc_profile=profile(1.0, grey=True)))
    assert 125 < grey.min() <= grey.max() < 131  # 55 / 255 of the light is 128 in sRGB


@pytest.mark.parametrize(("format", "options"), [("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {})])
def test_what_ends_too_soon_is_read_as_far_as_it_goes(format: str, options: dict[str, Any], tmp_path: Path) -> None:
    """Rows that are there are right, the rest is white, a sentence says so, and the run reports it and goes on."""
    content = saved(scene(640, 480), format, **options)
    whole = shown(content)
    for cut in (100, len(content) // 10):
        read = read_image(content[:-cut], uri="a.jpg")
        assert read.format == format
        assert "rows" in read.problem
        assert "a.jpg: broken" in read.problem
        apart = np.abs(np.asarray(read.image).astype(int) - whole)
        assert apart[:360].mean() < 3
    (tmp_path / "cut").write_bytes(content[:-100])
    file = (tmp_path / "cut").rename(tmp_path / f"cut.{format.lower()}")
    with closing(open_store(":memory:")) as store:
        report = ingest_images(store, "images", [file], encoder=load_encoder("tiny"))
        assert report.embedded == 1
        (problem,) = report.failures
        assert problem.uri == str(file)
        assert "rows" in problem.error


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_half_a_file_is_no_picture(format: str) -> None:
    """Where less than three quarters of the rows are there it is refused, as are formats of which nobody knows."""
    content = saved(scene(640, 480), format)
    with pytest.raises(UnreadableImage, match="truncated"):
        read_image(content[: len(content) // 2], uri="a")
    webp = saved(scene(640, 480), "WEBP")
    with pytest.raises(UnreadableImage):
        read_image(webp[:-200], uri="a")


def test_rows_that_are_missing_are_white() -> None:
    """In every mode: palettes, greys of 16 bits, CMYK."""
    grey = np.asarray(scene(640, 480).convert("L")).astype(np.uint16) * 200
    black = np.zeros((480, 640), dtype=np.uint16)
    images = [scene(640, 480).quantize(200), Image.fromarray(np.maximum(black, grey)), scene(640, 480).convert("L")]
    for image in images:
        content = saved(image)
        assert (shown(content[: int(len(content) * 0.85)])[-5:] == 255).all(), image.mode


def test_a_gif_whose_frame_is_smaller_than_its_screen() -> None:
    """What the first frame does not cover is transparent, and so white."""
    image = Image.new("P", (20, 10))
    image.putpalette([255, 0, 0, 0, 0, 255])
    content = bytearray(saved(image, "GIF"))
    struct.pack_into("<HH", content, 6, 60, 40)
    made = shown(bytes(content))
    assert made.shape == (40, 60, 3)
    assert (made[:10, :20] == [255, 0, 0]).all()
    assert (made[10:] == 255).all()
    assert (made[:, 20:] == 255).all()


def test_a_palette_of_8_bits_in_a_tiff() -> None:
    """Colours of a TIFF's palette that are all below 256 are of 8 bits: not black."""
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, 200, 100, 50])
    content = bytearray(saved(image, "TIFF"))
    (place,) = struct.unpack_from("<I", content, content.find(struct.pack("<HHI", 320, 3, 768)) + 8)
    colours = struct.unpack_from("<768H", content, place)
    struct.pack_into("<768H", content, place, *(colour // 256 for colour in colours))
    assert (shown(bytes(content)) == [200, 100, 50]).all()
    assert (shown(saved(image, "TIFF")) == [200, 100, 50]).all()


def test_16_bit_planes_of_a_tiff_are_refused() -> None:
    """Pillow reads them as noise: they are refused with what to do."""
    planes = np.arange(3 * 8 * 8, dtype="<u2")
    entries = [(256, 3, 1, 8), (257, 3, 1, 8), (258, 3, 3, 200), (259, 3, 1, 1), (262, 3, 1, 2), (273, 4, 3, 206)]
    entries += [(277, 3, 1, 3), (278, 3, 1, 8), (279, 4, 3, 218), (284, 3, 1, 2)]
    head = b"II*\0" + struct.pack("<IH", 8, len(entries))
    head += b"".join(struct.pack("<HHII", *entry) for entry in entries) + bytes(4)
    head = head.ljust(200, b"\0") + struct.pack("<3H3I3I", 16, 16, 16, 230, 358, 486, 128, 128, 128)
    with pytest.raises(UnreadableImage, match="interleaved"):
        read_image(head.ljust(230, b"\0") + planes.tobytes(), uri="a.tif")
