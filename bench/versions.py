"""This version against another one, in one run: start, indexing, search and the service, as ratios new over old.

    python bench/versions.py REVISION [--json OUT] [--rounds 5] [--photographs 400]

REVISION is a commit of this repository. Both versions are built as wheels and laid into folders of their own, and the
same interpreter runs both, taking turns, so that another job on the machine slows both. Each measurement is a script
that uses only what both versions have.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from lines import Lines, arguments
from photographs import write_photographs

ROOT = Path(__file__).parent.parent
RATIO = 1.1  # how much worse a median may be before it is more than a noisy machine

IMPORT = "import mmembed"
ENCODERS = "import sys; sys.argv[1:] = ['encoders']; from mmembed.cli import main; main()"
IMAGES = """
import sys, tempfile, mmembed
with tempfile.TemporaryDirectory() as folder:
    store = mmembed.open_store(f"edge:{folder}/store.mm")
    report = mmembed.ingest_images(store, "images", [sys.argv[1]], encoder=mmembed.load_encoder("tiny"))
    assert report.embedded == int(sys.argv[2]) and not report.failures
    store.close()
"""
DOCUMENTS = """
import tempfile, mmembed
from mmembed.demo import DOCUMENTS
with tempfile.TemporaryDirectory() as folder:
    store = mmembed.open_store(f"edge:{folder}/store.mm")
    report = mmembed.ingest_documents(store, "documents", [DOCUMENTS], encoder=mmembed.load_encoder("minilm"))
    assert report.embedded and not report.failures
    store.close()
"""
SEARCH = """
import json, statistics, sys, tempfile, time, mmembed
from mmembed.demo import DOCUMENTS, PICTOGRAMS
with tempfile.TemporaryDirectory() as folder:
    store = mmembed.open_store(f"edge:{folder}/store.mm")
    mmembed.ingest_images(store, "images", [PICTOGRAMS], encoder=mmembed.load_encoder("tiny"))
    mmembed.ingest_documents(store, "documents", [DOCUMENTS], encoder=mmembed.load_encoder("minilm"))
    taken = {"images": [], "documents": []}
    for number in range(220):
        for name, seconds in taken.items():
            began = time.perf_counter()
            assert mmembed.search(store, name, text=f"a birthday cake, number {number}", limit=10)
            seconds.append(time.perf_counter() - began)
    store.close()
    print(json.dumps({name: statistics.median(seconds[20:]) for name, seconds in taken.items()}))
"""
SERVICE = """
import json, os, re, statistics, subprocess, sys, tempfile, threading, time, httpx, psutil, mmembed
from mmembed.demo import PICTOGRAMS
with tempfile.TemporaryDirectory() as folder:
    store = mmembed.open_store(f"edge:{folder}/store.mm")
    mmembed.ingest_images(store, "images", [PICTOGRAMS], encoder=mmembed.load_encoder("tiny"))
    store.close()
    command = [sys.executable, "-m", "mmembed", "serve", "--store", f"edge:{folder}/store.mm", "--port", "0"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    url = next(m[0] for line in server.stderr if (m := re.search(r"http://[\\d.]+:\\d+", line)))
    threading.Thread(target=lambda: [None for _ in server.stderr], daemon=True).start()
    with httpx.Client(base_url=url) as client:
        while client.get("/ready").status_code != 200:
            time.sleep(0.05)
        seconds = []
        for number in range(400):
            began = time.perf_counter()
            answer = client.post("/v1/search/images", json={"text": f"a birthday cake, number {number}"})
            seconds.append(time.perf_counter() - began)
            assert answer.status_code == 200 and answer.json()["hits"], answer.text
    memory = psutil.Process(server.pid).memory_info().rss
    server.terminate(); server.wait()
    print(json.dumps({"seconds": statistics.median(seconds[100:]), "memory": memory}))
"""


def lay_out(revision: str | None, into: Path) -> Path:
    """Build the wheel of a commit, or of what lies here, and unpack it: a folder for PYTHONPATH."""
    source = into / "source"
    if revision is None:
        source = ROOT
    else:
        source.mkdir(parents=True)
        archive = subprocess.run(["git", "-C", ROOT, "archive", revision], check=True, capture_output=True).stdout
        subprocess.run(["tar", "-x", "-C", source], input=archive, check=True)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(into), str(source)]
    subprocess.run(build, check=True, stdout=sys.stderr)
    site = into / "site"
    with zipfile.ZipFile(next(into.glob("mmembed-*.whl"))) as wheel:
        wheel.extractall(site)
    return site


def run(site: Path, code: str, *arguments: str) -> tuple[float, float, str]:
    """CPU seconds and peak MiB of a fresh process and what it printed."""
    environment = {**os.environ, "PYTHONPATH": str(site), "HF_HUB_OFFLINE": "1", "PYTHONSAFEPATH": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", code, *arguments], env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        printed = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"a measurement ended with {process.returncode} on {site}")
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / unit, printed


def figures(what: str, measured: tuple[float, float, str]) -> dict[str, float]:
    """The figures of one run by name: of a script that measures itself its own, else CPU seconds and memory."""
    seconds, memory, printed = measured
    if what == "search":
        return {f"search of {name}, p50": value for name, value in json.loads(printed).items()}
    if what == "service":
        own = json.loads(printed)
        return {"search over HTTP, p50": own["seconds"], "memory of the service": own["memory"] / 2**20}
    return {f"{what}, CPU": seconds, f"{what}, peak memory": memory}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("revision", metavar="REVISION", help="the commit to compare with")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--photographs", type=int, default=400)
    options = parser.parse_args()
    lines = Lines("versions", options.json)
    with tempfile.TemporaryDirectory() as folder:
        photographs = Path(folder) / "photographs"
        write_photographs(photographs, options.photographs, width=640, height=480, seed=1)
        sites = {
            "old": lay_out(options.revision, Path(folder) / "old"),
            "new": lay_out(None, Path(folder) / "new"),
        }
        scripts: dict[str, tuple[str, ...]] = {
            "import mmembed": (IMPORT,),
            "mmembed encoders": (ENCODERS,),
            "images indexed": (IMAGES, str(photographs), str(options.photographs)),
            "documents indexed": (DOCUMENTS,),
            "search": (SEARCH,),
            "service": (SERVICE,),
        }
        for what, script in scripts.items():
            taken: dict[str, dict[str, list[float]]] = {}
            for turn in range(options.rounds + 1):  # the first warms caches up, and does not count
                for version in ("old", "new") if turn % 2 else ("new", "old"):
                    for name, value in figures(what, run(sites[version], *script)).items():
                        if turn:
                            taken.setdefault(name, {}).setdefault(version, []).append(value)
            for name, values in taken.items():
                pairs = [new / old for old, new in zip(values["old"], values["new"], strict=True)]
                facts = {version: float(f"{statistics.median(each):.4g}") for version, each in values.items()}
                spread = [round(min(pairs), 3), round(max(pairs), 3)]
                lines.add(
                    f"{name}, new over old",
                    statistics.median(pairs),
                    unit="ratio",
                    at_most=RATIO,
                    spread=spread,
                    **facts,
                )
    lines.exit()


if __name__ == "__main__":
    main()
