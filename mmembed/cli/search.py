"""`mmembed search`."""

from __future__ import annotations

from dataclasses import dataclass
from inspect import get_annotations
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mmembed.cli import options as o

if TYPE_CHECKING:
    from mmembed.retrieval.query import Example, Search
    from mmembed.types import Hit, Reranker

_SNIPPET = 160  # characters of a passage


@dataclass(frozen=True)
class SearchSession(o.Session):
    """The options of one search beside its words; a Search takes those of the same name as they are."""

    image: Annotated[Path | None, typer.Option(help="A picture to search with, alone or beside words.")] = None
    collections: Annotated[
        list[str] | None, typer.Option("--in", help="Collection to search, by default images; repeatable.")
    ] = None
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="Number of hits.")] = 10
    offset: Annotated[int, typer.Option(min=0, help="Hits to skip.")] = 0
    filter: o.FilterJson = None
    all_passages: Annotated[
        bool, typer.Option("--all-passages", help="Every passage of a document, not only its best.")
    ] = False
    minus: Annotated[list[str] | None, typer.Option(help="Words to subtract; repeatable.")] = None
    minus_image: Annotated[list[Path] | None, typer.Option(help="A picture to subtract; repeatable.")] = None
    weight: Annotated[list[str] | None, typer.Option(help="Weight in a mixed query: text=1, image=1 or minus=0.5.")] = (
        None
    )
    id: Annotated[str | None, typer.Option(help="Search for what is like this stored point.")] = None
    using: Annotated[str | None, typer.Option(help="Search by this vector alone.")] = None
    encoder: Annotated[
        str | None, typer.Option(help="Only for a collection that mmembed did not make, or to check.")
    ] = None
    task: Annotated[str | None, typer.Option(help="Task or instruction, for encoders that take one.")] = None
    threshold: Annotated[float | None, typer.Option(help="Lowest score of a hit; searches by one vector.")] = None
    exact: Annotated[bool, typer.Option("--exact", help="Compare with every vector; no search graph.")] = False
    rerank: Annotated[
        str | None, typer.Option(help="Name of a reranker, which reads the words beside each of the best candidates.")
    ] = None
    candidates: Annotated[
        int, typer.Option(min=1, help="Points that are reranked, of each ranking by the vector late.")
    ] = 100
    no_late: Annotated[
        bool, typer.Option("--no-late", help="Leave out the vector late, which reorders the best candidates.")
    ] = False
    positive: Annotated[list[str] | None, typer.Option(help="A text as an example of what is liked; repeatable.")] = (
        None
    )
    negative: Annotated[list[str] | None, typer.Option(help="One of what is not; repeatable.")] = None
    positive_image: Annotated[list[Path] | None, typer.Option(help="A picture as an example; repeatable.")] = None
    negative_image: Annotated[list[Path] | None, typer.Option(help="One of what is not; repeatable.")] = None
    positive_id: Annotated[list[str] | None, typer.Option(help="A stored point as an example; repeatable.")] = None
    negative_id: Annotated[list[str] | None, typer.Option(help="One of what is not; repeatable.")] = None
    strategy: Annotated[
        Literal["average_vector", "best_score", "sum_scores"],
        typer.Option(help="How examples are weighed, as in Qdrant."),
    ] = "average_vector"
    diversity: Annotated[
        float | None, typer.Option(min=0, max=1, help="How unlike hits are to be to those before them (MMR).")
    ] = None
    group_by: Annotated[str | None, typer.Option(help="A payload key: show groups by its values.")] = None
    group_size: Annotated[int, typer.Option(min=1, help="Hits of each group.")] = 3

    def search(self, words: str | None) -> Search:
        """What these options ask for. Raises BadParameter where that is nothing, or a file is not there."""
        positive = _examples(self.positive, self.positive_image, self.positive_id)
        negative = _examples(self.negative, self.negative_image, self.negative_id)
        if words is None and self.image is None and self.id is None and not (positive or negative):
            raise typer.BadParameter("give words, --image FILE, --id POINT or --positive TEXT", param_hint="QUERY")
        image = None if self.image is None else o.existing_file(self.image)
        minus: list[str | Path] = [*(self.minus or []), *map(o.existing_file, self.minus_image or [])]
        weights = dict(map(_weight, self.weight or []))
        filter = o.parse_filter(self.filter)
        from mmembed.retrieval.query import Search

        return Search(
            text=words,
            image=image,
            id=self.id,
            weights=weights,
            minus=minus,
            positive=positive,
            negative=negative,
            strategy=self.strategy,
            vector_name=self.using,
            task=self.task,
            filter=filter,
            limit=self.limit,
            offset=self.offset,
            score_threshold=self.threshold,
            all_passages=self.all_passages,
            exact=self.exact,
            late=not self.no_late,
            rerank=self.reranker(),
            candidates=self.candidates,
            diversity=self.diversity,
            group_by=self.group_by,
            group_size=self.group_size,
        )

    def reranker(self) -> Reranker | None:
        if self.rerank is None:
            return None
        from mmembed.encoders.registry import load_reranker

        load = self.encoders.options
        return load_reranker(
            self.rerank, device=load.device, dtype=load.dtype, trust_remote_code=load.trust_remote_code
        )


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
