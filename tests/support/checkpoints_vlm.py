"""Small multimodal checkpoints, laid out as on the hub: real classes, configs and processors, random weights.

As in `checkpoints_text` the weights are drawn wide and the decoders are four layers deep, so that a wrong
position, mask or prompt moves a vector by far more than the tolerance.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from checkpoints_text import build_bert
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    ColPaliConfig,
    ColPaliForRetrieval,
    ColPaliProcessor,
    ColQwen2Config,
    ColQwen2ForRetrieval,
    ColQwen2Processor,
    EmbeddingGemma2Config,
    EmbeddingGemma2Model,
    EmbeddingGemma2Processor,
    EmbeddingGemma2VideoProcessor,
    Gemma4AudioFeatureExtractor,
    Gemma4ImageProcessor,
    GemmaTokenizer,
    PaliGemmaConfig,
    PreTrainedModel,
    Qwen2Tokenizer,
    Qwen2VLConfig,
    Qwen2VLImageProcessor,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
    SiglipImageProcessor,
)

_SPECIALS = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
]
_CORPUS = [
    "system user assistant Represent the user's input. Describe the image. Query: yes no",
    "how much protein should a female eat; two parrots on a branch, seen from below",
    "the quick brown fox jumps over the lazy dog; pack my box with five dozen liquor jugs. 0123456789 '!?-",
]

_GEMMA_MEDIA = {
    "boi": "<|image>",
    "eoi": "<image|>",
    "image": "<|image|>",
    "boa": "<|audio>",
    "eoa": "<audio|>",
    "audio": "<|audio|>",
}
_POOLED = [
    ("", "sentence_transformers.base.modules.transformer.Transformer"),
    ("1_Pooling", "sentence_transformers.sentence_transformer.modules.pooling.Pooling"),
    ("2_Normalize", "sentence_transformers.base.modules.normalize.Normalize"),
]

CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message.role + '\n' -}}"
    "{%- if message.content is string -%}{{- message.content -}}"
    "{%- else -%}{%- for part in message.content -%}"
    "{%- if part.type == 'image' -%}{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}"
    "{%- elif part.type == 'text' -%}{{- part.text -}}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}"
    "{{- '<|im_end|>\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"
)

YES_OR_NO = {"true": "yes", "false": "no"}
YES_OR_NO_TEMPLATE = (
    "{{- '<|im_start|>user\n' -}}"
    "{%- for message in messages -%}"
    "{{- '<' + message.role + '>: ' -}}PARTS{{- '\n' -}}"
    "{%- endfor -%}"
    "{{- '<|im_end|>\n<|im_start|>assistant\n' -}}"
)


def images() -> list[Image.Image]:
    """Four pictures of four shapes, none of one colour."""
    sizes = [(64, 48), (40, 90), (100, 100), (33, 70)]
    return [
        Image.merge("RGB", [Image.linear_gradient("L").rotate(90 * (i + c)).resize(size) for c in range(3)])
        for i, size in enumerate(sizes)
    ]


def qwen_tokenizer(folder: Path) -> Qwen2Tokenizer:
    """A byte-level BPE with Qwen's special tokens, which pads on the left with <|endoftext|>."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=_SPECIALS, initial_alphabet=alphabet, show_progress=False
    )
    trained.train_from_iterator(_CORPUS, trainer)
    trained.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "Qwen2Tokenizer",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "additional_special_tokens": _SPECIALS[1:],
        "padding_side": "left",
        "model_max_length": 512,
    }
    _write(folder / "tokenizer_config.json", settings)
    tokenizer: Qwen2Tokenizer = Qwen2Tokenizer.from_pretrained(folder)
    return tokenizer


def build_qwen3_vl(folder: Path, *, prompts: dict[str, str] | None = None) -> Path:
    """A Qwen3-VL-Embedding: chat template, last token, left padding; pictures in patches of 16 pixels."""
    folder.mkdir(parents=True)
    processor = _qwen3_vl_processor(folder)
    _save_weights(folder, Qwen3VLForConditionalGeneration, _qwen3_vl_config(processor.tokenizer))
    _write_modules(folder, _POOLED)
    _write_pooling(folder, "lasttoken", 64)
    _write(folder / "sentence_bert_config.json", _qwen3_vl_transformer("feature-extraction", "last_hidden_state"))
    prompts = {"default": "Represent the user's input."} if prompts is None else prompts
    settings = {
        "model_type": "SentenceTransformer",
        "prompts": prompts,
        "default_prompt_name": next(iter(prompts), None),
    }
    _write(folder / "config_sentence_transformers.json", settings)
    return folder


def build_embedding_gemma2(folder: Path) -> Path:
    """An EmbeddingGemma 2, audio tower included: no chat template, mean pooling, prompts before texts alone."""
    folder.mkdir(parents=True)
    tokenizer = _gemma_tokenizer(folder)
    EmbeddingGemma2Processor(
        feature_extractor=Gemma4AudioFeatureExtractor(),
        image_processor=Gemma4ImageProcessor(max_soft_tokens=70),
        tokenizer=tokenizer,
        video_processor=EmbeddingGemma2VideoProcessor(),
        image_seq_length=70,
    ).save_pretrained(folder)
    small = {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16, "initializer_range": 0.3}
    text = {
        **small,
        "vocab_size": len(tokenizer) + 1,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 4,
        "sliding_window_pattern": 2,
        "global_head_dim": 16,
        "num_global_key_value_heads": 1,
        "hidden_size_per_layer_input": 16,
        "embedding_dim": 32,
        "sliding_window": 8,
    }
    vision = {
        **small,
        "model_type": "gemma4_vision",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "position_embedding_size": 1024,
    }
    audio = {"model_type": "gemma4_audio", "hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1}
    ids = {
        f"{key}_token_id": tokenizer.convert_tokens_to_ids(word) for key, word in _GEMMA_MEDIA.items() if key != "eoa"
    }
    config = EmbeddingGemma2Config(
        text_config=text,
        vision_config=vision,
        audio_config={**audio, "subsampling_conv_channels": [8, 4], "output_proj_dims": 32},
        video_token_id=len(tokenizer),
        eoa_token_index=tokenizer.convert_tokens_to_ids(_GEMMA_MEDIA["eoa"]),
        **ids,
    )
    _save_weights(folder, EmbeddingGemma2Model, config)
    _write_modules(folder, _POOLED)
    _write_pooling(folder, "mean", 32)
    forward = {"method": "forward", "method_output_name": "last_hidden_state"}
    reads = {"text": forward, "image": forward, "audio": forward}
    settings = {"transformer_task": "feature-extraction", "module_output_name": "token_embeddings"}
    _write(folder / "sentence_bert_config.json", {**settings, "modality_config": reads})
    prompts = {"Retrieval-query": "task: search result | query: ", "Retrieval-document": "title: none | text: "}
    prompts["Clustering"] = "task: clustering | query: "
    _write(folder / "config_sentence_transformers.json", {"model_type": "SentenceTransformer", "prompts": prompts})
    return folder


def _gemma_tokenizer(folder: Path) -> GemmaTokenizer:
    specials = ["<pad>", "<eos>", "<bos>", "<unk>", *_GEMMA_MEDIA.values()]
    trained = Tokenizer(models.BPE(unk_token="<unk>"))
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trained.train_from_iterator(
        _CORPUS, trainers.BpeTrainer(vocab_size=300, special_tokens=specials, show_progress=False)
    )
    trained.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", 2), ("<eos>", 1)]
    )
    trained.save(str(folder / "tokenizer.json"))
    media = {f"{key}_token": word for key, word in _GEMMA_MEDIA.items()}
    settings = {
        "tokenizer_class": "GemmaTokenizer",
        **{f"{name}_token": f"<{name}>" for name in ("bos", "eos", "pad", "unk")},
        "extra_special_tokens": media,
        "model_max_length": 512,
    }
    _write(folder / "tokenizer_config.json", settings)
    tokenizer: GemmaTokenizer = GemmaTokenizer.from_pretrained(folder)
    return tokenizer


def build_colqwen2(folder: Path) -> Path:
    """A ColQwen2 as transformers has it: no modules.json, queries and pages written by its own processor."""
    folder.mkdir(parents=True)
    tokenizer = qwen_tokenizer(folder)
    ColQwen2Processor(
        image_processor=Qwen2VLImageProcessor(patch_size=14, size={"shortest_edge": 28 * 28, "longest_edge": 84 * 84}),
        tokenizer=tokenizer,
    ).save_pretrained(folder)
    text = {
        **_decoder(len(tokenizer)),
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]},
    }
    vision = {
        "depth": 2,
        "embed_dim": 32,
        "hidden_size": 64,
        "num_heads": 2,
        "patch_size": 14,
        "mlp_ratio": 2,
        "initializer_range": 0.3,
    }
    vlm = Qwen2VLConfig(text_config=text, vision_config=vision, **_vision_tokens(tokenizer))
    _save_weights(folder, ColQwen2ForRetrieval, ColQwen2Config(vlm_config=vlm, embedding_dim=16, initializer_range=0.3))
    return folder


def build_colpali(folder: Path) -> Path:
    """A ColPali as transformers has it: PaliGemma, every picture squashed to 28 pixels a side, 4 patches."""
    folder.mkdir(parents=True)
    tokenizer = _gemma_tokenizer(folder)
    ColPaliProcessor(
        image_processor=SiglipImageProcessor(size={"height": 28, "width": 28}, image_seq_length=4), tokenizer=tokenizer
    ).save_pretrained(folder)
    small = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "initializer_range": 0.3}
    text = {**_decoder(len(tokenizer) + 1), "model_type": "gemma", "pad_token_id": 0, "eos_token_id": 1}
    vlm = PaliGemmaConfig(
        text_config=text,
        vision_config={
            **small,
            "model_type": "siglip_vision_model",
            "num_hidden_layers": 2,
            "image_size": 28,
            "patch_size": 14,
        },
        image_token_index=tokenizer.convert_tokens_to_ids(_GEMMA_MEDIA["image"]),
        projection_dim=64,
    )
    settings: dict[str, Any] = {"vlm_config": vlm, "embedding_dim": 16, "initializer_range": 0.3}
    _save_weights(folder, ColPaliForRetrieval, ColPaliConfig(**settings))
    return folder


def build_colbert(folder: Path) -> Path:
    """A ColBERT as Stanford saves it: a BERT and a projection in one file, markers that stand in the vocabulary."""
    build_bert(folder, pooling="mean")
    for name in ("modules.json", "sentence_bert_config.json", "1_Pooling/config.json"):
        (folder / name).unlink()
    tokenizer = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    words = tokenizer["model"]["vocab"]
    words |= {"[unused0]": len(words), "[unused1]": len(words) + 1}
    _write(folder / "tokenizer.json", tokenizer)
    config = BertConfig.from_pretrained(folder, vocab_size=len(words), architectures=["HF_ColBERT"])
    _save_weights(folder, BertModel, config)
    weights = {f"bert.{key}": value for key, value in load_file(folder / "model.safetensors").items()}
    weights["linear.weight"] = torch.randn(16, config.hidden_size, generator=torch.Generator().manual_seed(1))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    _write(folder / "config.json", {**config.to_dict(), "architectures": ["HF_ColBERT"]})
    settings = {"query_maxlen": 12, "doc_maxlen": 40, "mask_punctuation": True, "attend_to_mask_tokens": False}
    _write(folder / "artifact.metadata", {"query_token_id": "[unused0]", "doc_token_id": "[unused1]", **settings})
    return folder


def build_cross_encoder(folder: Path, *, labels: int = 1) -> Path:
    """A BERT that gives a pair `labels` scores, as on the hub: without a modules.json."""
    build_bert(folder, pooling="mean")
    for name in ("modules.json", "sentence_bert_config.json", "model.safetensors", "1_Pooling/config.json"):
        (folder / name).unlink()
    config = BertConfig.from_pretrained(folder, num_labels=labels)
    _save_weights(folder, BertForSequenceClassification, config)
    return folder


def build_yes_or_no(folder: Path) -> Path:
    """A Qwen3-Reranker: a causal language model of texts, whose template asks and whose answer is yes or no."""
    folder.mkdir(parents=True)
    tokenizer = qwen_tokenizer(folder)
    tokenizer.chat_template = YES_OR_NO_TEMPLATE.replace("PARTS", "{{- message.content -}}")
    tokenizer.save_pretrained(folder)
    _save_weights(folder, Qwen3ForCausalLM, Qwen3Config(**_decoder(len(tokenizer)), tie_word_embeddings=True))
    forward = {"method": "forward", "method_output_name": "logits"}
    settings = {
        "transformer_task": "text-generation",
        "modality_config": {"text": forward, "message": {**forward, "format": "flat"}},
        "module_output_name": "causal_logits",
    }
    _write_reranker(folder, tokenizer, settings)
    return folder


def build_qwen3_vl_reranker(folder: Path) -> Path:
    """A Qwen3-VL-Reranker: as `build_yes_or_no`, of texts and pictures."""
    folder.mkdir(parents=True)
    processor = _qwen3_vl_processor(folder)
    part = (
        "{%- for part in message.content -%}{%- if part.type == 'image' -%}"
        "{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}{%- else -%}{{- part.text -}}{%- endif -%}{%- endfor -%}"
    )
    processor.chat_template = YES_OR_NO_TEMPLATE.replace("PARTS", part)
    processor.save_pretrained(folder)
    _save_weights(folder, Qwen3VLForConditionalGeneration, _qwen3_vl_config(processor.tokenizer))
    settings = _qwen3_vl_transformer("any-to-any", "logits")
    _write_reranker(folder, processor.tokenizer, {**settings, "processing_kwargs": {}})
    return folder


def _write_reranker(folder: Path, tokenizer: Qwen2Tokenizer, settings: dict[str, Any]) -> None:
    _write(folder / "sentence_bert_config.json", settings)
    parts = [
        ("", "sentence_transformers.base.modules.transformer.Transformer"),
        ("1_LogitScore", "sentence_transformers.cross_encoder.modules.logit_score.LogitScore"),
    ]
    _write_modules(folder, parts)
    (folder / "1_LogitScore").mkdir()
    answers = {f"{key}_token_id": tokenizer.convert_tokens_to_ids(word) for key, word in YES_OR_NO.items()}
    _write(folder / "1_LogitScore" / "config.json", answers)
    _write(folder / "config_sentence_transformers.json", {"model_type": "CrossEncoder", "prompts": {}})


def _qwen3_vl_processor(folder: Path) -> Qwen3VLProcessor:
    tokenizer = qwen_tokenizer(folder)
    limits = {"shortest_edge": 32 * 32, "longest_edge": 64 * 64}
    processor = Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(patch_size=16, size=limits),
        tokenizer=tokenizer,
        video_processor=Qwen3VLVideoProcessor(),
        chat_template=CHAT_TEMPLATE,
    )
    processor.save_pretrained(folder)
    return processor


def _qwen3_vl_transformer(task: str, output: str) -> dict[str, Any]:
    forward = {"method": "forward", "method_output_name": output}
    return {
        "transformer_task": task,
        "modality_config": {
            "text": forward,
            "image": forward,
            "message": {**forward, "format": "structured"},
        },
        "module_output_name": "token_embeddings" if task == "feature-extraction" else "causal_logits",
        "processing_kwargs": {"chat_template": {"add_generation_prompt": True}},
        "unpad_inputs": False,
    }


def _qwen3_vl_config(tokenizer: Qwen2Tokenizer) -> Qwen3VLConfig:
    text = {
        **_decoder(len(tokenizer)),
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": [4, 2, 2],
            "mrope_interleaved": True,
        },
    }
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 2,
        "patch_size": 16,
        "out_hidden_size": 64,
        "num_position_embeddings": 16,
        "deepstack_visual_indexes": [0],
        "initializer_range": 0.3,
    }
    return Qwen3VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True, **_vision_tokens(tokenizer))


def _decoder(vocabulary: int) -> dict[str, Any]:
    return {
        "vocab_size": vocabulary,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 2048,
        "initializer_range": 0.3,
        "bos_token_id": None,
        "eos_token_id": 2,
    }


def _vision_tokens(tokenizer: Qwen2Tokenizer) -> dict[str, int]:
    words = {"image": "image_pad", "video": "video_pad", "vision_start": "vision_start", "vision_end": "vision_end"}
    return {f"{key}_token_id": tokenizer.convert_tokens_to_ids(f"<|{word}|>") for key, word in words.items()}


def _save_weights(folder: Path, architecture: type[PreTrainedModel], config: object) -> None:
    state = torch.random.get_rng_state()
    torch.manual_seed(7)
    architecture(config).eval().save_pretrained(folder)
    torch.random.set_rng_state(state)


def _write_modules(folder: Path, parts: list[tuple[str, str]]) -> None:
    listing = [{"idx": i, "name": str(i), "path": path, "type": kind} for i, (path, kind) in enumerate(parts)]
    _write(folder / "modules.json", listing)


def _write_pooling(folder: Path, mode: str, dim: int) -> None:
    (folder / "1_Pooling").mkdir()
    _write(folder / "1_Pooling" / "config.json", {"embedding_dimension": dim, "pooling_mode": mode})


def _write(file: Path, content: object) -> None:
    file.write_text(json.dumps(content), "utf-8")
