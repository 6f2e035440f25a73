"""Options that several commands share, and how they become a store, an encoder and a filter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

if TYPE_CHECKING:
    from qdrant_client.models import Filter

    from mmembed.types import Store

StoreUrl: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--store",
        envvar="MMEMBED_STORE",
        help="http://HOST:6333, edge:FOLDER; by default an embedded Qdrant Edge in your data directory.",
        show_default=False,
    ),
]
ApiKey: TypeAlias = Annotated[
    str | None,
    typer.Option("--api-key", envvar="MMEMBED_QDRANT_API_KEY", help="Of the Qdrant server.", show_default=False),
]
Grpc: TypeAlias = Annotated[
    bool, typer.Option("--grpc", help="Talk gRPC to the Qdrant server: faster writes of long vectors.")
]
Json: TypeAlias = Annotated[bool, typer.Option("--json", help="Machine-readable results on stdout.")]
Device: TypeAlias = Annotated[
    str | None, typer.Option("--device", help="cpu, cuda, cuda:1, mps; by default the best there is.")
]
Dtype: TypeAlias = Annotated[str | None, typer.Option("--dtype", help="float32, bfloat16 or float16.")]
BatchSize: TypeAlias = Annotated[int | None, typer.Option("--batch-size", min=1, help="Inputs a forward pass.")]
TrustRemoteCode: TypeAlias = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run Python code that comes with a model's repository.")
]
Sync: TypeAlias = Annotated[
    bool, typer.Option("--sync", help="Also remove what is gone from these folders and manifests.")
]
Exclude: TypeAlias = Annotated[
    list[str] | None, typer.Option("--exclude", help="Leave out paths that match this pattern; repeatable.")
]
Workers: TypeAlias = Annotated[int | None, typer.Option("--workers", min=1, help="Reading threads.")]
Shards: TypeAlias = Annotated[
    int | None, typer.Option("--shards", min=1, help="Of a collection that is created in a Qdrant cluster.")
]
Replicas: TypeAlias = Annotated[
    int | None, typer.Option("--replicas", min=1, help="Of a collection that is created in a Qdrant cluster.")
]
FilterJson: TypeAlias = Annotated[
    str | None, typer.Option("--filter", help='A Qdrant filter as JSON: {"must": [{"key": "...", "match": {...}}]}.')
]


def default_store() -> str:
    """An Edge folder in the user's data directory."""
    import platformdirs

    return f"edge:{platformdirs.user_data_path('mmembed') / 'store.mm'}"


def open_asked_store(url: str | None, api_key: str | None, grpc: bool, *, to_read: bool = False) -> Store:
    """The store, made if it is not there, unless it is only read: a mistyped folder is then an error."""
    from mmembed.errors import StoreUnavailable
    from mmembed.stores import open_store

    if to_read and is_missing(url):
        raise StoreUnavailable(
            f"there is no store at {url or default_store()}: `mmembed index images FOLDER` makes one"
        )
    return open_store(url or default_store(), api_key=api_key, prefer_grpc=grpc)


def is_missing(url: str | None) -> bool:
    """Whether the store is a folder in which nothing was indexed yet."""
    asked = url or default_store()
    return asked.startswith("edge:") and not (Path(asked.removeprefix("edge:")).expanduser() / "collections").is_dir()


def remembered_name(store: Store, collection: str, vector: str) -> str | None:
    """The encoder that the collection remembers for this vector, if it is there and ours."""
    contract = store.contract(collection) if collection in store.collections() else None
    return contract.vectors[vector].encoder if contract is not None and vector in contract.vectors else None


def parse_filter(text: str | None) -> Filter | None:
    """Qdrant's own filter JSON -> its model; a usage error where it is not one."""
    if text is None:
        return None
    from pydantic import ValidationError
    from qdrant_client.models import Filter

    try:
        return Filter.model_validate(json.loads(text))
    except ValueError as exc:
        first = exc.errors()[0]["msg"] if isinstance(exc, ValidationError) else str(exc)
        raise typer.BadParameter(f"not a Qdrant filter ({first})", param_hint="--filter") from exc


def existing_file(path: Path) -> Path:
    if not path.is_file():
        raise typer.BadParameter(f"there is no file {str(path)!r}")
    return path


def as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
