"""`mmembed classify`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmembed.cli import label_options as labelling
from mmembed.cli import options as o
from mmembed.cli.index import Paths

if TYPE_CHECKING:
    from mmembed.classification import Classes, Classified, LabelScore
    from mmembed.classification.zero_shot import Learnt
    from mmembed.collection import Collection
    from mmembed.types import Failure

_SHOWN = 5  # labels of a picture, where people read


@o.shared("json", *o.MODELS, "batch_size", *o.STORE, to_read=True)
def classify_command(
    session: o.Session,
    paths: Paths,
    labels: Annotated[
        str, "Labels separated by commas, or a file of them (text, one per line, or .json): a file is read as one."
    ],
    encoder: Annotated[str | None, "Name of an encoder of pictures and text; by default tiny."] = None,
    templates: labelling.Templates = "simple",
    top_k: Annotated[int | None, typer.Option(min=1, help="Only the best labels; by default all.")] = None,
    threshold: labelling.Thresholds = None,
    background: labelling.Background = None,
    collection: Annotated[
        str | None, typer.Option("--in", help="Use the encoder and the calibration of this collection.")
    ] = None,
    calibration: Annotated[Path | None, "A file that `mmembed calibrate` wrote."] = None,
    few_shot: Annotated[bool, "Go by what `mmembed few-shot` learnt in the collection of --in."] = False,
    exclude: o.Exclude = None,
    max_pixels: Annotated[int | None, typer.Option(min=1, help="Larger pictures are refused.")] = None,
    workers: o.Workers = None,
) -> None:
    """Say which of your labels fit each picture: zero-shot, or by what a collection learnt.

    With --json, one picture a line: its uri, and its labels with score and probability, best first; with a threshold
    or background also none_of_these, with a hierarchy of labels also groups. Exit code 3: some pictures failed.
    """
    if few_shot and (collection is None or calibration is not None):
        raise typer.BadParameter("goes with --in COLLECTION, and without --calibration", param_hint="--few-shot")
    named = labelling.labels_for(labels, templates, background)
    limits = labelling.threshold_of(threshold, named.names)

    from mmembed.classification import classify, embed_classes
    from mmembed.classification.collection_classes import classes_of
    from mmembed.collection import Collection
    from mmembed.images import IMAGE_SUFFIXES, MAX_PIXELS
    from mmembed.sources import scan

    files = scan(paths, modality="image", suffixes=IMAGE_SUFFIXES, exclude=exclude or ())
    loaded, learnt = labelling.encoder_for(session, collection, encoder), None
    if collection is None:
        classes = embed_classes(loaded, named, cache=labelling.class_cache())
    else:
        where = Collection(session.store, collection)
        classes = classes_of(where, named, session.encoders, encoder=loaded, cache=labelling.class_cache())
        if few_shot:
            learnt, classes = _learnt(where, classes), classes.calibrated(None)
    if calibration is not None:
        from mmembed.classification.calibration import read_calibration

        classes = classes.calibrated(read_calibration(o.existing_file(calibration)))
    results = classify(
        files,
        classes,
        encoder=loaded,
        threshold=limits,
        top_k=top_k,
        learnt=learnt,
        workers=workers,
        max_pixels=max_pixels or MAX_PIXELS,
    )
    _print(results, classes, cut=limits is not None, as_json=session.json, shown=top_k or _SHOWN)


def _learnt(collection: Collection, classes: Classes) -> Learnt:
    from mmembed.classification.few_shot import load_few_shot
    from mmembed.errors import InvalidSample

    learnt = load_few_shot(collection.store, collection.name, classes)
    if learnt is None:
        raise InvalidSample(
            f"collection {collection.name!r} has learnt nothing for these labels and templates: teach it with "
            f"`mmembed few-shot FOLDER --in {collection.name}`"
        )
    return learnt


def _print(results: Iterable[Classified | Failure], classes: Classes, *, cut: bool, as_json: bool, shown: int) -> None:
    """One line a picture, failures on stderr; leaves with the exit code that they call for."""
    from mmembed.types import Failure

    calibrated = classes.calibration is not None and bool(classes.calibration.thresholds)
    open_set = cut or calibrated or bool(classes.labels.background)
    paths = {label.name: label.path for label in classes.labels.labels}
    done = failed = 0
    for result in results:
        if isinstance(result, Failure):
            failed += 1
            o.tell_failures([result])
            continue
        done += 1
        if as_json:
            line: dict[str, Any] = {"uri": result.uri, "labels": result.labels}
            line |= {"none_of_these": result.none_of_these} if open_set else {}
            line |= {"groups": result.groups} if classes.labels.is_hierarchy else {}
            typer.echo(o.as_json(line))
        else:
            typer.echo(_line(result, paths, shown))
    if not done:
        why = f"all {failed} failed" if failed else "no pictures found"
        typer.echo(f"error: nothing could be classified: {why}", err=True)
        raise typer.Exit(1)
    if failed:
        raise typer.Exit(3)


def _line(result: Classified, paths: dict[str, str], shown: int) -> str:
    """`cat.jpg: animal > cat 91.2%, animal > dog 8.1% [animal 99.3%]`."""
    parts = [f"{paths[one.label]} {_number(one)}" for one in result.labels[:shown]]
    left = len(result.labels) - shown
    labels = ", ".join(parts) + (f" and {left} more" if left > 0 else "")
    if result.none_of_these:
        labels = f"none of these{f' (nearest: {labels})' if labels else ''}"
    groups = ", ".join(f"{one.label} {_number(one)}" for one in result.groups[:shown])
    return f"{result.uri}: {labels}" + (f" [{groups}]" if groups else "")


def _number(one: LabelScore) -> str:
    return f"{one.score:.4f}" if one.probability is None else f"{one.probability:.1%}"
