"""Small text checkpoints, laid out as on the hub: real classes, real configs, random weights, real tokenizers.

The weights are drawn wide (0.3, not the usual 0.02) and the decoders are four layers deep: with the usual
ones every token's hidden state is nearly the same, and a wrong pooling would pass unseen.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertModel,
    Gemma3TextConfig,
    Gemma3TextModel,
    MistralConfig,
    MistralModel,
    PreTrainedModel,
    Qwen3Config,
    Qwen3Model,
)

TEXTS = [
    "how much protein should a female eat",
    "As a general guideline, the average requirement of protein for women is 46 grams per day.",
    "a",
    "",
    "summit define",
    "two parrots on a branch, seen from below against the light of an early morning",
]

_CORPUS = [
    *TEXTS,
    "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery: ",
    "the quick brown fox jumps over the lazy dog; pack my box with five dozen liquor jugs. 0123456789 '!?-",
]


def build_e5_mistral(folder: Path, *, vocabulary: Path | None = None) -> Path:
    """An E5-Mistral as on the hub: tokenizer.json frames `<s> $A`, tokenizer_config.json asks for both tokens.

    `vocabulary`: a sentencepiece model to take instead of a small trained one.
    """
    folder.mkdir(parents=True)
    if vocabulary is None:
        tokenizer = _metaspace_bpe(["<unk>", "<s>", "</s>"])
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
        tokenizer.save(str(folder / "tokenizer.json"))
        size = tokenizer.get_vocab_size()
    else:
        (folder / "tokenizer.model").write_bytes(vocabulary.read_bytes())
        size = 32000
    _write(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "LlamaTokenizer",
            "add_bos_token": True,
            "add_eos_token": True,
            "bos_token": "<s>",
            "eos_token": "</s>",
            "pad_token": "</s>",
            "unk_token": "<unk>",
            "model_max_length": 4096,
        },
    )
    config = MistralConfig(
        vocab_size=size,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=8192,
        initializer_range=0.3,
        pad_token_id=2,
        bos_token_id=1,
        eos_token_id=2,
    )
    _save_weights(folder, MistralModel, config)
    _write_modules(folder, "lasttoken", 64)
    return folder


def build_qwen3(folder: Path) -> Path:
    """A Qwen3-Embedding as on the hub: its tokenizer.json itself appends `<|endoftext|>`, its eos is another."""
    folder.mkdir(parents=True)
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <|endoftext|>", special_tokens=[("<|endoftext|>", 0)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    _write(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "Qwen2Tokenizer",
            "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>",
            "model_max_length": 32768,
        },
    )
    config = Qwen3Config(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=8192,
        initializer_range=0.3,
        eos_token_id=0,  # and no pad_token_id, as published: its row of the embedding would start as zeros
    )
    _save_weights(folder, Qwen3Model, config)
    return folder


def build_gemma3(folder: Path) -> Path:
    """A harrier-270m: Gemma 3 text layers, a tokenizer that opens with `<bos>` and closes with `<eos>`."""
    folder.mkdir(parents=True)
    tokenizer = _metaspace_bpe(["<pad>", "<eos>", "<bos>", "<unk>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", 2), ("<eos>", 1)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}
    _write(folder / "tokenizer_config.json", {"tokenizer_class": "GemmaTokenizer", "model_max_length": 32768, **names})
    config = Gemma3TextConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        query_pre_attn_scalar=16,
        sliding_window=16,
        max_position_embeddings=8192,
        initializer_range=0.3,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=1,
    )
    _save_weights(folder, Gemma3TextModel, config)
    return folder


def build_bert(folder: Path, *, pooling: str, prompts: dict[str, str] | None = None) -> Path:
    """A sentence-transformers BERT of 32 dimensions that pools by "mean" or "cls"."""
    folder.mkdir(parents=True)
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    normalizer, splitter = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    found = {word for text in _CORPUS for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text))}
    letters = sorted({letter for word in found for letter in word})
    # Written out, because a trained WordPiece vocabulary is another one in every process.
    vocabulary = [*specials, *letters, *(f"##{letter}" for letter in letters), *sorted(found - set(letters))]
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(vocabulary)}, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, splitter
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.save(str(folder / "tokenizer.json"))
    words = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    (folder / "vocab.txt").write_text("\n".join(word for word, _ in words), "utf-8")
    _write(folder / "tokenizer_config.json", {"tokenizer_class": "BertTokenizer", "model_max_length": 128})
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=128,
        initializer_range=0.3,
    )
    _save_weights(folder, BertModel, config)
    _write_modules(folder, pooling, 32)
    _write(folder / "sentence_bert_config.json", {"max_seq_length": 64, "do_lower_case": False})
    if prompts is not None:
        _write(folder / "config_sentence_transformers.json", {"prompts": prompts, "default_prompt_name": None})
    return folder


def _metaspace_bpe(specials: list[str]) -> Tokenizer:
    """A byte-fallback BPE on ▁-words, as Mistral's and Gemma's are, with `specials` as its first ids."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trained.train_from_iterator(_CORPUS, trainers.BpeTrainer(vocab_size=300, show_progress=False))
    learned = json.loads(trained.to_str())["model"]
    words = [*specials, *(f"<0x{byte:02X}>" for byte in range(256)), *learned["vocab"]]
    tokenizer = Tokenizer(
        models.BPE(
            vocab={word: i for i, word in enumerate(words)},
            merges=[(left, right) for left, right in learned["merges"]],
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(specials)
    return tokenizer


def _save_weights(folder: Path, architecture: type[PreTrainedModel], config: object) -> None:
    state = torch.random.get_rng_state()
    torch.manual_seed(7)
    architecture(config).eval().save_pretrained(folder)
    torch.random.set_rng_state(state)


def _write_modules(folder: Path, pooling: str, dim: int) -> None:
    parts = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    listing = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(parts)
    ]
    _write(folder / "modules.json", listing)
    (folder / "1_Pooling").mkdir()
    modes = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")
    chosen = {"cls": "cls_token", "mean": "mean_tokens", "lasttoken": "lasttoken"}[pooling]
    flags = {f"pooling_mode_{mode}": mode == chosen for mode in modes}
    _write(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": dim, "include_prompt": True, **flags})


def _write(file: Path, content: object) -> None:
    file.write_text(json.dumps(content), "utf-8")
