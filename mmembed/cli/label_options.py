"""Options that say what pictures may show, and how they become Labels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mmembed.classification import ClassCache, Labels
    from mmembed.cli.options import Session
    from mmembed.types import Encoder

Templates: TypeAlias = Annotated[str, "Sentences a label is put into: openai (80), simple (7), plain, or a file."]
Background: TypeAlias = Annotated[
    str | None, "What else there may be, separated by commas: where it fits best, no label does."
]
Thresholds: TypeAlias = Annotated[
    list[str] | None, "Leave out labels of a lower probability: 0.5, or cat=0.5 for one label; repeatable."
]


def labels_for(labels: str | Sequence[str], templates: str, background: str | None) -> Labels:
    """What --labels (or names, taken as they stand), --templates and --background mean.

    Raises InvalidLabels, and BadParameter where a file is named that is not there.
    """
    from mmembed.classification import TEMPLATES, labels_of, parse_labels, read_labels, read_templates

    if templates not in TEMPLATES and not _is_file(templates):
        raise typer.BadParameter(
            f"{templates!r} is not one of {', '.join(TEMPLATES)}, nor a file", param_hint="--templates"
        )
    classes: Labels | Sequence[str] = labels
    if isinstance(labels, str):
        if labels.endswith((".txt", ".json")) and "," not in labels and not _is_file(labels):
            raise typer.BadParameter(
                f"there is no file {labels!r}: name one, or labels separated by commas", param_hint="--labels"
            )
        classes = read_labels(Path(labels)) if _is_file(labels) else parse_labels(labels)
    return labels_of(
        classes,
        templates=TEMPLATES[templates] if templates in TEMPLATES else read_templates(Path(templates)),
        background=background.split(",") if background is not None else (),
    )


def threshold_of(entries: Sequence[str] | None, names: Sequence[str]) -> float | dict[str, float] | None:
    """`["0.5"]` -> 0.5; `["0.5", "cat=0.7"]` -> one for each label; `["cat=0.7"]` -> one for this label alone."""
    whole: float | None = None
    single: dict[str, float] = {}
    for entry in entries or ():
        name, equals, number = entry.rpartition("=")
        try:
            value = float(number)
        except ValueError:
            raise typer.BadParameter(
                f"{entry!r} is neither a number nor LABEL=NUMBER", param_hint="--threshold"
            ) from None
        if equals:
            single[" ".join(name.split())] = value
        else:
            whole = value
    if not single:
        return whole
    return single if whole is None else {**dict.fromkeys(names, whole), **single}


def encoder_for(session: Session, collection: str | None, name: str | None) -> Encoder:
    """The encoder of the collection's images; without a collection the one that is named, or tiny."""
    from mmembed.classification.collection_classes import image_encoder
    from mmembed.collection import Collection

    if collection is None:
        return session.encoders[name or "tiny"]
    return image_encoder(Collection(session.store, collection), session.encoders, session.load(name))


def class_cache() -> ClassCache:
    """Class embeddings in the user's cache folder."""
    import platformdirs

    from mmembed.classification import ClassCache

    return ClassCache(platformdirs.user_cache_path("mmembed") / "classes")


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # too long for a name, or with a zero byte: no file
        return False
