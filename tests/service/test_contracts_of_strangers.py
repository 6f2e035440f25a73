"""A contract is data from a stranger: it chooses no server, no vendor, no folder and no download."""

from __future__ import annotations

import threading
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from checkpoints_lora import to_cache
from checkpoints_text import build_bert
from plugin_sites import install_plugin
from service_app import running

from mmembed.demo import PICTOGRAMS
from mmembed.encoders.registry import load_encoder
from mmembed.encoders.trust import reason_to_ask
from mmembed.errors import EncoderLoadError, SettingsError
from mmembed.ingest import ingest_images
from mmembed.retrieval import Search, search_several
from mmembed.service.served_encoders import ServedEncoders
from mmembed.service.settings import Settings
from mmembed.stores import open_store
from mmembed.types import Contract, Point, VectorContract

ASKS = """
import httpx
from mmembed.demo import PICTOGRAMS
from mmembed.encoders.registry import load_encoder

def load(name, run, *, base_url=None):
    httpx.post(base_url, json={"input": ["a"]}, timeout=5)
    return load_encoder("fake")
"""


def hostile(store: Any, collection: str, encoder: str) -> None:
    """A collection of one point whose contract names `encoder`."""
    store.create(
        collection, Contract("images", {"image": VectorContract(encoder, "ff", "image", "dense", 4)}), indexes={}
    )
    vector = np.array([1, 0, 0, 0], dtype=np.float32)
    point = Point("00000000-0000-0000-0000-000000000001", {"image": vector}, {"uri": "a.png"})
    store.upsert(collection, [point])


def test_a_strangers_address_is_never_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a plugin that would ask it installed, the address in a contract gets no request; other collections work."""
    asked: list[str] = []

    class Stranger(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    install_plugin(tmp_path, "asks-around", "asks", ASKS)
    monkeypatch.syspath_prepend(tmp_path)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Stranger)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    name = f"asks:model?base_url=http://127.0.0.1:{server.server_port}/v1"
    with closing(open_store(f"edge:{tmp_path / 'store.mm'}")) as store:
        ingest_images(store, "good", [PICTOGRAMS / "1f004.png"], encoder=load_encoder("tiny"))
        hostile(store, "bad", name)
    with running(tmp_path) as service:
        alone = httpx.post(f"{service.url}/v1/search", json={"collections": ["bad"], "text": "my secret"}, timeout=20)
        assert alone.status_code == 503
        assert "--trust-contracts" in alone.json()["error"]
        both = httpx.post(f"{service.url}/v1/search", json={"text": "tile"}, timeout=20).json()
        assert [hit["collection"] for hit in both["hits"]] == ["good"]
        assert list(both["skipped"]) == ["bad"]
        assert httpx.get(f"{service.url}/ready").status_code == 200
    assert asked == []
    with running(tmp_path, trust_contracts=True):
        assert asked
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    "name",
    [
        "sentence:./folder",
        "sentence:/etc",
        "sentence:~/model",
        "siglip:nobody/never-fetched",
        "vlm:nobody/never-fetched?revision=abc",
        "sentence:sentence-transformers/all-MiniLM-L6-v2?revision=0123",
        "sentence:sentence-transformers/all-MiniLM-L6-v2?adapter=nobody/adapter",
        "minilm?adapter=/tmp/adapter",
        "open_clip:ViT-B-32@/tmp/weights.pt",
        "open_clip:hf-hub:nobody/never-fetched",
        "open_clip:local-dir:/tmp",
        "open_clip:ViT-B-32/laion400m_e31",
        "open_clip:ViT-B-16-SigLIP2-256/webli?tokenizer=/tmp",
        "tiny?base_url=http://127.0.0.1:1",
        "nowhere:model?base_url=http://127.0.0.1:1",
        "colours:x",
    ],
)
def test_what_a_contract_alone_does_not_load(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Addresses, plugins, paths and repositories that are not in the cache are refused before anything is touched."""
    install_plugin(tmp_path, "my-colours", "colours", "def load(name, run):\n    raise SystemExit\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert reason_to_ask(name)
    with closing(open_store(":memory:")) as store:
        hostile(store, "bad", name)
        served = ServedEncoders(store, Settings())
        served.load_all()
        assert set(served.loaded()) == {"tiny", "bm25"}
        (refused,) = served.failures().values()
        assert isinstance(refused, EncoderLoadError)
        assert "--encoder" in str(refused)


@pytest.mark.parametrize(
    "name", ["minilm", "tiny", "fake", "fake:other?dim=16", "bm25?language=german", "siglip2-b32", "e5-mistral", "?"]
)
def test_what_is_known_needs_no_leave(name: str) -> None:
    """Presets and families without weights are a contract's to name; a name that is none fails by itself."""
    assert reason_to_ask(name) is None


def test_a_repository_in_the_cache_needs_no_leave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was fetched once is served; another revision of it, or its config without weights, is not."""
    folder = build_bert(tmp_path / "bert", pooling="mean")
    cache = tmp_path / "hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    to_cache(cache, "me/bert", folder)
    assert reason_to_ask("sentence:me/bert") is None
    assert reason_to_ask(f"sentence:me/bert?revision={'a' * 40}") is None
    assert reason_to_ask(f"sentence:me/bert?revision={'b' * 40}") == "which is a repository that is not in the cache"
    for weights in [*folder.rglob("*.safetensors"), *folder.rglob("*.bin")]:
        weights.unlink()
    assert reason_to_ask("sentence:me/bert") == "which is a repository that is not in the cache"


def test_the_operators_word_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of a contract is served where --encoder names it, by a relative path too."""
    folder = build_bert(tmp_path / "bert", pooling="mean")
    monkeypatch.chdir(tmp_path)
    with closing(open_store(":memory:")) as store:
        hostile(store, "mine", f"sentence:{folder}")
        served = ServedEncoders(store, Settings(encoder=("sentence:bert",)))
        served.load_all()
        assert served.failures() == {}
        assert served.encoder(f"sentence:{folder}") is served.encoder("sentence:bert")


def test_a_setting_that_an_encoder_refuses_skips_its_collection() -> None:
    """One collection whose encoder raises SettingsError is skipped by a search over several, with its sentence."""

    class Refuses(dict[str, Any]):
        def __missing__(self, name: str) -> Any:
            if name == "bad":
                raise SettingsError("?base_url= makes no sense")
            return load_encoder(name)

    with closing(open_store(":memory:")) as store:
        ingest_images(store, "good", [PICTOGRAMS / "1f004.png"], encoder=load_encoder("tiny"))
        hostile(store, "bad", "bad")
        found = search_several(store, ["bad", "good"], Search(text="tile"), encoders=Refuses())
        assert [hit.collection for hit in found.hits] == ["good"]
        assert found.skipped == {"bad": "?base_url= makes no sense"}
