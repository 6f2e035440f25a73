"""Decoder language models pooled at their last token: E5-Mistral, Qwen3-Embedding, harrier.

One class, one row of data a family. A decoder sees only what came before, so the vector of a text is the
hidden state of its last token; that must be the closing token the model was trained on, which is why the
tokenizer is checked when it is loaded (transformers 5 silently drops it from E5-Mistral's).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial

from mmembed.encoders.checkpoint import find_checkpoint, load_config
from mmembed.encoders.families.decoder_forward import DecoderForward, find_fast_passes
from mmembed.encoders.families.decoder_passes import Prefix
from mmembed.encoders.families.memory import check_finite
from mmembed.encoders.inputs import texts_in
from mmembed.encoders.lora import find_origin
from mmembed.encoders.lora_merge import load_adapted
from mmembed.encoders.prompts import text_prefix
from mmembed.encoders.registry import EncoderName, matryoshka_dims, not_matryoshka, whole_number
from mmembed.encoders.text_encoder import TextEncoder
from mmembed.encoders.tokens import Tokens, load_tokens
from mmembed.types import DenseArray, EncoderSpec, LoadOptions, Role
from mmembed.vectors import truncate

_KNOWN_PREFIXES = 8  # tasks whose prefix is kept read: 2.7 MB each for E5-Mistral
_OPENINGS = ("a", "7")
_TRIED = ("to be: a", "to be: or not", "to be: 7 or 8, it is", "to be: in a word, so it is not to be")


@dataclass(frozen=True)
class DecoderFamily:
    """What tells one family from another."""

    example: str
    model_types: tuple[str, ...]  # of config.json
    query_prompt: str  # documents have none
    context_length: int
    tokenizer_flags: Mapping[str, bool] = field(default_factory=dict)
    first: str | None = None  # the token every text must start with; None: whatever the tokenizer does
    last: str | None = None  # the token every text must end with; None: whatever the tokenizer does
    padding_side: str = "right"
    gpu_dtype: str = "bfloat16"
    matryoshka_dims: tuple[int, ...] = ()  # below the model's own; any between the first and it will do


_QWEN3_DIMS = (32, 64, 128, 256, 512, 1024, 2048)

E5_MISTRAL = DecoderFamily(
    example="e5-mistral:intfloat/e5-mistral-7b-instruct",
    model_types=("mistral",),
    query_prompt="Instruct: {task}\nQuery: ",  # with a space, unlike the others
    context_length=4096,  # the card: "not recommended beyond 4096", though the positions reach 32768
    # Both must be passed: tokenizer_config.json's own are ignored since transformers 5, and one alone drops the other.
    tokenizer_flags={"add_bos_token": True, "add_eos_token": True},
    first="<s>",
    last="</s>",
    gpu_dtype="float16",
)
QWEN3 = DecoderFamily(
    example="qwen3:Qwen/Qwen3-Embedding-0.6B",
    model_types=("qwen3",),
    query_prompt="Instruct: {task}\nQuery:",
    context_length=32768,
    last="<|endoftext|>",
    padding_side="left",
    matryoshka_dims=_QWEN3_DIMS,
)
HARRIER = DecoderFamily(
    example="harrier:microsoft/harrier-oss-v1-270m",
    model_types=("gemma3_text", "qwen3"),
    query_prompt="Instruct: {task}\nQuery:",
    context_length=32768,
)


class DecoderLM(TextEncoder):
    """An `Encoder` of texts; `load_e5_mistral` and its like make one."""

    def __init__(
        self, spec: EncoderSpec, family: DecoderFamily, tokens: Tokens, forward: DecoderForward, *, max_length: int
    ) -> None:
        self.spec = spec
        self.dtype = str(forward.model.dtype).removeprefix("torch.")
        self.batch_size = forward.batch_size
        self._family = family
        self._tokens = tokens
        self._forward = forward
        self._max_length = max_length
        self._prefix_of = lru_cache(maxsize=_KNOWN_PREFIXES)(partial(_read_prefix, tokens, forward, max_length))

    def encode_text(self, texts: Sequence[str], *, role: Role, task: str | None = None) -> DenseArray:
        """n strings -> `(n, dim)`. A query is led by the instruction of `task`; a document is taken as it is.

        Args:
            task: a name of `mmembed.encoders.prompts.known_tasks()` or an instruction; None is a web search, "" none.
                A symmetric task (similarity, clustering, classification) leads documents by the same instruction.
        """
        prefix = text_prefix(self._family.query_prompt, role, task)
        rows = self._tokens.ids([prefix + text for text in texts_in(texts)], limit=self._max_length)
        pooled = self._forward.pool(rows, self._prefix_of(prefix) if prefix and rows else None)
        check_finite(pooled, self.spec.name, self.dtype)
        return truncate(pooled, self.spec.dim or pooled.shape[1])  # in float32: half precision leaves norms off by 1e-3

    def token_ids(self, text: str) -> list[int]:
        """What goes into the model for a document: special tokens included, truncated."""
        return self._tokens.ids([text], limit=self._max_length)[0]

    def count_tokens(self, text: str) -> int:
        """Tokens of a document, special ones included, nothing truncated."""
        return len(self._tokens.ids([text])[0])


def _read_prefix(tokens: Tokens, forward: DecoderForward, limit: int, prefix: str) -> Prefix | None:
    """What texts that start with `prefix` have in common, in tokens.

    Of two whole texts: by itself `prefix` may end in another token, as a text's first word takes in the space.
    """
    return forward.prefix(tokens.ids([prefix + text for text in _OPENINGS], limit=limit))


def _loader(family: DecoderFamily, about: str) -> Callable[..., DecoderLM]:
    def load(
        name: EncoderName,
        run: LoadOptions,
        *,
        revision: str | None = None,
        max_length: str | None = None,
        dim: str | None = None,
        adapter: str | None = None,
    ) -> DecoderLM:
        # 1. Which model, and whether it is of this family.
        named = find_checkpoint(name, revision=revision, example=family.example)
        origin = find_origin(name, named, adapter, own=True)
        checkpoint = origin.base
        config = load_config(checkpoint, family.model_types, family.example, run)
        longest, full = config.max_position_embeddings, config.hidden_size
        usual = min(family.context_length, longest)
        length = whole_number(name, "max_length", max_length, least=8, most=longest) or usual
        dims = matryoshka_dims(family.matryoshka_dims, full)
        if dim is not None and not dims:
            raise not_matryoshka(name)
        width = whole_number(name, "dim", dim, least=min(dims, default=1), most=full) or full
        # 2. Its tokenizer, refused unless it frames texts as in training, and its weights.
        tokens = load_tokens(
            checkpoint,
            flags=family.tokenizer_flags,
            first=family.first,
            last=family.last,
            trust_remote_code=run.trust_remote_code,
        )
        model = load_adapted(origin, run, on_gpu=family.gpu_dtype)
        # 3. What a collection remembers of it, and which forward passes give it the same vectors.
        ingredients = {
            **origin.ingredients(),
            "dim": width,
            "pooling": "last token",
            "query_prompt": family.query_prompt,
            "document_prompt": "",
            "before": tokens.words(tokens.before),
            "after": tokens.words(tokens.after),
        }
        revision, side = origin.revision, family.padding_side
        spec = origin.spec(ingredients, dim=width, matryoshka_dims=dims, context_length=length, revision=revision)
        ways = find_fast_passes(model, tokens.ids(_TRIED), side=side, name=spec.name)
        forward = DecoderForward(spec.name, model, ways, padding_side=side, batch_size=run.batch_size)
        return DecoderLM(spec, family, tokens, forward, max_length=length)

    load.__doc__ = about
    return load


load_e5_mistral = _loader(
    E5_MISTRAL, "E5-Mistral-7B-instruct and models laid out like it (arXiv 2401.00368). For a GPU: 14 GFLOP a token."
)
load_qwen3 = _loader(QWEN3, "Qwen3-Embedding 0.6B, 4B, 8B: Matryoshka from 32 dimensions up.")
load_harrier = _loader(HARRIER, "harrier-oss-v1: 270m on Gemma 3, 0.6b on Qwen3.")
