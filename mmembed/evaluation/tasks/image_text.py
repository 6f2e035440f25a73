"""Image-text retrieval both ways: captions ask for their picture, pictures for their captions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from mmembed.collection import Collection
from mmembed.errors import UnsupportedModality
from mmembed.evaluation.comparison import compare
from mmembed.evaluation.corpus_index import OnStep, encode_inputs, index_corpus
from mmembed.evaluation.formats.captions import Captions
from mmembed.evaluation.report import Report
from mmembed.evaluation.tasks.retrieval import measure_indexed
from mmembed.evaluation.testset import CorpusDocument, Query, TestSet
from mmembed.types import Encoder, Store

IMAGE_TEXT_MEASURES = ("hit_rate@1", "hit_rate@5", "hit_rate@10", "nDCG@10", "recall@1", "recall@5", "recall@10")
"""Those of the papers first: what they print as R@k is hit_rate@k."""

_PROBED = 8  # captions


@dataclass(frozen=True)
class BothWays:
    """The two tasks that a captions file makes."""

    text_to_image: Report
    image_to_text: Report


def caption_sets(captions: Captions) -> tuple[TestSet, TestSet]:
    """Text to image: each caption is a query, and its picture relevant. Image to text: the other way round.

    Pictures are called by their paths, the n-th caption of a file by `caption-n`.
    """
    pairs = [(str(image.path), caption) for image in captions.images for caption in image.captions]
    texts = {f"caption-{number}": text for number, (_, text) in enumerate(pairs, 1)}
    of_image: dict[str, dict[str, int]] = {}
    for id, (path, _) in zip(texts, pairs, strict=True):
        of_image.setdefault(path, {})[id] = 1
    to_image = TestSet(
        {id: Query(text) for id, text in texts.items()},
        {str(image.path): CorpusDocument(image=image.path) for image in captions.images},
        {id: {path: 1} for id, (path, _) in zip(texts, pairs, strict=True)},
        captions.name,
        captions.warnings,
    )
    to_text = TestSet(
        {str(image.path): Query(image=image.path) for image in captions.images},
        {id: CorpusDocument(text=text) for id, text in texts.items()},
        of_image,
        captions.name,
        captions.warnings,
    )
    return to_image, to_text


def evaluate_captions(
    store: Store,
    collection: str,
    captions: Captions,
    *,
    encoder: Encoder,
    task: str | None = None,
    measures: Sequence[str] = IMAGE_TEXT_MEASURES,
    on_progress: OnStep | None = None,
) -> BothWays:
    """Pictures in `collection`, captions in `COLLECTION-captions`; both kept, and taken up again by the next run.

    A picture is encoded once: as a query it is its stored vector. A caption is encoded once where the encoder makes
    the same of a text whether it asks or is found, as CLIP and SigLIP do.

    Raises UnsupportedModality for an encoder without both towers, and what `index_corpus` raises.
    """
    if not {"image", "text"} <= encoder.spec.modalities or encoder.spec.kind != "dense":
        lacks = "pictures and texts" if encoder.spec.kind == "dense" else "pictures and texts as dense vectors"
        raise UnsupportedModality(encoder.spec.name, lacks, encoder.spec.modalities)
    to_image, to_text = caption_sets(captions)
    images = index_corpus(Collection(store, collection), to_image.corpus, encoder=encoder, on_progress=on_progress)
    beside = Collection(store, f"{collection}-captions")
    texts = index_corpus(beside, to_text.corpus, encoder=encoder, on_progress=on_progress)
    if task is None and _same_in_both_roles(encoder, to_image):
        queries = texts.vectors()
    else:
        queries = encode_inputs(encoder, to_image.judged, [], role="query", task=task)
    measure = partial(measure_indexed, encoder=encoder, measures=measures, on_progress=on_progress)
    return BothWays(
        measure(images, to_image, queries, task=f"text to image, {captions.name}"),
        measure(texts, to_text, images.vectors(), task=f"image to text, {captions.name}"),
    )


def compare_both_ways(results: Sequence[BothWays]) -> BothWays:
    """The same captions by several encoders -> one result that compares them, each way."""
    return BothWays(
        compare([result.text_to_image for result in results]), compare([result.image_to_text for result in results])
    )


def _same_in_both_roles(encoder: Encoder, test_set: TestSet) -> bool:
    """Whether this encoder does without a prompt for queries or documents: a prompt would change every vector."""
    texts = [query.text or "" for query in list(test_set.queries.values())[:_PROBED]]
    asking, found = (np.asarray(encoder.encode_text(texts, role=role)) for role in ("query", "document"))
    return bool(np.array_equal(asking, found))
