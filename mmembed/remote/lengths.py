"""Texts that are too long for an API which refuses them instead of truncating."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from mmembed.errors import EncoderRefused
from mmembed.remote.batches import cut_to_bytes, cut_to_tokens, most_tokens
from mmembed.types import DenseArray

__all__ = ["Ask", "ask_fitting"]

log = logging.getLogger(__name__)

Ask: TypeAlias = Callable[[Sequence[str]], DenseArray]
"""n texts -> `(n, dim)`, in one request."""

_REFUSED_FOR_LENGTH = frozenset({400, 413, 422})
_SPECIAL_TOKENS = 8  # room for those that a server adds


def ask_fitting(ask: Ask, texts: Sequence[str], *, longest: int) -> DenseArray:
    """Ask; where that is refused and some texts may be too long, ask for each of those alone.

    Texts are cut to `longest` tokens as we count them first, so that what becomes of one never depends on the
    others: a text that is refused in company is refused alone.
    """
    doubtful = [most_tokens(text) > longest for text in texts]
    texts = [cut_to_tokens(text, longest) if doubt else text for text, doubt in zip(texts, doubtful, strict=True)]
    try:
        return ask(texts)
    except EncoderRefused as exc:
        if exc.status not in _REFUSED_FOR_LENGTH or not any(doubtful):
            raise
        log.debug("%d texts were refused, of which some may be too long: %s", len(texts), exc)
    short = [text for text, doubt in zip(texts, doubtful, strict=True) if not doubt]
    rows = iter(ask(short) if short else ())
    alone = len(texts) == 1
    return np.stack(
        [
            _shortened(ask, text, longest, refused=alone)[0] if doubt else next(rows)
            for text, doubt in zip(texts, doubtful, strict=True)
        ]
    )


def _shortened(ask: Ask, text: str, longest: int, *, refused: bool) -> DenseArray:
    """One text, cut further each time that it is refused, until it is sure to fit; `refused`: as it is, already."""
    cuts = [text, cut_to_tokens(text, longest // 2), cut_to_tokens(text, longest // 4)]
    *longer, last = dict.fromkeys([*cuts[refused:], cut_to_bytes(text, max(longest - _SPECIAL_TOKENS, 1))])
    for cut in longer:
        try:
            return ask([cut])
        except EncoderRefused as exc:
            if exc.status not in _REFUSED_FOR_LENGTH:
                raise
            log.debug("%d bytes were refused, so fewer are sent: %s", len(cut.encode()), exc)
    return ask([last])
