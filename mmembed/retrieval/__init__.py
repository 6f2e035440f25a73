"""Four kinds of search. The encoder is the one that the collection remembers.

| asked with | images collection | documents collection |
|---|---|---|
| text | text-to-image: `image`, with captions if most have one | text-to-text: `text` fused with `bm25` and `sparse` |
| a picture | image-to-image: `image` | image-to-text: `cross` |
| both, or less something | their weighted sum in the shared space | the same, by `cross` (texts alone: `text`) |

Where most points have `late`, a multivector that keeps every token apart, the best candidates of a text are put in
its order; a reranker, which reads text and candidate together, may reorder the best once more. A vector that fewer
than four points in five have (captions, or one that was added and not yet made for all) takes no part.
"""

from mmembed.retrieval.api import Several, search, search_several
from mmembed.retrieval.query import ImageQuery

__all__ = ["ImageQuery", "Several", "search", "search_several"]
