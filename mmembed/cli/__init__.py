"""The command line: results on stdout, everything else on stderr.

Exit codes: 0 done; 1 an error, or nothing could be indexed; 2 usage; 3 an index finished with
some failures; 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from mmembed.cli import calibrate, classify, evaluate, few_shot, index, serve, tag, testset, verify
from mmembed.cli import collections as listing
from mmembed.cli import search as find
from mmembed.cli.options import as_flags
from mmembed.errors import MmembedError

__all__ = ["app", "main"]

_INTERRUPTED = 130
_USAGE_ERROR: type[Exception] = typer.BadParameter.__bases__[0]  # click's own class or typer's copy, by version

app = typer.Typer(
    name="mmembed",
    help="Multimodal search for Qdrant: index pictures and documents, search them by words and by picture.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(index.index_app, name="index")
app.add_typer(evaluate.eval_app, name="eval")
app.command("search")(find.search_command)
app.command("classify")(classify.classify_command)
app.command("calibrate")(calibrate.calibrate_command)
app.command("few-shot")(few_shot.few_shot_command)
app.command("serve")(serve.serve_command)
app.command("collections")(listing.collections_command)
app.command("delete")(listing.delete_command)
app.command("drop")(listing.drop_command)
app.command("encoders")(listing.encoders_command)
app.command("info")(listing.info_command)
app.command("testset")(testset.make_command)
app.command("tag")(tag.tag_command)
app.command("verify")(verify.verify_command)


@app.command("demo")
def demo_command(
    output: Annotated[Path, typer.Option(help="The contact sheet to write.")] = Path("demo.html"),
    store: Annotated[str | None, typer.Option(help="Where to index; by default a temporary Edge folder.")] = None,
) -> None:
    """Index 300 pictograms and a few documents, run every kind of search, write a contact sheet."""
    from mmembed.demo import run_demo

    for line in run_demo(output, store=store):
        typer.echo(line)


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        typer.echo(metadata.version("mmembed"))
        raise typer.Exit


def main() -> None:
    """Run the command line; an error is one line on stderr, never a traceback."""
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        code = app(prog_name="mmembed", standalone_mode=False)
    except MmembedError as exc:
        _fail(as_flags(str(exc)))
    except _USAGE_ERROR as exc:
        _fail_usage(exc)
    except typer.Abort:
        _fail("aborted")
    except Exception as exc:
        if os.environ.get("MMEMBED_DEBUG"):
            raise
        _fail(f"{type(exc).__name__}: {' '.join(str(exc).split())} (MMEMBED_DEBUG=1 shows where)")
    if code == _INTERRUPTED:
        typer.echo("interrupted: run the same command again to go on where it stopped", err=True)
    sys.exit(code)


def _fail(sentence: str) -> NoReturn:
    typer.echo(f"error: {sentence}", err=True)
    sys.exit(1)


def _fail_usage(exc: Any) -> NoReturn:
    """One line, as for other errors; a command without any argument has already printed its help."""
    if type(exc).__name__ != "NoArgsIsHelpError":
        message = " ".join(exc.format_message().split()).rstrip(".")
        command = exc.ctx.command_path if exc.ctx is not None else "mmembed"
        typer.echo(f"error: {message} (`{command} --help` shows what there is)", err=True)
    sys.exit(2)
