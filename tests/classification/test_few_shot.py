"""Few-shot: Tip-Adapter over Qdrant held against its formula in numpy, a probe, and an honest comparison."""

from __future__ import annotations

import json
import math
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints_clip import OPEN_CLIP, open_clip_folder
from PIL import Image, ImageDraw
from typer.testing import CliRunner

from mmembed import load_encoder, open_store
from mmembed.classification import Classified, classify, embed_classes
from mmembed.classification.few_shot import (
    FewShotReport,
    Neighbours,
    find_neighbours,
    learn_few_shot,
    load_few_shot,
    stratified_split,
    tip_logits,
)
from mmembed.classification.few_shot.classifier import FewShotNote, in_part, read_part
from mmembed.classification.few_shot.learning import paired_p
from mmembed.classification.few_shot.probe import fit_probe, probe_logits, probe_temperature
from mmembed.classification.few_shot.tip_adapter import choose_tip
from mmembed.classification.tagging import tag
from mmembed.cli import app
from mmembed.collection import Collection
from mmembed.errors import CollectionMismatch, InvalidQuery, InvalidSample, SettingsError
from mmembed.images import load_image
from mmembed.ingest import ingest_images
from mmembed.sources.labelled import LabelledImage, read_class_folders
from mmembed.statistics import bootstrap_intervals
from mmembed.types import Store
from mmembed.vectors import softmax

SHAPES = ("circle", "square", "stripes")


def draw(shape: str, rng: np.random.Generator) -> Image.Image:
    """A shape of any colour and place on white."""
    image = Image.new("RGB", (48, 48), "white")
    pen, colour = ImageDraw.Draw(image), tuple(int(c) for c in rng.integers(0, 200, 3))
    x, y, side = (int(v) for v in (*rng.integers(2, 14, 2), rng.integers(18, 30)))
    box = (x, y, x + side, y + side)
    if shape == "circle":
        pen.ellipse(box, fill=colour)
    elif shape == "square":
        pen.rectangle(box, fill=colour)
    else:
        for offset in range(0, 48, 8):
            pen.line((0, offset, 48, offset), fill=colour, width=3)
    return image


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 circles, squares and stripes each, and two pictures of no label."""
    root, rng = tmp_path_factory.mktemp("shapes"), np.random.default_rng(5)
    for shape in (*SHAPES, "_none"):
        (root / shape).mkdir()
        for n in range(40 if shape != "_none" else 2):
            draw(shape, rng).save(root / shape / f"{n:02}.png")
    return root


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    opened = open_store(f"edge:{tmp_path_factory.mktemp('few') / 'store.mm'}")
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def learnt(store: Store, folder: Path) -> FewShotReport:
    """What tiny learns from eight shots of each shape."""
    return learn_few_shot(store, "shapes", read_class_folders(folder), encoder=load_encoder("tiny"), shots=8)


# --- the split ----------------------------------------------------------------------------------


def test_every_label_is_dealt_out_in_proportion() -> None:
    """Half to learn from, a fifth to choose by, three tenths to test; the same every time; another seed, another."""
    truth = ["a"] * 40 + ["b"] * 10 + ["c"] * 3
    parts = stratified_split(truth)
    counts = Counter(zip(truth, parts, strict=True))
    assert [counts["a", p] for p in ("train", "validation", "test")] == [20, 8, 12]
    assert [counts["b", p] for p in ("train", "validation", "test")] == [5, 2, 3]
    assert [counts["c", p] for p in ("train", "validation", "test")] == [1, 1, 1]
    assert parts == stratified_split(truth)
    assert parts != stratified_split(truth, seed=1)


def test_shots_are_images_of_each_label() -> None:
    """Exactly so many to learn from; all others choose or test."""
    truth = ["a"] * 40 + ["b"] * 6
    counts = Counter(zip(truth, stratified_split(truth, shots=4), strict=True))
    assert counts["a", "train"] == counts["b", "train"] == 4
    assert [counts["a", "validation"], counts["a", "test"]] == [14, 22]
    assert [counts["b", "validation"], counts["b", "test"]] == [1, 1]


def test_a_sample_that_cannot_be_dealt_out_is_refused() -> None:
    """No picture, one label, too few of one for its parts, no shot."""
    for truth, shots, says in (
        ([], None, "there is no labelled picture"),
        (["a"] * 9, None, "every picture has the label 'a'"),
        (["a"] * 9 + ["b"] * 2, None, "2 of the pictures that can be read have the label 'b', and 3 are the least"),
        (["a"] * 9 + ["b"] * 5, 4, "have the label 'b', and 6 are the least: 4 to learn from"),
    ):
        with pytest.raises(InvalidSample) as caught:
            stratified_split(truth, shots=shots)
        assert says in str(caught.value)
    with pytest.raises(SettingsError, match="at least one picture of each label, not from 0"):
        stratified_split(["a", "b"] * 5, shots=0)


# --- Tip-Adapter --------------------------------------------------------------------------------


def formula(cosines: Any, similar: Any, onehot: Any, alpha: float, beta: float) -> Any:
    """Equations 2 to 4 of the paper: pictures against texts, and against keys."""
    return 100 * cosines.astype(np.float64) + alpha * np.exp(-beta * (1 - similar)) @ onehot


@pytest.mark.usefixtures("learnt")
def test_logits_are_the_papers(store: Store) -> None:
    """With every key asked for they are the formula to 1e-5, for several alpha and beta; with fewer, that of these."""
    classes = embed_classes(load_encoder("tiny"), list(SHAPES))
    train = read_part(Collection(store, "shapes"), SHAPES, key="class", part="train")
    test = read_part(Collection(store, "shapes"), SHAPES, key="class", part="test")
    assert len(train.ids) == 24
    onehot = np.eye(3)[train.truth]
    cosines = test.vectors @ classes.embeddings.T
    where = in_part("class", "train")
    similar = test.vectors.astype(np.float64) @ train.vectors.T
    for limit in (24, 100, 5):
        found = find_neighbours(
            Collection(store, "shapes"), test.vectors, SHAPES, key="class", filter=where, limit=limit
        )
        lowest = np.sort(similar, axis=1)[:, -min(limit, 24)]
        near = np.where(similar >= lowest[:, None], similar, -np.inf)
        for alpha, beta in ((1.17, 1.0), (20.0, 5.5), (0.0, 3.0)):
            expected = formula(cosines, near, onehot, alpha, beta)
            np.testing.assert_allclose(tip_logits(cosines, found, alpha=alpha, beta=beta), expected, rtol=1e-5)
            votes = tip_logits(np.zeros_like(cosines), found, alpha=alpha, beta=beta)
            np.testing.assert_allclose(votes, formula(0 * cosines, near, onehot, alpha, beta), rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("learnt")
def test_only_training_images_vote(store: Store) -> None:
    """A test picture does not find itself among the keys."""
    test = read_part(Collection(store, "shapes"), SHAPES, key="class", part="test")
    where = in_part("class", "train")
    found = find_neighbours(Collection(store, "shapes"), test.vectors, SHAPES, key="class", filter=where, limit=30)
    assert np.isneginf(found.similarity[:, 24:]).all()
    assert (found.similarity[:, :24] < 1 - 1e-4).all()
    assert (np.diff(found.similarity[:, :24], axis=1) <= 1e-6).all()


def test_alpha_and_beta_are_the_most_accurate_and_no_larger_than_need_be() -> None:
    """Where texts are right already the keys get no weight; where keys are right they do."""
    truth = np.array([0, 1, 0, 1])
    right = np.eye(2)[truth] / 10
    nearest = Neighbours(np.full((4, 1), 0.9), truth[:, None])
    wrong = Neighbours(np.full((4, 1), 0.9), 1 - truth[:, None])
    assert choose_tip(right, wrong, truth).alpha == 0
    assert choose_tip(right, nearest, truth).alpha == 0
    chosen = choose_tip(-right, nearest, truth)
    assert chosen.alpha > 0
    assert chosen.accuracy == 1
    assert tip_logits(-right, nearest, alpha=chosen.alpha, beta=chosen.beta).argmax(axis=1).tolist() == truth.tolist()


# --- the comparison -----------------------------------------------------------------------------


def test_mcnemar_is_a_coin_thrown_for_each_image_that_they_differ_on() -> None:
    """On 300 random pairs: twice the smaller tail of the binomial, at most 1; the same either way round."""
    for seed in range(300):
        rng = np.random.default_rng(seed)
        n = int(rng.integers(1, 40))
        first, second = (rng.random(n) < rng.random() for _ in range(2))
        a, b = int((first & ~second).sum()), int((second & ~first).sum())
        tail = sum(math.comb(a + b, i) for i in range(min(a, b) + 1)) / 2 ** (a + b)
        p = paired_p(first.astype(float), second.astype(float))
        assert p == pytest.approx(min(1.0, 2 * tail), abs=1e-12)
        assert p == paired_p(second.astype(float), first.astype(float))


def test_an_interval_holds_its_mean_and_is_as_wide_as_theory() -> None:
    """Close to 1.96 standard errors of a share; narrower with more pictures; of one value a point; seeded."""
    right = np.array([1.0] * 140 + [0.0] * 60)
    (interval,) = bootstrap_intervals(right[:, None])
    assert interval is not None
    low, high = interval
    width = 1.96 * math.sqrt(0.7 * 0.3 / 200)
    assert (low, high) == pytest.approx((0.7 - width, 0.7 + width), abs=0.02)
    assert [(low, high)] == bootstrap_intervals(right[:, None])
    assert bootstrap_intervals(np.ones((10, 1))) == [(1.0, 1.0)]


def test_learning_is_better_than_chance_and_says_how_sure_that_is(learnt: FewShotReport) -> None:
    """A probe over tiny tells shapes apart; each number is what the outcomes of single pictures add up to."""
    assert learnt.images == {"train": 24, "validation": 39, "test": 57}
    assert [measured.name for measured in learnt.measured] == ["zero-shot", "tip-adapter", "probe"]
    for measured in learnt.measured:
        right = [outcome.predicted[measured.name] == outcome.label for outcome in learnt.outcomes]
        assert measured.accuracy == pytest.approx(sum(right) / 57)
        assert measured.low <= measured.accuracy <= measured.high
        assert measured.mean_per_class_recall == pytest.approx(measured.accuracy)  # 19 of each
        assert (measured.p_value is None) == (measured.name == "zero-shot")
    probe = learnt.measured[2]
    assert probe.low > 1 / 3
    assert {outcome.label for outcome in learnt.outcomes} == set(SHAPES)


def test_learning_again_costs_no_forward_pass(store: Store, folder: Path, learnt: FewShotReport) -> None:
    """The pictures are there already: nothing is encoded, and everything that is found is as before."""

    class Blind:
        def __init__(self) -> None:
            tiny = load_encoder("tiny")
            self.spec, self.dtype, self.batch_size = tiny.spec, tiny.dtype, tiny.batch_size
            self.logit_scale, self.logit_bias = tiny.logit_scale, tiny.logit_bias
            self.encode_text, self.count_tokens = tiny.encode_text, tiny.count_tokens

        def encode_image(self, images: Any) -> Any:
            raise AssertionError(f"{len(images)} pictures were encoded again")

    again = learn_few_shot(store, "shapes", read_class_folders(folder), encoder=Blind(), shots=8)
    assert again == learnt


def test_parts_follow_the_contents_and_not_the_place(store: Store, folder: Path, tmp_path: Path) -> None:
    """The same pictures in another folder are dealt out alike: the same seed gives the same figures anywhere."""

    def parts(collection: str, images: Path) -> dict[str, str]:
        learn_few_shot(store, collection, read_class_folders(images), encoder=load_encoder("tiny"), shots=8)
        found = store.scroll(collection, payload=["uri", "class_split"])
        return {str(Path(p.payload["uri"]).relative_to(images)): p.payload["class_split"] for p in found}

    shutil.copytree(folder, tmp_path / "elsewhere")
    here = parts("here", folder)
    assert Counter(here.values()) == {"train": 24, "validation": 39, "test": 57}
    assert parts("there", tmp_path / "elsewhere") == here


def test_what_was_learnt_is_kept(store: Store, learnt: FewShotReport) -> None:
    """Loaded, each way names the test pictures as in the report, in any order of labels, with probabilities."""
    tiny = load_encoder("tiny")
    labels = ["stripes", "circle", "square"]
    classes = embed_classes(tiny, labels)
    test = read_part(Collection(store, "shapes"), labels, key="class", part="test")
    assert test.ids == [outcome.id for outcome in learnt.outcomes]
    for way in ("tip-adapter", "probe"):
        adapter = load_few_shot(store, "shapes", classes, way=way)
        assert adapter is not None
        found = adapter(test.vectors)
        np.testing.assert_allclose(found.sum(axis=1), 1)
        assert [labels[c] for c in found.argmax(axis=1)] == [outcome.predicted[way] for outcome in learnt.outcomes]
    best = load_few_shot(store, "shapes", classes)
    assert best is not None
    assert best.way == best.note.best
    assert load_few_shot(store, "shapes", embed_classes(tiny, [*labels, "cat"])) is None
    with pytest.raises(InvalidSample, match="learn it again"):
        FewShotNote.from_json({"names": ["a"]})


def test_classify_goes_by_what_was_learnt(store: Store, folder: Path, learnt: FewShotReport) -> None:
    """With the adapter, probabilities are its own for the picture's vector, and scores stay cosines to the texts."""
    tiny = load_encoder("tiny")
    classes = embed_classes(tiny, sorted(SHAPES))
    adapter = load_few_shot(store, "shapes", classes)
    assert adapter is not None
    (outcome,) = [o for o in learnt.outcomes if o.id == learnt.outcomes[0].id]
    (point,) = store.retrieve("shapes", [outcome.id])
    path = Path(point.payload["uri"])
    assert path.is_relative_to(folder)
    (by_images,) = classify([path], classes, encoder=tiny, learnt=adapter)
    (by_words,) = classify([path], classes, encoder=tiny)
    assert isinstance(by_images, Classified)
    assert isinstance(by_words, Classified)
    assert by_images.labels[0].label == outcome.predicted[adapter.way]
    vector = tiny.encode_image([load_image(path, uri="it")])
    expected = dict(zip(classes.names, adapter(vector)[0], strict=True))
    assert {one.label: one.probability for one in by_images.labels} == pytest.approx(expected, abs=1e-6)
    scores = {one.label: one.score for one in by_words.labels}
    assert {one.label: one.score for one in by_images.labels} == pytest.approx(scores, abs=1e-6)


def test_images_of_an_earlier_run_take_no_part_in_a_later_one(store: Store, folder: Path) -> None:
    """Another folder in the same collection: the points of the first keep their label and lose their part."""
    learn_few_shot(store, "twice", read_class_folders(folder), encoder=load_encoder("tiny"), shots=8)
    some = [p for p in read_class_folders(folder) if p.label in ("circle", "square")]
    report = learn_few_shot(store, "twice", some, encoder=load_encoder("tiny"), shots=4)
    assert sum(report.images.values()) == 80
    left = [point.payload for point in store.scroll("twice") if "stripes" in point.payload["uri"]]
    assert len(left) == 40
    assert all(payload["class"] == "stripes" and "class_split" not in payload for payload in left)


@pytest.mark.parametrize("n_labels", [2, 3])
def test_logits_of_a_probe_are_sklearns_and_its_temperature_is_the_likeliest(n_labels: int) -> None:
    """Softmax gives sklearn's probabilities; labels without pictures have none; no temperature is likelier."""
    rng = np.random.default_rng(n_labels)
    truth = np.arange(60) % n_labels
    vectors = (np.eye(5)[truth] + rng.normal(size=(60, 5))).astype(np.float32)
    probe = fit_probe(vectors[:30], truth[:30], strength=1e6)
    logits = probe_logits(probe, vectors[30:], n_labels + 1)
    shares = softmax(logits)
    np.testing.assert_allclose(shares[:, :n_labels], probe.predict_proba(vectors[30:].astype(np.float64)), atol=1e-12)
    assert (shares[:, n_labels] == 0).all()
    best = probe_temperature(logits, truth[30:])

    def loss(temperature: float) -> float:
        return float(-np.log(softmax(logits / temperature)[np.arange(30), truth[30:]]).mean())

    assert best > 1.2  # it was too sure
    assert loss(best) <= min(loss(temperature) for temperature in np.geomspace(0.1, 100, 400)) + 1e-9


def test_a_probe_over_a_random_clip_beats_chance(store: Store, folder: Path, tmp_path: Path) -> None:
    """Even features of random weights tell shapes apart; zero-shot over them does not."""
    clip = load_encoder(f"open_clip:{open_clip_folder(tmp_path / 'clip', OPEN_CLIP)}")
    report = learn_few_shot(store, "random", read_class_folders(folder), encoder=clip, shots=8)
    assert report.measured[2].low > 1 / 3
    with pytest.raises(CollectionMismatch):
        learn_few_shot(store, "random", read_class_folders(folder), encoder=load_encoder("tiny"), shots=8)


def test_labels_say_what_zero_shot_reads(store: Store, folder: Path) -> None:
    """Names that are not those of the folders are refused, with the nearest that is."""
    images = read_class_folders(folder)
    with pytest.raises(
        InvalidSample, match="pictures of 'stripes', which is not among the labels: did you mean 'strip'"
    ):
        learn_few_shot(
            store, "named", images, encoder=load_encoder("tiny"), labels=["circle", "square", "strip"], shots=8
        )


def test_images_that_cannot_be_read_are_failures(store: Store, folder: Path, tmp_path: Path) -> None:
    """The rest is learnt from; where none is left, or too few of a label, it is said."""
    shutil.copytree(folder, tmp_path / "c")
    (tmp_path / "c" / "circle" / "broken.png").write_bytes(b"no picture")
    images = read_class_folders(tmp_path / "c")
    report = learn_few_shot(store, "failing", images, encoder=load_encoder("tiny"))
    assert [Path(failure.uri).name for failure in report.failures] == ["broken.png"]
    assert sum(report.images.values()) == 120
    broken = [p for p in images if p.path.name == "broken.png"]
    bad = [LabelledImage(broken[0].path, label) for label in ("a", "b") for _ in range(3)]
    with pytest.raises(InvalidSample, match="no picture of the folder can be read"):
        learn_few_shot(store, "nothing", bad, encoder=load_encoder("tiny"))


def test_a_key_in_use_is_refused_before_anything_is_written(store: Store, folder: Path) -> None:
    """What mmembed reads from files, captions, tags, and paths into the payload are no keys of labels."""
    tiny, images = load_encoder("tiny"), read_class_folders(folder)
    ingest_images(store, "tagged", [folder / "circle"], encoder=tiny)
    tag(store, "tagged", ["circle", "square"], encoder=tiny)
    for key in ("uri", "width", "caption", "labels", "labels_scores", "labels_by", "a.b", ""):
        with pytest.raises(InvalidQuery, match=r"choose another key|cannot be the payload key"):
            learn_few_shot(store, "tagged", images, encoder=tiny, key=key)
    with pytest.raises(InvalidSample, match="'stripes', which is not among the labels"):
        learn_few_shot(store, "tagged", images, encoder=tiny, labels=["circle", "square"])
    assert store.count("tagged") == 40


def test_copies_of_a_image_count_once(store: Store, folder: Path, tmp_path: Path) -> None:
    """Else what is learnt would be tested on; one that lies in two folders has no label, and both files are told."""
    shutil.copytree(folder, tmp_path / "shapes")
    for n in range(10):
        shutil.copy(folder / "circle" / "00.png", tmp_path / "shapes" / "circle" / f"copy-{n}.png")
    shutil.copy(folder / "square" / "00.png", tmp_path / "shapes" / "stripes" / "copy.png")
    report = learn_few_shot(
        store, "copies", read_class_folders(tmp_path / "shapes"), encoder=load_encoder("tiny"), shots=8
    )
    assert sum(report.images.values()) == 40 + 39 + 40
    assert sorted(Path(failure.uri).parent.name for failure in report.failures) == ["square", "stripes"]
    assert all("the same picture has the labels square, stripes" in failure.error for failure in report.failures)


def test_clothing_is_learnt(store: Store, data: Path) -> None:
    """Real photos: over tiny, which knows pictograms, a probe beats both chance and zero-shot."""
    chosen = ("dress", "hat", "pants", "shoes")
    images = [p for p in read_class_folders(data / "clothing") if p.label in chosen]
    report = learn_few_shot(store, "clothing", images, encoder=load_encoder("tiny"))
    probe = report.measured[2]
    assert probe.low > 1 / 4
    assert probe.accuracy > report.measured[0].accuracy


def test_the_command_line(folder: Path, tmp_path: Path) -> None:
    """A table for people, JSON with every outcome for programs; errors are one sentence."""
    url = f"edge:{tmp_path / 'store.mm'}"
    asked = ["few-shot", str(folder), "--in", "shapes", "--store", url, "--shots", "8"]
    said = CliRunner().invoke(app, asked)
    assert said.exit_code == 0, said.output
    assert "3 labels: 24 pictures to learn from, 39 to choose by, 57 to test" in said.stdout
    assert "against zero-shot" in said.stdout
    report = json.loads(CliRunner().invoke(app, [*asked, "--json"]).stdout)
    assert [row["name"] for row in report["measured"]] == ["zero-shot", "tip-adapter", "probe"]
    assert len(report["outcomes"]) == 57
    assert report["chosen"]["names"] == sorted(SHAPES)
    labelled = ["classify", str(folder / "circle"), "--labels", ",".join(sorted(SHAPES)), "--in", "shapes"]
    learnt = CliRunner().invoke(app, [*labelled, "--store", url, "--few-shot", "--json"])
    assert learnt.exit_code == 0, learnt.output
    best = [json.loads(line)["labels"][0]["label"] for line in learnt.stdout.splitlines()]
    assert len(best) == 40
    assert best.count("circle") > 30
    untaught = CliRunner().invoke(app, [*labelled[:3], "cat,dog", *labelled[4:], "--store", url, "--few-shot"])
    assert "has learnt nothing for these labels and templates" in str(untaught.exception)
    shutil.copytree(folder / "circle", tmp_path / "one" / "circle")
    refused = CliRunner().invoke(app, ["few-shot", str(tmp_path / "one"), "--in", "one", "--store", url])
    assert refused.exit_code == 1
    assert "every picture has the label 'circle'" in str(refused.exception)
