"""Names that come with collections, which may be a stranger's: which of them only use what is here and known.

A name can point to a server, to a vendor whose key is the operator's, to any folder of the disk and to any repository
of the hub. None of these is fetched or asked because a contract says so.
"""

from __future__ import annotations

import json
from pathlib import Path

from mmembed.encoders.presets import preset_of_model
from mmembed.encoders.registry import EncoderName, families, parse_name
from mmembed.errors import UnknownEncoder

_BUILT_IN = "mmembed.encoders.families."
_WEIGHTS = frozenset({".safetensors", ".bin", ".pt", ".pth"})
_CONFIGS = ("config.json", "modules.json", "open_clip_config.json", "adapter_config.json")
_SOURCES = ("adapter", "tokenizer")  # options that name files or a repository


def reason_to_ask(name: str) -> str | None:
    """Why an encoder is not loaded on a contract's word alone, as the end of a sentence; None where it may be.

    It may be a preset, or a model of a built-in family that needs no weights or whose weights are in the cache. No
    file is read, no server asked and nothing imported but, for its table of tags, open_clip. A name that no family
    loads is left to those who raise UnknownEncoder for it.

    >>> reason_to_ask("minilm"), reason_to_ask("sentence:./mine")
    (None, 'which is a local path')
    """
    try:
        parsed = parse_name(name)
    except UnknownEncoder:
        return None
    point = families().get(parsed.family)
    if "base_url" in parsed.options:
        return "which is asked for at an address"
    if point is None:
        return None
    if not point.value.startswith(_BUILT_IN):
        return "which a plugin brings, and may be a vendor's"
    for option in _SOURCES:
        if option in parsed.options and (reason := _of_model(parsed.options[option], None)):
            return f"whose {option} {reason.removeprefix('which ')}"
    if not parsed.model or parsed.family == "fake":
        return None
    if parsed.family == "open_clip":
        return _of_open_clip(parsed)
    preset = preset_of_model(parsed.model)
    if preset is not None and preset.encoder == f"{parsed.family}:{parsed.model}" and "revision" not in parsed.options:
        return "which is a local path" if Path(parsed.model).exists() else None
    return _of_model(parsed.model, parsed.options.get("revision") or (preset.revision if preset else None))


def with_absolute_path(name: str) -> str:
    """A name whose model is a folder, or ARCHITECTURE@FILE, as its encoder calls itself; any other as it is."""
    try:
        parsed = parse_name(name)
    except UnknownEncoder:
        return name
    architecture, at, file = parsed.model.partition("@")
    path = Path(file if at else parsed.model).expanduser()
    if not parsed.model or not path.exists():
        return str(parsed)
    return str(parsed.with_model(f"{architecture}@{path.absolute()}" if at else str(path.resolve())))


def _of_open_clip(name: EncoderName) -> str | None:
    if name.model.startswith("hf-hub:"):
        return _of_model(name.model.removeprefix("hf-hub:"), name.options.get("revision"))
    if "@" in name.model or name.model.startswith("local-dir:") or _is_path(name.model):
        return "which is a local path"
    preset = preset_of_model(name.model)
    if preset is not None and "revision" not in name.options:
        return None
    import open_clip

    architecture, _, tag = name.model.partition("/")
    config = open_clip.get_pretrained_cfg(architecture, tag) or {}
    repository = str(config.get("hf_hub", "")).rpartition("/")[0]
    if repository:
        return _of_model(repository, name.options.get("revision"))
    file = str(config.get("url", "")).rpartition("/")[2]
    return "which is not in the cache" if file and not (Path("~/.cache/clip").expanduser() / file).is_file() else None


def _of_model(model: str, revision: str | None) -> str | None:
    if _is_path(model):
        return "which is a local path"
    return None if _is_cached(model, revision) else "which is a repository that is not in the cache"


def _is_path(model: str) -> bool:
    return model.startswith((".", "/", "~", "\\")) or Path(model).exists()


def _is_cached(repository: str, revision: str | None) -> bool:
    """Whether weights of that revision lie in the hub's cache; of an adapter, those of its base as well."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = [try_to_load_from_cache(repository, file, revision=revision) for file in _CONFIGS]
    except HFValidationError:
        return False
    files = [Path(file) for file in found if isinstance(file, str)]
    if not files or not any(file.suffix in _WEIGHTS for file in files[0].parent.rglob("*")):
        return False
    adapter = next((file for file in files if file.name == "adapter_config.json"), None)
    base = json.loads(adapter.read_text("utf-8")).get("base_model_name_or_path") if adapter else None
    return base is None or (not _is_path(base) and _is_cached(base, None))
