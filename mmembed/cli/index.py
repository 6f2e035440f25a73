"""`mmembed index images` and `mmembed index documents`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from inspect import get_annotations
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmembed.cli import options as o
from mmembed.cli.progress import show_progress

if TYPE_CHECKING:
    from mmembed.ingest import IngestReport
    from mmembed.types import Modality, Store

index_app = typer.Typer(no_args_is_help=True, help="Index pictures or documents.")

Paths = Annotated[
    list[str], typer.Argument(metavar="PATH...", help="Folders, files, patterns, or manifests (.csv, .jsonl).")
]


@dataclass(frozen=True)
class IndexSession(o.Session):
    """The options that both kinds of indexing have."""

    sync: Annotated[bool, "Also remove what is gone from these folders and manifests."] = False
    insist: Annotated[bool, "With --sync: remove what a folder held that is gone or empty, and however much it is."] = (
        False
    )
    trash: Annotated[
        Path | None,
        typer.Option(
            "--trash", metavar="FILE.jsonl", help="With --sync: keep what is said of removed things, as a manifest."
        ),
    ] = None
    dry_run: Annotated[bool, "Say what would be embedded, moved, copied and removed, and write nothing."] = False
    exclude: o.Exclude = None
    workers: o.Workers = None
    shards: Annotated[
        int | None, typer.Option("--shards", min=1, help="Shards of a collection that is created in a Qdrant cluster.")
    ] = None
    replicas: Annotated[
        int | None,
        typer.Option("--replicas", min=1, help="Replicas of a collection that is created in a Qdrant cluster."),
    ] = None

    @cached_property
    def store(self) -> Store:
        """An empty one where a dry run would have to make it."""
        if self.dry_run and self.is_missing:
            from mmembed.stores import open_store

            return open_store(":memory:")
        return super().store

    def index(
        self,
        ingest: Callable[..., IngestReport],
        collection: str,
        paths: list[str],
        modality: Modality,
        suffixes: frozenset[str],
    ) -> None:
        """Run it with these options, show its progress, print the report, leave with the exit code it calls for."""
        from mmembed.sources import scan

        what, exclude = "pictures" if modality == "image" else "documents", self.exclude or ()

        def count() -> int:
            return sum(1 for _ in scan(paths, modality=modality, suffixes=suffixes, exclude=exclude))

        with show_progress(count, what) as show:

            def on_progress(report: IngestReport) -> None:
                if report.to_remove and not report.removed:
                    typer.echo(f"removing {what} that are gone: {report.to_remove:,}", err=True)
                show(report)

            report = ingest(
                self.store,
                collection,
                paths,
                sync=self.sync,
                insist=self.insist,
                trash=self.trash,
                dry_run=self.dry_run,
                exclude=exclude,
                workers=self.workers,
                shards=self.shards,
                replicas=self.replicas,
                encoders=self.encoders,
                on_progress=on_progress,
            )
        failures = report.all_failures()
        if self.json:
            typer.echo(o.as_json(report.as_json()))
        else:
            for change in report.planned or ():
                origin = f"{change.origin} -> " if change.origin else ""
                typer.echo(f"would {change.action} {origin}{change.uri}")
            typer.echo(_summary(report, what))
            o.tell_failures(failures)
        for warning in report.warnings:
            typer.echo(f"held back: {o.as_flags(warning)}", err=True)
        if report.stored == 0 and not report.removed:
            why = f"all {len(report.failures)} failed" if report.failures else f"no {what} found"
            typer.echo(f"error: nothing could be indexed: {why}", err=True)
            raise typer.Exit(1)
        if failures or report.held_back:
            raise typer.Exit(3)


@index_app.command("images")
@o.shared(*get_annotations(IndexSession), "json", *o.MODELS, "batch_size", *o.STORE, session=IndexSession)
def index_images_command(
    session: IndexSession,
    paths: Paths,
    collection: Annotated[str, "Collection to write to."] = "images",
    encoder: Annotated[str | None, "Name of an image encoder; by default the collection's own, else tiny."] = None,
    caption_encoder: Annotated[
        str | None, "Text encoder for captions; by default minilm once there are captions."
    ] = None,
    late_encoder: Annotated[
        str | None, "Page encoder (multivectors) that reorders the best hits; by default the collection's own, if any."
    ] = None,
    language: Annotated[
        str | None, "Language of BM25's stop words and stemmer, or none; by default the collection's own, else english."
    ] = None,
    max_pixels: Annotated[int | None, typer.Option(min=1, help="Larger pictures are refused.")] = None,
) -> None:
    """Index pictures for text-to-image and image-to-image search.

    Exit code 3: finished, but some files failed, or --sync held something back.
    """
    from mmembed.images import IMAGE_SUFFIXES, MAX_PIXELS
    from mmembed.ingest import ingest_images

    ingest = partial(
        ingest_images,
        encoder=session.encoder_of(collection, "image", encoder, "tiny"),
        caption_encoder=session.load(caption_encoder),
        late_encoder=session.load(late_encoder),
        language=language,
        max_pixels=max_pixels or MAX_PIXELS,
    )
    session.index(ingest, collection, paths, "image", IMAGE_SUFFIXES)


@index_app.command("documents")
@o.shared(*get_annotations(IndexSession), "json", *o.MODELS, "batch_size", *o.STORE, session=IndexSession)
def index_documents_command(
    session: IndexSession,
    paths: Paths,
    collection: Annotated[str, "Collection to write to."] = "documents",
    encoder: Annotated[str | None, "Name of a text encoder; by default the collection's own, else minilm."] = None,
    cross_encoder: Annotated[
        str | None,
        "Image-text encoder whose text tower makes passages findable by picture; "
        "by default that of the images collection, else tiny.",
    ] = None,
    sparse_encoder: Annotated[
        str | None, "Learned sparse encoder beside BM25 (SPLADE, BGE-M3); by default the collection's own, if any."
    ] = None,
    late_encoder: Annotated[
        str | None,
        "Late-interaction encoder (multivectors) that orders the best candidates; by default the "
        "collection's own, if any.",
    ] = None,
    language: Annotated[
        str | None, "Language of BM25's stop words and stemmer, or none; by default the collection's own, else english."
    ] = None,
    images: Annotated[bool, typer.Option("--images/--no-images", help="Index pictures inside documents.")] = True,
    images_collection: Annotated[str, "Where pictures inside documents go."] = "images",
) -> None:
    """Index text, Markdown, HTML, PDF and DOCX for text-to-text and image-to-text search.

    Exit code 3: finished, but some files failed, or --sync held something back.
    """
    from mmembed.documents import DOCUMENT_SUFFIXES
    from mmembed.ingest import ingest_documents

    ingest = partial(
        ingest_documents,
        encoder=session.encoder_of(collection, "text", encoder, "minilm"),
        cross_encoder=session.load(cross_encoder or session.remembered(collection, "cross")),
        sparse_encoder=session.load(sparse_encoder),
        late_encoder=session.load(late_encoder),
        language=language,
        images_into=images_collection if images else None,
    )
    session.index(ingest, collection, paths, "text", DOCUMENT_SUFFIXES)


def _summary(report: IngestReport, what: str) -> str:
    rate = report.done / report.seconds if report.seconds > 0 else 0.0
    counts = [(report.embedded, "embedded"), (report.unchanged, "unchanged"), (report.moved, "moved")]
    counts += [(report.copied, "copied"), (report.removed, "removed"), (len(report.failures), "failed")]
    done = ", ".join(f"{n:,} {word}" for n, word in counts if n) or "nothing"
    dry_run = "" if report.planned is None else ", dry run"
    line = f"{what}{dry_run}: {done} in {report.seconds:.1f} s ({rate:,.1f} a second)"
    if report.images is not None and report.images.done:
        line += "\n" + _summary(report.images, "pictures in them").partition(" in 0.0 s")[0]
    if report.passed_over:
        line += f"\npassed over: {_passed_over(report.passed_over)}"
    return line


def _passed_over(counts: Counter[str]) -> str:
    """Most frequent first: "14 .heic, 3 .pptx, 2 lock files"."""
    suffixed = {key: key.startswith(".") or key == "without suffix" for key in counts}
    return ", ".join(f"{n:,} {key}{'s' if n > 1 and not suffixed[key] else ''}" for key, n in counts.most_common())
