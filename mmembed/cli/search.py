"""`mmembed search`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from inspect import get_annotations
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mmembed.cli import options as o

if TYPE_CHECKING:
    from mmembed.retrieval.query import Example, Search
    from mmembed.types import Hit

_SNIPPET = 160  # characters of a passage


@dataclass(frozen=True)
class SearchSession(o.Session):
    """The options of one search beside its words; a Search takes those of the same name as they are."""

    image: Annotated[Path | None, "A picture to search with, alone or beside words."] = None
    collections: Annotated[
        list[str] | None, typer.Option("--in", help="Collection to search, by default images; repeatable.")
    ] = None
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="Number of hits.")] = 10
    offset: Annotated[int, typer.Option(min=0, help="Hits to skip.")] = 0
    filter: o.FilterJson = None
    all_passages: Annotated[bool, "Every passage of a document, not only its best."] = False
    minus: Annotated[list[str] | None, "Words to subtract; repeatable."] = None
    minus_image: Annotated[list[Path] | None, "A picture to subtract; repeatable."] = None
    weight: Annotated[list[str] | None, "Weight in a mixed query: text=1, image=1 or minus=0.5."] = None
    id: Annotated[str | None, "Search for what is like this stored point."] = None
    using: Annotated[str | None, "Search by this vector alone."] = None
    encoder: Annotated[str | None, "Only for a collection that mmembed did not make, or to check."] = None
    task: Annotated[str | None, "Task or instruction, for encoders that take one."] = None
    threshold: Annotated[float | None, "Lowest score of a hit; searches by one vector."] = None
    exact: Annotated[bool, "Compare with every vector; no search graph."] = False
    rerank: Annotated[str | None, "Name of a reranker, which reads the words beside each of the best candidates."] = (
        None
    )
    candidates: Annotated[
        int, typer.Option(min=1, help="Points that are reranked, of each ranking by the vector late.")
    ] = 100
    no_late: Annotated[bool, "Leave out the vector late, which reorders the best candidates."] = False
    positive: Annotated[list[str] | None, "A text as an example of what is liked; repeatable."] = None
    negative: Annotated[list[str] | None, "One of what is not; repeatable."] = None
    positive_image: Annotated[list[Path] | None, "A picture as an example; repeatable."] = None
    negative_image: Annotated[list[Path] | None, "One of what is not; repeatable."] = None
    positive_id: Annotated[list[str] | None, "A stored point as an example; repeatable."] = None
    negative_id: Annotated[list[str] | None, "One of what is not; repeatable."] = None
    strategy: Annotated[
        Literal["average_vector", "best_score", "sum_scores"], "How examples are weighed, as in Qdrant."
    ] = "average_vector"
    diversity: Annotated[
        float | None, typer.Option(min=0, max=1, help="How unlike hits are to be to those before them (MMR).")
    ] = None
    group_by: Annotated[str | None, "A payload key: show groups by its values."] = None
    group_size: Annotated[int, typer.Option(min=1, help="Hits of each group.")] = 3

    def search(self, words: str | None) -> Search:
        """What these options ask for. Raises BadParameter where that is nothing, or a file is not there."""
        positive = _examples(self.positive, self.positive_image, self.positive_id)
        negative = _examples(self.negative, self.negative_image, self.negative_id)
        if words is None and self.image is None and self.id is None and not (positive or negative):
            raise typer.BadParameter("give words, --image FILE, --id POINT or --positive TEXT", param_hint="QUERY")
        own: dict[str, Any] = {
            "text": words,
            "image": None if self.image is None else o.existing_file(self.image),
            "minus": [*(self.minus or []), *map(o.existing_file, self.minus_image or [])],
            "positive": positive,
            "negative": negative,
            "weights": dict(map(_weight, self.weight or [])),
            "filter": o.parse_filter(self.filter),
            "vector_name": self.using,
            "score_threshold": self.threshold,
            "late": not self.no_late,
        }
        from mmembed.encoders.registry import load_reranker
        from mmembed.retrieval.query import Search

        if self.rerank is not None:
            own["rerank"] = load_reranker(self.rerank, **asdict(self.encoders.options))
        same = {field.name: getattr(self, field.name) for field in fields(Search) if hasattr(self, field.name)}
        return Search(**{**same, **own})


@o.shared(*get_annotations(SearchSession), "json", *o.MODELS, *o.STORE, session=SearchSession, to_read=True)
def search_command(
    session: SearchSession,
    query: Annotated[str | None, typer.Argument(help="Words to search for.")] = None,
) -> None:
    """Search by words, by picture, by both, by a stored point, or by examples.

    With --json, one hit a line: id, score, probability, uri, collection, vector, payload, and group where there are.
    """
    search = session.search(query)
    names = list(dict.fromkeys(session.collections or ["images"]))
    hits = _hits(session, names, search)
    for hit in hits:
        typer.echo(o.as_json(hit_json(hit)) if session.json else _line(hit, named=len(names) > 1))
    if not hits and not session.json:
        typer.echo("no hits", err=True)


def _examples(texts: list[str] | None, images: list[Path] | None, ids: list[str] | None) -> list[Example]:
    if not (texts or images or ids):
        return []
    from mmembed.retrieval.query import PointId

    return [*(texts or []), *map(o.existing_file, images or []), *map(PointId, ids or [])]


def _hits(session: SearchSession, names: list[str], search: Search) -> list[Hit]:
    """Of one collection, or the best of several; those that cannot answer are named on stderr."""
    from mmembed.collection import Collection
    from mmembed.retrieval.api import search_collection
    from mmembed.retrieval.several import search_several

    encoder = session.load(session.encoder)
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
    snippet = " ".join(str(hit.payload.get("text") or hit.payload.get("caption") or "").split())
    if len(snippet) > _SNIPPET:
        snippet = snippet[:_SNIPPET].rsplit(" ", 1)[0] + " ..."
    return f"{line}\n         {snippet}" if snippet else line


def _weight(entry: str) -> tuple[str, float]:
    name, _, number = entry.partition("=")
    try:
        return name, float(number)
    except ValueError:
        raise typer.BadParameter(f"{entry!r} is not NAME=NUMBER", param_hint="--weight") from None
