"""A folder with an installed package in it, as pip would lay it out."""

from __future__ import annotations

from pathlib import Path

BY_LENGTH = '''
"""Likes long passages: its score is their length."""
import numpy as np


class ByLength:
    name = "by-length"
    modalities = frozenset({"text"})

    def score(self, query, candidates):
        return np.array([len(text) for text in candidates], dtype=np.float32)


def load(name, run):
    return ByLength()
'''
"""A reranker of texts, for the group `mmembed.rerankers`."""


def install_plugin(site: Path, package: str, family: str, code: str, *, group: str = "mmembed.encoders") -> None:
    """Lay a distribution out as pip would, so that the real importlib.metadata finds it."""
    module = package.replace("-", "_")
    (site / f"{module}.py").write_text(code)
    dist = site / f"{module}-1.0.dist-info"
    dist.mkdir()
    (dist / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (dist / "entry_points.txt").write_text(f"[{group}]\n{family} = {module}:load\n")
