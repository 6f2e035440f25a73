"""Labels over HTTP, held against the same labels in Python and against numpy."""

from __future__ import annotations

import base64
import json
import re
import uuid
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from places import ROOT
from service_app import running

from mmembed import ingest_documents, ingest_images, load_encoder, open_store
from mmembed.classification.calibration_fit import fit_calibration, save_calibration
from mmembed.classification.classes import embed_classes
from mmembed.classification.labels import Labels, labels_of
from mmembed.classification.templates import OPENAI_80, SIMPLE_7
from mmembed.collection.prepare import vector_contract
from mmembed.demo import DOCUMENTS, PICTOGRAMS
from mmembed.images import load_image
from mmembed.service.server import Server
from mmembed.testing.http import ReceivedRequest, Reply, StandIn
from mmembed.types import Contract, Point

FILES = sorted(PICTOGRAMS.glob("1f4*.png"))[:40]
CAT, GUITAR = PICTOGRAMS / "1f408.png", PICTOGRAMS / "1f3b8.png"
LABELS = ["cat", "guitar", "cake"]


def in_base64(file: Path) -> str:
    return base64.b64encode(file.read_bytes()).decode()


class Peer:
    """The service, and what is stored in it."""

    def __init__(self, service: Server, client: httpx.Client) -> None:
        self.service = service
        self.client = client
        self.store = service.app.state.service.store
        self.ids = {Path(point.payload["uri"]).name: point.id for point in self.store.scroll("drawings")}

    def classify(self, **asked: Any) -> dict[str, Any]:
        answer = self.client.post("/v1/classify", json=asked)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def refused(self, status: int, **asked: Any) -> str:
        """The sentence of an error."""
        answer = self.client.post("/v1/classify", json=asked)
        assert answer.status_code == status, answer.text
        assert answer.json().keys() == {"error", "type"}
        sentence: str = answer.json()["error"]
        assert len(sentence) < 500
        return sentence

    def passes(self) -> float:
        """Pictures and texts that went through an encoder so far."""
        lines = self.client.get("/metrics").text.splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("mmembed_batch_size_sum{"))


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    """`drawings` by tiny, `texts` by minilm, `words` and a point without a picture in `bare`, `foreign` of others."""
    root = tmp_path_factory.mktemp("classify")
    store, tiny = open_store(f"edge:{root / 'store.mm'}"), load_encoder("tiny")
    ingest_images(store, "drawings", [*FILES, CAT, GUITAR], encoder=tiny)
    ingest_documents(store, "texts", [DOCUMENTS / "kitchen.md"], encoder=load_encoder("fake"), images_into=None)
    store.create("bare", Contract("images", {"image": vector_contract(tiny, "image")}), indexes={})
    store.upsert("bare", [Point(str(uuid.UUID(int=1)), {}, {"uri": "bare"})])
    several = load_encoder("fake?kind=multi")
    store.create("tokens", Contract("images", {"image": vector_contract(several, "image")}), indexes={})
    store.close()
    encoders = ("fake", "minilm", "fake?kind=multi")
    serving = running(root, encoder=encoders, allow_image_host=("127.0.0.1",), max_inputs=64)
    with serving as service, httpx.Client(base_url=service.url, timeout=30) as client:
        yield Peer(service, client)


def expected(file: Path, labels: Labels) -> dict[str, tuple[float, float]]:
    """Label -> cosine and probability, from the encoder and the definition alone."""
    tiny = load_encoder("tiny")
    rows = []
    for text in [*(label.terms[0] for label in labels.labels), *labels.background]:
        each = tiny.encode_text([template.replace("{}", text) for template in labels.templates], role="query")
        mean = np.asarray(each, dtype=np.float64).mean(axis=0)
        rows.append(mean / np.linalg.norm(mean))
    cosines = np.array(rows) @ np.asarray(tiny.encode_image([load_image(file, uri=file.name)])[0], dtype=np.float64)
    assert tiny.logit_scale is not None
    shares = np.exp(tiny.logit_scale * (cosines - cosines.max()))
    shares /= shares.sum()
    return {name: (float(c), float(p)) for name, c, p in zip(labels.names, cosines, shares, strict=False)}


def assert_equal(found: dict[str, Any], to: dict[str, tuple[float, float]]) -> None:
    assert [one["label"] for one in found["labels"]] == sorted(to, key=lambda name: -to[name][0])
    for one in found["labels"]:
        assert (one["score"], one["probability"]) == pytest.approx(to[one["label"]], abs=1e-4)


def test_a_image_gets_labels_by_its_definition(peer: Peer) -> None:
    """Best first, with the cosine to the mean of the templates and a softmax over them: equal to numpy's."""
    found = peer.classify(image=in_base64(CAT), labels=LABELS)
    assert_equal(found, expected(CAT, labels_of(LABELS)))
    assert found["labels"][0]["label"] == "cat"
    assert found["encoder"] == load_encoder("tiny").spec.name
    assert (found["none_of_these"], found["calibrated"], found["groups"]) == (None, False, [])
    assert 0 < found["seconds"] < 20


@pytest.mark.parametrize("templates", ["openai", "simple", "plain", ["a drawing of a {}.", "{} as a pictogram"]])
def test_templates_are_named_or_ones_own(peer: Peer, templates: str | list[str]) -> None:
    """A name is one of the ensembles, a list is the caller's own."""
    named = {"openai": OPENAI_80, "simple": SIMPLE_7, "plain": ("{}",)}
    own = named[templates] if isinstance(templates, str) else templates
    found = peer.classify(image=in_base64(GUITAR), labels=LABELS, templates=templates)
    assert_equal(found, expected(GUITAR, labels_of(LABELS, templates=own)))


def test_options_are_taken_as_generously_as_labels(peer: Peer) -> None:
    """A threshold belongs to its label whatever the white space, and more labels than there are is all of them."""
    found = peer.classify(image=in_base64(CAT), labels=[" cat", "cake"], threshold={"cat ": 1.1}, top_k=10**30)
    assert [one["label"] for one in found["labels"]] == ["cake"]  # top_k: numpy has no integer of that size


def test_every_way_to_send_a_image(peer: Peer) -> None:
    """Base64, data URI, address, objects of them and a file of a form give the same answer."""
    plain = in_base64(CAT)
    with StandIn(lambda _: Reply(CAT.read_bytes())) as pages:
        uri, url = f"data:image/png;base64,{plain}", f"{pages.url}/cat.png"
        sources = [plain, uri, url, {"base64": plain}, {"url": uri}, {"url": url}]
        answers = [peer.classify(image=source, labels=LABELS) for source in sources]
    form = peer.client.post(
        "/v1/classify", files={"image": CAT.read_bytes()}, data={"query": json.dumps({"labels": LABELS})}
    )
    answers.append(form.json())
    assert len({json.dumps(answer["labels"]) for answer in answers}) == 1
    assert_equal(answers[0], expected(CAT, labels_of(LABELS)))


def test_a_stored_point_needs_no_forward_pass(peer: Peer) -> None:
    """The labels of a point are those of its picture, and once the labels are known nothing is encoded."""
    peer.classify(collection="drawings", id=peer.ids[GUITAR.name], labels=LABELS)
    before = peer.passes()
    found = peer.classify(collection="drawings", id=peer.ids[CAT.name], labels=[*reversed(LABELS)])
    assert peer.passes() == before
    assert_equal(found, expected(CAT, labels_of(LABELS)))


def test_one_bad_image_harms_no_other(peer: Peer) -> None:
    """Several pictures have a result each, in order: labels, or the sentence of what is wrong."""

    def answer(asked: ReceivedRequest) -> Reply:
        return Reply(GUITAR.read_bytes()) if asked.path == "/guitar.png" else Reply(b"", status=404)

    with StandIn(answer) as pages:
        sources = [in_base64(CAT), "?", {"url": f"{pages.url}/gone.png"}, base64.b64encode(b"no picture").decode()]
        sources += [{"url": f"{pages.url}/guitar.png"}, {"url": f"{pages.url}/guitar.png"}]
        found = peer.classify(images=sources, labels=LABELS, top_k=1)
        fetched = [asked.path for asked in pages.requests]
    assert [one["labels"][0]["label"] if "labels" in one else one["type"] for one in found["results"]] == [
        "cat",
        "UnreadableImage",
        "ForbiddenUrl",
        "UnreadableImage",
        "guitar",
        "guitar",
    ]
    assert "404" in found["results"][2]["error"]
    assert sorted(fetched) == ["/gone.png", "/guitar.png"]
    assert found.keys() == {"results", "encoder", "calibrated", "seconds"}


def test_none_of_these(peer: Peer) -> None:
    """A background that wins, or a threshold that no label reaches, says so; without either nothing can."""
    image = in_base64(GUITAR)
    wins = peer.classify(image=image, labels=["cat", "cake"], background=["guitar"])
    assert wins["none_of_these"] is True
    assert sum(one["probability"] for one in wins["labels"]) < 0.5
    loses = peer.classify(image=image, labels=["cat", "guitar"], background=["cake"])
    assert loses["none_of_these"] is False
    high = peer.classify(image=image, labels=["cat", "guitar"], threshold=1.0)
    assert (high["labels"], high["none_of_these"]) == ([], True)
    per_label = peer.classify(image=image, labels=LABELS, threshold={"cat": 0, "guitar": 1.0, "cake": 1.0})
    assert [one["label"] for one in per_label["labels"]] == ["cat"]
    assert peer.classify(image=image, labels=["cat", "cake"])["none_of_these"] is None


def test_hierarchy_and_texts(peer: Peer) -> None:
    """Labels may have texts of their own and parents, whose probabilities are the sums of their leaves."""
    labels = [
        {"label": "C", "texts": ["cat", "cat face"], "parents": ["animal"]},
        {"label": "F", "texts": ["fish"], "parents": ["animal"]},
        {"label": "G", "texts": ["guitar"], "parents": ["thing"]},
    ]
    found = peer.classify(image=in_base64(CAT), labels=labels)
    assert found["labels"][0]["label"] == "C"
    of = {one["label"]: one["probability"] for one in found["labels"]}
    groups = {one["label"]: one["probability"] for one in found["groups"]}
    assert groups == pytest.approx({"animal": of["C"] + of["F"], "thing": of["G"]})
    assert [one["label"] for one in found["groups"]] == ["animal", "thing"]


def test_the_calibration_of_a_collection_is_used(peer: Peer) -> None:
    """With the collection named its calibration for these labels holds, for others and without it none does."""
    tiny = load_encoder("tiny")
    classes = embed_classes(tiny, labels_of(LABELS))
    images = [CAT, GUITAR, PICTOGRAMS / "1f382.png"] * 8
    vectors = tiny.encode_image([load_image(file, uri=file.name) for file in images])
    calibration = fit_calibration(classes, np.asarray(vectors), LABELS * 8, method="temperature")
    calibration = replace(calibration, temperature=7.0, thresholds=dict.fromkeys(LABELS, 0.2))
    save_calibration(peer.store, "drawings", calibration)
    try:
        found = peer.classify(collection="drawings", id=peer.ids[CAT.name], labels=LABELS, threshold=0)
        plain = peer.classify(image=in_base64(CAT), labels=LABELS)
        cut = peer.classify(collection="drawings", image=in_base64(CAT), labels=LABELS)
        other = peer.classify(collection="drawings", id=peer.ids[CAT.name], labels=["cat", "dog"])
    finally:
        peer.store.set_note("drawings", next(iter(peer.store.contract("drawings").notes)), None)
    assert (found["calibrated"], plain["calibrated"], cut["calibrated"], other["calibrated"]) == (
        True,
        False,
        True,
        False,
    )
    logits = np.log([one["probability"] for one in plain["labels"]]) / 7
    softer = np.exp(logits) / np.exp(logits).sum()
    assert [one["probability"] for one in found["labels"]] == pytest.approx(softer.tolist(), abs=1e-4)
    assert [one["label"] for one in cut["labels"]] == [
        one["label"] for one in found["labels"] if one["probability"] >= 0.2
    ]
    assert cut["none_of_these"] is False


@pytest.mark.parametrize(
    ("status", "asked", "sentence"),
    [
        (400, {}, "'labels' of the body: field required"),
        (400, {"labels": LABELS}, "ask about one of image, images, id and a file 'image', not about none of them"),
        (400, {"labels": LABELS, "image": "a", "images": ["b"]}, "not about image and images"),
        (400, {"labels": LABELS, "id": "a"}, "name it as 'collection'"),
        (400, {"labels": LABELS, "image": ""}, "the picture is empty"),
        (400, {"labels": LABELS, "image": "/etc/passwd"}, "files of the server are not read"),
        (400, {"labels": LABELS, "image": {"url": "http://169.254.169.254/"}}, "no public address"),
        (400, {"labels": [], "image": "a"}, "'labels' of the body"),
        (400, {"labels": ["cat"], "image": "a"}, "cat"),
        (400, {"labels": ["cat", "cat "], "image": "a"}, "label 'cat' was given twice"),
        (400, {"labels": ["cat", " "], "image": "a"}, "a label is empty"),
        (400, {"labels": ["cat", "dog"], "templates": ["a photo"], "image": "a"}, "write {} where it goes"),
        (400, {"labels": ["cat", "dog"], "templates": "long", "image": "a"}, "'templates' of the body"),
        (400, {"labels": LABELS, "image": "a", "encoder": "nope"}, "served are"),
        (400, {"labels": LABELS, "image": "a", "encoder": "minilm"}, "cannot encode pictures"),
        (400, {"labels": LABELS, "image": "a", "encoder": "fake?kind=multi"}, "labels as dense vectors"),
        (400, {"labels": LABELS, "image": "a", "collection": "tokens"}, "labels as dense vectors"),
        (400, {"labels": LABELS, "image": "a", "collection": "texts"}, "holds documents, not images"),
        (404, {"labels": LABELS, "image": "a", "collection": "drawing"}, "did you mean 'drawings'?"),
        (404, {"labels": LABELS, "id": str(uuid.UUID(int=7)), "collection": "drawings"}, "has no point"),
        (400, {"labels": LABELS, "id": str(uuid.UUID(int=1)), "collection": "bare"}, "has no vector of its picture"),
        (409, {"labels": LABELS, "image": "a", "collection": "drawings", "encoder": "fake"}, "drawings"),
        (400, {"labels": LABELS, "image": "a", "top_k": 0}, "'top_k' of the body"),
        (400, {"labels": LABELS, "image": "a", "threshold": {"dog": 0.5}}, "dog"),
        (400, {"labels": ["x" * 301], "image": "a"}, "'labels.0' of the body: string should have at most 300"),
        (400, {"labels": [{"name": "cat"}], "image": "a"}, "'labels.0.label' of the body: field required"),
        (400, {"labels": [{"label": "c", "parents": ["a"] * 17}], "image": "a"}, "'labels.0.parents' of the body"),
        (400, {"labels": LABELS, "image": "a", "templates": []}, "'templates' of the body: list should have at least"),
        (400, {"labels": LABELS, "image": "a", "threshold": {"cat": "x"}}, "'threshold.cat' of the body"),
        (400, {"labels": LABELS, "image": "a", "threshold": {" ": 0.5}}, "a label with a threshold is empty"),
        (400, {"labels": LABELS, "images": [1]}, "'images.0' of the body: input should be a valid string"),
        (400, {"labels": LABELS, "image": {"url": 5}}, "'image.url' of the body: input should be a valid string"),
        (413, {"labels": LABELS, "images": ["a"] * 65}, "the request has 65 pictures and at most 64 are allowed"),
        (413, {"labels": [str(n) for n in range(13)], "templates": "openai", "image": "a"}, "1,040 sentences"),
    ],
)
def test_what_cannot_be_done_is_said(peer: Peer, status: int, asked: dict[str, Any], sentence: str) -> None:
    """Each has its status and one sentence that says what was asked, what was found and what to do."""
    asked = {name: in_base64(CAT) if value == "a" and name == "image" else value for name, value in asked.items()}
    assert sentence in peer.refused(status, **asked)


def test_forms_are_checked(peer: Peer) -> None:
    """A picture twice, a field that does not exist, and a broken query are answered 400 with a sentence."""
    query = {"query": json.dumps({"labels": LABELS, "image": "a"})}
    for sent, sentence in (
        ({"files": {"image": b"a"}, "data": query}, "the picture came twice"),
        ({"files": {"minus_image": b"a"}, "data": query}, "it may have image, query"),
        ({"files": {"image": b"a"}, "data": {"query": "{"}}, "the body is not JSON"),
        ({"files": [("image", b"a"), ("image", b"b")]}, "2 files 'image': send one"),
    ):
        answer = peer.client.post("/v1/classify", **sent)
        assert answer.status_code == 400, answer.text
        assert sentence in answer.json()["error"]


def test_images_together_are_bounded(tmp_path: Path) -> None:
    """Pictures behind addresses that come to more than one request may bring are refused together."""
    noise = np.random.default_rng(0).integers(0, 255, (100, 100, 3), dtype=np.uint8)
    out = BytesIO()
    Image.fromarray(noise).save(out, "PNG")
    with (
        StandIn(lambda _: Reply(out.getvalue())) as pages,
        running(tmp_path, allow_image_host=("127.0.0.1",), max_body_mb=0.05) as service,
    ):
        for count, status in ((1, 200), (3, 413)):
            sources = [f"{pages.url}/{n}.png" for n in range(count)]
            asked = {"images": sources, "labels": LABELS}
            assert httpx.post(f"{service.url}/v1/classify", json=asked, timeout=20).status_code == status


def test_the_example_of_the_documentation(peer: Peer) -> None:
    """What docs/service.md sends is answered as it says."""
    page = (ROOT / "docs" / "service.md").read_text(encoding="utf-8")
    section = page.partition("## Labels")[2].partition("\n## ")[0]
    file, query = re.search(r"image=@(\S+)", section), re.search(r"'query=(.+)'", section)
    told = re.search(r"```json\n(.+?)```", section, re.DOTALL)
    assert file is not None
    assert query is not None
    assert told is not None
    image = (ROOT / file[1]).read_bytes()
    answer = peer.client.post("/v1/classify", files={"image": image}, data={"query": query[1]}).json()
    expected = json.loads(told[1])
    for one, other in zip(answer.pop("labels"), expected.pop("labels"), strict=True):
        assert one == pytest.approx(other, abs=0.01)
    assert {**answer, "seconds": 0} == {**expected, "seconds": 0}


def test_a_key_needs_the_scope_to_search(tmp_path: Path) -> None:
    """Labels are for who may search: 401 without a key, 403 for one that may only infer."""
    asked = {"image": in_base64(CAT), "labels": LABELS}
    with running(tmp_path, key=("one:search", "two:infer")) as service:
        url = f"{service.url}/v1/classify"
        statuses = [
            httpx.post(url, json=asked, headers=headers, timeout=20).status_code
            for headers in ({}, {"mmembed-api-key": "two"}, {"mmembed-api-key": "one"})
        ]
    assert statuses == [401, 403, 200]
