"""`mmembed index images` and `mmembed index documents`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from mmembed.cli import options as o
from mmembed.cli.progress import show_progress

if TYPE_CHECKING:
    from mmembed.ingest import IngestReport

app = typer.Typer(no_args_is_help=True, help="Index pictures or documents.")

_SHOWN_FAILURES = 20
Paths = Annotated[
    list[str], typer.Argument(metavar="PATH...", help="Folders, files, patterns, or manifests (.csv, .jsonl).")
]


@app.command("images")
def index_images(
    paths: Paths,
    store: o.StoreUrl = None,
    collection: Annotated[str, typer.Option(help="Collection to write to.")] = "images",
    encoder: Annotated[
        str | None,
        typer.Option(help="Name of an image encoder; by default the collection's own, else tiny.", show_default=False),
    ] = None,
    caption_encoder: Annotated[
        str | None,
        typer.Option(help="Text encoder for captions; by default minilm once there are captions.", show_default=False),
    ] = None,
    late_encoder: Annotated[
        str | None,
        typer.Option(
            help="Page encoder (multivectors) that reorders the best hits; by default the collection's own, if any.",
            show_default=False,
        ),
    ] = None,
    sync: o.Sync = False,
    exclude: o.Exclude = None,
    max_pixels: Annotated[int | None, typer.Option(min=1, help="Larger pictures are refused.")] = None,
    json: o.Json = False,
    device: o.Device = None,
    dtype: o.Dtype = None,
    batch_size: o.BatchSize = None,
    trust_remote_code: o.TrustRemoteCode = False,
    workers: o.Workers = None,
    api_key: o.ApiKey = None,
    grpc: o.Grpc = False,
    shards: o.Shards = None,
    replicas: o.Replicas = None,
) -> None:
    """Index pictures for text-to-image and image-to-image search.

    Exit code 3: finished, but some files failed.
    """
    from mmembed.encoders import Encoders
    from mmembed.images import IMAGE_SUFFIXES, MAX_PIXELS
    from mmembed.ingest import ingest_images
    from mmembed.types import LoadOptions

    encoders = Encoders(
        LoadOptions(device=device, dtype=dtype, batch_size=batch_size, trust_remote_code=trust_remote_code)
    )
    opened = o.open_asked_store(store, api_key, grpc)
    try:
        name = encoder or o.remembered_name(opened, collection, "image") or "tiny"
        with show_progress(_counter(paths, "image", IMAGE_SUFFIXES, exclude), "pictures") as on_progress:
            report = ingest_images(
                opened,
                collection,
                paths,
                encoder=encoders[name],
                caption_encoder=encoders[caption_encoder] if caption_encoder else None,
                late_encoder=encoders[late_encoder] if late_encoder else None,
                sync=sync,
                exclude=exclude or (),
                workers=workers,
                max_pixels=max_pixels or MAX_PIXELS,
                shards=shards,
                replicas=replicas,
                encoders=encoders,
                on_progress=on_progress,
            )
    finally:
        opened.close()
    _finish(report, "pictures", as_json=json)


@app.command("documents")
def index_documents(
    paths: Paths,
    store: o.StoreUrl = None,
    collection: Annotated[str, typer.Option(help="Collection to write to.")] = "documents",
    encoder: Annotated[
        str | None,
        typer.Option(help="Name of a text encoder; by default the collection's own, else minilm.", show_default=False),
    ] = None,
    cross_encoder: Annotated[
        str | None,
        typer.Option(
            help="Image-text encoder whose text tower makes passages findable by picture; "
            "by default that of the images collection, else tiny.",
            show_default=False,
        ),
    ] = None,
    sparse_encoder: Annotated[
        str | None,
        typer.Option(
            help="Learned sparse encoder beside BM25 (SPLADE, BGE-M3); by default the collection's own, if any.",
            show_default=False,
        ),
    ] = None,
    late_encoder: Annotated[
        str | None,
        typer.Option(
            help="Late-interaction encoder (multivectors) that orders the best candidates; by default the "
            "collection's own, if any.",
            show_default=False,
        ),
    ] = None,
    pictures: Annotated[bool, typer.Option("--pictures/--no-pictures", help="Index pictures inside documents.")] = True,
    images_collection: Annotated[str, typer.Option(help="Where pictures inside documents go.")] = "images",
    sync: o.Sync = False,
    exclude: o.Exclude = None,
    json: o.Json = False,
    device: o.Device = None,
    dtype: o.Dtype = None,
    batch_size: o.BatchSize = None,
    trust_remote_code: o.TrustRemoteCode = False,
    workers: o.Workers = None,
    api_key: o.ApiKey = None,
    grpc: o.Grpc = False,
    shards: o.Shards = None,
    replicas: o.Replicas = None,
) -> None:
    """Index text, Markdown, HTML, PDF and DOCX for text-to-text and image-to-text search.

    Exit code 3: finished, but some files failed.
    """
    from mmembed.documents import DOCUMENT_SUFFIXES
    from mmembed.encoders import Encoders
    from mmembed.ingest import ingest_documents
    from mmembed.types import LoadOptions

    encoders = Encoders(
        LoadOptions(device=device, dtype=dtype, batch_size=batch_size, trust_remote_code=trust_remote_code)
    )
    opened = o.open_asked_store(store, api_key, grpc)
    try:
        name = encoder or o.remembered_name(opened, collection, "text") or "minilm"
        cross = cross_encoder or o.remembered_name(opened, collection, "cross")
        with show_progress(_counter(paths, "text", DOCUMENT_SUFFIXES, exclude), "documents") as on_progress:
            report = ingest_documents(
                opened,
                collection,
                paths,
                encoder=encoders[name],
                cross_encoder=encoders[cross] if cross else None,
                sparse_encoder=encoders[sparse_encoder] if sparse_encoder else None,
                late_encoder=encoders[late_encoder] if late_encoder else None,
                pictures_into=images_collection if pictures else None,
                sync=sync,
                exclude=exclude or (),
                workers=workers,
                shards=shards,
                replicas=replicas,
                encoders=encoders,
                on_progress=on_progress,
            )
    finally:
        opened.close()
    _finish(report, "documents", as_json=json)


def _counter(paths: list[str], modality: str, suffixes: frozenset[str], exclude: list[str] | None) -> Callable[[], int]:
    """How many files there are to look at, counted without opening any."""

    def count() -> int:
        from mmembed.sources import scan

        found = scan(
            paths, modality="image" if modality == "image" else "text", suffixes=suffixes, exclude=exclude or ()
        )
        return sum(1 for _ in found)

    return count


def _finish(report: IngestReport, what: str, *, as_json: bool) -> None:
    """Print the report and leave with the exit code that it calls for."""
    failures = report.all_failures()
    if as_json:
        typer.echo(o.as_json(report.as_json()))
    else:
        typer.echo(_summary(report, what))
        for failure in failures[:_SHOWN_FAILURES]:
            typer.echo(
                f"failed: {failure.error if failure.uri in failure.error else f'{failure.uri}: {failure.error}'}",
                err=True,
            )
        if len(failures) > _SHOWN_FAILURES:
            typer.echo(f"failed: and {len(failures) - _SHOWN_FAILURES} more; --json lists them all", err=True)
    if report.stored == 0 and not report.removed:
        why = f"all {len(report.failures)} failed" if report.failures else f"no {what} found"
        typer.echo(f"error: nothing could be indexed: {why}", err=True)
        raise typer.Exit(1)
    if failures:
        raise typer.Exit(3)


def _summary(report: IngestReport, what: str) -> str:
    rate = report.done / report.seconds if report.seconds > 0 else 0.0
    counts = [(report.embedded, "embedded"), (report.unchanged, "unchanged"), (report.moved, "moved")]
    counts += [(report.copied, "copied"), (report.removed, "removed"), (len(report.failures), "failed")]
    said = ", ".join(f"{n:,} {word}" for n, word in counts if n) or "nothing"
    line = f"{what}: {said} in {report.seconds:.1f} s ({rate:,.1f} a second)"
    if report.pictures is not None and report.pictures.done:
        line += "\n" + _summary(report.pictures, "pictures in them").partition(" in 0.0 s")[0]
    return line
