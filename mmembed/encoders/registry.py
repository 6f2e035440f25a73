"""Find an encoder by name. Nothing of an encoder is imported before it is asked for.

A name is `family:model?option=value`. The family is an entry point of the group
`mmembed.encoders` whose value is a function

    def load(name: EncoderName, run: LoadOptions, *, option: str | None = None) -> Encoder

so that an installed package is an available encoder; its keyword-only parameters are the
options that the name may carry. Short presets (`siglip2-b32`) are rows of `presets.PRESETS`.
Rerankers are found in the same way, in the group `mmembed.rerankers`.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qsl, quote

from mmembed.encoders.presets import PRESETS, preset_of_model
from mmembed.encoders.presets.preset import check_loadable, check_loaded
from mmembed.errors import (
    DuplicateEncoder,
    EncoderError,
    EncoderLoadError,
    MissingDependency,
    MmembedError,
    SettingsError,
    UnknownEncoder,
)
from mmembed.types import Encoder, LoadOptions, Reranker

ENTRY_POINT_GROUP = "mmembed.encoders"
RERANKER_GROUP = "mmembed.rerankers"

_PLUGINS = {family: f"mmembed-{family}" for family in ("cohere", "jina", "openai", "voyage")}
"""Families that are not part of mmembed -> the package of each."""


@dataclass(frozen=True)
class EncoderName:
    """`family:model?option=value`, taken apart. `str()` gives what a collection stores."""

    family: str
    model: str = ""
    options: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        model = f":{self.model}" if self.model else ""
        options = "&".join(f"{k}={quote(v, safe='/:')}" for k, v in sorted(self.options.items()))
        return f"{self.family}{model}" + (f"?{options}" if options else "")

    def with_model(self, model: str) -> EncoderName:
        """The same family and options with another model, for families that make a path absolute."""
        return replace(self, model=model)


def parse_name(name: str) -> EncoderName:
    """`"siglip2-b32?dim=256"` or `"open_clip:ViT-B-32/openai"` -> its parts, presets expanded.

    Options follow the last `?`. Raises UnknownEncoder for an empty name or an option without a value.
    """
    stem, question, query = name.strip().rpartition("?") if "?" in name else (name.strip(), "", "")
    options = dict(parse_qsl(query, keep_blank_values=True))
    if question and (not options or "" in options.values()):
        raise UnknownEncoder(name, PRESETS, hint="options are written ?option=value&option=value")
    if stem in PRESETS and PRESETS[stem].encoder != stem:
        expanded = parse_name(PRESETS[stem].encoder)
        return replace(expanded, options={**expanded.options, **options})
    family, _, model = stem.partition(":")
    if not family:
        raise UnknownEncoder(name, PRESETS, hint="a name is FAMILY:MODEL, or a preset such as minilm or siglip2-b32")
    return EncoderName(family, model, options)


def whole_number(
    name: EncoderName, option: str, value: str | None, *, least: int, most: int | None = None
) -> int | None:
    """The number that an option of a name gives, None where it is left out. Raises SettingsError for another word."""
    if value is None:
        return None
    if value.isascii() and value.isdigit() and least <= int(value) and (most is None or int(value) <= most):
        return int(value)
    numbers = f"of at least {least}" if most is None else f"from {least} to {most}"
    raise SettingsError(f"encoder {str(name)!r} says {option}={value}: give a whole number {numbers}")


def matryoshka_dims(known: tuple[int, ...], full: int) -> tuple[int, ...]:
    """Those `known` of a Matryoshka model that a checkpoint of `full` dimensions really has, up to all of it."""
    return (*(dim for dim in known if dim < full), full) if known else ()


def not_matryoshka(name: EncoderName) -> SettingsError:
    """What to raise where `?dim=` is asked of a family that knows of none."""
    return SettingsError(
        f"encoder {str(replace(name, options={}))!r} was asked for fewer dimensions, but models of family "
        f"{name.family!r} were not trained so that their first ones stand alone (Matryoshka): leave ?dim= out"
    )


def families(group: str = ENTRY_POINT_GROUP) -> dict[str, EntryPoint]:
    """Every installed family, unimported. Raises DuplicateEncoder where two packages claim one."""
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=group):
        other = found.setdefault(point.name, point)
        if other.value != point.value:
            raise DuplicateEncoder(point.name, {_distribution(other), _distribution(point)})
    return dict(sorted(found.items()))


def check_name(name: str) -> EncoderName:
    """Parse a name without loading anything. Raises UnknownEncoder where no installed family would load it."""
    parsed = parse_name(name)
    installed = families()
    if parsed.family not in installed:
        known = installed if parsed.model else {*installed, *PRESETS}
        raise UnknownEncoder(parsed.family if parsed.model else name, known, hint=_where_from(parsed.family, installed))
    return parsed


def load_encoder(
    name: str,
    *,
    device: str | None = None,
    dtype: str | None = None,
    batch_size: int | None = None,
    trust_remote_code: bool = False,
) -> Encoder:
    """Load the encoder called `name`: a preset or `family:model?option=value`.

    Args:
        device: "cpu", "cuda", "cuda:1", "mps"; None takes the best there is.
        dtype: "float32", "bfloat16", "float16"; None is float32 on a CPU and the model's own on a GPU.
        batch_size: inputs a forward pass.
        trust_remote_code: run Python that comes with the model's repository.

    Raises:
        UnknownEncoder: no such family, preset, model or option.
        EncoderLoadError: found, but not loadable as promised: by its preset, if it has one.
        MissingDependency: a package it needs is not installed.
    """
    return load_named(name, LoadOptions(device, dtype, batch_size, trust_remote_code))


def load_named(name: str, options: LoadOptions) -> Encoder:
    """`load_encoder` with its options in one; raises what that raises."""
    parsed = check_name(name)
    preset = preset_of_model(parsed.model)
    if preset is None or not preset.encoder.startswith(f"{parsed.family}:") or Path(parsed.model).is_dir():
        preset = None  # nothing is known of the model in another family, or of a folder that is called like it
    else:
        check_loadable(preset, trust_remote_code=options.trust_remote_code)
    encoder: Encoder = _load(families()[parsed.family], parsed, options)
    if preset is not None:
        check_loaded(preset, encoder.spec, cut="dim" in parsed.options)
    return encoder


def load_reranker(
    name: str,
    *,
    device: str | None = None,
    dtype: str | None = None,
    batch_size: int | None = None,
    trust_remote_code: bool = False,
) -> Reranker:
    """Load the reranker called `name`, `family:model?option=value`: "cross-encoder:BAAI/bge-reranker-base".

    Arguments and errors are those of `load_encoder`.
    """
    parsed = parse_name(name)
    installed = families(RERANKER_GROUP)
    if parsed.family not in installed:
        hint = f"rerankers are {', '.join(f'{family}:MODEL' for family in installed)}"
        raise UnknownEncoder(parsed.family, installed, hint=hint)
    options = LoadOptions(device, dtype, batch_size, trust_remote_code)
    return cast(Reranker, _load(installed[parsed.family], parsed, options))


def _load(point: EntryPoint, name: EncoderName, options: LoadOptions) -> Any:
    """Call the `load` of a family, which must know every option of the name."""
    try:
        load = point.load()
    except MmembedError:
        raise
    except ModuleNotFoundError as exc:
        raise MissingDependency(f"encoder family {point.name!r}", exc.name or "?", _distribution(point)) from exc
    except Exception as exc:  # a stranger's module may raise anything at import
        raise EncoderLoadError(
            f"the plugin {_distribution(point)!r} of encoder family {point.name!r} is broken "
            f"({type(exc).__name__}: {exc}): update or uninstall it"
        ) from exc
    parameters = inspect.signature(load).parameters.values()
    known = sorted(p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY)
    unknown = next((option for option in name.options if option not in known), None)
    if unknown == "dim":
        raise not_matryoshka(name)
    if unknown is not None:
        bare = str(replace(name, options={}))  # an option that is none may be a key that somebody put there
        has = f"has the options {', '.join(known)}" if known else "has no options"
        raise EncoderError(f"encoder {bare!r} was given the option {unknown!r}: family {name.family!r} {has}")
    return load(name, options, **name.options)


def _where_from(family: str, installed: Collection[str]) -> str:
    """How to come by a family that is not installed. Only packages of ours are named: others could be anybody's."""
    here = f"installed families are {', '.join(installed) or 'none'}"
    if family in _PLUGINS:
        return f"{here}; {family}: comes with pip install {_PLUGINS[family]}"
    return f"{here}; a plugin may bring others, as {_PLUGINS['openai']} brings openai:"


def _distribution(point: EntryPoint) -> str:
    return point.dist.name if point.dist else point.value
