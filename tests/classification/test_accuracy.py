"""Accuracy, recall and average precision are CLIP_benchmark's to the last digit that its float32 has."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from clip_benchmark.metrics import zeroshot_classification as reference
from PIL import Image
from sklearn.metrics import balanced_accuracy_score

from mmembed.classification.measures import accuracy_at, average_precision_per_class, mean_per_class_recall
from mmembed.errors import InvalidSample, UnreadableSource
from mmembed.sources.labelled import LabelledImage, read_class_folders


def random_case(seed: int, *, ties: bool) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    n, m = int(rng.integers(1, 40)), int(rng.integers(2, 9))
    scores = rng.integers(0, 4, (n, m)) / 4 if ties else rng.permutation(n * m).reshape(n, m) / (n * m)
    return scores.astype(np.float32), rng.integers(0, m, n)


def untied(scores: np.ndarray, axis: int) -> torch.Tensor:
    """The same order without ties, the earlier first: which of equal ones torch takes depends on the processor."""
    order = np.argsort(-scores, axis=axis, kind="stable")
    return torch.from_numpy(-np.argsort(order, axis=axis, kind="stable").astype(np.float32))


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.filterwarnings("ignore:Conversion of an array with ndim:DeprecationWarning")  # theirs
def test_accuracy_counts_the_k_best_of_each_row(ties: bool) -> None:
    """On 300 random cases it is a count by hand, and CLIP_benchmark's `accuracy`; of equal ones the earlier counts."""
    for seed in range(300):
        scores, truth = random_case(seed, ties=ties)
        for k in (1, 2, 5):
            ahead = [
                sum(1 for c, s in enumerate(row) if s > row[t] or (s == row[t] and c < t))
                for row, t in zip(scores, truth, strict=True)
            ]
            found = accuracy_at(scores, truth, k)
            assert found.tolist() == [float(place < k) for place in ahead]
            if k <= scores.shape[1]:
                theirs = reference.accuracy(untied(scores, axis=1), torch.from_numpy(truth), topk=(k,))[0]
                assert found.mean() == pytest.approx(theirs, abs=1e-12)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true", "ignore:A single label was found")
def test_recall_is_balanced_accuracy(ties: bool) -> None:
    """On 300 random cases it is scikit-learn's, as CLIP_benchmark calls it, whatever is tied."""
    for seed in range(300):
        scores, truth = random_case(seed, ties=ties)
        theirs = balanced_accuracy_score(truth, torch.from_numpy(scores).argmax(dim=1).numpy())
        assert mean_per_class_recall(scores, truth) == pytest.approx(theirs, abs=1e-12)


@pytest.mark.parametrize("ties", [False, True])
def test_average_precision_is_that_of_clip_benchmark(ties: bool) -> None:
    """On 300 random cases, ties and classes that no picture shows included."""
    for seed in range(300):
        scores, _ = random_case(seed, ties=ties)
        targets = np.random.default_rng(seed).random(scores.shape) < 0.3
        theirs = reference.average_precision_per_class(untied(scores, axis=0), torch.from_numpy(targets))
        np.testing.assert_allclose(average_precision_per_class(scores, targets), theirs.numpy(), atol=2e-6)


def test_what_does_not_fit_together_is_refused() -> None:
    """Shapes that differ, classes that there are not, no class to count, no picture."""
    scores = np.eye(3, dtype=np.float32)
    for call in (
        lambda: accuracy_at(scores, np.array([0, 1]), 1),
        lambda: accuracy_at(scores, np.array([0, 1, 3]), 1),
        lambda: accuracy_at(scores, np.array([0, 1, 2]), 0),
        lambda: mean_per_class_recall(scores[:0], np.array([], dtype=int)),
        lambda: average_precision_per_class(scores, np.eye(2, dtype=bool)),
    ):
        with pytest.raises(ValueError, match=r"\w"):
            call()


# --- a folder with one sub-folder a class ---------------------------------------------------------


def put(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(folder / name)


def test_sub_folders_are_labels(tmp_path: Path) -> None:
    """Sorted by label and path, to the bottom; `_none` has none and is last; loose and hidden files are left out."""
    put(tmp_path, "hot_dog/b.png", "hot_dog/more/a.png", "cat/1.png", "_none/x.png", "loose.png", ".cache/y.png")
    (tmp_path / "cat" / "notes.txt").write_text("not a picture")
    assert read_class_folders(tmp_path) == [
        LabelledImage(tmp_path / "cat/1.png", "cat"),
        LabelledImage(tmp_path / "hot_dog/b.png", "hot_dog"),
        LabelledImage(tmp_path / "hot_dog/more/a.png", "hot_dog"),
        LabelledImage(tmp_path / "_none/x.png", None),
    ]
    renamed = {image.label for image in read_class_folders(tmp_path, negatives="cat")}
    assert renamed == {None, "_none", "hot_dog"}


def test_a_label_is_the_name_as_labels_have_it(tmp_path: Path) -> None:
    """NFC with single spaces, as a file of labels would be read."""
    put(tmp_path, "cafe\N{COMBINING ACUTE ACCENT}  bar/1.png")
    assert [image.label for image in read_class_folders(tmp_path)] == ["café bar"]


def test_a_folder_without_classes_is_refused(tmp_path: Path) -> None:
    """No folder, no sub-folder but the negatives, or one without a picture: each is said."""
    with pytest.raises(UnreadableSource, match="No such file"):
        read_class_folders(tmp_path / "gone")
    put(tmp_path, "_none/x.png", "loose.png")
    with pytest.raises(InvalidSample, match="there is no class in it"):
        read_class_folders(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidSample, match="empty: the class has no pictures"):
        read_class_folders(tmp_path)
    (tmp_path / "empty" / "dangling.png").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UnreadableSource, match="a link to nothing"):
        read_class_folders(tmp_path)


def test_real_folders(data: Path) -> None:
    """The ten classes of clothing, every picture once."""
    images = read_class_folders(data / "clothing")
    assert len(images) == len({image.path for image in images}) == 372
    assert len({image.label for image in images}) == 10
    assert json.dumps([p.label for p in images]) == json.dumps(sorted(str(p.label) for p in images))
