"""Thousands of damaged files through `mmembed index`: each is indexed, or a failure with a sentence."""

from __future__ import annotations

import io
import random
import resource
import zipfile
from pathlib import Path

import files
import pytest
from PIL import Image
from programs import Program

SEED = 20261201
HTML = (
    "<html><head><title>Tea</title></head><body><h1>Tea</h1>"
    + "<p>Boil the water, then wait.</p>" * 40
    + "</body></html>"
)
MARKDOWN = "# Tea\n\nBoil the *water*.\n\n| cup | spoons |\n|---|---|\n| 1 | 2 |\n\n- wait\n- pour\n" * 12


def seed_of(suffix: str, folder: Path) -> bytes:
    """A sound file of that kind."""
    match suffix:
        case "pdf":
            pages = ["Boil the water. " * 40, ("A cup.", files.photo())]
            return files.pdf(folder / "seed.pdf", pages, title="Tea").read_bytes()
        case "docx":
            parts = [(1, "Tea"), "Boil the water. " * 40, [["cup", "spoons"], ["1", "2"]], (files.photo(), "A cup")]
            return files.word(folder / "seed.docx", parts).read_bytes()
        case "html":
            return HTML.encode()
        case "md":
            return MARKDOWN.encode()
        case "gif":
            return files.encoded(files.photo(160, 120), "GIF", save_all=True, append_images=[files.photo(seed=1)])
        case _:
            return files.encoded(files.photo(160, 120), suffix.upper())


IMAGES = ("png", "jpeg", "webp", "gif", "tiff", "bmp")
DOCUMENTS = ("pdf", "docx", "html", "md")


def damaged(content: bytes, chance: random.Random) -> bytes:
    """One to four faults of the kinds that disks, networks and editors leave behind."""
    body = bytearray(content)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(body))
        length = chance.randint(1, max(1, min(400, len(body) - at)))
        match chance.randrange(7):
            case 0:
                body[at] ^= 1 << chance.randrange(8)
            case 1:
                body[at] = chance.randrange(256)
            case 2:
                del body[max(at, 8) :]
            case 3:
                other = chance.randrange(len(body))
                body[at : at + length] = body[other : other + length]
            case 4:
                body[at : at + 4] = chance.choice([b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0"])
            case 5:
                body[at:at] = body[at : at + length] * chance.randint(2, 50)
            case _:
                body[at : at + length] = bytes(length)
    return bytes(body)


def damaged_inside(content: bytes, chance: random.Random) -> bytes:
    """A ZIP one of whose members is damaged: its own sums are right, so that a reader gets to see it."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as whole, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as package:
        names = whole.namelist()
        chosen = chance.choice([name for name in names if name.endswith(".xml")])
        for name in names:
            member = whole.read(name)
            package.writestr(name, damaged(member, chance) if name == chosen else member)
    return out.getvalue()


def fill(folder: Path, suffix: str, seed: bytes, number: int) -> None:
    chance = random.Random(f"{SEED} {suffix}")
    for n in range(number):
        inside = suffix == "docx" and chance.random() < 0.7
        content = damaged_inside(seed, chance) if inside else damaged(seed, chance)
        (folder / f"{n:04}.{suffix}").write_bytes(content)


@pytest.mark.parametrize("suffix", [*IMAGES, *DOCUMENTS])
def test_three_hundred_damaged_files(suffix: str, tmp_path: Path) -> None:
    """No exception but a failure with a sentence, no signal, no more than 2 GB; a sound file among them is indexed."""
    folder, kind = tmp_path / "folder", "images" if suffix in IMAGES else "documents"
    folder.mkdir()
    seed = seed_of(suffix, tmp_path)
    fill(folder, suffix, seed, 300)
    (folder / f"sound.{suffix}").write_bytes(seed)
    program = Program(tmp_path)
    store = f"edge:{tmp_path / 'store.mm'}"
    result = program("index", kind, folder, "--encoder", "fake", "--store", store, "--json")
    assert result.code in (0, 3), result.err
    assert "Traceback" not in result.err
    (report,) = result.rows
    failures = {failure["uri"]: failure["error"] for failure in report["failures"]}
    whole = {uri for uri in failures if Path(uri).parent == folder and "#" not in uri}
    assert f"{folder / f'sound.{suffix}'}" not in failures
    assert report["embedded"] + report["copied"] + len(whole) == 301
    assert all(sentence.startswith(uri) and len(sentence) > len(uri) + 8 for uri, sentence in failures.items())
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < 2 * 2**20  # KiB


def test_a_damaged_query_is_one_sentence(tmp_path: Path) -> None:
    """A damaged picture to search with is an error of one line, never a trace."""
    program = Program(tmp_path)
    sound = tmp_path / "sound.png"
    files.photo().save(sound)
    program("index", "images", sound, "--encoder", "fake", "--store", f"edge:{tmp_path / 'store.mm'}")
    chance = random.Random(SEED)
    broken = tmp_path / "broken.png"
    broken.write_bytes(damaged(sound.read_bytes()[:200], chance)[:100])
    with pytest.raises(OSError, match=r"cannot identify|truncated|broken"), Image.open(broken) as image:
        image.load()
    assert str(broken) in program.fails("search", "--image", broken, "--store", f"edge:{tmp_path / 'store.mm'}")
