"""What is asked: `Search`, which every function below the verb takes, and the kinds of things that it may hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from mmembed.collection import Collection
from mmembed.collection.contract import check_fingerprint
from mmembed.errors import InvalidQuery
from mmembed.types import Contract, Encoder, Reranker

if TYPE_CHECKING:
    from qdrant_client.models import Filter

ImageQuery: TypeAlias = Path | bytes | Image.Image
"""A picture: a file, the bytes of one, or one already decoded."""

Strategy: TypeAlias = Literal["average_vector", "best_score", "sum_scores"]
"""How examples are weighed: Qdrant's recommendation."""

PART_WEIGHTS = {"text": 1.0, "image": 1.0, "minus": 0.5}
GROUP_SIZE = 3
MAX_CANDIDATES = 4096  # how deep a search looks for enough different documents or groups


@dataclass(frozen=True)
class PointId:
    """A stored point as an example: `positive=[PointId(hit.id)]` finds what is like a hit."""

    id: str


Example: TypeAlias = str | ImageQuery | PointId
"""A text, an image or a stored point."""


@dataclass(frozen=True, kw_only=True)
class Search:
    """One search; `mmembed.search` takes each of these fields as a keyword.

    Ask with `text`, `image`, both of them, `vector`, the `id` of a stored point, or examples. Of a document
    only the best passage is a hit, unless `all_passages`.

    Between a text and pictures each hit has a probability where the encoder has a scale: with SigLIP
    its own, with CLIP a softmax over the 100 best hits (or all that were asked for, if more). In the order of `late`
    or of a reranker none has.

    >>> search_several(store, ["images", "documents"], Search(text="a cat at night", limit=5))

    Args:
        weights: of the parts of a mixed query: {"text": 1, "image": 1, "minus": 0.5} by default.
        minus: what the hits should not show, one by one: a str is a text; a Path, bytes or Image is a picture.
        positive, negative: examples that are liked and disliked: texts, images, and stored points (`PointId(id)`),
            which are no hits themselves. They are a way to ask of their own: a text beside them goes into `positive`.
            Documents are compared by `cross` if an image is among them, else by `text`.
        strategy: what examples are for, as in Qdrant: `average_vector` searches by 2 * mean(positive) -
            mean(negative); `best_score` by the nearest example, below zero where that is a negative one; `sum_scores`
            by the sum of the scores, those of negative ones subtracted. The latter two take negative ones alone.
        vector_name: search by this vector alone, instead of by the one the query calls for.
        task: named task or instruction, for encoders that take one.
        score_threshold: lowest score of a hit. A fused score means nothing, so this searches by one vector.
        exact: compare with every vector instead of walking the search graph.
        late: let the vector `late` of the collection, where it has one, order the candidates of a text: their
            scores are then sums of cosines, those of the hits beyond the candidates what they are without it.
        rerank: `load_reranker(name)`: it reads the text beside the best `candidates` hits, whose scores are then its
            own. Pictures are read from their files again; one that cannot be comes after those that can.
        candidates: how many of each ranking `late` compares, and how many hits `rerank` reads or `diversity` orders.
        diversity: 0 to 1: how much it counts that a hit is unlike those before it (MMR, Qdrant's `Mmr`). The best
            `candidates` hits are put in that order by the first dense vector that was searched by, their scores stay
            what they were, and the others follow. Not with `rerank`, nor without a dense vector.
        group_by: payload key of texts or integers. `limit` and `offset` then count its values, and the hits come group
            by group, that of the best hit first; each says its group. A hit with a list of values is in several.
            Where several rankings are fused, or hits reordered, groups are of the best 4,096.
        group_size: hits of each group at most; of a document one in each group, unless `all_passages`.
    """

    text: str | None = None
    image: ImageQuery | None = None
    vector: Sequence[float] | npt.NDArray[np.floating[Any]] | None = None
    id: str | None = None
    weights: Mapping[str, float] | None = None
    minus: Sequence[str | ImageQuery] = ()
    positive: Sequence[Example] = ()
    negative: Sequence[Example] = ()
    strategy: Strategy = "average_vector"
    vector_name: str | None = None
    task: str | None = None
    filter: Filter | None = None
    limit: int = 10
    offset: int = 0
    score_threshold: float | None = None
    all_passages: bool = False
    exact: bool = False
    late: bool = True
    rerank: Reranker | None = None
    candidates: int = 100
    diversity: float | None = None
    group_by: str | None = None
    group_size: int = GROUP_SIZE

    @property
    def parts(self) -> Mapping[str, bool]:
        """Which parts of a mixed query there are."""
        return {"text": self.text is not None, "image": self.image is not None, "minus": bool(self.minus)}

    @property
    def examples(self) -> tuple[Example, ...]:
        """All of them, those that are liked first."""
        return (*self.positive, *self.negative)

    @property
    def texts(self) -> list[str]:
        """Every text in it."""
        some = (self.text, *self.minus, *self.examples)
        return [part for part in some if isinstance(part, str)]

    @property
    def images(self) -> list[ImageQuery]:
        """Everything in it that is there as an image."""
        some: list[Example] = [*self.minus, *self.examples]
        images = [part for part in some if not isinstance(part, str | PointId)]
        return images if self.image is None else [self.image, *images]

    @property
    def point_ids(self) -> list[str]:
        """The stored points that it asks with: they are no hits."""
        ids = [part.id for part in self.examples if isinstance(part, PointId)]
        return ids if self.id is None else [self.id, *ids]

    @property
    def is_one_text(self) -> bool:
        return self.text is not None and self.image is None and not self.minus and not self.examples

    def weight(self, part: str) -> float:
        """Of a part of a mixed query, `text`, `image` or `minus`."""
        return (self.weights or {}).get(part, PART_WEIGHTS[part])


@dataclass(frozen=True)
class BoundSearch:
    """A search bound to its collection and to the encoders that there are for it."""

    collection: Collection
    contract: Contract | None  # None: the collection is not ours
    search: Search
    given: Encoder | None  # by the caller
    encoders: Mapping[str, Encoder]  # by the names that collections remember

    def encoder(self, vector: str) -> Encoder:
        """What queries for a vector are encoded with. Raises InvalidQuery, or CollectionMismatch for another one."""
        if self.contract is None and self.given is None:
            raise InvalidQuery(
                f"collection {self.collection.name!r} was not made by mmembed and does not say which encoder made its "
                f"vectors: name it with `encoder=`, and the vector with `vector_name=`"
            )
        if self.given is None:
            return self.collection.encoder(vector, self.encoders)
        if self.contract is not None:
            check_fingerprint(self.collection.name, vector, self.contract.vectors[vector], self.given)
        return self.given

    @property
    def by_document(self) -> bool:
        """Whether of a document only the best passage is a hit."""
        return self.contract is not None and self.contract.kind == "documents" and not self.search.all_passages
