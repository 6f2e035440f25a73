"""Image-text retrieval from a captions file: what CLIP_benchmark measures, and what a file may look like."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import checkpoints_clip as checkpoints
import numpy as np
import open_clip
import pytest
import torch
from clip_benchmark.metrics import zeroshot_retrieval
from counting import Counting
from harness_images import class_names, pictograms
from PIL import Image

from mmembed.encoders.registry import load_encoder
from mmembed.errors import InvalidTestSet, UnsupportedModality
from mmembed.evaluation.formats.captions import Captions, read_captions
from mmembed.evaluation.tasks.image_text import BothWays, caption_sets, compare_both_ways, evaluate_captions
from mmembed.stores import open_store
from mmembed.types import Encoder, Store

IMAGES = pictograms()
RECALLS = [1, 5, 10]


@pytest.fixture(scope="module")
def captioned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some ninety pictures, two captions each: captions.json."""
    folder = tmp_path_factory.mktemp("captions") / "pictograms"
    folder.mkdir()
    said = {}
    for image in IMAGES:
        shutil.copy(image.path, folder)
        said[image.path.name] = [image.name, f"a {class_names()[image.label]} that looks like {image.name}"]
    (folder / "captions.json").write_text(json.dumps(said))
    return folder


@pytest.fixture(scope="module")
def tiny() -> Encoder:
    return load_encoder("tiny", device="cpu")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = open_store(f"edge:{tmp_path / 'store.mm'}")
    yield opened
    opened.close()


class Loader:
    """Batches of preprocessed pictures with their captions, as CLIP_benchmark's loaders give them."""

    def __init__(self, preprocess: Any, captions: Captions) -> None:
        self.preprocess, self.captions = preprocess, captions

    def __iter__(self) -> Iterator[tuple[torch.Tensor, list[list[str]]]]:
        for start in range(0, len(self.captions.images), 16):
            some = self.captions.images[start : start + 16]
            images = [self.preprocess(Image.open(image.path).convert("RGBA")) for image in some]
            yield torch.stack(images), [list(image.captions) for image in some]


def on_white(preprocess: Any) -> Any:
    """Pictograms are see-through: both sides see them on white."""

    def prepared(image: Image.Image) -> torch.Tensor:
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=image)
        tensor: torch.Tensor = preprocess(white)
        return tensor

    return prepared


def hit_rates(result: BothWays) -> dict[str, float]:
    """Ours, by the names of CLIP_benchmark, by exact search."""
    ways = {"image_retrieval": result.text_to_image, "text_retrieval": result.image_to_text}
    return {
        f"{way}_recall@{k}": report.systems[0].exact.mean(f"hit_rate@{k}")
        for way, report in ways.items()
        for k in RECALLS
    }


def test_the_numbers_are_those_of_clip_benchmark(captioned: Path, store: Store, tmp_path: Path) -> None:
    """hit_rate@1, 5 and 10, both ways, equal CLIP_benchmark's recall on plain open_clip with the same weights."""
    folder = checkpoints.open_clip_folder(tmp_path / "clip", checkpoints.OPEN_CLIP)
    name = f"local-dir:{folder}"
    model, _, preprocess = open_clip.create_model_and_transforms(name)
    captions = read_captions(captioned)
    theirs = zeroshot_retrieval.evaluate(
        model.eval(),
        Loader(on_white(preprocess), captions),
        open_clip.get_tokenizer(name),
        "cpu",
        amp=False,
        recall_k_list=RECALLS,
    )
    ours = evaluate_captions(store, "checkpoint", captions, encoder=load_encoder(f"open_clip:{name}", device="cpu"))
    assert {key: np.float32(value) for key, value in hit_rates(ours).items()} == {
        key: np.float32(value) for key, value in theirs.items()
    }
    assert 0 < theirs["image_retrieval_recall@1"] < theirs["image_retrieval_recall@10"] < 1


def test_exact_search_is_numpy_over_the_vectors(captioned: Path, store: Store, tiny: Encoder) -> None:
    """What exact search finds for a caption is the order of cosines, and the hit rates are counted by hand."""
    captions = read_captions(captioned)
    result = evaluate_captions(store, "pictures", captions, encoder=tiny)
    images = {str(p.payload["uri"]): p.vectors["image"] for p in store.scroll("pictures", vectors=["image"])}
    texts = [(str(p.path), caption) for p in captions.images for caption in p.captions]
    asked = np.asarray(tiny.encode_text([caption for _, caption in texts], role="query"))
    scores = asked @ np.stack(list(images.values())).T
    uris = list(images)
    ranks = [
        int((scores[row] > scores[row, uris.index(path)]).sum()) for row, (path, _) in enumerate(texts)
    ]  # 0: its picture is the best
    for k in RECALLS:
        expected = np.mean([rank < k for rank in ranks])
        assert result.text_to_image.systems[0].exact.mean(f"hit_rate@{k}") == pytest.approx(expected)
    exact, as_is = result.text_to_image.systems[0].runs
    for row, query in enumerate(exact):
        best = uris[int(scores[row].argmax())]
        assert exact[query][best] == pytest.approx(float(scores[row].max()), abs=1e-6)
        assert max(as_is[query].values()) == pytest.approx(float(scores[row].max()), abs=1e-6)


def test_each_image_and_caption_is_encoded_once(captioned: Path, store: Store, tiny: Encoder) -> None:
    """Pictures serve as queries by their stored vectors, captions too; a second run encodes nothing but the probe."""
    captions = read_captions(captioned)
    counting = Counting(tiny)
    first = evaluate_captions(store, "pictures", captions, encoder=counting)
    said = sum(len(image.captions) for image in captions.images)
    assert counting.images == len(captions.images)
    assert said <= len(counting.texts) <= said + 16
    again = Counting(tiny)
    assert hit_rates(evaluate_captions(store, "pictures", captions, encoder=again)) == hit_rates(first)
    assert (again.images, len(again.texts)) == (0, 16)


def test_an_encoder_with_prompts_asks_with_them(captioned: Path, store: Store, tiny: Encoder) -> None:
    """Where queries are encoded otherwise than documents, captions that ask are, and those found are not."""
    captions = read_captions(captioned)
    prompted = Counting(tiny, query_prefix="find a picture of ")
    result = evaluate_captions(store, "pictures", captions, encoder=prompted)
    plain = evaluate_captions(store, "pictures", captions, encoder=tiny)
    ours, theirs = result.text_to_image.systems[0].runs[0], plain.text_to_image.systems[0].runs[0]
    assert max(ours["caption-1"].values()) != pytest.approx(max(theirs["caption-1"].values()), abs=1e-3)
    assert result.image_to_text.systems[0].runs == plain.image_to_text.systems[0].runs


def test_two_encoders_are_compared_both_ways(captioned: Path, store: Store, tiny: Encoder) -> None:
    """Of two encoders there is a difference and a p for each way, and the one that sees more is better."""
    captions = read_captions(captioned)
    fake = load_encoder("fake")  # its texts and pictures do not meet
    results = [
        evaluate_captions(store, f"by-{encoder.spec.name}", captions, encoder=encoder) for encoder in (fake, tiny)
    ]
    both = compare_both_ways(results)
    found = {comparison.measure: comparison for comparison in both.text_to_image.comparisons}
    assert found["hit_rate@10"].systems == ("fake", "tiny")
    assert found["hit_rate@10"].exact.value > 0.2
    assert found["hit_rate@10"].exact_p < 0.01
    assert len(both.image_to_text.systems) == 2


def test_captions_files_of_every_layout_say_the_same(tmp_path: Path) -> None:
    """A JSON of lists, one of objects, COCO's annotations, a CSV and a JSONL give the same pictures and captions."""
    for name in ("a.png", "b.png"):
        shutil.copy(IMAGES[0].path, tmp_path / name)
    rows = [("a.png", "one"), ("a.png", "two, three"), ("b.png", "four")]
    coco = {
        "images": [{"id": 7, "file_name": "a.png"}, {"id": 8, "file_name": "b.png"}],
        "annotations": [{"image_id": 7 if name == "a.png" else 8, "caption": said} for name, said in rows],
    }
    written = {
        "lists.json": json.dumps({"a.png": ["one", "two, three"], "b.png": "four"}),
        "objects.json": json.dumps({"a.png": {"captions": ["one", "two, three"]}, "b.png": {"captions": ["four"]}}),
        "coco.json": json.dumps(coco),
        "rows.csv": 'uri,caption\na.png,one\na.png,"two, three"\nb.png,four\n',
        "rows.jsonl": "".join(json.dumps({"uri": name, "caption": said}) + "\n" for name, said in rows),
    }
    for name, text in written.items():
        (tmp_path / name).write_text(text)
        read = read_captions(tmp_path / name)
        assert [(p.path, p.captions) for p in read.images] == [
            (tmp_path / "a.png", ("one", "two, three")),
            (tmp_path / "b.png", ("four",)),
        ], name
        assert read.warnings == ()


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv"])
def test_a_line_separator_within_a_caption_ends_no_line(name: str, tmp_path: Path) -> None:
    """U+2028 is a character of the caption, as JSON and CSV have it."""
    shutil.copy(IMAGES[0].path, tmp_path / "a.png")
    rows = {
        "rows.jsonl": '{"uri": "a.png", "caption": "one\u2028two"}\n',
        "rows.csv": "uri,caption\na.png,one\u2028two\n",
    }
    (tmp_path / name).write_text(rows[name], encoding="utf-8")
    assert [image.captions for image in read_captions(tmp_path / name).images] == [("one\u2028two",)]


def test_images_that_are_not_there_are_left_out_and_counted(captioned: Path, tmp_path: Path) -> None:
    """Their captions go with them; where none is there, or none has a caption, that is an error."""
    shutil.copy(IMAGES[0].path, tmp_path / "a.png")
    file = tmp_path / "some.json"
    file.write_text(json.dumps({"a.png": ["here"], "gone.png": ["not here"], "lost.png": ["nor here"]}))
    read = read_captions(file)
    assert [image.captions for image in read.images] == [("here",)]
    assert read.warnings == ("2 pictures are not there and were left out, with their captions: gone.png, lost.png",)
    to_image, to_text = caption_sets(read)
    assert (len(to_image.queries), len(to_text.corpus)) == (1, 1)
    assert len(read_captions(file, images=tmp_path).images) == 1
    with pytest.raises(InvalidTestSet, match="names 3 pictures, and none is in"):
        read_captions(file, images=captioned)
    file.write_text(json.dumps({"a.png": ["  "]}))
    with pytest.raises(InvalidTestSet, match="1 pictures have no caption"):
        read_captions(file)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", "[]", "holds a list, not an object"),
        ("a.json", "{", "is not JSON"),
        ("a.json", '{"a.png": 3}', "has no list of captions"),
        ("a.json", '{"images": [{"id": 1}], "annotations": []}', "'file_name' is missing"),
        ("a.json", '{"images": [], "annotations": [{"image_id": 1, "caption": "x"}]}', "which is not listed"),
        ("a.jsonl", '{"uri": "a.png"}', "line 1 is not"),
        ("a.csv", "file,caption\n", "it needs uri and caption"),
        ("a.csv", "uri,caption\na.png\n", "line 2 .*too few cells"),
        ("a.txt", "", "ends in .json, .jsonl or .csv"),
        ("a.json", "{}", "names no picture"),
    ],
)
def test_a_malformed_captions_file_says_what_is_wrong(name: str, text: str, message: str, tmp_path: Path) -> None:
    """Each error names the file and, where there are lines, the line."""
    (tmp_path / name).write_text(text)
    with pytest.raises(InvalidTestSet, match=message) as caught:
        read_captions(tmp_path / name)
    assert str(caught.value).startswith(name)


def test_no_captions_file_at_all(tmp_path: Path) -> None:
    """A folder without one and a file that is not there are errors that say what to name."""
    with pytest.raises(InvalidTestSet, match=r"has no captions\.json, captions\.jsonl or captions\.csv"):
        read_captions(tmp_path)
    with pytest.raises(InvalidTestSet, match=r"gone.json: cannot be read \(No such file"):
        read_captions(tmp_path / "gone.json")


def test_an_encoder_without_an_image_tower_is_refused(captioned: Path, store: Store) -> None:
    """Before anything is encoded or stored."""
    with pytest.raises(UnsupportedModality, match="bm25"):
        evaluate_captions(store, "pictures", read_captions(captioned), encoder=load_encoder("bm25"))
    assert store.collections() == []


def test_a_image_that_cannot_be_read_is_found_by_no_search(store: Store, tmp_path: Path) -> None:
    """Its captions count as not found, it asks for nothing and counts 0, and a warning says so."""
    shutil.copy(IMAGES[0].path, tmp_path / "a.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    (tmp_path / "c.json").write_text(json.dumps({"a.png": ["violin"], "broken.png": ["anything"]}))
    result = evaluate_captions(store, "pictures", read_captions(tmp_path / "c.json"), encoder=load_encoder("fake"))
    assert result.text_to_image.systems[0].exact.per_query["hit_rate@1"] == {"caption-1": 1, "caption-2": 0}
    assert result.image_to_text.systems[0].exact.missing == 1
    assert any("1 documents cannot be encoded" in warning for warning in result.text_to_image.warnings)
