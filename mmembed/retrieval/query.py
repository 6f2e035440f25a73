"""What is asked: `Search`, which every function below the verb takes, and the kinds of things that it may hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from mmembed.types import Reranker

if TYPE_CHECKING:
    from qdrant_client.models import Filter

__all__ = ["GROUP_SIZE", "MAX_CANDIDATES", "WEIGHTS", "Example", "ImageQuery", "PointId", "Search", "Strategy"]

ImageQuery: TypeAlias = Path | bytes | Image.Image
"""A picture: a file, the bytes of one, or one already decoded."""

Strategy: TypeAlias = Literal["average_vector", "best_score", "sum_scores"]
"""How examples are weighed: Qdrant's recommendation."""

WEIGHTS = {"text": 1.0, "image": 1.0, "minus": 0.5}
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
    """One search. `mmembed.search` takes each of these fields as a keyword, and says there what they mean.

    >>> search_several(store, ["images", "documents"], Search(text="a cat at night", limit=5))
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
        return (self.weights or {}).get(part, WEIGHTS[part])
