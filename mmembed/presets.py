"""Short names for well-known models, as data: one row a model. Sources are the model cards."""

from __future__ import annotations

from dataclasses import dataclass

from mmembed.types import Distance, Kind, Modality

__all__ = ["PRESETS", "Preset", "preset_of_model"]


@dataclass(frozen=True)
class Preset:
    """What is known about a model before any of its weights are loaded."""

    encoder: str  # the full name: "family:model"
    summary: str
    modalities: tuple[Modality, ...] = ("text",)
    kind: Kind = "dense"
    dim: int | None = None
    matryoshka_dims: tuple[int, ...] = ()
    context_length: int | None = None
    image_size: int | None = None
    distance: Distance = "cosine"
    query_prompt: str = ""  # "{task}" is replaced by the task's instruction
    document_prompt: str = ""
    revision: str | None = None  # the commit of the model's repository that is loaded
    licence: str = ""
    commercial_use: bool = True
    remote_code: bool = False  # loads only with --trust-remote-code
    photographs: bool = True  # False: its pictures are drawings, so captions know more than it does

    @property
    def model(self) -> str:
        return self.encoder.partition(":")[2]


_BGE = "Represent this sentence for searching relevant passages: "
_INSTRUCT = "Instruct: {task}\nQuery:"
_INSTRUCT_SPACED = "Instruct: {task}\nQuery: "

PRESETS: dict[str, Preset] = {
    "tiny": Preset(
        encoder="tiny",
        summary="pictograms, emoji and simple drawings; not for photographs; ships with mmembed",
        modalities=("image", "text"),
        dim=256,
        context_length=16,
        image_size=64,
        licence="Apache-2.0",
        photographs=False,
    ),
    "siglip2-b32": Preset(
        encoder="open_clip:ViT-B-32-SigLIP2-256/webli",
        summary="photographs, many languages, good on a CPU",
        modalities=("image", "text"),
        dim=768,
        context_length=64,
        image_size=256,
        licence="Apache-2.0",
    ),
    "siglip2-so400m": Preset(
        encoder="siglip:google/siglip2-so400m-patch14-384",
        summary="photographs, many languages, 1.1B parameters; for a GPU",
        modalities=("image", "text"),
        dim=1152,
        context_length=64,
        image_size=384,
        revision="e8e487298228002f3d8a82e0cd5c8ea9c567f57f",
        licence="Apache-2.0",
    ),
    "clip-b32-datacomp": Preset(
        encoder="open_clip:ViT-B-32-256/datacomp_s34b_b86k",
        summary="photographs, English, the lightest on a CPU",
        modalities=("image", "text"),
        dim=512,
        context_length=77,
        image_size=256,
        licence="MIT",
    ),
    "clip-b32-openai": Preset(
        encoder="open_clip:ViT-B-32-quickgelu/openai",
        summary="photographs, English; the first CLIP, for comparisons",
        modalities=("image", "text"),
        dim=512,
        context_length=77,
        image_size=224,
        licence="MIT",
    ),
    "pe-core-b": Preset(
        encoder="open_clip:PE-Core-B-16/meta",
        summary="photographs, English, texts of up to 32 tokens",
        modalities=("image", "text"),
        dim=1024,
        context_length=32,
        image_size=224,
        licence="Apache-2.0",
    ),
    "bm25": Preset(
        encoder="bm25",
        summary="words, weighted by rarity; no weights to load",
        kind="sparse",
        distance="dot",
        licence="Apache-2.0",
    ),
    "minilm": Preset(
        encoder="sentence:sentence-transformers/all-MiniLM-L6-v2",
        summary="English, small and fast; offline with mmembed[offline]",
        dim=384,
        context_length=256,
        revision="8b3219a92973c328a8e22fadcfa821b5dc75636a",
        licence="Apache-2.0",
    ),
    "leaf-ir": Preset(
        encoder="sentence:MongoDB/mdbr-leaf-ir",
        summary="English retrieval, small and fast",
        dim=768,
        context_length=512,
        query_prompt=_BGE,
        revision="2e46f5aac796e621d51f678c306a66ede4712ecb",
        licence="Apache-2.0",
    ),
    "bge-small": Preset(
        encoder="sentence:BAAI/bge-small-en-v1.5",
        summary="English retrieval, 33M parameters",
        dim=384,
        context_length=512,
        query_prompt=_BGE,
        revision="5c38ec7c405ec4b44b94cc5a9bb96e735b38267a",
        licence="MIT",
    ),
    "bge-base": Preset(
        encoder="sentence:BAAI/bge-base-en-v1.5",
        summary="English retrieval, 109M parameters",
        dim=768,
        context_length=512,
        query_prompt=_BGE,
        revision="a5beb1e3e68b9ab74eb54cfd186867f64f240e1a",
        licence="MIT",
    ),
    "bge-large": Preset(
        encoder="sentence:BAAI/bge-large-en-v1.5",
        summary="English retrieval, 335M parameters",
        dim=1024,
        context_length=512,
        query_prompt=_BGE,
        revision="d4aa6901d3a41ba39fb536a557fa166f842b0e09",
        licence="MIT",
    ),
    "e5-small": Preset(
        encoder="sentence:intfloat/multilingual-e5-small",
        summary="100 languages, 118M parameters",
        dim=384,
        context_length=512,
        query_prompt="query: ",
        document_prompt="passage: ",
        revision="fd1525a9fd15316a2d503bf26ab031a61d056e98",
        licence="MIT",
    ),
    "e5-base": Preset(
        encoder="sentence:intfloat/multilingual-e5-base",
        summary="100 languages, 278M parameters",
        dim=768,
        context_length=512,
        query_prompt="query: ",
        document_prompt="passage: ",
        revision="d13f1b27baf31030b7fd040960d60d909913633f",
        licence="MIT",
    ),
    "e5-large": Preset(
        encoder="sentence:intfloat/multilingual-e5-large",
        summary="100 languages, 560M parameters",
        dim=1024,
        context_length=512,
        query_prompt="query: ",
        document_prompt="passage: ",
        revision="ab10c1a7f42e74530fe7ae5be82e6d4f11a719eb",
        licence="MIT",
    ),
    "me5-large-instruct": Preset(
        encoder="sentence:intfloat/multilingual-e5-large-instruct",
        summary="100 languages, follows an instruction, 560M parameters",
        dim=1024,
        context_length=512,
        query_prompt=_INSTRUCT_SPACED,
        revision="baa7be480a7de1539afce709c8f13f833a510e0a",
        licence="MIT",
    ),
    "gemma-text": Preset(
        encoder="sentence:google/embeddinggemma-300m",
        summary="100 languages, 308M parameters",
        dim=768,
        matryoshka_dims=(128, 256, 512, 768),
        context_length=2048,
        query_prompt="task: search result | query: ",
        document_prompt="title: none | text: ",
        revision="64614b0b8b64f0c6c1e52b07e4e9a4e8fe4d2da2",
        licence="Gemma",
    ),
    "gte-mb": Preset(
        encoder="sentence:Alibaba-NLP/gte-multilingual-base",
        summary="70 languages, long texts, 305M parameters",
        dim=768,
        context_length=8192,
        revision="ca1791e0bcc104f6db161f27de1340241b13c5a4",
        licence="Apache-2.0",
        remote_code=True,
    ),
    "gte-modernbert": Preset(
        encoder="sentence:Alibaba-NLP/gte-modernbert-base",
        summary="English, long texts, 149M parameters",
        dim=768,
        context_length=8192,
        revision="7ca8b4ca700621b67618669f5378fe5f5820b8e4",
        licence="Apache-2.0",
    ),
    # Its Matryoshka needs a layer norm before the cut, which sentence-transformers does not do: no smaller dims.
    "nomic": Preset(
        encoder="sentence:nomic-ai/nomic-embed-text-v1.5",
        summary="English, long texts, 137M parameters",
        dim=768,
        context_length=8192,
        query_prompt="search_query: ",
        document_prompt="search_document: ",
        revision="b0753ae76394dd36bcfb912a46018088bca48be0",
        licence="Apache-2.0",
        remote_code=True,
    ),
    "harrier-270m": Preset(
        encoder="harrier:microsoft/harrier-oss-v1-270m",
        summary="100 languages, follows an instruction, 268M parameters",
        dim=640,
        context_length=32768,
        query_prompt=_INSTRUCT,
        revision="31de22b673913c7d658c0f03f792d77c2dcf8ebd",
        licence="MIT",
    ),
    "harrier-0.6b": Preset(
        encoder="harrier:microsoft/harrier-oss-v1-0.6b",
        summary="100 languages, follows an instruction, 596M parameters",
        dim=1024,
        context_length=32768,
        query_prompt=_INSTRUCT,
        revision="f9b9dc8d367d443f2479d27aa5d8d2850c0774ee",
        licence="MIT",
    ),
    "qwen3-0.6b": Preset(
        encoder="qwen3:Qwen/Qwen3-Embedding-0.6B",
        summary="100 languages, follows an instruction; the first choice on a GPU",
        dim=1024,
        matryoshka_dims=(32, 64, 128, 256, 512, 1024),
        context_length=32768,
        query_prompt=_INSTRUCT,
        revision="b22da495047858cce924d27d76261e96be6febc0",
        licence="Apache-2.0",
    ),
    "qwen3-4b": Preset(
        encoder="qwen3:Qwen/Qwen3-Embedding-4B",
        summary="100 languages, follows an instruction; for a GPU",
        dim=2560,
        matryoshka_dims=(32, 64, 128, 256, 512, 1024, 2048, 2560),
        context_length=32768,
        query_prompt=_INSTRUCT,
        revision="636cd9bf47d976946cdbb2b0c3ca0cb2f8eea5ff",
        licence="Apache-2.0",
    ),
    "qwen3-8b": Preset(
        encoder="qwen3:Qwen/Qwen3-Embedding-8B",
        summary="100 languages, follows an instruction; for a large GPU",
        dim=4096,
        matryoshka_dims=(32, 64, 128, 256, 512, 1024, 2048, 4096),
        context_length=32768,
        query_prompt=_INSTRUCT,
        revision="4e423935c619ae4df87b646a3ce949610c66241c",
        licence="Apache-2.0",
    ),
    "e5-mistral": Preset(
        encoder="e5-mistral:intfloat/e5-mistral-7b-instruct",
        summary="English, follows an instruction, 7.1B parameters; for a GPU",
        dim=4096,
        context_length=4096,
        query_prompt=_INSTRUCT_SPACED,
        revision="07163b72af1488142a360786df853f237b1a3ca1",
        licence="MIT",
    ),
}


def preset_of_model(model: str) -> Preset | None:
    """The row of a hub id such as "sentence-transformers/all-MiniLM-L6-v2", or None."""
    return next((p for p in PRESETS.values() if p.model == model and model), None)
