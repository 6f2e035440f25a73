"""Encoders of texts that follow an instruction: what a query is for, in words."""

from __future__ import annotations

from mmembed.encoders.presets.preset import Preset

_INSTRUCT = "Instruct: {task}\nQuery:"
_INSTRUCT_SPACED = "Instruct: {task}\nQuery: "

INSTRUCTED: dict[str, Preset] = {
    "me5-large-instruct": Preset(
        encoder="sentence:intfloat/multilingual-e5-large-instruct",
        summary="100 languages, follows an instruction, 560M parameters",
        dim=1024,
        context_length=512,
        query_prompt=_INSTRUCT_SPACED,
        pooling="mean",
        revision="baa7be480a7de1539afce709c8f13f833a510e0a",
        licence="MIT",
    ),
    "harrier-270m": Preset(
        encoder="harrier:microsoft/harrier-oss-v1-270m",
        summary="100 languages, follows an instruction, 268M parameters",
        dim=640,
        context_length=32768,
        query_prompt=_INSTRUCT,
        pooling="last token",
        revision="31de22b673913c7d658c0f03f792d77c2dcf8ebd",
        licence="MIT",
    ),
    "harrier-0.6b": Preset(
        encoder="harrier:microsoft/harrier-oss-v1-0.6b",
        summary="100 languages, follows an instruction, 596M parameters",
        dim=1024,
        context_length=32768,
        query_prompt=_INSTRUCT,
        pooling="last token",
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
        pooling="last token",
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
        pooling="last token",
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
        pooling="last token",
        revision="4e423935c619ae4df87b646a3ce949610c66241c",
        licence="Apache-2.0",
    ),
    "e5-mistral": Preset(
        encoder="e5-mistral:intfloat/e5-mistral-7b-instruct",
        summary="English, follows an instruction, 7.1B parameters; for a GPU",
        dim=4096,
        context_length=4096,
        query_prompt=_INSTRUCT_SPACED,
        pooling="last token",
        revision="07163b72af1488142a360786df853f237b1a3ca1",
        licence="MIT",
    ),
}
