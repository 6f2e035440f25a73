"""Names, presets, plugins."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from plugin_sites import install_plugin

from mmembed.collection import Collection
from mmembed.encoders import Encoders
from mmembed.encoders.presets import PRESETS
from mmembed.encoders.registry import EncoderName, families, load_encoder, parse_name
from mmembed.errors import (
    CollectionMismatch,
    DuplicateEncoder,
    EncoderError,
    EncoderLoadError,
    MissingDependency,
    SettingsError,
    UnknownEncoder,
)
from mmembed.stores import open_store
from mmembed.types import Contract, VectorContract


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("tiny", ("tiny", "", {})),
        ("open_clip:ViT-B-32/openai", ("open_clip", "ViT-B-32/openai", {})),
        ("open_clip:ViT-B-32@C:/a b/x.pt", ("open_clip", "ViT-B-32@C:/a b/x.pt", {})),
        ("openai:text-embedding-3-large?dim=256", ("openai", "text-embedding-3-large", {"dim": "256"})),
        ("x:m?b=2&a=1", ("x", "m", {"a": "1", "b": "2"})),
    ],
)
def test_names_are_taken_apart(name: str, parts: tuple[str, str, dict[str, str]]) -> None:
    """family:model?option=value, and back to the same text with the options sorted."""
    parsed = parse_name(name)
    assert (parsed.family, parsed.model, dict(parsed.options)) == parts
    assert parse_name(str(parsed)) == parsed


def test_options_survive_special_characters() -> None:
    """A tokenizer's folder with spaces and ampersands comes back as it was."""
    name = EncoderName("open_clip", "m", {"tokenizer": "/a b/c&d=e%20"})
    assert parse_name(str(name)) == name


def test_presets_expand_and_keep_options() -> None:
    """A preset stands for its full name; what the user adds comes along."""
    assert str(parse_name("minilm")) == "sentence:sentence-transformers/all-MiniLM-L6-v2"
    assert parse_name("minilm?dim=128").options == {"dim": "128"}
    for name, preset in PRESETS.items():
        assert parse_name(name).family in families(), name
        assert preset.licence, name


def test_unknown_names_get_the_nearest() -> None:
    """A typing error is answered with what was probably meant."""
    with pytest.raises(UnknownEncoder, match="did you mean 'tiny'"):
        load_encoder("tinny")
    with pytest.raises(UnknownEncoder, match="did you mean 'open_clip'"):
        load_encoder("openclip:ViT-B-32/openai")
    for name in ("", "?a=1", ":x", "tiny?dim="):
        with pytest.raises(UnknownEncoder):
            load_encoder(name)


@pytest.mark.parametrize("family", ["cohere", "jina", "openai", "voyage"])
@pytest.mark.parametrize("model", ["", ":some-model"])
def test_a_family_of_a_plugin_comes_with_its_pip_line(family: str, model: str) -> None:
    """A family that mmembed has apart is answered with what is installed and the package that brings it."""
    if family in families():
        pytest.skip(f"mmembed-{family} is installed")
    with pytest.raises(UnknownEncoder, match=f"bm25, .*, vlm.*; {family}: comes with pip install mmembed-{family}$"):
        load_encoder(family + model)


def test_a_strangers_family_names_no_package() -> None:
    """What would bring any other family is not guessed at: a package of that name could be anybody's."""
    with pytest.raises(UnknownEncoder) as told:
        load_encoder("galaxy:milky-way")
    assert f"installed families are {', '.join(families())}; " in str(told.value)
    assert "a plugin may bring others" in str(told.value)
    assert "mmembed-galaxy" not in str(told.value)


def test_unknown_options_list_the_known() -> None:
    """An option that the family does not have is refused with those it has."""
    with pytest.raises(EncoderError, match="option 'dims': family 'fake' has the options dim"):
        load_encoder("fake?dims=3")
    with pytest.raises(EncoderError, match="family 'tiny' has no options"):
        load_encoder("tiny?side=3")


@pytest.mark.parametrize("name", ["tiny", "siglip2-b32", "clip:openai/clip-vit-base-patch32", "siglip2-so400m", "bm25"])
def test_fewer_dimensions_of_a_family_without_are_refused(name: str) -> None:
    """CLIP and SigLIP were not trained for it: said so, and before anything is looked for."""
    with pytest.raises(SettingsError, match=r"were not trained so that their first ones stand alone \(Matryoshka\)"):
        load_encoder(f"{name}?dim=128")


def test_listing_imports_no_plugin(tmp_path: Path) -> None:
    """A plugin that raises at import is listed; asking for it says whose fault it is; the others work."""
    install_plugin(tmp_path, "mmembed-broken", "broken", "raise RuntimeError('boom')")
    code = (
        "from mmembed.encoders.registry import families, load_encoder\n"
        "assert 'broken' in families()\n"
        "print(load_encoder('fake').spec.name)\n"
        "try: load_encoder('broken:x')\n"
        "except Exception as e: print(type(e).__name__, e)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": str(tmp_path)}
    )
    assert done.stdout.splitlines() == [
        "fake",
        (
            "EncoderLoadError the plugin 'mmembed-broken' of encoder family 'broken' is broken "
            "(RuntimeError: boom): update or uninstall it"
        ),
    ]


def test_encoders_lists_plugins_unimported(tmp_path: Path) -> None:
    """`mmembed encoders` shows licences, what is not for commerce, and both kinds of plugins, importing none."""
    install_plugin(tmp_path, "mmembed-broken", "broken", "raise RuntimeError('boom')")
    install_plugin(tmp_path, "mmembed-worse", "worse", "raise RuntimeError('boom')", group="mmembed.rerankers")
    code = "from mmembed.cli import main; main()"
    shown = [
        subprocess.run(
            [sys.executable, "-c", code, "encoders", *options],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONPATH": str(tmp_path), "COLUMNS": "200"},
        ).stdout
        for options in ((), ("--json",))
    ]
    lines = [line.split() for line in shown[0].splitlines() if line]
    assert ["broken", "from", "mmembed-broken"] in lines
    assert lines.index(["worse", "from", "mmembed-worse"]) > lines.index(["broken", "from", "mmembed-broken"])
    (splade,) = [line for line in shown[0].splitlines() if "splade-v3" in line]
    assert splade.endswith("(CC-BY-NC-SA-4.0, not for commercial use)")
    assert shown[0].count("not for commercial use") == sum(not preset.commercial_use for preset in PRESETS.values())
    rows = [json.loads(line) for line in shown[1].splitlines()]
    assert {"family": "broken", "package": "mmembed-broken"} in rows
    assert {"reranker": "worse", "package": "mmembed-worse"} in rows
    (row,) = [row for row in rows if row.get("name") == "gemma2-omni"]
    assert (row["licence"], row["commercial_use"]) == (PRESETS["gemma2-omni"].licence, True)
    assert row["task_prompts"]["clustering"] == ["task: clustering | query: "] * 2
    assert row["min_versions"] == {"transformers": "5.19", "sentence-transformers": "6.1"}


def test_a_plugin_is_an_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package adds a family, with its options, without touching mmembed."""
    code = (
        "from mmembed.encoders.families.fake import FakeEncoder\n"
        "def load(name, run, *, size='8'):\n"
        "    return FakeEncoder(name, run, dim=int(size))\n"
    )
    install_plugin(tmp_path, "mmembed-stranger", "stranger", code)
    monkeypatch.syspath_prepend(tmp_path)
    assert load_encoder("stranger:any?size=5").spec.dim == 5


def test_a_plugin_that_lacks_a_package_says_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The missing module is named, with the line that installs the plugin whole."""
    install_plugin(tmp_path, "mmembed-needy", "needy", "import no_such_module_anywhere")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingDependency, match=r"'no_such_module_anywhere'.*pip install 'mmembed-needy'"):
        load_encoder("needy:x")


def test_two_packages_cannot_share_a_family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which of two would run would be chance, so both are named."""
    for package in ("one-plugin", "two-plugin"):
        install_plugin(tmp_path, package, "same", "def load(name, run): ...")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DuplicateEncoder, match="one-plugin and by two-plugin"):
        families()


def test_a_remembered_encoder_must_have_the_same_fingerprint() -> None:
    """A collection's encoder is loaded once by name, and refused if its weights are others today."""
    fake = load_encoder("fake")
    contract = VectorContract("fake", fake.spec.fingerprint, "image", "dense", 32)
    other = VectorContract("fake", "0" * 16, "image", "dense", 32)
    store, encoders = open_store(":memory:"), Encoders()
    for name, vector in (("same", contract), ("other", other)):
        store.create(name, Contract("images", {"image": vector}), indexes={})
    same = Collection(store, "same")
    assert same.encoder("image", encoders) is same.encoder("image", encoders)
    with pytest.raises(CollectionMismatch, match="its weights or configuration changed"):
        Collection(store, "other").encoder("image", encoders)


def test_models_without_a_model_name_take_none() -> None:
    """`tiny:large` is not a bigger tiny."""
    for name in ("tiny:large", "bm25:v2"):
        with pytest.raises(EncoderLoadError, match="takes no model name"):
            load_encoder(name)
