"""What the commands of `mmembed eval` share: where the vectors go, progress on stderr, and how results are shown."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from mmembed.cli import options as o

if TYPE_CHECKING:
    from mmembed.encoders import Encoders
    from mmembed.evaluation.corpus_index import OnProgress
    from mmembed.evaluation.report import Report
    from mmembed.types import Encoder, Store

EncoderName: TypeAlias = Annotated[
    str | None, typer.Option("--encoder", help="Name of the encoder to measure.", show_default=False)
]
TwoEncoders: TypeAlias = Annotated[
    tuple[str, str] | None,
    typer.Option("--compare", help="Two encoders, measured on the same things and compared.", show_default=False),
]
Kept: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--in",
        help="Collection to index into and to keep; without it, and without --store, all is temporary.",
        show_default=False,
    ),
]
Measures: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--measure", help="nDCG@10, hit_rate@1, recall@100, MRR@10, MAP, ...; repeatable.", show_default=False
    ),
]
Plot: TypeAlias = Annotated[Path | None, typer.Option("--plot", help="Draw the numbers into this .png or .svg.")]
Output: TypeAlias = Annotated[Path | None, typer.Option("--output", help="Write all of it as JSON, query by query.")]
Seed: TypeAlias = Annotated[int, typer.Option("--seed", min=0, help="Of the intervals and tests.")]
Task: TypeAlias = Annotated[
    str | None, typer.Option("--task", help="Task or instruction of the queries, for encoders that take one.")
]

_LINE_EVERY_SECONDS = 15.0
_WIDTH = 100  # columns where stdout is no terminal


@contextmanager
def opened_place(
    context: typer.Context, url: str | None, collection: str | None, api_key: str | None, grpc: bool
) -> Iterator[Store]:
    """The store that was asked for, or a temporary Edge folder where neither it nor a collection was."""
    from mmembed.stores import open_store

    source = context.get_parameter_source("store")
    if collection is not None or (source is not None and source.name == "COMMANDLINE"):
        opened = o.open_asked_store(url, api_key, grpc)
        try:
            yield opened
        finally:
            opened.close()
        return
    with tempfile.TemporaryDirectory(prefix="mmembed-eval-") as folder:
        opened = open_store(f"edge:{Path(folder) / 'store.mm'}")
        try:
            yield opened
        finally:
            opened.close()


def asked_encoders(
    encoder: str | None, compare: tuple[str, str] | None, default: str, encoders: Encoders
) -> Iterator[Encoder]:
    """One, or the two that are compared, each loaded when it is its turn."""
    if compare is not None and encoder is not None:
        raise typer.BadParameter("names two encoders, and --encoder one more: give one of them", param_hint="--compare")
    if compare is not None and compare[0] == compare[1]:
        raise typer.BadParameter(f"{compare[0]!r} cannot be compared with itself", param_hint="--compare")
    return (encoders[name] for name in compare or (encoder or default,))


def collection_name(asked: str | None, default: str, place: Path, encoder: Encoder, *, alone: bool) -> str:
    """What was asked for; where there are several encoders, or nothing was, a name that tells encoders apart.

    Where nothing was, also one that tells places apart: two test sets of one name share no collection.
    """
    if asked is not None and alone:
        return asked
    where = hashlib.blake2b(os.fsencode(place.expanduser().resolve()), digest_size=3).hexdigest()
    return f"{asked or f'eval-{_plain(default)}-{where}'}-{_plain(encoder.spec.name)}-{encoder.spec.fingerprint[:6]}"


def _plain(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-")[-60:] or "set"


@contextmanager
def eval_progress() -> Iterator[OnProgress]:
    """A bar on stderr; where it is no terminal, a line now and then."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines(console)
        return

    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=None)

        def tell(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total)

        yield tell


def _lines(console: Any) -> OnProgress:
    said = time.monotonic()

    def tell(what: str, done: int, total: int) -> None:
        nonlocal said
        if time.monotonic() - said >= _LINE_EVERY_SECONDS:
            console.print(f"{what}: {done:,} of {total:,}", highlight=False)
            said = time.monotonic()

    return tell


def check_files(plot: Path | None, output: Path | None) -> None:
    """Raise BadParameter before the work begins, not after it, where results cannot be written."""
    from mmembed.evaluation.plots import SUFFIXES

    if plot is not None and plot.suffix.lower() not in SUFFIXES:
        raise typer.BadParameter(f"{plot.name!r} ends neither in .png nor in .svg", param_hint="--plot")
    for file, option in ((plot, "--plot"), (output, "--output")):
        if file is not None and not file.expanduser().absolute().parent.is_dir():
            raise typer.BadParameter(f"there is no folder {str(file.parent)!r}", param_hint=option)
        if file is not None and file.expanduser().is_dir():
            raise typer.BadParameter(f"{str(file)!r} is a folder: name a file in it", param_hint=option)


def show_reports(named: Sequence[tuple[str, Report]], *, as_json: bool, plot: Path | None, output: Path | None) -> None:
    """Tables or JSON on stdout, one plot and full JSON in files. Of several reports each has its name in the JSON.

    Raises SettingsError where these files cannot be written.
    """
    from mmembed.errors import SettingsError
    from mmembed.evaluation.plots import plot_reports

    def together(*, per_query: bool) -> Any:
        entries = {name: report.as_json(per_query=per_query) for name, report in named}
        return entries if len(entries) > 1 else next(iter(entries.values()))

    if as_json:
        typer.echo(json.dumps(together(per_query=False), ensure_ascii=False))
    else:
        _print_tables([report for _, report in named])
    try:
        if output is not None:
            output.expanduser().write_text(
                f"{json.dumps(together(per_query=True), ensure_ascii=False)}\n", encoding="utf-8"
            )
        if plot is not None:
            plot_reports([report for _, report in named], plot.expanduser())
    except OSError as exc:
        reason = exc.strerror or type(exc).__name__
        raise SettingsError(f"the results cannot be written to --output or --plot ({reason}): name another") from exc


def _print_tables(reports: Sequence[Report]) -> None:
    from rich.console import Console

    console = Console()
    console = console if console.is_terminal else Console(width=_WIDTH)
    for number, report in enumerate(reports):
        if number:
            console.print()
        console.print(report.table())


def asked_pool(device: str | None, dtype: str | None, batch_size: int | None, trust_remote_code: bool) -> Encoders:
    """Where encoders come from, and how they run."""
    from mmembed.encoders import Encoders
    from mmembed.types import LoadOptions

    options = LoadOptions(device=device, dtype=dtype, batch_size=batch_size, trust_remote_code=trust_remote_code)
    return Encoders(options)


def asked_measures(asked: list[str] | None, default: tuple[str, ...] | None = None) -> tuple[str, ...]:
    """As they are written. Raises SettingsError for those that there are not, before anything is encoded."""
    from mmembed.evaluation.measures import MEASURES, parse_measures

    return parse_measures(asked or default or MEASURES)


def finish(reports: list[Report], seed: int, *, json: bool, plot: Path | None, output: Path | None) -> None:
    """Compare the reports, if there are two, and show the result."""
    from mmembed.evaluation.compare import compare

    show_reports([("report", replace(compare(reports), seed=seed))], as_json=json, plot=plot, output=output)
