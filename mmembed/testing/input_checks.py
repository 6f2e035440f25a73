"""What must hold of every encoder of texts or images. Each check tells what it found, or raises Fault or NotJudged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from mmembed.errors import InputError
from mmembed.images import load_image
from mmembed.streams import load_in_order
from mmembed.testing.images import broken_files, extreme_images, images, sample_files, unconverted_images
from mmembed.testing.report import Fault, NotJudged
from mmembed.testing.subject import Subject, call_encoder
from mmembed.testing.texts import ODD_TEXTS, TEXTS, filler
from mmembed.testing.vectors import check_form, distance, similarity, split_rows
from mmembed.types import Modality, PixelEncoder, Role, Vector

if TYPE_CHECKING:
    from PIL.Image import Image

_MANY_TEXTS = 4  # times they are repeated: more than one batch of the usual 32, or one of 68
_MANY_IMAGES = 6
_THREADS = 4
_WORDS = {"text": "text", "image": "picture"}


# --- texts and images alike ----------------------------------------------------------------------


def _order(subject: Subject, modality: Modality) -> str:
    names, inputs = _inputs(modality)
    of = subject.texts if modality == "text" else subject.images
    # An order that no encoder that turns batches round undoes.
    shuffled = [*range(1, len(inputs), 2), *range(0, len(inputs), 2)]
    plain, rows = of(inputs), of([inputs[i] for i in shuffled])
    if all(distance(row, plain[0]) <= subject.tolerance for row in plain):
        raise Fault(f"every {_WORDS[modality]} has the same vector")
    return subject.equal((names[i], plain[i], row) for i, row in zip(shuffled, rows, strict=True))


def _determinism(subject: Subject, modality: Modality) -> str:
    names, inputs = _inputs(modality)
    of = subject.texts if modality == "text" else subject.images
    return subject.equal(zip(names, of(inputs), of(inputs), strict=True))


def _empty_list(subject: Subject, modality: Modality) -> str:
    subject.form(modality, [])
    return f"(0, {subject.spec.dim})" if subject.spec.kind == "dense" else "[]"


def _inputs(modality: Modality) -> tuple[list[str], list[Any]]:
    """What a report calls the usual inputs, and they."""
    named = images() if modality == "image" else {repr(text[:30]): text for text in TEXTS}
    return list(named), list(named.values())


def _of_each(check: Callable[[Subject, Modality], str]) -> tuple[Callable[[Subject], str], Callable[[Subject], str]]:
    return lambda subject: check(subject, "text"), lambda subject: check(subject, "image")


text_order, image_order = _of_each(_order)
text_repeats, image_repeats = _of_each(_determinism)
no_texts, no_images = _of_each(_empty_list)


# --- texts ---------------------------------------------------------------------------------------


def text_form(subject: Subject) -> str:
    forms = [subject.form("text", TEXTS, role=role) for role in subject.roles]
    return forms[0]


def odd_texts(subject: Subject) -> str:
    for role in subject.roles:
        for name, text in ODD_TEXTS.items():
            subject.form("text", [text], role=role, named=f"{name} as a {role}")
    subject.form("text", list(ODD_TEXTS.values()))
    return f"{len(ODD_TEXTS)} of them: {', '.join(list(ODD_TEXTS)[:6])}, ..."


def text_batches(subject: Subject) -> str:
    short = TEXTS[:2]  # first, so that one that cannot read the longer texts is told of this too
    for role in subject.roles:
        alone = [subject.texts([text], role=role)[0] for text in short]
        names = [f"{role} {text!r} beside a text of other length" for text in short]
        subject.equal(zip(names, alone, subject.texts(short, role=role), strict=True))
    return subject.equal(pair for role in subject.roles for pair in _texts_in_company(subject, role))


def _texts_in_company(subject: Subject, role: Role) -> Iterator[tuple[str, Vector, Vector]]:
    """Every text alone, beside the same text in several companies."""
    texts = [*TEXTS, *ODD_TEXTS.values()]
    alone = [subject.texts([text], role=role)[0] for text in texts]
    names = [f"{role} {text[:30]!r}" for text in texts]
    yield from zip([f"{name} among others" for name in names], alone, subject.texts(texts, role=role), strict=True)
    many = subject.texts(texts * _MANY_TEXTS, role=role)
    yield from zip([f"{name} among many" for name in names * _MANY_TEXTS], alone * _MANY_TEXTS, many, strict=True)
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
        subject.form("text", [text], role=role)
        rows = subject.texts([text + ending for ending in endings], role=role)
        names = [f"a {role} of {limit} tokens and more, by its end" for _ in rows]
        subject.equal(zip(names, rows, [rows[0]] * len(rows), strict=True))
    return f"what stands beyond {limit} tokens has no effect"


def context(subject: Subject) -> str:
    limit = min(subject.spec.context_length or 0, subject.longest)
    if not limit:
        raise NotJudged("the encoder names no context_length")
    words = int(0.75 * limit / max(1.0, subject.count_tokens(filler(60)) / 60))
    head = words * 2 // 3
    if head == words:
        raise NotJudged(f"a context of {limit} tokens is too short to be tried")
    one, other = (f"{filler(head)} {filler(words - head, other=differs)}" for differs in (True, False))
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


# --- images --------------------------------------------------------------------------------------


def image_form(subject: Subject) -> str:
    tried = {**images(), **extreme_images()}
    for name, image in tried.items():
        subject.form("image", [image], named=f"a picture of {name}")
    return f"{subject.form('image', list(tried.values()))}, of {', '.join(tried)}"


def image_batches(subject: Subject) -> str:
    return subject.equal(_images_in_company(subject))


def _images_in_company(subject: Subject) -> Iterator[tuple[str, Vector, Vector]]:
    names, inputs = _inputs("image")
    alone = [subject.images([image])[0] for image in inputs]
    yield from zip(names, alone, subject.images(inputs), strict=True)
    yield from zip(names * _MANY_IMAGES, alone * _MANY_IMAGES, subject.images(inputs * _MANY_IMAGES), strict=True)
    for name, image, vector in zip(names, inputs, alone, strict=True):
        yield f"{name} beside {names[-1]}", vector, subject.images([image, inputs[-1]])[0]


def files(subject: Subject) -> str:
    """Pictures of all modes with broken ones between them, as an index reads them: in threads, into one batch."""
    good = sample_files()
    named = [(file.name, file.content) for file in good]
    mixed = [*named[:3], *broken_files().items(), *named[3:]]
    loading = load_in_order(mixed, lambda job: load_image(job[1], uri=job[0]), workers=_THREADS, ahead=2 * _THREADS)
    read: list[Image] = [result for _, result in loading if not isinstance(result, InputError)]
    if len(read) != len(good):
        raise Fault(f"of {len(good)} sound pictures and {len(mixed) - len(good)} broken ones {len(read)} were read")
    expected = [subject.images([file.shows])[0] for file in good]
    alike = [row for file, row in zip(good, expected, strict=True) if file.shows.size == good[0].shows.size]
    if all(distance(row, alike[0]) <= subject.tolerance for row in alike):
        raise Fault("different pictures of one size have the same vector")
    apart = subject.equal(zip([file.name for file in good], subject.images(read), expected, strict=True))
    return f"{len(good)} kinds of file, broken ones left out: {apart}"


def modes(subject: Subject) -> str:
    """Pictures that nobody converted: each is read as the picture that it shows, or refused."""
    refused = []
    for mode, (image, shows) in unconverted_images().items():
        try:
            embeddings = subject.encode("image", [image])
        except Fault:
            refused.append(mode)
            continue
        try:
            check_form(embeddings, 1, subject.spec)
        except Fault as fault:
            raise Fault(f"a picture of mode {mode} is taken, but {fault}") from fault
        apart = distance(split_rows(embeddings, 1, subject.spec.kind)[0], subject.images([shows])[0])
        if apart > subject.tolerance:
            raise Fault(
                f"a picture of mode {mode} is taken for another than it shows, {apart:.2g} apart: begin with "
                f"mmembed.encoders.images_in(images), or refuse it"
            )
    return f"refused: {', '.join(refused)}; the others are right" if refused else "all of them are right"


def pixels(subject: Subject) -> str:
    encoder = subject.encoder
    if not isinstance(encoder, PixelEncoder):
        raise NotJudged("it has no preprocess_image and encode_pixels of its own")
    names, inputs = _inputs("image")
    with ThreadPoolExecutor(_THREADS) as pool:
        many = inputs * _MANY_IMAGES
        batch = call_encoder("preprocess_image", lambda: list(pool.map(encoder.preprocess_image, many)))
    made = call_encoder("encode_pixels", lambda: encoder.encode_pixels(batch))
    rows = split_rows(made, len(batch), subject.spec.kind)
    check_form(call_encoder("encode_pixels", lambda: encoder.encode_pixels([])), 0, subject.spec)
    return subject.equal(zip(names * _MANY_IMAGES, rows, subject.images(inputs) * _MANY_IMAGES, strict=True))
