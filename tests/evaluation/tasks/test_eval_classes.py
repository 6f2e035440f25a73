"""Zero-shot classification of a folder per class: what CLIP_benchmark measures, exactly and by searching labels."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import checkpoints_clip as checkpoints
import numpy as np
import open_clip
import pytest
import torch
from clip_benchmark.metrics import zeroshot_classification
from counting import Counting
from harness_images import class_names, pictograms

from mmembed.classification.labels import Label, Labels
from mmembed.encoders.registry import load_encoder
from mmembed.errors import InvalidLabels, InvalidSample, UnsupportedModality
from mmembed.evaluation.comparison import compare
from mmembed.evaluation.tasks.classification import evaluate_classes, read_class_texts
from mmembed.images import load_image
from mmembed.sources.labelled import read_class_folders
from mmembed.stores import open_store
from mmembed.types import Encoder, Store

TEMPLATES = ("a photo of a {}.", "a drawing of a {}.")


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some ninety pictures in eight classes of unequal size."""
    folder = tmp_path_factory.mktemp("classes")
    for image in pictograms():
        into = folder / class_names()[image.label]
        into.mkdir(exist_ok=True)
        shutil.copy(image.path, into)
    return folder


@pytest.fixture(scope="module")
def tiny() -> Encoder:
    return load_encoder("tiny", device="cpu")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = open_store(f"edge:{tmp_path / 'store.mm'}")
    yield opened
    opened.close()


class Loader:
    """Batches of preprocessed pictures with their classes, as CLIP_benchmark's loaders give them."""

    def __init__(self, preprocess: Any, folder: Path) -> None:
        self.preprocess, self.dataset = preprocess, self
        self.images = read_class_folders(folder)
        self.classes = sorted({str(image.label) for image in self.images})

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for start in range(0, len(self.images), 16):
            some = self.images[start : start + 16]
            images = [self.preprocess(load_image(image.path, uri=image.path.name)) for image in some]
            yield torch.stack(images), torch.tensor([self.classes.index(str(image.label)) for image in some])


# their accuracy() makes a float of an array of one element, which NumPy 2 warns of
@pytest.mark.filterwarnings("ignore:Conversion of an array with ndim > 0:DeprecationWarning:clip_benchmark")
def test_the_numbers_are_those_of_clip_benchmark(classes: Path, store: Store, tmp_path: Path) -> None:
    """acc1, acc5 and mean_per_class_recall equal CLIP_benchmark's on plain open_clip with the same weights."""
    name = f"local-dir:{checkpoints.open_clip_folder(tmp_path / 'clip', checkpoints.OPEN_CLIP)}"
    model, _, preprocess = open_clip.create_model_and_transforms(name)
    loader = Loader(preprocess, classes)
    theirs = zeroshot_classification.evaluate(
        model.eval(),
        loader,
        open_clip.get_tokenizer(name),
        loader.classes,
        [template.replace("{}", "{c}") for template in TEMPLATES],
        "cpu",
        amp=False,
    )
    report = evaluate_classes(
        store,
        "checkpoint",
        read_class_folders(classes),
        encoder=load_encoder(f"open_clip:{name}", device="cpu"),
        labels=Labels(tuple(Label(each) for each in loader.classes), TEMPLATES),
    )
    ours = {measure: report.systems[0].exact.mean(measure) for measure in report.measures}
    assert ours == pytest.approx(theirs, abs=1e-12)
    assert 0 < ours["acc1"] < ours["acc5"] < 1
    assert abs(ours["acc1"] - ours["mean_per_class_recall"]) > 0.005


def test_searching_for_the_labels_gives_the_same_where_nothing_is_lost(
    classes: Path, store: Store, tiny: Encoder
) -> None:
    """In a small collection, which has no graph, each picture gets its class by search as by its vector."""
    report = evaluate_classes(store, "pictures", read_class_folders(classes), encoder=tiny)
    compared = report.systems[0]
    assert compared.as_is is not None
    assert compared.as_is.per_query == compared.exact.per_query
    assert compared.exact.mean("acc1") > 0.2
    assert report.counted == ("pictures", "classes")
    assert (report.queries, report.documents) == (len(pictograms()), 8)
    again = Counting(tiny)
    evaluate_classes(store, "pictures", read_class_folders(classes), encoder=again)
    assert again.images == 0


def test_other_images_of_the_collection_change_nothing(classes: Path, store: Store, tiny: Encoder) -> None:
    """Accuracy is over the pictures of the folder, and a warning counts the others."""
    images = read_class_folders(classes)
    whole = evaluate_classes(store, "pictures", images, encoder=tiny).systems[0]
    some = [image for image in images if image.label in ("animal", "food")]
    report = evaluate_classes(store, "pictures", some, encoder=tiny, labels=Labels(tuple(map(Label, class_names()))))
    part = report.systems[0]
    assert part.as_is is not None
    uris = {str(image.path) for image in some}
    assert part.exact.per_query["acc1"] == {u: v for u, v in whole.exact.per_query["acc1"].items() if u in uris}
    assert part.as_is.per_query["acc1"] == part.exact.per_query["acc1"]
    assert set(part.exact.per_query["mean_per_class_recall"]) == {"animal", "food"}
    assert any(f"{len(images) - len(some)} points beside" in warning for warning in report.warnings)


def test_one_class_is_refused(classes: Path, store: Store, tiny: Encoder, tmp_path: Path) -> None:
    """Which of one class a picture is says nothing; nothing is encoded."""
    shutil.copytree(classes / "animal", tmp_path / "one" / "animal")
    with pytest.raises(InvalidSample, match=r"there is one class \(animal\)"):
        evaluate_classes(store, "pictures", read_class_folders(tmp_path / "one"), encoder=tiny)
    assert store.collections() == []


def test_two_classes_have_no_acc5_and_images_of_none_are_left_out(
    classes: Path, store: Store, tiny: Encoder, tmp_path: Path
) -> None:
    """Among fewer than five classes every one is among the five best; `_none` is counted in a warning."""
    for name, into in (("animal", "animal"), ("food", "food"), ("plant", "_none")):
        shutil.copytree(classes / name, tmp_path / "two" / into)
    report = evaluate_classes(store, "pictures", read_class_folders(tmp_path / "two"), encoder=tiny)
    assert report.measures == ("acc1", "mean_per_class_recall")
    negatives = len(list((classes / "plant").iterdir()))
    assert f"{negatives} pictures of no class were left out: accuracy is about classes" in report.warnings


def test_an_encoder_without_an_image_tower_is_refused(classes: Path, store: Store) -> None:
    """Text encoders have labels but no pictures."""
    with pytest.raises(UnsupportedModality, match="bm25"):
        evaluate_classes(store, "pictures", read_class_folders(classes), encoder=load_encoder("bm25"))


def test_labels_say_what_folders_mean(tmp_path: Path) -> None:
    """JSON and CSV name folders and give each one text or several; folders that they leave out keep their name."""
    names = ["animal", "food"]
    (tmp_path / "l.json").write_text(json.dumps({"animal": ["beast", "creature"]}))
    (tmp_path / "l.csv").write_text("folder,text\nanimal,beast\nanimal,creature\n")
    for file in ("l.json", "l.csv"):
        read = read_class_texts(tmp_path / file, names, templates=TEMPLATES)
        assert [(label.name, label.terms) for label in read.labels] == [
            ("animal", ("beast", "creature")),
            ("food", ("food",)),
        ]
        assert read.templates == TEMPLATES


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("l.json", '{"anymal": "beast"}', "names 'anymal', and there is no such folder"),
        ("l.json", '["animal"]', "it holds a list"),
        ("l.json", '{"animal": []}', "'animal' has no text"),
        ("l.csv", "a,b\n", "its columns are a, b"),
        ("l.csv", "folder,text\nanimal,\n", "line 2 has an empty cell"),
    ],
)
def test_malformed_labels_say_what_is_wrong(name: str, text: str, message: str, tmp_path: Path) -> None:
    """A file of labels that is not one, or is about other folders."""
    (tmp_path / name).write_text(text)
    with pytest.raises(InvalidLabels, match=message):
        read_class_texts(tmp_path / name, ["animal", "food"], templates=TEMPLATES)


def test_labels_that_lack_a_folder_are_refused(classes: Path, store: Store, tiny: Encoder) -> None:
    """A class that nobody named cannot be right."""
    with pytest.raises(InvalidLabels, match="the folder 'building' is none of the 2 labels"):
        evaluate_classes(
            store,
            "pictures",
            read_class_folders(classes),
            encoder=tiny,
            labels=Labels((Label("animal"), Label("food"))),
        )


def test_two_encoders_are_compared_image_by_image(classes: Path, store: Store, tiny: Encoder) -> None:
    """The one that knows pictures is better than one that does not, and p says how surely."""
    images = read_class_folders(classes)
    reports = [
        evaluate_classes(store, f"by-{each.spec.name}", images, encoder=each) for each in (load_encoder("fake"), tiny)
    ]
    found = {comparison.measure: comparison for comparison in compare(reports).comparisons}
    first, second = (report.systems[0].exact.mean("acc1") for report in reports)
    assert found["acc1"].exact.value == pytest.approx(second - first)
    assert np.isfinite(found["mean_per_class_recall"].exact_p)
