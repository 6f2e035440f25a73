"""`mmembed search`."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmembed.cli import options as o

if TYPE_CHECKING:
    from mmembed.retrieval.query import Example, Search
    from mmembed.types import Encoder, Hit, Reranker


class Strategies(Enum):
    """The values of `mmembed.retrieval.query.Strategy`, before that is imported."""

    average_vector = "average_vector"
    best_score = "best_score"
    sum_scores = "sum_scores"


_SNIPPET = 160  # characters of a passage


@o.shared("json", *o.MODELS, *o.STORE, to_read=True)
def search_command(
    session: o.Session,
    query: Annotated[str | None, typer.Argument(help="Words to search for.")] = None,
    image: Annotated[Path | None, typer.Option(help="A picture to search with, alone or beside words.")] = None,
    collections: Annotated[
        list[str] | None,
        typer.Option("--in", help="Collection to search, by default images; repeatable.", show_default=False),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="Number of hits.")] = 10,
    offset: Annotated[int, typer.Option(min=0, help="Hits to skip.")] = 0,
    filter: o.FilterJson = None,
    all_passages: Annotated[
        bool, typer.Option("--all-passages", help="Every passage of a document, not only its best.")
    ] = False,
    minus: Annotated[list[str] | None, typer.Option(help="Words to subtract; repeatable.")] = None,
    minus_image: Annotated[list[Path] | None, typer.Option(help="A picture to subtract; repeatable.")] = None,
    weight: Annotated[
        list[str] | None, typer.Option(help="Weight in a mixed query: text=1, image=1 or minus=0.5.")
    ] = None,
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
    positive: Annotated[
        list[str] | None, typer.Option(help="A text as an example of what is liked; repeatable.")
    ] = None,
    negative: Annotated[list[str] | None, typer.Option(help="One of what is not; repeatable.")] = None,
    positive_image: Annotated[list[Path] | None, typer.Option(help="A picture as an example; repeatable.")] = None,
    negative_image: Annotated[list[Path] | None, typer.Option(help="One of what is not; repeatable.")] = None,
    positive_id: Annotated[list[str] | None, typer.Option(help="A stored point as an example; repeatable.")] = None,
    negative_id: Annotated[list[str] | None, typer.Option(help="One of what is not; repeatable.")] = None,
    strategy: Annotated[
        Strategies, typer.Option(help="How examples are weighed, as in Qdrant.")
    ] = Strategies.average_vector,
    diversity: Annotated[
        float | None, typer.Option(min=0, max=1, help="How unlike hits are to be to those before them (MMR).")
    ] = None,
    group_by: Annotated[str | None, typer.Option(help="A payload key: show groups by its values.")] = None,
    group_size: Annotated[int, typer.Option(min=1, help="Hits of each group.")] = 3,
) -> None:
    """Search by words, by picture, by both, by a stored point, or by examples.

    With --json, one hit a line: id, score, probability, uri, collection, vector, payload, and group where there are.
    """
    liked = _examples(positive, positive_image, positive_id)
    disliked = _examples(negative, negative_image, negative_id)
    if query is None and image is None and id is None and not (liked or disliked):
        raise typer.BadParameter("give words, --image FILE, --id POINT or --positive TEXT", param_hint="QUERY")
    names = list(dict.fromkeys(collections or ["images"]))
    image_file = o.existing_file(image) if image is not None else None
    less: list[str | Path] = [*(minus or []), *(o.existing_file(path) for path in minus_image or [])]
    weights = dict(_weight(entry) for entry in weight or [])
    wanted = o.parse_filter(filter)
    from mmembed.retrieval.query import Search

    search = Search(
        text=query,
        image=image_file,
        id=id,
        weights=weights,
        minus=less,
        positive=liked,
        negative=disliked,
        strategy=strategy.value,
        vector_name=using,
        task=task,
        filter=wanted,
        limit=limit,
        offset=offset,
        score_threshold=threshold,
        all_passages=all_passages,
        exact=exact,
        late=not no_late,
        rerank=_reranker(session, rerank),
        candidates=candidates,
        diversity=diversity,
        group_by=group_by,
        group_size=group_size,
    )
    hits = _hits(session, names, search, session.load(encoder))
    for hit in hits:
        typer.echo(o.as_json(hit_json(hit)) if session.json else _line(hit, named=len(names) > 1))
    if not hits and not session.json:
        typer.echo("no hits", err=True)


def _examples(texts: list[str] | None, images: list[Path] | None, ids: list[str] | None) -> list[Example]:
    if not (texts or images or ids):
        return []
    from mmembed.retrieval.query import PointId

    return [*(texts or []), *(o.existing_file(path) for path in images or []), *(PointId(id) for id in ids or [])]


def _reranker(session: o.Session, name: str | None) -> Reranker | None:
    if name is None:
        return None
    from mmembed.encoders.registry import load_reranker

    run = session.encoders.options
    return load_reranker(name, device=run.device, dtype=run.dtype, trust_remote_code=run.trust_remote_code)


def _hits(session: o.Session, names: list[str], search: Search, encoder: Encoder | None) -> list[Hit]:
    """Of one collection, or the best of several; those that cannot answer are named on stderr."""
    from mmembed.collection import Collection
    from mmembed.retrieval.api import search_collection
    from mmembed.retrieval.several import search_several

    if len(names) == 1:
        where = Collection(session.store, names[0])
        return search_collection(where, search, encoder=encoder, encoders=session.encoders)
    several = search_several(session.store, names, search, encoder=encoder, encoders=session.encoders)
    for name, why in several.skipped.items():
        typer.echo(f"skipped: {name}: {o.as_flags(why)}", err=True)
    return several.hits


def hit_json(hit: Hit) -> dict[str, object]:
    return {
        "id": hit.id,
        "score": hit.score,
        "probability": hit.probability,
        "uri": hit.payload.get("uri"),
        "collection": hit.collection,
        "vector": hit.vector_name,
        "payload": hit.payload,
        **({} if hit.group is None else {"group": hit.group}),
    }


def _line(hit: Hit, *, named: bool) -> str:
    probability = f"{hit.probability:7.1%}" if hit.probability is not None else ""
    where = f" page {hit.payload['page']}" if "page" in hit.payload else ""
    where += f" in {hit.collection}" if named else ""
    where += "" if hit.group is None else f" [{hit.group}]"
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
