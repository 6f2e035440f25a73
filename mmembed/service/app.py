"""The application: what is opened when it starts, what a request passes through, and the routes."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from importlib.metadata import version
from pathlib import Path

import platformdirs
from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from mmembed.batching.engine import Engine
from mmembed.classification.cache import ClassCache
from mmembed.errors import MmembedError, SettingsError
from mmembed.service.error_responses import add_error_answers
from mmembed.service.fetching import Fetcher
from mmembed.service.indexing.sweeping import sweep_uploads
from mmembed.service.indexing.writes import Writes
from mmembed.service.metrics import Metrics
from mmembed.service.middleware.auth import AuthMiddleware, Keys, read_keys
from mmembed.service.middleware.body_limits import BodyLimitMiddleware
from mmembed.service.middleware.errors import ErrorMiddleware
from mmembed.service.middleware.origin import OriginMiddleware
from mmembed.service.routes import classify, cohere, collections, index, openai, qdrant_inference, search, web_page
from mmembed.service.schemas.openapi import TAGS
from mmembed.service.served_encoders import ServedEncoders
from mmembed.service.served_rerankers import ServedRerankers
from mmembed.service.settings import Settings
from mmembed.service.state import Service, StoreProbe
from mmembed.service.threads import Threads
from mmembed.stores import open_store
from mmembed.stores.edge.store import EdgeStore
from mmembed.types import Store

_ROUTERS = (search, classify, index, collections, qdrant_inference, openai, cohere, web_page)

logger = logging.getLogger(__name__)


def create_app(settings: Settings, *, on_failure: Callable[[Exception], object] | None = None) -> FastAPI:
    """The whole service. Raises SettingsError for keys that cannot be read, or where no store is named.

    What cannot be opened when it starts (StoreUnavailable) is raised by its lifespan, and `on_failure` is told: a
    server of ASGI applications only logs it. So it is of an embedded store that is lost while it serves.
    """
    if settings.store is None:
        raise SettingsError("no store is named: give --store http://HOST:6333 or edge:FOLDER")
    keys, metrics = read_keys(settings), Metrics()

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            try:
                app.state.service = await _open(stack, settings, keys, metrics)
            except Exception as exc:
                if on_failure is not None:
                    on_failure(exc)
                raise
            if on_failure is not None and isinstance(app.state.service.store, EdgeStore):
                app.state.service.store.on_lost = on_failure
            yield

    app = FastAPI(
        title="mmembed",
        summary="Multimodal search for Qdrant.",
        version=version("mmembed"),
        docs_url=None,  # FastAPI's pages load their scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
        openapi_tags=TAGS,
    )
    add_error_answers(app)
    for dialect in _ROUTERS:
        app.router.routes += dialect.router.routes  # as they are: the middleware looks for what each declares
    app.add_middleware(BodyLimitMiddleware, settings=settings, metrics=metrics)  # the last added is the first passed
    app.add_middleware(AuthMiddleware, keys=keys, settings=settings)
    app.add_middleware(OriginMiddleware, settings=settings)
    app.add_middleware(ErrorMiddleware, metrics=metrics, same_origin=not settings.allow_origin)
    if settings.allow_origin:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.allow_origin),
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["authorization", "content-type", "mmembed-api-key"],
            expose_headers=["retry-after"],
        )
    return app


async def _open(stack: AsyncExitStack, settings: Settings, keys: Keys, metrics: Metrics) -> Service:
    """Open everything; the stack closes it in reverse: what was accepted is finished before the store goes."""
    assert settings.store is not None
    opening = asyncio.to_thread(open_store, settings.store, api_key=settings.qdrant_api_key, prefer_grpc=settings.grpc)
    store = await opening
    stack.push_async_callback(asyncio.to_thread, store.close)
    served, rerankers = ServedEncoders(store, settings), ServedRerankers(settings)
    loading = threading.Thread(target=_load, args=(served, rerankers), name="mmembed-load-all", daemon=True)
    stack.callback(gc.unfreeze)  # what `load_all` has frozen
    stack.push_async_callback(asyncio.to_thread, _join, loading, settings.shutdown_seconds)
    threads = Threads(settings.threads)
    stack.push_async_callback(asyncio.to_thread, threads.close)
    fetcher = Fetcher(settings)
    stack.push_async_callback(fetcher.close)
    engine = Engine(served, settings.batching, metrics)
    stack.push_async_callback(engine.close)
    loading.start()
    folder = settings.folder or store.folder or platformdirs.user_data_path("mmembed") / "uploads"
    folder = folder.expanduser().absolute()
    if folder == store.folder:
        await asyncio.to_thread(_sweep, store, folder)
    return Service(
        settings=settings,
        store=store,
        folder=folder,
        hidden=_hidden(store, folder),
        served=served,
        rerankers=rerankers,
        engine=engine,
        fetcher=fetcher,
        metrics=metrics,
        threads=threads,
        keys=keys,
        classes=ClassCache(),
        writes=Writes(store, threads),
        probe=StoreProbe(store, threads),
    )


def _sweep(store: Store, folder: Path) -> None:
    try:
        sweep_uploads(store, folder)
    except MmembedError as exc:  # of one collection's contract, say: no reason not to serve the others
        logger.warning("uploads that no point names were not removed: %s", exc)


def _load(served: ServedEncoders, rerankers: ServedRerankers) -> None:
    rerankers.load_all()  # first, since `served.ready` then says that all are there
    served.load_all()


def _join(loading: threading.Thread, seconds: float) -> None:
    loading.join(seconds)
    if loading.is_alive():
        logger.warning("an encoder is still being loaded: it is not waited for any longer")


def _hidden(store: Store, folder: Path) -> tuple[str, ...]:
    """Addresses that stand in errors' sentences and are nobody's business: the longest first."""
    beside = store.folder or folder
    places = {store.url, f"edge:{beside}", str(beside), str(folder)}
    return tuple(sorted(places - {":memory:"}, key=len, reverse=True))
