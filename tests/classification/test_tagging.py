"""Tags for a whole collection: from stored vectors, killed and gone on with, found by facets and filters."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import uuid
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from places import SUPPORT
from qdrant_client import models as m
from service_app import running

import mmembed
from mmembed import ingest_images, load_encoder, tag
from mmembed.classification.calibration import Calibration
from mmembed.classification.calibration_fit import save_calibration
from mmembed.classification.classes import Classes
from mmembed.classification.labels import labels_of
from mmembed.classification.scoring import decide, score
from mmembed.classification.tagging import TagReport, remove_tags
from mmembed.collection import Collection
from mmembed.errors import (
    CollectionMismatch,
    CollectionNotFound,
    CollectionNotOurs,
    InvalidLabels,
    InvalidQuery,
    SettingsError,
    StoreError,
)
from mmembed.stores import open_store
from mmembed.stores.qdrant.store import QdrantStore
from mmembed.types import Contract, DenseArray, Leg, Payload, Point, Store, StoreQuery, VectorContract

PICTOGRAMS = Path(mmembed.__file__).parent / "demo" / "pictograms"
NAMES = ("cat", "dog", "tree")
DIM, N = 8, 40
CONTRACT = Contract("images", {"image": VectorContract("made up", "f1", "image", "dense", DIM)})


def unit(n: int, *, seed: int) -> DenseArray:
    """`(n, DIM)` rows of norm 1."""
    rows = np.random.default_rng(seed).normal(size=(n, DIM)).astype(np.float32)
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)


VECTORS = unit(N, seed=1)


def classes(
    names: tuple[str, ...] = NAMES,
    *,
    scale: float | None = 10.0,
    bias: float | None = None,
    background: tuple[str, ...] = (),
    fingerprint: str = "f1",
) -> Classes:
    """Labels as an encoder might see them; a name has the same embedding in whatever order it stands."""
    rows = np.concatenate([unit(1, seed=zlib.crc32(name.encode())) for name in (*names, *background)])
    return Classes(labels_of(names, background=background), rows, scale, bias, fingerprint, "made up")


def uid(number: int) -> str:
    return str(uuid.UUID(int=number + 1))


def fill(store: Store, n: int = N, *, name: str = "images", start: int = 0) -> None:
    """Points `start` to `n` of a collection, each with a number and a colour."""
    if name not in store.collections():
        store.create(name, CONTRACT, indexes={"colour": "keyword"})
    rows = [Point(uid(i), {"image": VECTORS[i]}, {"n": i, "colour": ("red", "blue")[i % 2]}) for i in range(start, n)]
    store.upsert(name, rows)


def tags(store: Store, name: str = "images") -> dict[int, list[str]]:
    """Number of a point -> its labels."""
    return {p.payload["n"]: p.payload["labels"] for p in store.scroll(name) if "labels" in p.payload}


def payloads(store: Store, name: str = "images") -> dict[str, Payload]:
    return {point.id: point.payload for point in store.scroll(name)}


def expected(used: Classes, vectors: DenseArray = VECTORS, **rule: Any) -> dict[int, list[str]]:
    """The labels of each picture, one `decide` at a time."""
    found = {}
    for number, vector in enumerate(vectors):
        (verdict,) = decide(used, score(used, vector[None]), **rule)
        found[number] = [] if verdict.none_of_these else [one.label for one in verdict.labels]
    return found


def only(colour: str) -> m.Filter:
    return m.Filter(must=[m.FieldCondition(key="colour", match=m.MatchValue(value=colour))])


# --- what is written ----------------------------------------------------------------------------


def test_softmax_writes_the_best_label(store: Store) -> None:
    """Each picture gets its best label and its probability; the rest of the payload stays, and facets count."""
    fill(store)
    used = classes()
    report = tag(store, "images", used, batch_size=7)
    assert (report.tagged, report.untagged, report.unchanged) == (N, 0, 0)
    wanted = expected(used, top_k=1)
    assert tags(store) == wanted
    counts = {name: sum(labels == [name] for labels in wanted.values()) for name in NAMES}
    assert report.per_label == counts
    assert dict(store.facet("images", "labels")) == counts
    assert len(set(counts.values()) - {0}) > 1
    for point in store.scroll("images"):
        n = point.payload["n"]
        (verdict,) = decide(used, score(used, VECTORS[n : n + 1]), top_k=1)
        assert point.payload["labels_scores"] == pytest.approx({verdict.labels[0].label: verdict.labels[0].probability})
        assert point.payload.keys() == {"n", "colour", "labels", "labels_scores", "labels_by"}
    cats = m.Filter(must=[m.FieldCondition(key="labels", match=m.MatchValue(value="cat"))])
    assert {p.payload["n"] for p in store.scroll("images", filter=cats)} == {
        n for n, v in wanted.items() if v == ["cat"]
    }


def test_sigmoids_write_what_is_likelier_than_not(store: Store) -> None:
    """Independent labels are written from 0.5 on, several or none; none of these can be tagged anew."""
    fill(store)
    used = classes(bias=-1.0)
    report = tag(store, "images", used)
    wanted = expected(used, threshold=0.5)
    assert tags(store) == wanted
    assert {len(labels) for labels in wanted.values()} >= {0, 1, 2}
    assert report.untagged == sum(not labels for labels in wanted.values())
    assert report.tagged + report.untagged == N
    tag(store, "images", classes())
    assert tags(store) == expected(classes(), top_k=1)


def test_scores_where_there_are_no_probabilities() -> None:
    """Without a scale the nearest label is written with its cosine, and a threshold is one of cosines."""
    store = open_store(":memory:")
    fill(store)
    used = classes(scale=None)
    tag(store, "images", used)
    assert tags(store) == expected(used, top_k=1)
    first = payloads(store)[uid(0)]
    cosines = dict(zip(NAMES, (VECTORS[0] @ used.embeddings.T).tolist(), strict=True))
    assert first["labels_scores"] == pytest.approx(
        {max(cosines, key=lambda name: cosines[name]): max(cosines.values())}, abs=1e-6
    )
    tag(store, "images", used, threshold=0.2)
    assert tags(store) == expected(used, threshold=0.2)
    store.close()


def test_background_and_thresholds() -> None:
    """Where background is nearest nothing is written; thresholds hold for all labels or for each, top_k cuts."""
    store = open_store(":memory:")
    fill(store)
    used = classes(background=("wall",))
    report = tag(store, "images", used)
    assert tags(store) == expected(used, top_k=1)
    assert 0 < report.untagged < N
    rules: list[dict[str, Any]] = [{"threshold": 0.2}, {"threshold": {"cat": 0.9}}, {"top_k": 2}]
    for rule in rules:
        assert tag(store, "images", used, **rule).unchanged == 0
        assert tags(store) == expected(used, **rule), rule
    store.close()


def test_calibration_of_the_collection_is_used(store: Store) -> None:
    """A calibration that is kept beside the collection makes the probabilities, and its thresholds decide."""
    fill(store)
    used = classes()
    tag(store, "images", used, top_k=3)
    calibration = Calibration("temperature", "f1", used.labels.key, NAMES, temperature=4.0)
    save_calibration(store, "images", calibration)
    assert tag(store, "images", used, top_k=3).tagged == N
    scores = payloads(store)[uid(0)]["labels_scores"]
    powers = np.exp(10.0 / 4.0 * (VECTORS[0] @ used.embeddings.T).astype(np.float64))
    assert scores == pytest.approx(dict(zip(NAMES, powers / powers.sum(), strict=True)), abs=1e-6)
    limits = dict.fromkeys(NAMES, 0.45)
    save_calibration(store, "images", replace(calibration, thresholds=limits))
    report = tag(store, "images", used)
    assert tags(store) == expected(used.calibrated(calibration), threshold=limits)
    assert report.tagged > 0
    assert report.untagged > 0


# --- again --------------------------------------------------------------------------------------


def test_again_writes_nothing(store: Store) -> None:
    """The same labels in another order leave every point alone; points that are new since are tagged."""
    fill(store, N - 5)
    tag(store, "images", classes())
    store.set_payload("images", [uid(0)], {"labels": ["touched"]})
    before = payloads(store)
    report = tag(store, "images", classes(NAMES[::-1]))
    assert (report.tagged, report.untagged, report.unchanged) == (0, 0, N - 5)
    assert payloads(store) == before
    fill(store, start=N - 5)
    report = tag(store, "images", classes())
    assert (report.tagged, report.unchanged) == (5, N - 5)
    assert tags(store) == {**expected(classes(), top_k=1), 0: ["touched"]}


@pytest.mark.parametrize(
    "change",
    [
        lambda store: tag(store, "images", classes(("cat", "dog"))),
        lambda store: tag(store, "images", classes(), threshold=0.1),
        lambda store: tag(store, "images", classes(), top_k=2),
        lambda store: tag(store, "images", classes(scale=5.0)),
        lambda store: tag(store, "images", classes(background=("wall",))),
    ],
)
def test_anything_else_tags_anew(change: Callable[[Store], TagReport]) -> None:
    """Other labels, background, thresholds or scale decide on every point again."""
    store = open_store(":memory:")
    fill(store)
    tag(store, "images", classes())
    report = change(store)
    assert (report.tagged + report.untagged, report.unchanged) == (N, 0)
    store.close()


def test_filter_and_a_second_key(store: Store) -> None:
    """Only points that pass the filter are read and written; two sets of tags stand side by side."""
    fill(store)
    report = tag(store, "images", classes(), filter=only("red"))
    assert report.tagged == N // 2
    assert tags(store).keys() == set(range(0, N, 2))
    tag(store, "images", classes(("sea", "sky")), key="place")
    assert tags(store).keys() == set(range(0, N, 2))
    first = payloads(store)[uid(0)]
    assert first["place"] == list(first["place_scores"])
    assert remove_tags(store, "images", key="place", filter=only("blue")) == N // 2
    assert remove_tags(store, "images") == N // 2
    assert remove_tags(store, "images") == 0
    rows = payloads(store).values()
    assert {frozenset(row) for row in rows if row["colour"] == "blue"} == {frozenset({"n", "colour"})}
    assert {frozenset(row) for row in rows if row["colour"] == "red"} == {
        frozenset({"n", "colour", "place", "place_scores", "place_by"})
    }


def test_progress_grows() -> None:
    """The report is handed over after each batch and ends at the number of points."""
    store = open_store(":memory:")
    fill(store)
    done: list[int] = []
    tag(store, "images", classes(), batch_size=16, on_progress=lambda report: done.append(report.done))
    assert done == [16, 32, 40]
    store.close()


def test_killed_half_way(tmp_path: Path) -> None:
    """SIGKILL after some batches; the next run tags the rest alone, and all is as after one run."""
    url = f"edge:{tmp_path / 'store'}"
    store = open_store(url)
    fill(store)
    store.close()
    code = f"""
        import sys, time
        sys.path[:0] = [{str(SUPPORT)!r}, {str(Path(__file__).parent)!r}]
        from test_tagging import classes
        from mmembed import open_store, tag

        def on_progress(report):
            print(report.done, flush=True)
            time.sleep(60 if report.done >= 12 else 0)

        tag(open_store({url!r}), "images", classes(), batch_size=4, on_progress=on_progress)
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert [child.stdout.readline() for _ in range(3)] == ["4\n", "8\n", "12\n"]
        child.send_signal(signal.SIGKILL)
    store = open_store(url)
    assert len(tags(store)) == 12
    report = tag(store, "images", classes())
    assert (report.tagged, report.unchanged) == (N - 12, 12)
    again = payloads(store)
    remove_tags(store, "images")
    tag(store, "images", classes())
    assert payloads(store) == again
    store.close()


# --- the best of each label ---------------------------------------------------------------------


def nearest(used: Classes, best: int, among: list[int]) -> dict[int, set[str]]:
    """Number of a picture -> the labels that it is among the `best` of; pictures of none are left out."""
    found: dict[int, set[str]] = {}
    for name, row in zip(used.names, used.embeddings[: len(used.names)], strict=True):
        for n in sorted(among, key=lambda n: -float(VECTORS[n] @ row))[:best]:
            found.setdefault(n, set()).add(name)
    return found


def test_best_of_each_label(store: Store) -> None:
    """The nearest pictures of each label have it and no other picture has any, whatever was there before."""
    fill(store)
    used = classes()
    tag(store, "images", used)
    report = tag(store, "images", used, best=6, batch_size=5)
    wanted = nearest(used, 6, list(range(N)))
    assert {n: set(labels) for n, labels in tags(store).items()} == wanted
    assert (report.tagged, report.removed) == (len(wanted), N - len(wanted))
    assert report.per_label == dict.fromkeys(NAMES, 6)
    for n, labels in tags(store).items():
        (verdict,) = decide(used, score(used, VECTORS[n : n + 1]))
        assert labels == [one.label for one in verdict.labels if one.label in wanted[n]]
    before = payloads(store)
    again = tag(store, "images", used, best=6)
    assert (again.tagged, again.removed, again.unchanged) == (0, 0, len(wanted))
    assert payloads(store) == before


def test_best_under_a_filter_and_a_threshold() -> None:
    """A filter leaves other points and their tags alone; a threshold and background hold for the best too."""
    store = open_store(":memory:")
    fill(store)
    used = classes(bias=-1.0, background=("wall",))
    tag(store, "images", used, filter=only("blue"))
    before = {n: labels for n, labels in tags(store).items() if n % 2}
    tag(store, "images", used, best=9, threshold=0.6, filter=only("red"))
    likely = expected(used, threshold=0.6)
    wanted = {n: labels & set(likely[n]) for n, labels in nearest(used, 9, list(range(0, N, 2))).items()}
    after = {n: set(labels) for n, labels in tags(store).items() if n % 2 == 0}
    assert after == {n: labels for n, labels in wanted.items() if labels}
    assert {n: labels for n, labels in tags(store).items() if n % 2} == before
    tag(store, "images", used, best=10**6, top_k=1)
    assert tags(store) == {n: labels[:1] for n, labels in expected(used).items() if labels}
    store.close()


# --- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "options", "error", "says"),
    [
        (classes(), {"best": 0}, SettingsError, "best is 0"),
        (classes(), {"top_k": 0}, SettingsError, "top_k is 0"),
        (classes(), {"batch_size": 0}, SettingsError, "batch_size is 0"),
        (classes(), {"threshold": float("nan")}, SettingsError, "threshold is nan"),
        (classes(), {"threshold": {"cat": float("inf")}}, SettingsError, "threshold is inf"),
        (classes(), {"threshold": {"cow": 0.5}}, InvalidLabels, "'cow', which is not a label"),
        (classes(), {"key": "a.b"}, InvalidQuery, r"'a\.b' cannot be the payload key"),
        (classes(), {"key": "uri"}, InvalidQuery, "under uri, uri_scores, uri_by.*choose another key"),
        (classes(), {"key": "caption"}, InvalidQuery, "choose another key"),
        (classes(), {"key": "colour"}, InvalidQuery, "choose another key"),
        (classes(fingerprint="f2"), {}, CollectionMismatch, "'image' of collection 'images' was made by made up"),
        (["cat", "dog"], {"encoder": load_encoder("fake")}, CollectionMismatch, "made by made up, not by fake"),
    ],
)
def test_refused_before_anything_is_written(
    labels: Any, options: dict[str, Any], error: type[Exception], says: str
) -> None:
    """What makes no sense, another encoder, and keys that are in use are errors, and the collection stays as it is."""
    store = open_store(":memory:")
    fill(store)
    before = payloads(store), store.indexes("images")
    with pytest.raises(error, match=says):
        tag(store, "images", labels, **options)
    assert (payloads(store), store.indexes("images")) == before
    store.close()


def test_keys_that_somebody_else_wrote(store: Store) -> None:
    """Labels that a manifest or a person wrote are not overwritten, nor removed, whichever of the keys they use."""
    fill(store)
    others: list[Payload] = [
        {"labels": ["mine"]},
        {"labels_by": "me"},
        {"labels": ["mine"], "labels_by": "me"},
        {"labels_scores": {"a": 1}},
    ]
    for payload in others:
        store.set_payload("images", [uid(3)], payload)
        with pytest.raises(InvalidQuery, match="something else"):
            tag(store, "images", classes())
        with pytest.raises(InvalidQuery, match="something else"):
            remove_tags(store, "images")
        assert payloads(store)[uid(3)] == {"n": 3, "colour": "blue", **payload}
        store.set_payload("images", [uid(3)], dict.fromkeys(payload))
    tag(store, "images", classes())
    assert len(tags(store)) == N


def test_collections_that_are_not_tagged() -> None:
    """Documents, other people's collections and unknown ones are refused in a sentence."""
    store = open_store(":memory:")
    assert isinstance(store, QdrantStore)
    store.create("texts", Contract("documents", {"text": CONTRACT.vectors["image"]}), indexes={})
    store._client.create_collection("theirs", vectors_config=m.VectorParams(size=DIM, distance=m.Distance.COSINE))
    for call in (lambda name: tag(store, name, classes()), lambda name: remove_tags(store, name)):
        with pytest.raises(StoreError, match="'texts' holds documents, not images"):
            call("texts")
        with pytest.raises(CollectionNotOurs, match="theirs"):
            call("theirs")
        with pytest.raises(CollectionNotFound, match="nowhere"):
            call("nowhere")
    store.close()


def test_empty_collection() -> None:
    """Nothing to tag is nothing done."""
    store = open_store(":memory:")
    fill(store, 0)
    for best in (None, 3):
        report = tag(store, "images", classes(), best=best)
        assert (report.done, dict(report.per_label)) == (0, dict.fromkeys(NAMES, 0))
    store.close()


# --- reading ------------------------------------------------------------------------------------


def test_image_vectors_come_once_in_blocks(store: Store) -> None:
    """Every vector once, in the order of ids, so many at a time, with the payload that was asked for."""
    fill(store)
    blocks = list(Collection(store, "images").image_vectors(batch_size=16, payload=["n"]))
    assert [len(points) for points, _ in blocks] == [16, 16, 8]
    assert [point.payload for points, _ in blocks for point in points] == [{"n": n} for n in range(N)]
    np.testing.assert_allclose(np.concatenate([vectors for _, vectors in blocks]), VECTORS, atol=1e-6)
    ((points, vectors),) = Collection(store, "images").image_vectors(filter=only("blue"))
    assert (len(points), vectors.shape, points[0].payload) == (N // 2, (N // 2, DIM), {})
    with pytest.raises(CollectionNotFound):
        Collection(store, "nowhere").image_vectors()


# --- with an index beside it --------------------------------------------------------------------


def test_tags_follow_the_contents_of_a_file(tmp_path: Path) -> None:
    """A changed file loses its tags, a moved or copied or merely touched one keeps them, and so does a manifest's."""
    encoder = load_encoder("tiny")
    folder = tmp_path / "photos"
    folder.mkdir()
    files = sorted(PICTOGRAMS.glob("*.png"))[:6]
    for number, file in enumerate(files[:4]):
        shutil.copy(file, folder / f"{number}.png")
    manifest = tmp_path / "more.jsonl"
    manifest.write_text(json.dumps({"uri": str(shutil.copy(files[4], tmp_path / "4.png")), "artist": "me"}) + "\n")
    sources = [folder, manifest]
    store = open_store(f"edge:{tmp_path / 'store'}")
    ingest_images(store, "images", sources, encoder=encoder)
    assert tag(store, "images", ["cat", "dog"], encoder=encoder).tagged == 5

    def labelled() -> dict[str, Any]:
        return {Path(p.payload["uri"]).name: p.payload.get("labels_by") for p in store.scroll("images")}

    by = labelled()["0.png"]
    assert labelled() == dict.fromkeys(["0.png", "1.png", "2.png", "3.png", "4.png"], by)
    shutil.copy(files[5], folder / "0.png")
    (folder / "1.png").rename(folder / "moved.png")
    shutil.copy(folder / "2.png", folder / "copy.png")
    os.utime(folder / "3.png", (1, 1))
    report = ingest_images(store, "images", sources, encoder=encoder, sync=True)
    assert (report.embedded, report.moved, report.copied, report.unchanged) == (1, 1, 1, 3)
    kept = dict.fromkeys(["moved.png", "copy.png", "2.png", "3.png", "4.png"], by)
    assert labelled() == {**kept, "0.png": None}
    manifest.write_text(manifest.read_text().replace("me", "you"))
    ingest_images(store, "images", sources, encoder=encoder, sync=True)
    assert labelled() == {**kept, "0.png": None}
    again = tag(store, "images", ["cat", "dog"], encoder=encoder)
    assert (again.tagged, again.unchanged) == (1, 5)
    changed = next(p for p in store.scroll("images") if p.payload["uri"].endswith("/0.png"))
    assert changed.payload["labels"] == list(changed.payload["labels_scores"])
    assert "artist" in {key for p in store.scroll("images") for key in p.payload}
    store.close()


def test_the_remembered_encoder_tags(tmp_path: Path) -> None:
    """Without an encoder the collection's own is loaded; the tags are those of its class embeddings."""
    store = open_store(":memory:")
    folder = tmp_path / "photos"
    folder.mkdir()
    for file in sorted(PICTOGRAMS.glob("*.png"))[:8]:
        shutil.copy(file, folder)
    ingest_images(store, "images", [folder], encoder=load_encoder("fake"))
    tag(store, "images", ["cat", "dog"])
    first = {id: payload["labels"] for id, payload in payloads(store).items()}
    tag(store, "images", ["cat", "dog"], encoder=load_encoder("fake"), key="same")
    assert {id: payload["same"] for id, payload in payloads(store).items()} == first
    store.close()


def test_labels_are_facets_of_the_service(tmp_path: Path) -> None:
    """The labels can be filtered by in the service, and not what decided on them."""
    store = open_store(f"edge:{tmp_path / 'store.mm'}")
    fill(store)
    counts = tag(store, "images", classes()).per_label
    store.close()
    with running(tmp_path) as service:
        facets = httpx.get(f"{service.url}/v1/collections/images/facets", timeout=30).json()["facets"]
    assert facets.keys() == {"colour", "labels"}
    assert {row["value"]: row["count"] for row in facets["labels"]} == {name: n for name, n in counts.items() if n}


# --- the command line ---------------------------------------------------------------------------


def program(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("MMEMBED_")},
        "XDG_CACHE_HOME": str(folder / "cache"),
        "HF_HUB_OFFLINE": "1",
    }
    command = [sys.executable, "-m", "mmembed", *words, "--store", f"edge:{folder / 'store'}"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=folder)


def test_command(tmp_path: Path) -> None:
    """`mmembed tag` prints how many pictures have each label, writes nothing the second time, and removes tags."""
    store = open_store(f"edge:{tmp_path / 'store'}")
    (tmp_path / "photos").mkdir()
    for file in sorted(PICTOGRAMS.glob("*.png"))[:12]:
        shutil.copy(file, tmp_path / "photos")
    ingest_images(store, "images", [tmp_path / "photos"], encoder=load_encoder("fake"))
    store.close()
    (tmp_path / "labels.txt").write_text("cat\ndog\n")
    first = program(tmp_path, "tag", "images", "--labels", "labels.txt", "--templates", "plain")
    assert (first.returncode, first.stderr) == (0, "")
    head, *counts = first.stdout.splitlines()
    assert head.startswith("points: 12 tagged in ")
    assert sorted(line.split()[1] for line in counts) == ["cat", "dog"]
    assert sum(int(line.split()[0]) for line in counts) == 12
    second = program(tmp_path, "tag", "images", "--labels", "dog,cat", "--templates", "plain", "--json")
    report = json.loads(second.stdout)
    assert (report["tagged"], report["unchanged"], sum(report["labels"].values())) == (0, 12, 12)
    removed = program(tmp_path, "tag", "images", "--remove")
    assert removed.stdout == "12 points of images lost their tags\n"
    store = open_store(f"edge:{tmp_path / 'store'}")
    assert not any("labels" in payload for payload in payloads(store).values())
    store.close()


def test_command_says_when_a_graph_is_due(tmp_path: Path) -> None:
    """After many writes to an embedded store it says so, unless it was to build the graph; hits are the same."""
    encoder = load_encoder("tiny")
    rows = np.random.default_rng(3).normal(size=(10_000, 256)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    store = open_store(f"edge:{tmp_path / 'store'}")
    vector = VectorContract("tiny", encoder.spec.fingerprint, "image", "dense", 256)
    store.create("many", Contract("images", {"image": vector}), indexes={})
    store.upsert("many", [Point(uid(i), {"image": row}, {"uri": str(i)}) for i, row in enumerate(rows)])
    store.close()
    first = program(tmp_path, "tag", "many", "--labels", "cat,dog")
    assert first.returncode == 0
    assert first.stderr.splitlines()[-1].endswith("until the graph is rebuilt: add --optimize")
    second = program(tmp_path, "tag", "many", "--labels", "cat,dog", "--optimize")
    assert (second.returncode, second.stderr) == (0, "")
    store = open_store(f"edge:{tmp_path / 'store'}")
    (hit,) = store.query("many", StoreQuery([Leg("image", rows[7])], limit=1))
    assert hit.id == uid(7)
    store.close()


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["images"], 2, "give --labels, or --remove"),
        (["images", "--labels", "cat,dog", "--remove"], 2, "give --labels, or --remove"),
        (["images", "--labels", "cat,cat"], 1, "'cat' was given twice"),
        (["images", "--labels", "cat,dog"], 1, "there is no store at"),
    ],
)
def test_command_refuses(tmp_path: Path, words: list[str], code: int, says: str) -> None:
    """A usage error is 2, an error 1, each one line on stderr and nothing on stdout."""
    result = program(tmp_path, "tag", *words)
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (code, "", 1)
    assert says in result.stderr
