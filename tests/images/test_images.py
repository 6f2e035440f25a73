"""Pictures of every kind that a camera, a browser or a broken disk makes."""

from __future__ import annotations

import io
import resource
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import files
import numpy as np
import PIL
import pytest
from PIL import Image, ImageOps

from mmembed.errors import ImageTooLarge, InputError, SettingsError, UnreadableImage
from mmembed.images import IMAGE_SUFFIXES, load_image, read_image, thumbnail_webp
from mmembed.streams import load_in_order


def load(image: Image.Image, format: str = "PNG", **options: object) -> np.ndarray:
    """The pixels `(height, width, 3)` that come back from a file of `image`."""
    found = load_image(files.encoded(image, format, **options), uri="picture")
    assert found.mode == "RGB"
    return np.asarray(found)


def on_white(colour: tuple[int, int, int], alpha: int) -> np.ndarray:
    return np.rint(np.array(colour) * alpha / 255 + 255 * (255 - alpha) / 255)


@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF", "BMP", "PPM", "QOI", "JPEG2000"])
def test_lossless_formats_keep_every_pixel(format: str, tmp_path: Path) -> None:
    """A picture comes back from a lossless format as it went in, from a path as from bytes."""
    options = {"lossless": True} if format == "WEBP" else {}
    file = tmp_path / "picture"
    file.write_bytes(files.encoded(files.photo(), format, **options))
    found = read_image(file, uri="picture")
    assert np.array_equal(np.asarray(found.image), np.asarray(files.photo()))
    assert (found.width, found.height, found.format) == (48, 32, format)
    assert np.array_equal(load(files.photo(), format, **options), np.asarray(files.photo()))


@pytest.mark.parametrize("format", ["JPEG", "WEBP", "AVIF"])
def test_lossy_formats_come_close(format: str) -> None:
    """Smooth colours come back from a lossy format within a few levels."""
    assert np.abs(load(files.photo(), format).astype(int) - np.asarray(files.photo())).mean() < 4


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_every_exif_orientation_is_turned_upright_once(orientation: int, format: str) -> None:
    """Pixels are those of ImageOps.exif_transpose, and nothing is left that would turn them again."""
    content = files.encoded(files.photo(), format, exif=files.exif(orientation=orientation))
    found = read_image(content, uri="picture")
    with Image.open(io.BytesIO(content)) as stored:
        expected = ImageOps.exif_transpose(stored).convert("RGB")
    assert np.array_equal(np.asarray(found.image), np.asarray(expected))
    assert (found.width, found.height) == expected.size == ((48, 32) if orientation < 5 else (32, 48))
    assert found.image.getexif().get(0x0112, 1) == 1
    assert not found.image.info


def test_palette_is_looked_up_before_anything_else() -> None:
    """A palette picture has the colours of its palette, not its indices."""
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putdata([0, 1])
    assert load(image).tolist() == [[[10, 20, 30], [200, 100, 50]]]


@pytest.mark.parametrize("alpha", [0, 1, 100, 254, 255])
def test_transparency_is_laid_on_white(alpha: int) -> None:
    """RGBA and LA are alpha * colour + (1 - alpha) * white; hidden colours do not show."""
    rgba = load(Image.new("RGBA", (1, 1), (255, 0, 40, alpha)))[0, 0]
    grey = load(Image.new("LA", (1, 1), (40, alpha)))[0, 0]
    assert np.abs(rgba - on_white((255, 0, 40), alpha)).max() <= 1
    assert np.abs(grey - on_white((40, 40, 40), alpha)).max() <= 1


def test_transparent_palette_entries_and_colour_keys_are_white() -> None:
    """Transparency in a palette (P, PA), or as the one see-through colour of a grey or RGB picture, is white."""
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 200, 100, 50])
    palette.putdata([0, 1])
    assert load(palette, transparency=0).tolist() == [[[255, 255, 255], [200, 100, 50]]]
    half = load(palette, transparency=bytes([128, 255]))[0]
    assert np.abs(half[0] - on_white((10, 20, 30), 128)).max() <= 1
    assert load(Image.new("L", (1, 1), 7), transparency=7).tolist() == [[[255, 255, 255]]]
    assert load(Image.new("RGB", (1, 1), (7, 8, 9)), transparency=(7, 8, 9)).tolist() == [[[255, 255, 255]]]
    assert load(Image.new("1", (1, 1), 0), transparency=0).tolist() == [[[255, 255, 255]]]
    assert load(Image.new("RGB", (1, 1), (7, 8, 9)), transparency=(1, 8, 9)).tolist() == [[[7, 8, 9]]]


def test_one_bit_is_black_and_white() -> None:
    """Mode 1 becomes 0 and 255."""
    image = Image.new("1", (2, 1))
    image.putpixel((1, 0), 1)
    assert load(image).tolist() == [[[0, 0, 0], [255, 255, 255]]]


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_scaled_not_clipped(format: str) -> None:
    """All 65,536 greys come out as value / 257, rounded: what Pillow's own conversion clips to white."""
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    found = load(Image.fromarray(values), format)
    assert np.array_equal(found[..., 0], np.rint(values / 257).astype(np.uint8))
    assert (found[..., 0] == found[..., 2]).all()


def test_see_through_grey_of_a_sixteen_bit_png_is_white() -> None:
    """The one transparent grey of a 16-bit PNG is white, its neighbours are not."""
    image = Image.fromarray(np.array([[1000, 1001]], dtype=np.uint16))
    assert load(image, transparency=1000)[0, :, 0].tolist() == [255, 4]


def test_sixteen_bit_big_endian_tiff() -> None:
    """Greys of a TIFF with the greater byte first are read the right way round."""
    stored = Image.frombytes("I;16B", (2, 1), bytes([0x12, 0x34, 0xFF, 0xFF]))
    assert files.encoded(stored, "TIFF").startswith(b"MM")
    found = load(stored, "TIFF")
    assert found[0, :, 0].tolist() == [round(0x1234 / 257), 255]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),  # of [0, 1]
        ([0.0, 100.0, 255.0], [0, 100, 255]),  # 8-bit values
        ([0.0, 257.0, 65535.0], [0, 1, 255]),  # 16-bit values
        ([-1.0, 0.0, 1.0], [0, 128, 255]),  # by their range
        ([-2.0, np.nan, 2.0], [0, 0, 255]),
        ([-np.inf, 0.5, np.inf], [128, 128, 128]),  # infinities count as the greatest and least finite value
        ([np.nan, np.nan, np.nan], [0, 0, 0]),
        ([-3.0e38, 0.0, 3.0e38], [0, 128, 255]),
    ],
)
def test_floats_are_scaled_by_the_white_that_holds_them(values: list[float], expected: list[int]) -> None:
    """White is 1, 255, 65535 or the greatest value, whichever first holds all of them."""
    found = load(Image.fromarray(np.array([values], dtype=np.float32)), "TIFF")
    assert found[0, :, 0].tolist() == expected


def test_thirty_two_bit_integers_are_scaled() -> None:
    """Integers are taken for 16-bit greys where they fit, else black and white are their least and greatest."""
    fits = load(Image.fromarray(np.array([[0, 257, 65535]], dtype=np.int32)), "TIFF")
    wide = load(Image.fromarray(np.array([[-10, 0, 2_000_000_000]], dtype=np.int32)), "TIFF")
    assert fits[0, :, 0].tolist() == [0, 1, 255]
    assert wide[0, :, 0].tolist() == [0, 0, 255]


def test_other_colour_spaces_are_converted() -> None:
    """CMYK, YCbCr and Lab come out as the RGB that Pillow makes of them."""
    assert load(Image.new("CMYK", (1, 1), (0, 255, 255, 0)), "TIFF").tolist() == [[[255, 0, 0]]]
    assert np.abs(load(files.photo().convert("CMYK"), "JPEG").astype(int) - np.asarray(files.photo())).mean() < 4
    luma = load(files.photo().convert("YCbCr"), "TIFF", compression="tiff_lzw")
    assert np.abs(luma.astype(int) - np.asarray(files.photo())).mean() < 2
    assert load(Image.new("LAB", (1, 1), (255, 128, 128)), "TIFF").min() >= 254


@pytest.mark.skipif(int(PIL.__version__.partition(".")[0]) < 13, reason="Pillow reads these from 13 on")
def test_uncompressed_ycbcr_is_converted() -> None:
    """A TIFF of YCbCr without compression comes out as RGB too."""
    assert np.abs(load(files.photo().convert("YCbCr"), "TIFF").astype(int) - np.asarray(files.photo())).mean() < 2


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_first_frame_of_an_animation(format: str) -> None:
    """Of several frames the first is read."""
    red, blue = Image.new("RGB", (4, 4), "red"), Image.new("RGB", (4, 4), "blue")
    options = {"lossless": True} if format == "WEBP" else {}
    assert load(red, format, save_all=True, append_images=[blue], **options)[0, 0].tolist() == [255, 0, 0]


def test_one_pixel_and_one_row() -> None:
    """Pictures of one pixel, one row and one column are pictures."""
    for size in ((1, 1), (500, 1), (1, 500)):
        assert load_image(files.encoded(Image.new("RGB", size, "red")), uri="x").size == size


def test_thirty_thousand_squared_is_refused_unread() -> None:
    """900 million pixels are refused by their header: at once, and in next to no memory."""
    content = files.huge_png(30_000, 30_000)
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    with pytest.raises(ImageTooLarge, match="30000 x 30000 pixels are more than the 128,000,000 allowed"):
        load_image(content, uri="huge.png")
    assert time.perf_counter() - began < 0.5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kilobytes


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF", "JPEG2000", "PPM", "QOI"])
def test_limit_is_on_the_pixels_of_every_format(format: str) -> None:
    """A picture of exactly max_pixels is read, with one less allowed it is refused."""
    content = files.encoded(files.photo(40, 30), format)
    assert load_image(content, uri="x", max_pixels=1200).size == (40, 30)
    with pytest.raises(ImageTooLarge, match="40 x 30"):
        load_image(content, uri="x", max_pixels=1199)


@pytest.mark.parametrize("lossless", [False, True])
@pytest.mark.parametrize("exif", [None, files.exif(taken="2024:05:06 07:08:09")])
def test_webp_is_measured_before_pillow_allocates(lossless: bool, exif: Image.Exif | None) -> None:
    """All three headers of WebP (lossy, lossless, extended) are measured as Pillow would."""
    from mmembed.images import _webp_size

    content = files.encoded(files.photo(300, 77), "WEBP", lossless=lossless, exif=exif)
    assert _webp_size(content[:32]) == (300, 77)


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_limit_of_the_interpreter_is_neither_used_nor_changed(format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture over PIL's MAX_IMAGE_PIXELS and under max_pixels is read without a warning, and the former stays."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    content = files.encoded(files.photo(40, 30), format)
    assert load_image(content, uri="x").size == (40, 30)
    assert Image.MAX_IMAGE_PIXELS == 1000
    with pytest.warns(Image.DecompressionBombWarning):
        Image.open(io.BytesIO(content))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF", "JPEG2000", "PPM", "QOI"])
@pytest.mark.parametrize("kept", [0.05, 0.5, 0.95])
def test_cut_off_files_are_unreadable(format: str, kept: float) -> None:
    """A file that ends too soon is one UnreadableImage in one line, but for a PNG that has most of its rows."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    content = files.encoded(noise, format)
    if format == "PNG" and kept == 0.95:
        assert "60 of 64 rows" in read_image(content[: int(len(content) * kept)], uri="cut").problem
        return
    with pytest.raises(UnreadableImage, match=r"^cut: ") as caught:
        load_image(content[: int(len(content) * kept)], uri="cut")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"just some text, called .jpg", "not a picture in any of the formats"),
        (b"P", "not a picture|broken"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "not a picture in any of the formats"),
        (b"\xff\xd8\xff\xe0", "broken JPEG picture"),
        (b"\x89PNG\r\n\x1a\n", "broken PNG picture"),
        (b"RIFF\x00\x00\x00\x00WEBPVP8 ", "broken WEBP picture"),
    ],
)
def test_what_is_not_a_image_says_so(content: bytes, reason: str, tmp_path: Path) -> None:
    """Files that are no pictures are unreadable for a reason; no other parser of Pillow is tried."""
    file = tmp_path / "picture.jpg"
    file.write_bytes(content)
    with pytest.raises(UnreadableImage, match=reason):
        load_image(file, uri="picture.jpg")


def test_paths_that_cannot_be_opened(tmp_path: Path) -> None:
    """A folder and a path that is not there are unreadable for the system's reason."""
    with pytest.raises(UnreadableImage, match="Is a directory"):
        load_image(tmp_path, uri="folder")
    with pytest.raises(UnreadableImage, match="No such file"):
        load_image(tmp_path / "gone.jpg", uri="gone")


def test_file_without_permission() -> None:
    """A file that may not be read is unreadable for that reason."""
    with files.public_folder() as folder:
        file = folder / "secret.png"
        file.write_bytes(files.encoded(files.photo()))
        file.chmod(0)
        with files.unprivileged(), pytest.raises(UnreadableImage, match="Permission denied"):
            load_image(file, uri="secret")


@pytest.mark.parametrize(
    ("taken", "offset", "expected"),
    [
        ("2024:05:06 07:08:09", None, "2024-05-06T07:08:09"),
        ("2024:05:06 07:08:09", "+02:00", "2024-05-06T07:08:09+02:00"),
        ("2024:05:06 07:08:09", "nonsense", "2024-05-06T07:08:09"),
        ("0000:00:00 00:00:00", None, None),
        ("    :  :     :  :  ", None, None),
        (None, "+02:00", None),
    ],
)
def test_time_of_the_shot(taken: str | None, offset: str | None, expected: str | None) -> None:
    """DateTimeOriginal is ISO 8601, with the camera's offset, and None where the camera wrote no date."""
    content = files.encoded(files.photo(), "JPEG", exif=files.exif(taken=taken, offset=offset, orientation=6))
    assert read_image(content, uri="x").taken_at == expected


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # Pillow says that the metadata is damaged: that is the test
@pytest.mark.parametrize(
    "damage", [b"Exif\0\0garbage", b"Exif\0\0MM\0*\xff\xff\xff\xff", b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12"]
)
def test_damaged_exif_costs_the_metadata_not_the_image(damage: bytes) -> None:
    """Sound pixels with broken metadata are an upright picture without a date."""
    content = files.encoded(files.photo(), "JPEG", exif=damage)
    found = read_image(content, uri="x")
    assert (found.width, found.height, found.taken_at) == (48, 32, None)


def test_real_photos(data: Path) -> None:
    """Real photos come back as Pillow's own upright RGB, in their own size."""
    for path in sorted((data / "clothing" / "hat").glob("*.jpg"))[:5]:
        with Image.open(path) as stored:
            expected = np.asarray(ImageOps.exif_transpose(stored).convert("RGB"))
        assert np.array_equal(np.asarray(load_image(path, uri=str(path))), expected)


@pytest.mark.parametrize(
    ("size", "expected"), [((512, 256), (256, 128)), ((100, 50), (100, 50)), ((9000, 3), (256, 1))]
)
def test_thumbnail_fits_and_is_never_enlarged(size: tuple[int, int], expected: tuple[int, int]) -> None:
    """A thumbnail keeps the proportions, fits the square, and a small picture keeps its size."""
    content = thumbnail_webp(files.photo(*size))
    found = read_image(content, uri="thumbnail")
    assert ((found.width, found.height), found.format) == (expected, "WEBP")
    small = np.asarray(files.photo(*size).resize(expected, Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(np.asarray(found.image) - small).mean() < 8


def test_order_is_that_of_the_jobs() -> None:
    """Results come in the order of the jobs, although later ones are ready first; bad inputs are in their places."""

    def slow_first(job: int) -> int:
        time.sleep(0.02 if job % 4 == 0 else 0)
        if job % 5 == 3:
            raise UnreadableImage(f"{job}: broken")
        return job * 10

    found = list(load_in_order(range(20), slow_first, workers=4, ahead=8))
    assert [job for job, _ in found] == list(range(20))
    for job, result in found:
        assert isinstance(result, InputError) if job % 5 == 3 else result == job * 10


def test_jobs_are_pulled_lazily() -> None:
    """No more than `ahead` jobs are taken before the first result, and one for each result after."""
    pulled: list[int] = []

    def jobs() -> Iterator[int]:
        for job in range(1000):
            pulled.append(job)
            yield job

    results = load_in_order(jobs(), lambda job: job, workers=2, ahead=5)
    assert pulled == []
    for taken in range(10):
        assert next(results) == (taken, taken)
        assert len(pulled) == taken + 5
    results.close()
    assert len(pulled) == 14


def test_another_exception_is_raised() -> None:
    """A bug in the loader is not taken for a bad input, and no thread is left behind."""
    results = load_in_order([1, 0, 2], lambda job: 1 // job, workers=2, ahead=2)
    assert next(results) == (1, 1)
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert not [t for t in threading.enumerate() if t.name.startswith("mmembed-load")]


def test_closing_early_cancels_and_joins() -> None:
    """After close() nothing that waited is run and no thread is left."""
    ran: list[int] = []
    release = threading.Event()

    def load_one(job: int) -> int:
        ran.append(job)
        if job:
            release.wait(5)
        return job

    results = load_in_order(range(100), load_one, workers=2, ahead=50)
    assert next(results) == (0, 0)
    threading.Timer(0.05, release.set).start()
    results.close()
    assert len(ran) <= 4
    assert not [t for t in threading.enumerate() if t.name.startswith("mmembed-load")]


def test_no_workers_makes_no_sense() -> None:
    """Zero workers or nothing ahead is refused at once, not at the first result."""
    with pytest.raises(SettingsError, match="at least one worker"):
        load_in_order([], str, workers=0, ahead=1)
    with pytest.raises(SettingsError, match="one job ahead"):
        load_in_order([], str, workers=1, ahead=0)


def test_suffixes_are_lower_case_with_a_dot() -> None:
    """The suffixes can be compared with Path.suffix.lower()."""
    assert all(suffix.startswith(".") and suffix == suffix.lower() for suffix in IMAGE_SUFFIXES)
    assert {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"} <= IMAGE_SUFFIXES
