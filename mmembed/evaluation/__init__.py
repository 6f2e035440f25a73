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
    Report              all numbers with their intervals: rows, comparisons, as_json, table, plot

Reading order: measures.py -> statistics.py -> report.py -> testset.py -> layouts.py.
"""

from mmembed.evaluation.beir import read_beir, write_beir
from mmembed.evaluation.captions import Captions, read_captions
from mmembed.evaluation.classes import evaluate_classes
from mmembed.evaluation.compare import compare
from mmembed.evaluation.cranfield import read_cranfield
from mmembed.evaluation.image_text import BothWays, compare_both_ways, evaluate_captions
from mmembed.evaluation.layouts import read_test_set
from mmembed.evaluation.measures import MEASURES, Qrels, Run, Scores, depth_of, evaluate_run, parse_measures
from mmembed.evaluation.passages import evaluate_passages
from mmembed.evaluation.reindexed import evaluate_encoders
from mmembed.evaluation.report import Compared, Comparison, Estimate, Report, Row, System, evaluate_system
from mmembed.evaluation.retrieval import evaluate_retrieval
from mmembed.evaluation.run_files import evaluate_run_files
from mmembed.evaluation.search_log import SearchLog, log_of, read_searches
from mmembed.evaluation.searches import evaluate_searches
from mmembed.evaluation.statistics import Interval, bootstrap_intervals, randomisation_test
from mmembed.evaluation.testset import Document, Query, TestSet, check_test_set
from mmembed.evaluation.trec import read_qrels, read_queries, read_run, read_trec, write_qrels, write_run

__all__ = [
    "MEASURES",
    "BothWays",
    "Captions",
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
    "write_beir",
    "write_qrels",
    "write_run",
]
