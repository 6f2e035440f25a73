"""The two encoders without weights."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from qdrant_edge import Bm25, Bm25Config, TokenizerType

from mmembed.encoders.registry import load_encoder
from mmembed.errors import EncoderLoadError, UnsupportedModality
from mmembed.types import Role, SparseVector


def test_bm25_has_the_token_ids_of_qdrant() -> None:
    """Stop words go, the rest is stemmed and hashed as Qdrant's own qdrant/bm25 does it."""
    query, document = load_encoder("bm25").encode_text(["the foxes", "quick fox"], role="query")
    assert isinstance(query, SparseVector)
    assert isinstance(document, SparseVector)
    assert query.indices.tolist() == [1621867415]
    assert query.values.tolist() == [1.0]
    assert sorted(document.indices.tolist()) == [771291085, 1621867415]


def test_bm25_weighs_documents_by_frequency_and_length() -> None:
    """tf * (k + 1) / (tf + k * (1 - b + b * length / 256)) with k 1.2 and b 0.75."""
    (sparse,) = load_encoder("bm25").encode_text(["fox fox dog"], role="document")
    assert isinstance(sparse, SparseVector)
    weights = dict(zip(sparse.indices.tolist(), sparse.values.tolist(), strict=True))

    def expected(frequency: int) -> float:
        return frequency * 2.2 / (frequency + 1.2 * (0.25 + 0.75 * 3 / 256))

    assert weights[1621867415] == pytest.approx(expected(2), rel=1e-5)
    assert sorted(weights.values()) == pytest.approx([expected(1), expected(2)], rel=1e-5)


def test_bm25_has_other_languages_and_no_images() -> None:
    """The language chooses stemmer and stop words and changes the fingerprint; a wrong one is named."""
    german, english = load_encoder("bm25?language=german"), load_encoder("bm25")
    assert german.spec.fingerprint != english.spec.fingerprint
    assert len(german.encode_text(["und die Katze"], role="query")[0].indices) == 1
    with pytest.raises(EncoderLoadError, match="klingon"):
        load_encoder("bm25?language=klingon")
    with pytest.raises(UnsupportedModality, match="cannot encode pictures, only text"):
        english.encode_image([Image.new("RGB", (2, 2))])


@pytest.mark.parametrize(
    ("written", "typed"),
    [
        ("Frau Ba\u0308renwa\u0308lder", "Frau Bärenwälder"),  # decomposed, as file systems and PDFs write it
        ("Zephyr\ufb01eld of\ufb01ce", "Zephyrfield office"),  # ligatures
        ("Donau\u00adkessel\u200bturbine\u2060n\ufeff", "Donaukesselturbinen"),  # nobody sees these
        ("ＸＺ－９９００Ｋ", "xz-9900k"),  # full width
        ("ｶﾞｷﾞ", "ガギ"),  # half width
        ("a\x00b\x02c", "abc"),
        ("\u202bשלום\u202c", "שלום"),  # marks of direction
        ("می\u200cخواهم", "میخواهم"),
        ("a lobster¹ of 3 m² and Acme™", "a lobster 1 of 3 m2 and Acme TM"),
        ("chapter Ⅳ", "chapter IV"),
    ],
)
def test_bm25_matches_what_looks_the_same(written: str, typed: str) -> None:
    """Whichever way a word is encoded, in a document or a query, it is one term."""
    roles: tuple[Role, ...] = ("query", "document")
    for role in roles:
        one, other = load_encoder("bm25").encode_text([written, typed], role=role)
        assert isinstance(one, SparseVector)
        assert isinstance(other, SparseVector)
        assert sorted(one.indices.tolist()) == sorted(other.indices.tolist())


@pytest.mark.parametrize(
    ("document", "queries"),
    [
        ("鲸鲨是世界上最大的鱼类，主要以浮游生物为食。", ["鲸鲨", "鱼类", "浮游生物", "最大"]),
        ("富士山は日本で最も高い山であり、標高は三七七六メートルです。", ["標高", "日本", "富士山", "メートル"]),
        ("고래상어는 세계에서 가장 큰 물고기입니다. 물이 깊다.", ["고래상어", "물고기", "세계", "큰", "물"]),
        ("ช้างเป็นสัตว์บกที่ใหญ่ที่สุดในโลก", ["ช้าง", "สัตว์บก", "โลก"]),
        ("ខ្ញុំស្រឡាញ់ភាសាខ្មែរ", ["ភាសា", "ខ្មែរ"]),
        ("型番はXZ-9900Kです。", ["型番", "9900K", "xz-9900k"]),
    ],
)
@pytest.mark.parametrize("language", ["english", "none", "japanese"])
def test_bm25_finds_words_where_no_blanks_are_written(document: str, queries: list[str], language: str) -> None:
    """Words of Chinese, Japanese, Korean, Thai and Khmer are found inside a sentence, and others are not."""
    encoder = load_encoder(f"bm25?language={language}")
    (whole,) = encoder.encode_text([document], role="document")
    assert isinstance(whole, SparseVector)
    for query in encoder.encode_text(queries, role="query"):
        assert isinstance(query, SparseVector)
        assert set(query.indices.tolist()) & set(whole.indices.tolist())
        assert set(query.values.tolist()) == {1.0}
    for other in encoder.encode_text(["電車", "자동차", "รถไฟ", "train"], role="query"):
        assert isinstance(other, SparseVector)
        assert other.indices.size
        assert not set(other.indices.tolist()) & set(whole.indices.tolist())


def test_bm25_cuts_chinese_as_qdrant_does() -> None:
    """Each term of Qdrant's own multilingual tokenizer is there under its id; weights are those of the same formula."""
    text = "鲸鲨是世界上最大的鱼类，世界"
    own = Bm25(Bm25Config(tokenizer=TokenizerType.Multilingual)).embed_document(text)
    (sparse,) = load_encoder("bm25").encode_text([text], role="document")
    assert isinstance(sparse, SparseVector)
    assert set(own.indices) <= set(sparse.indices.tolist())
    twice = dict(zip(own.indices, own.values, strict=True))
    weights = dict(zip(sparse.indices.tolist(), sparse.values.tolist(), strict=True))
    top = max(twice, key=lambda term: twice[term])
    assert weights[top] == max(weights.values())
    assert weights[top] == pytest.approx(twice[top], rel=0.05)  # pairs make the document longer


def test_bm25_language_by_code_and_none() -> None:
    """A code names the same encoder as the word; `none` keeps every word as it is."""
    assert load_encoder("bm25?language=de").spec.fingerprint == load_encoder("bm25?language=German").spec.fingerprint
    the, foxes, fox = load_encoder("bm25?language=none").encode_text(["the", "foxes", "fox"], role="query")
    assert isinstance(the, SparseVector)
    assert isinstance(foxes, SparseVector)
    assert isinstance(fox, SparseVector)
    assert the.indices.size == 1
    assert foxes.indices.tolist() != fox.indices.tolist()
    with pytest.raises(EncoderLoadError, match="no stemmer of 'polish': choose `language='none'`, or one of arabic"):
        load_encoder("bm25?language=polish")


def test_bm25_of_nothing_is_empty() -> None:
    """A text of stop words is a sparse vector without coordinates, not an error."""
    (sparse,) = load_encoder("bm25").encode_text(["the"], role="document")
    assert len(sparse.indices) == 0


@pytest.mark.parametrize("name", ["bm25", "fake", "tiny"])
def test_lone_surrogates_are_question_marks(name: str) -> None:
    """A file name that is not UTF-8 has them; they are encoded and counted as "?" and nothing is raised."""
    encoder = load_encoder(name, device="cpu")
    odd, plain = (encoder.encode_text([text], role="document")[0] for text in ("a cat \udcff", "a cat ?"))
    for one, other in zip(np.atleast_2d(odd), np.atleast_2d(plain), strict=True):
        np.testing.assert_array_equal(one, other)
    assert encoder.count_tokens("a cat \udcff") == encoder.count_tokens("a cat ?")


def test_fake_is_the_same_everywhere() -> None:
    """The same words have the same vector in every process: these numbers are written down."""
    rows = np.asarray(load_encoder("fake?dim=4").encode_text(["red car", "car red", "blue"], role="query"))
    np.testing.assert_allclose(rows[0], rows[1])
    assert not np.allclose(rows[0], rows[2])
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    assert load_encoder("fake:a").spec.fingerprint != load_encoder("fake:b").spec.fingerprint


def test_fake_tells_images_apart() -> None:
    """Equal pictures, equal vectors; a grey one has a direction too."""
    grey, red = Image.new("RGB", (9, 9), "grey"), Image.new("RGB", (9, 9), "red")
    rows = np.asarray(load_encoder("fake").encode_image([grey, red, red]))
    np.testing.assert_allclose(rows[1], rows[2])
    assert rows[0] @ rows[1] < 0.99
    with pytest.raises(EncoderLoadError, match="whole number"):
        load_encoder("fake?dim=0")
    with pytest.raises(EncoderLoadError, match="kind must be dense, sparse or multi, not 'late'"):
        load_encoder("fake?kind=late")


def test_fake_sparse_counts_words() -> None:
    """A coordinate for each different word, the same in a query and a document; no words, no coordinates."""
    encoder = load_encoder("fake?kind=sparse")
    once, twice, none = encoder.encode_text(["red car", "car car red", " "], role="document")
    assert isinstance(once, SparseVector)
    assert isinstance(twice, SparseVector)
    assert isinstance(none, SparseVector)
    np.testing.assert_array_equal(once.indices, twice.indices)
    assert sorted(twice.values.tolist()) == pytest.approx([np.log(2), np.log(3)])
    assert none.indices.size == 0
    assert (encoder.spec.kind, encoder.spec.dim, encoder.spec.distance) == ("sparse", None, "dot")
    with pytest.raises(UnsupportedModality):
        encoder.encode_image([Image.new("RGB", (9, 9))])


def test_fake_multi_has_a_row_for_each_part() -> None:
    """A word, or a quarter of a picture, has the row that the dense encoder gives it alone."""
    multi, dense = load_encoder("fake?kind=multi&dim=16"), load_encoder("fake?dim=16")
    three, none = multi.encode_text(["a red car", ""], role="query")
    np.testing.assert_array_equal(three, dense.encode_text(["a", "red", "car"], role="query"))
    assert np.asarray(none).shape == (1, 16)
    image = Image.new("RGB", (10, 10), "red")
    image.paste("blue", (5, 0, 10, 10))
    (rows,) = multi.encode_image([image])
    halves = dense.encode_image([Image.new("RGB", (5, 5), "red"), Image.new("RGB", (5, 5), "blue")])
    np.testing.assert_allclose(rows, np.asarray(halves)[[0, 1, 0, 1]], atol=1e-6)
    assert np.asarray(multi.encode_image([Image.new("RGB", (1, 1))])[0]).shape == (4, 16)
    assert multi.spec.kind == "multi"
    assert len({load_encoder(f"fake?kind={kind}").spec.fingerprint for kind in ("dense", "sparse", "multi")}) == 3
