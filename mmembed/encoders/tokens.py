"""A tokenizer together with the special tokens that it puts around a text, checked when it is loaded."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from mmembed.encoders.checkpoint import Checkpoint
from mmembed.errors import EncoderLoadError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PROBE = "a"
_PROBES = ("", " ", "two words", "Ünïcode 漢字 🙂", "line\nbreak", "long " * 1000)


@dataclass(frozen=True)
class Tokens:
    """Texts to token ids, framed: `before` + the text's own + `after`."""

    tokenizer: PreTrainedTokenizerBase
    before: tuple[int, ...]
    after: tuple[int, ...]

    def ids(self, texts: Sequence[str], *, limit: int | None = None) -> list[list[int]]:
        """Token ids of each text, at most `limit` of them; what is cut off is text, never the frame."""
        if not texts:
            return []
        read = [characters(text) for text in texts]
        bare = self.tokenizer(read, add_special_tokens=False, verbose=False)["input_ids"]
        room = None if limit is None else limit - len(self.before) - len(self.after)
        return [[*self.before, *ids[:room], *self.after] for ids in bare]

    def words(self, ids: Sequence[int]) -> list[str]:
        """The tokens of some ids, for people to read."""
        return [str(self.tokenizer.convert_ids_to_tokens(i)) for i in ids]


def token_batches(lengths: Sequence[float], *, budget: int, cap: int) -> Iterator[list[int]]:
    """Positions of `lengths` in batches, longest first, of at most `cap` rows and `budget` padded tokens.

    A row longer than the budget is a batch of its own.

    >>> list(token_batches([2, 9, 4, 3], budget=8, cap=2))
    [[1], [2, 3], [0]]
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    start = 0
    while start < len(order):
        size = max(1, min(cap, int(budget // max(1, lengths[order[start]]))))
        yield order[start : start + size]
        start += size


def characters(text: str) -> str:
    """The text with "?" for each lone surrogate (as in a file name): those are no characters, and tokenizers raise."""
    return text.encode("utf-8", "replace").decode()


class TokenCounter:
    """Tokens of a text, nothing truncated. Has a tokenizer of its own, since truncation is a tokenizer's state."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = copy.deepcopy(tokenizer)
        self._bare = hasattr(tokenizer, "no_truncation")  # a `tokenizers.Tokenizer`, of a static model as model2vec's
        if self._bare:
            self.tokenizer.no_truncation()
        self("")  # sets that state now: set while another thread counts, it is "Already borrowed"

    def __call__(self, text: str, *, special: bool = True) -> int:
        if self._bare:  # a static model is given no special tokens
            # of encode and encode_batch, the second alone lets other threads run meanwhile
            return len(self.tokenizer.encode_batch([text], add_special_tokens=False)[0])
        ids = self.tokenizer(text, add_special_tokens=special, truncation=False, padding=False, verbose=False)
        return len(ids["input_ids"])


def load_tokens(
    checkpoint: Checkpoint, *, flags: Mapping[str, bool], first: str | None, last: str | None, trust_remote_code: bool
) -> Tokens:
    """Load the tokenizer of `checkpoint`, measure its frame and hold it against what the model was trained on.

    Text that spells a special token (`</s>`) is read as text, but for a Unigram tokenizer (XLM-RoBERTa's), whose
    vocabulary has it as a piece.

    Args:
        flags: passed to the tokenizer, such as add_eos_token.
        first: the one token every text must start with; None accepts what the tokenizer does.
        last: the one token every text must end with; None accepts what the tokenizer does, unless
            its own tokenizer_config.json asks for a closing token that it does not set.

    Raises:
        EncoderLoadError: no tokenizer there, or one that frames texts otherwise.
    """
    from transformers import AutoTokenizer

    with checkpoint.loading():
        tokenizer = AutoTokenizer.from_pretrained(
            checkpoint.model,
            revision=checkpoint.revision or "main",
            trust_remote_code=trust_remote_code,
            split_special_tokens=True,
            **flags,
        )
    if last is None and closing_token_promised(checkpoint):
        last = tokenizer.eos_token
    tokens = Tokens(tokenizer, *_frame(tokenizer, checkpoint))
    before, after = tokens.words(tokens.before), tokens.words(tokens.after)
    if (first is not None and before != [first]) or (last is not None and after != [last]):
        raise EncoderLoadError(
            f"the tokenizer of {checkpoint.model} puts {before or 'nothing'} before a text and {after or 'nothing'} "
            f"after it, but the model was trained with {first or 'anything'} and {last or 'anything'}: its vectors "
            f"would be noise, so use the tokenizer that was published with the model"
        )
    return tokens


def closing_token_promised(checkpoint: Checkpoint) -> bool:
    """Whether tokenizer_config.json asks for a closing token; transformers 5 does not heed it beside tokenizer.json."""
    file = checkpoint.folder() / "tokenizer_config.json"
    return file.is_file() and bool(json.loads(file.read_text("utf-8")).get("add_eos_token"))


def _frame(tokenizer: PreTrainedTokenizerBase, checkpoint: Checkpoint) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The ids before and after a text, which must be the same for every text."""

    def framed(text: str, special: bool) -> list[int]:
        return cast("list[int]", tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"])

    bare, whole = framed(_PROBE, False), framed(_PROBE, True)
    starts = [i for i in range(len(whole) - len(bare) + 1) if whole[i : i + len(bare)] == bare]
    if not bare or not starts:
        raise EncoderLoadError(
            f"the tokenizer of {checkpoint.model} reads {_PROBE!r} as {whole}: it is not one of ours"
        )
    before, after = whole[: starts[0]], whole[starts[0] + len(bare) :]
    for text in _PROBES:
        if framed(text, True) != [*before, *framed(text, False), *after]:
            raise EncoderLoadError(
                f"the tokenizer of {checkpoint.model} frames {text[:20]!r} otherwise than {_PROBE!r}: "
                f"use the tokenizer that was published with the model"
            )
    return tuple(before), tuple(after)
