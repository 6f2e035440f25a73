"""Honest evaluation: how good is this on my own pictures, texts and questions?

    evaluate_captions   image-text retrieval both ways, from `read_captions`
    evaluate_retrieval  texts or pictures of a test set, one vector a document; evaluate_passages: as an index has them
    evaluate_classes    zero-shot labels of a folder a class
    evaluate_searches   a search log on a collection; evaluate_encoders: on its files, indexed anew by each encoder
    compare             reports of several systems -> one, with tests of their differences

    read_test_set       a folder in BEIR's, TREC's or Cranfield's layout -> TestSet (queries, corpus, qrels)
    evaluate_run        rankings and judgements -> Scores: every measure of every query, by trec_eval
    evaluate_system     the same of a system twice: by exact search, and by the collection as it is
    evaluate_run_files  TREC run files -> Report
    Report              all numbers with their intervals: rows, comparisons, as_json; report_tables, plot_reports

Reading order: measures.py -> report.py -> testset.py -> formats/.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from mmembed.evaluation.comparison import compare
from mmembed.evaluation.formats import read_test_set
from mmembed.evaluation.formats.beir import read_beir, write_beir
from mmembed.evaluation.formats.captions import Captions, read_captions
from mmembed.evaluation.formats.cranfield import read_cranfield
from mmembed.evaluation.formats.search_log import SearchLog, log_of, read_searches
from mmembed.evaluation.formats.trec import read_qrels, read_queries, read_run, read_trec, write_qrels, write_run
from mmembed.evaluation.measures import MEASURES, Qrels, Run, Scores, depth_of, evaluate_run, parse_measures
from mmembed.evaluation.plots import plot_reports
from mmembed.evaluation.report import Comparison, Estimate, MeasureRow, Report, System, evaluate_system
from mmembed.evaluation.tables import report_tables
from mmembed.evaluation.tasks.classification import evaluate_classes
from mmembed.evaluation.tasks.encoders import evaluate_encoders
from mmembed.evaluation.tasks.image_text import BothWays, compare_both_ways, evaluate_captions
from mmembed.evaluation.tasks.passages import evaluate_passages
from mmembed.evaluation.tasks.retrieval import evaluate_retrieval
from mmembed.evaluation.tasks.run_files import evaluate_run_files
from mmembed.evaluation.tasks.searches import evaluate_searches
from mmembed.evaluation.testset import CorpusDocument, Query, TestSet, check_test_set
from mmembed.statistics import Interval, bootstrap_intervals, randomisation_test

__all__ = [
    "MEASURES",
    "BothWays",
    "Captions",
    "Comparison",
    "CorpusDocument",
    "Estimate",
    "Interval",
    "MeasureRow",
    "Qrels",
    "Query",
    "Report",
    "Run",
    "Scores",
    "SearchLog",
    "System",
    "TestSet",
    "bootstrap_intervals",
    "check_test_set",
    "compare",
    "compare_both_ways",
    "depth_of",
    "evaluate_captions",
    "evaluate_classes",
    "evaluate_encoders",
    "evaluate_passages",
    "evaluate_retrieval",
    "evaluate_run",
    "evaluate_run_files",
    "evaluate_searches",
    "evaluate_system",
    "log_of",
    "parse_measures",
    "plot_reports",
    "randomisation_test",
    "read_beir",
    "read_captions",
    "read_cranfield",
    "read_qrels",
    "read_queries",
    "read_run",
    "read_searches",
    "read_test_set",
    "read_trec",
    "report_tables",
    "write_beir",
    "write_qrels",
    "write_run",
]

_PARTS = ("harnesses", "testsets")  # packages of their own, loaded when they are first used


def __getattr__(name: str) -> Any:
    if name in _PARTS:
        return import_module(f"mmembed.evaluation.{name}")
    raise AttributeError(f"module 'mmembed.evaluation' has no attribute {name!r}")
