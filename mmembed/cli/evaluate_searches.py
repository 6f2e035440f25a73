"""`mmembed eval searches` and `mmembed eval runs`: what is asked of a collection, and rankings made before."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmembed.cli import evaluate_options as e
from mmembed.cli import options as o
from mmembed.cli.progress import show_steps

if TYPE_CHECKING:
    from mmembed.evaluation.formats.search_log import SearchLog


@o.shared("measure", "task", *e.RESULTS, *o.MODELS, *o.STORE, session=e.EvalSession, to_read=True)
def eval_searches(
    session: e.EvalSession,
    log: Annotated[Path, typer.Argument(help="JSONL or CSV of searches with what is relevant, or a BEIR folder.")],
    collections: Annotated[
        list[str] | None,
        typer.Option("--in", help="Collection to search; two are compared. By default images.", show_default=False),
    ] = None,
    encoder: Annotated[
        str | None, typer.Option(help="Only for a collection that mmembed did not make.", show_default=False)
    ] = None,
    compare: Annotated[
        tuple[str, str] | None,
        typer.Option(help="Index the collection's files again with two encoders, for this only, and compare them."),
    ] = None,
) -> None:
    """Your own searches: a log with clicks, or a handful of judged queries, asked of a collection as its users ask it.

    A line of JSONL is {"query": "red shoes", "relevant": ["a.jpg", ...]} or {"image": "q.jpg", ...}, "clicked" for
    "relevant", and "filter" a Qdrant filter; columns of a CSV are query, uri and grade.
    """
    session.check_files()
    from mmembed.evaluation.tasks.encoders import evaluate_encoders
    from mmembed.evaluation.tasks.searches import evaluate_searches

    names = collections or ["images"]
    if len(names) > 1 and compare is not None:
        raise typer.BadParameter("indexes one collection again: name one with --in", param_hint="--compare")
    if len(set(names)) < len(names):
        raise typer.BadParameter(f"{names[0]!r} cannot be compared with itself", param_hint="--in")
    measures = session.measures()
    read = _read_log(log.expanduser())
    with show_steps() as on_progress:
        if compare is not None:
            encoders = replace(session, encoder=encoder, compare=compare).measured_encoders("tiny")
            reports = evaluate_encoders(
                session.store,
                names[0],
                read,
                encoders,
                query_task=session.task,
                measures=measures,
                on_progress=on_progress,
            )
        else:
            reports = [
                evaluate_searches(
                    session.store,
                    name,
                    read,
                    encoder=session.encoders[encoder] if encoder is not None else None,
                    query_task=session.task,
                    measures=measures,
                    encoders=session.encoders,
                    on_progress=on_progress,
                )
                for name in names
            ]
    session.finish(reports)


@o.shared("measure", *e.RESULTS, session=e.EvalSession)
def eval_runs(
    session: e.EvalSession,
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="TREC run files: topic Q0 document rank score tag.")
    ],
    qrels: Annotated[Path, typer.Option(help="TREC judgements: topic 0 document grade.")],
) -> None:
    """Rankings made before, by any system: judge them, and compare each pair."""
    session.check_files()
    from mmembed.evaluation.tasks.run_files import evaluate_run_files

    report = evaluate_run_files(qrels.expanduser(), [run.expanduser() for run in runs], measures=session.measures())
    session.show([("runs", report)])


def _read_log(file: Path) -> SearchLog:
    from mmembed.evaluation.formats import read_test_set
    from mmembed.evaluation.formats.search_log import log_of, read_searches

    return log_of(read_test_set(file)) if file.is_dir() else read_searches(file)
