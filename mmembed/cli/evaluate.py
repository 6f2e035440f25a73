"""`mmembed eval`: how good is this on my own pictures, texts and searches?"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmembed.cli import evaluated as e
from mmembed.cli import options as o

if TYPE_CHECKING:
    from mmembed.evaluation.report import Report
    from mmembed.evaluation.search_log import SearchLog
    from mmembed.types import LoadOptions

app = typer.Typer(no_args_is_help=True, help="Measure retrieval, classification and searches, with intervals.")


@app.command("captions")
def eval_captions(
    context: typer.Context,
    captions: Annotated[Path, typer.Argument(metavar="FILE", help="Captions file, or the folder that has one.")],
    pictures: Annotated[Path | None, typer.Option(help="Folder that names of pictures are relative to.")] = None,
    encoder: e.EncoderName = None,
    compare: e.TwoEncoders = None,
    measure: e.Measures = None,
    task: e.Task = None,
    json: o.Json = False,
    plot: e.Plot = None,
    output: e.Output = None,
    store: o.StoreUrl = None,
    collection: e.Kept = None,
    seed: e.Seed = 0,
    device: o.Device = None,
    dtype: o.Dtype = None,
    batch_size: o.BatchSize = None,
    trust_remote_code: o.TrustRemoteCode = False,
    api_key: o.ApiKey = None,
    grpc: o.Grpc = False,
) -> None:
    """Image-text retrieval both ways: captions find their picture, pictures find their captions.

    The file is captions.json ({"a.jpg": ["a cat", ...]}), COCO's annotations, or a CSV or JSONL of uri and caption.
    What papers on CLIP print as R@k is hit_rate@k. The encoder is tiny by default.
    """
    e.check_files(plot, output)
    from mmembed.evaluation.captions import read_captions
    from mmembed.evaluation.image_text import IMAGE_TEXT_MEASURES, compare_both_ways, evaluate_captions

    measures = _measures(measure, IMAGE_TEXT_MEASURES)
    read = read_captions(captions, pictures=pictures)
    encoders = e.asked_encoders(encoder, compare, "tiny", _run(device, dtype, batch_size, trust_remote_code))
    with e.opened_place(context, store, collection, api_key, grpc) as opened, e.eval_progress() as on_progress:
        results = [
            evaluate_captions(
                opened,
                e.collection_name(collection, read.name, each, alone=compare is None),
                read,
                encoder=each,
                task=task,
                measures=measures,
                on_progress=on_progress,
            )
            for each in encoders
        ]
    both = compare_both_ways(results)
    named = [("text_to_image", both.text_to_image), ("image_to_text", both.image_to_text)]
    seeded = [(name, replace(report, seed=seed)) for name, report in named]
    e.show_reports(seeded, as_json=json, plot=plot, output=output)


@app.command("retrieval")
def eval_retrieval(
    context: typer.Context,
    folder: Annotated[
        Path, typer.Argument(help="Corpus, queries and judgements as BEIR, TREC or Cranfield have them.")
    ],
    split: Annotated[str | None, typer.Option(help="test, dev or train, where there are several.")] = None,
    passages: Annotated[
        bool, typer.Option("--passages", help="Cut texts into passages, search by meaning and words, as an index does.")
    ] = False,
    encoder: e.EncoderName = None,
    compare: e.TwoEncoders = None,
    measure: e.Measures = None,
    task: e.Task = None,
    json: o.Json = False,
    plot: e.Plot = None,
    output: e.Output = None,
    store: o.StoreUrl = None,
    collection: e.Kept = None,
    seed: e.Seed = 0,
    device: o.Device = None,
    dtype: o.Dtype = None,
    batch_size: o.BatchSize = None,
    trust_remote_code: o.TrustRemoteCode = False,
    api_key: o.ApiKey = None,
    grpc: o.Grpc = False,
) -> None:
    """Retrieval of texts or pictures: one vector a document, title and text joined, as mteb and BEIR have it.

    The encoder is minilm by default, tiny where there are pictures.
    """
    e.check_files(plot, output)
    from mmembed.evaluation.layouts import read_test_set
    from mmembed.evaluation.passages import evaluate_passages
    from mmembed.evaluation.retrieval import evaluate_retrieval

    measures = _measures(measure)
    test_set = read_test_set(folder.expanduser(), split=split)
    pictures = [entry.image for some in (test_set.corpus, test_set.queries) for entry in some.values() if entry.image]
    default = "tiny" if pictures else "minilm"
    encoders = e.asked_encoders(encoder, compare, default, _run(device, dtype, batch_size, trust_remote_code))
    evaluate = evaluate_passages if passages else evaluate_retrieval
    name = f"{test_set.name}-passages" if passages else test_set.name
    with e.opened_place(context, store, collection, api_key, grpc) as opened, e.eval_progress() as on_progress:
        reports = [
            evaluate(
                opened,
                e.collection_name(collection, name, each, alone=compare is None),
                test_set,
                encoder=each,
                task=task,
                measures=measures,
                on_progress=on_progress,
            )
            for each in encoders
        ]
    _finish(reports, seed, json=json, plot=plot, output=output)


@app.command("zero-shot")
def eval_zero_shot(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(help="One sub-folder a class, with its pictures in it.")],
    labels: Annotated[
        Path | None, typer.Option(help='What classes are in words: JSON {"folder": "text"}, or a CSV of folder,text.')
    ] = None,
    templates: Annotated[
        str, typer.Option(help="Sentences a label is put into: openai (80), simple (7), plain, or a file.")
    ] = "simple",
    encoder: e.EncoderName = None,
    compare: e.TwoEncoders = None,
    json: o.Json = False,
    plot: e.Plot = None,
    output: e.Output = None,
    store: o.StoreUrl = None,
    collection: e.Kept = None,
    seed: e.Seed = 0,
    device: o.Device = None,
    dtype: o.Dtype = None,
    batch_size: o.BatchSize = None,
    trust_remote_code: o.TrustRemoteCode = False,
    api_key: o.ApiKey = None,
    grpc: o.Grpc = False,
) -> None:
    """Zero-shot classification: acc1, acc5 and mean_per_class_recall of a folder of pictures, one sub-folder a class.

    The encoder is tiny by default.
    """
    e.check_files(plot, output)
    from mmembed.cli.labels import asked_labels
    from mmembed.evaluation.classes import evaluate_classes, read_class_texts
    from mmembed.sources.classes import read_class_folders

    read = read_class_folders(folder.expanduser())
    names = sorted({picture.label for picture in read if picture.label is not None})
    wanted = asked_labels(names, templates, None)
    if labels is not None:
        wanted = read_class_texts(labels, names, templates=wanted.templates)
    encoders = e.asked_encoders(encoder, compare, "tiny", _run(device, dtype, batch_size, trust_remote_code))
    with e.opened_place(context, store, collection, api_key, grpc) as opened, e.eval_progress() as on_progress:
        reports = [
            evaluate_classes(
                opened,
                e.collection_name(collection, folder.name, each, alone=compare is None),
                read,
                encoder=each,
                labels=wanted,
                on_progress=on_progress,
            )
            for each in encoders
        ]
    _finish(reports, seed, json=json, plot=plot, output=output)


@app.command("searches")
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
    from mmembed.evaluation.reindexed import evaluate_encoders
    from mmembed.evaluation.searches import evaluate_searches

    names = collections or ["images"]
    if len(names) > 1 and compare is not None:
        raise typer.BadParameter("indexes one collection anew: name one with --in", param_hint="--compare")
    if len(set(names)) < len(names):
        raise typer.BadParameter(f"{names[0]!r} cannot be compared with itself", param_hint="--in")
    measures = _measures(measure)
    read = _read_log(log.expanduser())
    run = _run(device, dtype, None, trust_remote_code)
    opened = o.open_asked_store(store, api_key, grpc, to_read=True)
    try:
        with e.eval_progress() as on_progress:
            if compare is not None:
                encoders = e.asked_encoders(encoder, compare, "tiny", run)
                reports = evaluate_encoders(
                    opened, names[0], read, encoders, query_task=task, measures=measures, on_progress=on_progress
                )
            else:
                given = o.load_asked_encoder(encoder, run) if encoder is not None else None
                reports = [
                    evaluate_searches(
                        opened,
                        name,
                        read,
                        encoder=given,
                        query_task=task,
                        measures=measures,
                        run=run,
                        on_progress=on_progress,
                    )
                    for name in names
                ]
    finally:
        opened.close()
    _finish(reports, seed, json=json, plot=plot, output=output)


@app.command("runs")
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
    from mmembed.evaluation.run_files import evaluate_run_files

    report = evaluate_run_files(qrels.expanduser(), [run.expanduser() for run in runs], measures=_measures(measure))
    e.show_reports([("runs", replace(report, seed=seed))], as_json=json, plot=plot, output=output)


def _run(device: str | None, dtype: str | None, batch_size: int | None, trust_remote_code: bool) -> LoadOptions:
    from mmembed.types import LoadOptions

    return LoadOptions(device=device, dtype=dtype, batch_size=batch_size, trust_remote_code=trust_remote_code)


def _measures(asked: list[str] | None, default: tuple[str, ...] | None = None) -> tuple[str, ...]:
    """As they are written. Raises SettingsError for those that there are not, before anything is encoded."""
    from mmembed.evaluation.measures import MEASURES, parse_measures

    return parse_measures(asked or default or MEASURES)


def _read_log(file: Path) -> SearchLog:
    from mmembed.evaluation.layouts import read_test_set
    from mmembed.evaluation.search_log import log_of, read_searches

    return log_of(read_test_set(file)) if file.is_dir() else read_searches(file)


def _finish(reports: list[Report], seed: int, *, json: bool, plot: Path | None, output: Path | None) -> None:
    from mmembed.evaluation.compare import compare

    e.show_reports([("report", replace(compare(reports), seed=seed))], as_json=json, plot=plot, output=output)
