"""Presets and what they promise; tasks and roles of the families; models that are refused before they load."""

from __future__ import annotations

import ast
import json
import shutil
import tomllib
from dataclasses import fields, replace
from importlib.resources import files
from pathlib import Path
from typing import get_type_hints

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from checkpoints_text import TEXTS, build_bert, build_e5_mistral
from huggingface_hub import constants
from pydantic import TypeAdapter
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoTokenizer

import mmembed
from mmembed.encoders.presets import PRESETS, Preset, preset_of_model
from mmembed.encoders.prompts import Prompts, is_symmetric, known_tasks, text_prefix
from mmembed.encoders.registry import families, load_encoder, parse_name
from mmembed.errors import EncoderLoadError, SettingsError
from mmembed.types import DenseArray, Role

ROLES: tuple[Role, ...] = ("query", "document")
E5_FORM = "Instruct: {task}\nQuery: "
SIMILAR = "Instruct: Retrieve semantically similar text.\nQuery: "


def known(monkeypatch: pytest.MonkeyPatch, cache: Path, name: str, folder: Path, **changed: object) -> Preset:
    """Lay `folder` out in the hub's cache as the preset's model at its revision, with a row that is `changed`."""
    preset = replace(PRESETS[name], **changed)  # type: ignore[arg-type]
    monkeypatch.setitem(PRESETS, name, preset)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    snapshot = cache / f"models--{preset.model.replace('/', '--')}" / "snapshots" / str(preset.revision)
    shutil.copytree(folder, snapshot)
    return preset


def empty_cache(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def off_centre(folder: Path) -> Path:
    """The model with a last layer norm that shifts: untrained, it leaves nothing for a second one to do."""
    state = load_file(folder / "model.safetensors")
    bias = "encoder.layer.2.output.LayerNorm.bias"
    state[bias] = torch.linspace(-1, 3, len(state[bias]))
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def mean_states(folder: Path, texts: list[str]) -> torch.Tensor:
    """Transformers alone, a text at a time: the means of the hidden states, `(n, 32)`, not normalised."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
    rows = []
    for text in texts:
        batch = tokenizer([text], truncation=True, max_length=64, return_tensors="pt")
        with torch.no_grad():
            rows.append(model(**batch).last_hidden_state[0].mean(0))
    return torch.stack(rows)


def unit(rows: torch.Tensor) -> DenseArray:
    made: DenseArray = F.normalize(rows, dim=1).numpy()
    return made


# --- the rows ------------------------------------------------------------------------------------


def test_every_table_of_the_file_is_a_preset() -> None:
    """Each key of presets.toml is a field of `Preset`, with a value of its type; an unknown one is a TypeError."""
    hints = get_type_hints(Preset)
    file = tomllib.loads(files("mmembed.encoders.presets").joinpath("presets.toml").read_text("utf-8"))
    assert set(file) == {"presets", "tasks"}
    assert list(file["presets"]) == list(PRESETS)
    assert {row["task_prompts"] for row in file["presets"].values() if "task_prompts" in row} == set(file["tasks"])
    for name, row in file["presets"].items():
        assert set(row) <= set(hints), name
        for key in row:
            TypeAdapter(hints[key]).validate_python(getattr(PRESETS[name], key), strict=True)
    with pytest.raises(TypeError, match="licence_"):
        Preset(**{**file["presets"]["minilm"], "licence_": "MIT"})


def test_every_row_can_be_asked_for() -> None:
    """Each preset is of a family that is here, has a licence and a summary, and is the only one of its model."""
    for name, preset in PRESETS.items():
        assert parse_name(name).family in families(), name
        assert preset.licence, name
        assert preset.summary, name
        assert preset.revision is None or len(preset.revision) == 40, name
    models = [preset.model for preset in PRESETS.values() if preset.model]
    assert len(models) == len(set(models))
    assert all(preset_of_model(model) is not None for model in models)
    assert preset_of_model("") is None


def test_rows_agree_with_themselves() -> None:
    """Matryoshka dims rise to the whole vector; sparse rows have no dim and a dot product; own prompts stand alone."""
    for name, preset in PRESETS.items():
        if preset.matryoshka_dims:
            assert preset.matryoshka_dims == tuple(sorted(set(preset.matryoshka_dims))), name
            assert preset.matryoshka_dims[-1] == preset.dim, name
        assert (preset.kind == "sparse") == (preset.dim is None), name
        assert (preset.kind == "sparse") == (preset.distance == "dot"), name
        if preset.own_prompts:
            assert (preset.query_prompt, preset.document_prompt, dict(preset.task_prompts)) == ("", "", {}), name
        for task in ("classification", "clustering", "similarity"):
            if task in preset.task_prompts:
                queries, documents = preset.task_prompts[task]
                assert queries == documents, (name, task)


def test_no_default_is_barred_from_commerce() -> None:
    """What mmembed loads unasked may be used commercially, and the README recommends nothing else."""
    barred = {name: preset for name, preset in PRESETS.items() if not preset.commercial_use}
    assert set(barred) == {"splade-v3"}
    root = Path(mmembed.__file__).parent
    for file in root.rglob("*.py"):
        if file.parent.name == "presets":
            continue
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            assert not (isinstance(node, ast.Constant) and node.value in barred), file
    readme = root.parent / "README.md"
    if readme.is_file():
        words = readme.read_text("utf-8")
        assert not [name for name, preset in barred.items() if name in words or preset.model in words]


def test_rows_are_json() -> None:
    """`mmembed encoders --json` prints every field of a row."""
    for preset in PRESETS.values():
        row = {field.name: getattr(preset, field.name) for field in fields(preset)}
        assert json.loads(json.dumps(row))["encoder"] == preset.encoder


# --- tasks and roles -----------------------------------------------------------------------------


def test_the_instructions_are_e5s_to_the_byte() -> None:
    """Names of data sets stand for the instructions that E5-Mistral was trained with, slips included."""
    tasks = known_tasks()
    assert len(tasks) == 77
    for name, instruction in {
        "ArguAna": "Given a claim, find documents that refute the claim",
        "Banking77Classification": "Given a online banking query, find the corresponding intents",
        "CQADupstack": (
            "Given a question, retrieve detailed question descriptions from Stackexchange that are duplicates to the "
            "given question"
        ),
        "EmotionClassification": (
            "Classify the emotion expressed in the given Twitter message into one of the six emotions: anger, fear, "
            "joy, love, sadness, and surprise"
        ),
        "FiQA2018": "Given a financial question, retrieve user replies that best answer the question",
        "MSMARCO": "Given a web search query, retrieve relevant passages that answer the query",
        "SCIDOCS": "Given a scientific paper title, retrieve paper abstracts that are cited by the given paper",
        "STS": "Retrieve semantically similar text.",
        "TRECCOVID": "Given a query on COVID-19, retrieve documents that answer the query",
        "TwitterURLCorpus": "Retrieve tweets that are semantically similar to the given tweet",
    }.items():
        assert tasks[name] == instruction
    assert tasks["retrieval"] == tasks["MSMARCO"]
    assert tasks["similarity"] == tasks["STS"]


def test_symmetric_tasks_lead_both_sides() -> None:
    """Classification, clustering, similarity and duplicates lead documents too; retrieval and free words do not."""
    for task in ("classification", "clustering", "similarity", "STS", "TwentyNewsgroupsClustering", "Ocnli"):
        assert is_symmetric(task)
        assert text_prefix(E5_FORM, "document", task) == text_prefix(E5_FORM, "query", task) != ""
    others: list[str | None] = [None, "", "retrieval", "SciFact", "QuoraRetrieval", "SciDocsRR", "Find poems"]
    for other in others:
        assert not is_symmetric(other)
        assert text_prefix(E5_FORM, "document", other) == ""
    assert text_prefix(E5_FORM, "query", "Find poems") == "Instruct: Find poems\nQuery: "
    assert text_prefix(E5_FORM, "query", "") == ""


def test_a_decoder_leads_both_sides_of_a_symmetric_task(tmp_path: Path) -> None:
    """E5-Mistral gives a document the vector of the query with the same instruction."""
    e5 = load_encoder(f"e5-mistral:{build_e5_mistral(tmp_path / 'e5')}", device="cpu")
    plain = e5.encode_text([SIMILAR + text for text in TEXTS], role="document")
    for role in ROLES:
        assert np.allclose(e5.encode_text(TEXTS, role=role, task="similarity"), plain, atol=1e-5)
    bare = e5.encode_text(TEXTS, role="document", task="SciFact")
    assert np.allclose(bare, e5.encode_text(TEXTS, role="document"), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "task", "queries", "documents"),
    [
        ("e5-small", None, "query: ", "passage: "),
        ("e5-small", "retrieval", "query: ", "passage: "),
        ("e5-large", "clustering", "query: ", "query: "),
        ("e5-base", "", "", ""),
        ("bge-base", "similarity", "", ""),
        ("gemma-text", "retrieval", "task: search result | query: ", "title: none | text: "),
        ("gemma-text", "classification", "task: classification | query: ", "task: classification | query: "),
        ("gemma2-omni", "similarity", "task: sentence similarity | query: ", "task: sentence similarity | query: "),
        ("gemma-text", "fact checking", "task: fact checking | query: ", "title: none | text: "),
        ("nomic", None, "search_query: ", "search_document: "),
        ("nomic", "clustering", "clustering: ", "clustering: "),
        ("me5-large-instruct", "similarity", SIMILAR, SIMILAR),
        ("me5-large-instruct", "Find poems", "Instruct: Find poems\nQuery: ", ""),
        ("me5-large-instruct", "", "", ""),
        ("qwen3-0.6b", "STS", SIMILAR[:-1], SIMILAR[:-1]),
    ],
)
def test_each_model_has_its_own_words(name: str, task: str | None, queries: str, documents: str) -> None:
    """One task word, and each known model's wording for it, to the last space."""
    preset = PRESETS[name]
    roles: dict[Role, str] = {"query": preset.query_prompt, "document": preset.document_prompt}
    prompts = Prompts(name, roles, tasks=preset.task_prompts)
    assert (prompts.lead("query", task), prompts.lead("document", task)) == (queries, documents)


def test_a_models_own_tasks_are_found_under_the_common_words() -> None:
    """Prompts in a model's files are tasks by their key in any case, and "STS" is similarity."""
    own = {"query": "q: ", "Clustering": "cluster: ", "STS": "alike: "}
    prompts = Prompts("x", {"query": "q: ", "document": ""}, own=own)
    assert [prompts.lead("document", task) for task in ("clustering", "Clustering", "similarity", "retrieval")] == [
        "cluster: ",
        "cluster: ",
        "alike: ",
        "",
    ]
    with pytest.raises(SettingsError, match="no task 'classification': it has Clustering, STS, query, retrieval"):
        prompts.lead("query", "classification")


def test_a_task_without_effect_is_refused(tmp_path: Path) -> None:
    """Encoders without prompts take the task retrieval, or none, and no other: it would change nothing, unsaid."""
    folder = build_bert(tmp_path / "m", pooling="mean")
    for name in ("bm25", "tiny", "fake", "fake?kind=sparse", "fake?kind=multi", f"sentence:{folder}"):
        encoder = load_encoder(name, device="cpu")
        for task in (None, "", "retrieval"):
            assert len(encoder.encode_text(["a cat"], role="query", task=task)) == 1
        for role in ROLES:
            with pytest.raises(SettingsError, match="knows no task 'clustering': it has retrieval alone"):
                encoder.encode_text(["a cat"], role=role, task="clustering")


def test_a_known_model_encodes_by_its_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`clustering` gives multilingual-E5 "query: " on both sides."""
    folder = build_bert(tmp_path / "m", pooling="mean")
    known(monkeypatch, tmp_path / "cache", "e5-small", folder, dim=32)
    encoder = load_encoder("e5-small", device="cpu")
    led = unit(mean_states(folder, ["query: " + text for text in TEXTS]))
    passages = unit(mean_states(folder, ["passage: " + text for text in TEXTS]))
    for role in ROLES:
        assert np.allclose(encoder.encode_text(TEXTS, role=role, task="clustering"), led, atol=1e-5)
    assert np.allclose(encoder.encode_text(TEXTS, role="document", task="retrieval"), passages, atol=1e-5)


# --- Matryoshka ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [None, 16])
def test_nomic_is_normed_before_the_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dim: int | None) -> None:
    """nomic: mean, layer norm, the first dimensions, norm 1, as its card computes it; no layer norm is another one."""
    folder = off_centre(build_bert(tmp_path / "m", pooling="mean"))
    known(monkeypatch, tmp_path / "cache", "nomic", folder, dim=32, matryoshka_dims=(16, 32), remote_code=False)
    encoder = load_encoder("nomic" if dim is None else f"nomic?dim={dim}", device="cpu")
    states = mean_states(folder, ["search_query: " + text for text in TEXTS])
    expected = unit(F.layer_norm(states, (32,))[:, :dim])
    assert encoder.spec.dim == (dim or 32)
    assert np.allclose(encoder.encode_text(TEXTS, role="query"), expected, atol=1e-5)
    assert not np.allclose(unit(states[:, :dim]), expected, atol=1e-3)


def test_dim_and_layer_norm_are_in_the_fingerprint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shorter vector, and one that was normed, compare with no other."""
    folder = build_bert(tmp_path / "m", pooling="mean")
    row = known(monkeypatch, tmp_path / "cache", "nomic", folder, dim=32, matryoshka_dims=(16, 32), remote_code=False)
    found = {load_encoder(name, device="cpu").spec.fingerprint for name in ("nomic", "nomic?dim=16")}
    monkeypatch.setitem(PRESETS, "nomic", replace(row, layer_norm=False))
    found.add(load_encoder("nomic", device="cpu").spec.fingerprint)
    assert len(found) == 3


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize("package", ["transformers", "sentence-transformers"])
def test_a_model_that_needs_newer_packages(package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The version that is needed, the one that is here and the pip line, before anything is looked for."""
    empty_cache(monkeypatch, tmp_path)
    monkeypatch.setitem(PRESETS, "gemma2-omni", replace(PRESETS["gemma2-omni"], min_versions={package: "99.1"}))
    with pytest.raises(
        EncoderLoadError, match=rf"needs {package} 99\.1 or newer, and [5-9].* pip install -U '{package}>=99"
    ):
        load_encoder("gemma2-omni", device="cpu")


def test_what_presets_need_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the packages that mmembed is tested with, a preset fails for its missing files and nothing else."""
    empty_cache(monkeypatch, tmp_path)
    assert PRESETS["gemma2-omni"].min_versions == {"transformers": "5.19", "sentence-transformers": "6.1"}
    with pytest.raises(EncoderLoadError, match="neither in the Hugging Face cache"):
        load_encoder("gemma2-omni", device="cpu")


def test_an_unknown_kind_of_model_needs_newer_packages(tmp_path: Path) -> None:
    """A config.json that transformers does not know is said to be newer than it, by every family."""
    folder = build_bert(tmp_path / "m", pooling="mean")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "bert99"}))
    for family in ("sentence", "e5-mistral", "bge-m3"):
        with pytest.raises(
            EncoderLoadError, match=r"'bert99' model, which transformers 5\.\S+ does not know: pip install"
        ):
            load_encoder(f"{family}:{folder}", device="cpu")


@pytest.mark.parametrize("name", ["nomic", "gte-mb", "sentence:nomic-ai/nomic-embed-text-v1.5"])
def test_remote_code_is_refused_before_any_download(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without leave to run a repository's Python nothing is fetched; with it the model is looked for."""
    empty_cache(monkeypatch, tmp_path)
    with pytest.raises(EncoderLoadError, match="runs Python of its own repository"):
        load_encoder(name, device="cpu")
    with pytest.raises(EncoderLoadError, match="neither in the Hugging Face cache"):
        load_encoder(name, device="cpu", trust_remote_code=True)
    assert list(tmp_path.rglob("*.*")) == []


def test_another_model_under_a_known_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint of other dimensions than its preset's is refused with both numbers."""
    known(monkeypatch, tmp_path, "bge-small", build_bert(tmp_path / "m", pooling="cls"))
    with pytest.raises(EncoderLoadError, match="known for vectors of 384 dimensions, and this checkpoint makes 32"):
        load_encoder("bge-small", device="cpu")


def test_another_model_under_a_known_name_when_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With ?dim= too: what is left of the vectors has the right length, and would hide that the model is another."""
    folder = build_bert(tmp_path / "m", pooling="mean")
    known(monkeypatch, tmp_path / "cache", "gemma-text", folder, dim=64, matryoshka_dims=(16, 32, 64))
    for name in ("gemma-text", "gemma-text?dim=16", "gemma-text?dim=64"):
        with pytest.raises(EncoderLoadError, match="known for vectors of 64 dimensions, and this checkpoint makes 32"):
            load_encoder(name, device="cpu")


@pytest.mark.parametrize("name", ["e5-large", "bge-small", "gemma-text"])
def test_a_dim_is_refused_before_any_download(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that was not trained for so many dimensions says so before gigabytes of it are fetched."""
    empty_cache(monkeypatch, tmp_path)
    with pytest.raises(SettingsError, match="was asked for 100 dimensions, but"):
        load_encoder(f"{name}?dim=100", device="cpu")


def test_a_folder_may_be_called_like_a_known_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is promised of a hub id is not promised of a folder with the same relative path."""
    build_bert(tmp_path / "nomic-ai" / "nomic-embed-text-v1.5", pooling="mean")
    monkeypatch.chdir(tmp_path)
    assert load_encoder("sentence:nomic-ai/nomic-embed-text-v1.5", device="cpu").spec.dim == 32
