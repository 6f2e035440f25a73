"""`mmembed few-shot`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmembed.cli import label_options as labelling
from mmembed.cli import options as o

if TYPE_CHECKING:
    from mmembed.classification.few_shot import FewShotReport


@o.shared("json", *o.MODELS, "batch_size", *o.STORE)
def few_shot_command(
    session: o.Session,
    folder: Annotated[Path, typer.Argument(help="Labelled pictures, one sub-folder per label.")],
    collection: Annotated[str, typer.Option("--in", help="Collection that the pictures go into, and that learns.")],
    encoder: Annotated[str | None, "By default the collection's own, else tiny."] = None,
    labels: Annotated[str | None, "As for classify; by default the names of the sub-folders."] = None,
    templates: labelling.Templates = "simple",
    shots: Annotated[
        int | None, typer.Option(min=1, help="Pictures of each label to learn from; by default half.")
    ] = None,
    key: Annotated[str, "Payload key that gets the label."] = "class",
    seed: Annotated[int, "Random seed of the split."] = 0,
    workers: o.Workers = None,
) -> None:
    """Learn from a few pictures of each label, and say how much that helps.

    Indexes the pictures, learns from a part of them in two ways (Tip-Adapter, whose keys are points of the collection,
    and a logistic probe), and compares both with zero-shot on pictures that took no part. Exit code 3: finished, but
    some pictures could not be read.
    """
    from mmembed.classification.few_shot import learn_few_shot
    from mmembed.sources.labelled import read_class_folders

    images = read_class_folders(folder)
    names = labels or sorted({image.label for image in images if image.label is not None})
    report = learn_few_shot(
        session.store,
        collection,
        images,
        encoder=session.encoder_of(collection, "image", encoder, "tiny"),
        labels=labelling.labels_for(names, templates, None),
        shots=shots,
        key=key,
        cache=labelling.class_cache(),
        workers=workers,
        seed=seed,
    )
    session.answer(report, lambda: _lines(report), report.failures)


def _lines(report: FewShotReport) -> list[str]:
    parts, note = report.images, report.chosen
    sizes = f"{parts['train']} pictures to learn from, {parts['validation']} to choose by, {parts['test']} to test"
    lines = [
        f"{len(note.names)} labels: {sizes}",
        f"chosen: alpha {note.alpha:.3g}, beta {note.beta:.3g}, C {note.strength:g}; best to choose by: {note.best}",
    ]
    for measured in report.measured:
        chance = "" if measured.p_value is None else f"  p {measured.p_value:.3g} against zero-shot"
        lines.append(
            f"{measured.name:>12}: accuracy {measured.accuracy:.3f} [{measured.low:.3f}, {measured.high:.3f}]{chance}"
        )
    return lines
