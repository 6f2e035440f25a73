"""Rankings that were made elsewhere, as TREC run files, against judgements."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from mmembed.errors import InvalidTestSet
from mmembed.evaluation.formats.lines import a_few
from mmembed.evaluation.formats.trec import read_qrels, read_run
from mmembed.evaluation.measures import MEASURES, parse_measures
from mmembed.evaluation.report import Report, evaluate_system
from mmembed.streams import check_several


def evaluate_run_files(
    qrels: Path, runs: Sequence[Path], *, measures: Sequence[str] = MEASURES, seed: int = 0
) -> Report:
    """One system a file, named after it, with intervals, and a test of every two. There is one ranking of each.

    Raises InvalidTestSet for no run, a malformed file or judgements without a relevant document, SettingsError for an
    unknown measure, UnreadableSource for a file that cannot be read.
    """
    check_several(runs, "run files")
    if not runs:
        raise InvalidTestSet(f"no run was given beside the judgements {qrels}: name one TREC run file, or several")
    names = parse_measures(measures)
    judgements = read_qrels(qrels)
    read = {name: read_run(file) for name, file in zip(_names(runs), runs, strict=True)}
    systems = tuple(evaluate_system(name, run, None, judgements, measures=names) for name, run in read.items())
    known = {document for grades in judgements.values() for document in grades}
    known |= {document for run in read.values() for ranking in run.values() for document in ranking}
    unjudged = {name: sorted(run.keys() - judgements.keys()) for name, run in read.items()}
    return Report(
        "rankings",
        systems,
        names,
        queries=sum(any(grade > 0 for grade in grades.values()) for grades in judgements.values()),
        documents=len(known),
        warnings=tuple(
            f"queries that {name} answers, but nobody judged, so left out: {len(unknown)} ({a_few(unknown)})"
            for name, unknown in unjudged.items()
            if unknown
        ),
        facts={"qrels": qrels.name, "runs": {name: file.name for name, file in zip(read, runs, strict=True)}},
        seed=seed,
        counted=("queries", "documents judged or found"),
    )


def _names(runs: Sequence[Path]) -> list[str]:
    """The files' names without suffixes; their whole paths where two are alike."""
    stems = [re.sub(r"(\.(run|trec|txt|gz))+$", "", file.name) for file in runs]
    names = stems if len(set(stems)) == len(stems) else [str(file) for file in runs]
    twice = next((name for name, times in Counter(names).items() if times > 1), None)
    if twice is not None:
        raise InvalidTestSet(f"run {twice} was given twice: name each file once")
    return names
