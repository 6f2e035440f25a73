"""Cohere's embeddings API, spoken by Cohere's own client to a real server."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cohere
import httpx
import numpy as np
import pytest
from checkpoints_text import TEXTS, build_bert
from places import ROOT
from service_app import running

from mmembed import load_encoder
from mmembed.encoders.families import sentence
from mmembed.encoders.presets import PRESETS
from mmembed.images import load_image
from mmembed.service.server import Server
from mmembed.types import Encoder
from mmembed.vectors import l2_normalize, truncate

PICTOGRAMS = sorted((ROOT / "mmembed" / "demo" / "pictograms").glob("*.png"))[:2]
KEY = "sesame"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A small text encoder with roles, the tasks of EmbeddingGemma, and 16 or 32 dimensions."""
    row = replace(PRESETS["gemma-text"], matryoshka_dims=(16, 32), query_prompt="query: ", document_prompt="passage: ")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sentence, "preset_of_model", lambda _: row)
        yield build_bert(tmp_path_factory.mktemp("text") / "m", pooling="mean")


@pytest.fixture(scope="module")
def text_encoder(folder: Path) -> Encoder:
    return load_encoder(f"sentence:{folder}", device="cpu")


@pytest.fixture(scope="module")
def service(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    encoders = (f"sentence:{folder}", "fake", "fake?kind=sparse")
    with running(tmp_path_factory.mktemp("service"), encoder=encoders, key=(f"{KEY}:infer", "other:search")) as served:
        yield served


@pytest.fixture(scope="module")
def client(service: Server) -> Iterator[cohere.ClientV2]:
    with cohere.ClientV2(api_key=KEY, base_url=service.url) as made:
        yield made


def data_uri(file: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(file.read_bytes()).decode()}"


def post(service: Server, **body: object) -> httpx.Response:
    asked = {"model": "fake", "input_type": "search_document"} | body
    return httpx.post(f"{service.url}/v2/embed", json=asked, headers={"Authorization": f"Bearer {KEY}"})


# --- vectors -------------------------------------------------------------------------------------


def test_input_types_are_roles_and_tasks(client: cohere.ClientV2, text_encoder: Encoder) -> None:
    """search_query is a query and search_document a document; classification and clustering are tasks of documents."""
    vectors = {}
    for input_type, role, task in (
        ("search_query", "query", None),
        ("search_document", "document", None),
        ("classification", "document", "classification"),
        ("clustering", "document", "clustering"),
    ):
        answer = client.embed(
            model=text_encoder.spec.name, input_type=input_type, texts=TEXTS[:2], embedding_types=["float"]
        )
        vectors[input_type] = np.asarray(answer.embeddings.float_)
        expected = text_encoder.encode_text(TEXTS[:2], role=role, task=task)  # type: ignore[arg-type]
        assert np.allclose(vectors[input_type], expected, atol=1e-5), input_type
    kinds = list(vectors.values())
    assert all(np.abs(a - b).max() > 0.01 for i, a in enumerate(kinds) for b in kinds[:i])


@pytest.mark.parametrize("input_type", ["classification", "clustering"])
def test_a_task_that_the_encoder_does_not_know(input_type: str, client: cohere.ClientV2) -> None:
    """An encoder without such a task makes the vector of a document."""
    answer = client.embed(model="tiny", input_type=input_type, texts=["a red heart"], embedding_types=["float"])
    expected = load_encoder("tiny").encode_text(["a red heart"], role="document")
    assert np.allclose(answer.embeddings.float_, expected, atol=1e-5)


def test_the_answer_has_cohere_s_shape(client: cohere.ClientV2, text_encoder: Encoder) -> None:
    """The client reads an id, the texts, the version of the API and what would have been billed."""
    answer = client.embed(
        model=text_encoder.spec.name, input_type="search_document", texts=TEXTS[:2], embedding_types=["float"]
    )
    assert (answer.response_type, answer.texts) == ("embeddings_by_type", TEXTS[:2])
    assert answer.id
    assert answer.meta is not None
    assert answer.meta.api_version is not None
    assert answer.meta.api_version.version == "2"
    assert answer.meta.billed_units is not None
    assert answer.meta.billed_units.input_tokens == sum(text_encoder.count_tokens(text) for text in TEXTS[:2])
    assert answer.meta.billed_units.images == 0
    assert answer.embeddings.base64 is None


def test_floats_are_the_default(service: Server) -> None:
    """Without embedding_types there are floats, and nothing else."""
    assert list(post(service, texts=["a"]).json()["embeddings"]) == ["float"]


def test_types_of_embeddings(client: cohere.ClientV2) -> None:
    """base64 is of float32; ubinary packs eight signs a number, highest bit first, and binary is that less 128."""
    answer = client.embed(
        model="fake",
        input_type="search_document",
        texts=["two parrots", "a kite"],
        embedding_types=["float", "base64", "binary", "ubinary"],
    )
    found = answer.embeddings
    floats = np.asarray(found.float_, dtype=np.float32)
    assert found.base64 is not None
    decoded = [np.frombuffer(base64.b64decode(one), dtype="<f4") for one in found.base64]
    assert np.allclose(decoded, load_encoder("fake").encode_text(["two parrots", "a kite"], role="document"), atol=1e-5)
    for row, packed, signed in zip(floats, found.ubinary or (), found.binary or (), strict=True):
        assert len(packed) == len(row) // 8
        assert packed[0] == sum(128 >> bit for bit in range(8) if row[bit] > 0)
        bits = [bool(packed[i // 8] & 128 >> i % 8) for i in range(len(row))]
        assert bits == list(row > 0)
        assert [number - 128 for number in packed] == signed
        assert min(signed) >= -128
        assert max(signed) <= 127


def test_output_dimension(client: cohere.ClientV2, text_encoder: Encoder) -> None:
    """The first dimensions of a Matryoshka encoder, of norm 1; a size that it was not trained for is refused."""
    name = text_encoder.spec.name
    answer = client.embed(model=name, input_type="search_document", texts=TEXTS[:2], output_dimension=16)
    whole = np.asarray(text_encoder.encode_text(TEXTS[:2], role="document"))
    assert np.allclose(answer.embeddings.float_, truncate(whole, 16), atol=1e-5)
    with pytest.raises(cohere.BadRequestError, match="16"):
        client.embed(model=name, input_type="search_document", texts=["a"], output_dimension=20)


@pytest.mark.parametrize("input_type", ["image", "search_document"])
def test_images(input_type: str, client: cohere.ClientV2) -> None:
    """`images` are pictures whatever the input_type, in their order, and are counted."""
    answer = client.embed(
        model="tiny", input_type=input_type, images=[data_uri(p) for p in PICTOGRAMS], embedding_types=["float"]
    )
    expected = load_encoder("tiny").encode_image([load_image(p, uri=p.name) for p in PICTOGRAMS])
    assert np.allclose(answer.embeddings.float_, expected, atol=1e-5)
    assert answer.meta is not None
    assert answer.meta.billed_units is not None
    assert (answer.meta.billed_units.images, answer.meta.billed_units.input_tokens) == (2, 0)


def test_text_and_image_in_one_input(client: cohere.ClientV2) -> None:
    """An input of one part is that part's vector, one of several their sum brought back to norm 1, in order."""
    tiny = load_encoder("tiny")
    image = np.asarray(tiny.encode_image([load_image(PICTOGRAMS[0], uri="p")])[0])
    text = np.asarray(tiny.encode_text(["a red heart"], role="document")[0])
    said = cohere.TextEmbedContent(text="a red heart")
    shown = cohere.ImageUrlEmbedContent(image_url=cohere.EmbedImageUrl(url=data_uri(PICTOGRAMS[0])))
    answer = client.embed(
        model="tiny",
        input_type="search_document",
        inputs=[
            cohere.EmbedInput(content=[said]),
            cohere.EmbedInput(content=[said, shown]),
            cohere.EmbedInput(content=[shown]),
        ],
    )
    expected = [text, l2_normalize(text + image), image]
    assert np.allclose(answer.embeddings.float_, expected, atol=1e-5)


def test_the_async_client_with_many_requests(service: Server, text_encoder: Encoder) -> None:
    """Requests at the same time come back each with its own vectors."""
    texts = [f"{text} {number}" for number in range(4) for text in TEXTS if text]

    async def ask() -> list[cohere.EmbedByTypeResponse]:
        async with cohere.AsyncClientV2(api_key=KEY, base_url=service.url) as client:
            return await asyncio.gather(
                *(
                    client.embed(model=text_encoder.spec.name, input_type="search_query", texts=[text, "a"])
                    for text in texts
                )
            )

    expected = np.asarray(text_encoder.encode_text([*texts, "a"], role="query"))
    for i, answer in enumerate(asyncio.run(ask())):
        assert np.allclose(answer.embeddings.float_, expected[[i, -1]], atol=1e-5)


# --- texts that are too long ---------------------------------------------------------------------

LONG = "summit " * 100  # of an encoder that reads 64 tokens


def test_end_cuts_as_the_encoder_does(client: cohere.ClientV2, text_encoder: Encoder) -> None:
    """A text longer than the context is cut at its end unless something else is asked for."""
    answer = client.embed(model=text_encoder.spec.name, input_type="search_document", texts=[LONG], truncate="END")
    assert np.allclose(answer.embeddings.float_, text_encoder.encode_text([LONG], role="document"), atol=1e-5)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"truncate": "NONE"}, r"texts\[1\] has 102 tokens, more than the context_length of 64"),
        ({"truncate": "NONE", "max_tokens": 50}, r"texts\[1\] has 102 tokens, more than the max_tokens of 50"),
        ({"truncate": "END", "max_tokens": 50}, r"texts\[1\] has 102 tokens, more than the max_tokens of 50"),
        ({"truncate": "START"}, "truncate is 'START'"),
    ],
)
def test_a_text_that_would_be_cut_otherwise_is_refused(
    options: dict[str, object], sentence: str, client: cohere.ClientV2, text_encoder: Encoder
) -> None:
    """NONE refuses a text that does not fit, and so does a max_tokens below the context length; START is refused."""
    with pytest.raises(cohere.BadRequestError, match=sentence):
        client.embed(
            model=text_encoder.spec.name,
            input_type="search_document",
            texts=["a", LONG],
            **options,  # type: ignore[arg-type]
        )


@pytest.mark.parametrize("options", [{"truncate": "NONE"}, {"max_tokens": 50}, {"max_tokens": 5000}])
def test_texts_that_fit(options: dict[str, object], service: Server, text_encoder: Encoder) -> None:
    """A text within the limits that are asked for is embedded."""
    assert post(service, model=text_encoder.spec.name, texts=["a", TEXTS[0]], **options).status_code == 200


# --- what is refused -----------------------------------------------------------------------------


def test_keys(service: Server) -> None:
    """A wrong key is an UnauthorizedError, a key without the scope `infer` a ForbiddenError."""
    for key, error in (("wrong", cohere.UnauthorizedError), ("other", cohere.ForbiddenError)):
        with cohere.ClientV2(api_key=key, base_url=service.url) as client, pytest.raises(error):
            client.embed(model="tiny", input_type="search_query", texts=["a"])


def test_an_unknown_model_is_told_what_there_is(client: cohere.ClientV2) -> None:
    """A model that is not served is a BadRequestError in Cohere's shape that names those that are."""
    with pytest.raises(cohere.BadRequestError) as caught:
        client.embed(model="embed-v4.0", input_type="search_query", texts=["a"])
    assert set(caught.value.body) == {"message"}
    assert "embed-v4.0" in caught.value.body["message"]
    assert "tiny" in caught.value.body["message"]


BROKEN = f"data:image/png;base64,{base64.b64encode(PICTOGRAMS[0].read_bytes()[:200]).decode()}"
TEXT_PART = {"type": "text", "text": "a"}

REFUSED = {
    "none of texts, images and inputs is given": {},
    "none of texts": {"texts": []},
    "texts and images are given": {"texts": ["a"], "images": [BROKEN]},
    "texts[1] is an empty text": {"texts": ["a", ""]},
    "images[0]: ": {"images": [BROKEN]},
    "images[1]: ": {"images": [data_uri(PICTOGRAMS[0]), "/etc/passwd"]},
    "inputs[1].content[1]: ": {
        "inputs": [
            {"content": [TEXT_PART]},
            {"content": [TEXT_PART, {"type": "image_url", "image_url": {"url": BROKEN}}]},
        ]
    },
    "input_type 'image' is for images": {"texts": ["a"], "input_type": "image"},
    "input_type": {"texts": ["a"], "input_type": "document"},
    "'int8'": {"texts": ["a"], "embedding_types": ["float", "int8"]},
    "'uint8'": {"texts": ["a"], "embedding_types": ["uint8"]},
    "embedding_types": {"texts": ["a"], "embedding_types": ["int4"]},
    "sparse vectors": {"texts": ["a"], "model": "fake?kind=sparse"},
    "max_tokens": {"texts": ["a"], "max_tokens": 0},
    "output_dimension": {"texts": ["a"], "output_dimension": "8"},
    "trunkate": {"texts": ["a"], "trunkate": "END"},
    "content": {"inputs": [{"content": []}]},
}


@pytest.mark.parametrize(("sentence", "given"), REFUSED.items())
def test_bad_requests_are_told_in_one_sentence(sentence: str, given: dict[str, object], service: Server) -> None:
    """What is wrong is named by its place, and the next request is unharmed."""
    answer = post(service, **given)
    assert answer.status_code == 400
    assert sentence in answer.json()["message"]
    assert post(service, texts=["a"]).status_code == 200


def test_a_image_for_a_text_encoder(service: Server, text_encoder: Encoder) -> None:
    """An encoder without an image tower refuses the picture by its place."""
    answer = post(service, model=text_encoder.spec.name, images=[data_uri(PICTOGRAMS[0])])
    assert answer.status_code == 400
    assert "images[0]: encoder" in answer.json()["message"]
