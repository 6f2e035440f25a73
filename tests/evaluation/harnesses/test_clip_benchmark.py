"""CLIP_benchmark runs on our encoders, and what it measures is what we measure."""

from __future__ import annotations

import json
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clip_benchmark import models as their_models
from clip_benchmark.cli import main
from clip_benchmark.metrics import linear_probe
from harness_images import class_names, pictograms
from PIL import Image

from mmembed.classification.classes import embed_classes
from mmembed.classification.labels import labels_of
from mmembed.classification.measures import accuracy_at, mean_per_class_recall
from mmembed.classification.scoring import score
from mmembed.encoders.registry import load_encoder
from mmembed.errors import SettingsError, UnsupportedModality
from mmembed.evaluation.harnesses import load_clip_model, register_clip_benchmark
from mmembed.evaluation.harnesses.clip_benchmark_model import tokenize
from mmembed.evaluation.measures import evaluate_run
from mmembed.types import Encoder

IMAGES = pictograms()
TEMPLATES = ["a photo of a {c}.", "a drawing of a {c}.", "{c}"]


@pytest.fixture(scope="module")
def tiny() -> Encoder:
    return load_encoder("tiny", device="cpu")


@pytest.fixture
def run_theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Their whole command, from the name of a model to the file of metrics."""
    register_clip_benchmark()

    def evaluate(task: str, dataset: str, root: Path, **options: Any) -> dict[str, Any]:
        out = tmp_path / "metrics.json"
        words = ["clip_benchmark", "eval", "--model_type", "mmembed", "--model", "tiny", "--no_amp"]
        words += ["--num_workers", "0", "--batch_size", "16"]
        words += ["--task", task, "--dataset", dataset, "--dataset_root", str(root), "--output", str(out)]
        for key, value in options.items():
            words += [f"--{key}", *map(str, value if isinstance(value, list) else [value])]
        monkeypatch.setattr(sys, "argv", words)
        main()
        metrics: dict[str, Any] = json.loads(out.read_text())["metrics"]
        return metrics

    return evaluate


# their accuracy() makes a float of an array of one element, which NumPy 2 warns of
@pytest.mark.filterwarnings("ignore:Conversion of an array with ndim > 0:DeprecationWarning:clip_benchmark")
def test_zero_shot_classification_is_ours(
    run_theirs: Callable[..., dict[str, Any]], tiny: Encoder, tmp_path: Path
) -> None:
    """Their command on a folder per class gives our accuracy at 1 and 5 and our mean per-class recall."""
    names = class_names()
    for number, photo in enumerate(IMAGES):
        folder = tmp_path / "pictures" / f"n{photo.label:08}"
        folder.mkdir(parents=True, exist_ok=True)
        photo.image.save(folder / f"{number:03}.png")
    (tmp_path / "classes.json").write_text(json.dumps({"imagenet_sketch": names}))
    (tmp_path / "templates.json").write_text(json.dumps({"imagenet_sketch": TEMPLATES}))
    theirs = run_theirs(
        "zeroshot_classification",
        "imagenet_sketch",
        tmp_path / "pictures",
        custom_classname_file=tmp_path / "classes.json",
        custom_template_file=tmp_path / "templates.json",
    )
    labels = labels_of(names, templates=tuple(template.replace("{c}", "{}") for template in TEMPLATES))
    vectors = np.asarray(tiny.encode_image([photo.image for photo in IMAGES]))
    scores = score(embed_classes(tiny, labels), vectors)
    truth = np.array([photo.label for photo in IMAGES])
    ours = {f"acc{k}": float(accuracy_at(scores, truth, k).mean()) for k in (1, 5)}
    ours["mean_per_class_recall"] = mean_per_class_recall(scores, truth)
    assert theirs == pytest.approx(ours, abs=1e-12)
    assert 0.2 < ours["acc1"] < ours["acc5"] < 1
    assert abs(ours["acc1"] - ours["mean_per_class_recall"]) > 0.01  # classes of unequal size


def test_retrieval_is_ours(run_theirs: Callable[..., dict[str, Any]], tiny: Encoder, tmp_path: Path) -> None:
    """Their recall@k, in both directions, is our hit_rate@k: one right caption of two is enough."""
    root = tmp_path / "pictures"
    root.mkdir()
    lines = ["image,caption"]
    captions: dict[str, Any] = {}
    images: dict[str, Any] = {}
    for number, photo in enumerate(IMAGES):
        file = f"{number:03}.jpg"
        photo.image.save(root / file, quality=95)
        images[file] = Image.open(root / file).convert("RGB")
        for said in (photo.name, f"a {class_names()[photo.label]} like the {photo.name}"):
            captions[f"c{len(captions):04}"] = (file, said)
            lines.append(f"{file},{said}")
    (tmp_path / "captions.txt").write_text("\n".join(lines))
    theirs = run_theirs(
        "zeroshot_retrieval", "flickr30k", root, annotation_file=tmp_path / "captions.txt", recall_k=[1, 5, 10]
    )
    photos = np.asarray(tiny.encode_image(list(images.values())))
    texts = np.asarray(tiny.encode_text([said for _, said in captions.values()], role="query"))
    scores = texts @ photos.T
    ours: dict[str, Any] = {}
    for side, matrix, rows, columns in (
        ("image", scores, list(captions), list(images)),
        ("text", scores.T, list(images), list(captions)),
    ):
        ranked = {
            row: dict(zip(columns, map(float, line), strict=True)) for row, line in zip(rows, matrix, strict=True)
        }
        qrels: dict[str, dict[str, int]] = {row: {} for row in rows}
        for caption, (file, _) in captions.items():
            row, column = (caption, file) if side == "image" else (file, caption)
            qrels[row][column] = 1
        found = evaluate_run(ranked, qrels, ["hit_rate@1", "hit_rate@5", "hit_rate@10"])
        ours |= {f"{side}_retrieval_recall@{k}": found.mean(f"hit_rate@{k}") for k in (1, 5, 10)}
    assert theirs == pytest.approx(ours, abs=1e-7)  # theirs are means in float32
    assert 0.1 < ours["image_retrieval_recall@1"] < ours["image_retrieval_recall@10"] < 1


def test_linear_probe_reads_our_features(tiny: Encoder) -> None:
    """Their featurizer makes of a batch what the encoder makes of the pictures."""
    model, transform, _ = load_clip_model(tiny)
    images = [photo.image for photo in IMAGES[:8]]
    with torch.no_grad():
        features = linear_probe.Featurizer(model, normalize=True)(torch.stack([transform(image) for image in images]))
    np.testing.assert_allclose(features.numpy(), tiny.encode_image(images), atol=1e-6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="their linear probe runs on CUDA alone")
def test_linear_probe_learns(tmp_path: Path) -> None:
    """Their linear probe trains on our features and beats guessing the largest class."""
    model, transform, _ = load_clip_model("tiny", device="cuda")
    items = [(transform(photo.image), photo.label) for photo in IMAGES]
    loaders: list[Any] = [torch.utils.data.DataLoader(items[i::2], batch_size=16) for i in (0, 1)]  # type: ignore[arg-type]
    found = linear_probe.evaluate(
        model, *loaders, -1, 16, 0, 0.1, 20, "tiny", 0, str(tmp_path / "features"), device="cuda", amp=False
    )
    assert found["lp_acc1"] > 0.5


def test_autocast_changes_nothing(tiny: Encoder) -> None:
    """Under autocast, which is their default, vectors are those of the encoder, to the bit."""
    model, transform, tokenizer = load_clip_model(tiny)
    images, texts = [photo.image for photo in IMAGES[:4]], ["a cat", "Zürich, naïve 東京 🐈"]
    with torch.no_grad(), torch.autocast("cpu", enabled=True):
        photos = model.encode_image(torch.stack([transform(image) for image in images]))
        words = model.encode_text(tokenizer(texts))
    assert np.array_equal(photos.numpy(), np.asarray(tiny.encode_image(images)))
    assert np.array_equal(words.numpy(), np.asarray(tiny.encode_text(texts, role="query")))


def test_an_encoder_without_pixels() -> None:
    """Pictures of an encoder whose preprocessing is not ours to run become vectors in the transform."""

    class Opaque:
        """`tiny`, with no more than the protocol asks for."""

        def __init__(self, encoder: Encoder) -> None:
            self.spec, self.dtype, self.batch_size = encoder.spec, encoder.dtype, encoder.batch_size
            self.logit_scale, self.logit_bias = encoder.logit_scale, encoder.logit_bias
            self.encode_text, self.encode_image = encoder.encode_text, encoder.encode_image
            self.count_tokens = encoder.count_tokens

    encoder = load_encoder("tiny", device="cpu")
    model, transform, _ = load_clip_model(Opaque(encoder))
    image = IMAGES[0].image
    assert np.array_equal(model.encode_image(transform(image)[None]).numpy(), np.asarray(encoder.encode_image([image])))


def test_a_transform_goes_to_worker_processes(tiny: Encoder) -> None:
    """A data loader of torch's may pickle the transform: the copy makes the same pixels, of a palette picture too."""
    _, transform, _ = load_clip_model(tiny)
    palette = IMAGES[0].image.convert("P")
    assert torch.equal(pickle.loads(pickle.dumps(transform))(palette), transform(palette))


@pytest.mark.parametrize("texts", [[], [""], ["a", "", "a longer one"], ["東京", "\ud800 lone"], ["\x00\x7f"]])
def test_tokens_carry_the_texts(texts: list[str], tiny: Encoder) -> None:
    """What goes through the tokenizer comes out as it was: none, empty ones, other scripts, halves of characters."""
    model, _, _ = load_clip_model(tiny)
    assert np.array_equal(model.encode_text(tokenize(texts)).numpy(), tiny.encode_text(texts, role="query"))


def test_registered_twice_is_there_once() -> None:
    """Their list of model types has ours once, and loading by it gives the three parts."""
    register_clip_benchmark()
    register_clip_benchmark()
    assert their_models.MODEL_TYPES.count("mmembed") == 1
    model, transform, tokenizer = their_models.load_clip("mmembed", "tiny", "", "", "cpu")
    assert model.encode_text(tokenizer(["a cat"])).shape == (1, 256)
    assert transform(IMAGES[0].image).shape == (3, 64, 64)


@pytest.mark.parametrize(
    ("name", "error", "says"),
    [
        ("minilm", UnsupportedModality, "cannot encode pictures, only text"),
        ("fake?kind=multi", SettingsError, "makes multi vectors, and CLIP_benchmark compares dense ones"),
    ],
)
def test_what_it_cannot_compare_is_refused(name: str, error: type[Exception], says: str) -> None:
    """An encoder without an image tower, or of several vectors, is refused in a sentence."""
    with pytest.raises(error, match=says):
        load_clip_model(name)
