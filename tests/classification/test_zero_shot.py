"""Zero-shot labels: class embeddings, probabilities and verdicts, held against the reference libraries."""

from __future__ import annotations

import json
import logging
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from checkpoints_clip import OPEN_CLIP, open_clip_folder, siglip2_folder
from checkpoints_clip import images as photos
from clip_benchmark.metrics.zeroshot_classification import zero_shot_classifier
from open_clip.zero_shot_metadata import OPENAI_IMAGENET_TEMPLATES, SIMPLE_IMAGENET_TEMPLATES
from PIL import Image
from places import ROOT
from transformers import SiglipModel

import mmembed
from mmembed import Encoder, Failure, load_encoder
from mmembed.classification import (
    OPENAI_80,
    PLAIN,
    SIMPLE_7,
    ClassCache,
    Classes,
    Classified,
    Label,
    Labels,
    Verdict,
    classify,
    decide,
    embed_classes,
    labels_of,
    parse_labels,
    probabilities,
    read_labels,
    read_templates,
    score,
)
from mmembed.classification.calibration import Calibration
from mmembed.classification.templates import fill
from mmembed.classification.zero_shot import ImageLike
from mmembed.errors import InvalidLabels, InvalidSample, SettingsError, UnsupportedModality
from mmembed.types import DenseArray, Role

NAMES = ["cat", "red ball", "naïve café", "birthday cake"]
PICTOGRAMS = ROOT / "mmembed" / "demo" / "pictograms"


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return open_clip_folder(tmp_path_factory.mktemp("clip") / "model", OPEN_CLIP)


@pytest.fixture(scope="module")
def clip(clip_folder: Path) -> Encoder:
    return load_encoder(f"open_clip:{clip_folder}", device="cpu")


@pytest.fixture(scope="module")
def siglip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return siglip2_folder(tmp_path_factory.mktemp("siglip") / "model")


@pytest.fixture(scope="module")
def siglip(siglip_folder: Path) -> Encoder:
    return load_encoder(f"siglip:{siglip_folder}", device="cpu")


@pytest.fixture(scope="module")
def tiny() -> Encoder:
    return load_encoder("tiny", device="cpu")


class Counting:
    """A real encoder that counts the texts it is given."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self.texts = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)

    def encode_text(self, texts: Sequence[str], *, role: Role) -> Any:
        self.texts += len(texts)
        return self._encoder.encode_text(texts, role=role)


def classes_of(labels: Labels, *, scale: float | None, bias: float | None = None, dim: int | None = None) -> Classes:
    """Classes on the axes, so that the coordinates of a vector are its scores."""
    rows = len(labels.labels) + len(labels.background)
    return Classes(labels, np.eye(rows, dim or rows, dtype=np.float32), scale, bias, "f" * 16, "axes")


def plain(*names: str, background: Sequence[str] = ()) -> Labels:
    return labels_of(names, templates=PLAIN, background=background)


def test_the_module_is_reached_lazily_and_is_light() -> None:
    """`mmembed.classification` needs no import of its own, and brings neither torch nor a Qdrant client."""
    code = "import mmembed, sys; mmembed.classification.classify; "
    code += "print({'torch', 'qdrant_client', 'scipy'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
    assert mmembed.classify is mmembed.classification.classify
    assert "classification" in dir(mmembed)


# --- templates ----------------------------------------------------------------------------------


def test_templates_are_those_of_the_papers() -> None:
    """The 80 and the 7 say what open_clip's say, in their order."""
    assert [fill(t, "red {ball}") for t in OPENAI_80] == [t("red {ball}") for t in OPENAI_IMAGENET_TEMPLATES]
    assert [fill(t, "cat") for t in SIMPLE_7] == [t("cat") for t in SIMPLE_IMAGENET_TEMPLATES]


def test_own_templates_are_a_file(tmp_path: Path) -> None:
    """One a line with {} or {c}; a line without a place, and a file that is none, are refused."""
    file = tmp_path / "templates.txt"
    file.write_text("a photo of a {}.\n\n  a sketch of a {c}, {style}\n", encoding="utf-8")
    assert read_templates(file) == ("a photo of a {}.", "a sketch of a {c}, {style}")
    assert fill("a sketch of a {c}, {style}", "{} box") == "a sketch of a {} box, {style}"
    file.write_text("a photo\n", encoding="utf-8")
    with pytest.raises(InvalidLabels, match=r"'a photo' of .* has no place for the label: write \{\} where"):
        read_templates(file)
    file.write_text("\n", encoding="utf-8")
    with pytest.raises(InvalidLabels, match=r"write one a line, such as 'a photo of a {}\.'"):
        read_templates(file)
    with pytest.raises(InvalidLabels, match="cannot be read"):
        read_templates(tmp_path / "none.txt")


# --- class embeddings ---------------------------------------------------------------------------


@pytest.mark.parametrize("templates", [OPENAI_80, SIMPLE_7, PLAIN], ids=["80", "7", "plain"])
def test_class_embeddings_are_those_of_open_clip(clip: Encoder, clip_folder: Path, templates: tuple[str, ...]) -> None:
    """Each class is the column that open_clip and CLIP_benchmark build for it."""
    name = f"local-dir:{clip_folder}"
    model = open_clip.create_model_from_pretrained(name, return_transform=False).eval()
    tokenizer = open_clip.get_tokenizer(name)
    ours = embed_classes(clip, labels_of(NAMES, templates=templates))
    theirs = open_clip.build_zero_shot_classifier(model, tokenizer, NAMES, list(templates)).T.numpy()
    np.testing.assert_allclose(ours.embeddings, theirs, atol=1e-6)
    places = [template.replace("{}", "{c}") for template in templates]
    benchmark = zero_shot_classifier(model, tokenizer, NAMES, places, "cpu", amp=False).T.numpy()
    np.testing.assert_allclose(ours.embeddings, benchmark, atol=1e-6)
    assert (ours.logit_scale, ours.logit_bias, ours.fingerprint) == (clip.logit_scale, None, clip.spec.fingerprint)


def test_texts_of_one_label_are_averaged(clip: Encoder) -> None:
    """A label with two texts is the normalised mean over both of them in every template."""
    both = embed_classes(clip, Labels((Label("cat", ("kitten", "tomcat")), Label("dog")), templates=SIMPLE_7))
    sentences = [fill(template, text) for text in ("kitten", "tomcat") for template in SIMPLE_7]
    mean = np.asarray(clip.encode_text(sentences, role="query")).mean(axis=0)
    np.testing.assert_allclose(both.embeddings[0], mean / np.linalg.norm(mean), atol=1e-6)


def test_softmax_is_that_of_clip(clip: Encoder, clip_folder: Path) -> None:
    """Probabilities are open_clip's softmax of its scale times the cosines, over the labels that were given."""
    model = open_clip.create_model_from_pretrained(f"local-dir:{clip_folder}", return_transform=False).eval()
    vectors = np.asarray(clip.encode_image(photos()))
    classes = embed_classes(clip, NAMES)
    found = probabilities(classes, score(classes, vectors))
    with torch.no_grad():
        expected = (model.logit_scale.exp() * torch.tensor(vectors @ classes.embeddings.T)).softmax(dim=1).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert found is not None
    np.testing.assert_allclose(found.sum(axis=1), 1)


def test_sigmoids_are_those_of_siglip(siglip: Encoder, siglip_folder: Path) -> None:
    """With a bias each probability is a sigmoid by itself: transformers' own logits_per_image."""
    model = SiglipModel.from_pretrained(siglip_folder).eval()
    texts = ["a photo of a cat", "two dogs on the beach", "naïve café"]
    # 1. the logits as the model computes them
    from transformers import AutoTokenizer, SiglipImageProcessor

    tokens = AutoTokenizer.from_pretrained(siglip_folder)(
        [text.lower() for text in texts], padding="max_length", max_length=64, truncation=True, return_tensors="pt"
    )
    pixels = SiglipImageProcessor.from_pretrained(siglip_folder)(photos()[:4], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        expected = torch.sigmoid(model(input_ids=tokens["input_ids"], pixel_values=pixels).logits_per_image).numpy()
    # 2. ours
    vectors = np.asarray(siglip.encode_image(photos()[:4]))
    classes = embed_classes(siglip, labels_of(texts, templates=PLAIN))
    found = probabilities(classes, score(classes, vectors))
    assert found is not None
    np.testing.assert_allclose(found, expected, atol=2e-4)
    assert np.abs(found.sum(axis=1) - 1).max() > 0.01  # no softmax


# --- probabilities and verdicts -----------------------------------------------------------------


def test_probabilities_of_an_encoder_without_a_scale() -> None:
    """There are none: labels are ordered by score, and a threshold is one of the score."""
    classes = classes_of(plain("a", "b", "c"), scale=None)
    scores = np.array([[0.1, 0.5, 0.4]], dtype=np.float32)
    assert probabilities(classes, scores) is None
    (verdict,) = decide(classes, scores, threshold=0.3)
    assert [(one.label, one.probability) for one in verdict.labels] == [("b", None), ("c", None)]


def test_extreme_logits_give_finite_probabilities() -> None:
    """Scales of hundreds neither overflow nor lose the order of labels whose probabilities are all but equal."""
    scores = np.array([[0.9, 1.0, -1.0]], dtype=np.float32)
    for bias in (None, -10.0):
        classes = classes_of(plain("a", "b", "c"), scale=5000.0, bias=bias)
        found = probabilities(classes, scores)
        assert found is not None
        assert np.isfinite(found).all()
        (verdict,) = decide(classes, scores)
        assert [one.label for one in verdict.labels] == ["b", "a", "c"]


def test_equal_labels_keep_their_order() -> None:
    """Labels with the same score stand as they were given."""
    (verdict,) = decide(classes_of(plain("b", "a", "c"), scale=10.0), np.array([[0.2, 0.2, 0.3]], dtype=np.float32))
    assert [one.label for one in verdict.labels] == ["c", "b", "a"]


def test_several_labels_by_threshold() -> None:
    """With sigmoids all labels that reach the threshold are given, one number for all or one for each."""
    classes = classes_of(plain("a", "b", "c"), scale=10.0, bias=-5.0)
    scores = np.array([[0.6, 0.7, 0.1], [0.1, 0.2, 0.3]], dtype=np.float32)  # probabilities .73 .88 .02, .02 .05 .12
    both, none = decide(classes, scores, threshold=0.5)
    assert ([one.label for one in both.labels], both.none_of_these) == (["b", "a"], False)
    assert ([one.label for one in none.labels], none.none_of_these) == ([], True)
    first, second = decide(classes, scores, threshold={"a": 0.9, "c": 0.1})
    assert [one.label for one in first.labels] == ["b"]  # a is below its own, c too, b has none
    assert [one.label for one in second.labels] == ["c", "b"]
    assert [one.label for one in decide(classes, scores, threshold=0.5, top_k=1)[0].labels] == ["b"]


def test_a_threshold_that_is_reached_exactly_is_reached() -> None:
    """Below means below."""
    classes = classes_of(plain("a", "b"), scale=10.0, bias=0.0)
    (verdict,) = decide(classes, np.zeros((1, 2), dtype=np.float32), threshold=0.5)
    assert len(verdict.labels) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": 0}, "top_k is 0"),
        ({"threshold": float("nan")}, "not a number"),
        ({"threshold": {"d": 0.5}}, "'d', which is not a label"),
    ],
)
def test_verdict_options_without_sense(tiny: Encoder, options: dict[str, Any], message: str) -> None:
    """They are refused before a picture is read."""
    with pytest.raises((SettingsError, InvalidLabels), match=message):
        classify([], ["cat", "dog"], encoder=tiny, **options)


def test_background_that_is_nearest_means_none_of_these() -> None:
    """It takes part in the softmax; where it wins, labels are ranked still, but none is given by a threshold."""
    classes = classes_of(plain("a", "b", background=["wall", "floor"]), scale=10.0)
    scores = np.array([[0.5, 0.4, 0.1, 0.6], [0.5, 0.4, 0.1, 0.3]], dtype=np.float32)
    outside, inside = decide(classes, scores)
    assert ([one.label for one in outside.labels], outside.none_of_these) == (["a", "b"], True)
    assert not inside.none_of_these
    total = np.exp(np.array([5, 4, 1, 3], dtype=np.float64))
    assert inside.labels[0].probability == pytest.approx(total[0] / total.sum(), abs=1e-6)
    outside, inside = decide(classes, scores, threshold=0.1)
    assert (outside.labels, [one.label for one in inside.labels]) == ((), ["a", "b"])


def test_groups_of_a_hierarchy() -> None:
    """Exclusive labels: a group has the sum of its leaves; sigmoids: the largest. Every depth is a group."""
    labels = parse_labels("animal > pet > cat, animal > pet > dog, animal > cow, car")
    scores = np.array([[0.2, 0.1, 0.3, 0.4]], dtype=np.float32)
    powers = np.exp(np.array([2.0, 1.0, 3.0, 4.0]))
    (verdict,) = decide(classes_of(labels, scale=10.0), scores, top_k=1)
    assert [one.label for one in verdict.labels] == ["car"]
    assert [one.label for one in verdict.groups] == ["animal", "animal > pet"]
    found = [one.probability for one in verdict.groups]
    assert found == pytest.approx([powers[:3].sum() / powers.sum(), powers[:2].sum() / powers.sum()], abs=1e-6)
    assert [one.score for one in verdict.groups] == pytest.approx([0.3, 0.2])
    (verdict,) = decide(classes_of(labels, scale=10.0, bias=0.0), scores)
    assert [one.probability for one in verdict.groups] == pytest.approx(1 / (1 + np.exp([-3.0, -2.0])), abs=1e-6)
    (verdict,) = decide(classes_of(labels, scale=None), scores)
    assert [(one.label, one.probability) for one in verdict.groups] == [("animal", None), ("animal > pet", None)]


def test_verdicts_of_many_images_equal_those_of_each() -> None:
    """What is decided for a block at once is what a naive loop decides picture by picture."""
    rng = np.random.default_rng(0)
    names = [f"l{i}" for i in range(7)]
    classes = classes_of(plain(*names, background=["x"]), scale=6.0, bias=-2.0)
    scores = rng.integers(-5, 6, (200, 8)).astype(np.float32) / 5  # many ties
    verdicts = decide(classes, scores, threshold=0.4, top_k=3)
    for row, verdict in zip(scores.astype(np.float64), verdicts, strict=True):
        chances = 1 / (1 + np.exp(-(6 * row - 2)))
        kept = [] if row[7] > row[:7].max() else [c for c in range(7) if chances[c] >= 0.4]
        expected = [names[c] for c in sorted(kept, key=lambda c: (-row[c], c))[:3]]
        assert [one.label for one in verdict.labels] == expected
        assert verdict.none_of_these == (not kept)


def test_calibration_changes_probabilities_and_carries_thresholds() -> None:
    """A temperature flattens the softmax, its thresholds cut, and a threshold that is given comes before them."""
    labels = plain("a", "b")
    classes = classes_of(labels, scale=100.0)
    fitted = Calibration(
        "temperature", classes.fingerprint, labels.key, labels.names, temperature=50.0, thresholds={"a": 0.5, "b": 0.5}
    )
    scores = np.array([[0.6, 0.4]], dtype=np.float32)
    (verdict,) = decide(classes.calibrated(fitted), scores)
    assert [one.label for one in verdict.labels] == ["a"]
    assert verdict.labels[0].probability == pytest.approx(1 / (1 + np.exp(-100 * 0.2 / 50)), abs=1e-6)
    assert len(decide(classes.calibrated(fitted), scores, threshold=0.0)[0].labels) == 2
    with pytest.raises(InvalidSample, match="other labels, templates or background"):
        classes_of(plain("a", "c"), scale=100.0).calibrated(fitted)
    with pytest.raises(InvalidSample, match="another encoder than axes"):
        replace(classes, fingerprint="0" * 16).calibrated(fitted)
    assert classes_of(plain("b", "a"), scale=1.0).calibrated(fitted).calibration is fitted  # whatever their order


# --- labels -------------------------------------------------------------------------------------


def test_labels_file(tmp_path: Path) -> None:
    """A line is a label, with groups before it and other texts after it; empty lines and a BOM are passed over."""
    file = tmp_path / "labels.txt"
    file.write_bytes("\ufeffanimal > pet > cat | kitten\n\n  hot   dog \ncafe\u0301\r\n".encode())
    assert read_labels(file).labels == (
        Label("cat", ("cat", "kitten"), ("animal", "pet")),
        Label("hot dog"),
        Label("caf\u00e9"),
    )
    file.write_text("cat\u2028tomcat\ndog\n", encoding="utf-8")  # what Unicode calls a line is none here
    assert read_labels(file).names == ("cat tomcat", "dog")
    file.write_text("cat\ndog\ncat\n")
    with pytest.raises(InvalidLabels, match=r"labels '.*labels.txt': label 'cat' was given twice"):
        read_labels(file)


def test_labels_json(tmp_path: Path) -> None:
    """Objects are groups, lists and texts are labels, and an object with a name is a label with texts."""
    file = tmp_path / "labels.json"
    file.write_text(
        '{"animal": {"pet": ["cat", {"name": "dog", "texts": ["dog", "puppy"]}], "farm": "cow"}, "vehicle": ["car"]}'
    )
    assert read_labels(file).labels == (
        Label("cat", parents=("animal", "pet")),
        Label("dog", ("dog", "puppy"), ("animal", "pet")),
        Label("cow", parents=("animal", "farm")),
        Label("car", parents=("vehicle",)),
    )
    for text, message in [
        ("[1]", "1 is not a label"),
        ("[", "neither UTF-8 text nor JSON"),
        ("[]", "no label was given"),
        ('[{"name": "a", "text": ["b"]}]', "has 'text'"),
        ('[{"name": "a", "texts": "b"}]', "not a list"),
        ('[{"name": "a", "texts": [1]}]', "is 1, not a text"),
    ]:
        file.write_text(text)
        with pytest.raises(InvalidLabels, match=message):
            read_labels(file)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a label is empty"),
        ("cat,,dog", "a label is empty"),
        ("cat, ", "a label is empty"),
        ("cat,dog,  cat ", "label 'cat' was given twice"),
        ("caf\u00e9,cafe\u0301", "label 'caf\u00e9' was given twice"),
        ("animal >", "a label is empty"),
        ("> cat", "a parent of label 'cat' is empty"),
        ("cat |", "a text of label 'cat' is empty"),
        ("a > bat, b > bat", "label 'bat' was given twice"),
    ],
)
def test_labels_that_are_refused(text: str, message: str) -> None:
    """No label, an empty one and two equal ones each have an answer of their own."""
    with pytest.raises(InvalidLabels, match=message):
        parse_labels(text)


def test_labels_from_code_that_are_refused(tmp_path: Path) -> None:
    """An empty list, one text instead of a list, half a character, and background that is a label."""
    for labels, message in [
        ([], "no label was given"),
        ("cat", "labels is a list, not the one text 'cat'"),
        (["\ud83d"], "lone surrogate"),
    ]:
        with pytest.raises(InvalidLabels, match=message):
            labels_of(labels)
    for options, message in [
        ({"background": ["cat"]}, "'cat' is a label and background too"),
        ({"background": ["wall", "wall "]}, "background 'wall' was given twice"),
        ({"background": [" "]}, "a background text is empty"),
        ({"templates": []}, "no template was given"),
        ({"templates": ["a photo"]}, "'a photo' has no place"),
    ]:
        with pytest.raises(InvalidLabels, match=message):
            labels_of(["cat"], **options)
    with pytest.raises(InvalidLabels, match="cannot be read"):
        read_labels(tmp_path / "none.txt")
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(InvalidLabels, match="write one label a line"):
        read_labels(tmp_path / "empty.txt")


def test_label_key_says_what_is_scored() -> None:
    """It is that of the set: order and groups leave it, texts, templates and background change it."""
    key = plain("a", "b").key
    assert plain("b", "a").key == key == Labels((Label("a", parents=("g",)), Label("b")), templates=PLAIN).key
    others = [plain("a", "c"), plain("a", "b", background=["c"]), labels_of(["a", "b"])]
    others.append(Labels((Label("a", ("x",)), Label("b")), templates=PLAIN))
    assert len({key, *(labels.key for labels in others)}) == 5


def test_one_label(tiny: Encoder, siglip: Encoder) -> None:
    """A softmax over one label would be certain of anything: refused, unless there is background or it is a sigmoid."""
    with pytest.raises(InvalidLabels, match="'cat' is the only label, and tiny shares probability"):
        embed_classes(tiny, ["cat"])
    assert len(embed_classes(tiny, labels_of(["cat"], background=["dog"])).embeddings) == 2
    (result,) = classify([photos()[0]], ["cat"], encoder=siglip)
    assert isinstance(result, Classified)
    assert 0 < (result.labels[0].probability or 0) < 1


def test_labels_that_the_encoder_reads_alike(tiny: Encoder, caplog: pytest.LogCaptureFixture) -> None:
    """Labels that are one to an encoder are taken with a warning that names them; a thousand others without any."""
    embed_classes(tiny, ["cat", "dog", "CAT"])
    assert "'cat' and 'CAT' are the same to encoder tiny" in caplog.text
    caplog.clear()
    words = ["red", "green", "cat", "dog", "cow", "apple", "cake", "fish", "key", "book", "car", "train", "ship"]
    words += ["moon", "sun", "star", "tree", "rose", "hat"]
    many = [" ".join(three) for three in combinations(words, 3)]
    assert len(embed_classes(tiny, labels_of(many, templates=PLAIN)).embeddings) == 969
    assert caplog.text == ""
    embed_classes(tiny, labels_of([*many, "hat rose tree", "hat tree rose"], templates=PLAIN))
    assert "'tree rose hat' and 'hat rose tree' are the same to encoder tiny (and 1 more such)" in caplog.text


def test_many_labels_that_the_encoder_reads_alike(tiny: Encoder, caplog: pytest.LogCaptureFixture) -> None:
    """Thousands of them are warned of in one line and at once: not pair by pair, which were millions."""
    many = ["x " * 140 + str(number) for number in range(4000)]  # beyond what the encoder reads of a text
    started = time.perf_counter()
    embed_classes(tiny, labels_of(many, templates=PLAIN))
    assert time.perf_counter() - started < 10  # pair by pair 30 s
    assert "(and 3998 more such)" in caplog.text


@pytest.mark.parametrize("label", ["кот", "собака и кот", "犬", "🎂", "שלום"])
def test_labels_in_a_script_that_the_encoder_does_not_know(tiny: Encoder, clip: Encoder, label: str) -> None:
    """They are refused, alone or in any number; an encoder that reads every character, as CLIP does, takes them."""
    cache = ClassCache()
    for _ in range(2):  # and what was refused is not remembered as if it were a class
        with pytest.raises(InvalidLabels, match=f"{label!r} is in a script that encoder tiny does not know"):
            embed_classes(tiny, ["cat", label], cache=cache)
    assert len(embed_classes(clip, ["cat", label, "кот и собака"]).embeddings) == 3
    assert len(embed_classes(tiny, ["crème brûlée", "cat"]).embeddings) == 2


def test_encoders_that_cannot_take_labels(tiny: Encoder) -> None:
    """An encoder without text or with vectors of another kind, one without pictures, and another one's classes."""
    with pytest.raises(UnsupportedModality):
        embed_classes(load_encoder("fake?kind=sparse"), ["a", "b"])
    with pytest.raises(UnsupportedModality, match="images"):
        classify([], ["a", "b"], encoder=load_encoder("minilm"))
    with pytest.raises(InvalidLabels, match="embedded by axes, not by tiny"):
        classify([], classes_of(plain("a", "b"), scale=1.0), encoder=tiny)


def test_the_documented_examples_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The page's labels files are read as it says, and its Python prints the names of the pictures."""
    page = (ROOT / "docs" / "zero-shot.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", page, re.M | re.S)
    lines, nested, python = (
        next(b for k, b in blocks if k == kind and "uri" not in b) for kind in ("", "json", "python")
    )
    (tmp_path / "labels.txt").write_text(lines)
    assert [label.path for label in read_labels(tmp_path / "labels.txt").labels] == ["cat", "animal > pet > dog", "car"]
    (tmp_path / "labels.json").write_text(nested)
    assert read_labels(tmp_path / "labels.json").names == ("cat", "dog", "car > 3.5 t")
    (tmp_path / "pictures").mkdir()
    for name in ("1f34e.png", "1f382.png", "1f681.png"):
        shutil.copy(PICTOGRAMS / name, tmp_path / "pictures")
    monkeypatch.chdir(tmp_path)
    exec(python, {})
    assert capsys.readouterr().out == "red apple\nbirthday cake\nhelicopter\n"


# --- the cache ----------------------------------------------------------------------------------


def test_classes_are_encoded_once(tiny: Encoder, tmp_path: Path) -> None:
    """Memory serves the same process, the disk the next one, and a further label costs only its own texts."""
    counting = Counting(tiny)
    first = embed_classes(counting, ["cat", "dog"], cache=(cache := ClassCache(tmp_path)))
    assert counting.texts == 14
    embed_classes(counting, ["dog", "cat"], cache=cache)
    assert counting.texts == 14
    again = embed_classes(counting, ["cat", "dog", "cow"], cache=ClassCache(tmp_path))
    assert counting.texts == 21
    np.testing.assert_array_equal(again.embeddings[:2], first.embeddings)
    embed_classes(counting, labels_of(["cat", "dog"], templates=PLAIN), cache=cache)
    assert counting.texts == 23
    embed_classes(counting, ["cat", "dog"])  # without a cache
    assert counting.texts == 37


def test_another_encoder_has_other_classes(tiny: Encoder, clip: Encoder, tmp_path: Path) -> None:
    """One folder serves any number of encoders."""
    cache = ClassCache(tmp_path)
    assert embed_classes(tiny, ["cat", "dog"], cache=cache).embeddings.shape == (2, 256)
    assert embed_classes(clip, ["cat", "dog"], cache=cache).embeddings.shape == (2, 24)


@pytest.mark.parametrize("damage", [b"", b"nonsense", "half", "zeros", "other"])
def test_a_damaged_cache_file_is_made_anew(
    tiny: Encoder, tmp_path: Path, damage: bytes | str, caplog: pytest.LogCaptureFixture
) -> None:
    """Empty, cut off, of another shape or of no length: it is warned of, encoded again and whole afterwards."""
    expected = embed_classes(tiny, ["cat", "dog"], cache=ClassCache(tmp_path)).embeddings
    file = sorted(tmp_path.rglob("*.npy"))[0]
    whole = file.read_bytes()
    if damage in ("zeros", "other"):
        np.save(file, np.zeros(256 if damage == "zeros" else 3, dtype=np.float32))
    else:
        file.write_bytes(damage if isinstance(damage, bytes) else whole[: len(whole) // 2])
    counting = Counting(tiny)
    with caplog.at_level(logging.WARNING):
        again = embed_classes(counting, ["cat", "dog"], cache=ClassCache(tmp_path))
    np.testing.assert_allclose(again.embeddings, expected, atol=1e-6)
    assert counting.texts == 7
    assert "computed again" in caplog.text
    assert np.load(file).shape == (256,)
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_cache_that_cannot_be_written_is_kept_in_memory(
    tiny: Encoder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Where the folder is a file, classification goes on with a warning."""
    (tmp_path / "file").write_text("")
    counting = Counting(tiny)
    cache = ClassCache(tmp_path / "file")
    with caplog.at_level(logging.WARNING):
        embed_classes(counting, ["cat", "dog"], cache=cache)
        embed_classes(counting, ["cat", "dog"], cache=cache)
    assert counting.texts == 14
    assert "not kept" in caplog.text


def test_the_cache_is_bounded_and_shared_by_threads(tiny: Encoder) -> None:
    """It keeps the rows used last, and threads that embed at once get the same classes."""
    cache = ClassCache(rows=3)
    counting = Counting(tiny)
    for labels in (["a", "b"], ["c", "d"], ["c", "d"], ["a", "b"]):
        embed_classes(counting, labels_of(labels, templates=PLAIN), cache=cache)
    assert counting.texts == 5  # of the first two, one had gone
    made: list[DenseArray] = []
    threads = [
        threading.Thread(target=lambda: made.append(embed_classes(tiny, ["cat", "dog"], cache=cache).embeddings))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for rows in made:
        np.testing.assert_allclose(rows, made[0], atol=1e-6)
    assert len(made) == 8


# --- pictures -----------------------------------------------------------------------------------


def test_classify_takes_files_bytes_and_images_in_order(tiny: Encoder, tmp_path: Path) -> None:
    """Each source has its answer in its place; a bad one is a Failure there, whatever the batches."""
    cake = PICTOGRAMS / "1f382.png"
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no picture")
    encoder = load_encoder("tiny", device="cpu", batch_size=2)
    sources = [cake, bad, cake.read_bytes(), b"", Image.open(cake), tmp_path / "gone.png", cake]
    results = list(classify(sources, ["birthday cake", "cat", "umbrella"], encoder=encoder))
    assert [result.uri for result in results] == [
        *(str(cake), str(bad), "#2", "#3", "#4", str(tmp_path / "gone.png"), str(cake)),
    ]
    assert [isinstance(result, Failure) for result in results] == [False, True, False, True, False, True, False]
    good = [result for result in results if isinstance(result, Classified)]
    assert {result.labels[0].label for result in good} == {"birthday cake"}
    assert all(len(result.labels) == 3 and not result.none_of_these and result.groups == () for result in good)
    (alone,) = classify([cake], ["birthday cake", "cat", "umbrella"], encoder=tiny, top_k=1)
    assert isinstance(alone, Classified)
    assert alone.labels[0].score == pytest.approx(good[0].labels[0].score, abs=1e-6)


def test_classify_is_lazy_and_bounded(tiny: Encoder) -> None:
    """A stream without end gives its first answers, and sources are pulled no further than a few batches ahead."""
    pulled = 0

    def endless() -> Any:
        nonlocal pulled
        while True:
            pulled += 1
            yield Image.new("RGB", (8, 8))

    results = classify(endless(), ["cat", "dog"], encoder=load_encoder("tiny", batch_size=4), workers=2)
    assert pulled == 0
    assert isinstance(next(results), Classified)
    assert pulled <= 12
    assert list(classify([], ["cat", "dog"], encoder=tiny)) == []


def test_an_encoder_without_pixels_classifies_too() -> None:
    """One that takes pictures only whole (no PixelEncoder) gives the verdicts of its vectors."""
    encoder = load_encoder("fake")
    images = photos()
    classes = embed_classes(encoder, ["a", "b", "c"])
    expected = decide(classes, score(classes, np.asarray(encoder.encode_image(images))))
    results = list(classify(images, classes, encoder=encoder))
    assert [
        Verdict(result.labels, result.none_of_these, result.groups)
        for result in results
        if isinstance(result, Classified)
    ] == expected


def test_pictograms_are_named(tiny: Encoder, data: Path) -> None:
    """Of 212 names `tiny`, which learnt names alone, finds the right one for two pictograms in three, best as it is."""
    names: dict[str, str] = json.loads((data / "twemoji" / "labels.json").read_text(encoding="utf-8"))
    chosen = dict(list(names.items())[::9])
    files = [data / "twemoji" / name for name in chosen]
    right = {}
    for templates in (PLAIN, SIMPLE_7):
        labels = labels_of(list(chosen.values()), templates=templates)
        results = list(classify(files, labels, encoder=tiny, top_k=1))
        found = [result.labels[0].label for result in results if isinstance(result, Classified)]
        right[templates] = sum(a == b for a, b in zip(found, chosen.values(), strict=True)) / len(chosen)
    assert right[PLAIN] > right[SIMPLE_7] > 0.6


def test_a_path_may_be_a_text(tiny: Encoder, tmp_path: Path) -> None:
    """As elsewhere; a single one in place of a list is a TypeError, not a picture for each of its letters."""
    photos()[0].save(tmp_path / "a.png")
    sources: list[ImageLike] = [str(tmp_path / "a.png"), tmp_path / "a.png", "nowhere.png"]
    as_text, as_path, missing = classify(sources, ["cat", "dog"], encoder=tiny)
    assert as_text == as_path
    assert isinstance(missing, Failure)
    with pytest.raises(TypeError, match="are wanted in a list"):
        classify(str(tmp_path / "a.png"), ["cat", "dog"], encoder=tiny)
