"""The texts that encoders are tried with: short and long, in several scripts, and those that break tokenizers."""

from __future__ import annotations

from itertools import cycle, islice
from typing import get_args

from mmembed.errors import UnsupportedModality
from mmembed.types import Encoder, Role

TEXTS = (
    "a",
    "two green parrots on a branch",
    "How much protein should a woman eat in a day?",
    "Die Hauptstadt von Frankreich ist Paris.",
    "桥边停着一辆红色的小汽车",
    "someone@example.org, +1 (555) 0100",
    "naïve café",
    (
        "A storm crossed the bay before noon. By the time the ferry had turned back, the harbour was full of small "
        "boats, and the crew of the lifeboat counted eleven sails that had not yet come in."
    ),
)

ODD_TEXTS = {
    "the empty text": "",
    "a space": " ",
    "line breaks": "\n\n",
    "tabs and returns": "\t\r\n \t",
    "emoji": "🦜👩‍👩‍👧",
    "a lone surrogate": "caf\udcff",
    "one word of 40 letters": "x" * 40,
    "a text with line breaks": "two\nparrots\r\non a branch",
    "right to left": "שלום עולם",
}

_WORDS = "the river runs past an old mill where children fish and a grey heron waits for them to leave"
_OTHER_WORDS = "engines turn over slowly when oil is cold so drivers let trucks idle until gauges rise"


def filler(words: int, *, other: bool = False) -> str:
    """That many plain words; `other` ones share none with the first."""
    return " ".join(islice(cycle((_OTHER_WORDS if other else _WORDS).split()), words))


def text_roles(encoder: Encoder) -> tuple[Role, ...]:
    """In which roles it reads texts: an encoder of pages may take them as queries only. Both, if it takes neither."""
    return tuple(role for role in get_args(Role) if _takes(encoder, role)) or get_args(Role)


def _takes(encoder: Encoder, role: Role) -> bool:
    try:
        encoder.encode_text(["a"], role=role)
    except UnsupportedModality:
        return False
    except Exception:  # taken, and wrong: which the checks will find and tell
        return True
    return True
