"""`mmembed calibrate`."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmembed.cli import label_options as asked
from mmembed.cli import options as o

if TYPE_CHECKING:
    from mmembed.classification.calibration import Calibration
    from mmembed.classification.sample import LabelledVectors
    from mmembed.encoders import Encoders
    from mmembed.types import Encoder, Failure, Store

_SHOWN = 20  # labels, failures


def calibrate_command(
    folder: Annotated[
        Path | None,
        typer.Argument(help="Labelled pictures, one sub-folder a label; one named _none holds pictures of no label."),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(help="As for classify; by default the names of the sub-folders, or the values of --truth."),
    ] = None,
    truth: Annotated[
        str | None,
        typer.Option(help="Instead of a folder: the payload key of the collection's points that holds their label."),
    ] = None,
    collection: Annotated[
        str | None, typer.Option("--in", help="Collection whose encoder is calibrated, and that keeps the result.")
    ] = None,
    store: o.StoreUrl = None,
    encoder: Annotated[
        str | None,
        typer.Option(help="By default the collection's own; without a collection, tiny.", show_default=False),
    ] = None,
    templates: asked.Templates = "simple",
    background: asked.Background = None,
    output: Annotated[Path | None, typer.Option(help="Also write the calibration to this JSON file.")] = None,
    method: Annotated[
        str, typer.Option(help="temperature, platt, or auto: platt for an encoder with a logit_bias (SigLIP).")
    ] = "auto",
    precision: Annotated[
        float | None, typer.Option(help="A threshold for each label: this share of what it is given to is right.")
    ] = None,
    false_positive_rate: Annotated[
        float | None, typer.Option(help="A threshold for each label: it is given to this share of the others.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Write a reliability plot, .png, .svg or .pdf.")] = None,
    json: o.Json = False,
    device: o.Device = None,
    dtype: o.Dtype = None,
    trust_remote_code: o.TrustRemoteCode = False,
    api_key: o.ApiKey = None,
    grpc: o.Grpc = False,
) -> None:
    """Make probabilities mean what they say, from a small labelled sample.

    The result is kept beside the collection and used from then on for these labels. Exit code 3: finished, but some
    pictures could not be read.
    """
    if (folder is None) == (truth is None):
        raise typer.BadParameter("give a folder of labelled pictures, or --truth KEY", param_hint="FOLDER")
    if collection is None and (output is None or truth is not None):
        raise typer.BadParameter("say what is calibrated and keeps the result", param_hint="--in COLLECTION")

    from mmembed.classification import embed_classes
    from mmembed.classification.calibration import write_calibration
    from mmembed.classification.calibration_fit import fit_calibration, save_calibration
    from mmembed.classification.measures import check_plot_file, plot_reliability
    from mmembed.encoders import Encoders
    from mmembed.types import LoadOptions

    if plot is not None:
        check_plot_file(plot)
    encoders = Encoders(LoadOptions(device=device, dtype=dtype, trust_remote_code=trust_remote_code))
    with ExitStack() as stack:
        opened = None
        if collection is not None:
            opened = o.open_asked_store(store, api_key, grpc, to_read=True)
            stack.callback(opened.close)
        loaded = image_encoder(opened, collection, encoder, encoders)
        sample = _sample(folder, truth, opened, collection, loaded)
        names = labels or sorted({label for label in sample.truth if label is not None})
        wanted = asked.asked_labels(names, templates, background)
        classes = embed_classes(loaded, wanted, cache=asked.class_cache())
        calibration = fit_calibration(
            classes,
            sample.vectors,
            sample.truth,
            method=method,  # type: ignore[arg-type]  # SettingsError for another
            precision=precision,
            false_positive_rate=false_positive_rate,
        )
        if output is not None:
            write_calibration(output, calibration)
        if opened is not None and collection is not None:
            save_calibration(opened, collection, calibration)  # refuses what is too large for it: the file is there
    if plot is not None:
        plot_reliability({"before": calibration.before, "after, cross-validated": calibration.after}, plot)
    _tell(calibration, sample.failures, json=json)


def image_encoder(store: Store | None, collection: str | None, name: str | None, encoders: Encoders) -> Encoder:
    """The encoder of the collection's pictures; without a collection the one that is named, or tiny.

    Raises InvalidQuery for a collection without the vector `image`, CollectionMismatch where another encoder is named.
    """
    from mmembed.collection import Collection
    from mmembed.collection.contract import check_fingerprint
    from mmembed.errors import CollectionNotOurs, InvalidQuery

    if store is None or collection is None:
        return encoders[name or "tiny"]
    contract = store.contract(collection)
    if contract is None:
        raise CollectionNotOurs(collection)
    if "image" not in contract.vectors:
        raise InvalidQuery(f"collection {collection!r} holds {contract.kind}, not images: name one that does with --in")
    if name is None:
        return Collection(store, collection).encoder("image", encoders)
    loaded = encoders[name]
    check_fingerprint(collection, "image", contract.vectors["image"], loaded)
    return loaded


def _sample(
    folder: Path | None, truth: str | None, store: Store | None, collection: str | None, encoder: Encoder
) -> LabelledVectors:
    from mmembed.classification.sample import embed_sample, stored_sample
    from mmembed.sources.labelled import NEGATIVES, read_class_folders

    if folder is not None:
        return embed_sample(read_class_folders(folder), encoder)
    assert store is not None  # --truth needs a collection
    assert collection is not None
    assert truth is not None
    return stored_sample(store, collection, truth, negatives=NEGATIVES)


def _tell(calibration: Calibration, failures: list[Failure], *, json: bool) -> None:
    for failure in failures[:_SHOWN]:
        typer.echo(f"failed: {failure.error}", err=True)
    if json:
        typer.echo(o.as_json(_summary(calibration, failures)))
    else:
        for line in _lines(calibration):
            typer.echo(line)
    if failures:
        raise typer.Exit(3)


def _summary(calibration: Calibration, failures: list[Failure]) -> dict[str, object]:
    kept = calibration.to_json()
    bins = {"before": kept.pop("before"), "after": kept.pop("after")}
    errors = {"ece_before": calibration.ece_before, "ece_after": calibration.ece_after}
    return {**kept, **errors, "reliability": bins, "failures": len(failures)}


def _lines(calibration: Calibration) -> list[str]:
    before = "none" if calibration.ece_before is None else f"{calibration.ece_before:.3f}"
    fitted = f"temperature {calibration.temperature:.3g}" if calibration.temperature is not None else "Platt"
    lines = [
        f"{fitted}, from {calibration.pictures} pictures of {len(calibration.names)} labels",
        f"expected calibration error: {before} before, {calibration.ece_after:.3f} after (cross-validated)",
    ]
    if calibration.borrowed:
        lines.append(f"too few pictures for a line of their own: {_some(calibration.borrowed)}")
    if calibration.rule:
        lines.append(f"thresholds at {calibration.rule}:")
        reached = [(n, t) for n, t in calibration.thresholds.items() if n not in calibration.unreached]
        lines += [f"  {threshold:6.3f}  {name}" for name, threshold in reached]
    if calibration.unreached:
        lines.append(f"never given, because no threshold keeps the rule: {_some(calibration.unreached)}")
    return lines


def _some(names: tuple[str, ...]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
