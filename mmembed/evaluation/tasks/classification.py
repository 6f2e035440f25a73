"""Zero-shot classification of a folder of pictures, one sub-folder a class, as papers on CLIP report it.

acc1 and acc5 are the shares of pictures whose class has the highest score, or one of the five highest;
mean_per_class_recall is the acc1 of each class, averaged over the classes.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mmembed.classification.classes import Classes, embed_classes
from mmembed.classification.labels import Label, Labels
from mmembed.classification.measures import accuracy_at
from mmembed.classification.scoring import score
from mmembed.collection import Collection
from mmembed.errors import InvalidLabels, InvalidSample
from mmembed.evaluation.comparison import facts_of
from mmembed.evaluation.corpus_index import IndexedCorpus, OnStep, index_images
from mmembed.evaluation.formats.lines import a_few
from mmembed.evaluation.measures import Scores
from mmembed.evaluation.report import Report, System
from mmembed.sources.labelled import LabelledImage
from mmembed.types import Encoder, Leg, Store, StoreQuery

_DEEPEST = 10_000  # pictures that the search of one label gives

Matrix = npt.NDArray[np.float32]


def evaluate_classes(
    store: Store,
    collection: str,
    images: Sequence[LabelledImage],
    *,
    encoder: Encoder,
    labels: Labels | None = None,
    on_progress: OnStep | None = None,
) -> Report:
    """Give each picture the class of the highest score, and see how often it is the folder that it lies in.

    Exact: cosines of the stored vectors and the class embeddings. As it is: each class is searched for in the
    collection, and a picture gets the class whose search gave it the highest score; one that no search finds is wrong.

    Args:
        labels: texts and templates of the classes, by the names of their folders, and possibly of further classes;
            None: the names themselves.

    Raises:
        InvalidSample: fewer than two classes.
        InvalidLabels: a folder that `labels` lacks, or labels that the encoder cannot tell apart.
        UnsupportedModality and what `index_corpus` raises.
    """
    named = sorted({image.label for image in images if image.label is not None})
    if len(named) < 2:
        raise InvalidSample(
            f"there {'is one class' if named else 'are no classes'} ({', '.join(named) or 'no folder'}), and which of "
            f"one it is needs no encoder: make a folder for each of two classes or more"
        )
    labels = labels or Labels(tuple(Label(name) for name in named))
    unnamed = [folder for folder in named if folder not in labels.names]
    if unnamed:
        raise InvalidLabels(
            f"the folder {unnamed[0]!r} is none of the {len(labels.names):,} labels: name labels as the folders are"
        )
    classes = embed_classes(encoder, labels)
    of_five = ("acc5",) if len(classes.names) >= 5 else ()  # among fewer every picture would be among the best five
    measures = ("acc1", *of_five, "mean_per_class_recall")
    files = {str(image.path): image for image in images if image.label is not None}
    where = Collection(store, collection)
    paths = {uri: image.path for uri, image in files.items()}
    indexed = index_images(where, paths, encoder=encoder, on_progress=on_progress)
    stored = indexed.vectors()
    uris, vectors = list(stored), np.stack([np.asarray(vector, dtype=np.float32) for vector in stored.values()])
    truth = np.array([classes.names.index(str(files[uri].label)) for uri in uris])
    exact = score(classes, vectors)[:, : len(classes.names)]
    as_is = _searched(indexed, classes, uris, on_progress)
    judged, searched = (_judged(scores, truth, uris, classes.names, measures) for scores in (exact, as_is))
    return Report(
        task=f"zero-shot classification into {len(classes.names):,} classes",
        systems=(System(encoder.spec.name, judged, searched),),
        measures=measures,
        queries=len(uris),
        documents=len(classes.names),
        warnings=(*indexed.warnings, *_lost(images, as_is)),
        facts=facts_of(encoder, where) | {"classes": list(classes.names), "templates": list(classes.labels.templates)},
        counted=("pictures", "classes"),
    )


def read_class_texts(file: str | Path, names: Sequence[str], *, templates: tuple[str, ...]) -> Labels:
    """What the classes called `names` are in words.

    The file is JSON, {"t_shirt": "T-shirt", "hat": ["hat", "cap"]}, or CSV with the columns `folder` and `text`, where
    a folder that comes again has several texts. Classes that it does not name keep their name.

    Raises InvalidLabels where it is neither, or names a folder that does not exist.
    """
    file = Path(file).expanduser()
    try:
        text = file.read_text(encoding="utf-8-sig")
        texts = _csv_texts(text) if file.suffix.lower() == ".csv" else _json_texts(text)
    except OSError as exc:
        raise InvalidLabels(f"{file.name}: cannot be read ({exc.strerror}): name a file of labels") from exc
    except (ValueError, csv.Error) as exc:
        raise InvalidLabels(f'{file.name}: is not {{"folder": "text"}} or a CSV of folder,text ({exc})') from exc
    strangers = sorted(texts.keys() - set(names))
    if strangers:
        raise InvalidLabels(
            f"{file.name}: names {strangers[0]!r}, and there is no such folder, only {a_few(names, 5)}: write the "
            f"names of the folders"
        )
    return Labels(tuple(Label(name, tuple(texts.get(name, ()))) for name in names), templates)


def _json_texts(text: str) -> dict[str, list[str]]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError(f"it holds a {type(value).__name__}")
    lists = {name: [texts] if isinstance(texts, str) else texts for name, texts in value.items()}
    for name, texts in lists.items():
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"{name!r} has no text")
    return lists


def _csv_texts(text: str) -> dict[str, list[str]]:
    reader = csv.DictReader(io.StringIO(text), strict=True)
    if not {"folder", "text"} <= set(reader.fieldnames or ()):
        raise ValueError(f"its columns are {', '.join(reader.fieldnames or ())}")
    texts: dict[str, list[str]] = {}
    for row in reader:
        if not row["folder"] or not row["text"]:
            raise ValueError(f"line {reader.line_num} has an empty cell")
        texts.setdefault(row["folder"], []).append(row["text"])
    return texts


def _searched(indexed: IndexedCorpus, classes: Classes, uris: Sequence[str], on_progress: OnStep | None) -> Matrix:
    """`(n, m)` scores as searches for the classes give them; -inf where a picture is not found."""
    row_of = {uri: row for row, uri in enumerate(uris)}
    scores = np.full((len(uris), len(classes.names)), -np.inf, dtype=np.float32)
    store, collection = indexed.collection.store, indexed.collection.name
    limit = min(store.count(collection), _DEEPEST)
    for column, name in enumerate(classes.names):
        leg = Leg(indexed.vector_name, classes.embeddings[column])
        for hit in store.query(collection, StoreQuery([leg], limit=limit)):
            for uri in indexed.documents.get(hit.id, ()):
                scores[row_of[uri], column] = hit.score
        if on_progress is not None:
            on_progress(f"searches, {name}", column + 1, len(classes.names))
    return scores


def _judged(
    scores: Matrix, truth: npt.NDArray[np.integer], uris: Sequence[str], names: Sequence[str], measures: Sequence[str]
) -> Scores:
    """acc by picture, recall by class. A picture that the search for its class did not find is wrong."""
    found = np.isfinite(scores[np.arange(len(truth)), truth])
    per_query: dict[str, Mapping[str, float]] = {}
    for measure in measures:
        correct = accuracy_at(scores, truth, 5 if measure == "acc5" else 1) * found
        if measure == "mean_per_class_recall":
            per_query[measure] = {names[c]: float(correct[truth == c].mean()) for c in np.unique(truth)}
        else:
            per_query[measure] = dict(zip(uris, correct.tolist(), strict=True))
    return Scores(per_query)


def _lost(images: Sequence[LabelledImage], scores: Matrix) -> Iterator[str]:
    if negatives := sum(image.label is None for image in images):
        yield f"{negatives:,} pictures of no class were left out: accuracy is about classes"
    if unfound := int((~np.isfinite(scores)).all(axis=1).sum()):
        yield f"{unfound:,} pictures are found by the search for no class, and count as wrong there"
