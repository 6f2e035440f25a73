"""Options that several commands share, and how they become a store, encoders and a filter."""

from __future__ import annotations

import functools
import inspect
import json
import shlex
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, get_type_hints

import typer

from mmembed.errors import respell

if TYPE_CHECKING:
    from qdrant_client.models import Filter

    from mmembed.encoders import Encoders
    from mmembed.types import Encoder, Failure, Store

STORE = ("store_url", "api_key", "grpc")
MODELS = ("device", "dtype", "trust_remote_code")

_FLAGS = {"vector_name": "--using"}  # others are called as their parameter is
_QUOTES = "'\""

Exclude: TypeAlias = Annotated[list[str] | None, "Leave out paths that match this pattern; repeatable."]
Workers: TypeAlias = Annotated[int | None, typer.Option("--workers", min=1, help="Reading threads.")]
FilterJson: TypeAlias = Annotated[str | None, 'A Qdrant filter as JSON: {"must": [{"key": "...", "match": {...}}]}.']


@dataclass(frozen=True)
class Session:
    """The shared options of one run of a command, each declared here once, and the store and encoders they lead to.

    A field is an option; `shared` says which of them a command has. Both store and encoders are made when they are
    first asked for, so that a usage error comes before either.
    """

    store_url: Annotated[
        str | None,
        typer.Option(
            "--store",
            envvar="MMEMBED_STORE",
            help="http://HOST:6333, edge:FOLDER; by default an embedded Qdrant Edge in your data directory.",
        ),
    ] = None
    api_key: Annotated[
        str | None, typer.Option("--api-key", envvar="MMEMBED_QDRANT_API_KEY", help="API key of the Qdrant server.")
    ] = None
    grpc: Annotated[bool, "Talk gRPC to the Qdrant server: faster writes of long vectors."] = False
    json: Annotated[bool, "Machine-readable results on stdout."] = False
    device: Annotated[str | None, "cpu, cuda, cuda:1, mps; by default the best available."] = None
    dtype: Annotated[str | None, "float32, bfloat16 or float16."] = None
    batch_size: Annotated[int | None, typer.Option("--batch-size", min=1, help="Inputs per forward pass.")] = None
    trust_remote_code: Annotated[bool, "Run Python code that comes with a model's repository."] = False
    to_read: bool = field(default=False, kw_only=True)
    closing: ExitStack = field(default_factory=ExitStack, kw_only=True)

    @property
    def place(self) -> str:
        """The address of the store; by default an Edge folder in the user's data directory."""
        return self.store_url or default_store()

    @property
    def is_missing(self) -> bool:
        """Whether the store is a folder in which nothing was indexed yet."""
        folder = Path(self.place.removeprefix("edge:")).expanduser()
        return self.place.startswith("edge:") and not (folder / "collections").is_dir()

    @functools.cached_property
    def store(self) -> Store:
        """Open until the command ends; made if it is not there, unless the command only reads."""
        from mmembed.errors import StoreUnavailable
        from mmembed.stores import open_store

        if self.to_read and self.is_missing:  # a mistyped folder
            raise StoreUnavailable(f"there is no store at {self.place}: `mmembed index images FOLDER` makes one")
        opened = open_store(self.place, api_key=self.api_key, prefer_grpc=self.grpc)
        self.closing.callback(opened.close)
        return opened

    @functools.cached_property
    def encoders(self) -> Encoders:
        from mmembed.encoders import Encoders
        from mmembed.types import LoadOptions

        return Encoders(LoadOptions(self.device, self.dtype, self.batch_size, self.trust_remote_code))

    def load(self, name: str | None) -> Encoder | None:
        return self.encoders[name] if name else None

    def encoder_of(self, collection: str, vector: str, name: str | None, default: str) -> Encoder:
        """The one that is named, else the one that the collection remembers for this vector, else the default."""
        return self.encoders[name or self.remembered(collection, vector) or default]

    def remembered(self, collection: str, vector: str) -> str | None:
        """The encoder that the collection remembers for this vector, if it is there and ours."""
        contract = self.store.contract(collection) if collection in self.store.collections() else None
        return contract.vectors[vector].encoder if contract is not None and vector in contract.vectors else None

    def answer(self, value: Any, lines: Callable[[], Iterable[str]], failures: Sequence[Failure] = ()) -> None:
        """The value as JSON, or its lines for people; exits with 3 where something failed, told on stderr."""
        tell_failures(failures)
        typer.echo(as_json(value) if self.json else "\n".join(lines()))
        if failures:
            raise typer.Exit(3)


def shared(
    *options: str, session: type[Session] = Session, to_read: bool = False
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command these fields of `session` as options, behind its own, and the Session as its first argument.

        @shared(*STORE, "json", to_read=True)
        def count_command(session: Session, collection: str) -> None:
            typer.echo(session.store.count(collection))

    Typer reads a signature: the one that it is shown has the options in place of the session. Where a type is
    annotated with a text, that is the help of an option which is called as its parameter is.
    """
    declared = get_type_hints(session, include_extras=True)
    defaults = inspect.signature(session).parameters

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = list(inspect.signature(command).parameters.values())[1:]
        named = SimpleNamespace(__annotations__={p.name: p.annotation for p in own})
        hints = get_type_hints(named, globalns=command.__globals__, include_extras=True)
        hints |= {name: declared[name] for name in options}
        hints = {name: _option(name, hint) for name, hint in hints.items()}

        @functools.wraps(command)
        def run(**values: Any) -> None:
            flags = {name: values.pop(name) for name in options}
            with ExitStack() as closing:
                command(session(**flags, to_read=to_read, closing=closing), **values)

        parameters = own + [defaults[name] for name in options]
        run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [p.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[p.name]) for p in parameters]
        )
        run.__annotations__ = hints
        return run

    return decorate


def _option(name: str, hint: Any) -> Any:
    """`Annotated[bool, "Do not ask."]` of the parameter `yes` -> with the option --yes in the text's place."""
    text = getattr(hint, "__metadata__", (None,))[0]
    if not isinstance(text, str):
        return hint
    return Annotated[hint.__origin__, typer.Option(f"--{name.replace('_', '-')}", help=text)]


def default_store() -> str:
    """An Edge folder in the user's data directory."""
    import platformdirs

    return f"edge:{platformdirs.user_data_path('mmembed') / 'store.mm'}"


def parse_filter(text: str | None) -> Filter | None:
    """Qdrant's own filter JSON -> its model; a usage error where it is not one."""
    if text is None:
        return None
    from pydantic import ValidationError
    from qdrant_client.models import Filter

    try:
        return Filter.model_validate(json.loads(text))
    except ValueError as exc:
        first = exc.errors()[0]["msg"] if isinstance(exc, ValidationError) else str(exc)
        raise typer.BadParameter(f"not a Qdrant filter ({first})", param_hint="--filter") from exc


def tell_failures(failures: Sequence[Failure], *, shown: int = 20) -> None:
    """A line on stderr for each, up to `shown`."""
    for failure in failures[:shown]:
        error = failure.error if failure.uri in failure.error else f"{failure.uri}: {failure.error}"
        typer.echo(f"failed: {as_flags(error)}", err=True)
    if len(failures) > shown:
        typer.echo(f"failed: and {len(failures) - shown:,} more", err=True)


def as_flags(sentence: str) -> str:
    """A sentence of an error with parameters as flags: `cross_encoder=` -> --cross-encoder."""
    return respell(sentence, _flag)


def _flag(name: str, value: str) -> str:
    flag = _FLAGS.get(name, f"--{name.replace('_', '-')}")
    return flag if value in ("", "True") else f"{flag} {shlex.quote(value.strip(_QUOTES))}"


def existing_file(path: Path) -> Path:
    if not path.is_file():
        raise typer.BadParameter(f"there is no file {str(path)!r}")
    return path


def as_json(value: Any) -> str:
    """One line; a dataclass is an object of its fields, and a Failure one of uri and error."""
    return json.dumps(value, ensure_ascii=False, default=_plain)


def _plain(value: Any) -> Any:
    from mmembed.types import Failure

    if isinstance(value, Failure):
        return {"uri": value.uri, "error": value.error}
    return vars(value) if is_dataclass(value) else str(value)
