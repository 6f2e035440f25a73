"""Small BGE-M3 and SPLADE checkpoints, laid out as on the hub: real classes, random weights.

They are drawn at 0.1: at the usual 0.02 the first tokens of all texts are alike, at 0.3 all tokens of one text, and
either would hide a wrong pooling.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from checkpoints_text import TEXTS, build_bert
from safetensors.torch import save_file
from sentence_transformers import SparseEncoder
from sentence_transformers.base.modules import Router, Transformer
from sentence_transformers.sparse_encoder.modules import SparseStaticEmbedding, SpladePooling
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import BertConfig, BertForMaskedLM, XLMRobertaConfig, XLMRobertaModel

DOCUMENTS = [
    "two parrots on a branch",
    "how much protein should a female eat",
    "the average requirement of protein for women is 46 grams per day",
    "a",
    "light of an early morning, seen from below",
]

_SPREAD = 0.1
_WORDS = sorted({word for text in [*TEXTS, *DOCUMENTS] for word in text.split()})
_SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]  # ids 0 to 3, as XLM-RoBERTa has them
_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,;:!?'-<>/|"


def build_bge_m3(folder: Path, *, safe_heads: bool = False, colbert_dim: int = 48, max_length: int = 64) -> Path:
    """A BGE-M3 of 64 dimensions: XLM-RoBERTa of four layers, sparse_linear.pt and colbert_linear.pt beside it."""
    folder.mkdir(parents=True)
    _xlm_roberta_tokenizer(folder)
    config = XLMRobertaConfig(
        vocab_size=len(_vocabulary()),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=max_length + 2,  # positions start at 2, behind that of the padding
        type_vocab_size=1,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
        initializer_range=_SPREAD,
    )
    with torch.random.fork_rng():
        torch.manual_seed(7)
        XLMRobertaModel(config).eval().save_pretrained(folder)
        for stem, rows in (("sparse_linear", 1), ("colbert_linear", colbert_dim)):
            state = {"weight": torch.randn(rows, 64) / 4, "bias": torch.full((rows,), 1.0)}
            if safe_heads:
                save_file(state, folder / f"{stem}.safetensors")
            else:
                torch.save(state, folder / f"{stem}.pt")
    return folder


def build_masked_bert(folder: Path) -> Path:
    """A bare BertForMaskedLM with its tokenizer, as SPLADE checkpoints were first published; 64 tokens."""
    build_bert(folder, pooling="mean")
    (folder / "modules.json").unlink()
    (folder / "model.safetensors").unlink()
    with torch.random.fork_rng():
        torch.manual_seed(7)
        config = BertConfig.from_pretrained(folder, initializer_range=_SPREAD)
        BertForMaskedLM(config).eval().save_pretrained(folder)
    return folder


def build_splade(folder: Path, *, prompts: dict[str, str] | None = None, similarity: str = "dot") -> Path:
    """A saved SparseEncoder of one masked language model for both sides, like naver/splade-v3."""
    reader = Transformer(str(build_masked_bert(folder / "masked")), transformer_task="fill-mask")
    model = SparseEncoder(
        modules=[reader, SpladePooling("max")], device="cpu", prompts=prompts, similarity_fn_name=similarity
    )
    model.save_pretrained(str(folder / "model"))
    return folder / "model"


def build_inference_free(folder: Path, *, table_seed: int = 3) -> Path:
    """A saved SparseEncoder with a table of word weights for queries, like OpenSearch's doc-v3: log1p twice."""
    reader = Transformer(str(build_masked_bert(folder / "masked")), transformer_task="fill-mask")
    generator = torch.Generator().manual_seed(table_seed)
    table = SparseStaticEmbedding(reader.tokenizer, weight=torch.rand(len(reader.tokenizer), generator=generator))
    pooling = SpladePooling("max", activation_function="log1p_relu")
    router = Router.for_query_document([table], [reader, pooling])
    SparseEncoder(modules=[router], device="cpu").save_pretrained(str(folder / "model"))
    return folder / "model"


def _vocabulary() -> list[tuple[str, float]]:
    pieces = ["▁", *(f"▁{word}" for word in _WORDS), *_LETTERS]
    scored = [(piece, -2.0 - i / 1000) for i, piece in enumerate(dict.fromkeys(pieces))]
    return [*((word, 0.0) for word in _SPECIAL), *scored, ("<mask>", 0.0)]


def _xlm_roberta_tokenizer(folder: Path) -> None:
    tokenizer = Tokenizer(models.Unigram(_vocabulary(), unk_id=3, byte_fallback=False))
    splitter = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), splitter])
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer.add_special_tokens([*_SPECIAL, AddedToken("<mask>", lstrip=True)])
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"bos_token": "<s>", "eos_token": "</s>", "sep_token": "</s>", "cls_token": "<s>", "unk_token": "<unk>"}
    settings = {"tokenizer_class": "XLMRobertaTokenizer", "model_max_length": 8192, "pad_token": "<pad>", **names}
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "mask_token": "<mask>"}), "utf-8")
