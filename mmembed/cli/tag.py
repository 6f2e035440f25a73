"""`mmembed tag`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from mmembed.cli import label_options as asked
from mmembed.cli import options as o
from mmembed.cli.progress import show_progress

if TYPE_CHECKING:
    from mmembed.classification.tagging import TagReport
    from mmembed.types import Store


_MANY = 10_000  # points that a search compares with in no time, graph or not


def tag_command(
    collection: Annotated[str, typer.Argument(help="Collection of images to tag.")],
    labels: Annotated[
        str | None, typer.Option(help="Labels parted by commas, or a file of them, as for classify.")
    ] = None,
    templates: asked.Templates = "simple",
    background: asked.Background = None,
    threshold: asked.Thresholds = None,
    top_k: Annotated[
        int | None, typer.Option(min=1, help="Labels of one picture, at most.", show_default=False)
    ] = None,
    best: Annotated[
        int | None,
        typer.Option(min=1, help="Tag only the nearest so many pictures of each label.", show_default=False),
    ] = None,
    key: Annotated[str, typer.Option(help="Payload key of the labels; scores go to KEY_scores.")] = "labels",
    filter: o.FilterJson = None,
    remove: Annotated[bool, typer.Option("--remove", help="Remove the tags under --key instead.")] = False,
    optimize: Annotated[
        bool, typer.Option("--optimize", help="Then build the search graph of an embedded store anew.")
    ] = False,
    store: o.StoreUrl = None,
    json: o.Json = False,
    device: o.Device = None,
    dtype: o.Dtype = None,
    batch_size: o.BatchSize = None,
    trust_remote_code: o.TrustRemoteCode = False,
    api_key: o.ApiKey = None,
    grpc: o.Grpc = False,
) -> None:
    """Label the pictures of a collection from their stored vectors; none is opened or encoded again.

    By default each gets its best label, or with a SigLIP encoder those of at least 50 %. Prints how many have each.
    Many writes undo the search graph of an embedded store: searches compare with every vector until it is built anew.
    """
    if (labels is None) != remove:
        raise typer.BadParameter("give --labels, or --remove to remove tags, one of the two", param_hint="--labels")
    wanted = o.parse_filter(filter)

    from mmembed.classification.tagging import remove_tags, tag
    from mmembed.encoders import Encoders
    from mmembed.types import LoadOptions

    encoders = Encoders(
        LoadOptions(device=device, dtype=dtype, batch_size=batch_size, trust_remote_code=trust_remote_code)
    )
    given = asked.asked_labels(labels, templates, background) if labels is not None else None
    opened = o.open_asked_store(store, api_key, grpc, to_read=True)
    try:
        if given is None:
            removed = remove_tags(opened, collection, key=key, filter=wanted)
            typer.echo(
                o.as_json({"removed": removed}) if json else f"{removed:,} points of {collection} lost their tags"
            )
            _after_writing(opened, collection, removed, optimize=optimize)
            return
        with show_progress(lambda: opened.count(collection, filter=wanted), "points") as on_progress:
            report = tag(
                opened,
                collection,
                given,
                key=key,
                threshold=asked.asked_threshold(threshold, given.names),
                top_k=top_k,
                best=best,
                filter=wanted,
                on_progress=on_progress,
                cache=asked.class_cache(),
                encoders=encoders,
            )
        typer.echo(o.as_json(report.as_json()) if json else _summary(report))
        written = report.tagged + report.untagged + report.removed
        _after_writing(opened, collection, written, optimize=optimize)
    finally:
        opened.close()


def _after_writing(store: Store, collection: str, written: int, *, optimize: bool) -> None:
    """Build the search graph if that was asked for, else say that it is due. A server does it by itself."""
    if optimize:
        store.optimize(collection)
    elif written >= _MANY and store.url.startswith("edge:"):
        typer.echo("searches compare with every vector until the graph is built anew: add --optimize", err=True)


def _summary(report: TagReport) -> str:
    counts = [(report.tagged, "tagged"), (report.untagged, "none of these"), (report.unchanged, "unchanged")]
    counts += [(report.removed, "removed")]
    said = ", ".join(f"{n:,} {word}" for n, word in counts if n) or "nothing"
    lines = [f"points: {said} in {report.seconds:.1f} s"]
    width = max(len(f"{n:,}") for n in report.per_label.values())
    by_count = sorted(report.per_label.items(), key=lambda row: -row[1])
    return "\n".join(lines + [f"{n:>{width},}  {label}" for label, n in by_count])
