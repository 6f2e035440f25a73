"""`Search` and the verb that spells it out cannot drift apart."""

from __future__ import annotations

import dataclasses
import inspect

import mmembed
from mmembed import Search


def test_the_verb_spells_out_every_field() -> None:
    """The keywords of `mmembed.search`, in their order and with their defaults, are the fields of `Search`."""
    keywords = {
        name: parameter.default
        for name, parameter in inspect.signature(mmembed.search).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }
    assert [keywords.pop("encoder"), keywords.pop("encoders")] == [None, None]
    assert list(keywords.items()) == [(field.name, field.default) for field in dataclasses.fields(Search)]
