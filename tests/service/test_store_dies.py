"""The process of the embedded store dies under the service: it is opened again, or the service ends with a code."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import httpx
import psutil
from service_app import running

from mmembed.demo import PICTOGRAMS
from mmembed.encoders.registry import load_encoder
from mmembed.ingest import ingest_images
from mmembed.stores import open_store


def filled(folder: Path) -> None:
    with closing(open_store(f"edge:{folder}")) as store:
        ingest_images(store, "images", sorted(PICTOGRAMS.glob("*.png"))[:20], encoder=load_encoder("tiny"))


def kill(pid: int) -> None:
    """Until it is dead; it is waited for by its parent."""
    os.kill(pid, signal.SIGKILL)
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)


def test_the_service_goes_on_with_all_that_was_acknowledged(tmp_path: Path) -> None:
    """After each of three kills of the store's process searches, uploads and probes answer, and nothing is lost."""
    filled(tmp_path / "store.mm")
    with running(tmp_path) as service, httpx.Client(base_url=service.url, timeout=60) as client:
        for number in range(3):
            kill(service.app.state.service.store.pid)
            found = client.post("/v1/search", json={"text": "tile", "collections": ["images"], "limit": 100})
            assert len(found.json()["hits"]) == 20 + number
            file = sorted(PICTOGRAMS.glob("*.png"))[20 + number]
            kill(service.app.state.service.store.pid)
            sent = client.post("/v1/index/images", files={"file": (file.name, file.read_bytes())})
            assert sent.status_code == 200, sent.text
            assert client.get("/ready").status_code == 200
            assert client.get("/health").status_code == 200


def test_the_service_ends_where_the_store_is_lost(tmp_path: Path) -> None:
    """A folder that cannot be opened again is the end of `mmembed serve`: one sentence and a code."""
    store = tmp_path / "store.mm"
    filled(store)
    command = [sys.executable, "-m", "mmembed", "serve", "--store", f"edge:{store}", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as service:
        assert service.stderr is not None
        url = next(line.split()[2] for line in service.stderr if line.startswith("mmembed serves"))
        assert httpx.get(f"{url}/health").status_code == 200
        children = psutil.Process(service.pid).children()
        (owner,) = [child for child in children if "mmembed.stores.edge.process" in child.cmdline()]
        kill(owner.pid)
        shutil.rmtree(store)
        store.write_text("a file")
        assert httpx.post(f"{url}/v1/search", json={"text": "tile", "collections": ["images"]}).status_code == 503
        said = service.communicate(timeout=60)[1]
    assert service.returncode == 1
    assert "ended, and" in said.splitlines()[-1]
