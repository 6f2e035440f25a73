"""What the service tells of itself: collections, facets, encoders, thumbnails, health."""

from __future__ import annotations

import io
import json
import os
import signal
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from files import encoded, photo
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from service_app import running

from mmembed.collection import Collection
from mmembed.collection.thumbnails import thumbnail_path
from mmembed.service.server import Server

RIGHTS = ["CC0", "CC0", "CC0", "own", "own", "CC-BY"]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Six pictures with a payload and a document."""
    with running(tmp_path_factory.mktemp("service"), encoder=("fake",)) as served:
        items = [{"payload": {"rights": right, "year": 2020 + n % 2}} for n, right in enumerate(RIGHTS)]
        images = [("file", (f"{n}.png", encoded(photo(seed=n)))) for n in range(6)]
        sent = httpx.post(f"{served.url}/v1/index/pics", files=images, data={"items": json.dumps(items)}, timeout=60)
        assert sent.status_code == 200, sent.text
        note = [("file", ("note.md", b"# Birds\n\nOwls hunt at night."))]
        query = {"kind": "documents", "encoder": "fake"}
        sent = httpx.post(f"{served.url}/v1/index/notes", files=note, params=query, timeout=60)
        assert sent.status_code == 200, sent.text
        yield served


def get(service: Server, path: str, **headers: str) -> httpx.Response:
    return httpx.get(service.url + path, headers=headers, timeout=30)


def ids(service: Server, collection: str) -> list[str]:
    return [point.id for point in service.app.state.service.store.scroll(collection)]


def test_collections_say_what_they_hold(service: Server) -> None:
    """Each collection has its kind, its number of points, and the encoder of each vector."""
    found = {each["name"]: each for each in get(service, "/v1/collections").json()["collections"]}
    assert found.keys() == {"pics", "notes"}
    assert (found["pics"]["kind"], found["pics"]["points"], found["pics"]["searchable"]) == ("images", 6, True)
    assert found["pics"]["vectors"] == {"image": {"encoder": "tiny", "modality": "image", "kind": "dense", "dim": 256}}
    assert found["notes"]["kind"] == "documents"
    assert found["notes"]["vectors"]["bm25"] == {"encoder": "bm25", "modality": "text", "kind": "sparse", "dim": None}


def test_collections_that_cannot_be_searched_say_why(tmp_path: Path) -> None:
    """One of somebody else, one that a newer version made and one of an encoder that is not there: a sentence each."""
    with running(tmp_path) as first:
        for name in ("theirs", "newer", "lost"):
            files = [("file", ("a.png", encoded(photo(seed=1))))]
            assert httpx.post(f"{first.url}/v1/index/{name}", files=files, timeout=60).status_code == 200
    change(tmp_path, "theirs", lambda _: None)
    change(tmp_path, "newer", lambda contract: {**contract, "version": 99})
    change(tmp_path, "lost", lambda contract: json.loads(json.dumps(contract).replace('"tiny"', '"nowhere:model"')))
    with running(tmp_path) as second:
        found = {each["name"]: each for each in get(second, "/v1/collections").json()["collections"]}
        assert {name: (each["kind"], each["points"]) for name, each in found.items()} == {
            "theirs": (None, 1),
            "newer": (None, 1),
            "lost": ("images", 1),
        }
        assert "did not make" in found["theirs"]["searchable"]
        assert "pip install --upgrade" in found["newer"]["searchable"]
        assert "nowhere" in found["lost"]["searchable"]


def change(tmp_path: Path, name: str, new: Any) -> None:
    file = tmp_path / "store.mm" / "collections" / name / "contract.json"
    contract = json.loads(file.read_text())
    file.write_text(json.dumps({**contract, "mmembed": new(contract["mmembed"])}))


def test_facets(service: Server) -> None:
    """A person's keys with their most frequent values first, and none of those that mmembed keeps for itself."""
    facets = get(service, "/v1/collections/pics/facets").json()["facets"]
    assert facets == {
        "rights": [{"value": "CC0", "count": 3}, {"value": "own", "count": 2}, {"value": "CC-BY", "count": 1}],
        "year": [{"value": 2020, "count": 3}, {"value": 2021, "count": 3}],
    }
    shorter = get(service, "/v1/collections/pics/facets?limit=1&key=rights").json()["facets"]
    assert shorter == {"rights": [{"value": "CC0", "count": 3}]}
    assert list(get(service, "/v1/collections/notes/facets").json()["facets"]) == ["headings"]
    assert get(service, "/v1/collections/nothing/facets").status_code == 404
    assert get(service, "/v1/collections/pics/facets?key=nothing").status_code == 400
    assert get(service, "/v1/collections/pics/facets?limit=0").status_code == 400


def test_encoders(service: Server) -> None:
    """Those that are served, with the facts of their cards."""
    found = {each["name"]: each for each in get(service, "/v1/encoders").json()["encoders"]}
    assert found.keys() == {"bm25", "fake", "tiny"}
    assert all(each["loaded"] and each["error"] is None for each in found.values())
    assert found["tiny"]["modalities"] == ["image", "text"]
    assert (found["tiny"]["dim"], found["tiny"]["licence"]) == (256, "Apache-2.0")
    assert (found["bm25"]["kind"], found["bm25"]["dim"]) == ("sparse", None)


def test_an_encoder_that_cannot_be_loaded_says_why(tmp_path: Path) -> None:
    """The others are served, the service is ready, and the one that fails says so without a path."""
    with running(tmp_path, encoder=("nowhere:model",)) as service:
        found = get(service, "/v1/encoders").json()["encoders"]
        assert [each["loaded"] for each in found if each["name"] in ("tiny", "bm25")] == [True, True]
        broken = next(each for each in found if each["name"].startswith("nowhere:"))
        assert not broken["loaded"]
        assert broken["error"]
        assert get(service, "/ready").status_code == 200


def test_thumbnails(service: Server) -> None:
    """A picture's thumbnail is a small WebP that is sent once: with its ETag the answer is 304."""
    path = f"/v1/points/pics/{ids(service, 'pics')[0]}/thumbnail"
    answer = get(service, path)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/webp")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"].startswith("private, max-age=")
    with Image.open(io.BytesIO(answer.content)) as image:
        assert (image.format, image.size) == ("WEBP", (48, 32))
    etag = answer.headers["etag"]
    for known in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        again = get(service, path, **{"if-none-match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
    assert get(service, path, **{"if-none-match": '"other"'}).status_code == 200


@pytest.mark.parametrize(
    "place",
    [
        "pics/..%2f..%2f..%2fcontract",
        "pics/%2e%2e",
        "pics/0",
        "pics/0b0f9ad6-9c1c-5d5c-8f0e-2f1f5b6a7c11",
        "pics/0b0f9ad6-9c1c-5d5c-8f0e-2f1f5b6a7c11%00",
        "pics/%2fetc%2fpasswd",
        "..%2fpics/{id}",
        "%2e%2e/{id}",
        "%2e/{id}",
        "nothing/{id}",
        "notes/{note}",
        "notes/{id}",
    ],
)
def test_thumbnails_that_there_are_not(service: Server, place: str) -> None:
    """Ids that are none, that lead elsewhere or have no picture: 404 in one sentence."""
    place = place.format(id=ids(service, "pics")[0], note=ids(service, "notes")[0])
    answer = get(service, f"/v1/points/{place}/thumbnail")
    assert answer.status_code == 404
    assert isinstance(answer.json()["error"], str)
    assert str(service.app.state.service.folder) not in answer.text


def test_an_id_may_be_written_in_other_ways(service: Server) -> None:
    """A UUID in capitals, or without hyphens, is the same point."""
    id = ids(service, "pics")[0]
    for spelt in (id.upper(), uuid.UUID(id).hex):
        assert get(service, f"/v1/points/pics/{spelt}/thumbnail").status_code == 200


def test_a_dropped_collection_shows_no_thumbnails(service: Server) -> None:
    """With the collection go its thumbnails, on the disk and over HTTP."""
    files = [("file", ("a.png", encoded(photo(seed=77))))]
    id = httpx.post(f"{service.url}/v1/index/short", files=files, timeout=60).json()["ids"][0]
    path = thumbnail_path(Collection(service.app.state.service.store, "short"), id)
    assert path is not None
    assert path.exists()
    assert httpx.delete(f"{service.url}/v1/collections/short").status_code == 200
    assert not path.exists()
    assert get(service, f"/v1/points/short/{id}/thumbnail").status_code == 404


def test_metrics(service: Server) -> None:
    """Prometheus can read what is told, and it counts the requests."""
    get(service, "/health")
    answer = get(service, "/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    families = {family.name: family for family in text_string_to_metric_families(answer.text)}
    requests = [sample for name, family in families.items() if "requests" in name for sample in family.samples]
    assert any("/health" in sample.labels.values() and sample.value >= 1 for sample in requests)


def asking() -> int:
    """Threads of the service that run what blocks."""
    return sum(thread.name.startswith("mmembed_") for thread in threading.enumerate())


def test_ready_and_health_while_the_store_is_busy(service: Server) -> None:
    """While the store does nothing but build, /health and thumbnails answer at once and /ready is 503 in 2 seconds."""
    store = service.app.state.service.store
    thumbnail = f"/v1/points/pics/{ids(service, 'pics')[0]}/thumbnail"
    assert get(service, "/ready").json() == {"status": "ok"}
    os.kill(store.pid, signal.SIGSTOP)  # the store's process answers nobody meanwhile
    try:
        started = time.monotonic()
        assert get(service, "/health").status_code == 200
        assert get(service, "/metrics").status_code == 200
        assert get(service, thumbnail).status_code == 200
        assert time.monotonic() - started < 1
        before = asking()
        for _ in range(2):
            started = time.monotonic()
            answer = get(service, "/ready")
            assert (answer.status_code, answer.json()["type"]) == (503, "StoreUnavailable")
            assert 1.5 < time.monotonic() - started < 4
        assert asking() <= before + 1, "one question waits for the store, however often it is asked"
    finally:
        os.kill(store.pid, signal.SIGCONT)
    assert get(service, "/ready").status_code == 200


def test_not_ready_before_the_encoders_are_loaded(tmp_path: Path) -> None:
    """From the first moment /health is 200, and /ready is 503 with a time to ask again until it is 200."""
    with running(tmp_path, wait=False) as service:
        state = service.app.state.service
        state.served.ready = False
        answer = get(service, "/ready")
        assert get(service, "/health").json() == {"status": "ok"}
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) >= 1
        state.served.load_all()
        assert get(service, "/ready").status_code == 200


def test_the_event_loop_goes_on_while_the_store_optimises(service: Server) -> None:
    """Health is answered all the while that the real search graph is built."""
    store = service.app.state.service.store
    building = threading.Thread(target=store.optimize, args=("pics",))
    building.start()
    slowest = 0.0
    with httpx.Client() as client:
        while building.is_alive():
            started = time.monotonic()
            assert client.get(f"{service.url}/health").status_code == 200
            slowest = max(slowest, time.monotonic() - started)
    building.join()
    assert slowest < 1
