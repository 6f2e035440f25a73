"""Late interaction: pages held against transformers' own retrievers, texts against ColBERT written out by hand."""

from __future__ import annotations

import json
import shutil
import string
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from checkpoints_text import TEXTS, build_bert
from checkpoints_vlm import build_colbert, build_colpali, build_colqwen2
from checkpoints_vlm import images as photos
from safetensors.torch import load_file, save_file
from sentence_transformers import MultiVectorEncoder
from tokenizers import Tokenizer
from transformers import (
    AutoProcessor,
    BertModel,
    ColPaliForRetrieval,
    ColQwen2ForRetrieval,
)

from mmembed.encoders.families.late_interaction import LateEncoder
from mmembed.encoders.registry import load_encoder
from mmembed.errors import EncoderLoadError, SettingsError, UnsupportedModality
from mmembed.types import DenseArray, Role

QUERIES = ["two parrots on a branch, seen from below", "a", "https://example.org/cat.jpg"]
RETRIEVERS: dict[str, Any] = {"colqwen2": ColQwen2ForRetrieval, "colpali": ColPaliForRetrieval}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("late")
    return {
        "colqwen2": build_colqwen2(root / "colqwen2"),
        "colpali": build_colpali(root / "colpali"),
        "colbert": build_colbert(root / "colbert"),
    }


@pytest.fixture(scope="module", params=["colqwen2", "colpali"])
def pages(request: pytest.FixtureRequest, folders: dict[str, Path]) -> tuple[LateEncoder, Any, Any]:
    """Our encoder, and the processor and model of transformers."""
    folder = folders[request.param]
    model = RETRIEVERS[request.param].from_pretrained(folder).eval()
    return load(f"late:{folder}"), AutoProcessor.from_pretrained(folder), model


@pytest.fixture(scope="module")
def colbert(folders: dict[str, Path]) -> LateEncoder:
    return load(f"late:{folders['colbert']}")


def load(name: str) -> LateEncoder:
    encoder = load_encoder(name, device="cpu")
    assert isinstance(encoder, LateEncoder)
    return encoder


def maxsim(query: DenseArray, document: DenseArray) -> float:
    """The sum over the query's rows of the best product with a row of the document."""
    return sum(max(float(q @ d) for d in document) for q in query)


def assert_same(got: list[DenseArray], expected: list[DenseArray]) -> None:
    assert [rows.shape for rows in got] == [rows.shape for rows in expected]
    for ours, theirs in zip(got, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


# --- pages ----------------------------------------------------------------------------------------


def test_pages_equal_transformers(pages: tuple[LateEncoder, Any, Any]) -> None:
    """Pictures and queries are what transformers makes of each alone; a query that looks like a link is a query."""
    encoder, processor, model = pages
    with torch.no_grad():
        images = [model(**processor(images=[p], return_tensors="pt")).embeddings[0].numpy() for p in photos()]
        texts = [model(**processor(text=[q], return_tensors="pt")).embeddings[0].numpy() for q in QUERIES]
    assert_same(encoder.encode_image(photos()), images)
    assert_same(encoder.encode_text(QUERIES, role="query"), texts)


def test_maxsim_equals_transformers(pages: tuple[LateEncoder, Any, Any]) -> None:
    """The scores of our multivectors are those of the processor's score_retrieval."""
    encoder, processor, model = pages
    with torch.no_grad():
        images = [model(**processor(images=[p], return_tensors="pt")).embeddings[0] for p in photos()]
        texts = [model(**processor(text=[q], return_tensors="pt")).embeddings[0] for q in QUERIES]
    expected = processor.score_retrieval(texts, images).numpy()
    queries, documents = encoder.encode_text(QUERIES, role="query"), encoder.encode_image(photos())
    scores = np.array([[maxsim(query, document) for document in documents] for query in queries])
    np.testing.assert_allclose(scores, expected, atol=1e-4)  # a sum of up to 39 products
    assert np.ptp(expected, axis=1).min() > 1e-3  # else any page would do


def test_a_page_depends_on_its_input_alone(pages: tuple[LateEncoder, Any, Any]) -> None:
    """Batch-mates, order and what was encoded before leave a multivector as it is, without rows of padding."""
    encoder, _, _ = pages
    together = encoder.encode_image(photos())
    assert_same([encoder.encode_image([photo])[0] for photo in photos()], together)
    queries = encoder.encode_text(QUERIES, role="query")
    assert_same([encoder.encode_text([query], role="query")[0] for query in QUERIES], queries)
    assert_same(encoder.encode_image(photos()[::-1]), together[::-1])
    for rows in [*together, *queries]:
        assert rows.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)


def test_pages_read_no_text_as_a_document(pages: tuple[LateEncoder, Any, Any]) -> None:
    """These processors write every text as a query, so a text is refused as a document rather than mistaken."""
    encoder, _, _ = pages
    with pytest.raises(UnsupportedModality, match="cannot encode texts as documents, only pictures and queries"):
        encoder.encode_text(["a page of text"], role="document")


def test_control_tokens_are_text(folders: dict[str, Path]) -> None:
    """A query that spells the place of a picture is read as these letters."""
    encoder = load(f"late:{folders['colqwen2']}")
    spelt, read = ["see <|image_pad|> here"], ["see < |image_pad|> here"]
    assert_same(encoder.encode_text(spelt, role="query"), encoder.encode_text(read, role="query"))


def test_tokens_of_a_query_are_counted(folders: dict[str, Path]) -> None:
    """Of a model of pages, what its processor puts around a query is counted with it."""
    encoder = load(f"late:{folders['colqwen2']}")
    for query, rows in zip(QUERIES, encoder.encode_text(QUERIES, role="query"), strict=True):
        assert encoder.count_tokens(query) == len(rows)


# --- texts ----------------------------------------------------------------------------------------


def by_hand(folder: Path, text: str, role: Role) -> DenseArray:
    """ColBERT (arXiv 2004.12832): a marker after [CLS]; queries filled up with [MASK], documents without punctuation.

    The masks are not attended to, and yet are vectors of the query.
    """
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    weights = load_file(folder / "model.safetensors")
    length = 12 if role == "query" else 40
    words = tokenizer.encode(text, add_special_tokens=False).ids[: length - 3]
    cls, sep, mask = (tokenizer.token_to_id(name) for name in ("[CLS]", "[SEP]", "[MASK]"))
    ids = [cls, tokenizer.token_to_id("[unused0]" if role == "query" else "[unused1]"), *words, sep]
    real = len(ids)
    if role == "query":
        ids += [mask] * (length - real)
    attended = torch.tensor([[1] * real + [0] * (len(ids) - real)])
    with torch.no_grad():
        states = BertModel.from_pretrained(folder).eval()(input_ids=torch.tensor([ids]), attention_mask=attended)
        rows = F.normalize(states.last_hidden_state[0] @ weights["linear.weight"].T, dim=1).numpy()
    if role == "query":
        return rows
    punctuation = {tokenizer.token_to_id(sign) for sign in string.punctuation} - {None}
    return rows[[i for i, token in enumerate(ids) if token not in punctuation]]


@pytest.mark.parametrize("role", ["query", "document"])
def test_colbert_equals_the_paper(colbert: LateEncoder, folders: dict[str, Path], role: Role) -> None:
    """Queries and documents in one batch are what they are by hand, and a link is a text."""
    texts = [*TEXTS, "https://example.org/cat.jpg"]
    assert_same(colbert.encode_text(texts, role=role), [by_hand(folders["colbert"], text, role) for text in texts])


def test_layouts_agree(colbert: LateEncoder, folders: dict[str, Path], tmp_path: Path) -> None:
    """One model saved by Stanford, sentence-transformers and PyLate gives the same multivectors."""
    MultiVectorEncoder(str(folders["colbert"]), device="cpu").save_pretrained(str(tmp_path / "st"))
    shutil.copytree(tmp_path / "st", tmp_path / "pylate")
    pylate = tmp_path / "pylate"
    listing = json.loads((pylate / "modules.json").read_text("utf-8"))[:2]
    listing[1]["type"] = "pylate.models.Dense.Dense"
    (pylate / "modules.json").write_text(json.dumps(listing), "utf-8")
    knobs = {"query_prefix": "[unused0] ", "document_prefix": "[unused1] ", "query_length": 12, "document_length": 40}
    config = {"model_type": "ColBERT", **knobs, "attend_to_expansion_tokens": False}
    (pylate / "config_sentence_transformers.json").write_text(json.dumps(config), "utf-8")
    (pylate / "sentence_bert_config.json").write_text('{"max_seq_length": 128}', "utf-8")
    for layout in ("st", "pylate"):
        saved = load(f"late:{tmp_path / layout}")
        for role in ("query", "document"):
            assert_same(saved.encode_text(TEXTS, role=role), colbert.encode_text(TEXTS, role=role))  # type: ignore[arg-type]


def test_colbert_reads_no_images(colbert: LateEncoder) -> None:
    """A model of texts says so, as it does of tasks, which it does not know."""
    with pytest.raises(UnsupportedModality, match="cannot encode images, only text"):
        colbert.encode_image(photos())
    with pytest.raises(SettingsError, match="knows no task 'clustering'"):
        colbert.encode_text(["a"], role="query", task="clustering")
    assert colbert.encode_text([], role="query") == []


def test_tokens_of_a_document_are_counted(colbert: LateEncoder, folders: dict[str, Path]) -> None:
    """A document is counted whole, with its marker and special tokens."""
    tokenizer = Tokenizer.from_file(str(folders["colbert"] / "tokenizer.json"))
    for text in [*TEXTS, "long " * 200]:
        assert colbert.count_tokens(text) == 3 + len(tokenizer.encode(text, add_special_tokens=False).ids)


def test_threads_of_both_roles_do_not_cut_each_other(colbert: LateEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Queries and documents of several threads have the vectors of calls one after another.

    Both set one tokenizer's length and padding before they use it; a pause after that lets another thread in between.
    """
    tokenizer = type(colbert._model.tokenizer)
    plain = tokenizer.set_truncation_and_padding

    def slow(*args: Any, **options: Any) -> None:
        plain(*args, **options)
        time.sleep(0.002)

    roles: list[Role] = ["query", "document"] * 8
    texts = ["two parrots on a branch " * 8]
    expected = [colbert.encode_text(texts, role=role)[0] for role in roles]
    monkeypatch.setattr(tokenizer, "set_truncation_and_padding", slow)
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda role: colbert.encode_text(texts, role=role)[0], roles))
    assert_same(found, expected)


# --- what a collection remembers ------------------------------------------------------------------


def test_specs(folders: dict[str, Path], colbert: LateEncoder) -> None:
    """Multivectors of 16 dimensions; pages and queries, or texts of up to 40 tokens."""
    page = load(f"late:{folders['colqwen2']}").spec
    assert (page.kind, page.dim, page.distance, page.modalities) == ("multi", 16, "cosine", {"image", "text"})
    text = colbert.spec
    assert (text.kind, text.dim, text.context_length, text.modalities) == ("multi", 16, 40, {"text"})
    assert load(text.name).spec == text


def test_pooled_documents(folders: dict[str, Path], colbert: LateEncoder) -> None:
    """`?pool=3` keeps about a third of a document's vectors, of norm 1, all of a query's, and is another encoder."""
    pooled = load(f"late:{folders['colbert']}?pool=3")
    for small, large in zip(
        pooled.encode_text(TEXTS, role="document"), colbert.encode_text(TEXTS, role="document"), strict=True
    ):
        assert len(small) <= len(large) // 3 + 2
        np.testing.assert_allclose(np.linalg.norm(small, axis=1), 1, atol=1e-6)
    assert_same(pooled.encode_text(TEXTS, role="query"), colbert.encode_text(TEXTS, role="query"))
    assert pooled.spec.fingerprint != colbert.spec.fingerprint
    with pytest.raises(SettingsError, match="give a whole number of at least 2"):
        load(f"late:{folders['colbert']}?pool=1")


def test_fingerprint_knows_weights_and_settings(folders: dict[str, Path], tmp_path: Path) -> None:
    """Another length of queries, another prefix before them or other weights are another encoder."""
    prints = {load(f"late:{folders[name]}").spec.fingerprint for name in ("colbert", "colqwen2")}
    shorter, prefixed, changed = (
        shutil.copytree(folders[name], tmp_path / str(i)) for i, name in enumerate(["colbert", "colqwen2", "colbert"])
    )
    _replace(shorter / "artifact.metadata", '"query_maxlen": 12', '"query_maxlen": 8')
    _replace(prefixed / "processor_config.json", '"query_prefix": "Query: "', '"query_prefix": "Search: "')
    weights = load_file(changed / "model.safetensors")
    save_file({**weights, "linear.weight": weights["linear.weight"] * 2}, changed / "model.safetensors")
    prints |= {load(f"late:{folder}").spec.fingerprint for folder in (shorter, prefixed, changed)}
    assert len(prints) == 5


def _replace(file: Path, old: str, new: str) -> None:
    text = file.read_text("utf-8")
    assert old in text
    file.write_text(text.replace(old, new), "utf-8")


# --- refusals -------------------------------------------------------------------------------------


def test_a_model_without_a_projection_is_refused(tmp_path: Path) -> None:
    """sentence-transformers would add a random projection to any text encoder."""
    folder = build_bert(tmp_path / "bert", pooling="mean")
    with pytest.raises(EncoderLoadError, match="is a SentenceTransformer, whose token vectors were not trained"):
        load_encoder(f"late:{folder}", device="cpu")
    (folder / "modules.json").unlink()
    with pytest.raises(EncoderLoadError, match="is a BertModel, whose token vectors were not trained"):
        load_encoder(f"late:{folder}", device="cpu")


def test_an_adapter_is_refused(tmp_path: Path) -> None:
    """vidore/colqwen2.5-v0.2 is an adapter: without its projection it would run on a random one."""
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "vidore/colqwen2.5-base"}', "utf-8")
    with pytest.raises(EncoderLoadError, match=r"is an adapter of vidore/colqwen2\.5-base and not a whole model"):
        load_encoder(f"late:{tmp_path}", device="cpu")


def test_missing_weights_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    """A projection that the files lack would be made up at random."""
    folder = shutil.copytree(folders["colqwen2"], tmp_path / "incomplete")
    weights = load_file(folder / "model.safetensors")
    del weights["embedding_proj_layer.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(EncoderLoadError, match=r"lacks 1 of its weights \(embedding_proj_layer"):
        load_encoder(f"late:{folder}", device="cpu")
