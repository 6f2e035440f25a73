"""Several encoders over the same texts: those that read the same hidden states share one forward pass."""

from __future__ import annotations

from collections.abc import Sequence

from mmembed.types import Embeddings, Encoder, JointEncoder, Role

__all__ = ["encode_texts"]


def encode_texts(encoders: Sequence[Encoder], texts: Sequence[str], *, role: Role) -> list[Embeddings]:
    """n strings -> what each encoder makes of them, in the order of `encoders`.

    >>> dense, words, late = encode_texts([bge_m3, bm25, bge_m3_colbert], ["a", "b"], role="document")  # two passes
    """
    made: dict[int, Embeddings] = {}
    for number, encoder in enumerate(encoders):
        if number in made:
            continue
        made[number] = []
        if isinstance(encoder, JointEncoder):
            others = [n for n, other in enumerate(encoders) if n not in made and encoder.shares_forward(other)]
            together = [encoders[n] for n in others]
            rows = encoder.encode_text_jointly(texts, together, role=role)
            made |= dict(zip([number, *others], rows, strict=True))
        else:
            made[number] = encoder.encode_text(texts, role=role)
    return [made[number] for number in range(len(encoders))]
