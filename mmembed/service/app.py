"""The application: what is opened when it starts, what a request passes through, and the routes."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from importlib.metadata import version
from pathlib import Path

import platformdirs
from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from mmembed.batching.engine import Engine
from mmembed.classification.cache import ClassCache
from mmembed.errors import SettingsError
from mmembed.service.error_responses import add_error_answers
from mmembed.service.fetching import Fetcher
from mmembed.service.metrics import Metrics
from mmembed.service.middleware.auth import Doors, Keys, read_keys
from mmembed.service.middleware.body_limits import Bodies
from mmembed.service.middleware.errors import Edges
from mmembed.service.middleware.origin import Origins
from mmembed.service.routes import classify as classifying
from mmembed.service.routes import cohere as cohere_api
from mmembed.service.routes import collections as listing
from mmembed.service.routes import index as indexing
from mmembed.service.routes import openai as openai_api
from mmembed.service.routes import qdrant_inference, web_page
from mmembed.service.routes import search as searching
from mmembed.service.schemas.openapi import TAGS, cohere_errors, errors_of_ours, openai_errors
from mmembed.service.served_encoders import Served
from mmembed.service.settings import Settings
from mmembed.service.state import Service
from mmembed.stores import open_store
from mmembed.types import Store

__all__ = ["create_app"]

_ROUTERS = (
    (searching.router, errors_of_ours),
    (classifying.router, errors_of_ours),
    (indexing.router, errors_of_ours),
    (listing.router, errors_of_ours),
    (qdrant_inference.router, errors_of_ours),
    (openai_api.router, openai_errors),
    (cohere_api.router, cohere_errors),
    (web_page.router, errors_of_ours),
)

logger = logging.getLogger(__name__)


def create_app(settings: Settings) -> FastAPI:
    """The whole service. Raises SettingsError for keys that cannot be read, or where no store is named.

    What cannot be opened when it starts (StoreUnavailable) is raised by its lifespan and kept in `app.state.failure`.
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
                app.state.failure = exc
                raise
            app.state.hidden = _hidden(app.state.service)
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
    app.state.keys, app.state.failure = keys, None
    add_error_answers(app)
    for router, documented in _ROUTERS:
        app.include_router(router, responses=documented())
    app.add_middleware(Bodies, settings=settings, metrics=metrics)  # the last added is the first passed
    app.add_middleware(Doors, keys=keys, settings=settings)
    app.add_middleware(Origins, settings=settings)
    app.add_middleware(Edges, metrics=metrics, same_origin=not settings.allow_origin)
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
    served = Served(store, settings)
    loading = threading.Thread(target=served.load_all, name="mmembed-load", daemon=True)
    stack.callback(gc.unfreeze)  # what `load_all` has frozen
    stack.push_async_callback(asyncio.to_thread, _join, loading, settings.shutdown_seconds)
    threads = ThreadPoolExecutor(settings.threads, thread_name_prefix="mmembed")
    stack.push_async_callback(asyncio.to_thread, threads.shutdown, wait=True, cancel_futures=True)
    fetcher = Fetcher(settings)
    stack.push_async_callback(fetcher.close)
    engine = Engine(served, settings.batching, metrics)
    stack.push_async_callback(engine.close)
    loading.start()
    return Service(
        settings=settings,
        store=store,
        folder=_folder(settings, store),
        served=served,
        engine=engine,
        fetcher=fetcher,
        metrics=metrics,
        threads=threads,
        keys=keys,
        classes=ClassCache(),
    )


def _join(loading: threading.Thread, seconds: float) -> None:
    loading.join(seconds)
    if loading.is_alive():
        logger.warning("an encoder is still being loaded: it is not waited for any longer")


def _folder(settings: Settings, store: Store) -> Path:
    """Where uploads lie: as asked, else in the store's own folder."""
    folder = settings.folder or store.folder or platformdirs.user_data_path("mmembed") / "uploads"
    return folder.expanduser().absolute()


def _hidden(service: Service) -> tuple[str, ...]:
    """Addresses that stand in errors' sentences and are nobody's business: the longest first."""
    beside = service.store.folder or service.folder
    places = {service.store.url, f"edge:{beside}", str(beside), str(service.folder)}
    return tuple(sorted(places - {":memory:"}, key=len, reverse=True))
