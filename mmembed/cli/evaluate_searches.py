"""`mmembed eval searches` and `mmembed eval runs`: what is asked of a collection, and rankings made before."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmembed.cli import evaluate_options as e
from mmembed.cli import options as o

if TYPE_CHECKING:
    from mmembed.evaluation.formats.search_log import SearchLog


def eval_searches(
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
        typer.Option(help="Index the collection's files anew by two encoders, for this alone, and compare them."),
    ] = None,
    measure: e.Measures = None,
    task: e.Task = None,
    json: o.Json = False,
    plot: e.Plot = None,
    output: e.Output = None,
    store: o.StoreUrl = None,
    seed: e.Seed = 0,
    device: o.Device = None,
    dtype: o.Dtype = None,
    trust_remote_code: o.TrustRemoteCode = False,
    api_key: o.ApiKey = None,
    grpc: o.Grpc = False,
) -> None:
    """Your own searches: a log with clicks, or a handful of judged queries, asked of a collection as its users ask it.

    A line of JSONL is {"query": "red shoes", "relevant": ["a.jpg", ...]} or {"image": "q.jpg", ...}, "clicked" for
    "relevant", and "filter" a Qdrant filter; columns of a CSV are query, uri and grade.
    """
    e.check_files(plot, output)
    from mmembed.evaluation.tasks.encoders import evaluate_encoders
    from mmembed.evaluation.tasks.searches import evaluate_searches

    names = collections or ["images"]
    if len(names) > 1 and compare is not None:
        raise typer.BadParameter("indexes one collection anew: name one with --in", param_hint="--compare")
    if len(set(names)) < len(names):
        raise typer.BadParameter(f"{names[0]!r} cannot be compared with itself", param_hint="--in")
    measures = e.asked_measures(measure)
    read = _read_log(log.expanduser())
    pool = e.asked_pool(device, dtype, None, trust_remote_code)
    opened = o.open_asked_store(store, api_key, grpc, to_read=True)
    try:
        with e.eval_progress() as on_progress:
            if compare is not None:
                encoders = e.asked_encoders(encoder, compare, "tiny", pool)
                reports = evaluate_encoders(
                    opened, names[0], read, encoders, query_task=task, measures=measures, on_progress=on_progress
                )
            else:
                given = pool[encoder] if encoder is not None else None
                reports = [
                    evaluate_searches(
                        opened,
                        name,
                        read,
                        encoder=given,
                        query_task=task,
                        measures=measures,
                        encoders=pool,
                        on_progress=on_progress,
                    )
                    for name in names
                ]
    finally:
        opened.close()
    e.finish(reports, seed, json=json, plot=plot, output=output)


def eval_runs(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="TREC run files: topic Q0 document rank score tag.")
    ],
    qrels: Annotated[Path, typer.Option(help="TREC judgements: topic 0 document grade.")],
    measure: e.Measures = None,
    json: o.Json = False,
    plot: e.Plot = None,
    output: e.Output = None,
    seed: e.Seed = 0,
) -> None:
    """Rankings that are there already, of any system: judge them, and compare every two."""
    e.check_files(plot, output)
    from mmembed.evaluation.tasks.run_files import evaluate_run_files

    report = evaluate_run_files(
        qrels.expanduser(), [run.expanduser() for run in runs], measures=e.asked_measures(measure)
    )
    e.show_reports([("runs", replace(report, seed=seed))], as_json=json, plot=plot, output=output)


def _read_log(file: Path) -> SearchLog:
    from mmembed.evaluation.formats import read_test_set
    from mmembed.evaluation.formats.search_log import log_of, read_searches

    return log_of(read_test_set(file)) if file.is_dir() else read_searches(file)
