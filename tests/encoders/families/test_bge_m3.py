"""BGE-M3: dense, lexical and ColBERT vectors of a small checkpoint made here, held against the paper's formulas."""

from __future__ import annotations

import gc
import hashlib
import os
import pickle
import shutil
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints_sparse import DOCUMENTS, build_bge_m3
from checkpoints_text import TEXTS, build_bert
from huggingface_hub import close_session
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoTokenizer, XLMRobertaModel

import mmembed
from mmembed.collection.prepare import vector_contract
from mmembed.encoders.checkpoint import Checkpoint
from mmembed.encoders.families.bge_m3 import BgeM3
from mmembed.encoders.families.bge_m3_weights import _IN_USE, _head_file
from mmembed.encoders.registry import load_encoder
from mmembed.errors import EncoderError, EncoderLoadError, InvalidEmbedding, SettingsError, UnsupportedModality
from mmembed.types import Contract, DenseArray, JointEncoder, Leg, Point, SparseVector, StoreQuery

OUTPUTS = ("dense", "sparse", "colbert")
ODD = [
    *TEXTS,
    *DOCUMENTS,
    "parrots parrots parrots",
    "\N{CAT FACE} a \N{SNOWMAN}",
    "a </s> <pad> branch <s>",
    "https://example.org/cat.jpg",
    "long " * 200,
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_bge_m3(tmp_path_factory.mktemp("checkpoints") / "m3")


@pytest.fixture(scope="module")
def three(folder: Path) -> dict[str, BgeM3]:
    return {output: loaded(folder, output) for output in OUTPUTS}


def loaded(folder: Path, output: str, **run: object) -> BgeM3:
    encoder = load_encoder(f"bge-m3:{folder}?output={output}", device="cpu", **run)  # type: ignore[arg-type]
    assert isinstance(encoder, BgeM3)
    return encoder


class Reference:
    """The formulas, one text and one token at a time: no padding, no batch, no scatter."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder, split_special_tokens=True)
        self.model = XLMRobertaModel.from_pretrained(folder).eval()
        self.sparse = torch.load(folder / "sparse_linear.pt", weights_only=True)
        self.colbert = torch.load(folder / "colbert_linear.pt", weights_only=True)

    def states(self, text: str) -> tuple[list[int], DenseArray]:
        ids = self.tokenizer(text, truncation=True, max_length=64)["input_ids"]
        with torch.no_grad():
            return ids, self.model(torch.tensor([ids])).last_hidden_state[0].numpy()

    def dense(self, text: str) -> DenseArray:
        first = self.states(text)[1][0]
        return first / np.linalg.norm(first)

    def lexical(self, text: str) -> dict[int, float]:
        weights: dict[int, float] = {}
        for token, state in zip(*self.states(text), strict=True):
            weight = float(self.sparse["weight"].numpy()[0] @ state + self.sparse["bias"].numpy()[0])
            if token not in (0, 1, 2, 3) and weight > 0:
                weights[token] = max(weight, weights.get(token, 0.0))
        return weights

    def multi(self, text: str) -> DenseArray:
        rows = [self.colbert["weight"].numpy() @ state + self.colbert["bias"].numpy() for state in self.states(text)[1]]
        return np.stack([row / np.linalg.norm(row) for row in rows[1:]])


@pytest.fixture(scope="module")
def reference(folder: Path) -> Reference:
    return Reference(folder)


def same(one: SparseVector, other: SparseVector) -> bool:
    return np.array_equal(one.indices, other.indices) and np.allclose(one.values, other.values, atol=1e-5)


@contextmanager
def counted(encoder: BgeM3) -> Iterator[list[int]]:
    """The number of rows of each forward pass of the transformer."""
    passes: list[int] = []
    hook = encoder._weights.transformer.register_forward_hook(
        lambda _module, _args, out: passes.append(len(out.last_hidden_state))
    )
    yield passes
    hook.remove()


# --- what the three vectors are -------------------------------------------------------------------


def test_dense_is_the_first_token(three: dict[str, BgeM3], reference: Reference) -> None:
    """The dense vector is the hidden state of the first token, of norm 1, for queries and documents alike."""
    expected = np.stack([reference.dense(text) for text in ODD])
    for role in ("query", "document"):
        made = three["dense"].encode_text(ODD, role=role)
        assert isinstance(made, np.ndarray)
        assert made.dtype == np.float32
        assert np.allclose(made, expected, atol=1e-5)


def test_sparse_is_the_largest_weight_of_each_token(three: dict[str, BgeM3], reference: Reference) -> None:
    """The sparse vector holds the largest positive weight of each token id, ascending, special tokens left out."""
    expected = [reference.lexical(text) for text in ODD]
    made = three["sparse"].encode_text(ODD, role="document")
    assert len(made) == len(ODD)
    for vector, weights in zip(made, expected, strict=True):
        assert isinstance(vector, SparseVector)
        assert (vector.indices.dtype, vector.values.dtype) == (np.uint32, np.float32)
        assert vector.indices.tolist() == sorted(weights)
        assert np.allclose(vector.values, [weights[i] for i in sorted(weights)], atol=1e-5)
    tokens = {token for text in ODD for token in reference.states(text)[0]}
    assert len({token for weights in expected for token in weights}) < len(tokens - {0, 1, 2, 3})  # relu has work to do
    assert any(len(set(reference.states(text)[0])) < len(reference.states(text)[0]) for text in ODD)  # and so has max


def test_colbert_is_every_token_but_the_first(three: dict[str, BgeM3], reference: Reference) -> None:
    """The multivector projects each token after the first, the closing one included, rows of norm 1."""
    made = three["colbert"].encode_text(ODD, role="document")
    for vectors, text in zip(made, ODD, strict=True):
        assert isinstance(vectors, np.ndarray)
        expected = reference.multi(text)
        assert vectors.dtype == np.float32
        assert vectors.shape == (min(64, three["colbert"].count_tokens(text)) - 1, 48)
        assert np.allclose(vectors, expected, atol=1e-5)


def test_empty_text(three: dict[str, BgeM3]) -> None:
    """An empty text has a dense vector, one token vector and no lexical weight, as has one of unknown letters only."""
    assert np.linalg.norm(np.asarray(three["dense"].encode_text([""], role="query"))) == pytest.approx(1)
    assert [len(v) for v in three["colbert"].encode_text([""], role="query")] == [1]
    for vector in three["sparse"].encode_text(["", "\N{SNOWMAN}", "<s></s><pad>"], role="query"):
        assert isinstance(vector, SparseVector)
        assert not set(vector.indices.tolist()) & {0, 1, 2, 3}
    empty = three["sparse"].encode_text([""], role="query")[0]
    assert isinstance(empty, SparseVector)
    assert (empty.indices.size, empty.values.size) == (0, 0)


def test_no_texts(three: dict[str, BgeM3]) -> None:
    """No texts are no rows, without a forward pass."""
    with counted(three["dense"]) as passes:
        assert np.asarray(three["dense"].encode_text([], role="query")).shape == (0, 64)
        assert three["sparse"].encode_text([], role="query") == []
        assert three["colbert"].encode_text([], role="query") == []
    assert passes == []


def test_batches_and_order(three: dict[str, BgeM3]) -> None:
    """A text's vectors depend on neither its neighbours nor its place."""
    dense = np.asarray(three["dense"].encode_text(ODD, role="document"))
    alone = np.concatenate([np.asarray(three["dense"].encode_text([text], role="document")) for text in ODD])
    assert np.allclose(dense, alone, atol=1e-5)
    odd, plain = three["sparse"].encode_text(["a \ud800 b", "a ? b"], role="query")  # a lone surrogate is read as "?"
    assert same(odd, plain)  # type: ignore[arg-type]
    sparse = three["sparse"].encode_text(ODD[::-1], role="document")
    colbert = three["colbert"].encode_text(ODD[::-1], role="document")
    for i, text in enumerate(ODD[::-1]):
        assert same(sparse[i], three["sparse"].encode_text([text], role="document")[0])  # type: ignore[arg-type]
        assert np.allclose(colbert[i], three["colbert"].encode_text([text], role="document")[0], atol=1e-5)


def test_batches_keep_to_their_sizes(folder: Path, three: dict[str, BgeM3], reference: Reference) -> None:
    """Batches hold at most `batch_size` texts and the token budget, longest first, and leave no text out."""
    small = loaded(folder, "dense", batch_size=3)
    with counted(small) as passes:
        made = small.encode_text(ODD, role="document")
    assert passes == [3] * (len(ODD) // 3) + [len(ODD) % 3] * (len(ODD) % 3 > 0)
    assert np.allclose(np.asarray(made), [reference.dense(text) for text in ODD], atol=1e-5)
    three["dense"]._batches.budget, kept = 128, three["dense"]._batches.budget
    with counted(three["dense"]) as passes:
        three["dense"].encode_text(["long " * 200] * 3 + ["a"] * 4, role="document")
    three["dense"]._batches.budget = kept
    assert passes == [2, 2, 3]


def test_long_texts_are_cut(folder: Path, three: dict[str, BgeM3]) -> None:
    """A text is cut to `?max_length=` tokens, its closing token kept; counting cuts nothing."""
    short = load_encoder(f"bge-m3:{folder}?output=colbert&max_length=8", device="cpu")
    assert short.spec.context_length == 8
    assert len(short.encode_text(["long " * 20], role="document")[0]) == 7
    assert np.allclose(
        short.encode_text(["a " * 20], role="document")[0],
        three["colbert"].encode_text(["a " * 6], role="document")[0],
        atol=1e-5,
    )
    assert three["colbert"].count_tokens("a " * 200) == 202
    for wrong in ("7", "65", "many"):
        with pytest.raises(SettingsError, match="a whole number from 8 to 64"):
            load_encoder(f"bge-m3:{folder}?max_length={wrong}", device="cpu")


def test_spelled_special_tokens_do_not_cut_a_text(three: dict[str, BgeM3]) -> None:
    """What follows a spelled `</s>` still counts, and the spelling itself leaves no lexical weight."""
    whole, before = three["sparse"].encode_text(["branch </s> early protein", "branch"], role="document")
    assert isinstance(whole, SparseVector)
    assert isinstance(before, SparseVector)
    one = three["colbert"].encode_text(["branch </s> early protein"], role="document")[0]
    assert len(one) > len(three["colbert"].encode_text(["branch"], role="document")[0]) + 2
    assert not set(whole.indices.tolist()) & {0, 1, 2, 3}


# --- one forward pass -----------------------------------------------------------------------------


def test_three_outputs_share_one_model_and_one_pass(three: dict[str, BgeM3]) -> None:
    """The three encoders hold the same weights, and made jointly their vectors come from one forward pass."""
    dense, sparse, colbert = (three[output] for output in OUTPUTS)
    assert isinstance(dense, JointEncoder)
    assert dense.shares_forward(sparse)
    assert sparse.shares_forward(colbert)
    with counted(dense) as passes:
        made = dense.encode_text_jointly(DOCUMENTS, [sparse, colbert], role="document")
    assert passes == [len(DOCUMENTS)]
    with counted(dense) as passes:
        apart = [encoder.encode_text(DOCUMENTS, role="document") for encoder in (dense, sparse, colbert)]
    assert passes == [len(DOCUMENTS)] * 3
    assert np.allclose(np.asarray(made[0]), np.asarray(apart[0]), atol=1e-6)
    assert all(same(one, other) for one, other in zip(made[1], apart[1], strict=True))
    assert all(np.allclose(one, other, atol=1e-6) for one, other in zip(made[2], apart[2], strict=True))


def test_joint_vectors_come_in_the_order_asked(three: dict[str, BgeM3]) -> None:
    """The first are the encoder's own, then those of the others as they were given, one twice if asked twice."""
    made = three["sparse"].encode_text_jointly(
        ["a"], [three["colbert"], three["colbert"], three["dense"]], role="query"
    )
    assert isinstance(made[0][0], SparseVector)
    assert [np.asarray(vectors).shape for vectors in made[1:]] == [(1, 2, 48), (1, 2, 48), (1, 64)]


def test_what_does_not_share_is_refused(folder: Path, three: dict[str, BgeM3]) -> None:
    """Another length, dtype or family reads other hidden states: it shares nothing, and jointly it is refused."""
    shorter = load_encoder(f"bge-m3:{folder}?output=sparse&max_length=8", device="cpu")
    rounded = loaded(folder, "sparse", dtype="bfloat16")
    for other in (shorter, rounded, load_encoder("bm25")):
        assert not three["dense"].shares_forward(other)
        with pytest.raises(SettingsError, match="encode with each by itself"):
            three["dense"].encode_text_jointly(["a"], [other], role="query")


def test_weights_are_let_go_and_read_anew(tmp_path: Path) -> None:
    """Weights live as long as one of their encoders; a folder that was trained further is not the one in use."""
    folder = build_bge_m3(tmp_path / "m3")
    first = loaded(folder, "dense")
    assert loaded(folder, "sparse", dtype="float32")._weights is first._weights  # a CPU's dtype, asked for or not
    before = first.encode_text(["a"], role="query")
    state = load_file(folder / "model.safetensors")
    state["encoder.layer.0.intermediate.dense.weight"] *= 5
    model = XLMRobertaModel.from_pretrained(folder)
    model.load_state_dict(state)
    model.save_pretrained(folder)
    os.utime(folder / "model.safetensors", ns=(1, 1))
    trained = loaded(folder, "dense")
    assert trained.spec.fingerprint != first.spec.fingerprint
    assert not np.allclose(np.asarray(trained.encode_text(["a"], role="query")), np.asarray(before), atol=1e-3)
    assert sum(key[0] == str(folder) for key in _IN_USE) == 2
    del first, trained
    gc.collect()
    assert not any(key[0] == str(folder) for key in _IN_USE)


# --- in a store -----------------------------------------------------------------------------------


def test_all_three_in_a_collection(three: dict[str, BgeM3], tmp_path: Path) -> None:
    """In Qdrant Edge each vector ranks as numpy does; MaxSim is the sum that FlagEmbedding divides by |q|."""
    names = dict(zip(("text", "sparse", "late"), OUTPUTS, strict=True))
    documents = [*DOCUMENTS, ""]  # whose sparse vector is empty, and stored
    contract = Contract("documents", {name: vector_contract(three[output], "text") for name, output in names.items()})
    made = three["dense"].encode_text_jointly(documents, [three["sparse"], three["colbert"]], role="document")
    ids = [str(uuid.uuid5(uuid.NAMESPACE_URL, text)) for text in documents]
    with_store = mmembed.open_store(f"edge:{tmp_path / 'store.mm'}")
    try:
        with_store.create("documents", contract, indexes={})
        rows = zip(*made, strict=True)
        points = [Point(key, dict(zip(names, row, strict=True))) for key, row in zip(ids, rows, strict=True)]
        with_store.upsert("documents", points)
        query = "protein for a female"
        asked = three["dense"].encode_text_jointly([query], [three["sparse"], three["colbert"]], role="query")
        expected = {
            "text": np.asarray(made[0]) @ np.asarray(asked[0])[0],
            "sparse": np.array([dot(vector, asked[1][0]) for vector in made[1]]),  # type: ignore[arg-type]
            "late": np.array([max_sim(asked[2][0], vectors) for vectors in made[2]]),  # type: ignore[arg-type]
        }
        for name, scores in expected.items():
            leg = Leg(name, asked[list(names).index(name)][0])
            hits = with_store.query("documents", StoreQuery([leg], limit=len(documents), exact=True))
            order = [i for i in np.argsort(-scores, kind="stable") if scores[i] > 0 or name != "sparse"]
            assert [hit.id for hit in hits] == [ids[i] for i in order], name
            assert np.allclose([hit.score for hit in hits], scores[order], atol=1e-5)
        assert 0 < (expected["sparse"] > 0).sum() < len(documents)
        tokens = np.asarray(asked[2][0])
        mean = np.stack([(tokens @ np.asarray(vectors).T).max(1).mean() for vectors in made[2]])
        assert np.allclose(mean, expected["late"] / len(tokens), atol=1e-5)
    finally:
        with_store.close()


def dot(one: SparseVector, other: SparseVector) -> float:
    weights = dict(zip(other.indices.tolist(), other.values.tolist(), strict=True))
    return sum(value * weights.get(index, 0.0) for index, value in zip(*map(np.ndarray.tolist, one), strict=True))


def max_sim(query: DenseArray, document: DenseArray) -> float:
    return float(sum(max(float(q @ d) for d in document) for q in query))


# --- names, specs and refusals --------------------------------------------------------------------


def test_specs(folder: Path, three: dict[str, BgeM3]) -> None:
    """Each output says what it is; dense is the default, and no output's vectors compare with another's."""
    assert [(e.spec.kind, e.spec.dim, e.spec.distance) for e in three.values()] == [
        ("dense", 64, "cosine"),
        ("sparse", None, "dot"),
        ("multi", 48, "cosine"),
    ]
    assert {e.spec.context_length for e in three.values()} == {64}
    assert len({e.spec.fingerprint for e in three.values()}) == 3
    default = load_encoder(f"bge-m3:{folder}", device="cpu")
    assert default.spec.fingerprint == three["dense"].spec.fingerprint
    assert default.spec.name == f"bge-m3:{folder}"
    with pytest.raises(SettingsError, match="not one of dense, sparse, colbert"):
        load_encoder(f"bge-m3:{folder}?output=hybrid", device="cpu")


def test_fingerprint_knows_the_layer_of_its_output(folder: Path, three: dict[str, BgeM3], tmp_path: Path) -> None:
    """Another sparse layer makes other sparse vectors, and leaves dense and ColBERT vectors what they were."""
    copied = shutil.copytree(folder, tmp_path / "copy")
    state = torch.load(copied / "sparse_linear.pt", weights_only=True)
    torch.save({**state, "bias": state["bias"] + 1}, copied / "sparse_linear.pt")
    same_print = [loaded(copied, output).spec.fingerprint == three[output].spec.fingerprint for output in OUTPUTS]
    assert same_print == [True, False, True]


def test_safetensors_are_taken_first(tmp_path: Path) -> None:
    """Layers as .safetensors load alike, and beside them a pickle is not opened."""
    plain = build_bge_m3(tmp_path / "plain")
    safe = build_bge_m3(tmp_path / "safe", safe_heads=True)
    (safe / "sparse_linear.pt").write_bytes(b"not to be opened")
    for one, other in zip(
        loaded(plain, "sparse").encode_text(DOCUMENTS, role="query"),
        loaded(safe, "sparse").encode_text(DOCUMENTS, role="query"),
        strict=True,
    ):
        assert same(one, other)


def test_pickled_as_published(folder: Path, three: dict[str, BgeM3], tmp_path: Path) -> None:
    """BAAI/bge-m3 is published as a pytorch_model.bin, which loads alike and counts in the fingerprint."""
    prints = set()
    for scale in (1.0, 1.5):
        copied = shutil.copytree(folder, tmp_path / str(scale))
        state = load_file(copied / "model.safetensors")
        state["embeddings.LayerNorm.weight"] *= scale
        torch.save(state, copied / "pytorch_model.bin")
        (copied / "model.safetensors").unlink()
        encoder = loaded(copied, "dense")
        made, safe = (np.asarray(e.encode_text(DOCUMENTS, role="query")) for e in (encoder, three["dense"]))
        assert np.allclose(made, safe, atol=1e-6) == (scale == 1.0)
        prints.add(encoder.spec.fingerprint)
    assert len(prints) == 2


class Harmful:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("opened",)


def test_layers_that_are_not_plain_weights_are_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pickle that would run code, a broken file and a layer of another shape are refused, and nothing is run."""
    monkeypatch.chdir(tmp_path)
    copied = shutil.copytree(folder, tmp_path / "copy")
    (copied / "sparse_linear.pt").write_bytes(pickle.dumps(Harmful(), protocol=2))
    with pytest.raises(EncoderLoadError, match=r"pickled weights of .* hold more than tensors"):
        loaded(copied, "sparse")
    assert not (tmp_path / "opened").exists()
    (copied / "sparse_linear.pt").write_bytes(b"")
    with pytest.raises(EncoderLoadError, match="cannot be loaded"):
        loaded(copied, "sparse")
    shutil.copy(folder / "colbert_linear.pt", copied / "sparse_linear.pt")
    with pytest.raises(EncoderLoadError, match="not a layer from 64 dimensions to 1: take the file"):
        loaded(copied, "sparse")
    torch.save([1, 2], copied / "sparse_linear.pt")
    with pytest.raises(EncoderLoadError, match="holds no weights, not a layer"):
        loaded(copied, "sparse")


def test_a_plain_xlm_roberta_is_refused(folder: Path, tmp_path: Path) -> None:
    """Without its layers a checkpoint is no BGE-M3, and none are made up; of another kind it is refused too."""
    copied = shutil.copytree(folder, tmp_path / "copy")
    (copied / "colbert_linear.pt").unlink()
    with pytest.raises(EncoderLoadError, match=r"has no colbert_linear\.pt, .* sentence:"):
        loaded(copied, "dense")
    with pytest.raises(EncoderLoadError, match="is a 'bert' model, not 'xlm-roberta'"):
        loaded(build_bert(tmp_path / "bert", pooling="cls"), "dense")


def test_from_the_hub_cache(
    folder: Path, three: dict[str, BgeM3], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cached hub model loads without the network, its layers too; without them it says what could not be fetched."""
    commit = "1" * 40
    snapshot = tmp_path / "models--someone--m3" / "snapshots" / commit
    shutil.copytree(folder, snapshot)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    cached = load_encoder(f"bge-m3:someone/m3?output=sparse&revision={commit}", device="cpu")
    assert cached.spec.fingerprint == three["sparse"].spec.fingerprint
    assert cached.spec.revision == commit
    del cached
    gc.collect()
    (snapshot / "sparse_linear.pt").unlink()
    with pytest.raises(EncoderLoadError, match="someone/m3 is neither in the Hugging Face cache nor"):
        load_encoder(f"bge-m3:someone/m3?output=sparse&revision={commit}", device="cpu")


def test_layers_come_from_the_hub(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the hub has its layers as .pt only they are fetched, and a model that has none there is refused."""
    commit = "2" * 40
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with a_hub(folder, commit) as url:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
        template = url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        fetched = _head_file(Checkpoint("someone/m3", commit, local=False), "sparse_linear")
        with pytest.raises(EncoderLoadError, match=r"someone/m3 has no dense_linear\.pt"):
            _head_file(Checkpoint("someone/m3", commit, local=False), "dense_linear")
    assert fetched.name == "sparse_linear.pt"
    assert fetched.read_bytes() == (folder / "sparse_linear.pt").read_bytes()
    assert _head_file(Checkpoint("someone/m3", commit, local=False), "sparse_linear") == fetched  # from the cache


@contextmanager
def a_hub(folder: Path, commit: str) -> Iterator[str]:
    """A server on loopback that has `folder` as the model someone/m3."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            file = folder / self.path.removeprefix(f"/someone/m3/resolve/{commit}/")
            content = file.read_bytes() if self.path.startswith("/someone/") and file.is_file() else None
            self.send_response(404 if content is None else 200)
            if content is None:
                self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("ETag", f'"{hashlib.sha256(content or b"").hexdigest()}"')
            self.send_header("X-Repo-Commit", commit)
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content or b"")

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    close_session()  # one made offline refuses to ask
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        close_session()
        server.shutdown()
        thread.join()
        server.server_close()


def test_tasks_and_images_are_refused(three: dict[str, BgeM3]) -> None:
    """These models know no tasks but retrieval, and no pictures."""
    for task in (None, "", "retrieval"):
        assert len(three["dense"].encode_text(["a"], role="query", task=task)) == 1
    with pytest.raises(SettingsError, match="knows no task 'clustering'"):
        three["dense"].encode_text(["a"], role="query", task="clustering")
    with pytest.raises(UnsupportedModality, match="only text"):
        three["sparse"].encode_image([Image.new("RGB", (4, 4))])


def test_half_precision(folder: Path, three: dict[str, BgeM3]) -> None:
    """In bfloat16 all vectors are still float32, of norm 1 and near those of float32."""
    rounded = {output: loaded(folder, output, dtype="bfloat16") for output in OUTPUTS}
    assert {encoder.dtype for encoder in rounded.values()} == {"bfloat16"}
    dense = np.asarray(rounded["dense"].encode_text(DOCUMENTS, role="query"))
    assert dense.dtype == np.float32
    assert np.abs(np.linalg.norm(dense, axis=1) - 1).max() < 1e-6
    exact = np.asarray(three["dense"].encode_text(DOCUMENTS, role="query"))
    assert 0 < np.abs(dense - exact).max() < 0.1
    vectors = rounded["colbert"].encode_text(DOCUMENTS, role="query")[0]
    assert np.abs(np.linalg.norm(np.asarray(vectors), axis=1) - 1).max() < 1e-6
    assert rounded["sparse"].spec.fingerprint == three["sparse"].spec.fingerprint


def test_an_overflow_is_told(tmp_path: Path) -> None:
    """Hidden states that are no numbers are an error that names the dtype, never a vector."""
    folder = build_bge_m3(tmp_path / "m3")
    encoder = loaded(folder, "sparse")
    with torch.no_grad():
        encoder._weights.transformer.encoder.layer[0].output.dense.bias.fill_(float("inf"))
    with pytest.raises(InvalidEmbedding, match="overflowed in float32"):
        encoder.encode_text(["a"], role="query")


def test_a_full_gpu_halves_the_batch(
    three: dict[str, BgeM3], reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the GPU has no room for a batch it is cut in two, in order; one text too many is an error."""
    encoder = three["dense"]
    forward, sizes, room = encoder._weights.transformer.forward, [], 2

    def crowded(input_ids: torch.Tensor, attention_mask: torch.Tensor) -> object:
        sizes.append(len(input_ids))
        if len(input_ids) > room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(input_ids=input_ids, attention_mask=attention_mask)

    monkeypatch.setattr(encoder._weights.transformer, "forward", crowded)
    made = encoder.encode_text_jointly(DOCUMENTS, [three["sparse"]], role="document")
    assert np.allclose(np.asarray(made[0]), [reference.dense(text) for text in DOCUMENTS], atol=1e-5)
    assert [len(v.indices) for v in made[1]] == [len(reference.lexical(text)) for text in DOCUMENTS]
    assert sizes == [5, 2, 3, 1, 2]
    room = 0
    with pytest.raises(EncoderError, match=r"no GPU memory left for one text of \d+ tokens"):
        encoder.encode_text(["a", "b"], role="document")
