"""Calls to a Qdrant server: tried again where that helps, their failures translated to ours. The only such place."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from contextlib import contextmanager

import grpc  # type: ignore[import-untyped]  # ships no stubs
import httpx
import tenacity
from qdrant_client.common.client_exceptions import QdrantException, ResourceExhaustedResponse
from qdrant_client.http.exceptions import ApiException, ResponseHandlingException, UnexpectedResponse

from mmembed.errors import CollectionNotFound, InvalidQuery, MmembedError, StoreError, StoreFull, StoreUnavailable

logger = logging.getLogger(__name__)

READ_TRIES = 2  # someone is waiting
WRITE_TRIES = 5  # over about eight seconds, more where the server says when to come back

_LONGEST_PAUSE_SECONDS = 60.0
_BACKOFF = tenacity.wait_exponential(multiplier=0.5, max=_LONGEST_PAUSE_SECONDS)
_TRANSIENT_CODES = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.ABORTED,
}
_HTTP_STATUS = {
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.INTERNAL: 500,
}
# Local mode and the client's own checks raise these.
_FOREIGN = (ApiException, QdrantException, grpc.RpcError, httpx.HTTPError, OSError, ValueError, KeyError, RuntimeError)


def retrying(tries: int) -> tenacity.Retrying:
    """Calls a function until it succeeds, at most `tries` times, with growing pauses or those the server asks for.

    Only what may pass by itself is tried again: no connection, timeouts, 429 and 5xx.
    """
    return tenacity.Retrying(
        stop=tenacity.stop_after_attempt(tries),
        wait=_pause,
        retry=tenacity.retry_if_exception(_is_transient),
        before_sleep=tenacity.before_sleep_log(logger, logging.WARNING),
        reraise=True,
    )


@contextmanager
def translated(
    url: str, collection: str = "", *, names: Callable[[], list[str]] = list, tries: int = 1
) -> Generator[None, None, None]:
    """Around the last of `tries` calls: what it raises becomes an error of ours.

    StoreUnavailable where it may pass by itself, else another StoreError. `names` lists the collections there are,
    for the advice in CollectionNotFound.
    """
    try:
        yield
    except MmembedError:
        raise
    except _FOREIGN as exc:
        if _collection_is_missing(exc):
            raise CollectionNotFound(collection, names(), url) from exc
        raise _translated(exc, url, collection, tries) from exc


def _pause(state: tenacity.RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    seconds = float(error.retry_after_s) if isinstance(error, ResourceExhaustedResponse) else 0.0
    return min(max(seconds, _BACKOFF(state)), _LONGEST_PAUSE_SECONDS)


def _is_transient(exc: BaseException) -> bool:
    if isinstance(exc, ResponseHandlingException):
        return isinstance(exc.source, httpx.TransportError)  # otherwise the reply is not what Qdrant says
    if isinstance(exc, UnexpectedResponse):
        status = exc.status_code or 0
        return status == 429 or (status >= 500 and not _is_full(exc))
    if isinstance(exc, grpc.RpcError):
        return _code(exc) in _TRANSIENT_CODES
    return isinstance(exc, QdrantException | httpx.TransportError)


def _collection_is_missing(exc: Exception) -> bool:
    text = _message(exc)
    gone = "doesn't exist" in text or "not found" in text.lower()
    if isinstance(exc, ValueError):
        return text.startswith("Collection ") and gone
    return _status(exc) == 404 and "ollection" in text and gone


def _translated(exc: Exception, url: str, collection: str, tries: int) -> MmembedError:
    text = _message(exc)
    if _is_full(exc):
        return StoreFull(f"Qdrant at {url} has no room for collection {collection!r} ({text}): make room and go on")
    if _is_transient(exc):
        tried = f" {tries} times" if tries > 1 else ""
        return StoreUnavailable(
            f"Qdrant at {url} was asked{tried} and did not serve ({text}): check the address and that it runs"
        )
    if _status(exc) in (401, 403):
        return StoreError(f"Qdrant at {url} refused the API key ({text}): give one that may do this")
    if any(sign in text for sign in ("Not existing vector name", "vector with name", "is not found in the collection")):
        return InvalidQuery(f"collection {collection!r} cannot be searched like this ({text}): name one of its vectors")
    if not collection or isinstance(exc, ResponseHandlingException):
        return StoreError(f"what answers at {url} is not Qdrant, or of a version that is not known ({text[:200]})")
    return StoreError(f"Qdrant at {url} refused a request for collection {collection!r}: {text}")


def _is_full(exc: BaseException) -> bool:
    return "No space left" in _message(exc) or _status(exc) == 507


def _status(exc: BaseException) -> int | None:
    if isinstance(exc, UnexpectedResponse):
        return exc.status_code
    return _HTTP_STATUS.get(_code(exc)) if isinstance(exc, grpc.RpcError) else None


def _code(exc: grpc.RpcError) -> grpc.StatusCode:
    return exc.code() if isinstance(exc, grpc.Call) else grpc.StatusCode.UNKNOWN


def _message(exc: BaseException) -> str:
    """What the server said, without the client's frame around it."""
    if isinstance(exc, UnexpectedResponse):
        try:
            return str(exc.structured()["status"]["error"])
        except (ValueError, KeyError, TypeError):  # a proxy answered, not Qdrant
            return f"{exc.status_code} {exc.reason_phrase}"
    if isinstance(exc, ResponseHandlingException):
        return str(exc.source) or type(exc.source).__name__
    if isinstance(exc, grpc.Call):
        return exc.details() or str(exc.code())
    return str(exc) or type(exc).__name__
