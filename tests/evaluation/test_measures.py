"""Measures of a ranking, held against pytrec_eval, against mteb's own scores and against a naive oracle."""

from __future__ import annotations

import math
import random
import re
from dataclasses import dataclass

import numpy as np
import pytest
import pytrec_eval
from places import ROOT

from mmembed.errors import InvalidTestSet, SettingsError
from mmembed.evaluation import MEASURES, depth_of, evaluate_run, parse_measures

CUTOFFS = (1, 3, 10, 100)
KINDS = ("nDCG", "hit_rate", "recall", "precision", "MRR", "MAP")
ALL = [f"{kind}@{k}" for kind in KINDS for k in CUTOFFS] + ["nDCG", "MRR", "MAP", "Rprec"]
TREC = {"nDCG": "ndcg_cut", "hit_rate": "success", "recall": "recall", "precision": "P", "MAP": "map_cut"}
IDS = [f"d{n}" for n in range(30)] + ["D1", "é", "日本", "a b", "\N{GRINNING FACE}", "\ufb01"]
SCORES = [0.1, 0.1 + 1e-9, 0.1 - 1e-9, 0.25, 0.5, -0.5, 0.0, 1e-8, 16777216.0, 16777217.0]

Run = dict[str, dict[str, float]]
Qrels = dict[str, dict[str, int]]


@dataclass(frozen=True)
class Case:
    run: Run
    qrels: Qrels


def random_case(seed: int) -> Case:
    """Ties and near ties, negative grades, unjudged and unfindable documents, queries that the run lacks."""
    rng = random.Random(seed)
    run: Run = {}
    qrels: Qrels = {}
    for number in range(rng.randint(2, 6)):
        query = f"q{number}"
        qrels[query] = {id: rng.choice([-1, 0, 1, 1, 2, 3]) for id in rng.sample(IDS, rng.randint(1, 12))}
        if rng.random() < 0.5:
            qrels[query]["nowhere"] = 1
        found = rng.sample(IDS, rng.randint(0, len(IDS)))
        few = rng.sample(SCORES, rng.randint(1, len(SCORES)))
        if rng.random() < 0.8:
            run[query] = {id: rng.choice(few) if rng.random() < 0.8 else rng.uniform(-1, 1) for id in found}
    qrels["q0"]["d0"] = 1  # one query that counts, and has a run
    run["q0"] = {**run.get("q0", {}), "d1": 0.25}
    return Case(run, qrels)


def counting(qrels: Qrels) -> list[str]:
    return [query for query, grades in qrels.items() if max(grades.values()) > 0]


def ranked(documents: dict[str, float]) -> list[str]:
    """By score as float32, then by the bytes of the id, last first."""
    return sorted(documents, key=lambda name: (np.float32(documents[name]), name.encode()), reverse=True)


def oracle(documents: dict[str, float], grades: dict[str, int], measure: str) -> float:
    """One query's value by the textbook."""
    kind, _, cut = measure.partition("@")
    relevant = {id for id, grade in grades.items() if grade > 0}
    k = int(cut) if cut else (len(relevant) if kind == "Rprec" else 10**6)
    first = ranked(documents)[:k]
    hits = [rank for rank, id in enumerate(first, 1) if id in relevant]
    if kind == "nDCG":
        ideal = sorted((grades[id] for id in relevant), reverse=True)[:k]
        gained = sum(grades[first[rank - 1]] / math.log2(rank + 1) for rank in hits)
        return gained / sum(grade / math.log2(rank + 1) for rank, grade in enumerate(ideal, 1))
    if kind == "MAP":
        return sum(number / rank for number, rank in enumerate(hits, 1)) / len(relevant)
    if kind == "MRR":
        return 1 / hits[0] if hits else 0.0
    if kind == "hit_rate":
        return float(bool(hits))
    return len(hits) / (len(relevant) if kind == "recall" else k)


@pytest.mark.parametrize("block", range(10))
def test_equal_to_a_naive_oracle(block: int) -> None:
    """On 300 random cases every measure of every query is what the textbook gives, and the mean is over those."""
    for seed in range(30 * block, 30 * block + 30):
        case = random_case(seed)
        scores = evaluate_run(case.run, case.qrels, ALL)
        for measure in ALL:
            expected = {q: oracle(case.run.get(q, {}), case.qrels[q], measure) for q in counting(case.qrels)}
            assert scores.per_query[measure] == pytest.approx(expected, abs=1e-12), (seed, measure)
            assert scores.mean(measure) == pytest.approx(sum(expected.values()) / len(expected), abs=1e-12)


def test_equal_to_pytrec_eval() -> None:
    """On 300 random cases every value is pytrec_eval's to the last bit; reciprocal ranks are those of the first k."""
    asked = {f"{trec}.{k}" for trec in TREC.values() for k in CUTOFFS} | {"ndcg", "recip_rank", "map", "Rprec"}
    for seed in range(300):
        case = random_case(seed)
        scores = evaluate_run(case.run, case.qrels, ALL)
        judged = {query: case.qrels[query] for query in counting(case.qrels)}  # it may hang on the others
        reference = pytrec_eval.RelevanceEvaluator(judged, asked).evaluate(case.run)
        for query in judged:
            theirs = reference.get(query)
            for kind, trec in TREC.items():
                for k in CUTOFFS:
                    assert scores.per_query[f"{kind}@{k}"][query] == (theirs[f"{trec}_{k}"] if theirs else 0.0)
            for name, trec in (("nDCG", "ndcg"), ("MRR", "recip_rank"), ("MAP", "map"), ("Rprec", "Rprec")):
                assert scores.per_query[name][query] == (theirs[trec] if theirs else 0.0)
            for k in CUTOFFS:
                first = {id: case.run[query][id] for id in ranked(case.run[query])[:k]} if theirs else {}
                cut = pytrec_eval.RelevanceEvaluator(judged, {"recip_rank"}).evaluate({query: first})
                assert scores.per_query[f"MRR@{k}"][query] == cut[query]["recip_rank"]


def test_equal_to_mteb() -> None:
    """On 300 random cases, 30 in one run, mteb's own scores are ours: of each query, and rounded in the mean.

    mteb ranks by float64 for its MRR alone, so there it is given what trec_eval compares: the scores as float32.
    """
    from mteb._evaluators.retrieval_metrics import calculate_retrieval_scores, mrr

    for block in range(10):
        cases = {seed: random_case(seed) for seed in range(30 * block, 30 * block + 30)}
        qrels = {f"{n} {q}": case.qrels[q] for n, case in cases.items() for q in counting(case.qrels) if q in case.run}
        run = {query: cases[int(query.split()[0])].run[query.split()[1]] for query in qrels}
        scores, theirs = evaluate_run(run, qrels, ALL), calculate_retrieval_scores(run, qrels, CUTOFFS)
        singles = {query: {id: float(np.float32(score)) for id, score in run[query].items()} for query in run}
        reciprocal = mrr(qrels, singles, CUTOFFS)
        means = {"nDCG": ("NDCG", theirs.ndcg), "recall": ("Recall", theirs.recall)}
        means |= {"precision": ("P", theirs.precision), "MAP": ("MAP", theirs.map)}
        for k in CUTOFFS:
            for kind, trec in TREC.items():
                expected = {query: theirs.all_scores[query][f"{trec}_{k}"] for query in run}
                assert scores.per_query[f"{kind}@{k}"] == expected
            assert list(scores.per_query[f"MRR@{k}"].values()) == pytest.approx(reciprocal[f"MRR@{k}"], abs=1e-12)
            for kind, (name, values) in means.items():
                assert scores.mean(f"{kind}@{k}") == pytest.approx(values[f"{name}@{k}"], abs=0.51e-5)


def test_worked_example() -> None:
    """Relevant a and c, ranked b, a, x: the numbers can be done in the head."""
    scores = evaluate_run({"q": {"b": 3, "a": 2, "x": 1}}, {"q": {"a": 1, "b": 0, "c": 1}}, ALL)
    assert scores.mean("hit_rate@1") == 0
    assert scores.mean("hit_rate@3") == 1
    assert scores.mean("recall@3") == 0.5
    assert scores.mean("precision@10") == 0.1
    assert (scores.mean("MRR@1"), scores.mean("MRR@3"), scores.mean("MRR")) == (0, 0.5, 0.5)
    assert scores.mean("MAP") == 0.25
    assert scores.mean("nDCG@3") == pytest.approx((1 / math.log2(3)) / (1 + 1 / math.log2(3)))


def test_ties_go_to_the_last_id() -> None:
    """Scores that are one float32 are a tie, whatever comes first in the run: the document with the later id leads."""
    qrels = {"q": {"a": 1}}
    assert evaluate_run({"q": {"a": 0.1 + 1e-9, "b": 0.1}}, qrels, ["hit_rate@1"]).mean("hit_rate@1") == 0
    assert evaluate_run({"q": {"a": 0.1 + 1e-6, "b": 0.1}}, qrels, ["hit_rate@1"]).mean("hit_rate@1") == 1
    assert evaluate_run({"q": {"b": 0.1, "a": 0.1}}, {"q": {"b": 1}}, ["MRR@1"]).mean("MRR@1") == 1


def test_a_query_that_the_run_lacks_counts_zero() -> None:
    """Missing from the run, or empty there: it is in the mean, with 0, and counted."""
    qrels = {"q1": {"a": 1}, "q2": {"a": 1}, "q3": {"a": 1}}
    scores = evaluate_run({"q1": {"a": 1.0}, "q2": {}}, qrels, MEASURES)
    assert scores.per_query["nDCG@10"] == {"q1": 1.0, "q2": 0.0, "q3": 0.0}
    assert scores.mean("hit_rate@1") == pytest.approx(1 / 3)
    assert (scores.missing, scores.left_out) == (2, 0)


def test_a_query_without_a_relevant_document_is_left_out() -> None:
    """Judged without one, or only in the run: it is in no mean, and counted."""
    qrels = {"q1": {"a": 1}, "q2": {"a": 0, "b": -1}, "q3": {}}
    scores = evaluate_run({"q1": {"a": 1.0}, "q2": {"a": 1.0}, "q4": {"a": 1.0}}, qrels, ["MAP"])
    assert scores.per_query == {"MAP": {"q1": 1.0}}
    assert (scores.missing, scores.left_out) == (0, 3)


def test_a_query_with_negative_judgements_alone_is_left_out() -> None:
    """It is never handed to pytrec_eval, which, after another query, may not return from it."""
    first = {"d26": -1, "d7": 3, "d20": 1, "d3": 1, "d21": 3, "nowhere": 1, "d0": 1}
    found = {f"d{n}": n / 100 for n in range(20)}
    scores = evaluate_run({"q1": found, "q0": {"d1": 0.25}}, {"q0": first, "q1": {"d12": -1}}, ALL)
    assert (set(scores.per_query["MAP"]), scores.left_out) == ({"q0"}, 1)


def test_an_empty_run_is_zero() -> None:
    """Nothing found for any query gives 0 in every measure, not NaN."""
    scores = evaluate_run({}, {"q": {"a": 1}}, ALL)
    assert {measure: scores.mean(measure) for measure in ALL} == dict.fromkeys(ALL, 0.0)


def test_nothing_relevant_is_refused() -> None:
    """Judgements without one relevant document say nothing: InvalidTestSet."""
    nothing: list[Qrels] = [{}, {"q": {}}, {"q": {"a": 0, "b": -1}}]
    for qrels in nothing:
        with pytest.raises(InvalidTestSet, match="relevant document"):
            evaluate_run({"q": {"a": 1.0}}, qrels, MEASURES)


def test_a_score_that_is_not_a_number_is_refused() -> None:
    """trec_eval would rank NaN anywhere: the query and the document are named instead."""
    with pytest.raises(InvalidTestSet, match="document 'b' for query 'q'"):
        evaluate_run({"q": {"a": 1.0, "b": math.nan}}, {"q": {"a": 1}}, MEASURES)


def test_names_in_any_case() -> None:
    """Measures are found in any case, written as papers write them, and each is there once."""
    assert parse_measures(["ndcg@10", "NDCG@10", "Hit_Rate@1", "mrr", "rprec", " map "]) == (
        *("nDCG@10", "hit_rate@1", "MRR", "Rprec", "MAP"),
    )
    assert parse_measures(MEASURES) == MEASURES
    assert tuple(evaluate_run({}, {"q": {"a": 1}}, ["map@5", "MAP@5"]).per_query) == ("MAP@5",)


@pytest.mark.parametrize(
    "name", ["R@1", "nDCG@0", "ndcg@", "hit_rate", "rprec@5", "recall@-1", "recall@1.5", "", "@10"]
)
def test_an_unknown_measure_is_named_with_those_there_are(name: str) -> None:
    """R@1 in particular, which means two things, is answered with the two names there are for it."""
    with pytest.raises(SettingsError, match=r"no measure .*hit_rate@k \(what papers on CLIP print as R@k\), recall@k"):
        evaluate_run({}, {"q": {"a": 1}}, [name])


def test_no_measure_is_refused() -> None:
    """An empty list of measures is an error, not an empty report."""
    with pytest.raises(SettingsError, match="no measure"):
        evaluate_run({}, {"q": {"a": 1}}, [])


def test_depth_is_what_the_measures_read() -> None:
    """The largest cutoff; measures without one read the 1,000 documents of a TREC run."""
    assert depth_of(["nDCG@10", "recall@100"]) == 100
    assert depth_of(["nDCG@10", "MAP"]) == 1000
    assert depth_of(["recall@5000", "MRR"]) == 5000


def test_the_documentation_runs() -> None:
    """The Python in docs/evaluation.md does what it says, and every measure there is known."""
    text = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
    exec(re.search(r"```python\n(.*?)```", text, re.DOTALL)[1])  # type: ignore[index]
    named = [name for row in re.findall(r"^\| (`.*?) \|", text, re.MULTILINE) for name in re.findall("`(.+?)`", row)]
    assert {name.partition("@")[0] for name in named} == {*KINDS, "Rprec"}
    assert parse_measures([name.replace("@k", "@7") for name in named])
