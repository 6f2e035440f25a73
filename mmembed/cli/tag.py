"""`mmembed tag`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from mmembed.cli import label_options as labelling
from mmembed.cli import options as o
from mmembed.cli.progress import show_progress

if TYPE_CHECKING:
    from mmembed.classification.tagging import TagReport
    from mmembed.collection import Collection


_MANY = 10_000  # points that a search compares with in no time, graph or not


@o.shared("json", *o.MODELS, "batch_size", *o.STORE, to_read=True)
def tag_command(
    session: o.Session,
    collection: Annotated[str, typer.Argument(help="Collection of images to tag.")],
    labels: Annotated[str | None, "Labels separated by commas, or a file of them, as for classify."] = None,
    templates: labelling.Templates = "simple",
    background: labelling.Background = None,
    threshold: labelling.Thresholds = None,
    top_k: Annotated[int | None, typer.Option(min=1, help="At most so many labels for one picture.")] = None,
    best: Annotated[
        int | None, typer.Option(min=1, help="Tag only so many pictures, the nearest to each label.")
    ] = None,
    key: Annotated[str, "Payload key of the labels; scores go to KEY_scores."] = "labels",
    filter: o.FilterJson = None,
    remove: Annotated[bool, "Remove the tags under --key instead."] = False,
    optimize: Annotated[bool, "Afterwards rebuild the search graph of an embedded store."] = False,
) -> None:
    """Label the pictures of a collection from their stored vectors; none is opened or encoded again.

    By default each gets its best label, or with a SigLIP encoder those of at least 50 %. Prints how many have each.
    Many writes undo the search graph of an embedded store: searches compare with every vector until it is rebuilt.
    """
    if (labels is None) != remove:
        raise typer.BadParameter("give --labels, or --remove to remove tags, one of the two", param_hint="--labels")
    condition = o.parse_filter(filter)

    from mmembed.classification.tagging import remove_tags, tag
    from mmembed.collection import Collection

    classes = labelling.labels_for(labels, templates, background) if labels is not None else None
    store, where = session.store, Collection(session.store, collection)
    if classes is None:
        removed = remove_tags(store, collection, key=key, filter=condition)
        session.answer({"removed": removed}, lambda: [f"{removed:,} points of {collection} lost their tags"])
        _after_writing(where, removed, optimize=optimize)
        return
    with show_progress(lambda: store.count(collection, filter=condition), "points") as on_progress:
        report = tag(
            store,
            collection,
            classes,
            key=key,
            threshold=labelling.threshold_of(threshold, classes.names),
            top_k=top_k,
            best=best,
            filter=condition,
            on_progress=on_progress,
            cache=labelling.class_cache(),
            encoders=session.encoders,
        )
    session.answer(report.as_json(), lambda: _lines(report))
    _after_writing(where, report.tagged + report.untagged + report.removed, optimize=optimize)


def _after_writing(collection: Collection, written: int, *, optimize: bool) -> None:
    """Build the search graph if that was asked for, else say that it is due. A server does it by itself."""
    if optimize:
        collection.store.optimize(collection.name)
    elif written >= _MANY and collection.store.url.startswith("edge:"):
        typer.echo("searches compare with every vector until the graph is rebuilt: add --optimize", err=True)


def _lines(report: TagReport) -> list[str]:
    counts = [(report.tagged, "tagged"), (report.untagged, "none of these"), (report.unchanged, "unchanged")]
    counts += [(report.removed, "removed")]
    changed = ", ".join(f"{n:,} {word}" for n, word in counts if n) or "nothing"
    width = max(len(f"{n:,}") for n in report.per_label.values())
    by_count = sorted(report.per_label.items(), key=lambda row: -row[1])
    return [f"points: {changed} in {report.seconds:.1f} s", *(f"{n:>{width},}  {label}" for label, n in by_count)]
