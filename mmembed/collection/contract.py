"""What a collection remembers about its encoders, as JSON: the value of the metadata key "mmembed".

    {"version": 1, "kind": "images", "vectors": {"image": {"encoder": "tiny", "fingerprint": "9c...",
     "modality": "image", "kind": "dense", "dim": 256, "distance": "cosine", "dtype": "float32"}}}

Any Qdrant client in any language can read it, so keys are only ever added; a change of meaning raises the version.
What was measured of a collection lies beside the vectors under "notes", a key that is there only where there is any.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any, TypeAlias, get_args

from mmembed.errors import CollectionMismatch, StoreError
from mmembed.types import Contract, Distance, Encoder, Kind, Modality, VectorContract

Json: TypeAlias = dict[str, Any]

METADATA_KEY = "mmembed"
VERSION = 1
MAX_NOTE_BYTES = 256 * 1024  # of one note as JSON: a contract is read whole, and often

_KINDS = get_args(Kind)
_MODALITIES = get_args(Modality)
_DISTANCES = get_args(Distance)


def contract_to_json(contract: Contract) -> Json:
    """The value of the metadata key "mmembed"."""
    vectors = {name: asdict(vector) for name, vector in contract.vectors.items()}
    notes = {"notes": dict(contract.notes)} if contract.notes else {}
    return {"version": contract.version, "kind": contract.kind, "vectors": vectors, **notes}


def contract_from_json(value: Any, collection: str) -> Contract:
    """Read what `contract_to_json` wrote. Keys it does not know are left alone.

    Raises StoreError where a newer mmembed wrote it, or where it is not what it should be.
    """
    version = value.get("version") if isinstance(value, Mapping) else None
    if isinstance(version, int) and version > VERSION:
        raise StoreError(
            f"collection {collection!r} was made by a newer mmembed (contract version {version}, this one reads "
            f"{VERSION}): pip install --upgrade mmembed"
        )
    try:
        if version != VERSION or value["kind"] not in ("images", "documents"):
            raise ValueError(f"version {version!r}, kind {value.get('kind')!r}")
        vectors = {str(name): _vector_from_json(row) for name, row in value["vectors"].items()}
        notes = {str(key): note for key, note in value.get("notes", {}).items()}
    except (AttributeError, KeyError, TypeError, ValueError) as exc:
        raise StoreError(
            f"the contract of collection {collection!r} cannot be read ({type(exc).__name__}: {exc}): its metadata "
            f"key {METADATA_KEY!r} was changed by hand; put it back, or index into another collection"
        ) from exc
    return Contract(kind=value["kind"], vectors=vectors, version=version, notes=notes)


def _vector_from_json(row: Mapping[str, Any]) -> VectorContract:
    vector = VectorContract(
        encoder=str(row["encoder"]),
        fingerprint=str(row["fingerprint"]),
        modality=row["modality"],
        kind=row["kind"],
        dim=row["dim"],
        distance=row.get("distance", "cosine"),
        dtype=row.get("dtype", "float32"),
    )
    if vector.modality not in _MODALITIES or vector.kind not in _KINDS or vector.distance not in _DISTANCES:
        raise ValueError(f"{vector.modality}, {vector.kind}, {vector.distance}")
    if (vector.kind == "sparse") != (vector.dim is None) or not isinstance(vector.dim, int | None):
        raise ValueError(f"a {vector.kind} vector of dim {vector.dim!r}")
    return vector


def with_vector(collection: str, contract: Contract, name: str, vector: VectorContract) -> Contract:
    """`contract` and one more vector; the same one again changes nothing, another raises CollectionMismatch."""
    known = contract.vectors.get(name)
    if known is not None and known != vector:
        raise CollectionMismatch(
            collection,
            name,
            stored=f"{known.encoder} ({known.fingerprint})",
            given=f"{vector.encoder} ({vector.fingerprint})",
            advice="give the new vector another name",
        )
    return replace(contract, vectors={**contract.vectors, name: vector})


def with_note(collection: str, contract: Contract, key: str, value: Any) -> Contract:
    """`contract` with `value` as JSON has it in its notes; without that note where it is None.

    Raises StoreError for an empty key, for what JSON has no word for, and for more than MAX_NOTE_BYTES.
    """
    if not key:
        raise StoreError(f"a note for collection {collection!r} was given no key: name it")
    notes = {known: note for known, note in contract.notes.items() if known != key}
    if value is None:
        return replace(contract, notes=notes)
    try:
        text = json.dumps(value, allow_nan=False, ensure_ascii=False)
        size_bytes = len(text.encode())
    except (TypeError, ValueError, RecursionError) as exc:
        raise StoreError(
            f"note {key!r} of collection {collection!r} is not JSON ({exc}): give lists, dicts, texts and numbers"
        ) from exc
    if size_bytes > MAX_NOTE_BYTES:
        raise StoreError(
            f"note {key!r} of collection {collection!r} has {size_bytes:,} bytes, more than {MAX_NOTE_BYTES:,}: "
            f"keep it in a file"
        )
    return replace(contract, notes={**notes, key: json.loads(text)})


def uses_idf(encoder: str) -> bool:
    """Whether Qdrant weighs a sparse vector's terms by their rarity in the collection (its IDF modifier).

    True for encoders whose name starts with "bm25": they give term frequencies only. Learned sparse
    encoders (SPLADE, BGE-M3) have rarity in their weights already.
    """
    return encoder.startswith("bm25")


def check_fingerprint(collection: str, vector: str, contract: VectorContract, encoder: Encoder) -> None:
    """Raise CollectionMismatch unless `encoder` makes vectors comparable with the stored ones."""
    if encoder.spec.fingerprint == contract.fingerprint:
        return
    same_name = encoder.spec.name == contract.encoder
    given = f"today's {encoder.spec.name} (its weights or configuration changed)" if same_name else encoder.spec.name
    raise CollectionMismatch(collection, vector, stored=contract.encoder, given=given)
