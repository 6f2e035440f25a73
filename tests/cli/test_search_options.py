"""Every option of `mmembed search` is a field of Search, and finds what the same field finds from Python."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeAlias, get_args

import pytest
from checkpoints_vlm import build_cross_encoder
from PIL import Image
from typer.testing import CliRunner

from mmembed import Search, ingest_documents, ingest_images, search, search_several
from mmembed.cli import app
from mmembed.cli import options as o
from mmembed.cli.search import SearchSession
from mmembed.encoders.registry import load_encoder, load_reranker
from mmembed.retrieval.query import PointId, Strategy
from mmembed.stores import open_store
from mmembed.types import Hit, Item, Store

Row: TypeAlias = dict[str, Any]
Run: TypeAlias = Callable[..., list[Row]]

COLOURS = ("red", "orange", "yellow", "green", "blue", "navy", "black", "white")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a collection of pictures of one colour each, warm or cold, and two of documents."""
    root, fake = tmp_path_factory.mktemp("search"), load_encoder("fake")
    items = []
    for place, colour in enumerate(COLOURS):
        file = root / f"{colour}.png"
        Image.new("RGB", (8, 8), colour).save(file)
        items.append(Item(str(file), "image", file, payload={"kind": "warm" if place < 3 else "cold"}))
    with closing(open_store(f"edge:{root / 'store.mm'}")) as store:
        ingest_images(store, "images", items, encoder=fake)
        for name in ("hens", "geese"):
            (root / name).mkdir()
            for number in range(3):
                (root / name / f"{number}.txt").write_text(f"note {number} about {name} on a farm")
            ingest_documents(store, name, [root / name], encoder=fake, cross_encoder=fake, images_into=None)
    return root


@pytest.fixture
def run(folder: Path) -> Run:
    def run(*words: str | Path) -> list[Row]:
        done = CliRunner().invoke(app, ["search", *map(str, words), "--json", "--store", f"edge:{folder / 'store.mm'}"])
        assert done.exit_code == 0, done.output
        return [json.loads(line) for line in done.stdout.splitlines()]

    return run


def expected(folder: Path, ask: Callable[[Store], list[Hit]]) -> list[tuple[str, Any, Any]]:
    with closing(open_store(f"edge:{folder / 'store.mm'}")) as store:
        return [(hit.id, pytest.approx(hit.score, abs=1e-5), hit.group) for hit in ask(store)]


def found(rows: list[Row]) -> list[tuple[str, float, Any]]:
    return [(row["id"], row["score"], row.get("group")) for row in rows]


def test_options_are_the_fields_of_search() -> None:
    """Each field of Search has an option of its name, but for a vector, which no command line holds."""
    renamed = {"text": "query", "weights": "weight", "vector_name": "using", "score_threshold": "threshold"}
    renamed |= {"late": "no_late", "vector": "vector"}
    own = set(SearchSession.__annotations__)
    assert {renamed.get(field.name, field.name) for field in fields(Search)} - own == {"query", "vector"}
    more = {"collections", "encoder", "minus_image"} | {
        f"{of}_{kind}" for of in ("positive", "negative") for kind in ("image", "id")
    }
    assert own - {renamed.get(field.name, field.name) for field in fields(Search)} == more
    assert not own & {field.name for field in fields(o.Session)}


def test_options_have_the_defaults_of_search() -> None:
    """An option that is not given leaves the field as Python has it; strategies are those that there are."""
    options, search = SearchSession(), Search()
    for name in (
        "strategy",
        "limit",
        "offset",
        "all_passages",
        "exact",
        "candidates",
        "diversity",
        "group_by",
        "group_size",
    ):
        assert getattr(options, name) == getattr(search, name), name
    assert options.no_late is not search.late
    shown = CliRunner().invoke(app, ["search", "--strategy", "x"])
    assert all(strategy in shown.output for strategy in get_args(Strategy))


def test_examples(run: Run, folder: Path) -> None:
    """Texts, pictures and stored points are examples of what is liked and of what is not."""
    assert found(run("--positive", "a red thing", "--positive", "a sign", "--negative", "blue")) == expected(
        folder, lambda store: search(store, "images", positive=["a red thing", "a sign"], negative=["blue"])
    )
    red, navy = folder / "red.png", folder / "navy.png"
    assert found(run("--positive-image", red, "--negative-image", navy)) == expected(
        folder, lambda store: search(store, "images", positive=[red], negative=[navy])
    )
    first, second, *_ = (row["id"] for row in run("--positive-image", red))
    assert found(run("--positive-id", first, "--negative-id", second)) == expected(
        folder, lambda store: search(store, "images", positive=[PointId(first)], negative=[PointId(second)])
    )


@pytest.mark.parametrize("strategy", get_args(Strategy))
def test_strategies(strategy: Strategy, run: Run, folder: Path) -> None:
    """Examples are weighed by the strategy that is named."""
    red, navy = folder / "red.png", folder / "navy.png"
    words = ("--positive-image", red, "--positive", "night", "--negative-image", navy, "--strategy", strategy)
    assert found(run(*words)) == expected(
        folder,
        lambda store: search(store, "images", positive=["night", red], negative=[navy], strategy=strategy),
    )


def test_diversity_and_groups(run: Run, folder: Path) -> None:
    """Hits are spread out by --diversity, and put together by --group-by, with so many of each."""
    red = folder / "red.png"
    assert found(run("--image", red, "--diversity", "0.7", "--limit", "4")) == expected(
        folder, lambda store: search(store, "images", image=red, diversity=0.7, limit=4)
    )
    rows = run("--image", red, "--group-by", "kind", "--group-size", "2")
    assert [row["group"] for row in rows] == ["warm"] * 2 + ["cold"] * 2
    assert found(rows) == expected(
        folder, lambda store: search(store, "images", image=red, group_by="kind", group_size=2)
    )


def test_a_reranker_of_two_collections(run: Run, folder: Path, tmp_path: Path) -> None:
    """One reranker orders the best candidates of several collections together."""
    name = f"cross-encoder:{build_cross_encoder(tmp_path / 'cross')}"
    rows = run("geese on a farm", "--in", "hens", "--in", "geese", "--rerank", name, "--candidates", "4")
    assert {row["collection"] for row in rows} == {"hens", "geese"}
    asked = Search(text="geese on a farm", rerank=load_reranker(name), candidates=4)
    assert found(rows) == expected(folder, lambda store: search_several(store, ["hens", "geese"], asked).hits)
