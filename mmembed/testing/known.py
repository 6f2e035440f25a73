"""Known answers: the vectors that an encoder gave to fixed inputs, in a file, to hold it against on another day."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmembed.errors import InvalidEmbedding, SettingsError
from mmembed.testing.images import images
from mmembed.testing.report import Fault
from mmembed.testing.texts import TEXTS, text_roles
from mmembed.testing.vectors import split_rows
from mmembed.types import Embeddings, Encoder, Kind, Role, SparseVector, Vector

_FORMAT = "mmembed known answers 1"
_SIDES = ("queries", "documents", "images")
_SIDE_OF: Mapping[Role, str] = {"query": "queries", "document": "documents"}
_DIGITS = 8  # half a unit of the last is 1e-6 of the norm at 4096 dimensions


@dataclass(frozen=True)
class KnownAnswers:
    """What an encoder gave. The texts are keys, so that a file holds what it was asked."""

    encoder: str
    fingerprint: str
    kind: Kind
    queries: Mapping[str, Vector]
    documents: Mapping[str, Vector]
    images: Mapping[str, Vector]  # name of one of `pictures()` -> its vector


def record_known_answers(encoder: Encoder) -> KnownAnswers:
    """Ask the fixed questions. Raises what the encoder does, or InvalidEmbedding for what are no vectors."""
    spec, named_images = encoder.spec, images()
    embeddings: dict[str, tuple[list[str], Embeddings]] = {side: ([], []) for side in _SIDES}
    for role in text_roles(encoder) if "text" in spec.modalities else ():
        embeddings[_SIDE_OF[role]] = (list(TEXTS), encoder.encode_text(TEXTS, role=role))
    if "image" in spec.modalities:
        embeddings["images"] = (list(named_images), encoder.encode_image(list(named_images.values())))
    try:
        sides = {
            side: dict(zip(keys, split_rows(rows, len(keys), spec.kind), strict=True))
            for side, (keys, rows) in embeddings.items()
        }
    except Fault as fault:
        raise InvalidEmbedding(f"encoder {spec.name} gives no answers to record: {fault}") from fault
    return KnownAnswers(encoder=spec.name, fingerprint=spec.fingerprint, kind=spec.kind, **sides)


def write_known_answers(answers: KnownAnswers, file: Path) -> None:
    """As JSON, rounded to eight digits. Raises SettingsError where the file cannot be written."""
    sides = {side: {key: _listed(row) for key, row in getattr(answers, side).items()} for side in _SIDES}
    head = {"format": _FORMAT, "encoder": answers.encoder, "fingerprint": answers.fingerprint, "kind": answers.kind}
    text = json.dumps({**head, **sides}, ensure_ascii=False)
    try:
        file.write_text(text, "utf-8")
    except OSError as exc:
        raise SettingsError(f"known answers cannot be written to {file} ({exc.strerror}): name another file") from exc


def read_known_answers(file: Path) -> KnownAnswers:
    """Raises SettingsError for a file that `write_known_answers` did not write."""
    try:
        content = json.loads(file.read_text("utf-8"))
        if content["format"] != _FORMAT:
            raise ValueError(f"its format is {content['format']!r}")
        sides = {side: {key: _vector(row) for key, row in content[side].items()} for side in _SIDES}
        return KnownAnswers(content["encoder"], content["fingerprint"], content["kind"], **sides)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as exc:
        raise SettingsError(f"{file} holds no known answers ({exc}): record them again") from exc


def _listed(vector: Vector) -> Any:
    if isinstance(vector, SparseVector):
        return {"indices": vector.indices.tolist(), "values": np.round(vector.values.astype(float), _DIGITS).tolist()}
    return np.round(vector.astype(float), _DIGITS).tolist()


def _vector(written: Any) -> Vector:
    if isinstance(written, dict):
        return SparseVector(
            np.asarray(written["indices"], dtype=np.uint32), np.asarray(written["values"], dtype=np.float32)
        )
    return np.asarray(written, dtype=np.float32)
