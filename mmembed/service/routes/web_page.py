"""The web page: `/` and the files that it is made of. Nothing of it comes from another host."""

from __future__ import annotations

import functools
from importlib.resources import files

from fastapi import APIRouter, HTTPException, Request
from starlette.responses import Response

from mmembed.service.error_responses import unless_known

router = APIRouter(include_in_schema=False)

_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
_CACHE = "no-cache"  # kept, and asked for again with its ETag: an upgrade is seen at once


@functools.cache
def _packaged() -> dict[str, tuple[bytes, str]]:
    """The files of the page by name, each with its type, read once."""
    found = [(file, file.name.rpartition(".")[2]) for file in files("mmembed.service").joinpath("web").iterdir()]
    return {file.name: (file.read_bytes(), _TYPES[suffix]) for file, suffix in found if suffix in _TYPES}


def _answer(request: Request, name: str) -> Response:
    content, media_type = _packaged()[name]
    return unless_known(request, content, media_type=media_type, cache_control=_CACHE)


@router.get("/")
async def get_page(request: Request) -> Response:
    """The web page itself; it needs no key, what it asks for does."""
    return _answer(request, "index.html")


@router.get("/static/{name}")
async def get_static(request: Request, name: str) -> Response:
    """A script, style or picture of the page: one of those there are, so that no path is ever made of a request."""
    if name == "index.html" or name not in _packaged():
        raise HTTPException(404, f"the web page has no file {name!r:.80}: `/` is the page")
    return _answer(request, name)
