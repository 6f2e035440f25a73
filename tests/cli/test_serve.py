"""`mmembed serve` as a program: how it starts, what it refuses, and how it stops."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from mmembed.service.settings import Settings
from mmembed.stores import open_store

SERVE = [sys.executable, "-m", "mmembed", "serve"]


def environment(**variables: str) -> dict[str, str]:
    ours = {name: value for name, value in os.environ.items() if not name.startswith("MMEMBED_")}
    return ours | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"} | variables


@contextmanager
def served(*flags: str, **variables: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The program and the line that it says when it listens."""
    program = subprocess.Popen(
        [*SERVE, *flags], env=environment(**variables), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert program.stderr is not None
    try:
        line = next(line for line in program.stderr if line.startswith(("mmembed serves", "error:")))
        yield program, line.strip()
    finally:
        program.kill()
        program.communicate()


def refused(*flags: str, **variables: str) -> tuple[int, list[str]]:
    """Exit code and lines of a program that must not start."""
    ended = subprocess.run(
        [*SERVE, *flags], env=environment(**variables), capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.stdout == ""
    return ended.returncode, ended.stderr.splitlines()


def address_of(line: str) -> str:
    return line.split()[2]


def still_accepts(url: httpx.URL, *, seconds: float) -> bool:
    """Whether new connections are answered to the end of that time."""
    end = time.monotonic() + seconds
    with contextlib.suppress(httpx.TransportError):
        while time.monotonic() < end:
            httpx.get(url.join("/nothing"), timeout=seconds)
        return True
    return False


def embeddings(text: str) -> bytes:
    return json.dumps({"model": "tiny", "input": text}).encode()


def test_listens_and_stops_by_ctrl_c(tmp_path: Path) -> None:
    """It makes a store that is not there, says one line when it listens, and Ctrl-C is exit code 0 and no traceback."""
    with served("--port", "0", "--store", f"edge:{tmp_path / 'new.mm'}") as (program, line):
        url = address_of(line)
        assert url.startswith("http://127.0.0.1:")
        assert line.endswith(f"(store edge:{tmp_path / 'new.mm'}, encoders bm25, tiny)")
        answer = httpx.post(
            f"{url}/v1/embeddings",
            content=embeddings("a cake"),
            headers={"content-type": "application/json"},
            timeout=60,
        )
        assert answer.status_code == 200
        program.send_signal(signal.SIGINT)
        _, rest = program.communicate(timeout=30)
    assert program.returncode == 0
    assert "Traceback" not in rest
    open_store(f"edge:{tmp_path / 'new.mm'}").close()  # it let go of the folder


def test_sigterm_finishes_what_was_accepted(tmp_path: Path) -> None:
    """A request that is on its way when SIGTERM comes is answered, no other is accepted, and the exit code is 0."""
    body = embeddings("a cake")
    head = "POST /v1/embeddings HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    head += f"content-length: {len(body)}\r\n\r\n"
    with served(MMEMBED_PORT="0", MMEMBED_STORE=f"edge:{tmp_path / 'store.mm'}") as (program, line):
        url = httpx.URL(address_of(line))
        with socket.create_connection((url.host, url.port or 0), timeout=30) as client:
            client.sendall(head.encode() + body[:5])
            assert httpx.get(url.join("/nothing")).status_code == 404  # so the head was read
            program.terminate()
            assert not still_accepts(url, seconds=10)
            client.sendall(body[5:])
            answer = b"".join(iter(lambda: client.recv(65536), b""))
        assert answer.startswith(b"HTTP/1.1 200")
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["data"][0]["embedding"]
        _, rest = program.communicate(timeout=30)
    assert program.returncode == 0
    assert "Traceback" not in rest


def test_port_in_use(tmp_path: Path) -> None:
    """A port that another program listens on is one sentence and exit code 1."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, lines = refused("--port", str(port), "--store", f"edge:{tmp_path / 'store.mm'}")
    assert (code, len(lines)) == (1, 1)
    assert f"port {port} is in use" in lines[0]


def test_folder_in_use(tmp_path: Path) -> None:
    """A store that another process holds is one sentence and exit code 1."""
    store = open_store(f"edge:{tmp_path / 'store.mm'}")
    try:
        code, lines = refused("--port", "0", "--store", f"edge:{tmp_path / 'store.mm'}")
    finally:
        store.close()
    assert (code, len(lines)) == (1, 1)
    assert "store.mm" in lines[0]
    assert lines[0].startswith("error: ")


@pytest.mark.parametrize(
    ("flags", "variables", "said"),
    [
        (["--host", "0.0.0.0"], {}, "needs keys"),
        ([], {"MMEMBED_HOST": "0.0.0.0"}, "needs keys"),
        ([], {"MMEMBED_PROT": "8601"}, "did you mean MMEMBED_PORT?"),
        ([], {"MMEMBED_PORT": "many"}, "port: "),
        (["--port", "70000"], {}, "port: "),
        (["--key", "abc:serach"], {}, "key 1 of --key names scopes that there are not"),
        (["--key-file", "no.such"], {}, "the key file 'no.such' cannot be read"),
        (["--host", "no.such.invalid"], {"MMEMBED_KEY": "abc"}, "choose another --host"),
        (["--host", "192.0.2.1", "--key", "abc"], {}, "(Cannot assign requested address): choose another --host"),
        (["--store", "redis:1"], {}, "none of the three forms"),
        (["--encoder", "tinny"], {}, "no encoder 'tinny': did you mean 'tiny'?"),
    ],
)
def test_refuses_to_start(flags: list[str], variables: dict[str, str], said: str, tmp_path: Path) -> None:
    """Settings that make no sense are one sentence and exit code 1, and no secret is in it."""
    store = {"MMEMBED_STORE": f"edge:{tmp_path / 'store.mm'}"}
    code, lines = refused(*flags, **({"MMEMBED_PORT": "0"} | store | variables))
    assert (code, len(lines)) == (1, 1)
    assert said in lines[0]
    assert "abc" not in lines[0]


def test_every_setting_is_a_flag() -> None:
    """`--help` names a flag for every field of Settings, and what it says is the field's description."""
    asked = subprocess.run(
        [*SERVE, "--help"], env=environment(COLUMNS="400", NO_COLOR="1"), capture_output=True, text=True, check=True
    )
    for name, field in Settings.model_fields.items():
        flag = "--api-key" if name == "qdrant_api_key" else f"--{name.replace('_', '-')}"
        line = next(line for line in asked.stdout.splitlines() if f" {flag} " in line)
        assert (field.description or "?") in line
