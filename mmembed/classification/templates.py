"""Sentences that a label is put into. A class is the mean of what the encoder makes of them.

`OPENAI_80` and `SIMPLE_7` are those of OpenAI's CLIP (Radford et al. 2021, section 3.1.4), from its notebook
Prompt_Engineering_for_ImageNet: Copyright (c) 2021 OpenAI, MIT licence.
"""

from __future__ import annotations

import re
from pathlib import Path

from mmembed.errors import InvalidLabels

_PLACE = re.compile(r"\{c?\}")

SIMPLE_7 = (
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
)
"""A short choice of them, which comes close at a tenth of the cost."""

OPENAI_80 = (
    "a bad photo of a {}.",
    "a photo of many {}.",
    "a sculpture of a {}.",
    "a photo of the hard to see {}.",
    "a low resolution photo of the {}.",
    "a rendering of a {}.",
    "graffiti of a {}.",
    "a bad photo of the {}.",
    "a cropped photo of the {}.",
    "a tattoo of a {}.",
    "the embroidered {}.",
    "a photo of a hard to see {}.",
    "a bright photo of a {}.",
    "a photo of a clean {}.",
    "a photo of a dirty {}.",
    "a dark photo of the {}.",
    "a drawing of a {}.",
    "a photo of my {}.",
    "the plastic {}.",
    "a photo of the cool {}.",
    "a close-up photo of a {}.",
    "a black and white photo of the {}.",
    "a painting of the {}.",
    "a painting of a {}.",
    "a pixelated photo of the {}.",
    "a sculpture of the {}.",
    "a bright photo of the {}.",
    "a cropped photo of a {}.",
    "a plastic {}.",
    "a photo of the dirty {}.",
    "a jpeg corrupted photo of a {}.",
    "a blurry photo of the {}.",
    "a photo of the {}.",
    "a good photo of the {}.",
    "a rendering of the {}.",
    "a {} in a video game.",
    "a photo of one {}.",
    "a doodle of a {}.",
    "a close-up photo of the {}.",
    "a photo of a {}.",
    "the origami {}.",
    "the {} in a video game.",
    "a sketch of a {}.",
    "a doodle of the {}.",
    "a origami {}.",
    "a low resolution photo of a {}.",
    "the toy {}.",
    "a rendition of the {}.",
    "a photo of the clean {}.",
    "a photo of a large {}.",
    "a rendition of a {}.",
    "a photo of a nice {}.",
    "a photo of a weird {}.",
    "a blurry photo of a {}.",
    "a cartoon {}.",
    "art of a {}.",
    "a sketch of the {}.",
    "a embroidered {}.",
    "a pixelated photo of a {}.",
    "itap of the {}.",
    "a jpeg corrupted photo of the {}.",
    "a good photo of a {}.",
    "a plushie {}.",
    "a photo of the nice {}.",
    "a photo of the small {}.",
    "a photo of the weird {}.",
    "the cartoon {}.",
    "art of the {}.",
    "a drawing of the {}.",
    "a photo of the large {}.",
    "a black and white photo of a {}.",
    "the plushie {}.",
    "a dark photo of a {}.",
    "itap of a {}.",
    "graffiti of the {}.",
    "a toy {}.",
    "itap of my {}.",
    "a photo of a cool {}.",
    "a photo of a small {}.",
    "a tattoo of the {}.",
)
"""The whole ensemble, with which CLIP papers state ImageNet accuracy."""

PLAIN = ("{}",)
"""The label as it stands."""

TEMPLATES = {"openai": OPENAI_80, "simple": SIMPLE_7, "plain": PLAIN}


def fill(template: str, text: str) -> str:
    """`"a photo of a {}."` and `"cat"` -> `"a photo of a cat."`; `{c}` is the same place. Other braces stay."""
    return _PLACE.sub(lambda _: text, template)


def is_template(template: str) -> bool:
    """Whether it has a place for the label."""
    return _PLACE.search(template) is not None


def read_templates(file: Path) -> tuple[str, ...]:
    """One template a line, with `{}` or `{c}` where the label goes; empty lines are passed over.

    Raises InvalidLabels for a file that cannot be read, has none, or has a line without a place.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as exc:
        raise InvalidLabels(f"templates {str(file)!r} cannot be read as UTF-8 text ({exc}): name a text file") from exc
    templates = tuple(line.strip() for line in lines if line.strip())
    if not templates:
        raise InvalidLabels(f"templates {str(file)!r} hold no line: write one a line, such as 'a photo of a {{}}.'")
    for template in templates:
        if not is_template(template):
            raise InvalidLabels(
                f"template {template!r} of {str(file)!r} has no place for the label: write {{}} where it goes"
            )
    return templates
