"""Is an encoder right? `check_encoder` finds out, for one of ours, of a plugin, or any model wrapped in ten lines.

    report = check_encoder(load_encoder("minilm"))
    assert report.ok, report

It is the whole test of a plugin, and `mmembed verify ENCODER` on the command line. What it looks for are mistakes
that raise nothing and only make a search worse: a vector that depends on its batch-mates, a prompt that is missing
or one space short, a closing token that the tokenizer no longer sets, a text cut off early, a norm that is not 1, a
photograph on its side.

A model of another library needs only the function that embeds with it. Here one of sentence-transformers:

    # mine.py
    from sentence_transformers import SentenceTransformer
    from mmembed.testing import wrap

    model = SentenceTransformer("FOLDER")
    encoder = wrap(
        lambda texts: model.encode(texts, normalize_embeddings=True),
        token_ids=lambda text: model.tokenizer(text)["input_ids"],
        context_length=model.max_seq_length,
    )

    report = check_encoder(encoder, checkpoint=Path("FOLDER"))

An engine that returns a list of arrays does as well; this one counts letters:

>>> import numpy as np
>>> from mmembed.testing import check_encoder, wrap
>>> class Engine:
...     def embed(self, sentences):
...         counts = [[1 + text.lower().count(letter) for letter in "etaoinshr"] for text in sentences]
...         return [np.array(row) / np.linalg.norm(row) for row in counts]
>>> report = check_encoder(wrap(Engine().embed, name="letters"))
>>> report.ok
True
>>> doubled = check_encoder(wrap(lambda texts: [2 * row for row in Engine().embed(texts)], name="letters"))
>>> print(doubled.faults[0].name, "-", doubled.faults[0].found)
text form - a vector has the norm 2.00000, not 1

An encoder may offer more than `mmembed.Encoder` asks for: `token_ids(text)`, what really goes into the model for a
document, and `prompt(role, task)`, what leads a text, which are then checked too. Where its `spec` says `remote=True`,
it is run by others in a precision that nobody tells, so that small differences are no fault.
"""

from __future__ import annotations

from mmembed.testing.checks import check_encoder
from mmembed.testing.foreign import wrap
from mmembed.testing.known import KnownAnswers, read_known_answers, record_known_answers, write_known_answers
from mmembed.testing.report import Check, EncoderReport

__all__ = [
    "Check",
    "EncoderReport",
    "KnownAnswers",
    "check_encoder",
    "read_known_answers",
    "record_known_answers",
    "wrap",
    "write_known_answers",
]
