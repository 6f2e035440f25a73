"""Labelled pictures dealt out, label by label, into training, validation and test."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np

from mmembed.errors import InvalidSample, SettingsError

Split: TypeAlias = Literal["train", "validation", "test"]

PARTS: tuple[Split, ...] = ("train", "validation", "test")

_TEST, _VALIDATION = 0.3, 0.2  # of the pictures of each label, one at least


def stratified_split(truth: Sequence[str], *, shots: int | None = None, seed: int = 0) -> list[Split]:
    """The part of each picture: of every label 30 % test, 20 % validation, the rest training, by chance.

    Args:
        shots: pictures of each label to learn from; those beyond them are validation and test, two to three.

    Raises:
        InvalidSample: a single label, or one with fewer pictures than its parts need.
        SettingsError: fewer shots than one.
    """
    if shots is not None and shots < 1:
        raise SettingsError(f"few-shot learns from at least one picture of each label, not from {shots}")
    labels = sorted(set(truth))
    if len(labels) < 2:
        raise InvalidSample(
            f"every picture has the label {labels[0]!r}: few-shot learns to tell at least two labels apart"
            if labels
            else "there is no labelled picture: give a folder with one sub-folder per label"
        )
    least = (shots or 1) + 2
    parts: list[Split] = ["train"] * len(truth)
    rng = np.random.default_rng(seed)
    for label in labels:
        places = rng.permutation([place for place, of in enumerate(truth) if of == label])
        if len(places) < least:
            raise InvalidSample(
                f"{len(places)} of the pictures that can be read have the label {label!r}, and {least} are the least: "
                f"{shots or 1} to learn from, one to choose by and one to test"
            )
        if shots is None:
            n_test = max(1, round(_TEST * len(places)))
            n_validation = max(1, round(_VALIDATION * len(places)))
        else:
            n_test = round(_TEST / (_TEST + _VALIDATION) * (len(places) - shots))
            n_validation = len(places) - shots - n_test
        for place in places[:n_test]:
            parts[place] = "test"
        for place in places[n_test : n_test + n_validation]:
            parts[place] = "validation"
    return parts
