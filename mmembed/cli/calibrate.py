"""`mmembed calibrate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmembed.cli import label_options as labelling
from mmembed.cli import options as o

if TYPE_CHECKING:
    from mmembed.classification.calibration import Calibration
    from mmembed.classification.sample import LabelledVectors
    from mmembed.types import Encoder

_SHOWN = 20  # labels


@o.shared("json", *o.MODELS, *o.STORE, to_read=True)
def calibrate_command(
    session: o.Session,
    folder: Annotated[
        Path | None,
        typer.Argument(help="Labelled pictures, one sub-folder per label; one named _none holds pictures of no label."),
    ] = None,
    labels: Annotated[
        str | None, "As for classify; by default the names of the sub-folders, or the values of --truth."
    ] = None,
    truth: Annotated[
        str | None, "Instead of a folder: the payload key of the collection's points that holds their label."
    ] = None,
    collection: Annotated[
        str | None, typer.Option("--in", help="Collection whose encoder is calibrated, and that keeps the result.")
    ] = None,
    encoder: Annotated[str | None, "By default the collection's own; without a collection, tiny."] = None,
    templates: labelling.Templates = "simple",
    background: labelling.Background = None,
    output: Annotated[Path | None, "Also write the calibration to this JSON file."] = None,
    method: Annotated[str, "temperature, platt, or auto: platt for an encoder with a logit_bias (SigLIP)."] = "auto",
    precision: Annotated[
        float | None, "A threshold for each label, so that this share of the pictures it is given to is right."
    ] = None,
    false_positive_rate: Annotated[
        float | None, "A threshold for each label, so that it is given to this share of the other pictures."
    ] = None,
    plot: Annotated[Path | None, "Write a reliability plot, .png, .svg or .pdf."] = None,
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

    if plot is not None:
        check_plot_file(plot)
    loaded = labelling.encoder_for(session, collection, encoder)
    sample = _sample(session, folder, truth, collection, loaded)
    names = labels or sorted({label for label in sample.truth if label is not None})
    classes = embed_classes(loaded, labelling.labels_for(names, templates, background), cache=labelling.class_cache())
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
    if collection is not None:
        save_calibration(session.store, collection, calibration)  # refuses what is too large for it: the file is there
    if plot is not None:
        plot_reliability({"before": calibration.before, "after, cross-validated": calibration.after}, plot)
    session.answer(_summary(calibration, len(sample.failures)), lambda: _lines(calibration), sample.failures)


def _sample(
    session: o.Session, folder: Path | None, truth: str | None, collection: str | None, encoder: Encoder
) -> LabelledVectors:
    from mmembed.classification.sample import embed_sample, stored_sample
    from mmembed.sources.labelled import NEGATIVES, read_class_folders

    if folder is not None:
        return embed_sample(read_class_folders(folder), encoder)
    assert collection is not None  # --truth needs one
    assert truth is not None
    return stored_sample(session.store, collection, truth, negatives=NEGATIVES)


def _summary(calibration: Calibration, failures: int) -> dict[str, object]:
    summary = calibration.to_json()
    bins = {"before": summary.pop("before"), "after": summary.pop("after")}
    errors = {"ece_before": calibration.ece_before, "ece_after": calibration.ece_after}
    return {**summary, **errors, "reliability": bins, "failures": failures}


def _lines(calibration: Calibration) -> list[str]:
    from mmembed.classification.classes import some_of

    before = "none" if calibration.ece_before is None else f"{calibration.ece_before:.3f}"
    fitted = f"temperature {calibration.temperature:.3g}" if calibration.temperature is not None else "Platt"
    lines = [
        f"{fitted}, from {calibration.images} pictures of {len(calibration.names)} labels",
        f"expected calibration error: {before} before, {calibration.ece_after:.3f} after (cross-validated)",
    ]
    if calibration.borrowed:
        lines.append(f"too few pictures for a line of their own: {some_of(calibration.borrowed, _SHOWN)}")
    if calibration.rule:
        lines.append(f"thresholds at {calibration.rule}:")
        reached = [(n, t) for n, t in calibration.thresholds.items() if n not in calibration.unreached]
        lines += [f"  {threshold:6.3f}  {name}" for name, threshold in reached]
    if calibration.unreached:
        lines.append(f"never given, because no threshold keeps the rule: {some_of(calibration.unreached, _SHOWN)}")
    return lines
