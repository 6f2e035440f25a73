"""What others run is what is here: workflows, hooks and forms name versions, targets and files that exist."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from places import ROOT

import mmembed

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
FORMS = sorted(path for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml") if path.stem != "config")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def jobs(name: str) -> dict[str, Any]:
    found: dict[str, Any] = read(ROOT / ".github" / "workflows" / name)["jobs"]
    return found


def targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def test_every_supported_python_is_tested() -> None:
    """The matrix has the versions of the classifiers, from the oldest that pyproject.toml allows, on both systems."""
    matrix = jobs("ci.yml")["test"]["strategy"]["matrix"]
    named = re.findall(r":: (3\.\d+)$", "\n".join(PROJECT["project"]["classifiers"]), re.MULTILINE)
    assert matrix["python"] == named
    assert PROJECT["project"]["requires-python"] == f">={named[0]}"
    assert matrix["os"] == ["ubuntu-latest", "macos-latest"]


def test_every_supported_qdrant_is_tested() -> None:
    """From 1.16, which first keeps contracts as metadata and fuses with weights, without a gap to the latest."""
    versions = jobs("qdrant.yml")["server"]["strategy"]["matrix"]["qdrant"]
    assert versions[0] == "v1.16"
    assert versions[-1] == "latest"
    minors = [int(version.removeprefix("v1.")) for version in versions[:-1]]
    assert minors == list(range(16, 16 + len(minors)))
    (shipped,) = set(re.findall(r"qdrant/qdrant:v1\.(\d+)", (ROOT / "compose.yaml").read_text(encoding="utf-8")))
    assert int(shipped) in minors


def test_the_tests_listen_where_the_server_of_the_workflow_asks() -> None:
    """Qdrant's inference address is that of the service that the tests start."""
    job = jobs("qdrant.yml")["server"]
    asked = job["services"]["qdrant"]["env"]["QDRANT__INFERENCE__ADDRESS"]
    assert asked == f"http://{job['env']['MMEMBED_TEST_INFER_HOST']}:8600/qdrant/infer"


@pytest.mark.parametrize("path", [*WORKFLOWS, ROOT / ".ci" / "run", ROOT / "CONTRIBUTING.md", ROOT / "RELEASE.md"])
def test_every_make_target_that_is_named_exists(path: Path) -> None:
    """`make NAME NAME` anywhere names targets of the Makefile."""
    commands = re.findall(r"(?:^|run: |`|&& )make((?: [a-z-]+)+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    named = {word for words in commands for word in words.split()}
    assert named, path
    assert named <= targets()


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_may_only_read_and_have_an_end(path: Path) -> None:
    """No job may write to the repository, and each ends within two hours."""
    workflow = read(path)
    assert workflow["permissions"] == {"contents": "read"}
    assert all(job["timeout-minutes"] <= 120 and "permissions" not in job for job in workflow["jobs"].values())


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_forms_have_what_github_asks_for(path: Path) -> None:
    """A name, a description, and fields each with an id of its own and a label."""
    form = read(path)
    assert form["name"]
    assert form["description"]
    fields = [part for part in form["body"] if part["type"] != "markdown"]
    assert len({field["id"] for field in fields}) == len(fields) > 0
    assert all(field["attributes"]["label"] for field in fields)


def test_hooks_are_local_and_run_what_make_installs() -> None:
    """No hook brings a version of its own of what `make check` runs."""
    (repository,) = read(ROOT / ".pre-commit-config.yaml")["repos"]
    assert repository["repo"] == "local"
    programs = {hook["entry"].split()[0] for hook in repository["hooks"]}
    assert programs == {".venv/bin/ruff", ".venv/bin/typos", ".venv/bin/python", "sh"}


def test_dependabot_watches_every_kind_of_dependency() -> None:
    """Python packages, the workflows' actions and the image's base."""
    updates = read(ROOT / ".github" / "dependabot.yml")["updates"]
    assert {update["package-ecosystem"] for update in updates} == {"pip", "github-actions", "docker"}


def test_the_version_is_said_once() -> None:
    """pyproject.toml takes it from the package, and files that name an image of ours name this one."""
    assert PROJECT["project"]["dynamic"] == ["version"]
    assert PROJECT["tool"]["hatch"]["version"]["path"] == "mmembed/__init__.py"
    for name in ("compose.yaml", "Dockerfile", "deploy/kubernetes.yaml"):
        images = re.findall(r"\bmmembed:(\d+\.\d[\w.]*)", (ROOT / name).read_text(encoding="utf-8"))
        assert set(images) == {mmembed.__version__}, name


def test_the_changelog_has_an_unreleased_part_on_top() -> None:
    """Keep a Changelog's form: kinds of change under each version, a date behind each released one."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    first, *released = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert first == "[Unreleased]"
    assert all(re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", version) for version in released)
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert set(re.findall(r"^### (.+)$", text, re.MULTILINE)) <= kinds
