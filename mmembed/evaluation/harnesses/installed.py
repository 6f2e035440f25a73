"""Whether a harness is installed at all."""

from __future__ import annotations

from importlib.util import find_spec

from mmembed.errors import MissingDependency


def check_installed(what: str, package: str) -> None:
    """Raise MissingDependency unless `package` can be imported; nothing is imported."""
    if find_spec(package) is None:
        raise MissingDependency(what, package, "mmembed[harnesses]")
