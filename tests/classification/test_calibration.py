"""Calibration, held against scikit-learn, a grid of temperatures and sums written out; kept, loaded and used."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.special import log_softmax
from sklearn.calibration import _sigmoid_calibration, calibration_curve
from typer.testing import CliRunner

from mmembed import ingest_images, load_encoder, open_store
from mmembed.classification import Classes, Labels, decide, embed_classes, labels_of, probabilities
from mmembed.classification.calibration import Calibration, read_calibration, write_calibration
from mmembed.classification.calibration_fit import fit_calibration, load_calibration, save_calibration
from mmembed.classification.fitting import (
    NEVER,
    fit_platt,
    fit_temperature,
    threshold_at_false_positive_rate,
    threshold_at_precision,
)
from mmembed.classification.measures import expected_calibration_error, plot_reliability, reliability_bins
from mmembed.classification.sample import embed_sample, stored_sample
from mmembed.cli import app
from mmembed.demo import PICTOGRAMS
from mmembed.errors import InvalidSample, SettingsError, UnreadableSource
from mmembed.sources.labelled import read_class_folders
from mmembed.types import Store
from mmembed.vectors import sigmoid, softmax

Floats = np.ndarray[Any, np.dtype[np.float64]]


# --- the numbers --------------------------------------------------------------------------------


def test_error_and_bins_are_what_a_loop_and_scikit_learn_count() -> None:
    """300 random cases, probabilities on the edges of bins among them."""
    for seed in range(300):
        rng = np.random.default_rng(seed)
        n = int(rng.integers(1, 200))
        p = rng.choice(np.linspace(0, 1, 16), n) if seed % 3 == 0 else rng.random(n)
        hits = rng.random(n) < p**2
        bins = reliability_bins(p, hits)
        gap = 0.0
        for i, b in enumerate(bins):
            inside = [(x, h) for x, h in zip(p, hits, strict=True) if b.low < x <= b.high or (i == 0 and x == 0)]
            assert b.count == len(inside)
            gap += abs(sum(x for x, _ in inside) - sum(h for _, h in inside))
        assert expected_calibration_error(p, hits) == pytest.approx(gap / n, abs=1e-12)
        if hits.any() and not hits.all():
            shares, means = calibration_curve(hits, p, n_bins=15)
            np.testing.assert_allclose([b.accuracy for b in bins if b.count], shares, atol=1e-12)
            np.testing.assert_allclose([b.confidence for b in bins if b.count], means, atol=1e-12)


def test_what_is_no_probability_is_refused() -> None:
    """Below 0, above 1, not a number, or fewer outcomes than probabilities."""
    for p, hits in (([-0.1], [1]), ([1.1], [1]), ([float("nan")], [1]), ([0.5, 0.5], [1])):
        with pytest.raises(ValueError, match="probabilities"):
            expected_calibration_error(p, hits)
    assert expected_calibration_error([], []) == 0


def likelihood(logits: Floats, truth: np.ndarray[Any, Any], temperature: float) -> float:
    return float(-log_softmax(logits / temperature, axis=1)[np.arange(len(truth)), truth].mean())


def test_no_temperature_of_a_grid_is_likelier() -> None:
    """100 random cases of all sizes of logits: none of 400 temperatures around it does better, nor far away."""
    for seed in range(100):
        rng = np.random.default_rng(seed)
        n, m, scale = int(rng.integers(20, 80)), int(rng.integers(2, 6)), 10 ** rng.uniform(-2, 3)
        truth = rng.integers(0, m, n)
        logits = scale * (rng.normal(size=(n, m)) + 0.8 * np.eye(m)[truth])
        found = fit_temperature(logits, truth)
        best = likelihood(logits, truth, found)
        tried = np.concatenate([found * np.linspace(0.5, 2, 200), scale * np.geomspace(1e-3, 1e3, 200)])
        assert best <= min(likelihood(logits, truth, t) for t in tried) + 1e-12
        assert found == pytest.approx(tried[np.argmin([likelihood(logits, truth, t) for t in tried])], rel=0.2)


def test_a_temperature_stays_finite() -> None:
    """Where every picture is right, where every one is wrong, and where all labels are alike."""
    logits = np.array([[10.0, 0.0, 1.0], [0.0, 8.0, 2.0]] * 5)
    right = fit_temperature(logits, np.array([0, 1] * 5))
    sure = softmax(logits / right).max(axis=1)
    assert 0.8 < sure.min() < sure.max() < 1
    wrong = fit_temperature(logits, np.array([1, 0] * 5))
    np.testing.assert_allclose(softmax(logits / wrong), 1 / 3, atol=1e-5)
    assert fit_temperature(np.zeros((10, 3)), np.array([0, 1] * 5)) == 1


def test_platt_is_scikit_learn_s() -> None:
    """200 random cases: the same probabilities as its fit with Platt's smoothed targets, wherever the slope is up."""
    compared = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        n = int(rng.integers(10, 120))
        targets = rng.random(n) < rng.uniform(0.1, 0.9)
        targets[:2] = [True, False]
        logits = 10 ** rng.uniform(-1, 1) * (rng.normal(size=n) + rng.uniform(0, 3) * targets) + rng.uniform(-20, 5)
        a, b = fit_platt(logits, targets)
        theirs_a, theirs_b = _sigmoid_calibration(logits, targets.astype(float))  # p = 1 / (1 + exp(a x + b))
        if theirs_a < 0:
            np.testing.assert_allclose(sigmoid(a * logits + b), sigmoid(-theirs_a * logits - theirs_b), atol=2e-4)
            compared += 1
        else:
            assert a == 0
    assert compared > 150


def test_a_label_told_apart_perfectly_has_a_finite_line() -> None:
    """20 apart: neither slope nor probability runs away, as they would without smoothed targets."""
    targets = np.array([True] * 10 + [False] * 10)
    a, b = fit_platt(np.where(targets, 5.0, -5.0), targets)
    np.testing.assert_allclose(sigmoid(a * np.array([5.0, -5.0]) + b), [11 / 12, 1 / 12], atol=1e-6)


def test_a_label_whose_logits_lie_has_its_frequency() -> None:
    """The higher the logit the rarer the label: every logit gets the smoothed share of the label."""
    targets = np.array([True] * 5 + [False] * 15)
    a, b = fit_platt(np.where(targets, -3.0, 3.0) + np.arange(20) / 20, targets)
    assert a == 0
    assert sigmoid(np.array([b]))[0] == pytest.approx((5 * 6 / 7 + 15 / 17) / 20, abs=1e-6)


@pytest.mark.parametrize("ties", [False, True])
def test_thresholds_are_the_lowest_that_keep_the_rule(ties: bool) -> None:
    """300 random cases: the rule holds at the threshold, and breaks at the next lower probability of the sample."""
    for seed in range(300):
        rng = np.random.default_rng(seed)
        n, level = int(rng.integers(2, 60)), float(rng.choice([0, 0.01, 0.1, 0.5, 0.9, 1]))
        p = rng.integers(0, 6, n) / 5 if ties else rng.random(n)
        targets = rng.random(n) < p * rng.uniform(0.3, 1)

        def precision(t: float, p: Floats = p, targets: Any = targets) -> float:
            return float(targets[p >= t].mean()) if (p >= t).any() else 0.0

        def false_positives(t: float, p: Floats = p, targets: Any = targets) -> float:
            return float((p[~targets] >= t).mean()) if (~targets).any() else 0.0

        found = threshold_at_precision(p, targets, level)
        if found == NEVER:
            assert all(precision(t) < level for t in p)
        else:
            assert precision(found) >= level
            assert all(precision(t) < level for t in p[p < found])
        found = threshold_at_false_positive_rate(p, targets, level)
        assert false_positives(found) <= level
        assert all(false_positives(t) > level for t in p[(p < found) & ~targets])


# --- whole calibrations -------------------------------------------------------------------------

NAMES = ("cat", "dog", "bird")


def made_up(*, bias: float | None, background: tuple[str, ...] = ()) -> Classes:
    """Classes that lie on the axes, so that a picture's vector is its cosines."""
    labels = labels_of(list(NAMES), background=background)
    rows = np.eye(len(NAMES) + len(background), 6, dtype=np.float32)
    return Classes(labels, rows, 50.0, bias, "f" * 64, "made-up")


def images(n: int, *, seed: int = 0, none: int = 0) -> tuple[np.ndarray[Any, Any], list[str | None]]:
    """n pictures with cosines around 0.3 of their label, `none` more of no label: noisy, and too sure of themselves."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 3, n)
    cosines = np.zeros((n + none, 6))
    cosines[:, :4] = rng.normal(0.2, 0.06, (n + none, 4))
    cosines[np.arange(n), truth] += 0.08
    cosines[n:, 3] += 0.08
    cosines[:, 5] = np.sqrt(1 - (cosines**2).sum(axis=1))
    return cosines.astype(np.float32), [*(NAMES[t] for t in truth), *[None] * none]


@pytest.mark.parametrize(("bias", "method"), [(None, "temperature"), (-12.0, "platt")])
def test_probabilities_come_true_after_calibration(bias: float | None, method: str) -> None:
    """The method is that of the encoder; on 2,000 pictures it has not seen the error falls below 0.05."""
    classes = made_up(bias=bias)
    calibration = fit_calibration(classes, *images(300))
    assert calibration.method == method
    assert calibration.images == 300
    assert calibration.ece_before is not None
    assert calibration.ece_before > 2 * calibration.ece_after
    vectors, truth = images(2000, seed=1)
    found = probabilities(classes.calibrated(calibration), vectors @ classes.embeddings.T)
    assert found is not None
    right = np.array([[name == label for name in NAMES] for label in truth])
    if method == "temperature":
        best = found.argmax(axis=1)
        error = expected_calibration_error(found.max(axis=1), right[np.arange(len(best)), best])
    else:
        error = expected_calibration_error(found.ravel(), right.ravel())
    assert error < 0.05
    assert error == pytest.approx(calibration.ece_after, abs=0.06)


def test_the_error_is_that_of_images_the_fit_has_not_seen() -> None:
    """Labels by chance: where ten numbers fit ten pictures well, only cross-validation tells."""
    classes = made_up(bias=-12.0)
    vectors, truth = images(60, none=0)
    shuffled = [truth[i] for i in np.random.default_rng(3).permutation(60)]
    calibration = fit_calibration(classes, vectors, shuffled)
    found = probabilities(classes.calibrated(calibration), vectors @ classes.embeddings.T)
    assert found is not None
    right = np.array([[name == label for name in NAMES] for label in shuffled])
    assert calibration.ece_after > expected_calibration_error(found.ravel(), right.ravel())


def test_images_of_none_teach_where_there_is_something_to_learn() -> None:
    """They are every label's negatives in Platt, background's in a softmax, and nothing in one without background."""
    vectors, truth = images(120, none=60)
    lone = made_up(bias=None)
    assert fit_calibration(lone, vectors, truth).temperature == pytest.approx(
        fit_calibration(lone, vectors[:120], truth[:120]).temperature
    )
    behind = made_up(bias=None, background=("nothing",))
    with_none, without = (fit_calibration(behind, vectors[:n], truth[:n]) for n in (180, 120))
    assert with_none.temperature != without.temperature
    assert sum(b.count for b in with_none.after) == 180
    sigmoids = made_up(bias=-12.0)
    assert (
        fit_calibration(sigmoids, vectors, truth).platt != fit_calibration(sigmoids, vectors[:120], truth[:120]).platt
    )


def test_background_takes_the_line_of_all_labels() -> None:
    """A column that is no label has no pictures of its own to learn from."""
    classes = made_up(bias=-12.0, background=("nothing",))
    calibration = fit_calibration(classes, *images(120))
    assert calibration.shared is not None
    logits = np.array([[1.0, 2.0, 3.0, 4.0]])
    a, b = calibration.shared
    assert calibration.apply(logits, NAMES)[0, 3] == pytest.approx(1 / (1 + np.exp(-(4 * a + b))))


def test_a_label_with_few_images_borrows_the_line_of_all() -> None:
    """Four pictures of birds are too few for a line of their own, and it is said."""
    vectors, truth = images(200)
    keep = [i for i, label in enumerate(truth) if label != "bird"] + [i for i, x in enumerate(truth) if x == "bird"][:4]
    calibration = fit_calibration(made_up(bias=-12.0), vectors[keep], [truth[i] for i in keep])
    assert calibration.borrowed == ("bird",)
    assert set(calibration.platt) == {"cat", "dog"}
    logits = np.array([[-3.0, -3.0, -3.0]])
    assert calibration.shared is not None
    a, b = calibration.shared
    assert calibration.apply(logits, NAMES)[0, 2] == pytest.approx(1 / (1 + np.exp(3 * a - b)))


def test_thresholds_decide() -> None:
    """At a precision each label is right that often; at a false-positive rate it is given to no more of the others."""
    classes = made_up(bias=-12.0)
    vectors, truth = images(400, none=100)
    for how, rule in (
        ({"precision": 0.8}, "precision>=0.8"),
        ({"false_positive_rate": 0.05}, "false_positive_rate<=0.05"),
    ):
        calibration = fit_calibration(classes, vectors, truth, **how)  # type: ignore[arg-type]
        assert calibration.rule == rule
        assert calibration.unreached == ()
        verdicts = decide(classes.calibrated(calibration), vectors @ classes.embeddings.T)
        given = np.array([[name in {s.label for s in verdict.labels} for name in NAMES] for verdict in verdicts])
        right = np.array([[name == label for name in NAMES] for label in truth])
        assert given.any(axis=0).all()
        if "precision" in how:
            assert ((given & right).sum(axis=0) / given.sum(axis=0) >= 0.8).all()
        else:
            assert ((given & ~right).sum(axis=0) / (~right).sum(axis=0) <= 0.05).all()
        assert all(verdict.none_of_these == (not verdict.labels) for verdict in verdicts)


def test_a_precision_that_cannot_be_reached_gives_no_label() -> None:
    """Labels by chance never reach it: they are listed, and never given."""
    classes = made_up(bias=None)
    vectors, _ = images(40)
    truth = [NAMES[i % 2] for i in range(40)]  # no bird
    calibration = fit_calibration(classes, vectors, truth, precision=0.99)
    assert "bird" in calibration.unreached
    assert calibration.thresholds["bird"] == NEVER
    given = decide(classes.calibrated(calibration), np.array([[0.0, 0.0, 1.0]], dtype=np.float32))
    assert given[0].labels == ()
    assert given[0].none_of_these


def test_an_encoder_without_a_scale_is_given_probabilities() -> None:
    """Its cosines are the logits, and there is no error before."""
    classes = replace(made_up(bias=None), logit_scale=None)
    calibration = fit_calibration(classes, *images(300))
    assert calibration.ece_before is None
    assert calibration.temperature == pytest.approx(
        (fit_calibration(made_up(bias=None), *images(300)).temperature or 0) / 50
    )
    assert probabilities(classes.calibrated(calibration), np.zeros((1, 3), dtype=np.float32)) is not None


REFUSED: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"truth": ["cat"] * 20}, InvalidSample, "every picture of the sample has the label 'cat'"),
    ({"truth": ["cat"] * 10 + [None] * 10}, InvalidSample, "has the label 'cat'"),
    ({"truth": [None] * 20}, InvalidSample, "0 labelled pictures, and 10 are the least"),
    ({"truth": ["cat", "dog"], "n": 2}, InvalidSample, "2 labelled pictures, and 10 are the least"),
    ({"truth": ["cat", "dgo"] * 10}, InvalidSample, "'dgo', which is not among the labels: did you mean 'dog'?"),
    ({"truth": ["cat", "dog"] * 4}, InvalidSample, "8 labels of pictures need 8 vectors of 6 dimensions"),
    ({"method": "isotonic"}, SettingsError, "auto, temperature or platt, not 'isotonic'"),
    ({"precision": 0.9, "false_positive_rate": 0.1}, SettingsError, "not both"),
    ({"precision": 1.5}, SettingsError, "a precision is a number between 0 and 1, not 1.5"),
    ({"false_positive_rate": float("nan")}, SettingsError, "a false positive rate is a number between 0 and 1"),
    ({"folds": 1}, SettingsError, "at least two folds"),
]


@pytest.mark.parametrize(("how", "error", "says"), REFUSED, ids=[says for _, _, says in REFUSED])
def test_what_teaches_nothing_is_refused(how: dict[str, Any], error: type[Exception], says: str) -> None:
    """One sentence that says what is wrong with the sample or the options."""
    how = dict(how)
    truth = how.pop("truth", ["cat", "dog"] * 10)
    vectors = images(how.pop("n", 20))[0]
    with pytest.raises(error) as caught:
        fit_calibration(made_up(bias=None), vectors, truth, **how)
    assert says in str(caught.value)


def test_one_label_and_its_negatives_are_enough_for_a_sigmoid() -> None:
    """It is decided alone: pictures without it are all it needs."""
    classes = made_up(bias=-12.0)
    calibration = fit_calibration(classes, images(20)[0], ["cat"] * 10 + [None] * 10)
    assert set(calibration.platt) == {"cat"}


# --- kept, loaded, used -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fitted() -> Calibration:
    return fit_calibration(made_up(bias=-12.0), *images(60), precision=0.5)


def test_a_file_holds_all_of_it(fitted: Calibration, tmp_path: Path) -> None:
    """What is read is what was written, to the last digit."""
    write_calibration(tmp_path / "c.json", fitted)
    assert read_calibration(tmp_path / "c.json") == fitted


@pytest.mark.parametrize("broken", ["{", "[]", "{}", "null", '{"method": "magic"}'])
def test_a_file_that_is_no_calibration_is_refused(broken: str, tmp_path: Path) -> None:
    """One sentence, whatever is in it."""
    (tmp_path / "c.json").write_text(broken)
    with pytest.raises(InvalidSample, match="fit one"):
        read_calibration(tmp_path / "c.json")
    with pytest.raises(UnreadableSource, match="cannot be read"):
        read_calibration(tmp_path / "gone.json")


@pytest.mark.parametrize(
    "change", [{"shared": None}, {"method": "magic"}, {"method": "temperature"}, {"platt": {"a": 1}}]
)
def test_a_damaged_calibration_is_refused(fitted: Calibration, change: dict[str, Any]) -> None:
    """One from which probabilities could not be computed is not loaded."""
    value = json.loads(json.dumps(fitted.to_json()))
    with pytest.raises(InvalidSample, match="fit it again"):
        Calibration.from_json({**value, **change})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictograms in folders by words of their names: cats, weather, and things that are neither."""
    root = tmp_path_factory.mktemp("classes")
    rows = [line.split(",") for line in (PICTOGRAMS / "pictograms.csv").read_text(encoding="utf-8").splitlines()[1:]]
    kinds = {"cat": ("cat",), "weather": ("rain", "cloud", "wind", "star"), "_none": ("box", "file", "glass")}
    for kind, words in kinds.items():
        (root / kind).mkdir()
        for name, *said in rows:
            if set(words) & set(",".join(said).split()):
                shutil.copy(PICTOGRAMS / name, root / kind / Path(name).name)
    return root


@pytest.fixture(scope="module")
def store(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A collection of them by tiny."""
    opened = open_store(f"edge:{tmp_path_factory.mktemp('calibration') / 'store.mm'}")
    ingest_images(opened, "images", [folder], encoder=load_encoder("tiny"))
    yield opened
    opened.close()


def test_a_collection_keeps_one_for_each_set_of_labels(store: Store) -> None:
    """Found again for the same labels in any order; not for other labels, templates or another encoder."""
    tiny = load_encoder("tiny")
    classes = embed_classes(tiny, ["cat", "weather"])
    kept = replace(
        fit_calibration(made_up(bias=None), *images(60)),
        fingerprint=classes.fingerprint,
        labels_key=classes.labels.key,
        names=classes.names,
    )
    assert load_calibration(store, "images", classes) is None
    save_calibration(store, "images", kept)
    assert load_calibration(store, "images", classes) == kept
    assert load_calibration(store, "images", embed_classes(tiny, ["weather", "cat"])) == kept
    assert load_calibration(store, "images", embed_classes(tiny, ["weather", "cat", "dog"])) is None
    assert (
        load_calibration(store, "images", embed_classes(tiny, labels_of(["cat", "weather"], templates=["{}"]))) is None
    )
    assert load_calibration(store, "images", replace(classes, fingerprint="0" * 64)) is None


def test_a_bad_image_is_a_failure_of_the_sample(folder: Path, tmp_path: Path) -> None:
    """The rest goes on, in order; where none can be read there is no sample."""
    shutil.copytree(folder, tmp_path / "c")
    (tmp_path / "c" / "cat" / "broken.png").write_bytes(b"not a picture")
    tiny = load_encoder("tiny")
    found = embed_sample(read_class_folders(tmp_path / "c"), tiny)
    whole = embed_sample(read_class_folders(folder), tiny)
    assert [failure.uri for failure in found.failures] == [str(tmp_path / "c" / "cat" / "broken.png")]
    assert found.truth == whole.truth
    np.testing.assert_allclose(found.vectors, whole.vectors, atol=1e-5)
    images = [p for p in read_class_folders(tmp_path / "c") if p.path.name == "broken.png"]
    with pytest.raises(InvalidSample, match="no picture of the sample can be read"):
        embed_sample(images, tiny)


def test_points_that_carry_their_label_are_a_sample(store: Store, folder: Path) -> None:
    """The stored vectors are those that the encoder makes of the files; points without the key take no part."""
    tiny = load_encoder("tiny")
    with pytest.raises(InvalidSample, match="name the key"):
        stored_sample(store, "images", "kind")
    marks = {
        point.id: {"kind": Path(point.payload["uri"]).parent.name}
        for point in store.scroll("images")
        if not point.payload["uri"].endswith("9.png")
    }
    store.set_payloads("images", marks)
    found = stored_sample(store, "images", "kind", negatives="_none")
    whole = embed_sample(read_class_folders(folder), tiny)
    assert 0 < len(found.truth) == len(marks) < len(whole.truth)
    near = found.vectors @ whole.vectors.T
    np.testing.assert_allclose(near.max(axis=1), 1, atol=1e-5)
    assert found.truth == [whole.truth[place] for place in near.argmax(axis=1)]
    assert set(found.truth) == {"cat", "weather", None}


def call(*words: str | Path) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


def test_calibrate_and_classify_on_the_command_line(
    store: Store, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From folders, then from payloads, into the collection and a file; classify uses either; a plot is a picture."""
    url, file, plot = store.url, tmp_path / "c.json", tmp_path / "plot.png"
    store.close()
    asked = ("--in", "images", "--store", url, "--json")
    done = call("calibrate", folder, *asked, "--output", file, "--plot", plot, "--false-positive-rate", "0.1")
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert said["method"] == "temperature"
    assert said["rule"] == "false_positive_rate<=0.1"
    assert set(said["thresholds"]) == {"cat", "weather"}
    assert 0 <= said["ece_after"] <= 1
    assert said["temperature"] == read_calibration(file).temperature
    with Image.open(plot) as image:
        assert len(image.convert("RGB").getcolors(maxcolors=2**24) or []) > 3
    monkeypatch.setattr(
        "mmembed.collection.contract.MAX_NOTE_BYTES", 100
    )  # too large for the collection: the file is kept
    kept = tmp_path / "kept.json"
    assert "keep it in a file" in str(call("calibrate", folder, *asked, "--output", kept).exception)
    monkeypatch.undo()
    assert read_calibration(kept).temperature == said["temperature"]
    images = sorted((folder / "cat").iterdir())[:3]
    plain: tuple[str | Path, ...] = ("classify", *images, "--labels", "weather,cat", "--json")
    by_file = call(*plain, "--calibration", file)
    by_collection = call(*plain, "--in", "images", "--store", url)
    assert by_file.stdout == by_collection.stdout != call(*plain).stdout
    payload = call("calibrate", "--truth", "kind", *asked)
    assert payload.exit_code == 0, payload.output
    assert json.loads(payload.stdout)["images"] < said["images"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "give a folder of labelled pictures, or --truth KEY"),
        (("FOLDER", "--truth", "kind", "--in", "images"), "give a folder of labelled pictures, or --truth KEY"),
        (("FOLDER",), "say what is calibrated and keeps the result"),
        (("--truth", "kind", "--output", "c.json"), "say what is calibrated and keeps the result"),
    ],
)
def test_what_calibrate_is_not_told_it_asks_for(words: tuple[str, ...], says: str, folder: Path) -> None:
    """A usage error that names what is missing, exit code 2."""
    done = call("calibrate", *(folder if word == "FOLDER" else word for word in words))
    assert done.exit_code == 2
    assert says in " ".join(done.output.replace("│", " ").split())


def test_calibrate_refuses_a_folder_with_one_class(folder: Path, tmp_path: Path) -> None:
    """With pictures of none beside it as without: nothing can be told apart."""
    shutil.copytree(folder / "cat", tmp_path / "one" / "cat")
    done = call("calibrate", tmp_path / "one", "--output", tmp_path / "c.json")
    assert done.exit_code == 1
    assert "'cat' is the only label" in str(done.exception)
    for image in list((tmp_path / "one" / "cat").iterdir()):
        shutil.copy(image, image.with_stem(f"{image.stem}-again"))
    done = call("calibrate", tmp_path / "one", "--labels", "cat,dog", "--output", tmp_path / "c.json")
    assert "every picture of the sample has the label 'cat'" in str(done.exception)
    assert not (tmp_path / "c.json").exists()


def test_a_plot_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    """Its kind is not one of three, or its folder is not there."""
    for file in (tmp_path / "a.docx", tmp_path / "gone" / "a.png"):
        with pytest.raises(SettingsError, match="a plot cannot be written"):
            plot_reliability({"one": reliability_bins([0.5], [1])}, file)


def test_labels_are_those_of_calibration() -> None:
    """A calibration of other labels is not applied to these."""
    calibration = fit_calibration(made_up(bias=None), *images(60))
    with pytest.raises(InvalidSample, match="other labels"):
        replace(made_up(bias=None), labels=Labels(labels_of(["a", "b", "c"]).labels)).calibrated(calibration)
