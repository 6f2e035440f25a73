"""`mmembed search`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmembed.cli import options as o

if TYPE_CHECKING:
    from mmembed.types import Hit, LoadOptions, Reranker

_SNIPPET = 160  # characters of a passage


def search_command(
    query: Annotated[str | None, typer.Argument(help="Words to search for.")] = None,
    image: Annotated[Path | None, typer.Option(help="A picture to search with, alone or beside words.")] = None,
    collection: Annotated[str, typer.Option("--in", help="Collection to search.")] = "images",
    store: o.StoreUrl = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="Number of hits.")] = 10,
    offset: Annotated[int, typer.Option(min=0, help="Hits to skip.")] = 0,
    filter: o.FilterJson = None,
    all_passages: Annotated[
        bool, typer.Option("--all-passages", help="Every passage of a document, not only its best.")
    ] = False,
    minus: Annotated[list[str] | None, typer.Option(help="Words to subtract; repeatable.")] = None,
    minus_image: Annotated[list[Path] | None, typer.Option(help="A picture to subtract; repeatable.")] = None,
    weight: Annotated[list[str] | None, typer.Option(help="Of a mixed query: text=1, image=1 or minus=0.5.")] = None,
    id: Annotated[str | None, typer.Option(help="Search for what is like this stored point.")] = None,
    using: Annotated[str | None, typer.Option(help="Search by this vector alone.")] = None,
    encoder: Annotated[
        str | None, typer.Option(help="Only for a collection that mmembed did not make, or to check.")
    ] = None,
    task: Annotated[str | None, typer.Option(help="Task or instruction, for encoders that take one.")] = None,
    threshold: Annotated[float | None, typer.Option(help="Lowest score of a hit; searches by one vector.")] = None,
    exact: Annotated[bool, typer.Option("--exact", help="Compare with every vector; no search graph.")] = False,
    rerank: Annotated[
        str | None, typer.Option(help="Name of a reranker, which reads the words beside each of the best candidates.")
    ] = None,
    candidates: Annotated[
        int, typer.Option(min=1, help="Points that are reranked, of each ranking by the vector late.")
    ] = 100,
    no_late: Annotated[
        bool, typer.Option("--no-late", help="Leave out the vector late, which reorders the best candidates.")
    ] = False,
    json: o.Json = False,
    device: o.Device = None,
    dtype: o.Dtype = None,
    trust_remote_code: o.TrustRemoteCode = False,
    api_key: o.ApiKey = None,
    grpc: o.Grpc = False,
) -> None:
    """Search by words, by picture, by both, or by a stored point.

    With --json, one hit a line: id, score, probability, uri, collection, vector, payload.
    """
    if query is None and image is None and id is None:
        raise typer.BadParameter("give words, --image FILE or --id POINT", param_hint="QUERY")
    pictures = [o.existing_file(path) for path in minus_image or []]
    weights = dict(_weight(entry) for entry in weight or [])
    wanted = o.parse_filter(filter)
    picture = o.existing_file(image) if image is not None else None

    from mmembed.encoders import Encoders
    from mmembed.retrieval.api import search
    from mmembed.types import LoadOptions

    encoders = Encoders(LoadOptions(device=device, dtype=dtype, trust_remote_code=trust_remote_code))
    opened = o.open_asked_store(store, api_key, grpc, to_read=True)
    try:
        hits = search(
            opened,
            collection,
            text=query,
            image=picture,
            id=id,
            weights=weights,
            minus=[*(minus or []), *pictures],
            vector_name=using,
            encoder=encoders[encoder] if encoder else None,
            task=task,
            filter=wanted,
            limit=limit,
            offset=offset,
            score_threshold=threshold,
            all_passages=all_passages,
            exact=exact,
            late=not no_late,
            rerank=_load_asked_reranker(rerank, encoders.options) if rerank else None,
            candidates=candidates,
            encoders=encoders,
        )
    finally:
        opened.close()
    for hit in hits:
        typer.echo(o.as_json(hit_json(hit)) if json else _line(hit))
    if not hits and not json:
        typer.echo("no hits", err=True)


def _load_asked_reranker(name: str, run: LoadOptions) -> Reranker:
    from mmembed.encoders.registry import load_reranker

    return load_reranker(name, device=run.device, dtype=run.dtype, trust_remote_code=run.trust_remote_code)


def hit_json(hit: Hit) -> dict[str, object]:
    return {
        "id": hit.id,
        "score": hit.score,
        "probability": hit.probability,
        "uri": hit.payload.get("uri"),
        "collection": hit.collection,
        "vector": hit.vector_name,
        "payload": hit.payload,
    }


def _line(hit: Hit) -> str:
    probability = f"{hit.probability:7.1%}" if hit.probability is not None else ""
    where = f" page {hit.payload['page']}" if "page" in hit.payload else ""
    line = f"{hit.score:7.4f} {probability}  {hit.payload.get('uri', hit.id)}{where}"
    said = str(hit.payload.get("text") or hit.payload.get("caption") or "")
    snippet = " ".join(said.split())
    if len(snippet) > _SNIPPET:
        snippet = snippet[:_SNIPPET].rsplit(" ", 1)[0] + " ..."
    return f"{line}\n         {snippet}" if snippet else line


def _weight(entry: str) -> tuple[str, float]:
    name, _, number = entry.partition("=")
    try:
        return name, float(number)
    except ValueError:
        raise typer.BadParameter(f"{entry!r} is not NAME=NUMBER", param_hint="--weight") from None
