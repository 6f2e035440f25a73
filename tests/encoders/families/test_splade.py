"""SPLADE and inference-free sparse encoders: small ones made here, held against sentence-transformers and by hand."""

from __future__ import annotations

import json
import shutil
import uuid
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints_sparse import DOCUMENTS, build_inference_free, build_masked_bert, build_splade
from checkpoints_text import TEXTS, build_bert
from PIL import Image
from safetensors.torch import load_file, save_file
from sentence_transformers import SparseEncoder
from transformers import AutoTokenizer, BertForMaskedLM, BertModel

import mmembed
from mmembed.collection.prepare import vector_contract
from mmembed.encoders.families import splade
from mmembed.encoders.families.splade import SpladeEncoder
from mmembed.encoders.registry import load_encoder
from mmembed.errors import EncoderError, EncoderLoadError, InvalidEmbedding, SettingsError, UnsupportedModality
from mmembed.types import Contract, DenseArray, Leg, Point, SparseVector, StoreQuery

ODD = [
    *TEXTS,
    *DOCUMENTS,
    "https://example.org/cat.jpg",
    "\N{CAT FACE} a \N{SNOWMAN}",
    "a [SEP] branch",
    "long " * 200,
]


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_masked_bert(tmp_path_factory.mktemp("checkpoints") / "masked")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_splade(tmp_path_factory.mktemp("checkpoints"))


@pytest.fixture(scope="module")
def inference_free(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_inference_free(tmp_path_factory.mktemp("checkpoints"))


def loaded(folder: Path, options: str = "", **run: object) -> SpladeEncoder:
    encoder = load_encoder(f"splade:{folder}{options}", device="cpu", **run)  # type: ignore[arg-type]
    assert isinstance(encoder, SpladeEncoder)
    return encoder


def table(vectors: list[SparseVector], width: int) -> DenseArray:
    """Sparse vectors written out; each is checked to be one."""
    rows = np.zeros((len(vectors), width), dtype=np.float32)
    for row, vector in zip(rows, vectors, strict=True):
        assert (vector.indices.dtype, vector.values.dtype) == (np.uint32, np.float32)
        assert (np.diff(vector.indices.astype(np.int64)) > 0).all()  # ascending and unique
        assert (vector.values > 0).all()
        row[vector.indices] = vector.values
    return rows


def by_hand(folder: Path, texts: list[str], *, twice: bool = False) -> DenseArray:
    """log(1 + relu(logit)), the largest over the tokens of one text at a time."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), BertForMaskedLM.from_pretrained(folder).eval()
    rows = []
    for text in texts:
        batch = tokenizer([text], truncation=True, max_length=128, return_tensors="pt")
        with torch.no_grad():
            logits = model(**batch).logits[0].numpy()
        weights = np.log(1 + np.maximum(logits, 0))
        rows.append((np.log(1 + weights) if twice else weights).max(0))
    return np.stack(rows)


# --- what the vectors are -------------------------------------------------------------------------


def test_equals_the_formula(saved: Path) -> None:
    """A weight is the largest log(1 + relu(logit)) over a text's tokens, on both sides."""
    expected = by_hand(saved, ODD)
    assert 0.02 < (expected == 0).mean() < 0.98  # sparse, but not empty
    for role in ("query", "document"):
        made = table(loaded(saved).encode_text(ODD, role=role), expected.shape[1])
        assert np.allclose(made, expected, atol=1e-5)


def test_equals_sentence_transformers(saved: Path, inference_free: Path) -> None:
    """Both kinds of model give what sentence-transformers gives as a dense table, on either side."""
    for folder in (saved, inference_free):
        reference = SparseEncoder(str(folder), device="cpu")
        encoder = loaded(folder)
        for encode, role in ((reference.encode_query, "query"), (reference.encode_document, "document")):
            expected = encode(ODD, convert_to_sparse_tensor=False, show_progress_bar=False).numpy()
            made = table(encoder.encode_text(ODD, role=role), expected.shape[1])  # type: ignore[arg-type]
            assert np.allclose(made, expected, atol=1e-5)


def test_inference_free_queries_are_looked_up(inference_free: Path) -> None:
    """Such a query weighs each of its words by a table, without special tokens; documents go through log1p twice."""
    encoder = loaded(inference_free)
    reader = inference_free / "document_0_Transformer"
    tokenizer = AutoTokenizer.from_pretrained(reader)
    weights = load_file(inference_free / "query_0_SparseStaticEmbedding" / "model.safetensors")["weight"].numpy()
    for text, vector in zip(ODD, encoder.encode_text(ODD, role="query"), strict=True):
        ids = sorted(set(tokenizer(text, add_special_tokens=False, truncation=True, max_length=128)["input_ids"]))
        assert vector.indices.tolist() == ids
        assert np.allclose(vector.values, weights[ids], atol=1e-6)
    expected = by_hand(reader, ODD, twice=True)
    assert np.allclose(table(encoder.encode_text(ODD, role="document"), expected.shape[1]), expected, atol=1e-5)


def test_bare_masked_language_model(masked: Path, tmp_path: Path) -> None:
    """A folder without modules.json is pooled as SPLADE does, and saved from there it is the same encoder."""
    encoder = loaded(masked)
    expected = by_hand(masked, ODD)
    assert np.allclose(table(encoder.encode_text(ODD, role="document"), expected.shape[1]), expected, atol=1e-5)
    SparseEncoder(str(masked), device="cpu").save_pretrained(str(tmp_path / "again"))
    again = loaded(tmp_path / "again")
    assert again.spec.fingerprint == encoder.spec.fingerprint
    made = table(again.encode_text(ODD, role="query"), expected.shape[1])
    assert np.allclose(made, expected, atol=1e-5)


def test_batches_and_order(saved: Path) -> None:
    """A text's vector depends on neither its neighbours nor its place, nor on the size of the batches."""
    encoder = loaded(saved)
    width = len(AutoTokenizer.from_pretrained(saved))
    together = table(encoder.encode_text(ODD, role="document"), width)
    alone = np.concatenate([table(encoder.encode_text([text], role="document"), width) for text in ODD])
    assert np.allclose(together, alone, atol=1e-5)
    assert np.allclose(table(encoder.encode_text(ODD[::-1], role="document"), width), together[::-1], atol=1e-5)
    encoder._batches.budget = 10
    assert np.allclose(table(encoder.encode_text(ODD, role="document"), width), together, atol=1e-5)
    assert encoder.encode_text([], role="query") == []
    odd, plain = encoder.encode_text(["a \ud800 b", "a ? b"], role="query")  # a lone surrogate is a question mark
    assert np.array_equal(odd.indices, plain.indices)


def test_empty_text(saved: Path, inference_free: Path) -> None:
    """An empty text weighs what its special tokens suggest; looked up, an empty query has no weight at all."""
    assert loaded(saved).encode_text([""], role="query")[0].indices.size > 0
    empty = loaded(inference_free).encode_text([""], role="query")[0]
    assert (empty.indices.size, empty.values.size) == (0, 0)


def test_long_texts_are_cut(saved: Path, inference_free: Path) -> None:
    """A text is cut to `?max_length=` tokens, in queries that are looked up too; counting cuts nothing."""
    text = " ".join(["two"] * 10 + ["parrots"] * 10)
    for folder in (saved, inference_free):
        encoder = loaded(folder, "?max_length=8")
        assert encoder.spec.context_length == 8
        assert encoder.count_tokens(text) == 22
        cut, whole = encoder.encode_text([text, " ".join(["two"] * 6)], role="document")
        assert np.array_equal(cut.indices, whole.indices)
        assert np.allclose(cut.values, whole.values, atol=1e-5)
        assert loaded(folder).spec.context_length == 128
    looked_up = loaded(inference_free, "?max_length=8").encode_text([text], role="query")[0]
    assert looked_up.indices.size == 1
    for wrong in ("7", "many"):
        with pytest.raises(SettingsError, match="give a whole number of at least 8"):
            loaded(saved, f"?max_length={wrong}")
    with pytest.raises(SettingsError, match=r"reads 128 tokens at most: lower \?max_length=129"):
        loaded(saved, "?max_length=129")


def test_top_k_keeps_the_largest(saved: Path) -> None:
    """`?top_k=` keeps the largest weights of either side; the vectors stay comparable, so the fingerprint is one."""
    whole, pruned = loaded(saved), loaded(saved, "?top_k=5")
    for full, kept in zip(
        whole.encode_text(DOCUMENTS, role="document"), pruned.encode_text(DOCUMENTS, role="query"), strict=True
    ):
        largest = np.sort(full.values)[-5:]
        assert np.allclose(np.sort(kept.values), largest, atol=1e-6)
        assert set(kept.indices.tolist()) < set(full.indices.tolist())
        assert (np.diff(kept.indices.astype(np.int64)) > 0).all()
    assert pruned.spec.fingerprint == whole.spec.fingerprint
    assert pruned.spec.name == f"splade:{saved}?top_k=5"
    with pytest.raises(SettingsError, match="top_k=0: give a whole number of at least 1"):
        loaded(saved, "?top_k=0")


def test_top_k_breaks_ties_by_id() -> None:
    """Among equal weights the lower ids stay, on every run."""
    kept = splade._non_zero(np.tile(np.array([0, 1, 2], dtype=np.float32), 50), 60)
    assert kept.indices.tolist() == sorted([*range(2, 150, 3), *range(1, 31, 3)])


# --- in a store -----------------------------------------------------------------------------------


def test_in_a_collection(saved: Path, inference_free: Path, tmp_path: Path) -> None:
    """In Qdrant Edge a sparse vector ranks by dot product as numpy does; an empty document is stored, never found."""
    for number, folder in enumerate((saved, inference_free)):
        encoder = loaded(folder)
        width = len(AutoTokenizer.from_pretrained(folder if folder == saved else folder / "document_0_Transformer"))
        empty = SparseVector(np.array([], dtype=np.uint32), np.array([], dtype=np.float32))
        vectors = [*encoder.encode_text(DOCUMENTS, role="document"), empty]
        ids = [str(uuid.uuid5(uuid.NAMESPACE_URL, str(i))) for i in range(len(vectors))]
        query = encoder.encode_text(["how much protein for women"], role="query")[0]
        scores = table(vectors, width) @ table([query], width)[0]
        store = mmembed.open_store(f"edge:{tmp_path / f'store{number}.mm'}")
        try:
            store.create("documents", Contract("documents", {"sparse": vector_contract(encoder, "text")}), indexes={})
            store.upsert("documents", [Point(i, {"sparse": vector}) for i, vector in zip(ids, vectors, strict=True)])
            hits = store.query("documents", StoreQuery([Leg("sparse", query)], limit=10))
            order = np.argsort(-scores[:-1], kind="stable")
            assert [hit.id for hit in hits] == [ids[i] for i in order]
            assert np.allclose([hit.score for hit in hits], scores[order], rtol=1e-5)  # not multiplied by any IDF
            assert store.query("documents", StoreQuery([Leg("sparse", empty)], limit=10)) == []
            stored = store.retrieve("documents", [ids[-1]], vectors=True)[0].vectors["sparse"]
            assert isinstance(stored, SparseVector)
            assert stored.indices.size == 0
        finally:
            store.close()


# --- prompts, specs and fingerprints --------------------------------------------------------------


def test_prompts_are_the_models_own(tmp_path: Path) -> None:
    """A model's prompts lead the texts of their roles; a further one is a task, any other word is refused."""
    folder = build_splade(tmp_path, prompts={"query": "summit ", "document": "light of ", "other": "branch "})
    encoder, width = loaded(folder), len(AutoTokenizer.from_pretrained(folder))
    for role, task, lead in (
        ("query", None, "summit "),
        ("query", "retrieval", "summit "),
        ("document", None, "light of "),
        ("document", "other", "branch "),
        ("query", "", ""),
    ):
        made = table(encoder.encode_text(DOCUMENTS, role=role, task=task), width)  # type: ignore[arg-type]
        assert np.allclose(made, by_hand(folder, [lead + text for text in DOCUMENTS]), atol=1e-5), (role, task)
    with pytest.raises(SettingsError, match="knows no task 'poetry': it has document, other, query, retrieval"):
        encoder.encode_text(["a"], role="query", task="poetry")


def test_spec(saved: Path) -> None:
    """The spec says sparse, dot product, text, and no dimension; the preset of a known model gives its licence."""
    spec = loaded(saved).spec
    assert (spec.kind, spec.dim, spec.distance, spec.modalities) == ("sparse", None, "dot", {"text"})
    assert spec.name == f"splade:{saved}"
    assert (spec.revision, spec.licence) == (None, None)
    with pytest.raises(SettingsError, match="knows no task 'clustering': it has retrieval alone"):
        loaded(saved).encode_text(["a"], role="query", task="clustering")
    with pytest.raises(UnsupportedModality, match="only text"):
        loaded(saved).encode_image([Image.new("RGB", (4, 4))])


def test_fingerprint_knows_weights_table_and_pooling(saved: Path, inference_free: Path, tmp_path: Path) -> None:
    """Other weights, another table of query weights or another activation is another encoder."""
    copied = shutil.copytree(saved, tmp_path / "pooled")
    settings = json.loads((copied / "1_SpladePooling" / "config.json").read_text("utf-8"))
    settings["activation_function"] = "log1p_relu"
    (copied / "1_SpladePooling" / "config.json").write_text(json.dumps(settings), "utf-8")
    trained = shutil.copytree(saved, tmp_path / "trained")
    state = load_file(trained / "model.safetensors")
    state["cls.predictions.transform.dense.bias"] += 1
    save_file(state, trained / "model.safetensors", metadata={"format": "pt"})
    other_table = build_inference_free(tmp_path / "table", table_seed=4)
    folders = [saved, copied, trained, inference_free, other_table]
    assert len({loaded(folder).spec.fingerprint for folder in folders}) == len(folders)
    moved = shutil.copytree(inference_free, tmp_path / "moved")
    assert loaded(moved).spec.fingerprint == loaded(inference_free).spec.fingerprint


def test_fingerprint_knows_a_table_in_json(inference_free: Path, tmp_path: Path) -> None:
    """Query weights may lie in an idf.json instead of among the weights: they count all the same."""
    prints = set()
    for weight in (0.5, 0.7):
        copied = shutil.copytree(inference_free, tmp_path / str(weight))
        folder = copied / "query_0_SparseStaticEmbedding"
        (folder / "model.safetensors").unlink()
        (folder / "idf.json").write_text(json.dumps({"two": weight}), "utf-8")
        (folder / "config.json").write_text(json.dumps({"path": str(folder / "idf.json")}), "utf-8")
        encoder = loaded(copied)
        assert encoder.encode_text(["two parrots"], role="query")[0].values == pytest.approx([weight])
        prints.add(encoder.spec.fingerprint)
    assert len(prints) == 2


def test_half_precision(saved: Path) -> None:
    """In bfloat16 weights are still float32, near those of float32."""
    encoder, width = loaded(saved, dtype="bfloat16"), len(AutoTokenizer.from_pretrained(saved))
    assert encoder.dtype == "bfloat16"
    made = table(encoder.encode_text(DOCUMENTS, role="query"), width)
    assert 0 < np.abs(made - by_hand(saved, DOCUMENTS)).max() < 0.1


# --- refusals -------------------------------------------------------------------------------------


def test_a_dense_model_is_refused(tmp_path: Path) -> None:
    """A dense sentence-transformers model would get a random layer that makes it sparse: `sentence:` is named."""
    folder = build_bert(tmp_path / "m", pooling="mean")
    with pytest.raises(EncoderLoadError, match="is a SentenceTransformer, whose vectors are not sparse: load it as se"):
        loaded(folder)


def test_a_model_without_a_masked_language_head_is_refused(masked: Path, tmp_path: Path) -> None:
    """Neither a plain transformer nor one whose head is not stored is run on random weights."""
    plain = shutil.copytree(masked, tmp_path / "plain")
    BertModel.from_pretrained(masked).save_pretrained(plain)
    with pytest.raises(EncoderLoadError, match="is a BertModel without a masked-language head"):
        loaded(plain)
    settings = json.loads((plain / "config.json").read_text("utf-8"))
    (plain / "config.json").write_text(json.dumps({**settings, "architectures": ["BertForMaskedLM"]}), "utf-8")
    with pytest.raises(EncoderLoadError, match=r"lacks \d of its weights \(cls\.predictions.* random ones"):
        loaded(plain)


def test_a_saved_model_that_lost_its_head_is_refused(inference_free: Path, tmp_path: Path) -> None:
    """The head is looked for in the folder of the module that reads documents, too."""
    copied = shutil.copytree(inference_free, tmp_path / "copy")
    file = copied / "document_0_Transformer" / "model.safetensors"
    save_file({k: v for k, v in load_file(file).items() if "transform" not in k}, file, metadata={"format": "pt"})
    with pytest.raises(EncoderLoadError, match=r"lacks 4 of its weights \(cls\.predictions\.transform"):
        loaded(copied)


def test_an_adapter_is_refused(saved: Path, tmp_path: Path) -> None:
    """An adapter is not a whole model: its base would be neither checked nor in the fingerprint."""
    copied = shutil.copytree(saved, tmp_path / "copy")
    (copied / "adapter_config.json").write_text("{}", "utf-8")
    with pytest.raises(EncoderLoadError, match="is an adapter of"):
        loaded(copied)


def test_another_similarity_is_refused(tmp_path: Path) -> None:
    """Qdrant compares sparse vectors by dot product, so a model of cosines would rank wrongly."""
    with pytest.raises(EncoderLoadError, match="compares its vectors by cosine"):
        loaded(build_splade(tmp_path, similarity="cosine"))


def test_a_model_that_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A hub id that is neither cached nor reachable is an error that says so."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(EncoderLoadError, match="neither in the Hugging Face cache nor"):
        load_encoder("splade:someone/never-published", device="cpu")


def test_an_overflow_is_told(saved: Path) -> None:
    """Weights that are no numbers are an error that names the dtype, never a vector."""
    encoder = loaded(saved)
    with torch.no_grad():
        next(encoder._model.parameters()).fill_(float("nan"))
    with pytest.raises(InvalidEmbedding, match="overflowed in float32"):
        encoder.encode_text(["a"], role="query")


def test_a_full_gpu_halves_the_batch(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the GPU has no room for a batch it is cut in two, in order; one text too many is an error."""
    encoder = loaded(saved)
    expected = by_hand(saved, DOCUMENTS)
    forward, sizes, room = encoder._model.forward, [], 2

    def crowded(features: dict[str, torch.Tensor], **options: object) -> object:
        sizes.append(len(features["input_ids"]))
        if len(features["input_ids"]) > room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(features, **options)

    monkeypatch.setattr(encoder._model, "forward", crowded)
    made = table(encoder.encode_text(DOCUMENTS, role="document"), expected.shape[1])
    assert np.allclose(made, expected, atol=1e-5)
    assert sizes == [5, 2, 3, 1, 2]
    room = 0
    with pytest.raises(EncoderError, match="no GPU memory left for one text"):
        encoder.encode_text(["a", "b"], role="document")
