"""What a text is led by, and what it begins and ends with: the roles, the bytes of the prompts, the special tokens."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from mmembed.encoders.presets import PRESETS, preset_of_model
from mmembed.encoders.prompts import query_prefix
from mmembed.encoders.registry import EncoderName, parse_name
from mmembed.encoders.tokens import characters
from mmembed.errors import MmembedError
from mmembed.testing.foreign import ForeignEncoder
from mmembed.testing.report import Fault, NotJudged
from mmembed.testing.subject import Subject, call_encoder
from mmembed.testing.texts import ODD_TEXTS, TEXTS, filler
from mmembed.testing.vectors import distance
from mmembed.types import Role, Vector

_FAMILIES = {
    "clip": "clip-b32-openai",
    "e5-mistral": "e5-mistral",
    "harrier": "harrier-270m",
    "open_clip": "clip-b32-openai",
    "qwen3": "qwen3-0.6b",
    "siglip": "siglip2-so400m",
}
"""Family -> a preset whose prompts every model of the family has."""

_TEMPLATED = frozenset({"vlm"})
"""Families whose prompts do not stand in front of the text, but elsewhere in a template."""

_ASTRAY: Mapping[str, Callable[[str], str]] = {
    "no prompt at all": lambda _: "",
    "the prompt without the white space at its end": str.rstrip,
    "the prompt and another space": lambda prompt: prompt + " ",
    "the prompt twice": lambda prompt: prompt + prompt,
}

_Plain = Callable[[Sequence[str]], list[Vector]]
_Prompts = Mapping[Role, str]  # "{task}" in one of them stands for an instruction


def roles(subject: Subject) -> str:
    prompts = _known_prompts(subject)
    queries, documents = subject.texts(TEXTS, role="query"), subject.texts(TEXTS, role="document")
    if prompts["query"] != prompts["document"]:
        apart = max(distance(query, document) for query, document in zip(queries, documents, strict=True))
        if apart <= subject.tolerance:
            raise Fault(
                f"queries have the vectors of documents, though queries are led by {prompts['query']!r} and documents "
                f"by {prompts['document']!r}"
            )
        return f"queries and documents are up to {apart:.2f} apart"
    if subject.spec.kind != "dense":
        raise NotJudged(f"{subject.spec.kind} encoders may weigh queries and documents differently without a prompt")
    return f"alike, as the model has no prompts: {subject.equal(zip(TEXTS, queries, documents, strict=True))}"


def prompt_bytes(subject: Subject) -> str:
    prompts = _known_prompts(subject)
    leads = {role: lead for role, prompt in prompts.items() if (lead := query_prefix(prompt, None))}
    if not leads:
        raise NotJudged("the model has no prompts")
    if subject.spec.kind != "dense" or _parsed(subject).family in _TEMPLATED:
        raise NotJudged("the prompts of such an encoder do not simply stand in front of a text")
    plain = _without_prompt(subject, prompts)
    if plain is None:
        return _told_prompts(subject, prompts)
    tasks = (None,) if isinstance(subject.encoder, ForeignEncoder) else (None, "SciFact")  # which takes no task
    for role in leads:
        for task in tasks if "{task}" in prompts["query"] and role == "query" else (None,):
            _check_lead(subject, plain, query_prefix(prompts[role], task), role, task)
    return " and ".join(f"{role} = {lead!r} + text" for role, lead in leads.items())


def special_tokens(subject: Subject) -> str:
    frame, pooled = _expected_frame(subject)
    if not frame:
        raise NotJudged("the checkpoint promises neither an opening nor a closing token")
    token_ids: Callable[[str], list[int]] | None = getattr(subject.encoder, "token_ids", None)
    if token_ids is None:  # a count is all that can be seen of such an encoder
        count = subject.count_tokens("")
        if count < len(frame):
            raise Fault(f"the empty text counts {count} tokens, but the checkpoint promises {len(frame)} special ones")
        return f"the empty text counts {count} tokens, and {len(frame)} special ones are promised"
    for text in [*TEXTS, *ODD_TEXTS.values(), filler(2 * min(subject.spec.context_length or 500, subject.longest))]:
        ids = call_encoder("token_ids", lambda: list(token_ids(characters(text))))  # noqa: B023
        found = {"start": ids[:1], "end": ids[-1:]}
        for what, expected in frame.items():
            if found[what] != [expected]:
                taken = ", which is what the vector is taken from" if pooled and what == "end" else ""
                instead = found[what][0] if ids else "none"
                raise Fault(f"{text[:20]!r} {what}s with token {instead}, not with {expected}{taken}")
    return " and ".join(f"every text {what}s with token {token}" for what, token in frame.items())


def _known_prompts(subject: Subject) -> _Prompts:
    """From the caller, or from the presets. Raises NotJudged where neither knows the model."""
    if len(subject.roles) == 1:
        raise NotJudged(f"it reads texts as a {subject.roles[0]} only")
    if subject.prompts is not None:
        return dict(zip(("query", "document"), subject.prompts, strict=True))
    name = _parsed(subject)
    known = preset_of_model(name.model) if name.model else PRESETS.get(name.family)
    known = known or PRESETS.get(_FAMILIES.get(name.family, ""))
    if known is None or known.own_prompts:
        raise NotJudged(f"the prompts of {subject.spec.name} are not known here: pass prompts=(query, document)")
    return {"query": known.query_prompt, "document": known.document_prompt}


def _parsed(subject: Subject) -> EncoderName:
    try:
        return parse_name(subject.spec.name)
    except MmembedError:  # a stranger's encoder may have any name
        return EncoderName("")


def _without_prompt(subject: Subject, prompts: _Prompts) -> _Plain | None:
    """How this encoder takes a text as it is: as a document without prompt, or with the task "". None: in no way."""
    if not prompts["document"]:
        return subject.texts
    query, document = (subject.texts(TEXTS, role=role, task="") for role in get_args(Role))
    if max(map(distance, query, document)) > subject.tolerance:
        return None
    return lambda texts: subject.texts(texts, task="")


def _check_lead(subject: Subject, plain: _Plain, lead: str, role: Role, task: str | None) -> None:
    led = subject.texts(TEXTS, role=role, task=task)
    try:
        subject.equal(zip(TEXTS, led, plain([lead + text for text in TEXTS]), strict=True))
    except Fault as fault:
        meant = f"a {role} is not {lead!r} + text"
        for what, astray in _ASTRAY.items():
            if max(map(distance, led, plain([astray(lead) + text for text in TEXTS]))) <= subject.tolerance:
                raise Fault(f"{meant}, but has {what}") from fault
        raise Fault(f"{meant}: {fault}") from fault


def _told_prompts(subject: Subject, prompts: _Prompts) -> str:
    """By what the encoder says of itself, where it has a method `prompt(role, task)`."""
    tell: Callable[[Role, str | None], str] | None = getattr(subject.encoder, "prompt", None)
    if tell is None:
        raise NotJudged("both roles have a prompt, and the encoder neither takes task='' nor has a method prompt()")
    for role, prompt in prompts.items():
        told, lead = call_encoder("prompt", lambda: tell(role, None)), query_prefix(prompt, None)  # noqa: B023
        if told != lead:
            raise Fault(f"prompt({role!r}, None) is {told!r}, not {lead!r}")
    return "both prompts are told as expected"


def _expected_frame(subject: Subject) -> tuple[dict[str, int], bool]:
    """The token that every text must "start" and "end" with, where any must; whether the last one's state is pooled."""
    given = {"start": subject.expect_first, "end": subject.expect_last}
    if frame := {what: token for what, token in given.items() if token is not None}:
        return frame, False
    model = _parsed(subject).model
    folder = subject.checkpoint or (Path(model) if model and Path(model).is_dir() else None)
    if folder is None:
        raise NotJudged("nothing says which: pass the checkpoint's folder, or expect_first and expect_last")
    config, pooling = _json(folder / "tokenizer_config.json"), _json(folder / "1_Pooling" / "config.json")
    if not config:
        raise NotJudged(f"{folder} has no tokenizer_config.json")
    kinds = [("start", "bos"), ("end", "eos")]
    frame = {what: _token_id(folder, config, kind) for what, kind in kinds if config.get(f"add_{kind}_token")}
    return frame, bool(pooling.get("pooling_mode_lasttoken") or pooling.get("pooling_mode") == "lasttoken")


def _token_id(folder: Path, config: Mapping[str, Any], kind: str) -> int:
    token = config.get(f"{kind}_token")
    word = token.get("content") if isinstance(token, dict) else token
    by_word = {row["content"]: row["id"] for row in _json(folder / "tokenizer.json").get("added_tokens", [])}
    found = by_word.get(word, _json(folder / "config.json").get(f"{kind}_token_id"))
    if not isinstance(found, int):
        raise NotJudged(f"{folder} promises the token {word!r}, but does not say which id it has")
    return found


def _json(file: Path) -> Mapping[str, Any]:
    """A file of the checkpoint; nothing where it is not there."""
    try:
        content: Mapping[str, Any] = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    except ValueError as exc:
        raise NotJudged(f"{file} is not JSON ({exc})") from exc
    return content
