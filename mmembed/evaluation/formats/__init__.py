"""Which of the layouts a folder has, by the files that are in it."""

from __future__ import annotations

from pathlib import Path

from mmembed.errors import InvalidTestSet, UnreadableSource
from mmembed.evaluation.formats.beir import read_beir
from mmembed.evaluation.formats.cranfield import read_cranfield
from mmembed.evaluation.formats.lines import first_of
from mmembed.evaluation.formats.trec import read_trec
from mmembed.evaluation.testset import TestSet

__all__ = ["read_test_set"]


def read_test_set(folder: Path, *, split: str | None = None) -> TestSet:
    """BEIR's layout, Cranfield's own, or TREC's files; `split` is BEIR's: test, dev or train.

    Raises InvalidTestSet where it is none of them or something is wrong in it, UnreadableSource where it is no folder.
    """
    if not folder.is_dir():
        raise UnreadableSource(f"{folder} is not a folder: a test set is one, with a corpus, queries and judgements")
    if first_of(folder, "corpus.jsonl", "queries.jsonl"):
        return read_beir(folder, split=split)
    if split is not None:
        raise InvalidTestSet(f"test set {folder} has no split {split!r}: only BEIR's layout (corpus.jsonl) has splits")
    if (folder / "cran.all.1400").is_file():
        return read_cranfield(folder)
    if first_of(folder, "queries.tsv"):
        return read_trec(folder)
    raise InvalidTestSet(
        f"{folder} is no test set that can be read: there is no corpus.jsonl (BEIR), no queries.tsv (TREC) and no "
        f"cran.all.1400 (Cranfield) in it"
    )
