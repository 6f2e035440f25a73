"""`mmembed serve`: an option for every setting of the service."""

from __future__ import annotations

import inspect
from typing import Annotated, Any

import typer

from mmembed.cli import options as o

_NAMES = {"qdrant_api_key": "--api-key"}  # as the other commands have it


def serve_command(**flags: Any) -> None:
    """Serve search, a web page, Qdrant's inference, and OpenAI's and Cohere's embeddings API over HTTP.

    Each option is also a variable MMEMBED_..., such as MMEMBED_PORT; a flag wins. Ctrl-C finishes what was accepted.
    """
    from mmembed.encoders.registry import check_name
    from mmembed.service.settings import read_settings

    settings = read_settings(**flags)  # before what takes a second to import
    for name in settings.encoder:
        check_name(name)  # a slip of the operator's, not a model that fails to load
    if settings.store is None:
        settings = settings.model_copy(update={"store": o.default_store()})
    from mmembed.service.server import log_to_stderr, serve

    log_to_stderr()
    serve(settings, say=lambda line: typer.echo(line, err=True))


def _options() -> list[inspect.Parameter]:
    """Typer reads a function's signature: this is one made of the fields of Settings, whose defaults stay theirs."""
    from mmembed.service.settings import Settings

    options = []
    for name, field in Settings.model_fields.items():
        flag = _NAMES.get(name, f"--{name.replace('_', '-')}")
        default = field.get_default()
        kind: Any = list[str] if isinstance(default, tuple) else field.annotation
        if isinstance(default, bool):
            flag = f"{flag}/--no-{flag.removeprefix('--')}"
        shown = "Repeatable." if isinstance(default, tuple) else f"Default: {default}."
        text = field.description if default in (None, False) else f"{field.description} {shown}"
        hint = Annotated[kind | None, typer.Option(flag, help=text, show_default=False)]
        options.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=hint))
    return options


_parameters = _options()
serve_command.__signature__ = inspect.Signature(_parameters)  # type: ignore[attr-defined]
serve_command.__annotations__ = {parameter.name: parameter.annotation for parameter in _parameters}
