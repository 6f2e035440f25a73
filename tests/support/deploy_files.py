"""What the deploy files say: their objects, and the environment that mmembed has in each of them."""

from __future__ import annotations

import re
import shlex
from typing import Any

import yaml
from places import ROOT

DEPLOY = ROOT / "deploy"


def documents() -> list[dict[str, Any]]:
    """The Kubernetes objects."""
    return list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()))


def pods() -> dict[str, dict[str, Any]]:
    """Name of the app -> its pod's spec."""
    return {
        d["metadata"]["name"]: d["spec"]["template"]["spec"] for d in documents() if "template" in d.get("spec", {})
    }


def compose() -> dict[str, Any]:
    """The services of the compose file."""
    services: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    return services


def unit() -> dict[str, list[str]]:
    """Directive -> its values in order, of the systemd unit."""
    found: dict[str, list[str]] = {}
    for line in (DEPLOY / "mmembed.service").read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def unit_variables() -> dict[str, str]:
    """What the unit sets in the environment."""
    pairs = [pair for line in unit()["Environment"] for pair in shlex.split(line)]
    return dict(pair.split("=", 1) for pair in pairs)


def image_variables() -> dict[str, str]:
    """What the image sets in the environment."""
    return dict(re.findall(r"\b([A-Z_]+)=(\S+?)(?: \\)?$", (ROOT / "Dockerfile").read_text(), re.MULTILINE))


def pod_variables(app: str) -> dict[str, str]:
    """What the pod of `app` has in its environment, secrets by the name of their key."""
    (container,) = pods()[app]["containers"]
    named = {d["metadata"]["name"]: d["data"] for d in documents() if d["kind"] == "ConfigMap"}
    found: dict[str, str] = {}
    for source in container.get("envFrom", []):
        found |= named[source["configMapRef"]["name"]]
    for variable in container["env"]:
        found[variable["name"]] = variable.get("value") or variable["valueFrom"]["secretKeyRef"]["key"]
    return found


def deployments() -> dict[str, dict[str, str]]:
    """Where mmembed runs -> the settings that it is given there, on top of the image's."""
    compose_variables = {name: expanded(value) for name, value in compose()["mmembed"]["environment"].items()}
    given = {
        "image": image_variables() | {"MMEMBED_KEY": "SECRET"},
        "compose": image_variables() | compose_variables,
        "systemd": unit_variables(),
        "kubernetes": image_variables() | pod_variables("mmembed"),
    }
    return {where: {n: v for n, v in of.items() if n.startswith("MMEMBED_")} for where, of in given.items()}


def expanded(value: str) -> str:
    """A value of the compose file with every ${NAME:?message} replaced by its name."""
    return re.sub(r"\$\{(\w+):\?[^}]*\}", r"\1", value)
