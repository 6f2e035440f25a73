"""Test sets and rankings as files: BEIR's, TREC's and Cranfield's layouts, what is wrong in them, and writing them."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import pytrec_eval

from mmembed.errors import InvalidTestSet, SettingsError, UnreadableSource
from mmembed.evaluation import (
    CorpusDocument,
    Query,
    check_test_set,
    evaluate_run,
    read_beir,
    read_cranfield,
    read_qrels,
    read_queries,
    read_run,
    read_test_set,
    write_beir,
    write_qrels,
    write_run,
)

CORPUS = '{"_id": "d1", "title": "Cats", "text": "They purr."}\n{"_id": 2, "text": ""}\n'
QUERIES = '{"_id": "q1", "text": "what purrs?"}\n\n{"_id": "q2", "text": "what barks?", "metadata": {"x": 1}}\n'
JUDGED = "query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\t2\t0\n"

Beir = Callable[..., Path]


@pytest.fixture
def beir(tmp_path: Path) -> Beir:
    """A small folder in BEIR's layout; each file can be given otherwise, None leaves it out."""

    def write(
        corpus: str | None = CORPUS, queries: str | None = QUERIES, qrels: str | None = JUDGED, split: str = "test"
    ) -> Path:
        folder = tmp_path / "set"
        (folder / "qrels").mkdir(parents=True)
        for name, text in (("corpus.jsonl", corpus), ("queries.jsonl", queries), (f"qrels/{split}.tsv", qrels)):
            if text is not None:
                (folder / name).write_text(text, encoding="utf-8")
        return folder

    return write


def test_beir(beir: Beir) -> None:
    """Corpus, queries and graded judgements; ids that are numbers become strings, further keys are ignored."""
    found = read_test_set(beir())
    assert found.corpus == {"d1": CorpusDocument("Cats", "They purr."), "2": CorpusDocument()}
    assert found.queries == {"q1": Query("what purrs?"), "q2": Query("what barks?")}
    assert found.qrels == {"q1": {"d1": 2, "2": 0}}
    assert list(found.judged) == ["q1"]
    assert (found.name, found.warnings, found.left_out) == ("set", (), 0)
    assert found.corpus["d1"].whole_text == "Cats They purr."


def test_beir_with_images(beir: Beir) -> None:
    """`image` is relative to the folder, in the corpus and in queries, with or without text."""
    folder = beir(
        '{"_id": "d1", "image": "pictures/cat.jpg", "uri": "photos/cat.jpg"}\n',
        '{"_id": "q1", "image": "cat.png"}\n{"_id": "q2", "text": "a cat", "image": null}\n',
    )
    found = read_beir(folder)
    assert found.corpus["d1"] == CorpusDocument(image=folder / "pictures" / "cat.jpg", uri="photos/cat.jpg")
    assert found.queries == {"q1": Query(image=folder / "cat.png"), "q2": Query("a cat")}


def test_splits(beir: Beir) -> None:
    """test, else dev, else train; one that is named must be there."""
    folder = beir(split="train")
    assert read_beir(folder).qrels["q1"]["d1"] == 2
    (folder / "qrels" / "dev.tsv").write_text("query-id\tcorpus-id\tscore\nq2\td1\t1\n")
    assert list(read_beir(folder).qrels) == ["q2"]
    assert list(read_test_set(folder, split="train").qrels) == ["q1"]
    with pytest.raises(InvalidTestSet, match=r"no judgements: looked for qrels/test\.tsv$"):
        read_beir(folder, split="test")


def test_gzip(beir: Beir) -> None:
    """Every file may be gzipped."""
    folder = beir()
    plain = read_test_set(folder)
    for file in [*folder.glob("*.jsonl"), *folder.glob("qrels/*.tsv")]:
        file.with_name(file.name + ".gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
    assert read_test_set(folder) == plain


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"corpus": CORPUS + '{"_id": "d1", "text": "x"}\n'}, "corpus.jsonl, line 3: document 'd1' comes twice"),
        ({"queries": QUERIES + '{"_id": "q1", "text": "x"}\n'}, "queries.jsonl, line 4: query 'q1' comes twice"),
        ({"corpus": CORPUS + "{"}, "corpus.jsonl, line 3: not JSON"),
        ({"corpus": CORPUS + "[1]"}, "corpus.jsonl, line 3: a JSON list, not an object"),
        ({"corpus": '{"text": "x"}'}, "corpus.jsonl, line 1: this document has no `_id`"),
        ({"corpus": '{"_id": "d1"}'}, "line 1: this document has neither `text` nor `image`"),
        ({"corpus": '{"_id": "d1", "text": 3}'}, "line 1: `text` is a JSON int, not a string"),
        ({"corpus": "\n"}, "corpus.jsonl holds no document"),
        ({"queries": '{"_id": "q1", "text": " "}'}, "line 1: this query asks nothing"),
        ({"qrels": JUDGED + "q2\td1\n"}, "test.tsv, line 4: not a judgement"),
        ({"qrels": JUDGED + "q2\td1\tgood\n"}, "test.tsv, line 4: the grade 'good' is not a whole number"),
        ({"qrels": JUDGED + "q2\td1\t0.5\n"}, "line 4: the grade '0.5' is not a whole number"),
        ({"qrels": JUDGED + "q1\td1\t1\n"}, "line 4: document 'd1' is judged twice for query 'q1', and differently"),
        ({"qrels": "query-id\tcorpus-id\tscore\n"}, "test.tsv holds no judgement"),
        ({"qrels": None}, "no judgements: looked for qrels/test.tsv, qrels/dev.tsv, qrels/train.tsv, qrels.tsv"),
        ({"corpus": None}, "lacks corpus.jsonl"),
        ({"queries": None}, "lacks queries.jsonl"),
        ({"qrels": "q9\td1\t1\n"}, "none of its 2 queries has a relevant document"),
        ({"qrels": "q1\td1\t0\nq2\td1\t-1\n"}, "none of its 2 queries has a relevant document"),
    ],
)
def test_what_is_wrong_is_said(beir: Beir, files: dict[str, str | None], message: str) -> None:
    """A test set that cannot be evaluated is refused in one sentence with the file and the line."""
    with pytest.raises(InvalidTestSet) as caught:
        read_test_set(beir(**files))
    assert message in str(caught.value)


def test_faults_that_an_evaluation_survives(beir: Beir) -> None:
    """Unknown queries are dropped, unknown documents stay relevant, barren queries are left out, all with a warning."""
    qrels = "q1\td1\t1\nq1\tgone\t1\nq1\tlost\t0\nq2\td1\t0\nq8\td1\t1\nq9\td1\t1\n"
    found = read_test_set(beir(qrels=qrels))
    assert found.warnings == (
        "queries judged, but not among the queries, so not asked: 2 (q8, q9)",
        "documents relevant, but not in the corpus, so never found: 1 (gone)",
        "queries judged, but without a relevant document, so left out: 1 (q2)",
    )
    assert found.qrels == {"q1": {"d1": 1, "gone": 1, "lost": 0}, "q2": {"d1": 0}}
    assert (list(found.judged), found.left_out) == (["q1"], 1)
    scores = evaluate_run({"q1": {"d1": 1.0}}, found.qrels, ["recall@10", "nDCG@10"])
    assert scores.mean("recall@10") == 0.5  # the document that is gone is missed
    assert scores.mean("nDCG@10") == pytest.approx(1 / (1 + 1 / np.log2(3)))


def test_without_a_corpus_at_hand() -> None:
    """Where what there is to find lies in a collection, no document is unknown."""
    assert check_test_set({"q": Query("x")}, {}, {"q": {"somewhere": 1}}).warnings == ()


def test_trec_folder(tmp_path: Path) -> None:
    """queries.tsv, qrels.txt of four columns and corpus.tsv, with or without titles."""
    (tmp_path / "queries.tsv").write_text("1\twhat purrs?\n2\twhat barks?\r\n")
    (tmp_path / "corpus.tsv").write_text("a\tCats\tThey purr.\nb\tDogs bark.\n")
    (tmp_path / "qrels.txt").write_text("1 0 a 1\n2 Q0 b 3\n2\t0\ta\t-1\n")
    found = read_test_set(tmp_path)
    assert found.queries == {"1": Query("what purrs?"), "2": Query("what barks?")}
    assert found.corpus == {"a": CorpusDocument("Cats", "They purr."), "b": CorpusDocument(text="Dogs bark.")}
    assert found.qrels == {"1": {"a": 1}, "2": {"b": 3, "a": -1}}
    (tmp_path / "corpus.tsv").unlink()
    with pytest.raises(InvalidTestSet, match=r"lacks corpus\.tsv"):
        read_test_set(tmp_path)


@pytest.mark.parametrize(
    ("read", "text", "message"),
    [
        (read_run, "q1 Q0 d1 1 0.5 a\nq1 Q0 d1 2 0.4 a\n", "line 2: document 'd1' comes twice for query 'q1'"),
        (read_run, "q1 Q0 d1 1 0.5\n", "line 1: 5 columns, not the 6"),
        (read_run, "q1 Q0 d1 1 nan a\n", "line 1: the score 'nan' is not a finite number"),
        (read_run, "q1 Q0 d1 1 high a\n", "line 1: the score 'high' is not a finite number"),
        (read_qrels, "q1 0 d1 1 x\n", "line 1: not a judgement"),
        (read_qrels, "", "holds no judgement"),
        (read_queries, "q1\ta\nq1\tb\n", "line 2: query 'q1' comes twice"),
        (read_queries, "q1 a\n", "line 1: not a query"),
    ],
)
def test_malformed_trec_files(tmp_path: Path, read: Callable[[Path], object], text: str, message: str) -> None:
    """Each is refused in one sentence with its file and line."""
    (tmp_path / "file.txt").write_text(text)
    with pytest.raises(InvalidTestSet) as caught:
        read(tmp_path / "file.txt")
    assert str(caught.value).startswith(str(tmp_path / "file.txt"))
    assert message in str(caught.value)


def test_a_run_goes_out_and_comes_back(tmp_path: Path) -> None:
    """Written and read, a ranking is the same; pytrec_eval reads it alike, and the ranks are trec_eval's."""
    rng = random.Random(1)
    run = {f"q{q}": {f"d{d}": rng.choice([0.1, 0.1 + 1e-9, rng.random()]) for d in range(20)} for q in range(5)}
    write_run(tmp_path / "a.run", run, name="mine")
    assert read_run(tmp_path / "a.run") == run
    lines = (tmp_path / "a.run").read_text().splitlines()
    assert pytrec_eval.parse_run(lines) == run
    first = [line.split() for line in lines[:20]]
    assert [int(fields[3]) for fields in first] == list(range(1, 21))
    keys = [(np.float32(fields[4]), fields[2]) for fields in first]
    assert keys == sorted(keys, reverse=True)
    assert {fields[5] for fields in first} == {"mine"}


def test_judgements_go_out_and_come_back(tmp_path: Path) -> None:
    """Written and read, judgements are the same; pytrec_eval reads them alike."""
    qrels = {"q1": {"a": 2, "b": -1}, "q2": {"é": 0}}
    write_qrels(tmp_path / "qrels", qrels)
    assert read_qrels(tmp_path / "qrels") == qrels
    assert pytrec_eval.parse_qrel((tmp_path / "qrels").read_text().splitlines()) == qrels


def test_white_space_in_a_trec_file_is_refused(tmp_path: Path) -> None:
    """An id with a space would become two columns: nothing is written."""
    with pytest.raises(SettingsError, match=r"'my cat\.jpg' .* separated by white space"):
        write_run(tmp_path / "x", {"q": {"my cat.jpg": 1.0}})
    with pytest.raises(SettingsError, match=r"'my model' .* separated by white space"):
        write_run(tmp_path / "x", {"q": {"a": 1.0}}, name="my model")
    with pytest.raises(SettingsError, match=r"'a query' .* separated by white space"):
        write_qrels(tmp_path / "x", {"a query": {"d": 1}})
    assert not (tmp_path / "x").exists()


def test_beir_goes_out_and_comes_back(tmp_path: Path) -> None:
    """Texts in any script, pictures inside and outside the folder and ids with spaces survive writing and reading."""
    folder = tmp_path / "set"
    outside = tmp_path / "elsewhere" / "dog.jpg"
    made = check_test_set(
        {"q 1": Query("what\npurrs?"), "é": Query(image=folder / "q.png"), "both": Query("日本", folder / "q.png")},
        {
            "my cat.jpg": CorpusDocument(image=folder / "pictures" / "my cat.jpg", uri="photos/my cat.jpg"),
            "dog": CorpusDocument(image=outside),
            "日": CorpusDocument("Title", 'Text with "quotes", a\ttab and\u2028a line separator.'),
            "empty": CorpusDocument(),
        },
        {"q 1": {"my cat.jpg": 2, "dog": 0}, "é": {"日": 1}},
        name="set",
    )
    write_beir(folder, made)
    assert read_test_set(folder) == made
    first = json.loads((folder / "corpus.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert first["image"] == "pictures/my cat.jpg"


def test_ids_that_judgements_cannot_hold(tmp_path: Path) -> None:
    """A tab in an id would be a column: nothing is written."""
    with pytest.raises(InvalidTestSet, match="tab or a line break"):
        write_beir(tmp_path / "x", check_test_set({"q": Query("x")}, {"a\tb": CorpusDocument()}, {"q": {"a\tb": 1}}))
    assert not (tmp_path / "x").exists()


def test_no_test_set(tmp_path: Path) -> None:
    """A folder with none of the layouts, a file and nothing at all each have an answer."""
    with pytest.raises(InvalidTestSet, match=r"no corpus\.jsonl \(BEIR\), no queries\.tsv \(TREC\)"):
        read_test_set(tmp_path)
    for path in (tmp_path / "file", tmp_path / "gone"):
        (tmp_path / "file").write_text("x")
        with pytest.raises(UnreadableSource, match="is not a folder"):
            read_test_set(path)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """Absent, not UTF-8, not gzip in truth or cut short: UnreadableSource, with the file."""
    (tmp_path / "latin.txt").write_bytes("q 0 é 1\n".encode("latin-1"))
    (tmp_path / "plain.gz").write_bytes(b"q 0 d 1\n")
    (tmp_path / "cut.gz").write_bytes(gzip.compress(b"q 0 d 1\n" * 1000)[:-20])
    (tmp_path / "broken.gz").write_bytes(gzip.compress(b"q 0 d 1\n" * 1000)[:12] + b"\xff" * 30)
    for name in ("gone.txt", "latin.txt", "plain.gz", "cut.gz", "broken.gz"):
        with pytest.raises(UnreadableSource, match=name):
            read_qrels(tmp_path / name)


def test_byte_order_mark_and_line_separators(tmp_path: Path) -> None:
    """A mark that Windows puts first is no part of the first id, and only line feeds end a line."""
    (tmp_path / "queries.tsv").write_bytes("\ufeffq1\ta\u2028b\u0085c\r\nq2\td\r\n".encode())
    assert read_queries(tmp_path / "queries.tsv") == {"q1": Query("a\u2028b\u0085c"), "q2": Query("d")}


def test_cranfield_own_format(tmp_path: Path) -> None:
    """Abstracts by number, questions by position, grades 1 to 4 relevant; an abstract with two texts keeps both."""
    (tmp_path / "cran.all.1400").write_text(
        ".I 1\n.T\nwings\nin air .\n.A\nx\n.B\ny\n.W\nwings\n lift .\n.I 2\n.T\n.A\n.B\n.W\n.I 3\n.T\na\n.W\nb\n.W\nc\n"
    )
    (tmp_path / "cran.qry").write_text(".I 001\n.W\nwhat\nlifts ?\n.I 004\n.W\nwhat falls ?\n")
    (tmp_path / "cranqrel").write_text("1 1 4\n1 2 -1\n2 3  1\n2 1 5 \n")
    found = read_test_set(tmp_path)
    assert found.corpus == {
        "1": CorpusDocument("wings in air .", "wings lift ."),
        "2": CorpusDocument(),
        "3": CorpusDocument("a", "b c"),
    }
    assert found.queries == {"1": Query("what lifts ?"), "2": Query("what falls ?")}
    assert found.qrels == {"1": {"1": 1, "2": 0}, "2": {"3": 1, "1": 0}}
    (tmp_path / "cranqrel").write_text("1 1 high\n")
    with pytest.raises(InvalidTestSet, match="cranqrel, line 1: not a judgement"):
        read_cranfield(tmp_path)
    (tmp_path / "cran.qry").write_text("words\n")
    with pytest.raises(InvalidTestSet, match=r"cran\.qry, line 1: text outside of a record"):
        read_cranfield(tmp_path)


def test_cranfield_itself(data: Path) -> None:
    """1,400 abstracts of which two are empty, 225 questions, every one with something relevant: no warning."""
    folder = data / "text" / "cranfield"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there: it holds cran.all.1400, cran.qry and cranqrel")
    found = read_test_set(folder)
    assert (len(found.corpus), len(found.queries), len(found.judged)) == (1400, 225, 225)
    assert [id for id, document in found.corpus.items() if not document.whole_text] == ["471", "995"]
    assert found.corpus["1"].title == "experimental investigation of the aerodynamics of a wing in a slipstream ."
    assert sum(grade > 0 for grades in found.qrels.values() for grade in grades.values()) == 1612
    assert found.warnings == ()
