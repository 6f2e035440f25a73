"""What a name of the `open_clip` family stands for: architecture, file of weights, activation, preprocessing."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import open_clip
from open_clip.factory import _find_checkpoint_in_dir
from open_clip.pretrained import download_pretrained, download_pretrained_from_hf

from mmembed.encoders.lora import LoraAdapter, find_adapter
from mmembed.encoders.registry import EncoderName
from mmembed.errors import EncoderLoadError, UnknownEncoder

LOCAL = "local-dir:"  # open_clip's prefix for a folder
_HUB = "hf-hub:"
_CONFIG = "open_clip_config.json"
_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
_PREPROCESSING = ("mean", "std", "interpolation", "resize_mode")


@dataclass(frozen=True)
class Recipe:
    """What a name stands for: an architecture, the file of its weights, and how both are read."""

    model: str  # the model's part of the name, paths made absolute
    architecture: str  # what open_clip calls it: "ViT-B-32", or "local-dir:/folder"
    weights: Path
    quick_gelu: bool | None = None  # None: as the architecture's own configuration says
    preprocessing: Mapping[str, object] = field(default_factory=dict)
    tokenizer: Path | None = None  # a folder; None: what the configuration names
    revision: str | None = None
    strict_sizes: bool = False  # refuse weights whose position embeddings would have to be resized
    repository: str = ""  # of the hub, where the weights are from there
    adapter: LoraAdapter | None = None  # one that lies in the folder itself


def resolve(name: EncoderName, *, revision: str | None = None, like: str | None = None) -> Recipe:
    """The recipe of a name; its weights are on the disk afterwards, downloaded if need be."""
    architecture, at, path = name.model.partition("@")
    if at and architecture and "/" not in architecture:
        return _from_file(name, architecture, absolute(path), like=like)
    if like is not None:
        raise EncoderLoadError(f"encoder {str(name)!r}: the option like is for ARCHITECTURE@FILE only: leave it out")
    if name.model.startswith(_HUB):
        return _from_hub(name, name.model.removeprefix(_HUB), revision)
    if name.model.startswith((LOCAL, "@", "/", "./", "../", "~")):
        return _from_folder(name, absolute(name.model.removeprefix(LOCAL).removeprefix("@")))
    architecture, _, tag = name.model.partition("/")
    if name.model and architecture not in open_clip.list_models() and Path(name.model).is_dir():
        return _from_folder(name, absolute(name.model))
    return _from_tag(name, architecture, tag, revision)


def quick_gelu(architecture: str, tag: str) -> bool:
    """Whether the weights of a tag were trained with QuickGELU instead of GELU.

    open_clip builds what the architecture says and only warns where the tag says otherwise, which costs
    ViT-B-32/laion400m_e32 2.7 points of ImageNet accuracy (docs/openclip_results.csv). The tag is right:
    it describes the weights. Where only the architecture says QuickGELU, nobody knows; that is refused.
    """
    trained = bool(open_clip.get_pretrained_cfg(architecture, tag).get("quick_gelu", False))
    built = bool((open_clip.get_model_config(architecture) or {}).get("quick_gelu", False))
    if built and not trained:
        repository = open_clip.get_pretrained_cfg(architecture, tag).get("hf_hub", "").rstrip("/")
        raise EncoderLoadError(
            f"encoder 'open_clip:{architecture}/{tag}' is contradictory in open_clip (the architecture says QuickGELU, "
            f"the tag GELU): use open_clip:{_HUB}{repository or 'ORG/NAME'}, whose own configuration decides"
        )
    return trained


def _from_tag(name: EncoderName, architecture: str, tag: str, revision: str | None) -> Recipe:
    tags = _known_tags(name, architecture)
    if not tag:
        choice = f"add one of its tags, {architecture}/TAG: {', '.join(tags)}; or" if tags else "it has no tags:"
        raise UnknownEncoder(str(name), [], hint=f"{choice} give its weights, {architecture}@FILE")
    config = open_clip.get_pretrained_cfg(architecture, tag)
    if not config:
        hint = f"the tags of {architecture} are {', '.join(tags) or 'none'}"
        raise UnknownEncoder(str(name), [f"{name.family}:{architecture}/{known}" for known in tags], hint=hint)
    activation = quick_gelu(architecture, tag)
    repository, filename = os.path.split(config.get("hf_hub") or "")
    if revision and not repository:
        raise EncoderLoadError(f"encoder {str(name)!r} is not on the hub, so it has no revision: leave the option out")
    with _downloading(name, repository or str(config.get("url", ""))):
        if revision:
            weights = download_pretrained_from_hf(repository, filename=filename or None, revision=revision)
        else:
            weights = download_pretrained(config)
    settings = _tag_preprocessing(architecture, tag)
    return Recipe(
        name.model, architecture, Path(weights), activation, settings, revision=revision, repository=repository
    )


def _from_file(name: EncoderName, architecture: str, file: Path, *, like: str | None) -> Recipe:
    tags = _known_tags(name, architecture)
    if not file.is_file() or file.suffix not in _SUFFIXES:
        found = "is a folder" if file.is_dir() else "does not exist" if not file.exists() else "is not a checkpoint"
        raise EncoderLoadError(
            f"encoder {str(name)!r}: {file} {found}: give a file of weights ({', '.join(_SUFFIXES)}), or a folder "
            f"with {_CONFIG} as {name.family}:FOLDER"
        )
    if file.suffix != ".safetensors" and (safe := file.with_suffix(".safetensors")).is_file():
        raise EncoderLoadError(f"encoder {str(name)!r}: {file} is pickled, and {safe} stands beside it: name that one")
    if like is not None and not open_clip.get_pretrained_cfg(architecture, like):
        raise UnknownEncoder(like, tags, hint=f"the tags of {architecture} are {', '.join(tags) or 'none'}")
    settings = {tag: _tag_preprocessing(architecture, tag) for tag in ([like] if like else tags)}
    if any(other != next(iter(settings.values())) for other in settings.values()):
        raise EncoderLoadError(
            f"encoder {str(name)!r}: the tags of {architecture} prepare pictures in different ways: add ?like=TAG, the "
            f"one these weights began as, of {', '.join(tags)}"
        )
    activation = quick_gelu(architecture, like) if like else None
    chosen = next(iter(settings.values()), {})
    return Recipe(f"{architecture}@{file}", architecture, file, activation, chosen, strict_sizes=True)


def _from_folder(name: EncoderName, folder: Path) -> Recipe:
    adapter = find_adapter(str(folder)) if (folder / "adapter_config.json").is_file() else None
    if adapter is not None and not (folder / _CONFIG).is_file():
        if adapter.base is None:
            raise EncoderLoadError(
                f"encoder {str(name)!r}: {folder} is an adapter that names no base: write {name.family}:MODEL?adapter="
                f"{folder}, with the model it was trained on"
            )
        return replace(resolve(name.with_model(adapter.base)), model=str(folder), adapter=adapter)
    weights = _find_checkpoint_in_dir(folder) if folder.is_dir() else None
    if weights is None or not (folder / _CONFIG).is_file():
        found = "does not exist" if not folder.exists() else f"holds no {_CONFIG} beside weights"
        raise EncoderLoadError(
            f"encoder {str(name)!r}: {folder} {found}: give a folder that open_clip's push_to_hf_hub wrote, or "
            f"{name.family}:ARCHITECTURE@FILE"
        )
    return Recipe(str(folder), f"{LOCAL}{folder}", Path(weights), tokenizer=folder, strict_sizes=True, adapter=adapter)


def _from_hub(name: EncoderName, repository: str, revision: str | None) -> Recipe:
    with _downloading(name, repository):
        snapshot = Path(download_pretrained_from_hf(repository, filename=_CONFIG, revision=revision)).parent
        download_pretrained_from_hf(repository, revision=revision)
    recipe = replace(_from_folder(name, snapshot), repository=repository)
    return replace(recipe, model=name.model, tokenizer=None, revision=snapshot.name, strict_sizes=False)


@contextmanager
def _downloading(name: EncoderName, source: str) -> Iterator[None]:
    try:
        yield
    except Exception as exc:  # urllib, httpx and huggingface_hub raise whatever their layers do
        raise EncoderLoadError(
            f"encoder {str(name)!r}: {source} could not be downloaded ({first_line(exc)}): with the weights on this "
            f"disk, use {name.family}:ARCHITECTURE@FILE, or {name.family}:FOLDER for one with {_CONFIG}"
        ) from exc


def _known_tags(name: EncoderName, architecture: str) -> list[str]:
    """Tags of a known architecture; raises UnknownEncoder for another."""
    if architecture not in open_clip.list_models():
        known = [*open_clip.list_models(), *("/".join(pair) for pair in open_clip.list_pretrained())]
        nearest = [f"{name.family}:{model}" for model in difflib.get_close_matches(name.model, known)]
        hint = "a name is open_clip:ARCHITECTURE/TAG, open_clip:ARCHITECTURE@FILE or open_clip:FOLDER"
        raise UnknownEncoder(str(name), nearest, hint=hint)
    return list(open_clip.list_pretrained_tags_by_model(architecture))


def _tag_preprocessing(architecture: str, tag: str) -> dict[str, object]:
    config = open_clip.get_pretrained_cfg(architecture, tag)
    return {key: config[key] for key in _PREPROCESSING if key in config}


def absolute(path: str) -> Path:
    """What a collection stores: valid from every working directory; links stay links."""
    return Path(os.path.abspath(Path(path).expanduser()))


def first_line(exc: Exception) -> str:
    """What an exception says, without the pages that follow."""
    return next(iter(str(exc).splitlines()), "") or type(exc).__name__
