"""`mmembed classify`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmembed.cli import label_options as asked
from mmembed.cli import options as o
from mmembed.cli.index import Paths

if TYPE_CHECKING:
    from mmembed.classification import Classes, Classified, Labels, LabelScore
    from mmembed.classification.zero_shot import Learnt
    from mmembed.encoders import Encoders
    from mmembed.types import Encoder, Failure, Store

_SHOWN = 5  # labels of a picture, where people read


def classify_command(
    paths: Paths,
    labels: asked.LabelsText,
    encoder: Annotated[
        str | None,
        typer.Option(help="Name of an encoder of pictures and text; by default tiny.", show_default=False),
    ] = None,
    templates: asked.Templates = "simple",
    top_k: asked.TopK = None,
    threshold: asked.Thresholds = None,
    background: asked.Background = None,
    collection: Annotated[
        str | None,
        typer.Option("--in", help="Use the encoder and the calibration of this collection.", show_default=False),
    ] = None,
    store: o.StoreUrl = None,
    calibration: Annotated[
        Path | None, typer.Option(help="A file that `mmembed calibrate` wrote.", show_default=False)
    ] = None,
    few_shot: Annotated[
        bool, typer.Option("--few-shot", help="Go by what `mmembed few-shot` learnt in the collection of --in.")
    ] = False,
    exclude: o.Exclude = None,
    max_pixels: Annotated[
        int | None, typer.Option(min=1, help="Larger pictures are refused.", show_default=False)
    ] = None,
    json: o.Json = False,
    device: o.Device = None,
    dtype: o.Dtype = None,
    batch_size: o.BatchSize = None,
    trust_remote_code: o.TrustRemoteCode = False,
    workers: o.Workers = None,
    api_key: o.ApiKey = None,
    grpc: o.Grpc = False,
) -> None:
    """Say which of your labels fit each picture: zero-shot, or by what a collection learnt.

    With --json, one picture a line: its uri, and its labels with score and probability, best first; with a threshold
    or background also none_of_these, with a hierarchy of labels also groups. Exit code 3: some pictures failed.
    """
    if few_shot and (collection is None or calibration is not None):
        raise typer.BadParameter("goes with --in COLLECTION, and without --calibration", param_hint="--few-shot")
    wanted = asked.asked_labels(labels, templates, background)
    limits = asked.asked_threshold(threshold, wanted.names)

    from mmembed.classification import classify, embed_classes
    from mmembed.encoders import Encoders
    from mmembed.images import IMAGE_SUFFIXES, MAX_PIXELS
    from mmembed.sources import scan
    from mmembed.types import LoadOptions

    found = scan(paths, modality="image", suffixes=IMAGE_SUFFIXES, exclude=exclude or ())
    encoders = Encoders(
        LoadOptions(device=device, dtype=dtype, batch_size=batch_size, trust_remote_code=trust_remote_code)
    )
    with ExitStack() as stack:
        learnt = None
        if collection is None:
            used = encoders[encoder or "tiny"]
            classes = embed_classes(used, wanted, cache=asked.class_cache())
        else:
            opened = o.open_asked_store(store, api_key, grpc, to_read=True)
            stack.callback(opened.close)
            used, classes = _of_collection(opened, collection, encoder, encoders, wanted)
            if few_shot:
                learnt, classes = _learnt(opened, collection, classes), classes.calibrated(None)
        if calibration is not None:
            from mmembed.classification.calibration import read_calibration

            classes = classes.calibrated(read_calibration(o.existing_file(calibration)))
        results = classify(
            found,
            classes,
            encoder=used,
            threshold=limits,
            top_k=top_k,
            learnt=learnt,
            workers=workers,
            max_pixels=max_pixels or MAX_PIXELS,
        )
        _print(results, classes, cut=limits is not None, as_json=json, shown=top_k or _SHOWN)


def _of_collection(
    opened: Store, collection: str, encoder: str | None, encoders: Encoders, labels: Labels
) -> tuple[Encoder, Classes]:
    """The encoder that made the pictures' vectors, and the labels as it sees them, calibrated where they were."""
    from mmembed.classification import embed_classes
    from mmembed.classification.calibration_fit import load_calibration
    from mmembed.collection.contract import check_fingerprint
    from mmembed.errors import InvalidQuery

    contract = opened.contract(collection)
    if contract is None or "image" not in contract.vectors:
        raise InvalidQuery(f"collection {collection!r} remembers no encoder of pictures: give --encoder instead")
    vector = contract.vectors["image"]
    used = encoders[encoder or vector.encoder]
    check_fingerprint(collection, "image", vector, used)
    classes = embed_classes(used, labels, cache=asked.class_cache())
    return used, classes.calibrated(load_calibration(opened, collection, classes))


def _learnt(opened: Store, collection: str, classes: Classes) -> Learnt:
    from mmembed.classification.few_shot import load_adapter
    from mmembed.errors import InvalidSample

    adapter = load_adapter(opened, collection, classes)
    if adapter is None:
        raise InvalidSample(
            f"collection {collection!r} has learnt nothing for these labels and templates: teach it by "
            f"`mmembed few-shot FOLDER --in {collection}`"
        )
    return adapter


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
            said = result.error if result.uri in result.error else f"{result.uri}: {result.error}"
            typer.echo(f"failed: {said}", err=True)
            continue
        done += 1
        if as_json:
            typer.echo(o.as_json(_as_json(result, open_set=open_set, grouped=classes.labels.is_hierarchy)))
        else:
            typer.echo(_line(result, paths, shown))
    if not done:
        why = f"all {failed} failed" if failed else "no pictures found"
        typer.echo(f"error: nothing could be classified: {why}", err=True)
        raise typer.Exit(1)
    if failed:
        raise typer.Exit(3)


def _as_json(result: Classified, *, open_set: bool, grouped: bool) -> dict[str, Any]:
    line: dict[str, Any] = {"uri": result.uri, "labels": _scores(result.labels)}
    if open_set:
        line["none_of_these"] = result.none_of_these
    if grouped:
        line["groups"] = _scores(result.groups)
    return line


def _scores(labels: Sequence[LabelScore]) -> list[dict[str, Any]]:
    return [{"label": one.label, "score": one.score, "probability": one.probability} for one in labels]


def _line(result: Classified, paths: dict[str, str], shown: int) -> str:
    """`cat.jpg: animal > cat 91.2%, animal > dog 8.1% [animal 99.3%]`."""
    parts = [f"{paths[one.label]} {_number(one)}" for one in result.labels[:shown]]
    left = len(result.labels) - shown
    said = ", ".join(parts) + (f" and {left} more" if left > 0 else "")
    if result.none_of_these:
        said = f"none of these{f' (nearest: {said})' if said else ''}"
    groups = ", ".join(f"{one.label} {_number(one)}" for one in result.groups[:shown])
    return f"{result.uri}: {said}" + (f" [{groups}]" if groups else "")


def _number(one: LabelScore) -> str:
    return f"{one.score:.4f}" if one.probability is None else f"{one.probability:.1%}"
