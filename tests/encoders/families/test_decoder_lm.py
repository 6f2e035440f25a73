"""Decoder language models, held against the code of their model cards."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from checkpoints_text import TEXTS, build_e5_mistral, build_gemma3, build_qwen3
from PIL import Image
from transformers import AutoModel, AutoTokenizer

from mmembed.encoders.families import decoder_lm
from mmembed.encoders.families.decoder_lm import E5_MISTRAL, QWEN3, DecoderLM
from mmembed.encoders.families.decoder_passes import Prefix
from mmembed.encoders.presets import PRESETS
from mmembed.encoders.prompts import known_tasks, query_prefix
from mmembed.encoders.registry import load_encoder, parse_name
from mmembed.encoders.tokens import token_batches
from mmembed.errors import EncoderError, EncoderLoadError, InvalidEmbedding, SettingsError, UnsupportedModality
from mmembed.types import DenseArray, LoadOptions

WEB_SEARCH = "Given a web search query, retrieve relevant passages that answer the query"
QUERY = f"Instruct: {WEB_SEARCH}\nQuery: "


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_e5_mistral(tmp_path_factory.mktemp("text") / "e5")


@pytest.fixture(scope="module")
def e5(folder: Path) -> DecoderLM:
    encoder = load_encoder(f"e5-mistral:{folder}", device="cpu")
    assert isinstance(encoder, DecoderLM)
    return encoder


# --- the reference: microsoft/unilm e5 and the card of intfloat/e5-mistral-7b-instruct ------------


def last_token_pool(last_hidden_states: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    left_padding = attention_mask[:, -1].sum() == attention_mask.shape[0]
    if left_padding:
        return last_hidden_states[:, -1]
    sequence_lengths = attention_mask.sum(dim=1) - 1
    batch_size = last_hidden_states.shape[0]
    return last_hidden_states[torch.arange(batch_size), sequence_lengths]


def card_reference(folder: Path, texts: Sequence[str], *, max_length: int = 4096) -> DenseArray:
    """The first card's code: the closing token is appended by hand, so that no tokenizer flag plays a part."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder)
    batch_dict = tokenizer(
        list(texts), max_length=max_length - 1, return_attention_mask=False, padding=False, truncation=True
    )
    batch_dict["input_ids"] = [[*input_ids, tokenizer.eos_token_id] for input_ids in batch_dict["input_ids"]]
    batch_dict = tokenizer.pad(batch_dict, padding=True, return_attention_mask=True, return_tensors="pt")
    with torch.no_grad():
        outputs = model(**batch_dict)
        embeddings = last_token_pool(outputs.last_hidden_state, batch_dict["attention_mask"])
        return F.normalize(embeddings, p=2, dim=1).numpy()


def cosines(left: DenseArray, right: DenseArray) -> DenseArray:
    return (left * right).sum(axis=1)


# --- E5-Mistral ----------------------------------------------------------------------------------


def test_documents_equal_the_model_card(folder: Path, e5: DecoderLM) -> None:
    """A document is embedded as the card embeds it, without any prefix."""
    got = e5.encode_text(TEXTS, role="document")
    assert np.allclose(got, card_reference(folder, TEXTS), atol=1e-5)


def test_queries_equal_the_model_card(folder: Path, e5: DecoderLM) -> None:
    """A query is led by the card's instruction, with one newline and one space, byte for byte."""
    got = e5.encode_text(TEXTS, role="query")
    assert np.allclose(got, card_reference(folder, [QUERY + text for text in TEXTS]), atol=1e-5)


def test_queries_equal_sentence_transformers(folder: Path, e5: DecoderLM) -> None:
    """sentence-transformers, given both tokenizer flags and the prompt, agrees."""
    from sentence_transformers import SentenceTransformer

    flags = {"add_bos_token": True, "add_eos_token": True}
    reference = SentenceTransformer(str(folder), device="cpu", processor_kwargs=flags)
    expected = reference.encode(TEXTS, prompt=QUERY, normalize_embeddings=True, show_progress_bar=False)
    assert np.allclose(e5.encode_text(TEXTS, role="query"), expected, atol=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 6])
def test_neither_padding_nor_batches_nor_order_change_a_vector(folder: Path, side: str, size: int) -> None:
    """Left or right padding, any batch size and any order give every text the vector it has alone."""
    family = replace(E5_MISTRAL, padding_side=side)
    load = decoder_lm._loader(family, "")
    encoder = load(parse_name(f"e5-mistral:{folder}"), LoadOptions(device="cpu", batch_size=size))
    expected = card_reference(folder, TEXTS)
    order = np.random.default_rng(size).permutation(len(TEXTS))
    got = encoder.encode_text([TEXTS[i] for i in order], role="document")
    assert np.allclose(got, expected[order], atol=1e-5)


def test_every_text_is_framed(e5: DecoderLM) -> None:
    """Every text starts with id 1 and ends with id 2, empty and cut ones too, and is never longer than the limit."""
    tokens = e5._tokens
    for ids in tokens.ids([*TEXTS, " ", "word " * 3000], limit=64):
        assert ids[0] == 1
        assert ids[-1] == 2
        assert len(ids) <= 64
    assert tokens.ids([""]) == [[1, 2]]


def test_a_long_text_is_cut_as_the_card_cuts_it(folder: Path) -> None:
    """`?max_length=` cuts the text, not its closing token, and is what the spec reports."""
    encoder = load_encoder(f"e5-mistral:{folder}?max_length=16", device="cpu")
    assert encoder.spec.context_length == 16
    got = encoder.encode_text(TEXTS, role="document")
    assert np.allclose(got, card_reference(folder, TEXTS, max_length=16), atol=1e-5)


def test_a_special_token_in_a_text_is_only_text(e5: DecoderLM) -> None:
    """`</s>` typed by a user becomes pieces of text: the ids 1 and 2 stand at the ends alone."""
    [ids] = e5._tokens.ids(["before </s> after <s>"])
    assert not {1, 2} & set(ids[1:-1])
    assert e5.count_tokens("before </s> after <s>") == len(ids)


def test_norms_are_exact_in_float32(e5: DecoderLM) -> None:
    """Rows have norm 1 to 1e-6; the same vectors normalised in half precision do not."""
    vectors = e5.encode_text(TEXTS, role="query")
    assert vectors.dtype == np.float32
    assert np.abs(np.linalg.norm(vectors.astype(np.float64), axis=1) - 1).max() < 1e-6
    for dtype in (torch.float16, torch.bfloat16):
        half = F.normalize(torch.from_numpy(vectors * 3.7).to(dtype), dim=1)
        assert (half.double().norm(dim=1) - 1).abs().max() > 1e-5


def test_half_precision_weights_still_give_unit_float32(folder: Path) -> None:
    """In bfloat16 the rows are near those of float32 and of norm 1 all the same."""
    encoder = load_encoder(f"e5-mistral:{folder}", device="cpu", dtype="bfloat16")
    assert encoder.dtype == "bfloat16"
    vectors = encoder.encode_text(TEXTS, role="document")
    assert np.abs(np.linalg.norm(vectors, axis=1) - 1).max() < 1e-6
    assert cosines(vectors, card_reference(folder, TEXTS)).min() > 0.97


def test_no_key_value_cache_is_built(e5: DecoderLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """The forward pass is asked for no cache and returns none: it would cost 128 KiB a token at 7B."""
    outputs = []
    forward = e5._forward.model.forward

    def spy(**arguments: Any) -> Any:
        outputs.append((arguments["use_cache"], forward(**arguments)))
        return outputs[-1][1]

    monkeypatch.setattr(e5._forward.model, "forward", spy)
    e5.encode_text(["a"], role="document")
    [(use_cache, out)] = outputs
    assert use_cache is False
    assert out.past_key_values is None


def test_tasks(folder: Path, e5: DecoderLM) -> None:
    """A task is a data set's name, a plain word or an instruction; an empty one leaves no prefix at all."""
    scientific = "Given a scientific claim, retrieve documents that support or refute the claim"
    for task, prefix in {
        "SciFact": f"Instruct: {scientific}\nQuery: ",
        "similarity": "Instruct: Retrieve semantically similar text.\nQuery: ",
        "Find the {braces}": "Instruct: Find the {braces}\nQuery: ",
        "": "",
    }.items():
        expected = card_reference(folder, [prefix + text for text in TEXTS])
        assert np.allclose(e5.encode_text(TEXTS, role="query", task=task), expected, atol=1e-5)
    plain = card_reference(folder, TEXTS)
    assert np.allclose(e5.encode_text(TEXTS, role="document", task="SciFact"), plain, atol=1e-5)


def test_task_table() -> None:
    """Instructions are those E5-Mistral was trained with, slips included, and the default is web search."""
    tasks = known_tasks()
    assert tasks["Banking77Classification"] == "Given a online banking query, find the corresponding intents"
    assert {"retrieval", "classification", "clustering", "similarity", "CQADupstack", "TRECCOVID"} <= set(tasks)
    assert query_prefix(E5_MISTRAL.query_prompt, None) == QUERY
    assert query_prefix(QWEN3.query_prompt, None) == QUERY[:-1]


def test_no_texts(e5: DecoderLM) -> None:
    """No texts are no rows, of the right width."""
    assert e5.encode_text([], role="query").shape == (0, 64)


def test_a_image_is_refused(e5: DecoderLM) -> None:
    """A text model says that it reads no pictures."""
    with pytest.raises(UnsupportedModality, match="only text"):
        e5.encode_image([Image.new("RGB", (4, 4))])


# --- the fixture itself --------------------------------------------------------------------------


def mutants(folder: Path) -> dict[str, DenseArray]:
    """What the usual mistakes make of TEXTS, as queries; the right answer is `card_reference` of the same."""
    tokenizer = AutoTokenizer.from_pretrained(folder, add_bos_token=True, add_eos_token=True)
    model = AutoModel.from_pretrained(folder)
    queries = [QUERY + text for text in TEXTS]

    def hidden(tokens: Any, texts: Sequence[str], side: str, *, masked: bool = True) -> tuple[torch.Tensor, ...]:
        batch = tokens(list(texts), padding=True, padding_side=side, return_tensors="pt")
        mask = {"attention_mask": batch["attention_mask"]} if masked else {}
        with torch.no_grad():
            return model(input_ids=batch["input_ids"], **mask).last_hidden_state, batch["attention_mask"]

    def unit(vectors: torch.Tensor) -> DenseArray:
        return F.normalize(vectors, dim=1).numpy()

    right, mask = hidden(tokenizer, queries, "right")
    rows, last = torch.arange(len(queries)), mask.sum(1) - 1
    found = {
        "last column under right padding": unit(right[:, -1]),
        "left padding without a mask": unit(hidden(tokenizer, queries, "left", masked=False)[0][:, -1]),
        "token before the last": unit(right[rows, last - 1]),
        "mean": unit((right * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)),
        "first token": unit(right[:, 0]),
        "no space after Query:": unit(
            last_token_pool(*hidden(tokenizer, [q.replace(": ", ":") for q in queries], "right"))
        ),
    }
    for flags in ({}, {"add_eos_token": True}, {"add_bos_token": True}):
        framed_wrong = AutoTokenizer.from_pretrained(folder, **flags)
        found[f"tokenizer flags {flags}"] = unit(last_token_pool(*hidden(framed_wrong, queries, "right")))
    return found


def test_the_fixture_tells_right_from_wrong(folder: Path) -> None:
    """Each usual mistake moves at least one text below a cosine of 0.99: agreement with the card means something."""
    right = card_reference(folder, [QUERY + text for text in TEXTS])
    for mistake, vectors in mutants(folder).items():
        assert cosines(vectors, right).min() < 0.99, mistake
    documents = card_reference(folder, TEXTS)
    assert cosines(documents, right).min() < 0.99, "prompt on a document"


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize("flags", [{}, {"add_eos_token": True}, {"add_bos_token": True}])
def test_a_tokenizer_without_its_frame_is_refused(folder: Path, flags: dict[str, bool]) -> None:
    """Without both flags transformers 5 drops `</s>` or `<s>`: the load fails instead of the search."""
    load = decoder_lm._loader(replace(E5_MISTRAL, tokenizer_flags=flags), "")
    with pytest.raises(EncoderLoadError, match="published with the model"):
        load(parse_name(f"e5-mistral:{folder}"), LoadOptions(device="cpu"))


def test_a_promised_closing_token_is_demanded(tmp_path: Path) -> None:
    """A family that fixes no closing token still refuses a tokenizer whose own config asks for one it does not set."""
    folder = build_qwen3(tmp_path / "q")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps({**tokenizer, "post_processor": None}))
    load_encoder(f"harrier:{folder}", device="cpu")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "add_eos_token": True}))
    with pytest.raises(EncoderLoadError, match="im_end"):
        load_encoder(f"harrier:{folder}", device="cpu")


def test_a_model_of_another_family_is_refused(folder: Path) -> None:
    """A Mistral is no Qwen3, whatever its name says."""
    with pytest.raises(EncoderLoadError, match="'mistral' model, not 'qwen3'"):
        load_encoder(f"qwen3:{folder}", device="cpu")


def test_missing_weights_are_refused(folder: Path, tmp_path: Path) -> None:
    """A checkpoint without one of its layers is refused: transformers would draw that layer at random."""
    from safetensors.torch import load_file, save_file

    broken = shutil.copytree(folder, tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    del weights["layers.2.mlp.up_proj.weight"]
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(EncoderLoadError, match=r"layers\.2\.mlp\.up_proj"):
        load_encoder(f"e5-mistral:{broken}", device="cpu")


def test_broken_weights_are_refused(folder: Path, tmp_path: Path) -> None:
    """A truncated file of weights is an EncoderLoadError in one line."""
    broken = shutil.copytree(folder, tmp_path / "broken")
    (broken / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:100])
    with pytest.raises(EncoderLoadError, match="cannot be loaded"):
        load_encoder(f"e5-mistral:{broken}", device="cpu")


@pytest.mark.parametrize("name", ["e5-mistral", "qwen3:nobody/nothing"])
def test_offline_says_what_to_do(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A hub model that is neither cached nor reachable says so, and that a local folder works."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(EncoderLoadError, match="name a local folder"):
        load_encoder(name, device="cpu")


def test_a_path_that_is_not_there() -> None:
    """A path is not looked for on the hub."""
    with pytest.raises(EncoderLoadError, match="not there"):
        load_encoder("e5-mistral:./no/such/folder", device="cpu")
    with pytest.raises(EncoderLoadError, match="qwen3:Qwen/Qwen3-Embedding"):
        load_encoder("qwen3", device="cpu")


@pytest.mark.parametrize("option", ["max_length=0", "max_length=long", "max_length=99999", "revision=main"])
def test_senseless_options(folder: Path, option: str) -> None:
    """A limit that is no number or out of range, and the revision of a folder, are refused."""
    with pytest.raises(SettingsError):
        load_encoder(f"e5-mistral:{folder}?{option}", device="cpu")


def test_e5_mistral_is_not_matryoshka(folder: Path) -> None:
    """Fewer dimensions are refused where the model was not trained for them."""
    with pytest.raises(SettingsError, match="Matryoshka"):
        load_encoder(f"e5-mistral:{folder}?dim=32", device="cpu")


def test_overflow_is_not_stored(e5: DecoderLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hidden state that is not finite raises and names the dtype."""
    monkeypatch.setattr(e5._forward, "_pool", lambda rows, **_: torch.full((len(rows), 64), float("inf")))
    with pytest.raises(InvalidEmbedding, match="overflowed in float32"):
        e5.encode_text(["a"], role="document")


def test_a_full_gpu_halves_the_batch(folder: Path, e5: DecoderLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the GPU has no room for a batch it is cut in two, in order; one text too many is an error."""
    pool, sizes = e5._forward._pool, []

    def crowded(rows: list[Sequence[int]], prefix: Prefix | None, *, room: int) -> torch.Tensor:
        sizes.append(len(rows))
        if len(rows) > room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return pool(rows, prefix)

    monkeypatch.setattr(e5._forward, "_pool", partial(crowded, room=2))
    assert np.allclose(e5.encode_text(TEXTS, role="document"), card_reference(folder, TEXTS), atol=1e-5)
    assert sizes == [6, 3, 1, 2, 3, 1, 2]
    monkeypatch.setattr(e5._forward, "_pool", partial(crowded, room=0))
    with pytest.raises(EncoderError, match="no GPU memory left for one text"):
        e5.encode_text(["a", "b"], role="document")


# --- batches, fingerprints, the other families ---------------------------------------------------


def test_batches_keep_to_their_budget() -> None:
    """Every position comes once, longest first; a batch keeps to its budget unless it is one long text."""
    lengths = [int(n) for n in np.random.default_rng(0).integers(1, 60, size=200)]
    batches = list(token_batches(lengths, budget=50, cap=7))
    assert sorted(i for batch in batches for i in batch) == list(range(200))
    assert all(a >= b for a, b in pairwise(lengths[i] for batch in batches for i in batch))
    for batch in batches:
        assert len(batch) <= 7
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= 50


def test_fingerprints(folder: Path, e5: DecoderLM, tmp_path: Path) -> None:
    """A copy of the folder makes the same vectors, and says so; other weights or another dim do not."""
    copied = shutil.copytree(folder, tmp_path / "copy")
    moved = load_encoder(f"e5-mistral:{copied}?max_length=512", device="cpu", batch_size=2)
    assert moved.spec.fingerprint == e5.spec.fingerprint
    assert moved.spec.name == f"e5-mistral:{copied}?max_length=512"
    qwen3 = build_qwen3(tmp_path / "qwen3")
    whole, short = (load_encoder(f"qwen3:{qwen3}{dim}", device="cpu") for dim in ("", "?dim=32"))
    assert len({e5.spec.fingerprint, whole.spec.fingerprint, short.spec.fingerprint}) == 3


def test_qwen3_equals_its_card(tmp_path: Path) -> None:
    """Qwen3: left padding, the tokenizer's own closing token, no space after "Query:"."""
    folder = build_qwen3(tmp_path / "qwen3")
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    model = AutoModel.from_pretrained(folder)
    queries = [f"Instruct: {WEB_SEARCH}\nQuery:{text}" for text in TEXTS]
    encoder = load_encoder(f"qwen3:{folder}", device="cpu")
    for role, texts in (("query", queries), ("document", TEXTS)):
        batch_dict = tokenizer(texts, padding=True, truncation=True, max_length=8192, return_tensors="pt")
        assert (batch_dict["input_ids"][:, -1] == tokenizer.convert_tokens_to_ids("<|endoftext|>")).all()
        with torch.no_grad():
            outputs = model(**batch_dict)
        embeddings = last_token_pool(outputs.last_hidden_state, batch_dict["attention_mask"])
        expected = F.normalize(embeddings, p=2, dim=1).numpy()
        got = encoder.encode_text(TEXTS, role=role)  # type: ignore[arg-type]
        assert np.allclose(got, expected, atol=1e-5)
        short = load_encoder(f"qwen3:{folder}?dim=40", device="cpu").encode_text(TEXTS, role=role)  # type: ignore[arg-type]
        assert np.allclose(short, F.normalize(embeddings[:, :40], dim=1).numpy(), atol=1e-5)
    with pytest.raises(SettingsError, match="from 32 to 64"):
        load_encoder(f"qwen3:{folder}?dim=31", device="cpu")


def test_qwen3_without_its_closing_token_is_refused(tmp_path: Path) -> None:
    """A Qwen3 whose tokenizer.json appends nothing is refused."""
    folder = build_qwen3(tmp_path / "q")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps({**tokenizer, "post_processor": None}))
    with pytest.raises(EncoderLoadError, match="endoftext"):
        load_encoder(f"qwen3:{folder}", device="cpu")


def test_harrier_on_gemma_equals_its_tokenizer_and_last_token(tmp_path: Path) -> None:
    """Harrier 270m: Gemma 3 with its tokenizer as published, the last token, the prompt without a space."""
    folder = build_gemma3(tmp_path / "gemma")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder)
    queries = [f"Instruct: {WEB_SEARCH}\nQuery:{text}" for text in TEXTS]
    expected = []
    for query in queries:
        with torch.no_grad():
            state = model(**tokenizer(query, return_tensors="pt")).last_hidden_state[0, -1]
        expected.append(F.normalize(state, dim=0).numpy())
    got = load_encoder(f"harrier:{folder}", device="cpu").encode_text(TEXTS, role="query")
    assert np.allclose(got, np.stack(expected), atol=1e-5)


def test_presets_agree_with_their_families() -> None:
    """What a preset promises before the weights are there is what its family does."""
    families = {"e5-mistral": E5_MISTRAL, "qwen3": QWEN3, "harrier": decoder_lm.HARRIER}
    rows = [p for p in PRESETS.values() if p.encoder.partition(":")[0] in families]
    assert len(rows) == 6
    for preset in rows:
        family = families[preset.encoder.partition(":")[0]]
        assert preset.query_prompt == family.query_prompt
        assert preset.context_length == family.context_length
        assert preset.revision is not None
        assert len(preset.revision) == 40
        shorter = tuple(dim for dim in family.matryoshka_dims if dim < (preset.dim or 0))
        assert preset.matryoshka_dims == ((*shorter, preset.dim) if shorter else ())


def test_prefix_lengths_with_the_real_mistral_tokenizer(tmp_path: Path) -> None:
    """The instructions of the BEIR tasks are as long, in Mistral's own tokens, as they are known to be."""
    package = pytest.importorskip("mistral_common", reason="carries Mistral-7B's tokenizer")
    vocabulary = Path(package.__file__).parent / "data" / "tokenizer.model.v1"
    folder = build_e5_mistral(tmp_path / "e5", vocabulary=vocabulary)
    encoder = load_encoder(f"e5-mistral:{folder}", device="cpu")
    for task, length in {"ArguAna": 18, "MSMARCO": 21, "FEVER": 20, "SciFact": 21, "CQADupstack": 30, "NQ": 19}.items():
        prefix = query_prefix(E5_MISTRAL.query_prompt, task).rstrip(" ")
        assert encoder.count_tokens(prefix) - 1 == length, task  # less the closing token
    assert encoder.count_tokens("") == 2
