"""`mmembed verify`: is an encoder right? Ours, a plugin's, or one that a file of Python makes."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmembed.cli import options as o
from mmembed.errors import EncoderLoadError

if TYPE_CHECKING:
    from mmembed.encoders import Encoders
    from mmembed.testing import EncoderReport
    from mmembed.types import Encoder

_COLOURS = {"passed": typer.colors.GREEN, "fault": typer.colors.RED, "skipped": typer.colors.BRIGHT_BLACK}


@o.shared("json", *o.MODELS, "batch_size")
def verify_command(
    session: o.Session,
    encoder: Annotated[
        str, typer.Argument(help="A name, or FILE.py:NAME, an encoder or a function without arguments that makes one.")
    ],
    against: Annotated[str | None, "A correct encoder of the same model, named in the same ways."] = None,
    record: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Write its answers to a JSON file, if it has no fault.")
    ] = None,
    known: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Compare with answers that --record wrote.")
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="The model's folder, which says which special tokens it has."),
    ] = None,
    thorough: Annotated[bool, "Also load it again by its name, and in each of its shorter dimensions."] = False,
    tolerance: Annotated[
        float | None,
        typer.Option(min=0, help="Distance of two equal vectors that is allowed; by default it follows the dtype."),
    ] = None,
) -> None:
    """Test an encoder for the ways in which encoders go wrong silently. Exits with 1 if one of them is found."""
    from mmembed.encoders import Encoders
    from mmembed.testing import check_encoder, read_known_answers, record_known_answers, write_known_answers

    encoders = session.encoders
    answers = None if known is None else read_known_answers(known)
    tried = _load(encoder, encoders)
    report = check_encoder(
        tried,
        against=None if against is None else _load(against, encoders),
        known=answers,
        load=(lambda name: Encoders(encoders.options)[name]) if thorough else None,
        checkpoint=checkpoint,
        tolerance=tolerance,
    )
    session.answer({"encoder": report.encoder, "ok": report.ok, "checks": report.checks}, lambda: _lines(report))
    if not report.ok:
        raise typer.Exit(1)
    if record is not None:
        write_known_answers(record_known_answers(tried), record)


def _load(name: str, encoders: Encoders) -> Encoder:
    in_file = re.fullmatch(r"(.+\.py):(\w+)", name)
    return encoders[name] if in_file is None else _make(Path(in_file[1]), in_file[2])


def _make(file: Path, name: str) -> Encoder:
    """Run the file as `python FILE` would, and take what it calls `name`, or what that returns."""
    value = vars(_run_file(file)).get(name)
    if value is None:
        raise EncoderLoadError(f"{file} defines no {name!r}: name an encoder in it, or a function that makes one")
    if isinstance(value, type) or not hasattr(value, "encode_text"):
        if not callable(value):
            raise EncoderLoadError(f"{name!r} in {file} is a {type(value).__name__}, not an encoder: wrap it in one")
        value = _call(value, f"{name}() in {file}")
    encoder: Encoder = value
    return encoder


def _run_file(file: Path) -> Any:
    if not file.is_file():
        raise EncoderLoadError(f"there is no file {str(file)!r} to take an encoder from: check the path")
    spec = importlib.util.spec_from_file_location(f"mmembed_verified_{file.stem}", file)
    assert spec is not None  # its name ends in .py
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    sys.path.insert(0, str(file.parent.resolve()))
    _call(partial(spec.loader.exec_module, module), str(file))
    return module


def _call(make: Any, what: str) -> Any:
    """Run a stranger's code; whatever it raises becomes one line."""
    try:
        return make()
    except Exception as exc:
        raise EncoderLoadError(f"{what} cannot be run ({type(exc).__name__}: {exc}): fix it first") from exc


def _lines(report: EncoderReport) -> Iterator[str]:
    yield f"{report.encoder}\n"
    width = max(len(check.name) for check in report.checks)
    for check in report.checks:
        outcome = typer.style(f"{check.outcome:<8}", _COLOURS[check.outcome])
        yield f"{outcome} {check.name:<{width}}  {check.found}"
        if check.outcome == "fault":
            yield f"{'':<{width + 11}}why it matters: {check.why}"
    verdict = "right, as far as was judged:"
    if not report.ok:
        s = "" if len(report.faults) == 1 else "s"
        verdict = f"wrong: {len(report.faults)} fault{s} ({', '.join(check.name for check in report.faults)}),"
    counts = Counter(check.outcome for check in report.checks)
    yield f"\n{verdict} {counts['passed']} checks passed, {counts['skipped']} skipped"
