"""What the commands of `mmembed eval` share: options, where the vectors go, and how results are shown."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from mmembed.cli import options as o
from mmembed.cli.progress import show_steps

if TYPE_CHECKING:
    from mmembed.evaluation.report import Report
    from mmembed.types import Encoder, Store

_T = TypeVar("_T")

RESULTS = ("plot", "output", "seed", "json")
ENCODERS = ("encoder", "compare", "collection", *o.STORE, *o.MODELS, "batch_size")

_WIDTH = 100  # columns where stdout is no terminal


@dataclass(frozen=True)
class EvalSession(o.Session):
    """The options of one run of an evaluation, and what they come to."""

    encoder: Annotated[str | None, "Name of the encoder to measure."] = None
    compare: Annotated[tuple[str, str] | None, "Two encoders, measured on the same things and compared."] = None
    collection: Annotated[
        str | None,
        typer.Option(
            "--in", help="Collection to index into and to keep; without it, and without --store, all is temporary."
        ),
    ] = None
    measure: Annotated[list[str] | None, "nDCG@10, hit_rate@1, recall@100, MRR@10, MAP, ...; repeatable."] = None
    task: Annotated[str | None, "Task or instruction of the queries, for encoders that take one."] = None
    plot: Annotated[Path | None, "Draw the numbers into this .png or .svg."] = None
    output: Annotated[Path | None, "Write all of it as JSON, query by query."] = None
    seed: Annotated[int, typer.Option("--seed", min=0, help="Random seed of the intervals and tests.")] = 0

    def evaluate_each(
        self, evaluate: Callable[..., _T], default: str, name: str, place: Path, context: typer.Context
    ) -> list[_T]:
        """What `evaluate` gives for each encoder, in a collection for it.

        Args:
            evaluate: takes the store and the collection, and the keywords encoder and on_progress.
            default: the encoder that is measured where none was named.
            name: of what is measured, which lies at `place`.
        """
        encoders = self.measured_encoders(default)
        store = self._place_to_index(context)
        with show_steps() as on_progress:
            return [
                evaluate(store, self._collection_for(each, name, place), encoder=each, on_progress=on_progress)
                for each in encoders
            ]

    def _place_to_index(self, context: typer.Context) -> Store:
        """The store that was asked for, or a temporary Edge folder where neither it nor a collection was."""
        source = context.get_parameter_source("store_url")
        if self.collection is not None or (source is not None and source.name == "COMMANDLINE"):
            return self.store
        folder = self.closing.enter_context(tempfile.TemporaryDirectory(prefix="mmembed-eval-"))
        return replace(self, store_url=f"edge:{Path(folder) / 'store.mm'}", to_read=False).store

    def measured_encoders(self, default: str) -> Iterator[Encoder]:
        """One, or the two that are compared, each loaded when it is its turn."""
        pair = self.compare
        if pair is not None and self.encoder is not None:
            raise typer.BadParameter(
                "names two encoders, and --encoder one more: give one of them", param_hint="--compare"
            )
        if pair is not None and pair[0] == pair[1]:
            raise typer.BadParameter(f"{pair[0]!r} cannot be compared with itself", param_hint="--compare")
        return (self.encoders[name] for name in pair or (self.encoder or default,))

    def _collection_for(self, encoder: Encoder, default: str, place: Path) -> str:
        """What was asked for; with several encoders, or where nothing was, a name that tells encoders apart.

        Where nothing was, also one that tells places apart: two test sets of one name share no collection.
        """
        if self.collection is not None and self.compare is None:
            return self.collection
        where = hashlib.blake2b(os.fsencode(place.expanduser().resolve()), digest_size=3).hexdigest()
        prefix = self.collection or f"eval-{_plain(default)}-{where}"
        return f"{prefix}-{_plain(encoder.spec.name)}-{encoder.spec.fingerprint[:6]}"

    def measures(self, default: tuple[str, ...] | None = None) -> tuple[str, ...]:
        """As they are written. Raises SettingsError for one that does not exist, before anything is encoded."""
        from mmembed.evaluation.measures import MEASURES, parse_measures

        return parse_measures(self.measure or default or MEASURES)

    def __post_init__(self) -> None:
        """Raise BadParameter before the work begins, not after it, where results cannot be written."""
        from mmembed.evaluation.plots import SUFFIXES

        if self.plot is not None and self.plot.suffix.lower() not in SUFFIXES:
            raise typer.BadParameter(f"{self.plot.name!r} ends neither in .png nor in .svg", param_hint="--plot")
        for file, option in ((self.plot, "--plot"), (self.output, "--output")):
            if file is not None and not file.expanduser().absolute().parent.is_dir():
                raise typer.BadParameter(f"there is no folder {str(file.parent)!r}", param_hint=option)
            if file is not None and file.expanduser().is_dir():
                raise typer.BadParameter(f"{str(file)!r} is a folder: name a file in it", param_hint=option)

    def finish(self, reports: list[Report]) -> None:
        """Compare the reports, if there are two, and show the result."""
        from mmembed.evaluation.comparison import compare

        self.show([("report", compare(reports))])

    def show(self, named: Sequence[tuple[str, Report]]) -> None:
        """Tables or JSON on stdout, one plot and full JSON in files. Of several reports each has its name in the JSON.

        Raises SettingsError where these files cannot be written.
        """
        from mmembed.errors import SettingsError
        from mmembed.evaluation.plots import plot_reports

        seeded = {name: replace(report, seed=self.seed) for name, report in named}

        def together(*, per_query: bool) -> str:
            entries = {name: report.as_json(per_query=per_query) for name, report in seeded.items()}
            return o.as_json(entries if len(entries) > 1 else next(iter(entries.values())))

        if self.json:
            typer.echo(together(per_query=False))
        else:
            _print_tables(list(seeded.values()))
        try:
            if self.output is not None:
                self.output.expanduser().write_text(f"{together(per_query=True)}\n", encoding="utf-8")
            if self.plot is not None:
                plot_reports(list(seeded.values()), self.plot.expanduser())
        except OSError as exc:
            reason = exc.strerror or type(exc).__name__
            raise SettingsError(
                f"the results cannot be written to --output or --plot ({reason}): name another"
            ) from exc


def _plain(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-")[-60:] or "set"


def _print_tables(reports: Sequence[Report]) -> None:
    from rich.console import Console

    from mmembed.evaluation.tables import report_tables

    console = Console()
    console = console if console.is_terminal else Console(width=_WIDTH)
    for number, report in enumerate(reports):
        if number:
            console.print()
        console.print(report_tables(report))
