"""`mmembed eval`: how good is this on my own pictures, texts and searches?"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from mmembed.cli import evaluate_options as e
from mmembed.cli import options as o
from mmembed.cli.evaluate_searches import eval_runs, eval_searches

app = typer.Typer(no_args_is_help=True, help="Measure retrieval, classification and searches, with intervals.")
app.command("searches")(eval_searches)
app.command("runs")(eval_runs)


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
    from mmembed.evaluation.formats.captions import read_captions
    from mmembed.evaluation.tasks.image_text import IMAGE_TEXT_MEASURES, compare_both_ways, evaluate_captions

    measures = e.asked_measures(measure, IMAGE_TEXT_MEASURES)
    read = read_captions(captions, pictures=pictures)
    encoders = e.asked_encoders(encoder, compare, "tiny", e.asked_pool(device, dtype, batch_size, trust_remote_code))
    with e.opened_place(context, store, collection, api_key, grpc) as opened, e.eval_progress() as on_progress:
        results = [
            evaluate_captions(
                opened,
                e.collection_name(collection, read.name, captions, each, alone=compare is None),
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
    from mmembed.evaluation.formats import read_test_set
    from mmembed.evaluation.tasks.passages import evaluate_passages
    from mmembed.evaluation.tasks.retrieval import evaluate_retrieval

    measures = e.asked_measures(measure)
    test_set = read_test_set(folder.expanduser(), split=split)
    pictures = [entry.image for some in (test_set.corpus, test_set.queries) for entry in some.values() if entry.image]
    default = "tiny" if pictures else "minilm"
    encoders = e.asked_encoders(encoder, compare, default, e.asked_pool(device, dtype, batch_size, trust_remote_code))
    evaluate = evaluate_passages if passages else evaluate_retrieval
    name = f"{test_set.name}-passages" if passages else test_set.name
    with e.opened_place(context, store, collection, api_key, grpc) as opened, e.eval_progress() as on_progress:
        reports = [
            evaluate(
                opened,
                e.collection_name(collection, name, folder, each, alone=compare is None),
                test_set,
                encoder=each,
                task=task,
                measures=measures,
                on_progress=on_progress,
            )
            for each in encoders
        ]
    e.finish(reports, seed, json=json, plot=plot, output=output)


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
    from mmembed.cli.label_options import asked_labels
    from mmembed.evaluation.tasks.classification import evaluate_classes, read_class_texts
    from mmembed.sources.labelled import read_class_folders

    read = read_class_folders(folder.expanduser())
    names = sorted({picture.label for picture in read if picture.label is not None})
    wanted = asked_labels(names, templates, None)
    if labels is not None:
        wanted = read_class_texts(labels, names, templates=wanted.templates)
    encoders = e.asked_encoders(encoder, compare, "tiny", e.asked_pool(device, dtype, batch_size, trust_remote_code))
    with e.opened_place(context, store, collection, api_key, grpc) as opened, e.eval_progress() as on_progress:
        reports = [
            evaluate_classes(
                opened,
                e.collection_name(collection, folder.resolve().name, folder, each, alone=compare is None),
                read,
                encoder=each,
                labels=wanted,
                on_progress=on_progress,
            )
            for each in encoders
        ]
    e.finish(reports, seed, json=json, plot=plot, output=output)
