"""`mmembed testset`."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmembed.cli import options as o

if TYPE_CHECKING:
    from mmembed.encoders.remote import ApiKey
    from mmembed.evaluation.testsets import Chat, MadeTestSet

_KEY = "MMEMBED_CHAT_API_KEY"
_LINE_EVERY_SECONDS = 15.0
_SHOWN_FAILURES = 5


class QueriesFrom(StrEnum):
    auto = "auto"
    captions = "captions"
    headings = "headings"


def make_command(
    output: Annotated[Path, typer.Option(help="Folder to write: corpus.jsonl, queries.jsonl, qrels/test.tsv.")],
    collection: Annotated[str, typer.Option("--in", help="Collection to make it of.")] = "images",
    store: o.StoreUrl = None,
    sample: Annotated[int, typer.Option(min=1, help="Documents or pictures to make queries for.")] = 100,
    queries_each: Annotated[int, typer.Option(min=1, help="Queries for each of them.")] = 2,
    seed: Annotated[int, typer.Option(help="Another seed draws another sample.")] = 0,
    queries_from: Annotated[
        QueriesFrom, typer.Option("--from", help="Captions of pictures, headings of documents; auto: what there is.")
    ] = QueriesFrom.auto,
    caption_key: Annotated[str, typer.Option(help="Payload key that holds the caption of a picture.")] = "caption",
    chat: Annotated[
        str | None,
        typer.Option(
            help="Let a model write them: an OpenAI-compatible server, http://HOST/v1. Its key is the variable "
            f"{_KEY}, or OPENAI_API_KEY at OpenAI itself."
        ),
    ] = None,
    chat_model: Annotated[str | None, typer.Option(help="Name of the model there.")] = None,
    chat_at_once: Annotated[int, typer.Option(min=1, help="Requests to it at the same time.")] = 4,
    filter_by: Annotated[
        str | None,
        typer.Option(help="Keep queries that find their source by this vector; by default as users search."),
    ] = None,
    first: Annotated[int, typer.Option(min=1, help="Hits among which the source must be.")] = 10,
    no_filter: Annotated[bool, typer.Option("--no-filter", help="Keep queries that do not find their source.")] = False,
    json: o.Json = False,
    device: o.Device = None,
    dtype: o.Dtype = None,
    trust_remote_code: o.TrustRemoteCode = False,
    api_key: o.ApiKey = None,
    grpc: o.Grpc = False,
) -> None:
    """Make a test set of a collection, without judging anything: queries that were made from what they should find.

    They come from a chat model, or from captions and headings. `mmembed eval retrieval OUTPUT` and `mmembed eval
    searches OUTPUT --in COLLECTION` read what is written. With --json, one object: folder, documents, sampled,
    queries, judgements, dropped, failures.
    """
    if no_filter and filter_by is not None:
        raise typer.BadParameter("cannot be given together with --no-filter", param_hint="--filter-by")
    model = _chat(chat, chat_model, chat_at_once, queries_from)

    from mmembed.encoders import Encoders
    from mmembed.evaluation.testsets import RoundTrip, make_test_set
    from mmembed.types import LoadOptions

    opened = o.open_asked_store(store, api_key, grpc, to_read=True)
    try:
        with _progress() as say:
            made = make_test_set(
                opened,
                collection,
                output,
                queries_from=model or queries_from.value,
                sample=sample,
                queries_each=queries_each,
                seed=seed,
                round_trip=None if no_filter else RoundTrip(filter_by, first),
                caption_key=caption_key,
                encoders=Encoders(LoadOptions(device=device, dtype=dtype, trust_remote_code=trust_remote_code)),
                on_progress=say,
            )
    finally:
        opened.close()
    _show(made, json)


def _show(made: MadeTestSet, json: bool) -> None:
    for failure in made.failures[:_SHOWN_FAILURES]:
        typer.echo(failure.error, err=True)
    if len(made.failures) > _SHOWN_FAILURES:
        typer.echo(f"... and {len(made.failures) - _SHOWN_FAILURES} more failures", err=True)
    lost = made.dropped.get("not found again", 0)
    if lost > made.queries:
        typer.echo(
            f"the filter dropped {lost} queries and kept {made.queries}: those are the ones that this collection's "
            f"own encoders find, so they say little of others; see --filter-by and --no-filter",
            err=True,
        )
    if json:
        failures = [{"uri": failure.uri, "error": failure.error} for failure in made.failures]
        typer.echo(o.as_json({**vars(made), "folder": str(made.folder), "failures": failures}))
    else:
        dropped = ", ".join(f"{count} {why}" for why, count in sorted(made.dropped.items()))
        typer.echo(
            f"{made.folder}: {made.queries} queries with {made.judgements} relevant of {made.documents} in the corpus, "
            f"from a sample of {made.sampled}" + (f" (dropped: {dropped})" if dropped else "")
        )
    if made.failures:
        raise typer.Exit(3)


def _chat(url: str | None, model: str | None, at_once: int, queries_from: QueriesFrom) -> Chat | None:
    """The chat model that was asked for; what else it takes or excludes is a usage error."""
    if url is None:
        if model is not None:
            raise typer.BadParameter(
                "names a model, but --chat URL, where it is, is missing", param_hint="--chat-model"
            )
        return None
    if model is None:
        raise typer.BadParameter("needs --chat-model NAME", param_hint="--chat")
    if queries_from is not QueriesFrom.auto:
        raise typer.BadParameter(
            f"{queries_from.value} are queries without a model: leave out --chat", param_hint="--from"
        )

    from mmembed.evaluation.testsets.chat import Chat, server_of

    return Chat(server_of(url), model, _key_for(server_of(url)), at_once)


def _key_for(url: str) -> ApiKey | None:
    """Who sets this variable and gives --chat means it for this server; OpenAI's own key goes to OpenAI alone."""
    from mmembed.encoders.remote import ApiKey, find_key
    from mmembed.evaluation.testsets.chat import HOME

    if secret := os.environ.get(_KEY, "").strip():
        return ApiKey(_KEY, secret)
    return find_key(url, home=HOME, variables=(_KEY, "OPENAI_API_KEY"))


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """A bar on a terminal, elsewhere a line now and then."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines()
        return
    with Progress(console=console, transient=True) as bar:
        tasks = {what: bar.add_task(what, total=None) for what in ("queries", "filtering")}
        yield lambda what, done, total: bar.update(tasks[what], completed=done, total=total)


def _lines() -> Callable[[str, int, int], None]:
    said = time.monotonic()

    def say(what: str, done: int, total: int) -> None:
        nonlocal said
        if time.monotonic() - said >= _LINE_EVERY_SECONDS:
            typer.echo(f"{what}: {done:,} of {total:,}", err=True)
            said = time.monotonic()

    return say
