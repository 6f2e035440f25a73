"""Rerankers over HTTP: those that were named when the service was started, and no others."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from plugin_sites import BY_LENGTH, install_plugin
from service_app import running

from mmembed import ingest_documents, load_encoder, load_reranker, open_store, search
from mmembed.service.server import Server


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Three passages of different lengths, and a reranker beside one that cannot be loaded."""
    folder = tmp_path_factory.mktemp("rerank")
    install_plugin(folder, "length-reranker", "by-length", BY_LENGTH, group="mmembed.rerankers")
    for name, text in (("a", "salt"), ("b", "salt and water"), ("c", "salt, water and flour")):
        (folder / f"{name}.md").write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        store = open_store(f"edge:{folder / 'store.mm'}")
        ingest_documents(store, "texts", sorted(folder.glob("*.md")), encoder=load_encoder("fake"), images_into=None)
        store.close()
        with running(folder, reranker=("by-length", "by-length?no=1")) as service:
            yield service


def found(service: Server, **asked: object) -> httpx.Response:
    return httpx.post(f"{service.url}/v1/search/texts", json={"text": "salt", **asked}, timeout=60)


def test_a_reranker_orders_the_hits(service: Server) -> None:
    """A search that names a served reranker has its order and its scores, as `search` gives them."""
    hits = found(service, rerank="by-length").raise_for_status().json()["hits"]
    assert [hit["text"] for hit in hits] == ["salt, water and flour", "salt and water", "salt"]
    assert [hit["score"] for hit in hits] == [21, 14, 4]
    store = service.app.state.service.store
    same = search(store, "texts", text="salt", rerank=load_reranker("by-length"))
    assert [(hit["id"], hit["score"]) for hit in hits] == [(hit.id, hit.score) for hit in same]


def test_a_reranker_reads_the_candidates_alone(service: Server) -> None:
    """With one candidate, the best hit without a reranker stays the first, and the others follow as they were."""
    plain = [hit["id"] for hit in found(service).json()["hits"]]
    reranked = found(service, rerank="by-length", candidates=1).json()["hits"]
    assert [hit["id"] for hit in reranked] == plain
    assert found(service, candidates=0).status_code == 400
    assert found(service, late=False).status_code == 200


def test_no_request_loads_a_reranker(service: Server) -> None:
    """A reranker that was not named at the start is refused in a sentence that names those that were."""
    for name in ("cross-encoder:BAAI/bge-reranker-base", "by-length?x=2", ""):
        answer = found(service, rerank=name)
        assert (answer.status_code, answer.json()["type"]) == (400, "UnknownEncoder")
        assert "by-length" in answer.json()["error"]
    assert set(service.app.state.service.rerankers._loaded) == {"by-length", "by-length?no=1"}


def test_a_reranker_that_cannot_be_loaded_harms_no_other(service: Server) -> None:
    """Its failure is told to whoever names it, each time alike, and the service is ready all the same."""
    assert httpx.get(f"{service.url}/ready").status_code == 200
    answers = [found(service, rerank="by-length?no=1") for _ in range(2)]
    assert answers[0].status_code >= 400
    assert answers[0].json() == answers[1].json()
    assert found(service).status_code == 200


def test_several_collections_are_reranked(service: Server) -> None:
    """The search of several collections takes a reranker as that of one does."""
    answer = httpx.post(f"{service.url}/v1/search", json={"text": "salt", "rerank": "by-length"}, timeout=60)
    assert [hit["text"] for hit in answer.json()["hits"]] == ["salt, water and flour", "salt and water", "salt"]
