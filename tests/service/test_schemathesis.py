"""The service keeps the promises of its OpenAPI, whatever it is sent."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from places import ROOT
from service_app import running

from mmembed import ingest_documents, ingest_images, load_encoder, open_store
from mmembed.service.server import Server

PICTOGRAMS = ROOT / "mmembed" / "demo" / "pictograms"
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A service over a small store of pictures and texts."""
    folder = tmp_path_factory.mktemp("schemathesis")
    (folder / "text.md").write_text("# Bread\n\nFlour, water, salt and time.\n")
    store = open_store(f"edge:{folder / 'store.mm'}")
    images = sorted(PICTOGRAMS.rglob("*.png"))[:12]
    ingest_images(store, "images", images, encoder=load_encoder("tiny"))
    ingest_documents(store, "documents", [folder / "text.md"], encoder=load_encoder("fake"))
    store.close()
    with running(folder, store=f"edge:{folder / 'store.mm'}", max_inputs=16, max_queue=64) as service:
        yield service


def fuzzed(service: Server, described: dict[str, Any], folder: Path, *options: str) -> tuple[int, str]:
    """Schemathesis against the running service: its exit code and what it printed. Same seed, same requests."""
    file = folder / "openapi.json"
    file.write_text(json.dumps(described))
    command = [str(Path(sys.executable).with_name("schemathesis")), "run", str(file), "--url", service.url]
    command += ["--checks", ",".join(CHECKS), "--seed", "1", "--generation-deterministic", "--no-shrink", "--no-color"]
    command += ["--continue-on-failure", "--warnings", "off", "--request-timeout", "20", *options]
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return ran.returncode, ran.stdout + ran.stderr


def strict(described: dict[str, Any]) -> dict[str, Any]:
    """The description with filters one level deep, and without `default` answers, which would allow any status.

    Over Qdrant's recursive filters the generator takes minutes.
    """
    for operations in described["paths"].values():
        for operation in operations.values():
            operation["responses"].pop("default", None)
    schemas = described["components"]["schemas"]
    conditions = [{"$ref": f"#/components/schemas/{name}"} for name in ("FieldCondition", "HasIdCondition")]
    for name in ("must", "must_not", "should"):
        schemas["Filter"]["properties"][name] = {"type": "array", "items": {"anyOf": conditions}}
    del schemas["Filter"]["properties"]["min_should"]
    kept = {"key", "match", "range"}
    fields = schemas["FieldCondition"]["properties"]
    schemas["FieldCondition"]["properties"] = {name: of for name, of in fields.items() if name in kept}
    fields = schemas["FieldCondition"]["properties"]
    fields["match"] = {"$ref": "#/components/schemas/MatchValue"}
    fields["range"] = {"$ref": "#/components/schemas/Range"}
    return described


def openapi(service: Server) -> dict[str, Any]:
    described: dict[str, Any] = httpx.get(f"{service.url}/openapi.json").raise_for_status().json()
    return described


def test_whatever_is_sent_is_answered_as_described(service: Server, tmp_path: Path) -> None:
    """Examples, edge cases and random requests, right and wrong: no 5xx, and each answer as the OpenAPI says."""
    described = strict(openapi(service))
    phases = ("--phases", "examples,coverage,fuzzing", "--max-examples", "8")
    code, printed = fuzzed(service, described, tmp_path, *phases)
    assert code == 0, printed[-8000:]
    tested = re.search(r"Tested: (\d+)", printed)
    assert tested is not None
    assert int(tested[1]) == sum(len(operations) for operations in described["paths"].values())
    assert service.app.state.service.metrics.in_flight == 0


def test_examples_in_the_description_are_well_formed(service: Server) -> None:
    """Every JSON body has an example, of the whole or of its parts, and no whole one is refused as malformed."""
    described = openapi(service)
    tried = 0
    for path, operations in described["paths"].items():
        for method, operation in operations.items():
            content = operation.get("requestBody", {}).get("content", {}).get("application/json")
            if content is None:
                continue
            schema = described["components"]["schemas"][content["schema"]["$ref"].rpartition("/")[2]]
            wholes = [of["value"] for of in content.get("examples", {}).values()] + schema.get("examples", [])
            parts = [name for name, of in schema["properties"].items() if "examples" in of]
            assert wholes or parts, (method, path)
            for body in wholes:
                answer = httpx.request(method, service.url + path.format(collection="documents"), json=body)
                assert answer.status_code < 500, (path, body, answer.text)
                assert "InvalidRequest" not in answer.text, (path, body, answer.text)
                tried += 1
    assert tried >= 3


def test_every_route_describes_itself(service: Server) -> None:
    """Each operation has a summary, a tag and described answers beside 200, in one shape."""
    described = openapi(service)
    assert described["info"]["title"]
    for path, operations in described["paths"].items():
        for method, operation in operations.items():
            assert operation.get("summary"), (method, path)
            assert operation.get("tags"), (method, path)
            statuses = set(operation["responses"])
            assert "422" not in statuses, (method, path)
            if path not in ("/health", "/ready"):
                assert "400" in statuses, (method, path, statuses)


def test_fuzzing_would_notice(service: Server, tmp_path: Path) -> None:
    """The checks fail where the description promises what the service does not do."""
    described = openapi(service)
    described["paths"] = {"/health": described["paths"]["/health"]}
    described["paths"]["/health"]["get"]["responses"] = {"204": {"description": "never"}}
    code, printed = fuzzed(service, described, tmp_path, "--max-examples", "1")
    assert code == 1
    assert "Undocumented" in printed, printed
