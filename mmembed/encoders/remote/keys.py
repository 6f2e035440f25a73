"""API keys: which one goes to which server, and nothing else about them."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import quote

import httpx

from mmembed.errors import SettingsError

KEYS_VARIABLE = "MMEMBED_API_KEYS"
"""Keys for servers of one's own: `key@host` or `key@host:port`, several separated by spaces.

A name says where an encoder is, and names come with collections, which may be a stranger's. So it is the
environment alone that binds a key to a host: no name can send a key anywhere else.
"""

_BEARER = re.compile(r"(bearer\s+)\S+", re.IGNORECASE)


@dataclass(frozen=True)
class ApiKey:
    """A secret, of which only the environment variable that held it is ever shown."""

    variable: str
    secret: str = field(repr=False)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[!-~]+", self.secret):  # h11 would quote the whole header in its complaint
            raise SettingsError(
                f"the key in the environment variable {self.variable} holds a space or a character that no key has: "
                f"copy it again"
            )

    def header(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.secret}"}


def find_key(url: str, *, home: str, variables: Sequence[str]) -> ApiKey | None:
    """The key for the server at `url`.

    The vendor's own address `home` gets the first of the environment variables `variables` that is set; any
    other server gets what KEYS_VARIABLE holds for its host, or none.

    Raises SettingsError where the vendor wants a key and none is set, and for a key that cannot be one.
    """
    if url == home:
        for variable in variables:
            if secret := os.environ.get(variable, "").strip():
                return ApiKey(variable, secret)
        raise SettingsError(
            f"{httpx.URL(home).host} wants an API key and there is none: "
            f"set the environment variable {' or '.join(variables)}"
        )
    parsed = httpx.URL(url)
    places = (parsed.netloc.decode(), parsed.host)
    for entry in os.environ.get(KEYS_VARIABLE, "").split():
        secret, at, place = entry.rpartition("@")
        if not at or not secret or not place:
            raise SettingsError(
                f"the environment variable {KEYS_VARIABLE} has an entry without an @: "
                f"write key@host or key@host:port, separated by spaces"
            )
        if place.lower() in places:
            return ApiKey(KEYS_VARIABLE, secret)
    return None


def server_url(url: str, *, option: str = "?base_url=") -> str:
    """An address that a key may be sent to, without a slash at its end; `option` is how it was given.

    Raises SettingsError for anything but http(s)://host[:port][/path]; what it holds is not repeated, since
    an address with a password in it is the likeliest mistake.
    """
    refusal = SettingsError(
        f"{option} is not the address of a server: write http://host:port/path, without a user, a password or a query; "
        f"a key goes into the environment variable {KEYS_VARIABLE} as key@host"
    )
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as exc:
        raise refusal from exc
    astray = parsed.userinfo or parsed.query or parsed.fragment
    if parsed.scheme not in ("http", "https") or not parsed.host or astray:
        raise refusal
    return str(parsed).rstrip("/")


def without_key(text: str, key: ApiKey | None) -> str:
    """A server's words with the key, should it repeat it, and anything said to be a bearer's token taken out."""
    text = _BEARER.sub(r"\1[key]", text)
    secret = key.secret if key else ""
    forms = {secret, quote(secret, safe=""), secret.replace("/", "\\/")} - {""}  # the last as JSON may write it
    for form in sorted(forms, key=len, reverse=True):
        text = re.sub(re.escape(form), "[key]", text, flags=re.IGNORECASE)
    return text
