"""One JSON call to an embeddings API: tried again where that helps, its failures told in one sentence."""

from __future__ import annotations

import logging
import random
import re
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from importlib.metadata import version
from typing import Any

import httpx
import tenacity

from mmembed.encoders.remote.keys import KEYS_VARIABLE, ApiKey, find_key, server_url, without_key
from mmembed.errors import EncoderRefused, EncoderUnavailable, InvalidEmbedding

logger = logging.getLogger(__name__)

_PASSING = frozenset({408, 409, 429})  # and every 5xx: what may be gone a moment later
_BACKOFF = tenacity.wait_exponential(multiplier=0.5, max=8.0)
_LONGEST_MESSAGE = 300  # characters of a server's own words


@dataclass(frozen=True)
class Patience:
    """How long an API is waited for."""

    connect_seconds: float = 5.0
    read_seconds: float = 600.0  # a large batch on a busy server
    tries: int = 5
    longest_pause_seconds: float = 120.0  # a server that asks for more is given up at once
    sleep: Callable[[float], None] = time.sleep


PATIENCE = Patience()


class _ErrorStatus(Exception):
    """An answer other than 2xx. It says its status alone: a reason phrase is the server's to fill."""

    def __init__(self, response: httpx.Response) -> None:
        super().__init__(_status(response))
        self.response = response


class Api:
    """A server that turns inputs into vectors, or answers a chat: its address, key, and how long it is waited for.

    Args:
        own: it is the vendor's own address, not one that was given.
        what, option: in the sentences of errors, what the server should be and how its address is given.
    """

    def __init__(
        self,
        url: str,
        key: ApiKey | None,
        *,
        variables: Sequence[str] = (),
        own: bool = False,
        what: str = "embeddings API",
        option: str = "?base_url=",
        patience: Patience | None = None,
    ) -> None:
        self.url = url
        self.own = own  # the vendor's own address
        self.host = httpx.URL(url).netloc.decode()
        self._key = key
        self._variables = tuple(variables)
        self._what = what
        self._option = option
        self._patience = patience or PATIENCE
        self._client = httpx.Client(
            headers={"User-Agent": f"mmembed/{version('mmembed')}", "Accept": "application/json"},
            timeout=httpx.Timeout(self._patience.read_seconds, connect=self._patience.connect_seconds),
            follow_redirects=False,  # a redirect would take the key to another host
        )
        weakref.finalize(self, self._client.close)

    @classmethod
    def at(cls, base_url: str | None, *, home: str, variables: Sequence[str]) -> Api:
        """The vendor's own address `home`, or the server at `base_url`, each with its key (see `find_key`)."""
        url = home if base_url is None else server_url(base_url)
        return cls(url, find_key(url, home=home, variables=variables), variables=variables, own=url == home)

    def __repr__(self) -> str:
        return f"Api({self.url!r})"

    def post(self, path: str, body: Mapping[str, object]) -> dict[str, Any]:
        """Send `body` to `path` and return the JSON object that comes back.

        Raises:
            EncoderRefused: the server will not answer this request, whenever it is asked.
            EncoderUnavailable: it cannot be reached, or is still failing at the last try.
            InvalidEmbedding: it answered with something that is no JSON object.
        """
        retrying = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(self._patience.tries),
            wait=_pause,
            retry=tenacity.retry_if_exception(self._may_pass),
            before_sleep=tenacity.before_sleep_log(logger, logging.WARNING),
            sleep=self._patience.sleep,
            reraise=True,
        )
        try:
            return self._read(retrying(self._send, path, body))
        except _ErrorStatus as exc:
            raise self._refusal(exc.response, retrying.statistics["attempt_number"]) from exc
        except httpx.HTTPError as exc:
            reason = ": ".join(
                filter(None, [type(exc).__name__, str(exc)])
            )  # some of httpx's say nothing but their name
            raise EncoderUnavailable(
                f"{self.host} gave no answer in {_tries(retrying.statistics['attempt_number'])} ({reason}): "
                f"see that it runs and can be reached, then try again"
            ) from exc

    def _send(self, path: str, body: Mapping[str, object]) -> httpx.Response:
        response = self._client.post(self.url + path, json=body, headers=self._key.header() if self._key else None)
        if not response.is_success:
            raise _ErrorStatus(response)
        return response

    def _read(self, response: httpx.Response) -> dict[str, Any]:
        try:
            answer = response.json()
        except (ValueError, RecursionError) as exc:  # no JSON, or nested too deeply
            raise InvalidEmbedding(f"{self.host} answered with something that is not JSON: {self._look_at()}") from exc
        if not isinstance(answer, dict):
            raise InvalidEmbedding(f"{self.host} answered with JSON that is not an object: {self._look_at()}")
        return answer

    def _look_at(self) -> str:
        return f"it is not an {self._what}" if self.own else f"is {self._option}{self.url} an {self._what}?"

    def _may_pass(self, exc: BaseException) -> bool:
        if isinstance(exc, _ErrorStatus):
            if (_asked_pause(exc.response) or 0.0) > self._patience.longest_pause_seconds:
                return False
            retry = exc.response.headers.get("x-should-retry")
            return retry != "false" and (retry == "true" or _passes(exc.response.status_code))
        return isinstance(exc, httpx.TimeoutException | httpx.NetworkError | httpx.RemoteProtocolError)

    def _refusal(self, response: httpx.Response, tries: int) -> EncoderRefused | EncoderUnavailable:
        status = response.status_code
        message = without_key(_message(response), self._key)[:_LONGEST_MESSAGE]
        answer = f"{self.host} answered {_status(response)}" + (f" ({message})" if message else "")
        if not _passes(status):
            return EncoderRefused(f"{answer}: {self._advice(status)}", status=status)
        pause = _asked_pause(response) or 0.0
        if pause > self._patience.longest_pause_seconds:
            return EncoderUnavailable(f"{answer} and asks to come back in {pause:.0f} seconds: try again then")
        return EncoderUnavailable(f"{answer} after {_tries(tries)}: try again later")

    def _advice(self, status: int) -> str:
        if 300 <= status < 400:
            todo = f"give the address itself as {self._option}".rstrip()
            return f"a redirect is not followed, since it would take the key along: {todo}"
        if status in (401, 403):
            if self._key is None:
                return f"if it needs a key, set the environment variable {KEYS_VARIABLE} to key@{self.host}"
            return f"see that the key in the environment variable {self._key.variable} is right and may use the model"
        if status in (404, 405):
            return "see that the model's name" + (" is right" if self.own else f" and {self._option.strip()} are right")
        if status == 413:
            return "the request is too large for it, so lower the batch size"
        return "change what it complains of"


def _tries(number: int) -> str:
    return "1 try" if number == 1 else f"{number} tries"


def _passes(status: int) -> bool:
    return status in _PASSING or status >= 500


def _pause(state: tenacity.RetryCallState) -> float:
    """What the server asked for, otherwise 0.5, 1, 2, 4, 8, 8... seconds, less up to a quarter by chance."""
    error = state.outcome.exception() if state.outcome else None
    pause = _asked_pause(error.response) if isinstance(error, _ErrorStatus) else None
    return pause if pause is not None else _BACKOFF(state) * random.uniform(0.75, 1.0)


def _asked_pause(response: httpx.Response) -> float | None:
    """Seconds that the server asks to be left alone for: retry-after-ms, or Retry-After as seconds or as a date."""
    for header, a_second in (("retry-after-ms", 1000), ("retry-after", 1)):
        text = response.headers.get(header, "").strip()
        if re.fullmatch(r"\d+(\.\d+)?", text):
            return float(text) / a_second
    try:
        date = parsedate_to_datetime(text)
    except ValueError:
        return None
    if date.tzinfo is None:  # "-0000": UTC of unknown place
        date = date.replace(tzinfo=UTC)
    return max((date - datetime.now(UTC)).total_seconds(), 0.0)


def _status(response: httpx.Response) -> str:
    known = {status.value: status.phrase for status in HTTPStatus}
    return f"{response.status_code} {known.get(response.status_code, '')}".rstrip()


def _message(response: httpx.Response) -> str:
    """The server's own words: `error.message` (OpenAI), `message` (Cohere), `detail` (Voyage, Jina, FastAPI)."""
    try:
        body = response.json()
    except (ValueError, RecursionError):
        body = response.text
    for key in ("error", "message", "detail", "msg"):
        while isinstance(body, list) and body:
            body = body[0]
        if isinstance(body, dict) and key in body:
            body = body[key]
    printable = "".join(letter if letter.isprintable() else " " for letter in str(body)) if body else ""
    return " ".join(printable.split())  # no control characters: they would speak to the terminal
