"""Honest evaluation: how good is this on my own pictures, texts and questions?

    read_test_set       a folder in BEIR's, TREC's or Cranfield's layout -> TestSet (queries, corpus, qrels)
    evaluate_run        rankings and judgements -> Scores: every measure of every query, by trec_eval
    evaluate_system     the same of a system twice: by exact search, and by the collection as it is
    evaluate_run_files  TREC run files -> Report
    Report              all numbers with their intervals: rows, comparisons, as_json, table, plot

Reading order: measures.py -> statistics.py -> report.py -> testset.py -> layouts.py.
"""

from mmembed.evaluation.beir import read_beir, write_beir
from mmembed.evaluation.cranfield import read_cranfield
from mmembed.evaluation.layouts import read_test_set
from mmembed.evaluation.measures import MEASURES, Qrels, Run, Scores, depth_of, evaluate_run, parse_measures
from mmembed.evaluation.report import Compared, Comparison, Estimate, Report, Row, System, evaluate_system
from mmembed.evaluation.run_files import evaluate_run_files
from mmembed.evaluation.statistics import Interval, bootstrap_intervals, randomisation_test
from mmembed.evaluation.testset import Document, Query, TestSet, check_test_set
from mmembed.evaluation.trec import read_qrels, read_queries, read_run, read_trec, write_qrels, write_run

__all__ = [
    "MEASURES",
    "Compared",
    "Comparison",
    "Document",
    "Estimate",
    "Interval",
    "Qrels",
    "Query",
    "Report",
    "Row",
    "Run",
    "Scores",
    "System",
    "TestSet",
    "bootstrap_intervals",
    "check_test_set",
    "depth_of",
    "evaluate_run",
    "evaluate_run_files",
    "evaluate_system",
    "parse_measures",
    "randomisation_test",
    "read_beir",
    "read_cranfield",
    "read_qrels",
    "read_queries",
    "read_run",
    "read_test_set",
    "read_trec",
    "write_beir",
    "write_qrels",
    "write_run",
]
