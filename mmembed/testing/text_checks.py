"""What must hold of every encoder that reads texts. Each check tells what it found, or raises Fault or NotJudged."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from mmembed.testing.report import Fault, NotJudged
from mmembed.testing.subject import Subject
from mmembed.testing.texts import ODD_TEXTS, TEXTS, filler
from mmembed.testing.vectors import check_form, distance, similarity
from mmembed.types import Role, Vector

__all__ = [
    "batch_invariance",
    "context",
    "determinism",
    "empty_list",
    "form",
    "odd_texts",
    "order",
    "self_match",
    "tokens",
    "truncation",
]

_MANY = 4  # times the texts are repeated: more than one batch of the usual 32, or one of 68


def form(subject: Subject) -> str:
    found = [check_form(subject.encode_text(TEXTS, role=role), len(TEXTS), subject.spec) for role in subject.roles]
    return found[0]


def order(subject: Subject) -> str:
    plain = subject.texts(TEXTS)
    turned = [3, 0, 7, 5, 1, 6, 2, 4]
    shuffled = subject.texts([TEXTS[i] for i in turned])
    if all(distance(row, plain[0]) <= subject.tolerance for row in plain):
        raise Fault("every text has the same vector")
    return subject.equal((repr(TEXTS[i][:30]), plain[i], row) for i, row in zip(turned, shuffled, strict=True))


def determinism(subject: Subject) -> str:
    return subject.equal(_side_by_side(TEXTS, subject.texts(TEXTS), subject.texts(TEXTS)))


def empty_list(subject: Subject) -> str:
    check_form(subject.encode_text([]), 0, subject.spec)
    return f"(0, {subject.spec.dim})" if subject.spec.kind == "dense" else "[]"


def odd_texts(subject: Subject) -> str:
    for role in subject.roles:
        for name, text in ODD_TEXTS.items():
            try:
                check_form(subject.encode_text([text], role=role), 1, subject.spec)
            except Fault as fault:
                raise Fault(f"{name} as a {role}: {fault}") from fault
    check_form(subject.encode_text(list(ODD_TEXTS.values())), len(ODD_TEXTS), subject.spec)
    return f"{len(ODD_TEXTS)} of them: {', '.join(list(ODD_TEXTS)[:6])}, ..."


def batch_invariance(subject: Subject) -> str:
    short = TEXTS[:2]  # first, so that one that cannot read the longer texts is told of this too
    for role in subject.roles:
        alone = [subject.texts([text], role=role)[0] for text in short]
        names = [f"{role} {text!r} beside a text of other length" for text in short]
        subject.equal(_side_by_side(names, alone, subject.texts(short, role=role)))
    return subject.equal(pair for role in subject.roles for pair in _alone_and_together(subject, role))


def _alone_and_together(subject: Subject, role: Role) -> Iterator[tuple[str, Vector, Vector]]:
    """Every text alone, beside the same text in several companies."""
    texts = [*TEXTS, *ODD_TEXTS.values()]
    alone = [subject.texts([text], role=role)[0] for text in texts]
    names = [f"{role} {text[:30]!r}" for text in texts]
    yield from _side_by_side([f"{name} among others" for name in names], alone, subject.texts(texts, role=role))
    many = subject.texts(texts * _MANY, role=role)
    yield from _side_by_side([f"{name} among many" for name in names * _MANY], alone * _MANY, many)
    long = filler(min((subject.spec.context_length or 600) // 2, 300))
    for name, text, vector in zip(names, TEXTS, alone, strict=False):
        yield f"{name} beside a long text", vector, subject.texts([text, long], role=role)[0]


def truncation(subject: Subject) -> str:
    limit = subject.spec.context_length
    if limit is None:
        raise NotJudged("the encoder names no context_length")
    if limit > subject.longest:
        raise NotJudged(f"{limit} tokens of context are more than the {subject.longest} that are tried")
    text = filler(limit)  # a word is a token or more
    endings = ["", " " + filler(40, other=True), " " + filler(limit, other=True)]
    for role in subject.roles:
        check_form(subject.encode_text([text], role=role), 1, subject.spec)
        rows = subject.texts([text + ending for ending in endings], role=role)
        names = [f"a {role} of {limit} tokens and more, by its end" for _ in rows]
        subject.equal(_side_by_side(names, rows, [rows[0]] * len(rows)))
    return f"what stands beyond {limit} tokens has no effect"


def context(subject: Subject) -> str:
    limit = min(subject.spec.context_length or 0, subject.longest)
    if not limit:
        raise NotJudged("the encoder names no context_length")
    words = int(0.75 * limit / max(1.0, subject.count_tokens(filler(60)) / 60))
    head = words * 2 // 3
    if head == words:
        raise NotJudged(f"a context of {limit} tokens is too short to be tried")
    one, other = (
        f"{filler(head)} {end}" for end in (filler(words - head, other=True), filler(words - head, other=False))
    )
    apart = distance(*subject.texts([one, other]))
    if apart <= subject.tolerance:
        raise Fault(
            f"texts of {subject.count_tokens(one)} tokens that differ in their last third are {apart:.0e} apart, "
            f"though its context_length is {subject.spec.context_length}"
        )
    return f"a text of {subject.count_tokens(one)} tokens is read to its end"


def tokens(subject: Subject) -> str:
    for text in [*TEXTS, *ODD_TEXTS.values()]:
        subject.count_tokens(text)
    limit = min(subject.spec.context_length or 500, subject.longest)
    short, long = subject.count_tokens(filler(10)), subject.count_tokens(filler(2 * limit))
    if long <= max(short, limit):
        raise Fault(f"10 words are {short} tokens and {2 * limit} words are {long}: it counts what is left of a text")
    return f"10 words are {short} tokens, {2 * limit} words are {long}"


def self_match(subject: Subject) -> str:
    side: Role | None = "query" if subject.spec.kind == "sparse" else None
    texts = TEXTS[1:]  # the first may be a stop word, and nothing
    queries, documents = subject.texts(texts, role=side), subject.texts(texts)
    for i, query in enumerate(queries):
        scores = [similarity(query, document) for document in documents]
        if scores[i] < max(scores) * (1 - subject.tolerance):
            best = texts[scores.index(max(scores))]
            raise Fault(f"{texts[i][:30]!r} matches {best[:30]!r} better than itself")
    return f"{len(texts)} texts each match themselves best"


def _side_by_side(
    names: Iterable[str], some: Iterable[Vector], others: Iterable[Vector]
) -> Iterator[tuple[str, Vector, Vector]]:
    yield from zip(names, some, others, strict=True)
