"""Runs the code blocks of the README and of the pages in docs/, and compares what they print with what stands there.

A block of `text` is what the Python above it prints. A paragraph that ends in "`NAME`:" makes the block below it the
file NAME. In what is expected, `...` stands for anything.
"""

from __future__ import annotations

import contextlib
import doctest
import io
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt
from places import ROOT

from mmembed.demo import DOCUMENTS, PICTOGRAMS


@dataclass(frozen=True)
class Block:
    language: str
    text: str
    file: str | None  # what it is the contents of


def blocks_of(page: str, title: str | None = None) -> list[Block]:
    """The code blocks of a page, or of those under one heading of it."""
    found, inside, paragraph = [], title is None, ""
    tokens = MarkdownIt().parse((ROOT / page).read_text(encoding="utf-8"))
    for token, following in zip(tokens, [*tokens[1:], None], strict=True):
        if token.type == "heading_open" and following is not None:
            inside = title is None or following.content == title
        if token.type == "inline":
            paragraph = token.content
        if token.type == "fence" and inside:
            named = re.search(r"`([^`\s]+\.\w+)`:$", paragraph)
            found.append(Block(token.info, token.content, named[1] if named else None))
            paragraph = ""
    assert found, (page, title)
    return found


def commands_of(blocks: Sequence[Block]) -> list[tuple[str, str]]:
    """(command, what it prints) of the console blocks among them."""
    text = "".join(block.text for block in blocks if block.language == "console")
    parts = re.split(r"^\$ (.+)\n", text, flags=re.MULTILINE)
    return list(zip(parts[1::2], parts[2::2], strict=True))


def demo_folder(root: Path) -> Path:
    """Makes the folder that the pages speak of: `pictures` and `texts`, as the demo ships them."""
    shutil.copytree(PICTOGRAMS, root / "pictures")
    shutil.copytree(DOCUMENTS, root / "texts")
    return root


def run_blocks(blocks: Sequence[Block], folder: Path, replaced: Mapping[str, str] | None = None) -> None:
    """Run them in order in `folder`: Python in one namespace, commands each in a process; files are written.

    `replaced` has, for words of a command and texts of a file, what stands in their place here.
    """
    replaced = replaced or {}
    names: dict[str, object] = {}
    for block, following in zip(blocks, [*blocks[1:], None], strict=True):
        if block.file is not None:
            (folder / block.file).write_text(_with_texts(block.text, replaced), encoding="utf-8")
        elif block.language == "python":
            with_output = following is not None and following.language == "text"
            assert_matches(following.text if with_output and following else "", run_python(block.text, folder, names))
        elif block.language == "console":
            for command, expected in commands_of([block]):
                assert_matches(expected, run_command(command, folder, replaced))


def run_python(code: str, folder: Path, names: dict[str, object]) -> str:
    """What the code prints, with `folder` as the working directory."""
    with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(code, names)
    return printed.getvalue()


def run_command(command: str, folder: Path, replaced: Mapping[str, str]) -> str:
    """What `mmembed ...` prints, as a process in `folder`."""
    program, *words = [replaced.get(word, word) for word in shlex.split(command)]
    assert program == "mmembed"
    done = subprocess.run(
        [sys.executable, "-m", "mmembed", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def assert_matches(expected: str, printed: str) -> None:
    """Equal, but for `...` and for how much white space there is."""
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    assert doctest.OutputChecker().check_output(expected, printed, flags), f"expected:\n{expected}\nprinted:\n{printed}"


def run_service(blocks: Sequence[Block], folder: Path) -> int:
    """Serves by the first command, on a free port, and sends each curl below it; how many there were.

    What serves says where it listens, and each answer is as it stands on the page.
    """
    (serve, listening), *curls = commands_of(blocks)
    command = [sys.executable, "-m", *shlex.split(serve), "--port", str(_free_port())]
    with subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True) as served:
        try:
            assert served.stderr is not None
            said = served.stderr.readline()
            address = re.search(r"http://[\d.:]+", said)
            assert address is not None, said
            assert_matches(listening.replace("http://127.0.0.1:8600", address[0]), said)
            for curl, expected in curls:
                words = shlex.split(curl.replace("localhost:8600", address[0]))
                done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=True)
                assert_matches(expected, done.stdout + "\n")
        finally:
            served.terminate()
            served.communicate()
    assert served.returncode == 0
    return len(curls)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _with_texts(text: str, replaced: Mapping[str, str]) -> str:
    for old, new in replaced.items():
        text = text.replace(old, new)
    return text
