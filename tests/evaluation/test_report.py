"""Reports: three numbers side by side, two systems compared, as tables, JSON and plots."""

from __future__ import annotations

import io
import json
import random
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from mmembed.errors import InvalidTestSet, SettingsError, UnreadableSource
from mmembed.evaluation import (
    MEASURES,
    Report,
    Scores,
    evaluate_run_files,
    evaluate_system,
    plot_reports,
    report_tables,
    write_qrels,
    write_run,
)
from mmembed.evaluation.report import System
from mmembed.statistics import randomisation_test

QUERIES = 60
NAMES = ("minilm", "open_clip:ViT-B-32/laion2b_s34b_b79k")

Run = dict[str, dict[str, float]]
Qrels = dict[str, dict[str, int]]


def rankings(seed: int, noise: float) -> tuple[Qrels, Run, Run]:
    """Judgements, a run by exact search and what an index that loses a tenth would find."""
    rng, judged = random.Random(seed), random.Random(0)
    qrels = {f"q{q}": {f"d{d}": 1 for d in judged.sample(range(200), 5)} for q in range(QUERIES)}
    exact = {
        query: {f"d{d}": rng.gauss(f"d{d}" in grades, noise) for d in range(200)} for query, grades in qrels.items()
    }
    as_is = {query: {d: s for d, s in found.items() if rng.random() > 0.1} for query, found in exact.items()}
    return qrels, exact, as_is


@pytest.fixture(scope="module")
def report() -> Report:
    """Two systems, the second better, both of which lose something to their index."""
    systems = []
    for seed, (name, noise) in enumerate(zip(NAMES, (0.6, 0.3), strict=True)):
        qrels, exact, as_is = rankings(seed, noise)
        systems.append(evaluate_system(name, exact, as_is, qrels))
    return Report("text retrieval", tuple(systems), MEASURES, QUERIES, 200, ("the corpus is small",), {"depth": 200})


def printed(report: Report, width: int) -> list[str]:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(report_tables(report))
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text.splitlines()


def test_three_numbers_side_by_side(report: Report) -> None:
    """Each row has the mean by exact search, that of the collection as it is, and what lies between them."""
    assert [(row.system, row.measure) for row in report.rows] == [(name, m) for name in NAMES for m in MEASURES]
    for row in report.rows:
        compared = next(system for system in report.systems if system.name == row.system)
        assert row.as_is is not None
        assert row.difference is not None
        assert compared.as_is is not None
        assert row.exact.value == pytest.approx(compared.exact.mean(row.measure))
        assert row.as_is.value == pytest.approx(compared.as_is.mean(row.measure))
        assert row.difference.value == pytest.approx(row.as_is.value - row.exact.value)
        for estimate in (row.exact, row.as_is, row.difference):
            assert estimate.interval is not None
            assert estimate.interval.low <= estimate.value <= estimate.interval.high
    recall = next(row for row in report.rows if row.measure == "recall@100")
    assert recall.difference is not None
    assert recall.difference.interval is not None
    assert recall.difference.interval.high < 0  # what the index loses is not mistaken for chance


def test_pairing_makes_the_difference_certain(report: Report) -> None:
    """The interval of the difference is narrower than those of both numbers: it is taken query by query."""
    row = next(row for row in report.rows if row.measure == "nDCG@10")
    assert row.exact.interval is not None
    assert row.difference is not None
    assert row.difference.interval is not None
    assert np.ptp(row.difference.interval) < 0.7 * np.ptp(row.exact.interval)


def test_two_systems(report: Report) -> None:
    """Second - first, with the p of the paired test, for exact search and for the collections as they are."""
    first, second = report.systems
    for comparison in report.comparisons:
        m = comparison.measure
        assert comparison.systems == NAMES
        assert comparison.exact.value == pytest.approx(second.exact.mean(m) - first.exact.mean(m))
        paired = [second.exact.per_query[m][q] - value for q, value in first.exact.per_query[m].items()]
        assert comparison.exact_p == randomisation_test(np.array(paired))
        assert comparison.as_is is not None
        assert comparison.as_is_p is not None
    assert [c.measure for c in report.comparisons] == list(MEASURES)
    assert next(c for c in report.comparisons if c.measure == "MAP").exact_p == pytest.approx(0.0001)


def test_more_than_two_systems_are_compared_in_pairs() -> None:
    """Three systems make three comparisons of each measure, in their order."""
    scores = Scores({"MAP": {"a": 0.5, "b": 1.0}})
    three = Report("x", tuple(System(name, scores) for name in "abc"), ("MAP",), 2, 2)
    assert [c.systems for c in three.comparisons] == [("a", "b"), ("a", "c"), ("b", "c")]


def test_other_queries_are_not_compared() -> None:
    """Two systems measured on different queries are refused."""
    one, other = Scores({"MAP": {"a": 0.5, "b": 1.0}}), Scores({"MAP": {"a": 0.5, "c": 1.0}})
    wrong = Report("x", (System("a", one), System("b", other)), ("MAP",), 2, 2)
    with pytest.raises(InvalidTestSet, match="the same queries"):
        _ = wrong.comparisons


def test_measures_may_be_means_of_different_things() -> None:
    """A measure over pictures beside one over classes: each has the interval of its own."""
    scores = Scores({"acc1": {str(n): float(n % 2) for n in range(100)}, "recall": {"cat": 0.5, "dog": 0.5}})
    accuracy, recall = Report("x", (System("a", scores),), ("acc1", "recall"), 100, 2).rows
    assert accuracy.exact.interval is not None
    assert np.ptp(accuracy.exact.interval) == pytest.approx(0.2, abs=0.02)
    assert recall.exact.interval == (0.5, 0.5)


def test_one_query(tmp_path: Path) -> None:
    """One query has values, no intervals, p 1 and a caution that says so, in every form."""
    systems = tuple(
        System(n, Scores({"MAP": {"q": v}}), Scores({"MAP": {"q": v}})) for n, v in (("a", 0.1), ("b", 0.9))
    )
    one = Report("x", systems, ("MAP",), 1, 5)
    assert all(row.exact.interval is None and row.difference is not None for row in one.rows)
    assert (one.comparisons[0].exact_p, one.comparisons[0].as_is_p) == (1.0, 1.0)
    assert one.cautions == ("one query counts: it says nothing about others, so there are no intervals",)
    assert json.loads(json.dumps(one.as_json()))["systems"][0]["measures"]["MAP"]["exact"]["interval"] is None
    assert "0.1000" in "\n".join(printed(one, 80))
    plot_reports([one], tmp_path / "one.png")
    assert (tmp_path / "one.png").is_file()


def test_an_empty_run_is_said() -> None:
    """A run that has nothing gives zeros and a caution; one that lacks some queries, their number."""
    qrels, exact, _ = rankings(1, 0.5)
    some = {query: found for query, found in exact.items() if query not in ("q1", "q2", "q3")}
    systems = (evaluate_system("empty", {}, exact, qrels), evaluate_system("partial", exact, some, qrels))
    found = Report("x", systems, MEASURES, QUERIES, 200)
    assert found.rows[0].exact.value == 0.0
    assert found.cautions == (
        "empty found nothing for any query: that counts 0",
        f"partial as it is found nothing for 3 of {QUERIES} queries: that counts 0",
    )


def test_json_has_every_number(report: Report) -> None:
    """Values, intervals, differences, p, sizes, warnings and facts; each query's values only where they are wanted."""
    found = json.loads(json.dumps(report.as_json()))
    assert (found["task"], found["queries"], found["documents"], found["left_out"]) == (
        "text retrieval",
        QUERIES,
        200,
        0,
    )
    assert (found["warnings"], found["facts"]) == (["the corpus is small"], {"depth": 200})
    assert [system["name"] for system in found["systems"]] == list(NAMES)
    measured = found["systems"][0]["measures"]
    assert list(measured) == list(MEASURES)
    row = report.rows[0]
    assert measured["nDCG@10"]["exact"] == {"value": row.exact.value, "interval": list(row.exact.interval or ())}
    assert set(measured["nDCG@10"]) == {"exact", "as_is", "difference"}
    (pair,) = found["comparisons"]
    assert pair["systems"] == list(NAMES)
    assert pair["measures"]["MAP"]["exact"]["p"] == pytest.approx(0.0001)
    assert "per_query" not in found["systems"][0]
    each = report.as_json(per_query=True)["systems"][1]["per_query"]
    assert each["as_is"]["MAP"] == report.systems[1].as_is.per_query["MAP"]


@pytest.mark.parametrize("width", [80, 120])
def test_tables_fit(report: Report, width: int) -> None:
    """At 80 and 120 columns each measure is one line, with all its numbers, and nothing is cut off."""
    lines = printed(report, width)
    assert max(map(len, lines)) <= width
    assert not any("…" in line for line in lines)
    for measure in MEASURES:
        assert len([line for line in lines if line.split()[:1] == [measure]]) == 3, (
            measure
        )  # two systems, one comparison
    row = report.rows[0]
    assert any(line.startswith("nDCG@10") and f"{row.exact.value:.4f} [" in line for line in lines)
    assert [line.strip() for line in lines if line.strip() in NAMES] == list(NAMES)
    assert f"{NAMES[1]} - {NAMES[0]}" in [line.strip() for line in lines]
    assert "warning: the corpus is small" in lines


def test_long_names_of_measures_are_folded() -> None:
    """At 80 columns a long name is broken before a number is."""
    scores = Scores({"mean_per_class_recall": {"cat": 0.25, "dog": 0.75}})
    lines = printed(Report("x", (System("a", scores, scores),), ("mean_per_class_recall",), 2, 2), 80)
    assert any("0.5000 [.250, .750]" in line and "+0.0000 [+.000, +.000]" in line for line in lines)


def test_one_ranking_has_one_column() -> None:
    """Where there is no collection there is one number, not three."""
    qrels, exact, _ = rankings(1, 0.5)
    one = Report("rankings", (evaluate_system("a", exact, None, qrels),), MEASURES, QUERIES, 200)
    assert one.rows[0].as_is is None
    assert one.as_json()["systems"][0]["measures"]["MAP"]["as_is"] is None
    heads = [line.split() for line in printed(one, 80) if line.startswith("measure")]
    assert heads == [["measure", "value"]]


def test_plot_is_a_image(report: Report, tmp_path: Path) -> None:
    """PNG and SVG by suffix, with the name of every measure and system; the same report gives the same SVG."""
    plot_reports([report], tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert (image.format, image.width > 800) == ("PNG", True)
        colours = set(map(tuple, np.asarray(image.convert("RGB")).reshape(-1, 3).tolist()))
    assert {(0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)} <= colours  # one of each system
    plot_reports([report], tmp_path / "a.svg")
    text = (tmp_path / "a.svg").read_text()
    ElementTree.fromstring(text)
    for label in (*MEASURES, f"{NAMES[0]}, exact search", f"{NAMES[1]}, as it is", "text retrieval"):
        assert f">{label}<" in text, label
    plot_reports([report], tmp_path / "b.svg")
    assert (tmp_path / "b.svg").read_text() == text


def test_names_are_shown_as_they_are(tmp_path: Path) -> None:
    """An underscore in front hides nothing and dollars are no formula: a run file may be called anything."""
    scores = Scores({"MAP": {"a": 0.5, "b": 1.0}})
    dollars = Report("to $5 <", tuple(System(n, scores) for n in ("_mine", "$x$")), ("MAP",), 2, 2)
    plot_reports([dollars], tmp_path / "a.svg")
    text = (tmp_path / "a.svg").read_text()
    assert all(f">{label}<" in text for label in ("_mine", "$x$", "to $5 &lt;"))


def test_plot_of_another_kind_is_refused(report: Report, tmp_path: Path) -> None:
    """A suffix that is neither PNG nor SVG is a SettingsError, and nothing is written."""
    with pytest.raises(SettingsError, match=r"report\.pdf is neither \.png nor \.svg"):
        plot_reports([report], tmp_path / "report.pdf")
    assert list(tmp_path.iterdir()) == []


def test_run_files(tmp_path: Path) -> None:
    """TREC runs against TREC judgements: values, intervals and the test of every two, named after the files."""
    qrels, good, _ = rankings(1, 0.3)
    _, bad, _ = rankings(2, 0.9)
    write_qrels(tmp_path / "qrels.txt", qrels)
    write_run(tmp_path / "bad.run", bad)
    write_run(tmp_path / "good.v2.run", {**good, "q999": {"d1": 1.0}})
    found = evaluate_run_files(
        tmp_path / "qrels.txt", [tmp_path / "bad.run", tmp_path / "good.v2.run"], measures=["map", "ndcg@10"]
    )
    assert [system.name for system in found.systems] == ["bad", "good.v2"]
    assert (found.measures, found.queries, found.documents, found.left_out) == (("MAP", "nDCG@10"), QUERIES, 200, 1)
    expected = evaluate_system("good", good, None, qrels, measures=["MAP"]).exact.mean("MAP")
    assert found.rows[2].exact.value == pytest.approx(expected)
    assert found.comparisons[0].exact.value > 0
    assert found.comparisons[0].exact_p < 0.01
    assert found.cautions == ("queries that good.v2 answers, but nobody judged, so left out: 1 (q999)",)


def test_run_files_that_cannot_be_evaluated(tmp_path: Path) -> None:
    """No run, one that is given twice, one that is not there, and an empty one each have an answer."""
    qrels, good, _ = rankings(1, 0.3)
    write_qrels(tmp_path / "qrels.txt", qrels)
    write_run(tmp_path / "a.run", good)
    (tmp_path / "empty.run").write_text("")
    with pytest.raises(InvalidTestSet, match="no run was given"):
        evaluate_run_files(tmp_path / "qrels.txt", [])
    with pytest.raises(InvalidTestSet, match="given twice"):
        evaluate_run_files(tmp_path / "qrels.txt", [tmp_path / "a.run", tmp_path / "a.run"])
    with pytest.raises(UnreadableSource, match=r"gone\.run"):
        evaluate_run_files(tmp_path / "qrels.txt", [tmp_path / "gone.run"])
    empty = evaluate_run_files(tmp_path / "qrels.txt", [tmp_path / "empty.run"])
    assert {row.exact.value for row in empty.rows} == {0.0}
    assert empty.cautions == ("empty found nothing for any query: that counts 0",)


def test_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    """Two files of one name in two folders are called by their paths."""
    qrels, good, _ = rankings(1, 0.3)
    write_qrels(tmp_path / "qrels.txt", qrels)
    files = [tmp_path / folder / "a.run" for folder in ("x", "y")]
    for file in files:
        file.parent.mkdir()
        write_run(file, good)
    found = evaluate_run_files(tmp_path / "qrels.txt", files)
    assert [system.name for system in found.systems] == [str(file) for file in files]
    assert {comparison.exact_p for comparison in found.comparisons} == {1.0}
