"""`mmembed testset`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mmembed.cli import options as o
from mmembed.cli.progress import show_steps

if TYPE_CHECKING:
    from mmembed.encoders.remote import ApiKey
    from mmembed.evaluation.testsets import Chat, TestSetReport

_KEY = "MMEMBED_CHAT_API_KEY"


@o.shared("json", *o.MODELS, *o.STORE, to_read=True)
def make_command(
    session: o.Session,
    output: Annotated[Path, "Folder to write: corpus.jsonl, queries.jsonl, qrels/test.tsv."],
    collection: Annotated[str, typer.Option("--in", help="Collection to make it of.")] = "images",
    sample: Annotated[int, typer.Option(min=1, help="Documents or pictures to make queries for.")] = 100,
    queries_each: Annotated[int, typer.Option(min=1, help="Queries for each of them.")] = 2,
    seed: Annotated[int, "Another seed draws another sample."] = 0,
    queries_from: Annotated[
        Literal["auto", "captions", "headings"],
        typer.Option("--from", help="Captions of pictures, headings of documents; auto: what there is."),
    ] = "auto",
    caption_key: Annotated[str, "Payload key that holds the caption of a picture."] = "caption",
    chat: Annotated[
        str | None,
        "Let a model write them: an OpenAI-compatible server, http://HOST/v1. Its key is the variable "
        f"{_KEY}, or OPENAI_API_KEY at OpenAI itself.",
    ] = None,
    chat_model: Annotated[str | None, "Name of the model there."] = None,
    chat_at_once: Annotated[int, typer.Option(min=1, help="Requests to it at the same time.")] = 4,
    filter_by: Annotated[
        str | None, "Keep queries that find their source by this vector; by default as users search."
    ] = None,
    first: Annotated[int, typer.Option(min=1, help="Hits among which the source must be.")] = 10,
    no_filter: Annotated[bool, "Keep queries that do not find their source."] = False,
) -> None:
    """Make a test set of a collection, without judging anything: queries that were made from what they should find.

    They come from a chat model, or from captions and headings. `mmembed eval retrieval OUTPUT` and `mmembed eval
    searches OUTPUT --in COLLECTION` read what is written. With --json, one object: folder, documents, sampled,
    queries, judgements, dropped, failures.
    """
    if no_filter and filter_by is not None:
        raise typer.BadParameter("cannot be given together with --no-filter", param_hint="--filter-by")
    model = _chat(chat, chat_model, chat_at_once, queries_from)

    from mmembed.evaluation.testsets import RoundTrip, make_test_set

    with show_steps() as on_progress:
        report = make_test_set(
            session.store,
            collection,
            output,
            queries_from=model or queries_from,
            sample=sample,
            queries_each=queries_each,
            seed=seed,
            round_trip=None if no_filter else RoundTrip(filter_by, first),
            caption_key=caption_key,
            encoders=session.encoders,
            on_progress=on_progress,
        )
    lost = report.dropped.get("not found again", 0)
    if lost > report.queries:
        typer.echo(
            f"the filter dropped {lost} queries and kept {report.queries}: those are the ones that this collection's "
            f"own encoders find, so they say little of others; see --filter-by and --no-filter",
            err=True,
        )
    session.answer(report, lambda: [_summary(report)], report.failures)


def _summary(report: TestSetReport) -> str:
    dropped = ", ".join(f"{count} {why}" for why, count in sorted(report.dropped.items()))
    return (
        f"{report.folder}: {report.queries} queries with {report.judgements} relevant of {report.documents} in the "
        f"corpus, from a sample of {report.sampled}" + (f" (dropped: {dropped})" if dropped else "")
    )


def _chat(url: str | None, model: str | None, at_once: int, queries_from: str) -> Chat | None:
    """The chat model that was asked for; what else it takes or excludes is a usage error."""
    if url is None:
        if model is not None:
            raise typer.BadParameter(
                "names a model, but its address, --chat URL, is missing", param_hint="--chat-model"
            )
        return None
    if model is None:
        raise typer.BadParameter("needs --chat-model NAME", param_hint="--chat")
    if queries_from != "auto":
        raise typer.BadParameter(f"{queries_from} are queries without a model: leave out --chat", param_hint="--from")

    from mmembed.evaluation.testsets.chat import Chat, server_of

    return Chat(server_of(url), model, _key_for(server_of(url)), at_once)


def _key_for(url: str) -> ApiKey | None:
    """Who sets this variable and gives --chat means it for this server; OpenAI's own key goes to OpenAI alone."""
    from mmembed.encoders.remote import ApiKey, find_key
    from mmembed.evaluation.testsets.chat import HOME

    if secret := os.environ.get(_KEY, "").strip():
        return ApiKey(_KEY, secret)
    return find_key(url, home=HOME, variables=(_KEY, "OPENAI_API_KEY"))
