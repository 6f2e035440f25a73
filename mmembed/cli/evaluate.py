"""`mmembed eval`: how good is this on my own pictures, texts and searches?"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from mmembed.cli import evaluate_options as e
from mmembed.cli import label_options as labelling
from mmembed.cli import options as o
from mmembed.cli.progress import show_steps

eval_app = typer.Typer(no_args_is_help=True, help="Measure retrieval, classification and searches, with intervals.")


@eval_app.command("captions")
@o.shared("measure", "task", *e.ENCODERS, *e.RESULTS, session=e.EvalSession)
def eval_captions(
    session: e.EvalSession,
    context: typer.Context,
    captions: Annotated[Path, typer.Argument(metavar="FILE", help="Captions file, or the folder that has one.")],
    images: Annotated[Path | None, "Folder that names of pictures are relative to."] = None,
) -> None:
    """Image-text retrieval both ways: captions find their picture, pictures find their captions.

    The file is captions.json ({"a.jpg": ["a cat", ...]}), COCO's annotations, or a CSV or JSONL of uri and caption.
    What papers on CLIP print as R@k is hit_rate@k. The encoder is tiny by default.
    """
    from mmembed.evaluation.formats.captions import read_captions
    from mmembed.evaluation.tasks.image_text import IMAGE_TEXT_MEASURES, compare_both_ways, evaluate_captions

    measures = session.measures(IMAGE_TEXT_MEASURES)
    read = read_captions(captions, images=images)
    evaluate = partial(evaluate_captions, captions=read, task=session.task, measures=measures)
    both = compare_both_ways(session.evaluate_each(evaluate, "tiny", read.name, captions, context))
    session.show([("text_to_image", both.text_to_image), ("image_to_text", both.image_to_text)])


@eval_app.command("retrieval")
@o.shared("measure", "task", *e.ENCODERS, *e.RESULTS, session=e.EvalSession)
def eval_retrieval(
    session: e.EvalSession,
    context: typer.Context,
    folder: Annotated[
        Path, typer.Argument(help="Corpus, queries and judgements as BEIR, TREC or Cranfield have them.")
    ],
    split: Annotated[str | None, "test, dev or train, where there are several."] = None,
    passages: Annotated[bool, "Cut texts into passages, search by meaning and words, as an index does."] = False,
) -> None:
    """Retrieval of texts or pictures: one vector a document, title and text joined, as mteb and BEIR have it.

    The encoder is minilm by default, tiny where there are pictures.
    """
    from mmembed.evaluation.formats import read_test_set
    from mmembed.evaluation.tasks.passages import evaluate_passages
    from mmembed.evaluation.tasks.retrieval import evaluate_retrieval

    measures = session.measures()
    test_set = read_test_set(folder.expanduser(), split=split)
    images = [entry.image for some in (test_set.corpus, test_set.queries) for entry in some.values() if entry.image]
    evaluate = partial(
        evaluate_passages if passages else evaluate_retrieval, test_set=test_set, task=session.task, measures=measures
    )
    name = f"{test_set.name}-passages" if passages else test_set.name
    session.finish(session.evaluate_each(evaluate, "tiny" if images else "minilm", name, folder, context))


@eval_app.command("zero-shot")
@o.shared(*e.ENCODERS, *e.RESULTS, session=e.EvalSession)
def eval_zero_shot(
    session: e.EvalSession,
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(help="One sub-folder per class, with its pictures in it.")],
    labels: Annotated[
        Path | None, 'What classes are in words: JSON {"folder": "text"}, or a CSV of folder,text.'
    ] = None,
    templates: labelling.Templates = "simple",
) -> None:
    """Zero-shot classification: acc1, acc5 and mean_per_class_recall of a folder of pictures, one sub-folder per class.

    The encoder is tiny by default.
    """
    from mmembed.evaluation.tasks.classification import evaluate_classes, read_class_texts
    from mmembed.sources.labelled import read_class_folders

    read = read_class_folders(folder.expanduser())
    names = sorted({image.label for image in read if image.label is not None})
    classes = labelling.labels_for(names, templates, None)
    if labels is not None:
        classes = read_class_texts(labels, names, templates=classes.templates)
    evaluate = partial(evaluate_classes, images=read, labels=classes)
    session.finish(session.evaluate_each(evaluate, "tiny", folder.resolve().name, folder, context))


@eval_app.command("searches")
@o.shared("measure", "task", *e.RESULTS, *o.MODELS, *o.STORE, session=e.EvalSession, to_read=True)
def eval_searches(
    session: e.EvalSession,
    log: Annotated[Path, typer.Argument(help="JSONL or CSV of searches with what is relevant, or a BEIR folder.")],
    collections: Annotated[
        list[str] | None, typer.Option("--in", help="Collection to search; two are compared. By default images.")
    ] = None,
    encoder: Annotated[str | None, "Only for a collection that mmembed did not make."] = None,
    compare: Annotated[
        tuple[str, str] | None, "Index the collection's files again with two encoders, for this only, and compare them."
    ] = None,
) -> None:
    """Your own searches: a log with clicks, or a handful of judged queries, asked of a collection as its users ask it.

    A line of JSONL is {"query": "red shoes", "relevant": ["a.jpg", ...]} or {"image": "q.jpg", ...}, "clicked" for
    "relevant", and "filter" a Qdrant filter; columns of a CSV are query, uri and grade.
    """
    from mmembed.evaluation.formats import read_test_set
    from mmembed.evaluation.formats.search_log import log_of, read_searches
    from mmembed.evaluation.tasks.encoders import evaluate_encoders
    from mmembed.evaluation.tasks.searches import evaluate_searches

    names = collections or ["images"]
    if len(names) > 1 and compare is not None:
        raise typer.BadParameter("indexes one collection again: name one with --in", param_hint="--compare")
    if len(set(names)) < len(names):
        raise typer.BadParameter(f"{names[0]!r} cannot be compared with itself", param_hint="--in")
    measures = session.measures()
    file = log.expanduser()
    read = log_of(read_test_set(file)) if file.is_dir() else read_searches(file)
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


@eval_app.command("runs")
@o.shared("measure", *e.RESULTS, session=e.EvalSession)
def eval_runs(
    session: e.EvalSession,
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="TREC run files: topic Q0 document rank score tag.")
    ],
    qrels: Annotated[Path, "TREC judgements: topic 0 document grade."],
) -> None:
    """Rankings made before, by any system: judge them, and compare each pair."""
    from mmembed.evaluation.tasks.run_files import evaluate_run_files

    report = evaluate_run_files(qrels.expanduser(), [run.expanduser() for run in runs], measures=session.measures())
    session.show([("runs", report)])
