"""The encoder against what is known of it: its spec, its name, its shorter self, another encoder, earlier answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import get_args

import numpy as np
from PIL import Image

from mmembed.encoders.registry import parse_name
from mmembed.errors import UnsupportedModality
from mmembed.testing.images import images
from mmembed.testing.known import KnownAnswers
from mmembed.testing.report import Fault, NotJudged
from mmembed.testing.subject import Subject, call_encoder, tolerance_of
from mmembed.testing.texts import TEXTS
from mmembed.testing.vectors import check_form
from mmembed.types import EncoderSpec, Kind, Modality, Role, Vector
from mmembed.vectors import l2_normalize

_ELSEWHERE = 3  # an encoder is nearer to itself than to one of another dtype, or on another machine
_MODALITIES: tuple[object, ...] = (frozenset({"text"}), frozenset({"image"}), frozenset({"text", "image"}))


def spec(subject: Subject) -> str:
    found: object = getattr(subject.encoder, "spec", None)
    if not isinstance(found, EncoderSpec):
        raise Fault("it has no spec, an EncoderSpec: give it one, or make it with mmembed.testing.wrap")
    wrong = [
        f"spec.{field} is {getattr(found, field)!r}" for field, right in _expected_spec(found).items() if not right
    ]
    encoder = subject.encoder
    expected = {
        "batch_size": _positive(getattr(encoder, "batch_size", None)),
        "dtype": isinstance(getattr(encoder, "dtype", None), str),
        "logit_scale": isinstance(getattr(encoder, "logit_scale", "missing"), float | int | None),
        "logit_bias": isinstance(getattr(encoder, "logit_bias", "missing"), float | int | None),
    }
    wrong += [f"{field} is {getattr(encoder, field, None)!r}" for field, right in expected.items() if not right]
    if wrong:
        raise Fault(", ".join(wrong))
    return f"{found.kind}, {found.dim or 'no fixed number of'} dimensions, {' and '.join(sorted(found.modalities))}"


def _expected_spec(spec: EncoderSpec) -> dict[str, bool]:
    """Whether each field is as it must be."""
    dim, limit, dims = spec.dim, spec.context_length, spec.matryoshka_dims
    fitting = (
        isinstance(dims, tuple) and all(map(_positive, dims)) and dim is not None and max(dims, default=dim) >= dim
    )
    return {
        "name": bool(spec.name) and isinstance(spec.name, str),
        "kind": spec.kind in get_args(Kind),
        "dim": dim is None if spec.kind == "sparse" else _positive(dim),
        "modalities": spec.modalities in _MODALITIES,
        "fingerprint": bool(spec.fingerprint) and isinstance(spec.fingerprint, str),
        "context_length": limit is None or _positive(limit),
        "matryoshka_dims": dims == () or fitting,
    }


def _positive(number: object) -> bool:
    return isinstance(number, int) and number > 0


def unsupported(subject: Subject) -> str:
    """What the spec does not name must be refused, in the one way that an index understands."""
    missing = next(iter(set(get_args(Modality)) - subject.spec.modalities), None)
    if missing is None:
        raise NotJudged("it reads both pictures and texts")
    try:
        if missing == "image":
            subject.encoder.encode_image([Image.new("RGB", (8, 8))])
        else:
            subject.encoder.encode_text(["a"], role="document")
    except UnsupportedModality:
        return f"{missing} is refused"
    except Exception as exc:
        raise Fault(f"{missing} raises {type(exc).__name__} instead of UnsupportedModality") from exc
    raise Fault(f"{missing} is embedded, though the spec does not name it")


def name_loads(subject: Subject) -> str:
    if subject.load is None:
        raise NotJudged("loading it again was not asked for")
    load, name = subject.load, subject.spec.name
    again = call_encoder(f"loading {name!r}", lambda: load(name))
    if again.spec != subject.spec:
        raise Fault(f"{name!r} loads {again.spec}, not {subject.spec}")
    return f"{name!r} loads the same, fingerprint {again.spec.fingerprint}"


def matryoshka(subject: Subject) -> str:
    dims = [dim for dim in subject.spec.matryoshka_dims if dim < (subject.spec.dim or 0)]
    if not dims:
        raise NotJudged("it is not known to be Matryoshka")
    if subject.load is None:
        raise NotJudged("loading it again, shorter, was not asked for")
    load, parsed = subject.load, parse_name(subject.spec.name)
    full = np.stack([np.asarray(row) for row in subject.texts(TEXTS)])
    for dim in dims:
        name = str(replace(parsed, options={**parsed.options, "dim": str(dim)}))
        shorter = replace(subject, encoder=call_encoder(f"loading {name!r}", lambda: load(name)))  # noqa: B023
        check_form(shorter.encode("text", TEXTS), len(TEXTS), replace(subject.spec, dim=dim))
        if shorter.spec.fingerprint == subject.spec.fingerprint:
            raise Fault(f"{name!r} has the fingerprint of the whole vectors, with which it cannot be compared")
        cut = l2_normalize(full[:, :dim])
        subject.equal(zip([f"{text[:30]!r} at {dim}" for text in TEXTS], cut, shorter.texts(TEXTS), strict=True))
    return f"cut and of norm 1 at {', '.join(map(str, dims))}"


def against(subject: Subject) -> str:
    if subject.against is None:
        raise NotJudged("no other encoder was given to hold it against")
    other, own = replace(subject, encoder=subject.against), subject.spec
    if (other.spec.kind, other.spec.dim) != (own.kind, own.dim):
        there = f"{other.spec.name} {other.spec.kind} of {other.spec.dim}"
        raise Fault(f"it makes {own.kind} vectors of {own.dim}, {there}")
    tolerance = _ELSEWHERE * max(subject.tolerance, tolerance_of(subject.against))
    return f"{subject.equal(_beside(subject, other), tolerance=tolerance)}, {other.spec.name}"


def _beside(subject: Subject, other: Subject) -> Iterator[tuple[str, Vector, Vector]]:
    shared = subject.spec.modalities & other.spec.modalities
    for role in subject.roles if "text" in shared else ():
        names = [f"{role} {text[:30]!r}" for text in TEXTS]
        yield from zip(names, subject.texts(TEXTS, role=role), other.texts(TEXTS, role=role), strict=True)
    if "image" in shared:
        names, inputs = [f"picture {name}" for name in images()], list(images().values())
        yield from zip(names, subject.images(inputs), other.images(inputs), strict=True)


def known_answers(subject: Subject) -> str:
    known = subject.known
    if known is None:
        raise NotJudged("no known answers were given")
    if known.kind != subject.spec.kind:
        raise Fault(f"it makes {subject.spec.kind} vectors, the known answers of {known.encoder} are {known.kind}")
    closeness = subject.equal(_answers(subject, known), tolerance=_ELSEWHERE * subject.tolerance)
    same = known.fingerprint == subject.spec.fingerprint
    return f"{closeness}, {known.encoder}" + ("" if same else ", though its fingerprint was another")


def _answers(subject: Subject, known: KnownAnswers) -> Iterator[tuple[str, Vector, Vector]]:
    sides: dict[Role, Mapping[str, Vector]] = {"query": known.queries, "document": known.documents}
    for role, answers in sides.items():
        names = [f"{role} {text[:30]!r}" for text in answers]
        yield from zip(names, subject.texts(list(answers), role=role) if answers else [], answers.values(), strict=True)
    if known.images:
        inputs = [images()[name] for name in known.images]
        yield from zip(known.images, subject.images(inputs), known.images.values(), strict=True)
