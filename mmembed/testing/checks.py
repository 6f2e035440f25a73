"""`check_encoder` and the table of all checks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from mmembed.testing import input_checks as inputs
from mmembed.testing import prompt_checks, reference_checks
from mmembed.testing.known import KnownAnswers
from mmembed.testing.report import Check, EncoderReport, Fault, NotJudged
from mmembed.testing.subject import Subject, tolerance_of
from mmembed.types import Encoder, Kind, Modality


@dataclass(frozen=True)
class _Row:
    """One check: of whom it is asked, and why."""

    name: str
    check: Callable[[Subject], str]
    why: str
    modality: Modality | None = None  # None: of every encoder
    kinds: tuple[Kind, ...] = get_args(Kind)


_FORM = "a store refuses other shapes, and scores of vectors that are not of norm 1 cannot be compared"
_BATCH = (
    "what an index finds would depend on what happened to be embedded at the same time; a text tower that "
    "attends to its padding (SigLIP) must pad every text to its whole context"
)

_CHECKS = (
    _Row("spec", reference_checks.spec, "collections, stores and limits are made by it"),
    _Row("other inputs", reference_checks.unsupported, "an index learns from UnsupportedModality what to leave out"),
    _Row("text form", inputs.text_form, _FORM, "text"),
    _Row("text order", inputs.text_order, "vectors in another order are stored with the wrong documents", "text"),
    _Row("text repeats", inputs.text_repeats, "dropout or sampling is still on: the model is in training", "text"),
    _Row("no texts", inputs.no_texts, "an index may have nothing left to embed", "text"),
    _Row("odd texts", inputs.odd_texts, "one such text in an index would stop it, or spoil its batch", "text"),
    _Row("text batches", inputs.text_batches, _BATCH, "text"),
    _Row("truncation", inputs.truncation, "longer texts must be cut to context_length, not refused", "text"),
    _Row("context", inputs.context, "passages are cut to context_length: the rest of each would be lost", "text"),
    _Row("count_tokens", inputs.tokens, "passages are cut by it", "text"),
    _Row(
        "roles",
        prompt_checks.roles,
        "a model that was trained with prompts is much worse without, and one trained without is worse with",
        "text",
    ),
    _Row("prompts", prompt_checks.prompt_bytes, "a prompt that is one space short is another prompt", "text"),
    _Row(
        "special tokens",
        prompt_checks.special_tokens,
        "without the closing token that it pools, a model's vectors are noise (transformers 5 drops E5-Mistral's)",
        "text",
    ),
    _Row(
        "self match", inputs.self_match, "a text that does not find itself finds nothing", "text", ("sparse", "multi")
    ),
    _Row("picture form", inputs.image_form, _FORM, "image"),
    _Row("picture order", inputs.image_order, "vectors in another order are stored with the wrong pictures", "image"),
    _Row("picture repeats", inputs.image_repeats, "dropout or augmentation is still on", "image"),
    _Row("no pictures", inputs.no_images, "an index may have nothing left to embed", "image"),
    _Row("picture batches", inputs.image_batches, "pictures must not see one another", "image"),
    _Row("picture files", inputs.files, "the same picture must have one vector, whatever file it is in", "image"),
    _Row("picture modes", inputs.modes, "a picture that is not RGB must be refused or read right", "image"),
    _Row("pixels", inputs.pixels, "an index preprocesses in threads, a search does not", "image"),
    _Row("name", reference_checks.name_loads, "a collection stores the name, and loads it to search"),
    _Row(
        "Matryoshka",
        reference_checks.matryoshka,
        "a vector that is cut and not brought to norm 1 again scores too low",
        "text",
        ("dense",),
    ),
    _Row("against", reference_checks.against, "the two do not serve the same model in the same way"),
    _Row("known answers", reference_checks.known_answers, "it no longer is the model that it was"),
)


def check_encoder(
    encoder: Encoder,
    *,
    against: Encoder | None = None,
    known: KnownAnswers | None = None,
    load: Callable[[str], Encoder] | None = None,
    checkpoint: Path | None = None,
    prompts: tuple[str, str] | None = None,
    expect_first: int | None = None,
    expect_last: int | None = None,
    tolerance: float | None = None,
    longest: int = 8192,
) -> EncoderReport:
    """Try whether `encoder` keeps what `mmembed.Encoder` promises. Whatever it raises is a fault in the report.

    Args:
        against: an encoder of the same model that is known to be right.
        known: what it answered before; `read_known_answers` reads them.
        load: loads an encoder by its name, to see that names and shorter dimensions do; `mmembed.load_encoder` is one.
        checkpoint: the folder of the model, whose tokenizer_config.json says which special tokens a text has.
        prompts: what leads a query and what leads a document, where no preset knows the model; "{task}" in it
            stands for an instruction.
        expect_first: the id of the token that every text must start with.
        expect_last: the id of the token that every text must end with.
        tolerance: distance between two vectors of norm 1 that counts as none; by default it follows from the dtype.
        longest: tokens of the longest text that is tried.
    """
    subject = Subject(
        encoder,
        tolerance=tolerance_of(encoder) if tolerance is None else tolerance,
        longest=longest,
        against=against,
        known=known,
        load=load,
        checkpoint=checkpoint,
        prompts=prompts,
        expect_first=expect_first,
        expect_last=expect_last,
    )
    first = _ask(_CHECKS[0], subject)
    if first.outcome == "fault":  # what is to be asked, and what is right, is read off the spec
        return EncoderReport(type(encoder).__name__, (first,))
    spec, rest = encoder.spec, _CHECKS[1:]
    rows = [row for row in rest if spec.kind in row.kinds and row.modality in {None, *spec.modalities}]
    return EncoderReport(spec.name, (first, *(_ask(row, subject) for row in rows)))


def _ask(row: _Row, subject: Subject) -> Check:
    try:
        return Check(row.name, "passed", row.check(subject), row.why)
    except Fault as fault:
        return Check(row.name, "fault", str(fault), row.why)
    except NotJudged as reason:
        return Check(row.name, "skipped", str(reason), row.why)
