"""SIGKILL at moments that nobody chose: what was acknowledged is there, and nothing is there twice."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import threading
import time
from pathlib import Path
from subprocess import Popen

import files
import httpx
import psutil
import pytest
from programs import Program

from mmembed.stores import open_store

SEED = 20261201
IMAGES = 400
ROUNDS = 30


def put_images(folder: Path, number: int) -> None:
    folder.mkdir()
    for n in range(number):
        files.photo(96, 64, seed=n).save(folder / f"{n:04}.jpeg")


def thumbnails(store: Path) -> set[str]:
    return {file.stem for file in store.rglob("*.webp")}


def kill(child: Popen[str], chance: random.Random) -> None:
    """The program, the process that owns its store, or both, in any order."""
    family = [child.pid, *(each.pid for each in psutil.Process(child.pid).children(recursive=True))]
    chance.shuffle(family)
    for pid in family if chance.random() < 0.7 else [child.pid]:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:  # it went with the other
            continue
    child.communicate(timeout=120)


def test_thirty_kills_of_an_index_run(tmp_path: Path) -> None:
    """What one run stored stays stored; the run that is let alone ends with each image once, thumbnails included."""
    put_images(tmp_path / "folder", IMAGES)
    chance, program, place = random.Random(SEED), Program(tmp_path), tmp_path / "store.mm"
    words = (
        "index",
        "images",
        tmp_path / "folder",
        "--encoder",
        "fake",
        "--store",
        f"edge:{place}",
        "--batch-size",
        "8",
    )
    kept: set[str] = set()
    cut_short = 0
    for _ in range(ROUNDS):
        child = program.start(*words)
        time.sleep(chance.uniform(0.5, 2.5))
        cut_short += child.poll() is None
        if child.poll() is None:
            kill(child, chance)
        else:
            child.communicate()
        store = open_store(f"edge:{place}")
        stored = {point.id for point in store.scroll("images")} if "images" in store.collections() else set()
        store.close()
        assert kept <= stored
        kept = stored
    assert cut_short >= ROUNDS // 3
    assert program(*words).code == 0
    store = open_store(f"edge:{place}")
    points = list(store.scroll("images", vectors=True))
    store.close()
    assert len(points) == len({point.payload["uri"] for point in points}) == IMAGES
    assert all("image" in point.vectors for point in points)
    assert thumbnails(place) == {point.id for point in points}


class Client(threading.Thread):
    """Uploads and deletes by turns until the service is gone, and remembers what it was told."""

    def __init__(self, url: str, number: int, start: int) -> None:
        super().__init__(daemon=True)
        self.url, self.number, self.next = url, number, start
        self.stored: set[str] = set()
        self.removed: set[str] = set()
        self.unsure: set[str] = set()  # asked to be removed, not answered

    def run(self) -> None:
        with contextlib.suppress(httpx.TransportError), httpx.Client(base_url=self.url, timeout=60) as client:
            while self._go_on(client):
                self.next += 1

    def _go_on(self, client: httpx.Client) -> bool:
        """One upload, and after each third a removal; whether they were answered: a store that was killed is a 503."""
        image = files.encoded(files.photo(64, 48, seed=self.next * 10 + self.number), "PNG")
        answer = client.post("/v1/index/photos", files={"file": (f"{self.number}-{self.next}.png", image)})
        if answer.status_code == 503:
            return False
        answer.raise_for_status()
        self.stored |= set(filter(None, answer.json()["ids"]))
        if self.next % 3 == 0 and self.stored:
            gone = self.stored.pop()
            self.unsure.add(gone)
            answer = client.request("DELETE", "/v1/points/photos", json={"ids": [gone]})
            if answer.status_code == 503:
                return False
            answer.raise_for_status()
            self.unsure.remove(gone)
            self.removed.add(gone)
        return True


def address_of(child: Popen[str]) -> str:
    assert child.stderr is not None
    for line in child.stderr:
        if found := re.search(r"http://[\d.]+:\d+", line):
            threading.Thread(target=child.stderr.read, daemon=True).start()
            return found[0]
    raise AssertionError(f"the service ended with {child.wait()} before it was there")


def until_ready(url: str) -> None:
    end = time.monotonic() + 60
    while httpx.get(f"{url}/ready", timeout=30).status_code != 200:
        assert time.monotonic() < end, "not ready within a minute"
        time.sleep(0.1)


def test_thirty_kills_of_the_service(tmp_path: Path) -> None:
    """Uploads that were answered are there, removals hold, nothing is there twice, and no upload is left over."""
    chance, program, place = random.Random(SEED), Program(tmp_path), tmp_path / "store.mm"
    store = open_store(f"edge:{place}")
    store.close()
    stored: set[str] = set()
    removed: set[str] = set()
    for round_ in range(ROUNDS):
        child = program.start("serve", "--store", f"edge:{place}", "--port", "0", "--encoder", "fake")
        url = address_of(child)
        until_ready(url)
        clients = [Client(url, number, 1000 * round_) for number in range(3)]
        for client in clients:
            client.start()
        time.sleep(chance.uniform(0.3, 2.0))
        kill(child, chance)
        for client in clients:
            client.join(60)
        stored |= set().union(*(client.stored for client in clients))
        removed |= set().union(*(client.removed for client in clients))
        unsure = set().union(*(client.unsure for client in clients))
        store = open_store(f"edge:{place}")
        points = list(store.scroll("photos")) if "photos" in store.collections() else []
        store.close()
        there = {point.id for point in points}
        assert stored - unsure <= there
        assert not removed & there
        assert len({point.payload["uri"] for point in points}) == len(points)
        stored = there
    assert len(stored) > ROUNDS
    assert removed
    child = program.start("serve", "--store", f"edge:{place}", "--port", "0", "--encoder", "fake")
    until_ready(address_of(child))
    child.terminate()
    child.communicate(timeout=120)
    uploads = [file for file in place.rglob("*.png") if file.is_file()]
    assert len(uploads) == len(stored), "an upload that no point names is swept by the next start"


@pytest.mark.parametrize("round_", range(10))
def test_kills_of_the_process_that_owns_the_store(round_: int, tmp_path: Path) -> None:
    """The service opens it again: what was acknowledged is found, the next upload is stored."""
    program, place = Program(tmp_path), tmp_path / "store.mm"
    child = program.start("serve", "--store", f"edge:{place}", "--port", "0", "--encoder", "fake")
    try:
        url = address_of(child)
        until_ready(url)
        clients = Client(url, round_, 0)
        clients.start()
        time.sleep(0.5 + round_ / 10)
        owners = [
            each for each in psutil.Process(child.pid).children(recursive=True) if "edge.process" in str(each.cmdline())
        ]
        for owner in owners:
            owner.kill()
        assert owners
        until_ready(url)
        image = files.encoded(files.photo(64, 48, seed=999), "PNG")
        again = httpx.post(f"{url}/v1/index/photos", files={"file": ("again.png", image)}, timeout=60)
        again.raise_for_status()
    finally:
        child.terminate()
        child.communicate(timeout=120)
    store = open_store(f"edge:{place}")
    there = {point.id for point in store.scroll("photos")}
    store.close()
    assert clients.stored | set(again.json()["ids"]) <= there
