"""The command line: results on stdout, everything else on stderr.

Exit codes: 0 done; 1 an error, or nothing could be indexed; 2 usage; 3 an index finished with
some failures.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from mmembed import __version__
from mmembed.cli import find, index, listing
from mmembed.errors import MmembedError

__all__ = ["app", "main"]

app = typer.Typer(
    name="mmembed",
    help="Multimodal search for Qdrant: index pictures and documents, search them by words and by picture.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(index.app, name="index")
app.command("search")(find.search_command)
app.command("collections")(listing.collections_command)
app.command("delete")(listing.delete_command)
app.command("drop")(listing.drop_command)
app.command("encoders")(listing.encoders_command)
app.command("info")(listing.info_command)


@app.command("demo")
def demo_command(
    output: Annotated[Path, typer.Option(help="The contact sheet to write.")] = Path("demo.html"),
    store: Annotated[
        str | None, typer.Option(help="Where to index; by default a temporary Edge folder.", show_default=False)
    ] = None,
) -> None:
    """Index 300 pictograms and a few documents, run every kind of search, write a contact sheet."""
    from mmembed.demo import run_demo

    for line in run_demo(output, store=store):
        typer.echo(line)


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


def main() -> None:
    """Run the command line; an error is one line on stderr, never a traceback."""
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        app()
    except MmembedError as exc:
        _fail(str(exc))
    except KeyboardInterrupt:
        typer.echo("interrupted: run the same command again to go on where it stopped", err=True)
        sys.exit(130)
    except Exception as exc:
        if os.environ.get("MMEMBED_DEBUG"):
            raise
        _fail(f"{type(exc).__name__}: {' '.join(str(exc).split())} (MMEMBED_DEBUG=1 shows where)")


def _fail(sentence: str) -> None:
    typer.echo(f"error: {sentence}", err=True)
    sys.exit(1)
