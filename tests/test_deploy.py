"""What is shipped to deploy the service speaks of settings, flags, ports and routes that there are."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from deploy_files import (
    DEPLOY,
    compose,
    deployments,
    documents,
    image_variables,
    pod_variables,
    pods,
    unit,
)
from places import ROOT

from mmembed.service.settings import Settings, read_settings

INFERENCE = "QDRANT__INFERENCE__ADDRESS"

pytestmark = pytest.mark.skipif(
    not DEPLOY.is_dir(), reason="the deploy files are in the repository, not in its packages"
)


@pytest.mark.parametrize("where", ["image", "compose", "systemd", "kubernetes"])
def test_settings_are_accepted(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The service takes every variable that it is given, and listens where it is expected."""
    for name in [name for name in os.environ if name.startswith("MMEMBED_")]:
        monkeypatch.delenv(name)
    for name, value in deployments()[where].items():
        monkeypatch.setenv(name, value)
    settings = read_settings()
    assert settings.port == 8600
    assert settings.has_keys
    assert settings.folder is not None
    assert settings.host == ("127.0.0.1" if where == "systemd" else "0.0.0.0")


def test_stopping_waits_longer_than_the_service_does() -> None:
    """Nobody kills the service while it still answers what it accepted."""
    given = {where: float(of.get("MMEMBED_SHUTDOWN_SECONDS", 0)) for where, of in deployments().items()}
    assert int(compose()["mmembed"]["stop_grace_period"].removesuffix("s")) > given["compose"] > 0
    assert int(unit()["TimeoutStopSec"][0]) > given["systemd"] > 0
    assert pods()["mmembed"]["terminationGracePeriodSeconds"] > given["kubernetes"] > 0


def routes(folder: Path) -> set[str]:
    """The paths that the service answers."""
    from mmembed.service.app import create_app

    return set(create_app(Settings(store=f"edge:{folder / 'store.mm'}")).openapi()["paths"])


def test_addresses_lead_to_routes_of_the_service(tmp_path: Path) -> None:
    """The inference address and every probe name the host, the port and a path that there are."""
    paths = routes(tmp_path)
    for variables in (compose()["qdrant"]["environment"], pod_variables("qdrant")):
        assert variables[INFERENCE] == "http://mmembed:8600/qdrant/infer"
    assert "/qdrant/infer" in paths
    (container,) = pods()["mmembed"]["containers"]
    probes = {container[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "liveness", "readiness")}
    assert probes == {"/health", "/ready"}
    checks = [(ROOT / "Dockerfile").read_text(), " ".join(compose()["mmembed"]["healthcheck"]["test"])]
    asked = {path for check in checks for path in re.findall(r"http://127\.0\.0\.1:[^/]+(/\w+)", check)}
    assert asked == {"/health", "/ready"}
    assert asked <= paths


def test_ports_agree() -> None:
    """What is published, exposed and routed to is what the containers listen on."""
    assert "EXPOSE 8600" in (ROOT / "Dockerfile").read_text()
    assert compose()["mmembed"]["ports"] == ["127.0.0.1:8600:8600"]
    for app, spec in pods().items():
        (service,) = [d for d in documents() if d["kind"] == "Service" and d["metadata"]["name"] == app]
        listens = {port["name"]: port["containerPort"] for port in spec["containers"][0]["ports"]}
        assert {port["targetPort"]: port["port"] for port in service["spec"]["ports"]} == listens
        probed = {
            spec["containers"][0][f"{kind}Probe"]["httpGet"]["port"] for kind in ("startup", "liveness", "readiness")
        }
        assert probed <= set(listens)
    assert {app: spec["containers"][0]["ports"][0]["containerPort"] for app, spec in pods().items()} == {
        "qdrant": 6333,
        "mmembed": 8600,
    }


def test_what_is_written_to_is_a_volume() -> None:
    """On a read-only root file system each folder that is written to is mounted, and there is no key in the files."""
    written = {image_variables()[name] for name in ("MMEMBED_FOLDER", "HF_HOME")} | {"/tmp", "/data"}
    (container,) = pods()["mmembed"]["containers"]
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert all(any(path == at or path.startswith(f"{at}/") for at in mounts) for path in written)
    service = compose()["mmembed"]
    assert {volume.partition(":")[2] for volume in service["volumes"]} | set(service["tmpfs"]) == mounts
    for spec in pods().values():
        claimed = {volume["name"] for volume in spec["volumes"]} | {"storage"}
        assert {mount["name"] for mount in spec["containers"][0]["volumeMounts"]} <= claimed
    assert not [d for d in documents() if d["kind"] == "Secret"]
    made = set(re.findall(r"--from-literal=(\w+)=", (DEPLOY / "kubernetes.yaml").read_text()))
    assert made == {"admin", "infer", "qdrant"}


@pytest.mark.parametrize("app", ["mmembed", "qdrant"])
def test_pods_have_no_rights_and_no_service_variables(app: str) -> None:
    """No pod runs as root, writes into its image, or is given MMEMBED_PORT=tcp://... by Kubernetes."""
    spec = pods()[app]
    (container,) = spec["containers"]
    assert spec["enableServiceLinks"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert compose()[app]["read_only"] is True
    assert compose()[app]["cap_drop"] == ["ALL"]


def test_flags_in_what_is_shipped_exist() -> None:
    """Each `mmembed serve` in the deploy files and their page of documentation has flags that the command knows."""
    shown = subprocess.run(
        [sys.executable, "-m", "mmembed", "serve", "--help"],
        env={**os.environ, "COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    known = set(re.findall(r"--[a-z][a-z-]*", shown))
    files = [ROOT / "Dockerfile", ROOT / "compose.yaml", *DEPLOY.iterdir(), ROOT / "docs" / "service.md"]
    commands = [line for file in files for line in re.findall(r"mmembed serve\b(.*)", file.read_text())]
    flags = {flag for line in commands for flag in re.findall(r"(?<!\S)--[a-z][a-z-]*", line)}
    assert flags >= {"--host", "--key-file"}
    assert flags <= known, flags - known


def test_variables_in_the_documentation_are_settings() -> None:
    """No page or deploy file names a variable that the service refuses."""
    fields = {f"MMEMBED_{name}".upper() for name in Settings.model_fields}
    files = [ROOT / "Dockerfile", ROOT / "compose.yaml", *DEPLOY.iterdir(), ROOT / "docs" / "service.md"]
    named = {name for file in files for name in re.findall(r"\bMMEMBED_[A-Z_]+\b", file.read_text())}
    named -= {"MMEMBED_NAME"}  # stands for any of them
    named = {name for name in named if not name.startswith("MMEMBED_TEST_")}  # read by the tests alone
    assert {"MMEMBED_STORE", "MMEMBED_KEY", "MMEMBED_KEY_FILE"} <= named
    assert named <= fields, named - fields


def test_image_is_built_from_what_is_there(tmp_path: Path) -> None:
    """A wheel built from nothing but what the Dockerfile copies carries the web page, the presets and the encoders."""
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    sources = [name for line in copied for name in line.split()]
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert set(sources) == allowed
    for name in sources:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, tmp_path / name)
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel"],
        cwd=tmp_path,
        capture_output=True,
        check=True,
    )
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {"mmembed/service/web/index.html", "mmembed/service/app.py", "mmembed/encoders/families/tiny.py"} <= names


class Answering(BaseHTTPRequestHandler):
    """Qdrant's readiness, as its health check asks for it: 200 on /readyz, 503 elsewhere."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == self.server.ready_path else 503)  # type: ignore[attr-defined]
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def answering() -> Iterator[ThreadingHTTPServer]:
    """A server on a free port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.skipif(not shutil.which("bash"), reason="there is no bash, which the check of the Qdrant image uses")
@pytest.mark.parametrize(("path", "healthy"), [("/readyz", True), ("/other", False)])
def test_health_check_of_qdrant_reads_the_status(answering: ThreadingHTTPServer, path: str, healthy: bool) -> None:
    """The check without curl succeeds on 200 and fails on 503 and on a closed port."""
    answering.ready_path = path  # type: ignore[attr-defined]
    _, *command = compose()["qdrant"]["healthcheck"]["test"]
    port = str(answering.server_address[1])
    asked = [word.replace("6333", port) for word in command]
    assert (subprocess.run(asked, capture_output=True, check=False).returncode == 0) is healthy
    closed = [word.replace("6333", "1") for word in command]
    assert subprocess.run(closed, capture_output=True, check=False).returncode != 0


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="there is no systemd-analyze")
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    """Each directive is known and in its section, and what is left exposed scores below 2 of 10."""
    text = (DEPLOY / "mmembed.service").read_text()
    file = tmp_path / "mmembed.service"
    file.write_text(text.replace("/opt/mmembed/bin/mmembed", sys.executable))
    verified = subprocess.run(["systemd-analyze", "verify", file], capture_output=True, text=True, check=False)
    assert (verified.returncode, verified.stderr) == (0, "")
    scored = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--threshold=20", file],
        capture_output=True,
        text=True,
        check=False,
    )
    assert scored.returncode == 0, scored.stdout[-200:]
