"""A test set as files, in the layout of BEIR: corpus.jsonl, queries.jsonl, qrels/test.tsv, and how it was made."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from mmembed.documents import read_document
from mmembed.errors import SettingsError, UnreadableImage
from mmembed.evaluation.formats.beir import write_beir, write_lines
from mmembed.evaluation.testset import CorpusDocument, Query, TestSet
from mmembed.evaluation.testsets.queries import Candidate
from mmembed.evaluation.testsets.sampling import QuerySource, whole_text
from mmembed.images import read_image

_FACTS = "testset.json"
_IMAGES = "pictures"


def check_folder(folder: Path) -> None:
    """Make the folder. Raises SettingsError where it is a file, or holds a test set that was not made here."""
    if folder.exists() and not folder.is_dir():
        raise SettingsError(f"{folder} is a file, and a test set is a folder of files: name another folder")
    foreign = [name for name in ("corpus.jsonl", "queries.jsonl") if (folder / name).exists()]
    if foreign and not (folder / _FACTS).exists():
        raise SettingsError(
            f"{folder} holds a {foreign[0]} that mmembed did not write, and would lose it: name another folder"
        )
    folder.mkdir(parents=True, exist_ok=True)


def image_file(source: QuerySource, folder: Path, inside: Callable[[str], Mapping[str, bytes]]) -> Path:
    """The file of a picture; one inside a document is taken out of it, into the test set, by `images_inside`.

    Raises UnreadableImage where the picture is gone, UnreadableDocument where its document is.
    """
    if Path(source.uri).is_file():
        return Path(source.uri)
    if source.inside is None:
        raise UnreadableImage(f"{source.uri}: the picture is not there any more, so it is left out: index again")
    content = inside(source.inside).get(source.uri)
    if content is None:
        raise UnreadableImage(f"{source.uri}: the picture is not in its document any more: index that again")
    suffix = read_image(content, uri=source.uri).format.lower()
    file = folder / _IMAGES / f"{hashlib.blake2b(content, digest_size=16).hexdigest()}.{suffix}"
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(content)
    return file


def images_inside(document: str) -> Mapping[str, bytes]:
    """uri -> content of each picture in a document."""
    images = read_document(Path(document), uri=document, linked=False).images
    return {image.uri: image.content for image in images if image.content is not None}


def write_files(
    folder: Path,
    corpus: Sequence[QuerySource],
    images: Mapping[str, Path],
    queries: Sequence[Candidate],
    facts: Mapping[str, object],
) -> None:
    """Write all files, each whole or not at all; `images` are the files of a corpus of pictures, by uri."""
    named = {f"q{number}": query for number, query in enumerate(queries, 1)}
    testset = TestSet(
        {name: Query(query.text) for name, query in named.items()},
        {source.uri: _document(source, images.get(source.uri), folder) for source in corpus},
        {name: dict.fromkeys(sorted(query.uris), 1) for name, query in named.items()},
    )
    write_beir(folder, testset)
    write_lines(folder / _FACTS, [json.dumps(facts, ensure_ascii=False, indent=2)])


def _document(source: QuerySource, image: Path | None, folder: Path) -> CorpusDocument:
    """A picture without its caption, by which it would be found; named from the folder where it lies beside it."""
    if image is None:
        return CorpusDocument(source.title, whole_text(source))
    image, around = image.resolve(), folder.resolve()
    beside = image.is_relative_to(around.parent)
    return CorpusDocument(image=folder / os.path.relpath(image, around) if beside else image)
