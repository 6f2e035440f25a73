"""Inference through Qdrant: a real server where there is one, and docs/qdrant-inference.md, run as it stands.

The server of MMEMBED_TEST_QDRANT_URL must have been started with the address of this machine as its
QDRANT__INFERENCE__ADDRESS: http://MMEMBED_TEST_INFER_HOST:MMEMBED_TEST_INFER_PORT/qdrant/infer.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml
from checkpoints_text import build_bert
from markdown_it import MarkdownIt
from places import ROOT
from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import UnexpectedResponse
from service_app import running

from mmembed import load_encoder
from mmembed.demo import PICTOGRAMS
from mmembed.images import load_image
from mmembed.service.settings import Settings
from mmembed.testing.http import ReceivedRequest, StandIn
from mmembed.types import Role

PAGE = (ROOT / "docs" / "qdrant-inference.md").read_text(encoding="utf-8")
SERVER = os.environ.get("MMEMBED_TEST_QDRANT_URL")
HOST = os.environ.get("MMEMBED_TEST_INFER_HOST", "127.0.0.1")
PORT = int(os.environ.get("MMEMBED_TEST_INFER_PORT", "8600"))
KEY = "" if HOST == "127.0.0.1" else "test-" + uuid.uuid4().hex
CAT, TRAIN = (PICTOGRAMS / f"{code}.png" for code in ("1f408", "1f686"))
SPARSE, MULTI = "fake?kind=sparse", "fake?kind=multi"


# --- a real server -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Qdrant:
    client: QdrantClient
    url: str
    collection: str
    e5: str

    def post(self, path: str, body: dict[str, Any], method: str = "POST") -> httpx.Response:
        """What curl does."""
        headers = {"mmembed-api-key": KEY} if KEY else {}
        url = f"{self.url}/collections/{self.collection}{path}"
        return httpx.request(method, url, json=body, headers=headers, timeout=60)

    def stored(self, id: int, name: str) -> Any:
        (point,) = self.client.retrieve(self.collection, [id], with_vectors=[name])
        assert isinstance(point.vector, dict)
        return point.vector[name]


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """(the server, an encoder with prompts): the service listens where the server expects it."""
    if not SERVER:
        pytest.skip("MMEMBED_TEST_QDRANT_URL is not set: it names a Qdrant whose inference address is ours")
    folder = tmp_path_factory.mktemp("server")
    e5 = build_bert(folder / "e5", pooling="mean", prompts={"query": "query: ", "passage": "passage: "})
    encoders = (SPARSE, MULTI, "fake", f"sentence:{e5}")
    keys = (f"{KEY}:infer",) if KEY else ()
    with running(folder, host=HOST, port=PORT, key=keys, encoder=encoders, device="cpu"):
        yield SERVER.rstrip("/"), f"sentence:{e5}"


@pytest.fixture
def qdrant(serving: tuple[str, str]) -> Iterator[Qdrant]:
    """A collection of its own on the server, with a vector of each kind."""
    url, e5 = serving
    headers = {"mmembed-api-key": KEY} if KEY else {}
    client = QdrantClient(url, cloud_inference=True, timeout=60, headers=headers)
    name = f"mmembed-test-{uuid.uuid4().hex}"
    cosine = models.Distance.COSINE
    client.create_collection(
        name,
        vectors_config={
            "image": models.VectorParams(size=256, distance=cosine),
            "text": models.VectorParams(size=32, distance=cosine),
            "late": models.VectorParams(
                size=32,
                distance=cosine,
                multivector_config=models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM),
            ),
        },
        sparse_vectors_config={"words": models.SparseVectorParams()},
    )
    try:
        yield Qdrant(client, url, name, e5)
    finally:
        client.delete_collection(name)
        client.close()


def image(file: Path) -> models.Image:
    return models.Image(image=base64.b64encode(file.read_bytes()).decode(), model="tiny")


def text(content: str, model: str = "tiny", **options: Any) -> models.Document:
    return models.Document(text=content, model=model, options=options or None)


def embedded(model: str, content: str, role: Role) -> Any:
    return load_encoder(model, device="cpu").encode_text([content], role=role)[0]


def seen(file: Path) -> Any:
    return load_encoder("tiny").encode_image([load_image(file, uri="")])[0]


def add_images(qdrant: Qdrant) -> None:
    points = [
        models.PointStruct(id=1, vector={"image": image(CAT), "words": text("a b", SPARSE)}),
        models.PointStruct(id=2, vector={"image": image(TRAIN), "words": text("b c c", SPARSE)}),
    ]
    qdrant.client.upsert(qdrant.collection, points, wait=True)


def test_images_are_stored_and_found(qdrant: Qdrant) -> None:
    """The stored vector is the encoder's own, and words and pictures find it."""
    add_images(qdrant)
    assert np.allclose(qdrant.stored(1, "image"), seen(CAT), atol=1e-5)
    by_words = qdrant.client.query_points(qdrant.collection, query=text("a train"), using="image", limit=1)
    by_image = qdrant.client.query_points(qdrant.collection, query=image(CAT), using="image", limit=1)
    assert [by_words.points[0].id, by_image.points[0].id] == [2, 1]
    assert by_image.points[0].score == pytest.approx(1, abs=1e-4)
    expected = float(seen(TRAIN) @ embedded("tiny", "a train", "query"))
    assert by_words.points[0].score == pytest.approx(expected, abs=1e-4)


def test_plain_http(qdrant: Qdrant) -> None:
    """A client without a library, as curl is one, does the same, and sees the tokens that were read."""
    content = base64.b64encode(CAT.read_bytes()).decode()
    point = {"id": 7, "vector": {"image": {"image": f"data:image/png;base64,{content}", "model": "tiny"}}}
    assert qdrant.post("/points?wait=true", {"points": [point]}, "PUT").status_code == 200
    found = qdrant.post("/points/query", {"query": {"text": "a cat", "model": "tiny"}, "using": "image", "limit": 1})
    assert found.json()["result"]["points"][0]["id"] == 7
    assert found.json()["usage"]["inference"]["models"]["tiny"]["tokens"] > 0


def test_fusion_over_prefetches(qdrant: Qdrant) -> None:
    """Dense and sparse inputs of one query are embedded together and fused by rank."""
    add_images(qdrant)
    found = qdrant.client.query_points(
        qdrant.collection,
        prefetch=[
            models.Prefetch(query=text("a train"), using="image", limit=10),
            models.Prefetch(query=text("c", SPARSE), using="words", limit=10),
        ],
        query=models.FusionQuery(fusion=models.Fusion.RRF),
    )
    assert found.points[0].id == 2


def test_sparse_and_late_vectors(qdrant: Qdrant) -> None:
    """Sparse vectors and multivectors arrive as such."""
    vector = {"words": text("a b b", SPARSE), "late": text("red blue", MULTI)}
    qdrant.client.upsert(qdrant.collection, [models.PointStruct(id=1, vector=vector)], wait=True)
    sparse, expected = qdrant.stored(1, "words"), embedded(SPARSE, "a b b", "document")
    assert dict(zip(sparse.indices, sparse.values, strict=True)) == pytest.approx(
        dict(zip(expected.indices.tolist(), expected.values.tolist(), strict=True))
    )
    assert np.allclose(qdrant.stored(1, "late"), embedded(MULTI, "red blue", "document"), atol=1e-5)


def test_columns_and_updates(qdrant: Qdrant) -> None:
    """Named columns of a batch and update_vectors are embedded as documents too."""
    vectors = {"text": [text("one", qdrant.e5), text("two", qdrant.e5)]}
    qdrant.client.upsert(qdrant.collection, models.Batch(ids=[1, 2], vectors=vectors), wait=True)
    assert np.allclose(qdrant.stored(2, "text"), embedded(qdrant.e5, "two", "document"), atol=1e-5)
    changed = models.PointVectors(id=1, vector={"text": text("three", qdrant.e5)})
    qdrant.client.update_vectors(qdrant.collection, [changed], wait=True)
    assert np.allclose(qdrant.stored(1, "text"), embedded(qdrant.e5, "three", "document"), atol=1e-5)


def test_queries_and_documents_are_told_apart(qdrant: Qdrant) -> None:
    """The same words score 1 only where the role is forced to be the same."""
    point = models.PointStruct(id=1, vector={"text": text("the fox", qdrant.e5)})
    qdrant.client.upsert(qdrant.collection, [point], wait=True)
    assert np.allclose(qdrant.stored(1, "text"), embedded(qdrant.e5, "the fox", "document"), atol=1e-5)

    def score(query: models.Document) -> float:
        return qdrant.client.query_points(qdrant.collection, query=query, using="text").points[0].score

    assert score(text("the fox", qdrant.e5, role="document")) == pytest.approx(1, abs=1e-4)
    expected = float(np.dot(*(embedded(qdrant.e5, "the fox", role) for role in ("query", "document"))))
    assert score(text("the fox", qdrant.e5)) == pytest.approx(expected, abs=1e-4)
    assert expected < 0.999


def test_sentences_reach_the_client(qdrant: Qdrant) -> None:
    """What is wrong is told as a 400 in our own words, and nothing is written."""
    bad = models.Image(image=base64.b64encode(b"no picture").decode(), model="tiny")
    points = [models.PointStruct(id=1, vector={"image": image(CAT)}), models.PointStruct(id=2, vector={"image": bad})]
    for sentence, vector in {
        "not a picture in any of the formats": bad,
        "no encoder 'nope'": text("a", "nope"),
    }.items():
        points[1] = models.PointStruct(id=2, vector={"image": vector})
        with pytest.raises(UnexpectedResponse) as caught:
            qdrant.client.upsert(qdrant.collection, points, wait=True)
        assert caught.value.status_code == 400
        assert sentence in json.loads(caught.value.content)["status"]["error"]
    assert qdrant.client.count(qdrant.collection).count == 0


@pytest.mark.skipif(not KEY, reason="MMEMBED_TEST_INFER_HOST is loopback, where the service has no keys")
def test_without_a_key_nothing_is_embedded(qdrant: Qdrant) -> None:
    """A client that sends no key is told so."""
    body = {"query": {"text": "a", "model": "tiny"}, "using": "image"}
    answer = httpx.post(f"{qdrant.url}/collections/{qdrant.collection}/points/query", json=body, timeout=60)
    assert answer.status_code == 400
    assert "no key" in answer.text


# --- the page ------------------------------------------------------------------------------------


def blocks(*languages: str) -> list[str]:
    """The page's code blocks in these languages, in order."""
    return [token.content for token in MarkdownIt().parse(PAGE) if token.type == "fence" and token.info in languages]


def run_page(folder: Path, url: str, infer: str, collection: str) -> None:
    """The Python and the curl of the page, one after the other, against this Qdrant."""
    shutil.copy(CAT, folder / "cat.png")
    shutil.copy(TRAIN, folder / "train.png")
    names: dict[str, object] = {}
    printed = io.StringIO()
    for code in blocks("python"):
        here = _here(code, url, infer, collection).replace(
            "cloud_inference=True, timeout=60)",
            f"cloud_inference=True, timeout=60, headers={{'mmembed-api-key': {KEY!r}}})" if KEY else
            "cloud_inference=True, timeout=60)",
        )  # fmt: skip
        with contextlib.redirect_stdout(printed):
            exec(here, names)
    (expected,) = blocks("text")
    assert printed.getvalue() == expected
    client = names["client"]
    assert isinstance(client, QdrantClient)
    client.close()
    for code in (code for code in blocks("sh") if "curl" in code):
        here = _here(code, url, infer, collection)
        here = here.replace('-H "Content-Type', f'-H "mmembed-api-key: {KEY}" -H "Content-Type') if KEY else here
        done = subprocess.run(["bash", "-eu", "-c", here], cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        good = len(re.findall(r'"status": ?"ok"', done.stdout))
        assert good == code.count("/points") or "QDRANT__INFERENCE__ADDRESS" in done.stdout, done.stdout


def _here(code: str, url: str, infer: str, collection: str) -> str:
    code = code.replace("http://localhost:6333", url).replace("http://127.0.0.1:8600", infer)
    return code.replace('"pictures"', f'"{collection}"').replace(
        "/collections/pictures/", f"/collections/{collection}/"
    )


class LittleQdrant:
    """Does what Qdrant does with a client's texts and pictures: asks the service for vectors, and searches by them."""

    def __init__(self, infer: str) -> None:
        self.infer = f"{infer}/qdrant/infer"
        self.asked: list[dict[str, Any]] = []
        self._points = QdrantClient(":memory:")

    def answer(self, asked: ReceivedRequest) -> object:
        _, *path = asked.path.partition("?")[0].split("/")
        if path == [""]:
            return {"title": "qdrant - vector search engine", "version": "1.19.0"}
        result = self._result(asked.method, path, asked.body, asked.headers)
        return {"result": result, "status": "ok", "time": 0.0}

    def _result(self, method: str, path: list[str], body: Any, headers: Any) -> object:
        name = path[1]
        if method == "PUT" and len(path) == 2:
            return self._points.create_collection(name, vectors_config=_vectors(body["vectors"]))
        given = self._inferred(body, "update" if method == "PUT" else "search", headers)
        if method == "PUT":
            self._points.upsert(name, [models.PointStruct(**point) for point in given["points"]])
            return {"operation_id": 0, "status": "completed"}
        query = given["query"]["nearest"] if isinstance(given["query"], dict) else given["query"]
        found = self._points.query_points(name, query, using=given["using"], limit=given["limit"])
        return {"points": [{"version": 0, **point.model_dump(exclude_none=True)} for point in found.points]}

    def _inferred(self, body: Any, inference: str, headers: Any) -> Any:
        """The body with a vector for each of its inference objects."""
        if isinstance(body, list):
            return [self._inferred(part, inference, headers) for part in body]
        if not isinstance(body, dict):
            return body
        kind = next((kind for kind in ("text", "image", "object") if kind in body), None)
        if kind is None or "model" not in body:
            return {key: self._inferred(value, inference, headers) for key, value in body.items()}
        one = {"data": body[kind], "data_type": kind, "model": body["model"], "options": body.get("options")}
        self.asked.append({"inference": inference, **one})
        passed_on = {name: value for name, value in headers.items() if name.endswith("-api-key")}
        request = {"inputs": [one], "inference": inference, "token": None}
        answer = httpx.post(self.infer, json=request, headers=passed_on, timeout=60)
        assert answer.status_code == 200, answer.text
        (vector,) = answer.json()["embeddings"]
        return vector


def _vectors(given: dict[str, Any]) -> dict[str, models.VectorParams]:
    return {name: models.VectorParams(**vector) for name, vector in given.items()}


@pytest.fixture(scope="module")
def little(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LittleQdrant, str, str]]:
    """(Qdrant in little, its address, that of the service it asks)."""
    with running(tmp_path_factory.mktemp("page"), device="cpu") as service:
        qdrant = LittleQdrant(service.url)
        with StandIn(qdrant.answer) as server:
            yield qdrant, server.url, service.url


def test_the_page_runs(little: tuple[LittleQdrant, str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its Python prints what it says, and what its Python and curl send is what the service takes."""
    qdrant, url, infer = little
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SECRET", "secret")
    qdrant.asked.clear()
    run_page(tmp_path, url, infer, "pictures")
    sent = [(one["inference"], one["data_type"], one["model"]) for one in qdrant.asked]
    assert sent.count(("update", "image", "tiny")) == 3
    assert sent.count(("search", "text", "tiny")) == 2
    assert ("search", "object", "tiny") in sent


CLIENT_JS = """
export class QdrantClient {
  constructor({ url }) { this.url = url; }
  async call(method, path, body) {
    const headers = { "Content-Type": "application/json" };
    const answer = await fetch(this.url + path, { method, headers, body: JSON.stringify(body) });
    if (!answer.ok) throw new Error(await answer.text());
    return (await answer.json()).result;
  }
  upsert(name, { wait, ...body }) { return this.call("PUT", `/collections/${name}/points?wait=${wait}`, body); }
  query(name, body) { return this.call("POST", `/collections/${name}/points/query`, body); }
}
"""


def test_the_javascript_of_the_page(little: tuple[LittleQdrant, str, str], tmp_path: Path) -> None:
    """What it hands to the JavaScript client, which sends it as it is, is what the service takes."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("there is no node, which runs the JavaScript of the page")
    qdrant, url, infer = little
    package = tmp_path / "node_modules" / "@qdrant" / "js-client-rest"
    package.mkdir(parents=True)
    (package / "index.mjs").write_text(CLIENT_JS)
    (package / "package.json").write_text('{"main": "index.mjs", "exports": "./index.mjs"}')
    shutil.copy(CAT, tmp_path / "cat.png")
    shutil.copy(TRAIN, tmp_path / "train.png")
    vectors = {"image": {"size": 256, "distance": "Cosine"}}
    httpx.put(f"{url}/collections/from-js", json={"vectors": vectors}).raise_for_status()
    (code,) = blocks("js")
    (tmp_path / "page.mjs").write_text(_here(code, url, infer, "from-js"))
    qdrant.asked.clear()
    done = subprocess.run([node, "page.mjs"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [one["data_type"] for one in qdrant.asked] == ["image", "text", "image"]
    assert done.stdout.count("train.png") == 2


def test_the_page_on_a_real_server(serving: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same blocks, where MMEMBED_TEST_QDRANT_URL names a server."""
    collection = f"mmembed-test-{uuid.uuid4().hex}"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SECRET", KEY or "secret")
    try:
        run_page(tmp_path, serving[0], f"http://{HOST}:{PORT}", collection)
    finally:
        httpx.delete(f"{serving[0]}/collections/{collection}", timeout=60)


def test_the_settings_of_the_page() -> None:
    """Its YAML has the keys that Qdrant reads, and every flag and limit that it names is one of the service."""
    for block in blocks("yaml"):
        (inference,) = yaml.safe_load(block).values()
        assert set(inference) <= {"address", "timeout", "token"}
        assert inference["address"].endswith(":8600/qdrant/infer")
    flags = {flag[2:].replace("-", "_") for flag in re.findall(r"--[a-z][a-z-]+", PAGE)}
    assert {"encoder", "host", "key", "max_inputs"} <= flags <= set(Settings.model_fields)
    defaults = Settings()
    for shown in (
        f"{defaults.max_body_mb:g} MiB | `--max-body-mb`",
        f"{defaults.max_inputs} | `--max-inputs`",
        f"{defaults.max_pixels:,} pixels; fetched, {defaults.max_image_mb:g} MiB and {defaults.fetch_seconds:g} s",
        f"http://{defaults.host}:{defaults.port}",
    ):
        assert shown in PAGE
