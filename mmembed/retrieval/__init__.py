"""Four kinds of search. The encoder is the one that the collection remembers.

| asked with | images collection | documents collection |
|---|---|---|
| text | text-to-image: `image`, with captions if most have one | text-to-text: `text` fused with `bm25` and `sparse` |
| an image | image-to-image: `image` | image-to-text: `cross` |
| both, or less something | their weighted sum in the shared space | the same, by `cross` (texts alone: `text`) |
| examples, liked and disliked | `image`, by Qdrant's recommendation | `cross`, or `text` without an image |

Where most points have `late`, a multivector that keeps every token apart, the best candidates of a text are put in
its order; a reranker, which reads text and candidate together, may reorder the best once more. A vector that fewer
than four points in five have (captions, or one that was added and not yet made for all) takes no part.

A search is one frozen `Search` (query.py), and goes one way:

    checks     -> what makes no sense is refused in a sentence
    rankings   -> the vectors that answer it, encoded (encode): one `StoreQuery`
    hits       -> enough different hits, in stable pages; then late, rerank or diversity put the first in another order
    groups     -> or they come group by group
    several    -> the same search of several collections, fused by rank
"""

from mmembed.retrieval.api import search, search_collection
from mmembed.retrieval.query import ImageQuery, PointId, Search
from mmembed.retrieval.several import Several, search_several

__all__ = ["ImageQuery", "PointId", "Search", "Several", "search", "search_collection", "search_several"]
