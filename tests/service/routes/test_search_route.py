"""Search over HTTP, held against `search` itself over the same store."""

from __future__ import annotations

import base64
import json
import math
import shutil
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from qdrant_client import models
from service_app import running

import mmembed
from mmembed import Search, ingest_documents, ingest_images, load_encoder, open_store, search, search_several
from mmembed.images import load_image
from mmembed.types import Contract, Hit, Store, VectorContract

DEMO = Path(mmembed.__file__).parent / "demo"
BIRD = (DEMO / "pictograms" / "1f426.png").read_bytes()
APPLE = (DEMO / "pictograms" / "1f34e.png").read_bytes()
IN_BASE64 = base64.b64encode(BIRD).decode()


class Served:
    """A running service, the store behind it, and a client."""

    def __init__(self, client: httpx.Client, app: Any) -> None:
        self.client = client
        self.app = app
        self.store: Store = app.state.service.store

    def post(self, collection: str, **asked: Any) -> dict[str, Any]:
        answer = self.client.post(f"/v1/search/{collection}" if collection else "/v1/search", json=asked)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def refused(self, path: str, status: int, **sent: Any) -> str:
        """The sentence of an answer that is an error."""
        answer = self.client.post(path, **sent)
        assert answer.status_code == status, answer.text
        assert answer.json().keys() == {"error", "type"}
        sentence: str = answer.json()["error"]
        assert len(sentence) < 500
        return sentence


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """`drawings` by tiny, with captions in every third; `texts` by minilm and tiny; `plain`, which is empty."""
    root = tmp_path_factory.mktemp("served")
    store = open_store(f"edge:{root / 'store.mm'}")
    folder = root / "drawings"
    shutil.copytree(DEMO / "pictograms", folder, ignore=lambda _, names: [n for n in names if n > "1f440"])
    rows = [
        {"uri": path.name, "number": n, "odd": bool(n % 2), **({"caption": f"drawing {n}"} if n % 3 == 0 else {})}
        for n, path in enumerate(sorted(folder.iterdir()))
    ]
    (root / "drawings" / "list.jsonl").write_text("\n".join(map(json.dumps, rows)))
    tiny = load_encoder("tiny")
    ingest_images(store, "drawings", [folder / "list.jsonl"], encoder=tiny)
    texts = root / "texts"
    shutil.copytree(DEMO / "documents", texts)
    ingest_documents(store, "texts", [texts], encoder=load_encoder("minilm"), cross_encoder=tiny, images_into=None)
    vector = VectorContract("minilm", load_encoder("minilm").spec.fingerprint, "text", "dense", 384)
    store.create("plain", Contract("documents", {"text": vector}), indexes={})
    store.close()
    with running(root, allow_image_host=("127.0.0.1",)) as service, httpx.Client(base_url=service.url) as client:
        yield Served(client, service.app)


def decoded(content: bytes) -> Image.Image:
    return Image.open(BytesIO(content))


def assert_same(found: Mapping[str, Any], hits: list[Hit]) -> None:
    """What came over HTTP is what `search` gives: ids, scores, probabilities, payloads."""
    assert hits
    assert [hit["id"] for hit in found["hits"]] == [hit.id for hit in hits]
    np.testing.assert_allclose([hit["score"] for hit in found["hits"]], [hit.score for hit in hits], atol=1e-5)
    assert [hit["payload"] for hit in found["hits"]] == [hit.payload for hit in hits]
    for row, hit in zip(found["hits"], hits, strict=True):
        assert row["vector"] == hit.vector_name
        assert row["collection"] == hit.collection
        assert (row["probability"] is None) == (hit.probability is None)
        if hit.probability is not None:
            assert row["probability"] == pytest.approx(hit.probability, abs=1e-5)


# --- what is asked --------------------------------------------------------------------------------


def test_by_text(served: Served) -> None:
    """Words find drawings, with probabilities, and passages by meaning and by words."""
    found = served.post("drawings", text="a bird")
    assert_same(found, search(served.store, "drawings", text="a bird"))
    assert all(0 < hit["probability"] < 1 for hit in found["hits"])
    assert 0 < found["seconds"] < 10
    question = "How do bees find their way?"
    assert_same(served.post("texts", text=question), search(served.store, "texts", text=question))


@pytest.mark.parametrize("how", ["file", "base64", "data URI", "object", "address"])
def test_by_image(served: Served, how: str) -> None:
    """A picture is one query however it is sent."""
    uri = f"data:image/png;base64,{IN_BASE64}"
    if how == "file":
        answer = served.client.post("/v1/search/drawings", files={"image": ("b.png", BIRD, "image/png")}).json()
    elif how == "address":
        with images() as address:
            answer = served.post("drawings", image=f"{address}/bird.png")
    else:
        answer = served.post(
            "drawings", image={"base64": IN_BASE64, "data URI": uri, "object": {"base64": IN_BASE64}}[how]
        )
    assert_same(answer, search(served.store, "drawings", image=decoded(BIRD)))


def images() -> Any:
    """A web server on loopback with one picture."""

    class Bird(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "image/png")
            self.send_header("content-length", str(len(BIRD)))
            self.end_headers()
            self.wfile.write(BIRD)

        def log_message(self, *_: object) -> None:
            """Nothing on stderr."""

    class Server:
        def __enter__(self) -> str:
            self.server = ThreadingHTTPServer(("127.0.0.1", 0), Bird)
            self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
            self.thread.start()
            return f"http://127.0.0.1:{self.server.server_port}"

        def __exit__(self, *_: object) -> None:
            self.server.shutdown()
            self.server.server_close()
            self.thread.join()

    return Server()


def test_a_image_finds_passages(served: Served) -> None:
    """Documents that have `cross` are found by picture, in JSON and as a form."""
    expected = search(served.store, "texts", image=decoded(BIRD), limit=3)
    assert_same(served.post("texts", image=IN_BASE64, limit=3), expected)
    form = served.client.post("/v1/search/texts", files={"image": BIRD}, data={"query": '{"limit": 3}'})
    assert_same(form.json(), expected)


def test_both_with_weights_and_less_something(served: Served) -> None:
    """Text, picture and what is subtracted are summed by their weights; JSON and form say the same."""
    weights = {"text": 1, "image": 0.5, "minus": 0.25}
    expected = search(
        served.store,
        "drawings",
        text="red",
        image=decoded(BIRD),
        minus=["a circle", decoded(APPLE)],
        weights=weights,
    )
    apple = {"image": {"base64": base64.b64encode(APPLE).decode()}}
    asked = {"text": "red", "weights": weights, "minus": [{"text": "a circle"}]}
    assert_same(served.post("drawings", **{**asked, "image": IN_BASE64, "minus": [*asked["minus"], apple]}), expected)
    files = [("image", ("bird.png", BIRD)), ("minus_image", ("apple.png", APPLE))]
    form = served.client.post("/v1/search/drawings", files=files, data={"query": json.dumps(asked)})
    assert_same(form.json(), expected)
    assert [hit["id"] for hit in served.post("drawings", text="red")["hits"]] != [hit.id for hit in expected]


def test_by_id_and_by_vector(served: Served) -> None:
    """What is like a stored point leaves that point out; a vector is taken as it is, one row or several."""
    first = search(served.store, "drawings", text="a bird", limit=1)[0].id
    found = served.post("drawings", id=first)
    assert_same(found, search(served.store, "drawings", id=first))
    assert first not in {hit["id"] for hit in found["hits"]}
    vector = np.asarray(load_encoder("tiny").encode_image([load_image(BIRD, uri="bird")]))[0]
    assert_same(served.post("drawings", vector=vector.tolist()), search(served.store, "drawings", vector=vector))
    rows = {"vector": [vector.tolist(), vector.tolist()], "vector_name": "cross"}
    assert_same(served.post("texts", **rows), search(served.store, "texts", **rows))  # type: ignore[arg-type]


def test_one_vector_alone(served: Served) -> None:
    """`vector_name` searches by that vector alone, which the hits name."""
    found = served.post("texts", text="water", vector_name="bm25")
    assert_same(found, search(served.store, "texts", text="water", vector_name="bm25"))
    assert {hit["vector"] for hit in found["hits"]} == {"bm25"}


def test_filters_are_those_of_qdrant(served: Served) -> None:
    """Only hits that pass: conditions alone or in a list, one inside another, by value, range and id."""
    asked = {
        "must": [{"key": "odd", "match": {"value": True}}, {"should": {"key": "number", "range": {"lt": 9}}}],
        "must_not": {"key": "number", "match": {"any": [3, 5]}},
    }
    found = served.post("drawings", text="a bird", filter=asked)
    assert {hit["payload"]["number"] for hit in found["hits"]} == {1, 7}
    assert_same(found, search(served.store, "drawings", text="a bird", filter=models.Filter(**asked)))
    id = found["hits"][1]["id"]
    assert [hit["id"] for hit in served.post("drawings", text="a", filter={"must": [{"has_id": [id]}]})["hits"]] == [id]


def test_pages_and_threshold(served: Served) -> None:
    """Pages put together are the one long page; hits below the threshold are left out."""
    whole = served.post("drawings", text="a bird", limit=21)["hits"]
    pages = [served.post("drawings", text="a bird", limit=7, offset=start)["hits"] for start in (0, 7, 14)]
    assert [hit["id"] for page in pages for hit in page] == [hit["id"] for hit in whole]
    lowest = (whole[4]["score"] + whole[5]["score"]) / 2
    assert served.post("drawings", text="a bird", limit=21, score_threshold=lowest)["hits"] == whole[:5]
    assert served.post("drawings", text="a bird", limit=5, offset=10_000)["hits"] == []


def test_all_passages(served: Served) -> None:
    """Of a document its best passage is a hit, or all of them."""
    best = served.post("texts", text="water", limit=200)["hits"]
    every = served.post("texts", text="water", limit=200, all_passages=True)["hits"]
    assert len({hit["uri"] for hit in best}) == len(best) < len(every) == served.store.count("texts")


# --- what is answered -----------------------------------------------------------------------------


def test_a_hit_says_what_it_is(served: Served) -> None:
    """Drawings have a name, a caption and a thumbnail; passages have their text."""
    keep = {"must": [{"key": "number", "match": {"value": 3}}]}
    (hit,) = served.post("drawings", text="a bird", filter=keep)["hits"]
    assert hit["kind"] == "image"
    assert hit["text"] == "drawing 3"
    assert hit["uri"].endswith(f"/drawings/{hit['name']}")
    assert hit["name"].endswith(".png")
    assert hit["thumbnail"] == f"/v1/points/drawings/{hit['id']}/thumbnail"
    passage = served.post("texts", text="bees", limit=1)["hits"][0]
    assert (passage["kind"], passage["thumbnail"]) == ("text", None)
    assert passage["text"] == passage["payload"]["text"]
    assert "/" not in passage["name"]


def test_a_thumbnail_that_is_not_there_is_not_named(served: Served) -> None:
    """Only a file that exists has an address."""
    hit = served.post("drawings", text="a hat", limit=1)["hits"][0]
    assert served.store.folder is not None
    (file,) = (served.store.folder / "thumbnails" / "drawings").rglob(f"{hit['id']}.webp")
    file.rename(file.with_suffix(".gone"))
    try:
        assert served.post("drawings", text="a hat", limit=1)["hits"] == [{**hit, "thumbnail": None}]
    finally:
        file.with_suffix(".gone").rename(file)


def test_probability_and_payload_can_be_left_out(served: Served) -> None:
    """The fields are not there, everything else is as it was."""
    (whole,) = served.post("drawings", text="a bird", limit=1)["hits"]
    (bare,) = served.post("drawings", text="a bird", limit=1, with_probability=False, with_payload=False)["hits"]
    assert bare == {name: value for name, value in whole.items() if name not in ("probability", "payload")}


def test_a_collection_of_other_people(tmp_path: Path) -> None:
    """It is searched by an encoder that is served and its vector's name; NaN, which JSON has not, is null."""
    fake = load_encoder("fake")
    with (
        running(tmp_path, store=":memory:", encoder=("fake",)) as service,
        httpx.Client(base_url=service.url) as client,
    ):
        theirs = Served(client, service.app)
        raw = theirs.store._client  # type: ignore[attr-defined]
        params = models.VectorParams(size=32, distance=models.Distance.COSINE)
        raw.create_collection("theirs", vectors_config={"clip": params})
        rows = np.asarray(fake.encode_text(["river", "stone"], role="document")).tolist()
        payload = {"uri": 7, "text": None, "mean": math.nan}
        raw.upsert(
            "theirs", [models.PointStruct(id=n, vector={"clip": row}, payload=payload) for n, row in enumerate(rows)]
        )
        found = theirs.post("theirs", text="river", encoder="fake", vector_name="clip")["hits"]
        assert [hit["id"] for hit in found] == ["0", "1"]
        assert found[0] | {"score": None} == {
            "id": "0",
            "score": None,
            "probability": None,
            "collection": "theirs",
            "vector": "clip",
            "group": None,
            "uri": None,
            "name": None,
            "kind": None,
            "text": None,
            "thumbnail": None,
            "payload": {"uri": 7, "text": None, "mean": None},
        }
        assert found[0]["score"] == pytest.approx(
            search(theirs.store, "theirs", vector=rows[0], vector_name="clip")[0].score
        )
        says = "was not made by mmembed and does not say which encoder"
        assert says in theirs.refused("/v1/search/theirs", 400, json={"text": "river"})
        both = {"text": "river", "collections": ["theirs"]}
        assert says in theirs.refused("/v1/search", 400, json=both)
        again = theirs.post("", **both, encoder="fake", vector_name="clip")["hits"]
        assert [hit["id"] for hit in again] == ["0", "1"]


# --- several collections --------------------------------------------------------------------------


def test_several_collections(served: Served) -> None:
    """All of ours by default, or those that are named, by weight; hits are those of `search_several`."""
    names = served.store.collections()
    several = search_several(served.store, names, Search(text="a bird", limit=20))
    found = served.post("", text="a bird", limit=20)
    assert_same(found, several.hits)
    assert {hit["kind"] for hit in found["hits"]} == {"image", "text"}
    named: dict[str, Any] = {"collections": ["texts", "drawings"], "collection_weights": {"drawings": 2}}
    again = search_several(
        served.store, named["collections"], Search(text="a bird"), collection_weights={"drawings": 2}
    )
    found = served.post("", text="a bird", **named)
    assert_same(found, again.hits)
    assert found["skipped"] == {}


def test_what_cannot_answer_is_skipped(served: Served) -> None:
    """A picture asked of documents without `cross` is answered by the others, and the sentence says so."""
    form = served.client.post("/v1/search", files={"image": BIRD}, data={"query": '{"limit": 6}'})
    assert form.status_code == 200, form.text
    assert form.json()["skipped"].keys() == {"plain"}
    assert "has no vector 'cross'" in form.json()["skipped"]["plain"]
    assert {hit["collection"] for hit in form.json()["hits"]} == {"drawings", "texts"}
    assert served.refused("/v1/search", 400, json={"image": IN_BASE64, "collections": ["plain"]}).startswith(
        "collection 'plain' has no vector 'cross'"
    )


def test_why_it_was_skipped_names_no_folder(tmp_path: Path) -> None:
    """An encoder whose weights are gone skips its collection, in a sentence without the server's paths."""
    tiny, gone = load_encoder("tiny"), tmp_path / "weights" / "model"
    store = open_store(f"edge:{tmp_path / 'store.mm'}")
    vector = VectorContract("tiny", tiny.spec.fingerprint, "image", "dense", tiny.spec.dim)
    store.create("here", Contract("images", {"image": vector}), indexes={})
    lost = VectorContract(f"sentence:{gone}", "f", "text", "dense", 8)
    store.create("lost", Contract("documents", {"text": lost}), indexes={})
    store.close()
    with running(tmp_path) as service:
        answer = httpx.post(f"{service.url}/v1/search", json={"text": "a bird"})
    assert answer.json()["skipped"].keys() == {"lost"}
    assert "model" in answer.json()["skipped"]["lost"]
    assert str(tmp_path) not in answer.text


def test_a_collection_of_a_newer_mmembed_is_skipped(tmp_path: Path) -> None:
    """It says so where it is searched, and spoils no search in all collections; regression: it refused them all."""
    tiny = load_encoder("tiny")
    store = open_store(f"edge:{tmp_path / 'store.mm'}")
    for name in ("here", "newer"):
        vector = VectorContract("tiny", tiny.spec.fingerprint, "image", "dense", tiny.spec.dim)
        store.create(name, Contract("images", {"image": vector}), indexes={})
    store.close()
    file = tmp_path / "store.mm" / "collections" / "newer" / "contract.json"
    written = json.loads(file.read_text())
    written["mmembed"]["version"] = 99
    file.write_text(json.dumps(written))
    with running(tmp_path) as service:
        asked: dict[str, Any]
        for asked in ({}, {"collections": ["newer", "here"]}, {"collection_weights": {"newer": 2}}):
            answer = httpx.post(f"{service.url}/v1/search", json={"text": "a bird", **asked})
            assert answer.status_code == 200, answer.text
            assert answer.json()["skipped"].keys() == {"newer"}
            assert "was made by a newer mmembed" in answer.json()["skipped"]["newer"]
        alone = httpx.post(f"{service.url}/v1/search", json={"text": "a bird", "collections": ["newer"]})
    assert alone.status_code == 400
    assert "was made by a newer mmembed" in alone.json()["error"]


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({}, "nothing to search for"),
        ({"text": " "}, "is empty"),
        ({"txt": "a"}, "txt"),
        ({"text": 3}, "text"),
        ({"text": "a", "limit": 0}, "limit"),
        ({"text": "a", "limit": 1001}, "limit"),
        ({"text": "a", "limit": 10**30}, "limit"),
        ({"text": "a", "limit": "3"}, "limit"),
        ({"text": "a", "offset": -1}, "offset"),
        ({"text": "a", "offset": 10_001}, "offset"),
        ({"text": "a", "score_threshold": math.nan}, "score_threshold"),
        ({"vector": [1.0, math.inf]}, "vector"),
        ({"vector": [1.0, "x"]}, "vector"),
        ({"vector": [1.0, 2.0]}, "256 dimensions"),
        ({"vector": [[1.0], [1.0, 2.0]]}, "not a list of numbers"),
        ({"vector": []}, "empty"),
        ({"text": "a", "weights": {"colour": 1}}, "weights"),
        ({"text": "a", "weights": {"text": math.nan}}, "weights"),
        ({"text": "a", "weights": {"image": 1}}, "a weight of image"),
        ({"vector": [1e300] * 256}, "NaN or infinity"),
        ({"text": "a", "minus": [{"text": "a"}], "weights": {"minus": 1}}, "cancel out"),
        ({"text": "a", "minus": [{}]}, "one text or one image"),
        ({"text": "a", "minus": [{"text": "b", "image": "c"}]}, "one text or one image"),
        ({"text": "a", "minus": [{"text": "b"}] * 33}, "minus"),
        ({"minus": [{"text": "b"}]}, "only something to subtract"),
        ({"text": "a", "id": "1"}, "three ways to ask"),
        ({"id": "nope"}, "'nope'"),
        ({"id": str(2**64)}, "is not the id of a point"),
        ({"id": "00000000-0000-0000-0000-000000000000"}, "has no point"),
        ({"text": "a", "vector_name": "nope"}, "no vector 'nope'"),
        ({"text": "a", "encoder": "siglip2-b32"}, "siglip2-b32"),
        ({"text": "a", "task": "nope"}, "task"),
        ({"text": "a", "filter": {"must": [{"key": "x", "match": {"valu": 1}}]}}, "at must.0.match.valu"),
        ({"text": "a", "filter": {"mist": []}}, "at mist"),
        ({"text": "a", "filter": []}, "not a Qdrant filter"),
        ({"text": "a", "filter": {"must": [{"key": "x"}] * 501}}, "more than 500 conditions"),
        ({"text": "a", "filter": {"must": [{"has_id": ["x"] * 50_000}]}}, "more than 50,000 parts"),
        ({"text": "a", "grup_by": "uri"}, "'grup_by' of the body: there is no such field here"),
        ({"image": "!"}, "base64"),
        ({"image": "aGVsbG8="}, "the picture to search with"),
        ({"image": {"path": "/etc/passwd"}}, "'url' or 'base64'"),
        ({"image": "/etc/passwd"}, "files of the server are not read"),
        ({"image": "file:///etc/passwd"}, "files of the server are not read"),
        ({"image": "http://169.254.169.254/"}, "169.254.169.254"),
        ({"image": base64.b64encode(BIRD[:200]).decode()}, "broken PNG picture"),
    ],
)
def test_one_sentence_says_what_is_wrong(served: Served, asked: dict[str, Any], says: str) -> None:
    """Whatever is wrong with a query is a 400 that names it, and the next request is answered."""
    body = json.dumps(asked)  # httpx would refuse to write NaN
    sent = {"content": body, "headers": {"content-type": "application/json"}}
    assert says in served.refused("/v1/search/drawings", 400, **sent)
    assert len(served.post("drawings", text="a bird", limit=1)["hits"]) == 1


def test_words_without_end_are_refused(served: Served) -> None:
    """A text of more characters than any encoder reads is not cut in silence."""
    assert "100000" in served.refused("/v1/search/drawings", 400, json={"text": "a" * 100_001})


def test_an_unknown_collection(served: Served) -> None:
    """It is not found, alone or among others, and the nearest name is given."""
    assert "did you mean 'drawings'" in served.refused("/v1/search/drawing", 404, json={"text": "a"})
    asked = {"text": "a", "collections": ["texts", "drawing"]}
    assert "did you mean 'drawings'" in served.refused("/v1/search", 404, json=asked)


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b'"a"', b"[1]", b"null", b"[" * 100_000, b'{"text": "\\ud800"}'])
def test_what_is_no_query_is_refused(served: Served, body: bytes) -> None:
    """No JSON, JSON that is not an object, and half a character are a 400."""
    served.refused("/v1/search/drawings", 400, content=body, headers={"content-type": "application/json"})


def test_json_is_said_to_be_json(served: Served) -> None:
    """A form of another kind, or text, is not read as JSON."""
    served.refused("/v1/search/drawings", 400, data={"text": "a"})
    served.refused("/v1/search/drawings", 400, content=b'{"text": "a"}', headers={"content-type": "text/plain"})


@pytest.mark.parametrize(
    ("form", "says"),
    [
        ({"files": [("images", BIRD)]}, "'images'"),
        ({"files": [("image", BIRD), ("image", BIRD)]}, "2 files 'image'"),
        ({"files": [("image", BIRD)], "data": {"text": "a"}}, "'text'"),
        ({"files": [("image", BIRD)], "data": {"query": "{"}}, "JSON"),
        ({"files": [("image", BIRD)], "data": {"query": '{"limit": "x"}'}}, "limit"),
        ({"files": [("image", BIRD)], "data": {"query": json.dumps({"image": IN_BASE64})}}, "came twice"),
        ({"files": [("image", BIRD), ("query", b"{}")]}, "'query' is one text"),
        ({"files": [("minus_image", BIRD)], "data": {"image": "x"}}, "'image' is a file"),
        ({"files": [("image", b"")]}, "empty"),
        ({"files": [("image", BIRD[:300])]}, "broken PNG picture"),
        ({"files": [("image", BIRD)] + [("minus_image", BIRD)] * 40}, "oo many files"),
    ],
)
def test_a_form_that_is_wrong(served: Served, form: dict[str, Any], says: str) -> None:
    """Fields that there are not, twice or of the wrong kind, and pictures that are none, are a 400."""
    assert says in served.refused("/v1/search/drawings", 400, **form)


def test_a_form_that_breaks_off(served: Served) -> None:
    """Half a form is a 400."""
    body = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n' + BIRD
    for headers in ({"content-type": "multipart/form-data; boundary=x"}, {"content-type": "multipart/form-data"}):
        served.refused("/v1/search/drawings", 400, content=body, headers=headers)


# --- many at once ---------------------------------------------------------------------------------


def test_searches_at_the_same_time_are_those_one_after_another(served: Served) -> None:
    """32 concurrent searches of all kinds answer what each answers alone."""
    words = ["a bird", "a red hat", "bees", "the sea"]
    asked: list[tuple[str, dict[str, Any]]] = []
    for n in range(8):
        asked += [
            ("drawings", {"text": words[n % 4], "limit": n + 1}),
            ("texts", {"text": words[n % 4]}),
            ("drawings", {"image": IN_BASE64, "minus": [{"text": words[n % 4]}]}),
            ("", {"text": f"{words[n % 4]} {n}"}),
        ]
    alone = [served.post(collection, **how) for collection, how in asked]
    with ThreadPoolExecutor(32) as threads:
        together = list(threads.map(lambda one: served.post(one[0], **one[1]), asked))
    for one, other in zip(alone, together, strict=True):
        assert [hit["id"] for hit in one["hits"]] == [hit["id"] for hit in other["hits"]]
        np.testing.assert_allclose(
            [hit["score"] for hit in one["hits"]], [hit["score"] for hit in other["hits"]], atol=1e-5
        )


# --- keys, documentation, collections of other people ---------------------------------------------


def test_the_scope_search_is_needed(tmp_path: Path) -> None:
    """Without a key nothing is searched; with one of that scope it is."""
    with running(tmp_path, key=("one:search", "two:index")) as service:
        for path in ("/v1/search", "/v1/search/drawings"):
            assert httpx.post(service.url + path, json={"text": "a"}).status_code == 401
            found = httpx.post(service.url + path, json={"text": "a"}, headers={"mmembed-api-key": "two"})
            assert found.status_code == 403
        found = httpx.post(service.url + path, json={"text": "a"}, headers={"authorization": "Bearer one"})
        assert found.status_code == 404
        nothing = httpx.post(service.url + "/v1/search", json={"text": "a"}, headers={"authorization": "Bearer one"})
        assert (nothing.status_code, nothing.json()["type"]) == (400, "InvalidQuery")


def test_both_bodies_are_documented(served: Served) -> None:
    """The OpenAPI has the JSON and the form of each route, and every schema that they speak of."""
    text = served.client.get("/openapi.json").text
    spec = json.loads(text)
    for path, model in (("/v1/search", "SeveralRequest"), ("/v1/search/{collection}", "SearchRequest")):
        content = spec["paths"][path]["post"]["requestBody"]["content"]
        assert content["application/json"]["schema"] == {"$ref": f"#/components/schemas/{model}"}
        form = content["multipart/form-data"]["schema"]["properties"]
        assert form["query"] == content["application/json"]["schema"]
        assert form.keys() == {"image", "minus_image", "query"}
    referred = {part.split('"')[0] for part in text.split('"#/components/schemas/')[1:]}
    assert {"SearchRequest", "SeveralRequest", "FoundHit"} <= referred <= spec["components"]["schemas"].keys()
