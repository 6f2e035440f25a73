"""Small image-text checkpoints, built with the real classes, real configurations and real tokenizers.

Weights are random with a standard deviation of 0.3: with the usual 0.02 the towers are nearly linear, and a
wrong padding, activation or picture hardly shows.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import sentencepiece
import torch
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPTokenizer,
    Siglip2Config,
    Siglip2ImageProcessorPil,
    Siglip2Model,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
    SiglipTokenizer,
)

TEXTS = [
    "a photo of a cat",
    "two dogs running on the beach at sunset while a child throws a red ball into the waves",
    "",
    "Hot_Dog, with MUSTARD!",
    "naïve café",
]
CORPUS = [*TEXTS, "the quick brown fox jumps over the lazy dog", "a picture of two red cats on a green sofa"] * 3

_PREPROCESS_CLIP = {
    "mean": [0.48145466, 0.4578275, 0.40821073],
    "std": [0.26862954, 0.26130258, 0.27577711],
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}
PREPROCESS_SIGLIP = {
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
    "interpolation": "bicubic",
    "resize_mode": "squash",
}

OPEN_CLIP: dict[str, Any] = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
OPEN_CLIP_SIGLIP: dict[str, Any] = {
    "embed_dim": 32,
    "init_logit_bias": -10,
    "custom_text": True,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {
        "context_length": 64,
        "vocab_size": 400,
        "hf_tokenizer_name": "nowhere/to-be-found",
        "tokenizer_kwargs": {"clean": "canonicalize"},
        "width": 32,
        "heads": 2,
        "layers": 2,
        "no_causal_mask": True,
        "proj_bias": True,
        "pool_type": "last",
        "norm_kwargs": {"eps": 1e-6},
        "act_kwargs": {"approximate": "tanh"},
    },
}

OPEN_CLIP_COCA: dict[str, Any] = {
    "embed_dim": 24,
    "custom_text": True,
    "vision_cfg": {
        **OPEN_CLIP["vision_cfg"],
        "attentional_pool": True,
        "attn_pooler_heads": 2,
        "attn_pooler_queries": 4,
        "output_tokens": True,
    },
    "text_cfg": {**OPEN_CLIP["text_cfg"], "context_length": 20, "embed_cls": True, "output_tokens": True},
    "multimodal_cfg": {"context_length": 20, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


def images() -> list[Image.Image]:
    """Six RGB pictures of different shapes, one of a single pixel and one three pixels wide."""
    rng = np.random.default_rng(3)
    sizes = [(40, 30), (33, 64), (32, 32), (100, 20), (1, 1), (3, 7)]
    return [Image.fromarray(rng.integers(0, 256, (h, w, 3), dtype=np.uint8)) for w, h in sizes]


def randomise(model: torch.nn.Module, *, seed: int = 0) -> None:
    """Weights that make mistakes visible; the scale and bias of the logits stay."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "logit" not in name:
                offset = 1.0 if parameter.ndim == 1 and name.endswith("weight") else 0.0  # gains of the norms
                parameter.copy_(offset + 0.3 * torch.randn(parameter.shape, generator=generator))


def open_clip_model(config: dict[str, Any], *, seed: int = 0, quick_gelu: bool = False) -> torch.nn.Module:
    options = {key: value for key, value in copy.deepcopy(config).items() if key != "custom_text"}
    family = open_clip.CustomTextCLIP if config.get("custom_text") else open_clip.CLIP
    if "multimodal_cfg" in config:
        family = open_clip.CoCa
    model: torch.nn.Module = family(**options, quick_gelu=quick_gelu)
    randomise(model, seed=seed)
    return model


def open_clip_file(file: Path, config: dict[str, Any], *, seed: int = 0) -> Path:
    """Weights alone, as .safetensors or pickled."""
    state = {key: value.contiguous() for key, value in open_clip_model(config, seed=seed).state_dict().items()}
    if file.suffix == ".safetensors":
        save_file(state, file)
    else:
        torch.save(state, file)
    return file


def open_clip_folder(folder: Path, config: dict[str, Any], *, seed: int = 0) -> Path:
    """What `push_to_hf_hub` uploads: configuration, weights and, where the text tower has one, a tokenizer."""
    folder.mkdir(parents=True)
    siglip = "hf_tokenizer_name" in config["text_cfg"]
    preprocess = PREPROCESS_SIGLIP if siglip else _PREPROCESS_CLIP
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}))
    open_clip_file(folder / "open_clip_model.safetensors", config, seed=seed)
    if siglip:
        gemma_tokenizer(folder)
    return folder


def gemma_tokenizer(folder: Path, *, frame: str = "$A <eos>") -> Path:
    """A small BPE laid out like Gemma's, which keeps letter case. SigLIP 2 needs `$A <eos>`; Gemma has `<bos> $A`."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Replace("▁", " ")
    specials = ["<pad>", "<eos>", "<bos>", "<unk>"]
    tokenizer.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=90, special_tokens=specials, show_progress=False)
    )
    tokenizer.post_processor = processors.TemplateProcessing(single=frame, special_tokens=[("<eos>", 1), ("<bos>", 2)])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "GemmaTokenizer",
        "add_bos_token": False,
        "add_eos_token": True,
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "padding_side": "left",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def siglip2_folder(folder: Path, *, frame: str = "$A <eos>", image_size: int = 32, seed: int = 0) -> Path:
    """A SigLIP 2 checkpoint of a fixed resolution: model type "siglip" with a Gemma tokenizer, as Google's are."""
    siglip_model(image_size=image_size, seed=seed).save_pretrained(folder)
    SiglipImageProcessor(size={"height": image_size, "width": image_size}).save_pretrained(folder)
    return gemma_tokenizer(folder, frame=frame)


def siglip1_folder(folder: Path, *, seed: int = 0) -> Path:
    """A SigLIP checkpoint with the sentencepiece tokenizer of the first generation."""
    siglip_model(image_size=32, seed=seed).save_pretrained(folder)
    SiglipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    corpus = folder / "corpus.txt"
    corpus.write_text("\n".join(text.lower() for text in CORPUS if text), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.Train(
        input=str(corpus),
        model_prefix=str(folder / "spiece"),
        vocab_size=90,
        hard_vocab_limit=False,
        pad_id=-1,
        bos_id=-1,
        eos_id=1,
        unk_id=2,
        control_symbols=["<pad>"],
        minloglevel=2,
    )
    SiglipTokenizer(vocab_file=str(folder / "spiece.model")).save_pretrained(folder)
    return folder


def siglip_model(*, image_size: int, seed: int) -> SiglipModel:
    tower = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**tower, "vocab_size": 400, "max_position_embeddings": 64, "bos_token_id": 2, "eos_token_id": 1}
    vision = {**tower, "image_size": image_size, "patch_size": 8}
    model = SiglipModel(SiglipConfig(text_config={**text, "pad_token_id": 0}, vision_config=vision))
    randomise(model, seed=seed)
    with torch.no_grad():
        model.logit_scale.fill_(float(np.log(100.0)))
        model.logit_bias.fill_(-12.0)
    return model


def clip_folder(folder: Path, *, seed: int = 0) -> Path:
    """A CLIP checkpoint: byte-level BPE with start and end tokens, shortest side and centre crop."""
    trained = Tokenizer(models.BPE(unk_token="<|endoftext|>", end_of_word_suffix="</w>"))
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trained.train_from_iterator(
        [word for text in CORPUS for word in text.lower().split()],
        trainers.BpeTrainer(
            vocab_size=700,
            show_progress=False,
            initial_alphabet=alphabet,
            end_of_word_suffix="</w>",
            special_tokens=["<|startoftext|>", "<|endoftext|>"],
        ),
    )
    model = json.loads(trained.to_str())["model"]
    tokenizer = CLIPTokenizer(vocab=model["vocab"], merges=[tuple(pair) for pair in model["merges"]])
    tokenizer.save_pretrained(folder)
    start, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    tower = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**tower, "vocab_size": 800, "max_position_embeddings": 77, "bos_token_id": start, "eos_token_id": end}
    vision = {**tower, "image_size": 32, "patch_size": 8}
    towers = CLIPModel(CLIPConfig(text_config={**text, "pad_token_id": end}, vision_config=vision, projection_dim=24))
    randomise(towers, seed=seed)
    towers.save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def naflex_folder(folder: Path, *, seed: int = 0) -> Path:
    """A SigLIP 2 NaFlex checkpoint: model type "siglip2", patches of 8 pixels, at most 24 a picture."""
    tower = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**tower, "vocab_size": 400, "max_position_embeddings": 64, "bos_token_id": 2, "eos_token_id": 1}
    vision = {**tower, "num_patches": 16, "patch_size": 8}
    model = Siglip2Model(Siglip2Config(text_config={**text, "pad_token_id": 0}, vision_config=vision))
    randomise(model, seed=seed)
    with torch.no_grad():
        model.logit_scale.fill_(float(np.log(100.0)))
        model.logit_bias.fill_(-12.0)
    model.save_pretrained(folder)
    Siglip2ImageProcessorPil(patch_size=8, max_num_patches=24).save_pretrained(folder)
    return gemma_tokenizer(folder)
